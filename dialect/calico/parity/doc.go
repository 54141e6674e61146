// Package parity holds this project's reading of Calico's policies to the
// vendor's own code: what selectors mean, what sources and destinations
// select, which directions are governed, and which objects are valid. It is
// tests only, and a module of its own for what they need: go test ./... here.
package parity
