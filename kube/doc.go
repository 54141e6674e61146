// Package kube turns the Kubernetes API into a [model.Cluster] and then into
// the changes of it: a [Watcher] lists and watches what policies can see, and
// [Load] lists it once.
//
// Objects are cut down to what policies can see the moment they arrive, so
// that what is kept grows with the pods and policies and not with what the API
// says of them. Policies never pass through typed structs, which would drop
// fields that they do not know: they are decoded by package dialect, as
// strictly as files are.
//
// Kinds of policies may come and go while a Watcher runs. What one object of a
// policy language stands for is kept as one, its parts; a stored and a served
// form of one object count once. Two things are written: a node's state by its
// [Reporter], and the status of policies by the [StatusWriter] whose turn it is.
//
// client-go's reflectors do the listing and watching, one goroutine per
// resource, started by Run; they share one state behind one lock. What Next
// and Snapshot return is immutable and belongs to everybody. The tests run
// against an HTTP server that lists, watches, fails, repeats itself and
// forgets, and hold every incremental result against a fresh Load.
package kube
