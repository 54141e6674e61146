// Package parity holds dialect/cilium against Cilium's own code: what either
// accepts, and what it means. It is tests only, and a module of its own for
// what they need: make parity.
//
// Cilium's side is its parser and its policy repository, down to the map that
// its datapath looks connections up in; ours is the decoder and the engine.
// Where they differ on purpose, a table in the tests says why.
package parity
