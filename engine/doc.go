// Package engine compiles a cluster's policies and endpoints into a [Matrix]
// and answers from it: verdicts with their reasons, all-pairs connectivity,
// and what changed between two states, for the datapath to publish.
//
// The walk: endpoints that no policy can tell apart are folded into classes;
// the peer lists of rules become atoms (sets of classes and of prefixes);
// atoms divide all addresses into identities; the policies of one subject in
// one direction become a gate: sorted, disjoint intervals of protocol and
// port, each with a row, a bitset over identities. Rows are interned by the
// expression over atoms that they stand for, so a new identity never makes
// two users of one row disagree.
//
// The package is pure: no I/O, clock, goroutine or log. A Matrix belongs to
// one goroutine at a time; gates and their ranges are immutable once made.
// engine/reference is the independent oracle that the tests compare it with.
package engine
