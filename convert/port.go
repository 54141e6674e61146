package convert

import (
	"slices"

	"github.com/sallyport-dev/sallyport/model"
)

// ports is what a rule asks of protocol and port.
type ports struct {
	any  bool
	list []model.Port // alternatives, by number or by name; none: nothing
}

func portsOf(r *model.Rule) ports {
	p := ports{any: r.AnyPort, list: r.Ports}
	for _, x := range r.Ports {
		p.any = p.any || x.Name == "" && x.Interval() == model.Interval{Last: model.MaxPortKey}
	}
	return p
}

func (p ports) none() bool { return !p.any && len(p.list) == 0 }

// numbers is the ports that are not given by name.
func (p ports) numbers() model.PortSet {
	if p.any {
		return model.AllPorts()
	}
	var out []model.Interval
	for _, x := range p.list {
		if x.Name == "" {
			out = append(out, x.Interval())
		}
	}
	return model.Union(out...)
}

// named are the numbers that pods of the cluster give port names.
type named map[model.Port]model.PortSet

func nameKey(p model.Port) model.Port { return model.Port{Protocol: p.Protocol, Name: p.Name} }

func namesOf(c *model.Cluster) named {
	out := named{}
	for i := range c.Endpoints {
		for _, p := range c.Endpoints[i].Ports {
			k, at := model.Port{Protocol: p.Protocol, Name: p.Name}, model.PortKeyOf(p.Protocol, p.Number)
			if !out[k].Contains(at) {
				out[k] = out[k].Union(model.PortSet{{First: at, Last: at}})
			}
		}
	}
	return out
}

// numbered is all that the ports can mean in the cluster.
func (n named) numbered(p ports) model.PortSet {
	out := p.numbers()
	for _, x := range p.list {
		if x.Name != "" {
			out = out.Union(n[nameKey(x)])
		}
	}
	return out
}

// minus is the ports of a without those of b. A name of a that may mean a port
// of b is left out; a name of b takes every number away that it has anywhere:
// exact says that neither was so.
func (n named) minus(a, b ports) (out ports, exact bool) {
	if b.any {
		return ports{}, true
	}
	taken := n.numbered(b)
	if a.any {
		return ports{list: portList(model.AllPorts().Subtract(taken))}, len(taken) == len(b.numbers())
	}
	exact = true
	for _, x := range a.list {
		switch {
		case x.Name != "" && slices.ContainsFunc(b.list, func(y model.Port) bool { return nameKey(x) == nameKey(y) }):
		case x.Name != "" && len(n[nameKey(x)].Intersect(taken)) > 0:
			exact = false
		case x.Name != "":
			out.list = append(out.list, x)
		default:
			own := model.PortSet{x.Interval()}
			if rest := own.Subtract(taken); slices.Equal(rest, own) {
				out.list = append(out.list, x)
			} else {
				out.list = append(out.list, portList(rest)...)
				exact = exact && slices.Equal(rest, own.Subtract(b.numbers()))
			}
		}
	}
	return out, exact
}

// meet is the ports of both.
func (n named) meet(a, b ports) ports {
	switch {
	case a.any:
		return b
	case b.any:
		return a
	}
	var out ports
	theirs := n.numbered(b)
	for _, x := range a.list {
		own := model.PortSet{x.Interval()}
		if x.Name != "" {
			own = n[nameKey(x)]
		}
		switch both := own.Intersect(theirs); {
		case x.Name != "" && (len(both) > 0 || slices.ContainsFunc(b.list, func(y model.Port) bool { return nameKey(x) == nameKey(y) })):
			out.list = append(out.list, x)
		case x.Name == "" && slices.Equal(both, own):
			out.list = append(out.list, x)
		case x.Name == "":
			out.list = append(out.list, portList(both)...)
		}
	}
	return out
}

// portList writes a set as ports, whole protocols in runs. Protocol 0, of which
// no packet is, is left out.
func portList(set model.PortSet) []model.Port {
	var out []model.Port
	for _, iv := range set {
		for p := max(iv.First, model.PortKeyOf(1, 0)); p <= iv.Last; {
			last := min(iv.Last, model.PortKeyOf(p.Protocol(), 65535))
			x := model.Port{Protocol: p.Protocol(), First: p.Port(), Last: last.Port()}
			if full := model.PortKeyOf(iv.Last.Protocol(), 65535); x.First == 0 && x.Last == 65535 && iv.Last > last {
				x.Through = iv.Last.Protocol()
				if full != iv.Last {
					x.Through--
				}
				last = model.PortKeyOf(x.Through, 65535)
				if x.Through == x.Protocol {
					x.Through = 0
				}
			}
			out = append(out, x)
			p = last + 1
		}
	}
	return out
}
