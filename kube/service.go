package kube

import (
	"slices"

	"github.com/sallyport-dev/sallyport/model"
)

// resolved is all Services with their backends, sorted. In a cluster the
// EndpointSlices say who stands behind a Service, as they do to kube-proxy.
func (s *state) resolved() []model.Service {
	behind := map[key][]*slice{}
	for _, k := range sortedKeys(s.slices.rows) {
		e := s.slices.rows[k].value
		at := key{k.namespace, e.service}
		behind[at] = append(behind[at], e)
	}
	out := make([]model.Service, 0, len(s.services.rows))
	for _, k := range sortedKeys(s.services.rows) {
		svc := *s.services.rows[k].value
		svc.Ports = slices.Clone(svc.Ports)
		for i := range svc.Ports {
			svc.Ports[i].Backends = backends(behind[k], &svc.Ports[i])
		}
		out = append(out, svc)
	}
	return out
}

// backends of one port of a Service. A slice may be being moved to another, so
// an address may stand in two.
func backends(behind []*slice, p *model.ServicePort) []model.Backend {
	var out []model.Backend
	seen := map[model.Backend]struct{}{}
	for _, e := range behind {
		for _, port := range e.ports {
			if port.name != p.Name || port.protocol != p.Protocol {
				continue
			}
			for _, b := range e.backends {
				b.Port = port.number
				if _, twice := seen[b]; !twice {
					seen[b] = struct{}{}
					out = append(out, b)
				}
			}
		}
	}
	return out
}
