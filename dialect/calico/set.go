package calico

import (
	"net/netip"

	"github.com/sallyport-dev/sallyport/dialect/field"
	"github.com/sallyport-dev/sallyport/model"
)

// networkSet reads a NetworkSet or GlobalNetworkSet. What cannot be read of it
// is not in it, and the set is marked as unreadable by whoever asked.
func networkSet(o *object) model.Parts {
	s := model.AddressSet{Family: model.FamilyCalico, Name: o.source.Name, Labels: o.labels, Source: o.source}
	if o.source.Kind == "NetworkSet" {
		s.Namespace = o.source.Namespace
	}
	if _, ok := o.labels[labelNamespace]; ok {
		o.root.Field("metadata").Field("labels").Error("label "+labelNamespace+" is the namespace itself", "take it out")
	}
	if !mapping(o.spec) {
		return model.Parts{Sets: []model.AddressSet{s}}
	}
	for _, i := range o.spec.Field("nets").Items() {
		if p, ok := prefixOrAddress(i); ok {
			s.Blocks = append(s.Blocks, p)
		}
	}
	if names := o.spec.Field("allowedEgressDomains"); len(names.Strings()) > 0 {
		names.Error("the names of a set are not enforced: it holds its nets only", "write them as domains of a rule's destination")
	}
	o.spec.Done()
	return model.Parts{Sets: []model.AddressSet{s}}
}

// prefixOrAddress reads a CIDR, or an address, which is a CIDR of its own.
func prefixOrAddress(c field.Cursor) (netip.Prefix, bool) {
	if a, err := netip.ParseAddr(c.Value()); err == nil && c.String() != "" && !a.Is4In6() && a.Zone() == "" {
		return netip.PrefixFrom(a, a.BitLen()), true
	}
	return field.Prefix(c)
}

// hostEndpoint reads a HostEndpoint. Nothing is enforced on hosts yet, but
// rules of pods find its addresses by its labels, as those of a global set.
func hostEndpoint(o *object) model.Parts {
	s := model.AddressSet{Family: model.FamilyCalico, Name: o.source.Name, Labels: o.labels, Source: o.source}
	o.root.Report(model.Info, "is a peer of pods by its labels and expectedIPs; on the host itself nothing is enforced yet", "")
	if !mapping(o.spec) {
		return model.Parts{Sets: []model.AddressSet{s}}
	}
	node, device, ips := o.spec.Field("node"), o.spec.Field("interfaceName"), o.spec.Field("expectedIPs")
	if node.String() == "" && node.Value() == "" {
		node.Error("is missing", "the name of the node")
	}
	for _, i := range ips.Items() {
		a, err := netip.ParseAddr(i.String())
		if err != nil || a.Zone() != "" {
			i.Error("\""+i.Value()+"\" is no IP address", "")
			continue
		}
		a = a.Unmap()
		s.Blocks = append(s.Blocks, netip.PrefixFrom(a, a.BitLen()))
	}
	if device.String() == "" && len(ips.Items()) == 0 {
		o.spec.Error("needs interfaceName or expectedIPs", `interfaceName: "*" is every device`)
	}
	o.spec.Field("profiles").Strings()
	for _, i := range o.spec.Field("ports").Items() {
		hostPort(i)
	}
	o.spec.Done()
	return model.Parts{Sets: []model.AddressSet{s}}
}

// hostPort reads a named port of a host.
func hostPort(c field.Cursor) {
	if !c.Mapping() {
		return
	}
	name, port, protocol := c.Field("name"), c.Field("port"), c.Field("protocol")
	if !portName.MatchString(name.String()) {
		name.Error("\""+name.Value()+"\" is no name of a port", "letters, digits, '_', '.' and '-', at most 128")
	}
	if _, ok := port.Int(1, 65535); !ok && !port.Present() {
		port.Error("is missing", "a number from 1 to 65535")
	}
	if p, tls := readProtocol(protocol); tls || !hasPorts(p) {
		protocol.Error("must be TCP, UDP or SCTP", "")
	}
	c.Done()
	c.Report(model.Info, "names of ports on hosts are not known to rules: none finds this one", "")
}
