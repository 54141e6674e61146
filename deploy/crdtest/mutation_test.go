package crdtest

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/sallyport-dev/sallyport/manifest"
	"github.com/sallyport-dev/sallyport/model"
	"github.com/sallyport-dev/sallyport/scenarios"
)

// scalars are what a mutation writes in place of something else.
var scalars = []any{
	"", "x", "Accept", "Allow", "Deny", "Pass", "Admin", "Baseline", "TCP", "tcp", "10.0.0.0/8", "10.0.0.1", "::/0", "::ffff:10.0.0.0/104", "example.com", "*.example.com", "*",
	"no such label!", "http", "HTTP", "default", int64(0), int64(1), int64(80), int64(1000), int64(1001), int64(65535), int64(65536), int64(-1), true, nil,
	map[string]any{}, []any{}, map[string]any{"x": "y"}, []any{"10.0.0.0/8"}, []any{map[string]any{}},
}

func scalar(r *rand.Rand) any { return runtime.DeepCopyJSONValue(scalars[r.IntN(len(scalars))]) }

// fields are names that a mutation adds.
var fields = []string{
	"namespaces", "pods", "nodes", "networks", "domainNames", "namespaceSelector", "podSelector", "matchLabels", "matchExpressions", "tcp", "udp", "sctp",
	"destinationPort", "destinationNamedPort", "number", "range", "start", "end", "portNumber", "portRange", "namedPort", "protocol", "port", "name", "action", "priority",
	"tier", "subject", "ingress", "egress", "from", "to", "ports", "protocols", "surprise",
}

// mutate changes one place of the object.
func mutate(r *rand.Rand, v any) any {
	switch v := v.(type) {
	case map[string]any:
		keys := slices.Sorted(maps.Keys(v))
		switch n := r.IntN(24); {
		case len(keys) == 0 || n == 0:
			v[fields[r.IntN(len(fields))]] = scalar(r)
		case n == 1:
			delete(v, keys[r.IntN(len(keys))])
		case n == 2:
			return scalar(r)
		default:
			k := keys[r.IntN(len(keys))]
			v[k] = mutate(r, v[k])
		}
	case []any:
		switch n := r.IntN(24); {
		case n == 0 || len(v) == 0:
			return append(v, scalar(r))
		case n == 1:
			return append(v, runtime.DeepCopyJSONValue(v[r.IntN(len(v))]))
		case n == 2:
			return v[1:]
		default:
			i := r.IntN(len(v))
			v[i] = mutate(r, v[i])
		}
	default:
		return scalar(r)
	}
	return v
}

// finer says whether the decoder's error is one that no schema looks for: how
// the parts of a selector go together, and keys.
func finer(p model.Problem) bool {
	return strings.Contains(p.Source.Field, "matchExpressions") || strings.Contains(p.Source.Field, "matchLabels") && strings.Contains(p.Message, "label key") ||
		strings.Contains(p.Message, "no valid port name") // a letter must be in it
}

// TestMutations changes the policies of the scenarios at random: whatever the
// definition rejects, the decoder has an error for, and the other way round.
func TestMutations(t *testing.T) {
	const group = "policy.networking.k8s.io/"
	defined := definitions(t)
	all, err := scenarios.Load(scenarios.Files)
	must(t, err)
	var seeds []map[string]any
	for _, s := range all {
		for _, file := range s.Order {
			for _, o := range documents(t, string(s.Files[file])) {
				if kind, _ := kindOf(o); strings.HasPrefix(kind[0], group) {
					seeds = append(seeds, o)
				}
			}
		}
	}
	r := rand.New(rand.NewPCG(1, 2))
	const mutations = 5_000
	rejected, wrong := 0, 0
	for n := range mutations {
		o := runtime.DeepCopyJSON(seeds[r.IntN(len(seeds))])
		kind, _ := kindOf(o)
		for range 1 + r.IntN(2) {
			o["spec"] = mutate(r, o["spec"])
		}
		text, err := yaml.Marshal(o)
		must(t, err)
		// What is null among a selector's values, Kubernetes takes elsewhere for "".
		said := slices.DeleteFunc(defined[kind].check(o), func(s string) bool { return strings.Contains(s, "values[") && strings.Contains(s, "null") })
		var errs []model.Problem
		for _, p := range manifest.Parse(map[string][]byte{"p": text}, []string{"p"}, manifest.Options{}).Problems {
			if p.Severity == model.Error {
				errs = append(errs, p)
			}
		}
		onlyFiner := len(errs) > 0 && !slices.ContainsFunc(errs, func(p model.Problem) bool { return !finer(p) })
		if len(said) > 0 {
			rejected++
		}
		if (len(said) > 0) != (len(errs) > 0) && !(len(said) == 0 && onlyFiner) {
			if wrong++; wrong <= 10 {
				t.Errorf("mutation %d:\n%s\nthe definition: %s\nthe decoder: %s", n, text, strings.Join(said, "; "), fmt.Sprint(errs))
			}
		}
	}
	t.Logf("%d of %d rejected, %d differences", rejected, mutations, wrong)
}
