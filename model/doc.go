// Package model holds the nouns that every other package speaks of: clusters,
// endpoints, policies, selectors, ports, verdicts, sources and problems.
//
// It turns nothing into anything; it is what the others turn things into. A
// dialect decodes objects into these values, the engine compiles them, and
// reports print them. Values are immutable once they are part of a [Cluster]:
// whoever changes the world builds new ones. The package imports the standard
// library only and holds no goroutine, clock or I/O.
package model
