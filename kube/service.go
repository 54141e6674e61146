package kube

import (
	"reflect"
	"slices"

	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/model"
)

// resolved is all Services with their backends, sorted.
func (s *state) resolved() []model.Service {
	out := make([]model.Service, 0, len(s.services.rows))
	for _, k := range sortedKeys(s.services.rows) {
		out = append(out, *s.resolve(k))
	}
	return out
}

// resolve is the Service with its backends, nil if there is none. In a cluster
// the EndpointSlices say who stands behind a Service, as they do to kube-proxy.
func (s *state) resolve(k key) *model.Service {
	kept := s.services.rows[k].value
	if kept == nil {
		return nil
	}
	var behind []*slice
	for _, at := range sortedKeys(s.behind[k]) {
		behind = append(behind, s.slices.rows[at].value)
	}
	out := *kept
	out.Ports = slices.Clone(out.Ports)
	for i := range out.Ports {
		out.Ports[i].Backends = backends(behind, &out.Ports[i])
	}
	return &out
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

// service is the Service as it is handed out: only while policies speak of it.
// Services change with every pod that comes and goes, and most clusters have
// no policy that asks.
func (s *state) service(k key) *model.Service {
	if s.asked[k] == 0 && s.asked[key{}] == 0 {
		return nil
	}
	return s.resolve(k)
}

func (s *state) servicesAskedFor() (out []model.Service) {
	if len(s.asked) == 0 {
		return nil
	}
	for _, k := range sortedKeys(s.services.rows) {
		if x := s.service(k); x != nil {
			out = append(out, *x)
		}
	}
	return out
}

func (s *state) touchService(k key) {
	s.touch()
	s.before.served = true
	if s.asked[k] > 0 || s.asked[key{}] > 0 {
		s.noteService(k)
	}
}

func (s *state) noteService(k key) {
	note(s, s.before.services, k, func() *model.Service { return s.service(k) })
}

func (s *state) changeSlice(k key, old, now *slice) {
	if old != nil {
		of := key{k.namespace, old.service}
		s.touchService(of)
		if delete(s.behind[of], k); len(s.behind[of]) == 0 {
			delete(s.behind, of)
		}
	}
	if now != nil {
		of := key{k.namespace, now.service}
		s.touchService(of)
		if s.behind[of] == nil {
			s.behind[of] = map[key]struct{}{}
		}
		s.behind[of][k] = struct{}{}
	}
}

// ask counts one more object that speaks of the Service.
func (s *state) ask(k key) {
	if s.asked[k] == 0 {
		s.noteServices(k)
	}
	s.asked[k]++
}

func (s *state) unask(k key) {
	if s.asked[k] > 1 {
		s.asked[k]--
		return
	}
	s.noteServices(k)
	delete(s.asked, k)
}

// noteServices keeps what was handed out of the Service, or with the zero key of all.
func (s *state) noteServices(k key) {
	if k != (key{}) {
		s.noteService(k)
		return
	}
	for each := range s.services.rows {
		s.noteService(each)
	}
}

func (s *state) serviceChange(ch *engine.Change, before map[key]*model.Service) {
	for _, k := range sortedKeys(before) {
		switch was, now := before[k], s.service(k); {
		case now == nil && was != nil:
			ch.DeletedServices = append(ch.DeletedServices, was.Key())
		case now != nil && !reflect.DeepEqual(was, now):
			ch.Services = append(ch.Services, now)
		}
	}
}
