// Package flow turns the kernel's reports about packets into events that
// people and machines can read: addresses become pods, gates become the
// policies and the rule that decided.
//
// An [Event] is a plain value; an [Enricher] owns nothing and borrows a Matrix
// and an [Attribution] from the goroutine that owns them. Test with events
// written by hand.
package flow
