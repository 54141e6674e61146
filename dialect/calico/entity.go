package calico

import (
	"net/netip"

	"github.com/sallyport-dev/sallyport/dialect/field"
	"github.com/sallyport-dev/sallyport/model"
)

// maxNets is how many nets a list may have.
const maxNets = 256

// side says which source or destination is read.
type side struct {
	peer   bool // the other end, not the pod that the policy is about
	dir    model.Direction
	action model.Action
}

// net is a prefix and where it was written.
type net struct {
	prefix netip.Prefix
	at     field.Cursor
}

// entity is what a rule says about one end. All that is set must hold.
type entity struct {
	selected bool // some selector is written: unknown addresses do not match
	pods     model.EndpointSelector
	sets     model.SetSelector
	negated  bool // notSelector is written: none of the two below
	notPods  model.Selector
	notSets  model.Selector
	nets     []net
	notNets  []net
	services *model.ServiceSelector
	names    []model.NamePattern
}

// entity reads one source or destination.
func (d *decoder) entity(c field.Cursor, s side) entity {
	e := entity{sets: model.SetSelector{Family: model.FamilyCalico}}
	if !c.Mapping() {
		return e
	}
	c.Field("ports")
	c.Field("notPorts")
	d.selectors(c, &e)
	e.nets, e.notNets = readNets(c.Field("nets"), false), readNets(c.Field("notNets"), true)
	e.services = d.services(c, s)
	e.names = d.domains(c.Field("domains"), s)
	c.Done()
	return e
}

// selectors reads whom the entity selects by labels.
func (d *decoder) selectors(c field.Cursor, e *entity) {
	text, notText, namespaces, accounts := c.Field("selector"), c.Field("notSelector"), c.Field("namespaceSelector"), c.Field("serviceAccounts")
	e.negated = notText.Value() != ""
	labels, not := plainSelector(text), plainSelector(notText)
	e.notPods, e.notSets = podLabels(not), setLabels(not)
	onPods, onSets := readAccounts(accounts)
	e.pods.Pods = both(podLabels(labels), onPods)
	e.sets.Labels = both(setLabels(labels), onSets)
	e.selected = text.Value() != "" || e.negated && d.namespace != "" || namespaces.Value() != "" || accounts.Present()
	switch in := readSelector(namespaces); {
	case namespaces.Value() == "":
		if e.selected {
			e.pods.Namespace, e.sets.Namespace = d.namespace, d.namespace
		}
	case in.HasGlobal() && !in.IsGlobal():
		namespaces.Error("global() may not stand beside anything else", "make a rule of its own of it")
	case in.IsGlobal():
		e.pods.Pods, e.sets.Global = nothing, true
	case in.IsAll():
		e.sets.Namespaced = true
	default:
		e.pods.Namespaces = podNamespaces(in)
		e.sets.Labels = both(e.sets.Labels, setNamespaces(in))
	}
}

// readAccounts reads the accounts that a peer runs as: what that asks of pods,
// and of what runs as nobody.
func readAccounts(c field.Cursor) (onPods, onOthers model.Selector) {
	if c.IsList() {
		return readAccountList(c)
	}
	if !c.Mapping() {
		return model.Selector{}, model.Selector{}
	}
	names, text := c.Field("names"), c.Field("selector")
	c.Done()
	s := plainSelector(text)
	onPods, onOthers = accountLabels(s), withoutAccount(s)
	if list := names.Strings(); len(list) > 0 {
		return model.And(model.Selector{Op: model.SelectIn, Key: model.AccountName, Values: list}, onPods), nothing
	}
	return onPods, onOthers
}

// readAccountList reads accounts as a list of names, as some articles have it.
func readAccountList(c field.Cursor) (onPods, onOthers model.Selector) {
	c.Report(model.Warning, "is a list; it is read as the accounts of these names", "the vendor's form is serviceAccounts: {names: [...]}")
	var names []string
	for _, i := range c.Items() {
		name := i.Field("name")
		switch {
		case i.Present() && !i.Mapping():
			continue
		case name.String() == "":
			i.Error("an account has a name", "name: …")
			continue
		}
		i.Done()
		names = append(names, name.String())
	}
	if len(names) == 0 {
		return model.Selector{}, model.Selector{}
	}
	return model.Selector{Op: model.SelectIn, Key: model.AccountName, Values: names}, nothing
}

// readNets reads CIDRs. Excluding every address of a family leaves nobody.
func readNets(c field.Cursor, not bool) []net {
	items := c.Items()
	atMost(items, maxNets, c)
	var out []net
	for _, i := range items {
		p, ok := field.Prefix(i)
		if ok && not && p.Bits() == 0 {
			i.Error(p.String()+" excludes every address", "a rule without anybody matches nothing; leave it out")
			continue
		}
		if ok {
			out = append(out, net{p, i})
		}
	}
	return out
}

// services reads the Service behind which the peer stands.
func (d *decoder) services(c field.Cursor, s side) *model.ServiceSelector {
	at := c.Field("services")
	if !at.Mapping() {
		return nil
	}
	name, namespace := at.Field("name"), at.Field("namespace")
	at.Done()
	out := &model.ServiceSelector{Name: name.String(), Namespace: namespace.String(), Behind: model.BehindAddresses}
	if out.Namespace == "" {
		out.Namespace = d.namespace
	}
	switch {
	case !s.peer && s.dir == model.Egress:
		at.Error("may not stand in the source of an egress rule", "write it below destination")
	case !s.peer:
		at.Error("may not stand in the destination of an ingress rule", "write it below source")
	case out.Name == "":
		name.Error("is missing", "the name of a Service")
	case out.Namespace == "":
		namespace.Error("is missing", "a global policy has no namespace of its own")
	}
	beside := []string{"selector", "notSelector", "namespaceSelector", "serviceAccounts", "nets", "notNets"}
	if s.dir == model.Egress {
		out.Behind = model.BehindPorts
		beside = append(beside, "ports", "notPorts")
	}
	for _, other := range beside {
		if c.Field(other).Present() {
			c.Field(other).Error("may not stand beside services", "the Service's endpoints say it all")
		}
	}
	return out
}

// behind reports what a rule asks beside a Service whose own ports count.
func (d *decoder) behind(c field.Cursor, l l4) {
	if !l.any() {
		c.Field("destination").Field("services").Error("a protocol beside it is not enforced: the Service's own ports and protocols count", "leave protocol and notProtocol out")
	}
}

// subject is which of the policy's pods the entity leaves, as the end that the
// policy is about; nil is all of them.
func (e entity) subject() *model.EndpointSelector {
	if !e.selected && !e.negated && len(e.nets) == 0 && len(e.notNets) == 0 {
		return nil
	}
	s := e.pods
	args := []model.Selector{s.Pods}
	if e.negated {
		args = append(args, model.Not(e.notPods))
	}
	if len(e.nets) > 0 {
		args = append(args, inAny(e.nets))
	}
	if len(e.notNets) > 0 {
		args = append(args, model.Not(inAny(e.notNets)))
	}
	s.Pods = model.And(args...)
	return &s
}

// inAny selects the pods that have an address in any of the nets.
func inAny(nets []net) model.Selector {
	args := make([]model.Selector, len(nets))
	for i, n := range nets {
		args[i] = model.Selector{Op: model.SelectExists, Key: model.InPrefix + n.prefix.String()}
	}
	return model.Or(args...)
}

// peers is the entity as alternatives of a rule, at the other end; any is true
// if it is everybody.
func (e entity) peers(version int, at model.Source) (out []model.Peer, any bool) {
	not := e.not(at)
	for _, p := range e.selectedPeers() {
		p.Services, p.Names, p.Not, p.Source = e.services, e.names, not, at
		if len(e.nets) == 0 && version != 0 {
			p.Block = everything(version)
		}
		for _, n := range e.nets {
			p.Block, p.Source = &model.IPBlock{CIDR: n.prefix}, n.at.Source()
			out = append(out, p)
		}
		if len(e.nets) == 0 {
			out = append(out, p)
		}
	}
	any = !e.selected && e.services == nil && e.names == nil && not == nil && len(e.nets) == 0 && version == 0
	return out, any
}

// selectedPeers is whom the selectors leave: pods, and what sets list.
func (e entity) selectedPeers() []model.Peer {
	if !e.selected {
		return []model.Peer{{}}
	}
	var out []model.Peer
	if e.pods.Pods.Op != model.SelectNone && e.pods.Namespaces.Op != model.SelectNone {
		out = append(out, model.Peer{Pods: &e.pods})
	}
	if e.sets.Labels.Op != model.SelectNone {
		out = append(out, model.Peer{Sets: &e.sets})
	}
	return out
}

// not is whom the entity leaves out.
func (e entity) not(at model.Source) []model.Peer {
	var out []model.Peer
	for _, n := range e.notNets {
		out = append(out, model.Peer{Block: &model.IPBlock{CIDR: n.prefix}, Source: n.at.Source()})
	}
	if e.negated && e.notPods.Op != model.SelectNone {
		out = append(out, model.Peer{Pods: &model.EndpointSelector{Pods: e.notPods}, Source: at})
	}
	if e.negated && e.notSets.Op != model.SelectNone {
		out = append(out, model.Peer{Sets: &model.SetSelector{Family: model.FamilyCalico, Labels: e.notSets}, Source: at})
	}
	return out
}
