package dialect

import (
	"fmt"

	"github.com/sallyport-dev/sallyport/model"
)

// Profile is a reading of what Kubernetes leaves to its implementations.
type Profile string

// The profiles. All leave a pod open that no policy selects: Calico by the
// rules of its namespace's Profile, which an object of that name replaces.
const (
	Kubernetes Profile = "kubernetes" // an ipBlock matches every address in it
	Calico     Profile = "calico"     // the same
	Cilium     Profile = "cilium"     // an ipBlock matches no pod's and no node's address
)

// ParseProfile reads a profile's name; "" is Kubernetes.
func ParseProfile(s string) (Profile, error) {
	switch p := Profile(s); p {
	case "":
		return Kubernetes, nil
	case Kubernetes, Calico, Cilium:
		return p, nil
	}
	return "", fmt.Errorf("unknown profile %q: one of kubernetes, calico, cilium", s)
}

// Read has the policies of a cluster that nobody else has yet say what the
// profile reads in them.
func (p Profile) Read(policies []*model.Policy) {
	for _, policy := range policies {
		p.read(policy)
	}
}

func (p Profile) read(policy *model.Policy) {
	if p != Cilium || policy.Family != model.FamilyKubernetes {
		return
	}
	for _, s := range []*model.Section{policy.Ingress, policy.Egress} {
		if s == nil {
			continue
		}
		for i := range s.Rules {
			for j := range s.Rules[i].Peers {
				peer := &s.Rules[i].Peers[j]
				peer.Outside = peer.Outside || peer.Block != nil
			}
		}
	}
}
