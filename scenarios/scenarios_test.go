package scenarios_test

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/model"
	"github.com/sallyport-dev/sallyport/policytest"
	"github.com/sallyport-dev/sallyport/report"
	"github.com/sallyport-dev/sallyport/scenarios"
)

var update = flag.Bool("update", false, "rewrite problems.txt, matrix.csv and explain-*.txt; read the difference before committing it")

func load(t *testing.T) []*scenarios.Scenario {
	t.Helper()
	all, err := scenarios.Load(scenarios.Files)
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 200 {
		t.Fatalf("only %d scenarios", len(all))
	}
	return all
}

func runAll(t *testing.T, e scenarios.Executor) {
	for _, s := range load(t) {
		t.Run(s.Name, func(t *testing.T) { scenarios.Run(t, s, e) })
	}
}

func TestEngine(t *testing.T)    { runAll(t, scenarios.Engine{}) }
func TestVerdicts(t *testing.T)  { runAll(t, scenarios.Verdicts{}) }
func TestReference(t *testing.T) { runAll(t, scenarios.Reference{}) }
func TestFake(t *testing.T)      { runAll(t, Fake{}) }

// A case that holds whatever the verdict is would prove nothing: each executor
// must find that the opposite of every check is false.
func TestTheOppositeOfEveryCheckIsNoticed(t *testing.T) {
	for _, e := range []scenarios.Executor{scenarios.Engine{}, scenarios.Verdicts{}, scenarios.Reference{}, Fake{}} {
		for _, s := range load(t) {
			world, m := e.Start(t, s), engine.Compile(s.Cluster)
			for i := range s.Cases {
				opposite(t, s, m, world, s.Cases[i])
			}
		}
	}
}

func opposite(t *testing.T, s *scenarios.Scenario, m *engine.Matrix, w scenarios.World, c policytest.Case) {
	t.Helper()
	checks, err := policytest.Expand(m, &c)
	if err != nil {
		t.Fatalf("%s: %v", s.Name, err)
	}
	c.Allow = !c.Allow
	for _, k := range checks {
		differs, err := w.Differs(k)
		if err != nil || len(differs) == 0 {
			t.Errorf("%s: %s: the opposite of %q passes (%v)", s.Name, c.Source.Place(), c.Name, err)
		}
	}
}

func TestProblems(t *testing.T) {
	for _, s := range load(t) {
		t.Run(s.Name, func(t *testing.T) {
			var got strings.Builder
			for _, p := range s.Problems {
				got.WriteString(p.Error() + "\n")
			}
			if *update && s.Files["problems.txt"] != nil {
				rewrite(t, s, "problems.txt", got.String())
				return
			}
			if d := cmp.Diff(string(s.Files["problems.txt"]), got.String()); d != "" {
				t.Errorf("problems (-want +got):\n%s", d)
			}
		})
	}
}

func TestMatrix(t *testing.T) {
	for _, s := range load(t) {
		want, ok := s.Files["matrix.csv"]
		if !ok {
			continue
		}
		t.Run(s.Name, func(t *testing.T) { golden(t, s, "matrix.csv", want, matrix(t, s)) })
	}
}

// matrix prints every pair of different pods, one by one.
func matrix(t *testing.T, s *scenarios.Scenario) string {
	t.Helper()
	m := engine.Compile(s.Cluster)
	var edges []report.Edge
	for _, from := range m.Endpoints() {
		for _, to := range m.Endpoints() {
			ports := m.Connections(engine.Party{Endpoint: from}, engine.Party{Endpoint: to})
			if from != to && len(ports) > 0 {
				edges = append(edges, report.Edge{Source: from.Key(), Destination: to.Key(), Ports: ports})
			}
		}
	}
	var out bytes.Buffer
	if err := report.Matrix(&out, "csv", edges); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestExplanations(t *testing.T) {
	for _, s := range load(t) {
		for name, want := range s.Files {
			if strings.HasPrefix(name, "explain-") {
				t.Run(s.Name+"/"+name, func(t *testing.T) { golden(t, s, name, want, explain(t, s, want)) })
			}
		}
	}
}

// explain answers the command in the file's first line.
func explain(t *testing.T, s *scenarios.Scenario, file []byte) string {
	t.Helper()
	command, _, _ := strings.Cut(string(file), "\n")
	var src, dst, port string
	if _, err := fmt.Sscanf(command, "$ sallyport explain %s %s %s", &src, &dst, &port); err != nil {
		t.Fatalf("first line %q: %v", command, err)
	}
	m := engine.Compile(s.Cluster)
	p, err := policytest.ParsePort(port, model.TCP)
	if err != nil {
		t.Fatal(err)
	}
	to := party(t, m, dst, engine.Party{})
	from := party(t, m, src, to)
	var out bytes.Buffer
	e := report.Explain(src, dst, p.Interval.First, m.Verdict(from, to, p.Interval.First))
	e.AddTiers(m, from, to, p.Interval.First)
	e.AddNearMisses(m, from, to, p.Interval.First)
	e.Text(&out, report.Paint{})
	return command + "\n" + out.String()
}

// party is the one end that the text means; peer is the other, whose node "node" is.
func party(t *testing.T, m *engine.Matrix, text string, peer engine.Party) engine.Party {
	t.Helper()
	parties, err := policytest.ParseSide(text).Parties(m, []engine.Party{peer})
	if err != nil {
		t.Fatal(err)
	}
	return parties[0]
}

func golden(t *testing.T, s *scenarios.Scenario, name string, want []byte, got string) {
	t.Helper()
	if *update {
		rewrite(t, s, name, got)
		return
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("%s (-want +got):\n%s", name, d)
	}
}

// rewrite replaces one file of the scenario's archive.
func rewrite(t *testing.T, s *scenarios.Scenario, name, text string) {
	t.Helper()
	path := s.Name + ".txtar"
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	a := scenarios.ParseArchive(data)
	for i := range a.Files {
		if a.Files[i].Name == name {
			a.Files[i].Data = []byte(text)
		}
	}
	if err := os.WriteFile(path, a.Format(), 0o644); err != nil {
		t.Fatal(err)
	}
}

// A lab must be able to bring every scenario up with real packets.
func TestScenariosAreSmall(t *testing.T) {
	for _, s := range load(t) {
		if n := len(s.Cluster.Endpoints); n > 8 {
			t.Errorf("%s has %d pods, more than 8", s.Name, n)
		}
	}
}

func TestArchiveIsWrittenAsItIsRead(t *testing.T) {
	text := "why\n-- a --\n1\n\n-- b.txt --\n-- c --\n--no marker --\n-- neither\n2"
	a := scenarios.ParseArchive([]byte(text))
	want := &scenarios.Archive{Comment: []byte("why\n"), Files: []scenarios.File{
		{Name: "a", Data: []byte("1\n\n")}, {Name: "b.txt"}, {Name: "c", Data: []byte("--no marker --\n-- neither\n2\n")},
	}}
	if d := cmp.Diff(want, a); d != "" {
		t.Errorf("archive (-want +got):\n%s", d)
	}
	if got := string(a.Format()); got != text+"\n" {
		t.Errorf("written as %q", got)
	}
}

func TestLoadRefuses(t *testing.T) {
	good := "says something\n-- cluster.yaml --\n-- test.yaml --\napiVersion: sallyport.dev/v1alpha1\nkind: PolicyTest\n" +
		"metadata: {name: t}\nspec: {cases: [{from: 1.2.3.4, to: 5.6.7.8, expect: allow}]}\n"
	for name, c := range map[string]struct{ archive, complaint string }{
		"no comment":    {strings.TrimPrefix(good, "says something\n"), "does not say what it shows"},
		"no cluster":    {strings.Replace(good, "-- cluster.yaml --\n", "", 1), "no cluster.yaml"},
		"no test":       {"x\n-- cluster.yaml --\n", "no test.yaml"},
		"no case":       {strings.Replace(good, "[{from: 1.2.3.4, to: 5.6.7.8, expect: allow}]", "[]", 1), "expects nothing"},
		"wrong case":    {strings.Replace(good, "expect: allow", "expect: perhaps", 1), "must be allow, deny or isolated"},
		"unknown file":  {good + "-- policy.yaml --\n", "file policy.yaml is none of"},
		"file twice":    {good + "-- cluster.yaml --\n", "twice"},
		"unknown field": {strings.Replace(good, "expect: allow", "expect: allow, form: x", 1), "form"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := scenarios.Load(fstest.MapFS{"x.txtar": {Data: []byte(c.archive)}})
			if err == nil || !strings.Contains(err.Error(), c.complaint) || !strings.Contains(err.Error(), "x.txtar") {
				t.Errorf("got %v, want a complaint about %q", err, c.complaint)
			}
		})
	}
	if all, err := scenarios.Load(fstest.MapFS{"x.txtar": {Data: []byte(good)}}); err != nil || len(all) != 1 {
		t.Errorf("the good one: %d scenarios, %v", len(all), err)
	}
}
