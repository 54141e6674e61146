package cilium

import (
	"net/netip"
	"strings"

	"github.com/sallyport-dev/sallyport/dialect/field"
	"github.com/sallyport-dev/sallyport/model"
)

// peers is what an item says about the other end.
type peers struct {
	given    bool // a member is there, if only as an empty list, which is nobody
	any      bool
	anyPorts bool // everybody, if ports are there
	list     []model.Peer
}

func (p *peers) add(more ...model.Peer) { p.list = append(p.list, more...) }

// member is one of the exclusive fields about the other end.
type member struct {
	suffix string // after from or to
	read   func(*decoder, field.Cursor, list, *peers)
}

// ingressMembers and egressMembers are the fields in either direction. The
// egress ones that Cilium reads "empty" differently are marked in emptyMember.
var (
	ingressMembers = []member{
		{"Endpoints", each((*decoder).endpoint)}, {"CIDR", each((*decoder).cidr)}, {"CIDRSet", each((*decoder).cidrRule)},
		{"Entities", each((*decoder).entity)}, {"Nodes", nodes}, {"Groups", groups},
	}
	egressMembers = append([]member{{"Services", each((*decoder).service)}, {"FQDNs", names}}, ingressMembers...)
)

// each reads a list item by item.
func each(one func(*decoder, field.Cursor, list, *peers)) func(*decoder, field.Cursor, list, *peers) {
	return func(d *decoder, c field.Cursor, l list, out *peers) {
		for _, i := range c.Items() {
			one(d, i, l, out)
		}
	}
}

// peers reads the one member that an item may have. Of several, an empty one
// beside another makes the item one that nobody meets.
func (d *decoder) peers(c field.Cursor, l list) peers {
	var out peers
	prefix, members := "from", ingressMembers
	if l.direction == model.Egress {
		prefix, members = "to", egressMembers
	}
	removed(c.Field(prefix + "Requires"))
	filled, empty := "", false
	for _, m := range members {
		name := prefix + m.suffix
		f := c.Field(name)
		if name == "toFQDNs" && l.action == model.Deny && f.Present() {
			f.Error("names cannot be denied", "allow the names that are wanted, or deny CIDRs")
			continue
		}
		if !f.Present() {
			continue
		}
		out.given = true
		m.read(d, f, l, &out)
		switch {
		case f.IsList() && len(f.Items()) == 0:
			empty = true
			emptyMember(f, m, l, &out)
		case filled != "":
			f.Error(name+" and "+filled+" exclude each other in one item", "write two items: each is an alternative")
		default:
			filled = name
		}
	}
	if empty && filled != "" {
		return peers{given: true}
	}
	return out
}

// emptyMember says what an empty list is. Cilium takes most for nobody and
// these for everybody: where that would allow it is nobody here, too.
func emptyMember(c field.Cursor, m member, l list, out *peers) {
	if m.suffix != "Services" && m.suffix != "FQDNs" && m.suffix != "Groups" {
		return
	}
	if l.action == model.Deny {
		out.anyPorts = true
		c.Report(model.Warning, "an empty list is everybody to Cilium, if ports are there: it is denied", "leave the field out to say so")
		return
	}
	c.Report(model.Warning, "an empty list is nobody; Cilium takes it for everybody, if ports are there", "leave the field out to mean everybody")
}

// removed rejects the requirements that former versions had.
func removed(c field.Cursor) {
	if c.Present() && !(c.IsList() && len(c.Items()) == 0) {
		c.Error("is no field of Cilium's policies since 1.19", "write what it requires into every selector of the list beside it")
	}
}

// endpoint reads one selector of fromEndpoints or toEndpoints.
func (d *decoder) endpoint(c field.Cursor, l list, out *peers) {
	from := peerLabels
	from.lenient = l.action == model.Allow
	s, ok := readSelector(c, from)
	if !ok {
		return
	}
	scoped := d.scope(s, c)
	if pods := scoped.pods(""); pods.Pods.Op != model.SelectNone {
		out.add(model.Peer{Pods: &pods, Source: c.Source()})
	}
	out.add(scoped.others(c.Source())...)
}

// scope adds what a selector of peers asks without saying so: that they are
// pods, and of the policy's own namespace. A reserved label takes that away.
func (d *decoder) scope(s selector, c field.Cursor) selector {
	if s.mentions(requirement.isReserved) {
		return s
	}
	namespace := s.mentions(func(r requirement) bool { return r.isPod() && r.key == namespaceKey })
	labels := s.mentions(func(r requirement) bool { return r.isPod() && strings.HasPrefix(r.key, namespaceLabelsKey) })
	implied := requirement{source: "k8s", key: namespaceKey, at: c}
	switch {
	case namespace, d.namespace == "" && d.unscoped:
	case d.namespace == "":
		implied.op = model.SelectExists
		s = append(s, implied)
	case !labels:
		implied.op, implied.values = model.SelectIn, []string{d.namespace}
		s = append(s, implied)
	}
	return s
}

// identity is what is no pod: by its reserved labels, and as a peer.
type identity struct {
	labels []string
	peer   model.Peer
}

// identities tells apart what reserved labels tell apart.
var identities = []identity{
	{[]string{"host"}, model.Peer{Nodes: &model.NodeSelector{Which: model.OwnNode}}},
	{[]string{"remote-node"}, model.Peer{Nodes: &model.NodeSelector{Which: model.OtherNode}}},
	{[]string{"world", "world-ipv4"}, model.Peer{Outside: true, Block: &model.IPBlock{CIDR: anyIPv4}}},
	{[]string{"world", "world-ipv6"}, model.Peer{Outside: true, Block: &model.IPBlock{CIDR: anyIPv6}}},
}

var (
	anyIPv4 = netip.MustParsePrefix("0.0.0.0/0")
	anyIPv6 = netip.MustParsePrefix("::/0")
)

// apiServer is the label of addresses of the API server, beside their others.
const apiServer = "kube-apiserver"

// others is what the selector selects that is no pod.
func (s selector) others(source model.Source) []model.Peer {
	var out []model.Peer
	for _, i := range identities {
		plain, api := s.meets(i.labels), s.meets(append([]string{apiServer}, i.labels...))
		p := i.peer
		p.Source = source
		switch {
		case plain && api:
		case plain:
			p.Not = []model.Peer{apiServerPeer(source)}
		case api:
			p.Services = apiServerPeer(source).Services
		default:
			continue
		}
		out = append(out, p)
	}
	return out
}

// meets says whether something with just these reserved labels is selected. A
// condition on the cluster is one on pods: what is no pod has no such label.
func (s selector) meets(reserved []string) bool {
	if !s.mentions(requirement.isReserved) && !s.mentions(func(r requirement) bool { return r.isPod() && r.key == clusterKey }) {
		return false
	}
	for _, r := range s {
		matches := r.plain().Match(func(key string) (string, bool) {
			if r.source == "k8s" {
				return "", false
			}
			for _, l := range reserved {
				if l == key {
					return "", true
				}
			}
			return "", false
		})
		if !matches {
			return false
		}
	}
	return true
}

func (d *decoder) cidr(c field.Cursor, _ list, out *peers) {
	if p, ok := prefixOrAddress(c); ok {
		out.add(model.Peer{Block: &model.IPBlock{CIDR: p}, Outside: true, Source: c.Source()})
	}
}

// prefixOrAddress reads a CIDR or a bare address.
func prefixOrAddress(c field.Cursor) (netip.Prefix, bool) {
	if a, err := netip.ParseAddr(c.Value()); err == nil && !a.Is4In6() && a.Zone() == "" {
		return netip.PrefixFrom(a, a.BitLen()), true
	}
	return field.Prefix(c)
}

// cidrRule reads one item of fromCIDRSet or toCIDRSet.
func (d *decoder) cidrRule(c field.Cursor, _ list, out *peers) {
	if !c.Mapping() {
		if !c.Present() {
			c.Error("must be an object, not null", "")
		}
		return
	}
	cidr, name, selects, except := c.Field("cidr"), c.Field("cidrGroupRef"), c.Field("cidrGroupSelector"), c.Field("except")
	c.Done()
	p := model.Peer{Outside: true, Source: c.Source()}
	n := 0
	for _, f := range []field.Cursor{cidr, name, selects} {
		if f.Present() {
			n++
		}
	}
	switch {
	case n != 1:
		c.Error("needs exactly one of cidr, cidrGroupRef, cidrGroupSelector", "")
		return
	case cidr.Present():
		block, ok := field.Prefix(cidr)
		if !ok {
			return
		}
		p.Block = &model.IPBlock{CIDR: block, Except: exceptions(except, block)}
		out.add(p)
		return
	case name.Present():
		if !field.ValidName(name.String()) {
			name.Error("\""+name.Value()+"\" is no valid name", "the name of a "+CIDRGroup)
			return
		}
		p.Sets = &model.SetSelector{Family: model.FamilyCilium, Name: name.String(), Global: true}
	default:
		s, ok := readSelector(selects, groupLabels)
		if !ok {
			return
		}
		p.Sets = &model.SetSelector{Family: model.FamilyCilium, Labels: s.labelled(), Global: true}
	}
	for _, x := range exceptions(except, netip.Prefix{}) {
		p.Not = append(p.Not, model.Peer{Block: &model.IPBlock{CIDR: x}})
	}
	out.add(p)
}

// exceptions reads the parts that are taken out: of the block, or of groups
// if that is the zero value.
func exceptions(c field.Cursor, block netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, e := range c.Items() {
		x, ok := field.Prefix(e)
		switch {
		case !ok:
		case block.IsValid() && (x.Bits() < block.Bits() || !block.Contains(x.Addr())):
			e.Error(e.Value()+" is not inside "+block.String(), "an exception must lie inside the cidr")
		default:
			out = append(out, x)
		}
	}
	return out
}

// service reads one item of toServices.
func (d *decoder) service(c field.Cursor, l list, out *peers) {
	if !c.Mapping() {
		if !c.Present() {
			c.Error("must be an object, not null", "")
		}
		return
	}
	named, selected := c.Field("k8sService"), c.Field("k8sServiceSelector")
	c.Done()
	if l.action == model.Deny {
		c.Report(model.Warning, "what stands behind the Service is denied; Cilium does not look Services up in denials, and denies the item's ports to everybody", "deny the Service's pods by their labels")
	}
	if named.Present() == selected.Present() {
		c.Error("needs one of k8sService, k8sServiceSelector", "to select by name: k8sService: {serviceName: web, namespace: shop}")
		return
	}
	s := &model.ServiceSelector{Behind: model.BehindPods}
	if named.Present() {
		if !named.Mapping() {
			return
		}
		name := named.Field("serviceName")
		s.Name, s.Namespace = name.String(), named.Field("namespace").String()
		named.Done()
		if s.Name == "" {
			name.Error("is missing", "the name of a Service")
		}
	} else if selected.Mapping() {
		labels, _ := readSelector(selected.Field("selector"), serviceLabels)
		s.Labels, s.Namespace = labels.labelled(), selected.Field("namespace").String()
		selected.Done()
	}
	out.add(model.Peer{Services: s, Source: c.Source()})
}

// nodes reads fromNodes or toNodes: nodes other than the pod's own.
func nodes(d *decoder, c field.Cursor, _ list, out *peers) {
	items := c.Items()
	if len(items) > 0 {
		c.Report(model.Warning, "agents of Cilium accept node selectors only if they run with enable-node-selector-labels", "")
	}
	for _, i := range items {
		s, ok := readSelector(i, nodeLabels)
		if !ok {
			continue
		}
		which := &model.NodeSelector{Which: model.OtherNode, Labels: s.labelled()}
		if which.Labels.Op != model.SelectNone {
			out.add(model.Peer{Nodes: which, Source: i.Source()})
		}
	}
}

// groups reads fromGroups or toGroups: addresses that a cloud knows and nobody here.
func groups(d *decoder, c field.Cursor, l list, out *peers) {
	items := c.Items()
	for _, i := range items {
		if !i.Mapping() {
			continue
		}
		if aws := i.Field("aws"); aws.Mapping() {
			aws.Field("labels").StringMap()
			checkStrings(aws.Field("region"))
			aws.Field("securityGroupsIds").Strings()
			aws.Field("securityGroupsNames").Strings()
			aws.Done()
		}
		i.Done()
	}
	switch {
	case len(items) == 0:
	case l.action == model.Deny:
		c.Report(model.Warning, "groups of a cloud provider are not looked up: everything outside the cluster is denied", "list the addresses in a "+CIDRGroup)
		out.add(model.Peer{Outside: true, Source: c.Source()})
	default:
		c.Report(model.Warning, "groups of a cloud provider are not looked up: nobody is in them", "list the addresses in a "+CIDRGroup)
	}
}

// names reads toFQDNs: one peer with all names.
func names(d *decoder, c field.Cursor, _ list, out *peers) {
	p := model.Peer{Outside: true, Source: c.Source()}
	for _, i := range c.Items() {
		if n, ok := namePattern(i); ok {
			p.Names = append(p.Names, n)
		}
	}
	if len(p.Names) > 0 {
		notEnforced(c, "names of DNS are")
		out.add(p)
	}
}
