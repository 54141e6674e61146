//go:build linux

package lab

import (
	"crypto/sha256"
	"encoding/hex"
)

// shortHash is the start of the hash of s.
func shortHash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])[:11]
}

// shorten cuts a namespace name that is too long and makes it unique again.
func shorten(name string) string {
	if len(name) <= maxNSName {
		return name
	}
	return name[:maxNSName-12] + "-" + shortHash(name)
}

func nodeNSName(node string) string { return shorten(NamePrefix + "node-" + node) }

func podNSName(namespace, name string) string {
	return shorten(NamePrefix + "pod-" + namespace + "-" + name)
}

// hostLinkName is the name of the node's side of a pod's interface.
func hostLinkName(podKey string) string { return "sp" + shortHash(podKey) }
