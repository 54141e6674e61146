package engine

import (
	"encoding/binary"
	"reflect"
	"slices"

	"github.com/sallyport-dev/sallyport/model"
)

// class is a set of pods that no selector in force tells apart: same
// namespace, same values of the labels that some selector looks at, same
// numbers for the port names that some rule uses. It is the unit of subjects:
// all its pods have the same gates.
type class struct {
	id        int
	key       string
	namespace string
	labels    map[string]string // of interesting keys; uninteresting values as otherValue
	ports     []model.ContainerPort
	members   []*endpoint
	policies  [2][]*policy // that select the class and govern the direction, in order of evaluation
	gates     [2]*Gate     // valid if known
	known     [2]bool
	units     []*unit
	empty     bool // counted in emptyClasses
}

// endpoint is a pod in the Matrix. A hostNetwork pod has no class and no units.
type endpoint struct {
	*model.Endpoint
	key   string
	class *class
	slot  int     // in class.members
	units []*unit // one per address
}

// otherValue stands for every value of a label that no selector names. No
// valid label value contains a control character.
const otherValue = "\x00"

// interest is what selectors in force look at in one label.
type interest struct {
	all    bool // every value tells (prefix, suffix, contains)
	exists bool // presence tells
	values map[string]struct{}
}

// named is a port name that some rule asks destinations to resolve.
type named struct {
	protocol model.Protocol
	name     string
}

// noteSelector widens the interest to what the selector looks at and calls
// widened with every key whose interest grew.
func (m *Matrix) noteSelector(s model.Selector, widened func(key string)) {
	if s.Key != "" {
		it := m.interest[s.Key]
		if it == nil {
			it = &interest{values: map[string]struct{}{}}
			m.interest[s.Key] = it
			m.insertKey(s.Key)
		}
		switch s.Op {
		case model.SelectIn, model.SelectNotIn:
			for _, v := range s.Values {
				if _, ok := it.values[v]; !ok {
					it.values[v] = struct{}{}
					widened(s.Key)
				}
			}
		case model.SelectExists, model.SelectNotExists:
			if !it.exists {
				it.exists = true
				widened(s.Key)
			}
		case model.SelectPrefix, model.SelectSuffix, model.SelectContains:
			if !it.all {
				it.all = true
				widened(s.Key)
			}
		}
	}
	for _, a := range s.Args {
		m.noteSelector(a, widened)
	}
}

func (m *Matrix) insertKey(key string) {
	i, _ := slices.BinarySearch(m.labelKeys, key)
	m.labelKeys = slices.Insert(m.labelKeys, i, key)
}

// notePort widens the interest to a port name; it says whether it is new.
func (m *Matrix) notePort(n named) bool {
	if slices.Contains(m.portNames, n) {
		return false
	}
	m.portNames = append(m.portNames, n)
	return true
}

// project is the label's value as far as selectors can tell; ok is false if
// they cannot even tell that the label is there.
func (m *Matrix) project(key, value string) (projected string, ok bool) {
	it := m.interest[key]
	if it.all {
		return value, true
	}
	if _, ok := it.values[value]; ok {
		return value, true
	}
	return otherValue, it.exists
}

// memoKey finds pods of one template without looking at their labels again.
// It is good only while the templates are alive: for one compilation.
type memoKey struct {
	namespace           string
	labels, ports       uintptr
	nports              int
	account, node, name string // if selectors ask for what they decide
}

func (m *Matrix) memoKeyOf(e *model.Endpoint) memoKey {
	k := memoKey{namespace: e.Namespace, labels: reflect.ValueOf(e.Labels).Pointer(), ports: reflect.ValueOf(e.Ports).Pointer(), nports: len(e.Ports)}
	if len(m.labelKeys) == 0 || m.labelKeys[0] > string(model.Implied+1) { // none of the implied ones
		return k
	}
	k.account, k.node, k.name = e.ServiceAccount, e.Node, e.Name
	return k
}

// classKey encodes what the selectors in force see of a pod.
func (m *Matrix) classKey(b []byte, e *model.Endpoint) []byte {
	b = appendString(b, e.Namespace)
	for _, k := range m.labelKeys {
		if v, ok := m.label(e, k); ok {
			if v, ok = m.project(k, v); ok {
				b = appendString(b, k)
				b = appendString(b, v)
			}
		}
	}
	b = append(b, 0xff)
	for i, n := range m.portNames {
		if number, ok := e.NamedPort(n.name, n.protocol); ok {
			b = binary.AppendUvarint(b, uint64(i))
			b = binary.AppendUvarint(b, uint64(number))
		}
	}
	return b
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// newClass makes the class of a pod, with no policies and units yet.
func (m *Matrix) newClass(key string, e *model.Endpoint) *class {
	c := &class{key: key, namespace: e.Namespace, labels: map[string]string{}}
	for _, k := range m.labelKeys {
		if v, ok := m.label(e, k); ok {
			if v, ok = m.project(k, v); ok {
				c.labels[k] = v
			}
		}
	}
	for _, n := range m.portNames {
		if number, ok := e.NamedPort(n.name, n.protocol); ok {
			c.ports = append(c.ports, model.ContainerPort{Name: n.name, Protocol: n.protocol, Number: number})
		}
	}
	if n := len(m.freeClasses); n > 0 {
		c.id = m.freeClasses[n-1]
		m.freeClasses = m.freeClasses[:n-1]
		m.classes[c.id] = c
	} else {
		c.id = len(m.classes)
		m.classes = append(m.classes, c)
	}
	m.classByKey[key] = c
	m.indexClass(c)
	return c
}

func (m *Matrix) indexClass(c *class) {
	clear(m.namespaceMemo)
	m.liveClasses.set(c.id)
	indexed(m.classesByNamespace, c.namespace).set(c.id)
	for k, v := range c.labels {
		byValue := m.classesByLabel[k]
		if byValue == nil {
			byValue = map[string]*bitset{}
			m.classesByLabel[k] = byValue
		}
		indexed(byValue, v).set(c.id)
	}
}

func (m *Matrix) dropClass(c *class) {
	clear(m.namespaceMemo)
	m.liveClasses.clear(c.id)
	m.classesByNamespace[c.namespace].clear(c.id)
	for k, v := range c.labels {
		m.classesByLabel[k][v].clear(c.id)
	}
	for _, a := range m.atoms {
		a.forget(c)
	}
	for _, u := range c.units {
		m.dropUnit(u)
	}
	m.setGates(c, model.Ingress, nil)
	m.setGates(c, model.Egress, nil)
	for _, p := range c.ports {
		n := named{p.Protocol, p.Name}
		if m.numbers[n][p.Number]--; m.numbers[n][p.Number] == 0 {
			delete(m.numbers[n], p.Number)
		}
	}
	delete(m.classByKey, c.key)
	m.classes[c.id] = nil
	m.freeClasses = append(m.freeClasses, c.id)
}

func indexed[K comparable](index map[K]*bitset, k K) *bitset {
	b := index[k]
	if b == nil {
		b = new(bitset)
		index[k] = b
	}
	return b
}

// namedPort resolves one of the class's interesting port names.
func (c *class) namedPort(n named) (uint16, bool) {
	for _, p := range c.ports {
		if p.Name == n.name && p.Protocol == n.protocol {
			return p.Number, true
		}
	}
	return 0, false
}

// selectClasses is the set of classes whose pods the selector selects. It is
// good until the next call.
func (m *Matrix) selectClasses(s *model.EndpointSelector) bitset {
	out := m.selected[:0]
	if s.Namespace != "" {
		in := m.classesByNamespace[s.Namespace]
		if in == nil {
			return nil
		}
		out = append(out, *in...)
	} else {
		out = append(out, m.liveClasses...)
	}
	m.selected = out
	if s.Namespaces.Op != model.SelectAll {
		out.and(m.classesOfNamespaces(s.Namespaces))
	}
	if s.Pods.Op != model.SelectAll {
		m.narrow(out, &s.Pods)
	}
	return out
}

// classesOfNamespaces is the set of classes in namespaces that match; it is
// remembered until a class or namespace comes or goes.
func (m *Matrix) classesOfNamespaces(s model.Selector) bitset {
	m.keyBuf = s.AppendKey(m.keyBuf[:0])
	if b, ok := m.namespaceMemo[string(m.keyBuf)]; ok {
		return b
	}
	key := string(m.keyBuf)
	var out bitset
	for name, in := range m.classesByNamespace {
		if s.Matches(m.namespaceLabels(name)) {
			out.or(*in)
		}
	}
	m.namespaceMemo[key] = out
	return out
}

// namespaceLabels are the labels of a namespace; one that nobody declared has
// its name only.
func (m *Matrix) namespaceLabels(name string) map[string]string {
	if ns, ok := m.namespaces[name]; ok {
		return ns.Labels
	}
	return map[string]string{model.MetadataName: name}
}

// narrow keeps the classes whose pods match the selector.
func (m *Matrix) narrow(set bitset, s *model.Selector) {
	switch s.Op {
	case model.SelectAll:
	case model.SelectAnd:
		for i := range s.Args {
			m.narrow(set, &s.Args[i])
		}
	case model.SelectNone:
		clear(set)
	case model.SelectIn:
		if len(s.Values) == 1 {
			if b := m.classesByLabel[s.Key][s.Values[0]]; b != nil {
				set.and(*b)
			} else {
				clear(set)
			}
			return
		}
		set.and(m.withLabel(s.Key, func(v string) bool { return slices.Contains(s.Values, v) }))
	case model.SelectNotIn:
		set.andNot(m.withLabel(s.Key, func(v string) bool { return slices.Contains(s.Values, v) }))
	case model.SelectExists:
		set.and(m.withLabel(s.Key, func(string) bool { return true }))
	case model.SelectNotExists:
		set.andNot(m.withLabel(s.Key, func(string) bool { return true }))
	default:
		set.each(func(i int) {
			if !s.Matches(m.classes[i].labels) {
				set.clear(i)
			}
		})
	}
}

// withLabel is the set of classes whose label has a value that ok accepts.
func (m *Matrix) withLabel(key string, ok func(value string) bool) bitset {
	var out bitset
	for v, b := range m.classesByLabel[key] {
		if ok(v) {
			out.or(*b)
		}
	}
	return out
}

// selects says whether the selector selects the class's pods.
func (m *Matrix) selects(s *model.EndpointSelector, c *class) bool {
	return (s.Namespace == "" || s.Namespace == c.namespace) &&
		(s.Namespaces.Op == model.SelectAll || s.Namespaces.Matches(m.namespaceLabels(c.namespace))) &&
		s.Pods.Matches(c.labels)
}
