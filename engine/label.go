package engine

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/model"
)

// nodeLabel is what tells pods of different nodes apart, once a policy in
// force means something else on each node.
const nodeLabel = "@node"

// label is the value of a label of the pod, or of what is implied of it.
func (m *Matrix) label(e *model.Endpoint, key string) (string, bool) {
	if key[0] != model.Implied {
		v, ok := e.Labels[key]
		return v, ok
	}
	switch {
	case key == model.ClusterName:
		return m.clusterName, true
	case key == model.AccountName:
		return e.ServiceAccount, e.ServiceAccount != ""
	case key == model.PodName:
		return e.Name, true
	case key == nodeLabel:
		return e.Node, true
	}
	if k, ok := strings.CutPrefix(key, model.AccountLabels); ok {
		v, ok := m.accounts[e.Namespace+"/"+e.ServiceAccount][k]
		return v, ok
	}
	if cidr, ok := strings.CutPrefix(key, model.InPrefix); ok {
		p, err := netip.ParsePrefix(cidr)
		return "", err == nil && slices.ContainsFunc(e.IPs, p.Contains)
	}
	return m.namespaced(e.Namespace, key)
}

// namespaced is what a namespace implies of everything in it.
func (m *Matrix) namespaced(namespace, key string) (string, bool) {
	if namespace == "" {
		return "", false
	}
	if key == model.NamespaceName {
		return namespace, true
	}
	if k, ok := strings.CutPrefix(key, model.NamespaceLabels); ok {
		v, ok := m.namespaceLabels(namespace)[k]
		return v, ok
	}
	return "", false
}

// labelsOf looks up the pod's labels, for a selector to match.
func (m *Matrix) labelsOf(e *model.Endpoint) func(key string) (string, bool) {
	return func(key string) (string, bool) { return m.label(e, key) }
}
