package parity

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"math"
	"testing"

	"github.com/cilium/cilium/pkg/endpoint/regeneration"
	"github.com/cilium/cilium/pkg/identity"
	"github.com/cilium/cilium/pkg/identity/identitymanager"
	ipcachetypes "github.com/cilium/cilium/pkg/ipcache/types"
	"github.com/cilium/cilium/pkg/k8s"
	v2 "github.com/cilium/cilium/pkg/k8s/apis/cilium.io/v2"
	slim_networkingv1 "github.com/cilium/cilium/pkg/k8s/slim/k8s/api/networking/v1"
	"github.com/cilium/cilium/pkg/option"
	"github.com/cilium/cilium/pkg/policy"
	"github.com/cilium/cilium/pkg/policy/api"
	policytypes "github.com/cilium/cilium/pkg/policy/types"
	"github.com/cilium/cilium/pkg/policy/utils"
	pkgtypes "github.com/cilium/cilium/pkg/types"
	"github.com/cilium/cilium/pkg/u8proto"
	proxyapi "github.com/cilium/proxy/go/cilium/api"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
	"sigs.k8s.io/yaml"

	"github.com/sallyport-dev/sallyport/model"
)

// clusterName is the cluster's name on both sides.
const clusterName = "default"

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// TestMain sets Cilium up as an agent is by default, with everything that is
// behind a flag switched on.
func TestMain(m *testing.M) {
	option.Config.EnableL7Proxy = true
	option.Config.EnableICMPRules = true
	option.Config.EnableNodeSelectorLabels = true
	option.Config.EnableExtendedIPProtocols = true
	option.Config.EnableNonDefaultDenyPolicies = true
	option.Config.EnableIPv4, option.Config.EnableIPv6 = true, true
	option.Config.UnsafeDaemonConfigOption.AllowLocalhost = option.AllowLocalhostAlways
	policy.SetPolicyEnabled(option.DefaultEnforcement)
	api.InitEntities(clusterName)
	m.Run()
}

// header is what every object has.
type header struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
	} `json:"metadata"`
}

// parse is what Cilium makes of one object: its entries, or why not. Objects
// of other kinds are nil without an error.
func parse(text []byte) (resource ipcachetypes.ResourceID, entries policytypes.PolicyEntries, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	raw, err := yaml.YAMLToJSON(text)
	if err != nil {
		return "", nil, err
	}
	var h header
	if err := json.Unmarshal(raw, &h); err != nil {
		return "", nil, err
	}
	strict := json.NewDecoder(bytes.NewReader(raw))
	strict.DisallowUnknownFields()
	id := func(kind ipcachetypes.ResourceKind) ipcachetypes.ResourceID {
		return ipcachetypes.NewResourceID(kind, h.Metadata.Namespace, h.Metadata.Name)
	}
	var rules api.Rules
	switch h.Kind {
	case "CiliumNetworkPolicy":
		var p v2.CiliumNetworkPolicy
		if err := strict.Decode(&p); err != nil {
			return "", nil, err
		}
		rules, err = p.Parse(quiet, clusterName)
		return id(ipcachetypes.ResourceKindCNP), utils.RulesToPolicyEntries(rules), err
	case "CiliumClusterwideNetworkPolicy":
		var p v2.CiliumClusterwideNetworkPolicy
		if err := strict.Decode(&p); err != nil {
			return "", nil, err
		}
		rules, err = p.Parse(quiet, clusterName)
		return id(ipcachetypes.ResourceKindCCNP), utils.RulesToPolicyEntries(rules), err
	case "NetworkPolicy":
		var p slim_networkingv1.NetworkPolicy
		if err := strict.Decode(&p); err != nil {
			return "", nil, err
		}
		entries, err = k8s.ParseNetworkPolicy(quiet, clusterName, &p)
		return id(ipcachetypes.ResourceKindNetpol), entries, err
	case "ClusterNetworkPolicy":
		var p policyv1alpha2.ClusterNetworkPolicy
		if err := strict.Decode(&p); err != nil {
			return "", nil, err
		}
		entries, err = k8s.ParseClusterNetworkPolicy(quiet, clusterName, &p)
		return id(ipcachetypes.ResourceKindKCNP), entries, err
	}
	return "", nil, nil
}

// agent is Cilium's policy repository with the identities of a world.
type agent struct {
	repo     *policy.Repository
	resolved map[identity.NumericIdentity]*policy.EndpointPolicy
	ports    map[identity.NumericIdentity][]model.ContainerPort
}

func newAgent(identities identity.IdentityMap, ports map[identity.NumericIdentity][]model.ContainerPort) *agent {
	a := &agent{ports: ports, resolved: map[identity.NumericIdentity]*policy.EndpointPolicy{}}
	a.repo = policy.NewPolicyRepository(quiet, identities, nil, noEnvoy{}, identitymanager.NewIDManager(quiet), nil)
	a.repo.UpdateIdentities(identities, nil)
	a.repo.SetNamedPortsGetter(a)
	return a
}

func (a *agent) add(id ipcachetypes.ResourceID, entries policytypes.PolicyEntries) {
	a.repo.ReplaceByResource(entries, id)
}

// decision is what becomes of a connection at one door.
type decision string

const (
	open      decision = "open"
	shut      decision = "shut"
	throughL7 decision = "through the proxy"
)

// decide looks a connection up as the datapath does, at the subject's door.
func (a *agent) decide(subject *identity.Identity, peer identity.NumericIdentity, d model.Direction, p model.Protocol, port uint16) (decision, error) {
	resolved, ok := a.resolved[subject.ID]
	if !ok {
		selector, _, err := a.repo.ComputeSelectorPolicy(subject)
		if err != nil {
			return "", err
		}
		resolved = selector.DistillPolicy(quiet, owner{subject.ID, a.ports[subject.ID]}, map[string]uint16{policy.FallbackRedirectID: math.MaxUint16})
		if err := resolved.Ready(); err != nil {
			return "", err
		}
		resolved.Detach(quiet)
		selector.Supersede()
		a.resolved[subject.ID] = resolved
	}
	key := policy.IngressKey()
	if d == model.Egress {
		key = policy.EgressKey()
	}
	entry, _, _ := resolved.Lookup(key.WithIdentity(peer).WithPortProto(u8proto.U8proto(p), port))
	switch {
	case entry.IsDeny():
		return shut, nil
	case entry.IsRedirectEntry():
		return throughL7, nil
	}
	return open, nil
}

// GetNamedPorts is the port names of all pods, for egress.
func (a *agent) GetNamedPorts() pkgtypes.NamedPortMultiMap { return namedPorts(a.ports) }

type namedPorts map[identity.NumericIdentity][]model.ContainerPort

func (n namedPorts) GetNamedPort(string, u8proto.U8proto, iter.Seq[identity.NumericIdentity]) (uint16, error) {
	panic("nobody asks for one port of all")
}

func (n namedPorts) GetNamedPorts(name string, p u8proto.U8proto, ids iter.Seq[identity.NumericIdentity]) pkgtypes.NidPortSeq {
	return func(yield func(identity.NumericIdentity, uint16) bool) {
		for id := range ids {
			for _, c := range n[id] {
				if c.Name == name && u8proto.U8proto(c.Protocol) == p && !yield(id, c.Number) {
					return
				}
			}
		}
	}
}

func (n namedPorts) Len() int { return len(n) }

// owner is a pod to Cilium.
type owner struct {
	id    identity.NumericIdentity
	ports []model.ContainerPort
}

func (o owner) GetID() uint64              { return uint64(o.id) }
func (o owner) IsHost() bool               { return false }
func (o owner) PolicyDebug(string, ...any) {}
func (o owner) PreviousMapStateSizes() policy.MapStateSizes {
	return policy.MapStateSizes{}
}

func (o owner) RegenerateIfAlive(*regeneration.ExternalRegenerationMetadata) <-chan bool {
	done := make(chan bool)
	close(done)
	return done
}

func (o owner) GetIngressNamedPort(name string, p u8proto.U8proto) uint16 {
	for _, c := range o.ports {
		if c.Name == name && u8proto.U8proto(c.Protocol) == p {
			return c.Number
		}
	}
	return 0
}

// noEnvoy stands for the translation of HTTP rules, which no verdict here needs.
type noEnvoy struct{}

func (noEnvoy) GetEnvoyHTTPRules(*api.L7Rules, string) (*proxyapi.HttpNetworkPolicyRules, bool) {
	return nil, true
}
