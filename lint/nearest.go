package lint

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/dialect/field"
	"github.com/sallyport-dev/sallyport/model"
)

// nearest is the word among the candidates that is most like the one given,
// if any is like it at all.
func nearest(word string, candidates []string) (string, bool) {
	best, distance := "", max(2, len(word)/3)+1
	for _, c := range candidates {
		d := field.Distance(strings.ToLower(word), strings.ToLower(c))
		if len(word) > 2 && (strings.HasPrefix(c, word) || strings.HasPrefix(word, c) && len(c) > 2) {
			d = min(d, 2)
		}
		if d < distance || d == distance && c < best {
			best, distance = c, d
		}
	}
	return best, best != "" && distance < max(len(word), len(best))
}

// vocabulary is the labels that some pods or namespaces have: values by key.
type vocabulary map[string]map[string]bool

func (v vocabulary) add(labels map[string]string) {
	for k, value := range labels {
		v.put(k, value)
	}
}

func (v vocabulary) put(key, value string) {
	if v[key] == nil {
		v[key] = map[string]bool{}
	}
	v[key][value] = true
}

// instead finds a label that exists and is nearest to key=value: another value
// of the key, else the value under another key, else both in another spelling.
func (v vocabulary) instead(key, value string) (string, string, bool) {
	if other, ok := nearest(value, slices.Sorted(maps.Keys(v[key]))); ok {
		return key, other, true
	}
	var same []string
	for k, values := range v {
		if values[value] {
			same = append(same, k)
		}
	}
	slices.Sort(same)
	if k, ok := nearest(key, same); ok {
		return k, value, true
	}
	if len(same) > 0 {
		return same[0], value, true
	}
	if k, ok := nearest(key, slices.Sorted(maps.Keys(v))); ok {
		if other, ok := nearest(value, slices.Sorted(maps.Keys(v[k]))); ok {
			return k, other, true
		}
	}
	return "", "", false
}

// unmatched is the first part of the selector that asks for one value which
// nothing has.
func (v vocabulary) unmatched(s model.Selector) (key, value string, ok bool) {
	if s.Op == model.SelectAnd {
		for _, a := range s.Args {
			if key, value, ok = v.unmatched(a); ok {
				return key, value, true
			}
		}
	}
	if s.Op != model.SelectIn || len(s.Values) != 1 || s.Key[0] == model.Implied || v[s.Key][s.Values[0]] {
		return "", "", false
	}
	return s.Key, s.Values[0], true
}

// nearestLabel proposes the label that was probably meant.
func (r *run) nearestLabel(s *model.EndpointSelector) string {
	words, everywhere := r.wordsOf(s), r.words("")
	key, value, ok := words.unmatched(s.Pods)
	if !ok && s.Pods.Op != model.SelectAnd {
		return "give the pods such labels, or select what they have"
	}
	if !ok {
		return "no pod has all of these labels at once; take away what is not needed"
	}
	if k, v, ok := words.instead(key, value); ok {
		return fmt.Sprintf("did you mean %s: %s?", k, v)
	}
	if everywhere[key][value] {
		return "pods of other namespaces have this label; say which namespace with a namespaceSelector, or move the policy"
	}
	return "give the pods this label, or write one that they have"
}

// wordsOf is the labels of pods in the namespaces of the selector.
func (r *run) wordsOf(s *model.EndpointSelector) vocabulary {
	if s.Namespace != "" || s.Namespaces.Op == model.SelectAll {
		return r.words(s.Namespace)
	}
	out := vocabulary{}
	for _, n := range r.Cluster.Namespaces {
		if s.Namespaces.Matches(n.Labels) {
			for k, values := range r.words(n.Name) {
				for v := range values {
					out.put(k, v)
				}
			}
		}
	}
	return out
}

// words is the labels of the namespace's pods; "" is every namespace.
func (r *run) words(namespace string) vocabulary {
	if r.vocabularies == nil {
		r.vocabularies = map[string]vocabulary{"": {}}
		for _, p := range r.shapes {
			if p.HostNetwork {
				continue
			}
			if r.vocabularies[p.Namespace] == nil {
				r.vocabularies[p.Namespace] = vocabulary{}
			}
			r.vocabularies[p.Namespace].add(p.Labels)
			r.vocabularies[""].add(p.Labels)
		}
	}
	return r.vocabularies[namespace]
}

// nearestNamespaceLabel proposes the namespace labels that were probably meant.
func (r *run) nearestNamespaceLabel(s model.Selector) string {
	words := vocabulary{}
	for _, n := range r.Cluster.Namespaces {
		if r.exists(n.Name) {
			words.add(n.Labels)
		}
	}
	key, value, ok := words.unmatched(s)
	if !ok && s.Op != model.SelectAnd {
		return "give the namespaces such labels, or select what they have"
	}
	if !ok {
		return "no namespace has all of these labels at once; take away what is not needed"
	}
	if key == model.MetadataName {
		return r.nearestNamespace(value, "select one")
	}
	if words[model.MetadataName][value] {
		return fmt.Sprintf("namespace %s exists and has no such label; every namespace has %s: %s", value, model.MetadataName, value)
	}
	if k, v, ok := words.instead(key, value); ok {
		return fmt.Sprintf("did you mean %s: %s?", k, v)
	}
	return "label the namespace: kubectl label namespace NAME " + key + "=" + value
}

func (r *run) nearestNamespace(name, otherwise string) string {
	var names []string
	for _, n := range r.Cluster.Namespaces {
		if n.Name != name && r.exists(n.Name) {
			names = append(names, n.Name)
		}
	}
	if other, ok := nearest(name, names); ok {
		return "did you mean namespace " + other + "?"
	}
	return "create the namespace, or " + otherwise + " that exists: " + few(names)
}

func (r *run) nearestService(namespace, name string) string {
	var names []string
	for _, s := range r.Cluster.Services {
		if s.Namespace == namespace {
			names = append(names, s.Name)
		}
		if s.Name == name {
			return "a Service of this name is in namespace " + s.Namespace
		}
	}
	if other, ok := nearest(name, names); ok {
		return "did you mean " + other + "?"
	}
	return "create it, or name one that exists"
}

// plain writes a selector with what it asks beside labels in words.
func plain(s model.Selector) string { return implied.Replace(s.String()) }

var implied = strings.NewReplacer(
	model.NamespaceLabels, "namespace label ", model.NamespaceName, "namespace", model.AccountLabels, "service account label ",
	model.AccountName, "service account", model.PodName, "pod name", model.ClusterName, "cluster", model.InPrefix, "address in ",
)
