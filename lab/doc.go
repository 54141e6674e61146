//go:build linux

// Package lab turns a model.Cluster into network namespaces of this machine:
// one per node, one per pod, a fabric that joins the nodes and an outside from
// which and to which traffic leaves the cluster. Pods serve the ports that
// they declare, Services are nftables rules in the nodes, and the cluster's
// names resolve.
package lab
