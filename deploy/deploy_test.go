// Package deploy_test renders the Helm chart into the plain manifests beside
// it, and holds all of them to the types of the API server.
package deploy_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/template"

	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/sallyport-dev/sallyport/api"
	"github.com/sallyport-dev/sallyport/cni"
	"github.com/sallyport-dev/sallyport/kube"
	"github.com/sallyport-dev/sallyport/model"
)

var update = flag.Bool("update", false, "write the manifests anew")

const generated = "# Made from deploy/chart by `make chart`. Change it there.\n"

// manifests are the files made from the chart, with their values.
var manifests = []struct {
	file, head string
	values     map[string]any
}{
	{"sallyport.yaml", `# Sallyport on every node:
#
#   kubectl apply -f deploy/sallyport.yaml
#   kubectl -n sallyport-system rollout status daemonset/sallyport
`, map[string]any{"createNamespace": true}},
	{"uninstall.yaml", `# Sallyport off every node: the agents are replaced by pods that clean their
# node and are ready then; a node that is down is cleaned when it comes back.
#
#   kubectl apply -f deploy/uninstall.yaml
#   kubectl -n sallyport-system rollout status daemonset/sallyport
#   kubectl delete -f deploy/uninstall.yaml
`, map[string]any{"createNamespace": true, "uninstall": true}},
}

// functions are Helm's, as far as the chart uses them.
var functions = template.FuncMap{
	"fail":  func(message string) (string, error) { return "", errors.New(message) },
	"quote": strconv.Quote,
	"toYaml": func(v any) (string, error) {
		text, err := yaml.Marshal(v)
		return strings.TrimSuffix(string(text), "\n"), err
	},
	"nindent": func(n int, s string) string {
		pad := "\n" + strings.Repeat(" ", n)
		return pad + strings.ReplaceAll(s, "\n", pad)
	},
}

// render is the chart with some values changed, in Helm's order of kinds: what
// others need comes first.
func render(t *testing.T, change map[string]any) string {
	t.Helper()
	values := map[string]any{}
	text, err := os.ReadFile("chart/values.yaml")
	must(t, err)
	must(t, yaml.UnmarshalStrict(text, &values))
	for k := range change {
		if _, ok := values[k]; !ok {
			t.Fatalf("values.yaml has no %s", k)
		}
	}
	maps.Copy(values, change)
	release := map[string]any{"Values": values, "Files": chartFiles{}, "Release": map[string]string{"Name": "sallyport", "Namespace": "sallyport-system"}}
	var parts []string
	for _, name := range []string{"namespace", "rbac", "nodestate", "definitions", "daemonset"} {
		source, err := os.ReadFile(filepath.Join("chart/templates", name+".yaml"))
		must(t, err)
		parsed, err := template.New(name).Funcs(functions).Option("missingkey=error").Parse(string(source))
		must(t, err)
		var out bytes.Buffer
		must(t, parsed.Execute(&out, release))
		if s := strings.TrimSpace(out.String()); s != "" {
			parts = append(parts, s+"\n")
		}
	}
	files, err := filepath.Glob("chart/templates/*.yaml")
	must(t, err)
	if len(files) != 5 {
		t.Errorf("the chart has %d templates, but this renders 5", len(files))
	}
	return strings.Join(parts, "---\n")
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// kinds are the types that the manifests may have.
var kinds = map[string]any{
	"v1 Namespace":      corev1.Namespace{},
	"v1 ServiceAccount": corev1.ServiceAccount{},
	"rbac.authorization.k8s.io/v1 ClusterRole":                         rbacv1.ClusterRole{},
	"rbac.authorization.k8s.io/v1 ClusterRoleBinding":                  rbacv1.ClusterRoleBinding{},
	"apps/v1 DaemonSet":                                                appsv1.DaemonSet{},
	"apiextensions.k8s.io/v1 CustomResourceDefinition":                 apiextensionsv1.CustomResourceDefinition{},
	"admissionregistration.k8s.io/v1 ValidatingAdmissionPolicy":        admissionv1.ValidatingAdmissionPolicy{},
	"admissionregistration.k8s.io/v1 ValidatingAdmissionPolicyBinding": admissionv1.ValidatingAdmissionPolicyBinding{},
}

// objects are the manifest's, by kind. Unknown fields and keys that come twice
// are errors.
func objects(t *testing.T, text string) map[string]any {
	t.Helper()
	out := map[string]any{}
	for _, document := range strings.Split(text, "\n---\n") {
		var m metav1.TypeMeta
		must(t, yaml.Unmarshal([]byte(document), &m))
		example, ok := kinds[m.APIVersion+" "+m.Kind]
		if !ok {
			t.Fatalf("%+v is no kind of ours in\n%s", m, document)
		}
		o := reflect.New(reflect.TypeOf(example)).Interface()
		if err := yaml.UnmarshalStrict([]byte(document), o); err != nil {
			t.Fatalf("%s: %v", m.Kind, err)
		}
		if out[m.Kind] != nil {
			t.Fatalf("there are two of %s", m.Kind)
		}
		out[m.Kind] = o
	}
	return out
}

func TestManifestsAreMadeFromTheChart(t *testing.T) {
	for _, m := range manifests {
		want := generated + "#\n" + m.head + "---\n" + render(t, m.values)
		if *update {
			must(t, os.WriteFile(m.file, []byte(want), 0o644))
		}
		got, err := os.ReadFile(m.file)
		must(t, err)
		if d := cmp.Diff(want, string(got)); d != "" {
			t.Errorf("%s is not what the chart says; run make chart: %s", m.file, d)
		}
		if n := len(objects(t, string(got[len(generated+"#\n"+m.head+"---\n"):]))); n != len(kinds) {
			t.Errorf("%s has %d objects, want %d", m.file, n, len(kinds))
		}
	}
}

func TestValuesArriveWhereTheyBelong(t *testing.T) {
	o := objects(t, render(t, map[string]any{
		"image": "registry:5000/sallyport:v1", "imagePullPolicy": "Always", "clusterName": "prod", "extraArgs": []any{"--pod-cidr=10.0.0.0/8", `a "b"`},
		"cni":       map[string]any{"confDir": "/a/net.d", "binDir": "/a/bin"},
		"resources": map[string]any{"requests": map[string]any{"cpu": "1"}, "limits": map[string]any{"memory": "1Gi"}},
	}))
	if o["Namespace"] != nil {
		t.Error("the chart makes a namespace unasked")
	}
	pod := o["DaemonSet"].(*appsv1.DaemonSet).Spec.Template.Spec
	c := pod.Containers[0]
	if c.Image != "registry:5000/sallyport:v1" || c.ImagePullPolicy != "Always" || !slices.Equal(c.Args[4:], []string{"--cluster-name=prod", "--pod-cidr=10.0.0.0/8", `a "b"`}) ||
		c.Resources.Limits.Memory().String() != "1Gi" || c.Resources.Requests.Cpu().String() != "1" {
		t.Errorf("container %+v", c)
	}
	paths := map[string]string{}
	for _, v := range pod.Volumes {
		paths[v.Name] = v.HostPath.Path
	}
	if paths["cni-conf"] != "/a/net.d" || paths["cni-bin"] != "/a/bin" {
		t.Errorf("volumes %v", paths)
	}
}

// TestTheNodeIsReachedAtTheRightPlaces ties the manifest to the code.
func TestTheNodeIsReachedAtTheRightPlaces(t *testing.T) {
	for _, m := range manifests {
		pod := objects(t, render(t, m.values))["DaemonSet"].(*appsv1.DaemonSet).Spec.Template.Spec
		c := append(pod.InitContainers, pod.Containers...)[0]
		if c.Args[0] != "agent" && c.Args[0] != "cleanup" || *c.SecurityContext.Privileged || !pod.HostNetwork {
			t.Errorf("container %+v", c)
		}
		volumes := map[string]string{}
		for _, v := range pod.Volumes {
			volumes[v.Name] = v.HostPath.Path
		}
		at := map[string]string{}
		for _, v := range c.VolumeMounts {
			at[v.MountPath] = volumes[v.Name]
			if v.MountPropagation != nil && *v.MountPropagation == corev1.MountPropagationBidirectional {
				t.Errorf("%s is bidirectional, which only privileged containers may have", v.MountPath)
			}
		}
		want := map[string]string{}
		for _, path := range []string{"/sys/fs/bpf", filepath.Dir(api.Socket), "/run/netns", cni.BinDir, cni.ConfDir} {
			want[path] = path
		}
		if d := cmp.Diff(want, at); d != "" {
			t.Errorf("%s mounts %s", m.file, d)
		}
	}
}

// TestRolesAreNoWider says what the agent may do, and that nothing is added in
// passing.
func TestRolesAreNoWider(t *testing.T) {
	role := objects(t, render(t, nil))["ClusterRole"].(*rbacv1.ClusterRole)
	may := map[string]string{}
	for _, r := range role.Rules {
		for _, group := range r.APIGroups {
			for _, resource := range r.Resources {
				may[strings.TrimSuffix(resource+"."+group, ".")] = strings.Join(r.Verbs, " ")
			}
		}
		if len(r.NonResourceURLs) != 0 {
			t.Errorf("rule %+v", r)
		}
	}
	want := map[string]string{"nodestates.sallyport.dev": "get list create update patch"}
	for _, read := range kube.Reads() {
		want[read] = "get list watch"
	}
	for _, write := range kube.Writes() {
		want[write] = "patch"
	}
	if d := cmp.Diff(want, may); d != "" {
		t.Error(d)
	}
}

// TestNodeStateFitsItsSchema holds what an agent says to what the API server
// takes: a field that the schema has not would be dropped.
func TestNodeStateFitsItsSchema(t *testing.T) {
	crd := objects(t, render(t, nil))["CustomResourceDefinition"].(*apiextensionsv1.CustomResourceDefinition)
	root := crd.Spec.Versions[0].Schema.OpenAPIV3Schema
	if m := root.Properties["problems"].MaxItems; m == nil || *m != kube.MaxProblems {
		t.Errorf("the schema takes %v problems, an agent says at most %d", m, kube.MaxProblems)
	}
	text, err := json.Marshal(&kube.NodeState{
		Ready: true, Degraded: []string{"d"}, Realised: map[string]string{"pods": "1"}, Revision: 1, Version: "v", Policies: 1, Endpoints: 1,
		Problems: []model.Problem{{
			Severity: model.Warning, Message: "m", Hint: "h",
			Source: model.Source{APIVersion: "a", Kind: "k", Namespace: "n", Name: "m", Field: "f", File: "g", Line: 1, Column: 1},
		}},
	})
	must(t, err)
	var said map[string]any
	must(t, json.Unmarshal(text, &said))
	fits(t, "NodeState", said, *root)
	text, err = json.Marshal(&kube.NodeState{})
	must(t, err)
	must(t, json.Unmarshal(text, &said))
	fits(t, "the zero NodeState", said, *root)
	for _, c := range crd.Spec.Versions[0].AdditionalPrinterColumns {
		name := strings.TrimPrefix(c.JSONPath, ".")
		if _, ok := root.Properties[name]; !ok && name != "metadata.creationTimestamp" {
			t.Errorf("column %s shows %s, which the schema has not", c.Name, c.JSONPath)
		}
	}
}

func fits(t *testing.T, path string, value any, schema apiextensionsv1.JSONSchemaProps) {
	t.Helper()
	if value == nil && schema.Nullable {
		return
	}
	kind := map[reflect.Kind]string{
		reflect.String: "string", reflect.Float64: "integer", reflect.Bool: "boolean", reflect.Map: "object", reflect.Slice: "array",
	}[reflect.ValueOf(value).Kind()]
	if schema.Type != kind {
		t.Errorf("%s is of type %q in the schema and %q in the code", path, schema.Type, kind)
		return
	}
	if len(schema.Enum) > 0 && !slices.ContainsFunc(schema.Enum, func(e apiextensionsv1.JSON) bool { return string(e.Raw) == fmt.Sprintf("%q", value) }) {
		t.Errorf("%s is %v, which the schema does not list", path, value)
	}
	switch v := value.(type) {
	case []any:
		for _, x := range v {
			fits(t, path+"[]", x, *schema.Items.Schema)
		}
	case map[string]any:
		for k, x := range v {
			if a := schema.AdditionalProperties; a != nil {
				fits(t, path+"."+k, x, *a.Schema)
				continue
			}
			fits(t, path+"."+k, x, schema.Properties[k])
		}
	}
}

// metrics are what an agent gives to Prometheus, with their labels.
var metrics = map[string][]string{
	"sallyport_programming_seconds_bucket": {"le"},
	"sallyport_rows":                       nil,
	"sallyport_identities":                 nil,
	"sallyport_table_used":                 {"table"},
	"sallyport_table_size":                 {"table"},
	"sallyport_events_lost_total":          nil,
	"sallyport_packets_total":              {"reason"},
	"sallyport_denied_total":               {"policy", "direction", "reason"},
	"sallyport_drift_total":                nil,
	"sallyport_ready":                      nil,
	"sallyport_policies":                   nil,
	"sallyport_endpoints":                  {"where"},
	"sallyport_problems":                   {"severity"},
	"sallyport_revision":                   nil,
	"sallyport_api_contact_seconds":        {"resource"},
}

func TestTheDashboardShowsEveryMetric(t *testing.T) {
	text, err := os.ReadFile("dashboards/sallyport.json")
	must(t, err)
	var board struct {
		Panels []struct {
			ID          int
			Title       string
			Description string
			GridPos     struct{ X, Y, W, H int }
			Targets     []struct{ Expr, LegendFormat string }
		}
	}
	must(t, json.Unmarshal(text, &board))
	shown := map[string]bool{}
	by, name, label := regexp.MustCompile(`by \(([^)]*)\)`), regexp.MustCompile(`sallyport_[a-z_]+`), regexp.MustCompile(`{{(\w+)}}`)
	for i, p := range board.Panels {
		if p.ID != i+1 || p.Description == "" || len(p.Targets) == 0 || p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("panel %+v", p)
		}
		for _, q := range p.Targets {
			labels := []string{"instance"}
			for _, m := range name.FindAllString(q.Expr, -1) {
				if _, ok := metrics[m]; !ok {
					t.Errorf("%s shows %s, which no agent gives", p.Title, m)
				}
				shown[m] = true
				labels = append(labels, metrics[m]...)
			}
			used := label.FindAllStringSubmatch(q.LegendFormat, -1)
			for _, m := range by.FindAllStringSubmatch(q.Expr, -1) {
				for _, l := range strings.Split(m[1], ", ") {
					used = append(used, []string{"", l})
				}
			}
			for _, l := range used {
				if !slices.Contains(labels, l[1]) {
					t.Errorf("%s uses the label %s, which %s has not", p.Title, l[1], q.Expr)
				}
			}
		}
	}
	for m := range metrics {
		if !shown[m] {
			t.Errorf("no panel shows %s", m)
		}
	}
}
