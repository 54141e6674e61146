package lint

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/model"
)

// ports looks at the ports that the rule names, as its destinations have them.
func (r *run) ports(x *rule) {
	if len(x.Ports) == 0 {
		return
	}
	destinations, known := r.destinations(x)
	if !known || len(destinations) == 0 {
		return
	}
	for i := range x.Ports {
		p := &x.Ports[i]
		switch {
		case p.Name != "":
			r.portName(x, p, destinations)
		case p.First == p.Last && (p.Protocol == model.TCP || p.Protocol == model.UDP || p.Protocol == model.SCTP):
			r.portNumber(x, p, destinations)
		}
	}
}

// destinations are the pods whose ports the rule means; they are not known if
// the rule is also about somebody who is no pod.
func (r *run) destinations(x *rule) (pods []*model.Endpoint, known bool) {
	if x.direction == model.Ingress {
		return r.sample(&x.policy.Subject), true
	}
	if x.AnyPeer {
		return nil, false
	}
	for i := range x.Peers {
		if x.Peers[i].Pods == nil {
			return nil, false
		}
		pods = append(pods, r.sample(x.Peers[i].Pods)...)
	}
	return pods, true
}

// portName looks for names that no destination has. What is written once may
// be of several protocols, and one of them is enough.
func (r *run) portName(x *rule, p *model.Port, destinations []*model.Endpoint) {
	i := slices.IndexFunc(x.Ports, func(q model.Port) bool { return q.Name == p.Name && q.Source == p.Source })
	if &x.Ports[i] != p {
		return // said of the first
	}
	var names []string
	for _, e := range destinations {
		if slices.ContainsFunc(x.Ports, func(q model.Port) bool {
			_, ok := e.NamedPort(q.Name, q.Protocol)
			return ok && q.Name == p.Name && q.Source == p.Source
		}) {
			return
		}
		for _, c := range e.Ports {
			if c.Name != "" && !slices.Contains(names, c.Name+"/"+c.Protocol.String()) {
				names = append(names, c.Name+"/"+c.Protocol.String())
			}
		}
	}
	slices.Sort(names)
	fix := "the pods name no ports; write the number"
	if near, ok := nearest(p.Name+"/"+p.Protocol.String(), names); ok {
		fix = "did you mean " + near + "?"
	} else if len(names) > 0 {
		fix = "they have " + few(names)
	}
	r.find("SP1108", p.Source, fmt.Sprintf("no destination has a port of the name %s: this matches nothing", p), fix)
}

// portNumber looks for numbers that a Service has and that the pods behind it
// do not.
func (r *run) portNumber(x *rule, p *model.Port, destinations []*model.Endpoint) {
	for _, e := range destinations {
		if slices.ContainsFunc(e.Ports, func(c model.ContainerPort) bool { return c.Number == p.First && c.Protocol == p.Protocol }) {
			return
		}
	}
	for _, e := range destinations {
		for _, s := range r.byNamespace[e.Namespace] {
			target, ok := targetOf(s, e, p)
			if ok && s.Selects(e) {
				r.find("SP1505", p.Source, fmt.Sprintf("%s is the port of Service %s; policies see the pods' own port, which is %s", p, s.Key(), target),
					"write port "+strings.TrimSuffix(target, "/"+p.Protocol.String()), s.Source)
				return
			}
		}
	}
}

// targetOf is the port that the Service's port leads to, if it is another one.
func targetOf(s *model.Service, e *model.Endpoint, p *model.Port) (string, bool) {
	for _, sp := range s.Ports {
		if sp.Port != p.First || sp.Protocol != p.Protocol {
			continue
		}
		number := sp.TargetPort
		if number == 0 {
			number, _ = e.NamedPort(sp.TargetName, sp.Protocol)
		}
		return fmt.Sprintf("%d/%s", number, sp.Protocol), number != 0 && number != sp.Port
	}
	return "", false
}
