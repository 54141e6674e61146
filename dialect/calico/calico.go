// Package calico decodes the policies of projectcalico.org, and what they
// refer to: tiers, profiles, network sets and host endpoints.
//
// Each object has two forms, as it is served (projectcalico.org/v3) and as it
// is stored (crd.projectcalico.org/v1); both mean the same. A rule with an
// error allows nothing; one that may have denied denies everybody. A policy
// whose subject, tier or order cannot be read closes all the pods that it may
// have meant. The package is pure; its tests are tables of objects and the
// scenarios calico-* and invalid-calico-*.
package calico

import (
	"encoding/json"
	"maps"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/sallyport-dev/sallyport/dialect/field"
	"github.com/sallyport-dev/sallyport/model"
)

// The two forms of every object.
const (
	Served = "projectcalico.org/v3"
	Stored = "crd.projectcalico.org/v1"
)

// Decoders lists what the package decodes, by apiVersion and kind.
var Decoders = map[[2]string]func(field.Object) (model.Parts, []model.Problem){}

func init() {
	for kind, decode := range map[string]func(*object) model.Parts{
		"NetworkPolicy":                 func(o *object) model.Parts { return policy(o, shape{}) },
		"GlobalNetworkPolicy":           func(o *object) model.Parts { return policy(o, shape{global: true}) },
		"StagedNetworkPolicy":           func(o *object) model.Parts { return policy(o, shape{staged: true}) },
		"StagedGlobalNetworkPolicy":     func(o *object) model.Parts { return policy(o, shape{staged: true, global: true}) },
		"StagedKubernetesNetworkPolicy": stagedKubernetes,
		"Tier":                          tier,
		"Profile":                       profile,
		"NetworkSet":                    networkSet,
		"GlobalNetworkSet":              networkSet,
		"HostEndpoint":                  hostEndpoint,
	} {
		for _, form := range []string{Served, Stored} {
			Decoders[[2]string{form, kind}] = func(f field.Object) (model.Parts, []model.Problem) {
				o := open(f)
				return decode(o), o.problems.List
			}
		}
	}
}

// object is one object while it is decoded.
type object struct {
	source   model.Source
	labels   map[string]string
	root     field.Cursor
	spec     field.Cursor
	whole    bool // nothing stands beside spec that is not understood
	problems *field.Problems
}

// open reads what all the kinds have in common. Fields of the object beside
// these are reported.
func open(f field.Object) *object {
	if strings.HasSuffix(f.Source.Kind, "NetworkPolicy") {
		scratch := field.Open(f, &field.Problems{})
		f.Source.Name = Name(f.Source.Name, scratch.Field("spec").Field("tier").Value())
	}
	o := &object{source: f.Source, problems: &field.Problems{}}
	o.root = field.Open(f, o.problems)
	o.spec = o.root.Field("spec")
	o.source.Field = ""
	o.labels = field.CheckMetadata(o.root, o.source)
	if f.Source.APIVersion == Stored {
		o.storedLabels()
	}
	for _, known := range []string{"apiVersion", "kind", "status"} {
		o.root.Field(known)
	}
	o.whole = o.root.Done()
	return o
}

// storedMetadata is the annotation of a stored object that holds its labels.
const storedMetadata = "projectcalico.org/metadata"

// storedLabels adds the labels that a stored object has in an annotation.
func (o *object) storedLabels() {
	at := o.root.Field("metadata").Field("annotations").Field(storedMetadata)
	if at.Value() == "" {
		return
	}
	var meta struct{ Labels map[string]string }
	if err := json.Unmarshal([]byte(at.Value()), &meta); err != nil {
		at.Error("cannot be parsed: "+err.Error(), "it holds the object's labels as JSON")
		return
	}
	o.labels = maps.Clone(o.labels)
	for k, v := range meta.Labels {
		if o.labels == nil {
			o.labels = map[string]string{}
		}
		o.labels[k] = v
	}
}

// Name is the name of a policy in its tier as its author calls it. Stored
// objects have "default." before the names in the default tier, and Kubernetes'
// own policies are listed as "knp.default.".
func Name(stored, tier string) string {
	if tier != "" && tier != model.TierDefault {
		return stored
	}
	for _, prefix := range []string{"knp.default.", "default."} {
		if name, ok := strings.CutPrefix(stored, prefix); ok && name != "" {
			return name
		}
	}
	return stored
}

// clean runs f and says whether it reported no Error.
func (o *object) clean(f func()) bool {
	before := len(o.problems.List)
	f()
	return !model.HasErrors(o.problems.List[before:])
}

// mapping says whether the cursor is a mapping to read; absent is one without
// fields.
func mapping(c field.Cursor) bool { return !c.Present() || c.Mapping() }

// length is how long a list is.
func length(list field.Cursor) int {
	n := 0
	list.EachNode(func(*yaml.Node) { n++ })
	return n
}

// atMost reports a list that the API server would not take.
func atMost(items []field.Cursor, n int, list field.Cursor) {
	if len(items) > n {
		list.Error("has "+itoa(len(items))+" items", "at most "+itoa(n))
	}
}
