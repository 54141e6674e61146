package agent

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/datapath"
	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/manifest"
	"github.com/sallyport-dev/sallyport/model"
)

// asAgent makes the test binary an agent in a process of its own, to be killed.
const asAgent = "SALLYPORT_TEST_AGENT"

func TestMain(m *testing.M) {
	if os.Getenv(asAgent) == "" {
		os.Exit(m.Run())
	}
	if err := runAgent(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// town has eight pods on the node and two states. In neither may mover reach
// goal (permission moves from the one's door to the other's) nor stranger
// reach house (who is let in changes together with who stranger is). In both
// regular may reach open, by other rules. Guest reaches club in the first only.
func town(state int) string {
	role, host := [2]string{"enemy", "friend"}, [2]string{"friend", "enemy"}
	shut, open := [2]string{"[{}]", "[]"}, [2]string{"[]", "[{}]"}
	out := ""
	for _, name := range []string{"mover", "goal", "stranger", "house", "regular", "open", "guest", "club"} {
		extra := ""
		if name == "stranger" {
			extra = ", role: " + role[state]
		}
		out += fmt.Sprintf(`
---
apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: a, labels: {app: %s%s}}
spec: {containers: [{name: c, ports: [{containerPort: 80}, {containerPort: 90, protocol: UDP}]}]}
`, name, name, extra)
	}
	policy := func(app, direction, rules string) {
		key := map[string]string{"Ingress": "ingress", "Egress": "egress"}[direction]
		out += fmt.Sprintf(`
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: %s, namespace: a}
spec: {podSelector: {matchLabels: {app: %s}}, policyTypes: [%s], %s: %s}
`, app, app, direction, key, rules)
	}
	policy("mover", "Egress", shut[state])
	policy("goal", "Ingress", open[state])
	policy("house", "Ingress", "[{from: [{podSelector: {matchLabels: {role: "+host[state]+"}}}]}]")
	policy("regular", "Egress", [2]string{"[{}]", "[{to: [{podSelector: {matchLabels: {app: open}}}]}]"}[state])
	policy("open", "Ingress", [2]string{"[{from: [{podSelector: {matchLabels: {app: regular}}}]}]", "[{from: [{ipBlock: {cidr: 10.244.0.0/14}}]}]"}[state])
	policy("club", "Ingress", shut[state])
	return out
}

// crowd adds pods of other nodes that change roles with the state: a change of
// state takes many writes.
func crowd(c *model.Cluster, state, n int) *model.Cluster {
	for i := range n {
		role := [2]string{"friend", "enemy"}[(i+state)%2]
		c.Endpoints = append(c.Endpoints, model.Endpoint{
			Namespace: "a", Name: fmt.Sprintf("far-%04d", i), Node: "far", Labels: map[string]string{"role": role},
			IPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 246, byte(i >> 8), byte(i)})},
		})
	}
	return c
}

// order is what an agent in a process of its own is told first.
type order struct {
	Config    Config
	Placement datapath.Placement
	States    [2]string
	First     int // the state to begin with
	Crowd     int
}

// announcing says so before it writes.
type announcing struct {
	datapath.Kernel
	to *json.Encoder
}

func (k announcing) Apply(tx datapath.Tx) error {
	if err := k.to.Encode(len(tx)); err != nil {
		return err
	}
	return k.Kernel.Apply(tx)
}

// runAgent takes the node over, publishes the state it is told, says so, and
// when it is told to changes the state again and again, announcing each
// publication. It ends with its input.
func runAgent(in io.Reader, out io.Writer) error {
	words := json.NewDecoder(in)
	var o order
	if err := words.Decode(&o); err != nil {
		return err
	}
	a, err := New(o.Config)
	if err != nil {
		return err
	}
	s, err := a.program.Snapshot()
	if err != nil {
		return err
	}
	var states [2]*model.Cluster
	for i, text := range o.States {
		r := manifest.Parse(map[string][]byte{"in": []byte(text)}, []string{"in"}, manifest.Options{})
		if len(r.Problems) > 0 {
			return r.Problems[0]
		}
		states[i] = crowd(r.Cluster, i, o.Crowd)
	}
	m := engine.Compile(states[o.First])
	if err := a.Publish(m, engine.Delta{Full: true}, o.Placement); err != nil {
		return err
	}
	answers := json.NewEncoder(out)
	if err := answers.Encode(unpublished(s)); err != nil {
		return err
	}
	var change bool
	if err := words.Decode(&change); err != nil {
		return nil
	}
	go func() {
		_ = words.Decode(&change)
		os.Exit(0)
	}()
	a.publisher.Kernel = announcing{a.program, answers}
	changes := [2]engine.Change{engine.Between(states[1], states[0]), engine.Between(states[0], states[1])}
	for i := 1 - o.First; ; i = 1 - i {
		if err := a.Publish(m, m.Apply(changes[i]), o.Placement); err != nil {
			return err
		}
	}
}

// unpublished counts what a predecessor wrote for a revision that it did not
// live to publish.
func unpublished(s *datapath.Snapshot) int {
	n := 0
	for _, a := range s.Addresses {
		if a.Identity.Since > s.Revision {
			n++
		}
	}
	for _, x := range s.Subjects {
		if x.Egress.Since > s.Revision || x.Ingress.Since > s.Revision {
			n++
		}
	}
	return n
}

// process is an agent in a process of its own.
type process struct {
	cmd     *exec.Cmd
	orders  *json.Encoder
	answers *json.Decoder
}

func startAgent(t *testing.T, o order) *process {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), asAgent+"=1")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	p := &process{cmd, json.NewEncoder(in), json.NewDecoder(out)}
	t.Cleanup(p.kill)
	must(t, p.orders.Encode(o))
	return p
}

// answer waits for the next number that the agent says: first, when it has
// published, how many unpublished entries it had found; then the number of
// writes of each publication.
func (p *process) answer(t *testing.T) (n int) {
	t.Helper()
	if err := p.answers.Decode(&n); err != nil {
		t.Fatalf("an agent could not take over or publish: %v", err)
	}
	return n
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

// kills is how often the agent is killed.
const kills = 50

// Agents are killed at any moment: while they load, take over and publish, when
// they are idle, and while they write one publication after the other.
func TestKilledAgentsLeakNothingAndBreakNothing(t *testing.T) {
	needRoot(t)
	l := start(t, cluster(t, town(0)))
	denied := []*stream{startStream(t, l, "a/mover", "a/goal"), startStream(t, l, "a/stranger", "a/house")}
	allowed, connection := startStream(t, l, "a/regular", "a/open"), startSession(t, l, "a/regular", "a/open")
	witness := startStream(t, l, "a/guest", "a/club")
	deniedTCP := probePair(t, l, "a/mover", "a/goal", 3*time.Millisecond)
	allowedTCP := probePair(t, l, "a/regular", "a/open", Patience) // that no packet is lost here is what the stream shows
	t.Cleanup(func() { deniedTCP.end(); allowedTCP.end() })

	must(t, l.agents["node-0"].Close())
	t.Cleanup(func() { must(t, l.nodeUp("node-0")) }) // for Stop to remove
	o := order{
		Config:    Config{Pin: LabPins + "/node-0", NetNS: l.NodeNetNS("node-0")},
		Placement: l.placement(l.cluster.Nodes[0]),
		States:    [2]string{town(0), town(1)},
		Crowd:     1000,
	}
	startup, torn := 200*time.Millisecond, 0
	for i := range kills {
		o.First = i / 2 % 2 // another state than that of the one before, every second time
		began := time.Now()
		p := startAgent(t, o)
		if i%3 == 1 {
			time.Sleep(time.Duration(rand.Int64N(int64(startup))))
			p.kill()
			continue
		}
		if p.answer(t) > 0 {
			torn++
		}
		startup = time.Since(began)
		if got := witness.passes(o.First == 0); got != (o.First == 0) {
			t.Fatalf("agent %d: state %d is not enforced after the restart: guest reaches club: %v", i, o.First, got)
		}
		if i%3 == 2 {
			must(t, p.orders.Encode(true))
			for range 1 + rand.IntN(4) {
				p.answer(t)
			}
			time.Sleep(time.Duration(rand.Int64N(int64(4 * time.Millisecond))))
		}
		p.kill()
	}
	deniedTCP.end()
	allowedTCP.end()
	t.Logf("%d agents killed, startup %s, %d takeovers in the middle of a publication, %d+%d denied packets, %d allowed, %d round trips, %d+%d connections",
		kills, startup.Round(time.Millisecond), torn, denied[0].sent.Load(), denied[1].sent.Load(), allowed.sent.Load(), connection.trips.Load(), deniedTCP.tried.Load(), allowedTCP.tried.Load())
	for _, s := range denied {
		s.wantSilence(t)
	}
	allowed.wantAll(t)
	connection.wantUnbroken(t)
	if deniedTCP.reached.Load() > 0 || allowedTCP.failed.Load() > 0 {
		t.Errorf("%d denied connections came about, %d allowed ones did not", deniedTCP.reached.Load(), allowedTCP.failed.Load())
	}
	if torn < 3 {
		t.Error("hardly an agent was killed in the middle of a publication: the test has lost its teeth")
	}
}
