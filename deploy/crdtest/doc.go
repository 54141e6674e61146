// Package crdtest holds the definitions in deploy/crds to the API server's own
// code, to the decoders, and to what upstream publishes. It is tests only, and
// a module of its own for what they need: go test ./... here.
package crdtest
