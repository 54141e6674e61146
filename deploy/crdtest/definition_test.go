package crdtest

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/install"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	objectvalidation "k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"sigs.k8s.io/yaml"
)

// definition is a kind as the API server serves it, from a file.
type definition struct {
	file   string
	crd    *apiextensions.CustomResourceDefinition
	kind   [2]string // apiVersion and kind
	schema *structuralschema.Structural
	plain  objectvalidation.SchemaValidator
	rules  *cel.Validator
}

var scheme = func() *runtime.Scheme {
	s := runtime.NewScheme()
	install.Install(s)
	return s
}()

// read reads a definition as kubectl and the API server do, and validates it.
// What it returns is one per version.
func read(t *testing.T, file string) []definition {
	t.Helper()
	text, err := os.ReadFile(file)
	must(t, err)
	var v1 apiextensionsv1.CustomResourceDefinition
	if err := yaml.UnmarshalStrict(text, &v1); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	apiextensionsv1.SetDefaults_CustomResourceDefinition(&v1)
	apiextensionsv1.SetDefaults_CustomResourceDefinitionSpec(&v1.Spec)
	crd := &apiextensions.CustomResourceDefinition{}
	must(t, scheme.Convert(&v1, crd, nil))
	for _, err := range validation.ValidateCustomResourceDefinition(context.Background(), crd) {
		if err.Field != "status.storedVersions" { // which the API server fills in
			t.Errorf("%s: %v", file, err)
		}
	}
	var out []definition
	for _, v := range crd.Spec.Versions {
		out = append(out, version(t, file, crd, v.Name))
	}
	return out
}

func version(t *testing.T, file string, crd *apiextensions.CustomResourceDefinition, name string) definition {
	t.Helper()
	d := definition{file: file, crd: crd, kind: [2]string{crd.Spec.Group + "/" + name, crd.Spec.Names.Kind}}
	props, err := apiextensions.GetSchemaForVersion(crd, name)
	must(t, err)
	d.schema, err = structuralschema.NewStructural(props.OpenAPIV3Schema)
	must(t, err)
	d.plain, _, err = objectvalidation.NewSchemaValidator(props.OpenAPIV3Schema)
	must(t, err)
	d.rules = cel.NewValidator(d.schema, true, celconfig.PerCallLimit)
	return d
}

// check is what the API server says to the creation of an object, with the
// strict validation that is kubectl's default.
func (d definition) check(object map[string]any) []string {
	var out []string
	o := runtime.DeepCopyJSON(object)
	for _, unknown := range pruning.PruneWithOptions(o, d.schema, true, structuralschema.UnknownFieldPathOptions{TrackUnknownFieldPaths: true}) {
		out = append(out, "unknown field "+unknown)
	}
	defaulting.PruneNonNullableNullsWithoutDefaults(o, d.schema)
	defaulting.Default(o, d.schema)
	errs := objectvalidation.ValidateCustomResource(nil, o, d.plain)
	errs = append(errs, listtype.ValidateListSetsAndMaps(nil, d.schema, o)...)
	if len(errs) == 0 {
		var rules field.ErrorList
		rules, _ = d.rules.Validate(context.Background(), nil, d.schema, o, nil, celconfig.RuntimeCELCostBudget)
		errs = append(errs, rules...)
	}
	for _, err := range errs {
		out = append(out, err.Error())
	}
	return out
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// definitions are all that are delivered, by apiVersion and kind.
func definitions(t *testing.T) map[[2]string]definition {
	t.Helper()
	files, err := filepath.Glob("../crds/*")
	must(t, err)
	if len(files) == 0 {
		t.Fatal("there are no definitions")
	}
	out := map[[2]string]definition{}
	for _, f := range files {
		for _, d := range read(t, f) {
			if _, twice := out[d.kind]; twice {
				t.Errorf("%s defines %v again", f, d.kind)
			}
			out[d.kind] = d
		}
	}
	return out
}

func TestDefinitions(t *testing.T) {
	for _, d := range definitions(t) {
		t.Run(filepath.Base(d.file)+" "+d.kind[0], func(t *testing.T) {
			if want := d.crd.Spec.Group + "_" + d.crd.Spec.Names.Plural + ".yaml"; filepath.Base(d.file) != want {
				t.Errorf("the file should be %s", want)
			}
			whole(t, "", d.schema)
			for _, c := range d.crd.Spec.Versions[0].AdditionalPrinterColumns {
				if !has(d.schema, c.JSONPath) {
					t.Errorf("column %s shows %s, which the schema has not", c.Name, c.JSONPath)
				}
			}
		})
	}
}

// whole reports every place below which anything would be taken.
func whole(t *testing.T, path string, s *structuralschema.Structural) {
	t.Helper()
	switch {
	case s.XPreserveUnknownFields:
		t.Errorf("%s takes what it does not know", path)
	case s.Type == "object" && len(s.Properties) == 0 && s.AdditionalProperties == nil && path != ".metadata":
		t.Errorf("%s is an object of nothing", path)
	case s.Type == "" && !s.XIntOrString:
		t.Errorf("%s has no type", path)
	}
	for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
		child := s.Properties[name]
		whole(t, path+"."+name, &child)
	}
	if s.Items != nil {
		whole(t, path+"[]", s.Items)
	}
	if s.AdditionalProperties != nil && s.AdditionalProperties.Structural != nil {
		whole(t, path+".*", s.AdditionalProperties.Structural)
	}
}

// filter is the part of a path that chooses items of a list.
var filter = regexp.MustCompile(`\[[^]]*\]`)

func has(s *structuralschema.Structural, path string) bool {
	if path == ".metadata.creationTimestamp" {
		return true
	}
	for name := range strings.SplitSeq(strings.TrimPrefix(filter.ReplaceAllString(path, ""), "."), ".") {
		child, ok := s.Properties[name]
		if !ok {
			return false
		}
		s = &child
		for s.Items != nil {
			s = s.Items
		}
	}
	return true
}

// documents are the objects in a YAML text.
func documents(t *testing.T, text string) []map[string]any {
	t.Helper()
	var out []map[string]any
	for _, document := range strings.Split("\n"+text, "\n---") {
		text, err := yaml.YAMLToJSON([]byte(document))
		if err != nil {
			t.Fatalf("%v in\n%s", err, document)
		}
		var o map[string]any
		must(t, json.Unmarshal(text, &o)) // whole numbers become integers
		if len(o) > 0 {
			out = append(out, o)
		}
	}
	return out
}

// kindOf is an object's apiVersion and kind, and the object's name with them.
func kindOf(o map[string]any) (kind [2]string, name string) {
	kind = [2]string{fmt.Sprint(o["apiVersion"]), fmt.Sprint(o["kind"])}
	meta, _ := o["metadata"].(map[string]any)
	return kind, kind[1] + " " + fmt.Sprint(meta["name"])
}
