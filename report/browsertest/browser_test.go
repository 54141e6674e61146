// Package browsertest holds the page of sallyport matrix -o html, as a real
// browser shows it, against the engine.
package browsertest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/cli"
	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/engine/synth"
	"github.com/sallyport-dev/sallyport/manifest"
	"github.com/sallyport-dev/sallyport/model"
	"github.com/sallyport-dev/sallyport/report"
)

// job is what the browser is to do with a page; seen is what it saw there.
type job struct {
	Page     string              `json:"page"`
	Scheme   string              `json:"scheme"`
	Explain  bool                `json:"explain,omitempty"`
	Searches []map[string]string `json:"searches,omitempty"`
	Mouse    string              `json:"mouse,omitempty"`
	Shots    string              `json:"shots,omitempty"`
}

type seen struct {
	Console, Requests, Notes []string
	Background               string
	Foreign                  int
	Cells                    []square
	Explained                []explained
	Searched                 map[string]struct {
		Cells    []square
		Vertices []string
	}
	Mouse *struct {
		Clicked, Right, Focused, Slash, Hash, Toggled string
		Shut                                          bool
	}
	Graph *struct {
		Arcs, Nodes []struct{ Title, Opens string }
		Namespaces  []string
		Outside     int
	}
}

type square struct{ Title, Class, Text string }

type explained struct {
	Cell, Title, Verdict, Selected, Command string
	Doors                                   []struct {
		Title    string
		Says     []struct{ Verdict, Ports, Why string }
		Policies []string
	}
}

// browse has a browser look at the pages. Where there is none the test is
// skipped, unless it was asked for (make browser).
func browse(t *testing.T, jobs []job) []seen {
	t.Helper()
	if os.Getenv("SALLYPORT_REQUIRE_BROWSER") == "" {
		t.Skip("SKIPPED: no browser was asked for; make browser installs one and runs this")
	}
	chromium, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatal(err)
	}
	shots := os.Getenv("SALLYPORT_SHOTS")
	for i := range jobs {
		if shots != "" {
			jobs[i].Shots = filepath.Join(shots, fmt.Sprintf("%s-%d-%d-%s", t.Name(), len(jobs[i].Page), i, jobs[i].Scheme))
		}
	}
	in, err := json.Marshal(map[string]any{"executable": chromium, "jobs": jobs})
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command("node", "browse.mjs")
	var stdout, stderr bytes.Buffer
	c.Stdin, c.Stdout, c.Stderr = bytes.NewReader(in), &stdout, &stderr
	if err := c.Run(); err != nil {
		t.Fatalf("%v\n%s", err, stderr.String())
	}
	var out []seen
	if err := json.Unmarshal(stdout.Bytes(), &out); err != nil {
		t.Fatalf("%v\n%s", err, stdout.String())
	}
	for i, s := range out {
		if len(s.Console) > 0 || len(s.Requests) > 0 || s.Foreign != 0 {
			t.Errorf("%s: console %q, requests %q, %d elements that may load something", jobs[i].Page, s.Console, s.Requests, s.Foreign)
		}
		if dark := s.Background != "rgb(255, 255, 255)"; dark != (jobs[i].Scheme == "dark") {
			t.Errorf("%s in %s has the background %s", jobs[i].Page, jobs[i].Scheme, s.Background)
		}
	}
	return out
}

// pageFrom prints the page of the manifests, as users do, and compiles them.
func pageFrom(t *testing.T, folder string, args ...string) (page string, m *engine.Matrix) {
	t.Helper()
	var out, errs bytes.Buffer
	if code := cli.Run(append([]string{"matrix", "-f", folder, "-o", "html"}, args...), nil, &out, &errs); code != 0 {
		t.Fatalf("exit %d: %s", code, errs.String())
	}
	r, err := manifest.Load([]string{folder}, nil, manifest.Options{Nodes: 1})
	if err != nil {
		t.Fatal(err)
	}
	return write(t, out.Bytes()), engine.Compile(r.Cluster)
}

func write(t *testing.T, page []byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "matrix.html")
	if err := os.WriteFile(file, page, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// inBoth looks at the page in light and dark.
func inBoth(j job) []job {
	light, dark := j, j
	light.Scheme, dark.Scheme = "light", "dark"
	return []job{light, dark}
}

func TestEveryCellIsTheEngines(t *testing.T) {
	for _, folder := range []string{"../../cli/demo", "testdata/mixed"} {
		page, m := pageFrom(t, folder, "--external")
		ends := parties(m)
		for n, s := range browse(t, inBoth(job{Page: page, Explain: true})) {
			if len(s.Cells) != len(ends)*len(ends) || len(s.Explained) != len(s.Cells) {
				t.Fatalf("%s: %d cells, %d explained, for %d ends", folder, len(s.Cells), len(s.Explained), len(ends))
			}
			for i, c := range s.Cells {
				src, dst, text := ofTitle(t, c.Title)
				from, to := ends[src], ends[dst]
				if want := expected(m, from, to); text != want {
					t.Errorf("%s: the cell says %q, the engine %q", c.Title, text, want)
				}
				x := s.Explained[i]
				if x.Cell != c.Title || x.Title != src+" → "+dst || x.Selected != "true" {
					t.Errorf("%s: pressing it explains %+v", c.Title, x)
				}
				if src != dst && (from.Endpoint != nil || to.Endpoint != nil) && sameFamily(from, to) {
					checkDoors(t, m, from, to, x)
					if n == 0 {
						checkCommand(t, folder, x, text != "nothing")
					}
				}
			}
		}
	}
}

// parties are the rows and columns by name.
func parties(m *engine.Matrix) map[string]engine.Party {
	out := map[string]engine.Party{}
	for _, e := range m.Endpoints() {
		out[e.Key()] = engine.Party{Endpoint: e}
	}
	for _, a := range m.Outside() {
		if a.Is6() { // no pod of the inputs has such an address
			continue
		}
		out[m.PrefixOf(a).String()] = engine.Party{Addr: a}
	}
	return out
}

func ofTitle(t *testing.T, title string) (src, dst, text string) {
	t.Helper()
	src, rest, ok1 := strings.Cut(title, " → ")
	dst, text, ok2 := strings.Cut(rest, ": ")
	if strings.HasPrefix(rest, "::/0: ") {
		dst, text = "::/0", strings.TrimPrefix(rest, "::/0: ")
	}
	if !ok1 || !ok2 {
		t.Fatalf("odd title %q", title)
	}
	return src, dst, text
}

func sameFamily(a, b engine.Party) bool {
	if a.Endpoint != nil {
		a, b = b, a
	}
	if a.Endpoint != nil {
		return true
	}
	_, ok := model.SameFamily(b.Endpoint.IPs, a.Addr)
	return ok
}

func expected(m *engine.Matrix, from, to engine.Party) string {
	switch {
	case from.Endpoint == nil && to.Endpoint == nil:
		return "both are outside the cluster: nobody judges here"
	case from == to:
		return "a pod always reaches itself"
	case !sameFamily(from, to):
		return "they have no addresses of one family"
	}
	if text := m.Connections(from, to).String(); text != "" {
		return text
	}
	return "nothing"
}

// keys are ports that policies and pods of the inputs name, and some that nobody does.
var keys = []model.PortKey{
	model.PortKeyOf(model.TCP, 80), model.PortKeyOf(model.TCP, 443), model.PortKeyOf(model.TCP, 5432), model.PortKeyOf(model.TCP, 8080),
	model.PortKeyOf(model.TCP, 8443), model.PortKeyOf(model.UDP, 53), model.PortKeyOf(model.TCP, 53), model.PortKeyOf(model.UDP, 9), model.PortKeyOf(model.SCTP, 7), model.PortKeyOf(model.ICMP, 2048),
}

// checkDoors compares what the panel says of both doors with the engine's verdict, port by port.
func checkDoors(t *testing.T, m *engine.Matrix, from, to engine.Party, x explained) {
	t.Helper()
	if len(x.Doors) < 2 {
		t.Fatalf("%s: only %d doors are explained", x.Title, len(x.Doors))
	}
	for _, key := range keys {
		v := m.Verdict(from, to, key)
		e := report.Explain("", "", key, v)
		for i, d := range []report.Door{e.Egress, e.Ingress} {
			got := x.Doors[i]
			if d.Reason == string(engine.NoDoor) {
				if len(got.Says)+len(got.Policies) > 0 {
					t.Errorf("%s: who is outside has a door: %+v", x.Title, got)
				}
				continue
			}
			says := slices.IndexFunc(got.Says, func(s struct{ Verdict, Ports, Why string }) bool { return covers(s.Ports, key) })
			if says < 0 {
				says = slices.IndexFunc(got.Says, func(s struct{ Verdict, Ports, Why string }) bool { return s.Ports == "everything else" })
			}
			if says < 0 {
				t.Fatalf("%s, %s: nothing is said about %s: %+v", x.Title, got.Title, key, got.Says)
			}
			s := got.Says[says]
			if s.Verdict != d.Verdict || d.Rule != nil && !strings.HasSuffix(s.Why, d.Rule.String()) || d.Rule == nil && strings.Contains(s.Why, "decided by") {
				t.Errorf("%s, %s: of %s the page says %+v, the engine %+v", x.Title, got.Title, key, s, d)
			}
			if len(got.Policies) != len(d.Policies) {
				t.Errorf("%s, %s: policies %q, want %q", x.Title, got.Title, got.Policies, d.Policies)
				continue
			}
			for i, p := range d.Policies {
				if !strings.HasPrefix(got.Policies[i], p+" (") {
					t.Errorf("%s, %s: policy %q, want %q", x.Title, got.Title, got.Policies[i], p)
				}
			}
		}
	}
}

// checkCommand runs the command that the panel shows.
func checkCommand(t *testing.T, folder string, x explained, open bool) {
	t.Helper()
	args := strings.Fields(strings.Replace(x.Command, "MANIFESTS", folder, 1))
	if len(args) < 5 || args[0] != "sallyport" {
		t.Fatalf("%s: the command is %q", x.Title, x.Command)
	}
	var out, errs bytes.Buffer
	if code := cli.Run(args[1:], nil, &out, &errs); (code == cli.ExitFine) != open || code > cli.ExitFindings {
		t.Errorf("%s: %s: exit %d, %s", x.Title, x.Command, code, errs.String())
	}
}

// covers says whether a text such as "TCP 80,443; UDP 53" speaks of the port.
func covers(text string, key model.PortKey) bool {
	if text == "All" {
		return true
	}
	for _, part := range strings.Split(text, "; ") {
		protocol, list, _ := strings.Cut(part, " ")
		if protocol != key.Protocol().String() {
			continue
		}
		if list == "" {
			return true
		}
		for _, r := range strings.Split(list, ",") {
			first, last, ok := strings.Cut(r, "-")
			if !ok {
				last = first
			}
			a, _ := strconv.Atoi(first)
			b, _ := strconv.Atoi(last)
			if a <= int(key.Port()) && int(key.Port()) <= b {
				return true
			}
		}
	}
	return false
}

func TestSearchMouseAndKeys(t *testing.T) {
	page, _ := pageFrom(t, "../../cli/demo")
	searches := []map[string]string{{"from": "front", "to": "data"}, {"q": "database"}, {"q": "nobody-has-this"}}
	for _, s := range browse(t, inBoth(job{Page: page, Searches: searches, Mouse: "secure-app/backend → secure-app/database"})) {
		of := func(i int) (titles, vertices []string) {
			key, _ := json.Marshal(searches[i])
			for _, c := range s.Searched[string(key)].Cells {
				titles = append(titles, c.Title)
			}
			return titles, s.Searched[string(key)].Vertices
		}
		if got, _ := of(0); !slices.Equal(got, []string{"secure-app/frontend → secure-app/database: nothing"}) {
			t.Errorf("from frontend to database are %q", got)
		}
		got, vertices := of(1)
		if len(got) != 4-2 || slices.ContainsFunc(append(got, vertices...), func(s string) bool { return strings.Contains(s, "frontend") }) || len(vertices) != 2 {
			t.Errorf("database shows %q, %q", got, vertices)
		}
		if got, vertices := of(2); len(got)+len(vertices) > 0 {
			t.Errorf("what nobody has shows %q, %q", got, vertices)
		}
		m := s.Mouse
		if m.Clicked != "secure-app/backend → secure-app/database" || m.Right != "secure-app/backend → secure-app/frontend" || !strings.HasPrefix(m.Focused, m.Right) ||
			!m.Shut || m.Slash != "q" || m.Hash != "#from=web" || m.Toggled == s.Background {
			t.Errorf("by mouse and keys: %+v", m)
		}
		if len(s.Graph.Arcs) != 2 || len(s.Graph.Nodes) != 3 || s.Graph.Outside > 0 || !slices.Equal(s.Graph.Namespaces, []string{"secure-app"}) {
			t.Errorf("the graph has %+v", s.Graph)
		}
		for _, a := range s.Graph.Arcs {
			if !strings.HasPrefix(a.Title, a.Opens+": ") {
				t.Errorf("the line %q opens %q", a.Title, a.Opens)
			}
		}
	}
}

// TestHostileNames: what manifests say is never markup.
func TestHostileNames(t *testing.T) {
	dir := filepath.Join(t.TempDir(), `</script><img src=x onerror=alert(1)>"'&`)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(hostile, "EVIL", `</script><script>alert(1)</script><!--`)
	if err := os.WriteFile(filepath.Join(dir, "a.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	page, m := pageFrom(t, filepath.Dir(dir))
	for _, s := range browse(t, inBoth(job{Page: page, Explain: true})) {
		if n := len(m.Endpoints()); len(s.Cells) != n*n || n < 3 {
			t.Errorf("%d cells of %d pods", len(s.Cells), n)
		}
		if !strings.Contains(fmt.Sprint(s.Explained), `</script><img src=x onerror=alert(1)>"'&`) {
			t.Errorf("the file's name is not shown: %v", s.Explained)
		}
	}
}

func TestLargeClustersFold(t *testing.T) {
	m := engine.Compile(synth.Scale(synth.Params{Pods: 600, Workloads: 120, Policies: 300, Seed: 7}))
	var p report.Page
	for i, g := range m.Groups() {
		e := g.Endpoints[0]
		p.Units = append(p.Units, report.Unit{Party: engine.Party{Endpoint: e}, Pods: len(g.Endpoints)})
		p.Nodes = append(p.Nodes, report.Node{Name: e.Namespace + "/" + e.Workload.Name, Namespace: e.Namespace, Source: true, Destination: true, Unit: i, Pods: len(g.Endpoints)})
	}
	pairs := map[string]int{}
	for pair := range m.EachPair() {
		pairs[p.Nodes[pair[0]].Namespace+" → "+p.Nodes[pair[1]].Namespace]++
	}
	var jobs []job
	for _, l := range []report.Limits{report.DefaultLimits, {Doors: 10, Cells: 1 << 30, Edges: 10}, {Doors: 10, Cells: 10, Edges: 10}} {
		sized := report.Page{Matrix: m, Nodes: p.Nodes, Units: p.Units, Limits: &l}
		for pair, ports := range m.EachPair() {
			sized.Add(report.Cell{From: pair[0], To: pair[1], Ports: ports})
		}
		var out bytes.Buffer
		if err := sized.HTML(&out); err != nil {
			t.Fatal(err)
		}
		jobs = append(jobs, job{Page: write(t, out.Bytes()), Scheme: "dark"})
	}
	for i, s := range browse(t, jobs) {
		if i > 0 == (len(s.Notes) < 2) {
			t.Errorf("page %d says %q", i, s.Notes)
		}
		for _, c := range s.Cells {
			src, dst, text := ofTitle(t, c.Title)
			n := pairs[src+" → "+dst]
			if i < 2 && !strings.HasPrefix(text, fmt.Sprintf("%d of ", n)) || i == 2 && (text == "nothing") != (n == 0) {
				t.Errorf("page %d, %s; the engine has %d pairs", i, c.Title, n)
			}
		}
		if len(s.Cells) != 9 {
			t.Errorf("page %d: %d cells for 3 namespaces", i, len(s.Cells))
		}
	}
}

const hostile = `apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {team: "EVIL"}}
---
apiVersion: v1
kind: Pod
metadata: {name: "aEVIL", namespace: shop, labels: {app: "EVIL"}}
---
apiVersion: v1
kind: Pod
metadata: {name: "b' onclick='alert(1)", namespace: shop, labels: {app: b}}
---
apiVersion: v1
kind: Pod
metadata: {name: "c\u2028&lt;\"", namespace: shop, labels: {app: c}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: shop}
spec:
  podSelector: {matchLabels: {app: c}}
  policyTypes: [Ingress]
  ingress: [{from: [{podSelector: {matchLabels: {app: b}}}]}]
`
