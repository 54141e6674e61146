package calico

import (
	"github.com/sallyport-dev/sallyport/dialect/networkpolicy"
	"github.com/sallyport-dev/sallyport/model"
)

// stagedKubernetes reads a StagedKubernetesNetworkPolicy: what a Kubernetes
// NetworkPolicy would do.
func stagedKubernetes(o *object) model.Parts {
	deleted := mapping(o.spec) && o.spec.Present() && stagedAction(o.spec)
	p := networkpolicy.Policy(o.source, o.spec)
	if p == nil || deleted {
		return model.Parts{}
	}
	p.Staged = true
	return model.Parts{Policies: []*model.Policy{p}}
}
