// Package provider tests sallyport on a real cluster, with probers inside the
// pods: what leaks while pods start, agents die, the API server is away or the
// program is replaced, and how soon a policy holds. There is nothing here but
// tests; the prober is in cmd/prober, and package prober asks it.
//
// Every test that counts leaks shows first, or once at the end, that the same
// prober gets through where nothing is enforced.
package provider
