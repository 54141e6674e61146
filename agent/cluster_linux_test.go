package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/vishvananda/netlink"

	"github.com/sallyport-dev/sallyport/api"
	"github.com/sallyport-dev/sallyport/datapath"
	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/flow"
	"github.com/sallyport-dev/sallyport/kube"
	"github.com/sallyport-dev/sallyport/lab"
	"github.com/sallyport-dev/sallyport/model"
)

// world tells a Node what the test says.
type world struct {
	updates  chan kube.Update
	services []model.Service
}

func (w world) Services() []model.Service     { return w.services }
func (w world) Run(ctx context.Context) error { <-ctx.Done(); return nil }
func (w world) Health() []kube.Health         { return nil }
func (w world) Next(ctx context.Context) (kube.Update, error) {
	select {
	case u := <-w.updates:
		return u, nil
	case <-ctx.Done():
		return kube.Update{}, ctx.Err()
	}
}

// realm is a lab whose nodes run agents as in a cluster.
type realm struct {
	*testing.T
	*Lab   // for its probes; it enforces nothing
	worlds map[string]world
	nodes  map[string]*Node
	socket map[string]string
	ends   map[string]func()
	round  int
}

// apart has the endpoints of a whole cluster beside it, as a Watcher does.
func apart(u kube.Update) kube.Update {
	if u.Cluster == nil {
		return u
	}
	c := *u.Cluster
	for i := range c.Endpoints {
		u.Endpoints = append(u.Endpoints, &c.Endpoints[i])
	}
	c.Endpoints = nil
	u.Cluster = &c
	return u
}

func newRealm(t *testing.T, c *model.Cluster) *realm {
	needRoot(t)
	unlock, err := lab.Lock(t.Context())
	must(t, err)
	t.Cleanup(unlock)
	must(t, RemoveLab())
	r := &realm{
		T: t, Lab: &Lab{Lab: lab.New(lab.Config{}), cluster: c, Matrix: engine.Compile(c)},
		worlds: map[string]world{}, nodes: map[string]*Node{}, socket: map[string]string{}, ends: map[string]func(){},
	}
	must(t, r.Lab.Lab.Up(t.Context(), c))
	t.Cleanup(func() { must(t, errors.Join(RemoveLab(), r.Lab.Lab.Down())) })
	for _, x := range c.Nodes {
		r.worlds[x.Name] = world{make(chan kube.Update), c.Services}
		r.socket[x.Name] = filepath.Join(t.TempDir(), "agent.sock")
		r.run(x.Name)
	}
	return r
}

// run starts the node's agent; it ends with the test or by its function in ends.
func (r *realm) run(name string) {
	r.Helper()
	n, err := NewNode(NodeConfig{
		Name: name, World: r.worlds[name], Audit: 100 * time.Millisecond, Socket: r.socket[name],
		Enforce: Config{Pin: filepath.Join(LabPins, name), NetNS: r.NodeNetNS(name)},
	})
	must(r.T, err)
	r.nodes[name] = n
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	ended := false
	r.ends[name] = func() {
		if cancel(); !ended {
			must(r.T, <-done)
		}
		ended = true
	}
	r.Cleanup(r.ends[name])
}

// tell gives every node the update and waits until it is in force.
func (r *realm) tell(u kube.Update) {
	r.Helper()
	r.round++
	u.Since, u.Revisions = time.Now(), map[string]string{"round": fmt.Sprint(r.round)}
	u = apart(u)
	for _, w := range r.worlds {
		w.updates <- u
	}
	for name, n := range r.nodes {
		eventually(r.T, func() string {
			if s := n.Status(); !s.Ready || s.Realised["round"] != u.Revisions["round"] || len(s.Degraded) > 0 {
				return fmt.Sprintf("%s: %+v", name, s)
			}
			return ""
		})
	}
}

func (r *realm) become(c *model.Cluster) engine.Change {
	ch := engine.Between(r.cluster, c)
	must(r.T, r.Lab.Lab.Update(r.Context(), c))
	r.cluster, r.Matrix = c, engine.Compile(c)
	return ch
}

func eventually(t *testing.T, wrong func() string) {
	t.Helper()
	why := ""
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if why = wrong(); why == "" {
			return
		}
	}
	t.Fatal(why)
}

// withPod is the cluster with one more pod like an existing one.
func withPod(c *model.Cluster, like, name string, ips ...string) (*model.Cluster, *model.Endpoint) {
	out := *c
	out.Endpoints = slices.Clone(c.Endpoints)
	i := slices.IndexFunc(out.Endpoints, func(e model.Endpoint) bool { return e.Workload.Name == like })
	e := out.Endpoints[i]
	e.Name, e.UID, e.IPs, e.Workload = name, "uid-"+name, nil, model.Workload{Kind: "Pod", Name: name}
	for _, a := range ips {
		e.IPs = append(e.IPs, netip.MustParseAddr(a))
	}
	out.Endpoints = append(out.Endpoints, e)
	slices.SortFunc(out.Endpoints, func(a, b model.Endpoint) int { return strings.Compare(a.Key(), b.Key()) })
	return &out, &e
}

func podOf(e *model.Endpoint) api.Pod {
	return api.Pod{Namespace: e.Namespace, Name: e.Name, UID: e.UID, ContainerID: "c-" + e.Name, IPs: e.IPs}
}

func withoutAddresses(e *model.Endpoint) *model.Endpoint {
	out := *e
	out.IPs = nil
	return &out
}

func TestNodesEnforceWhatTheAPIServerSays(t *testing.T) {
	r := newRealm(t, load(t, 2, "0-application.yaml", "1-deny-all.yaml"))
	r.tell(kube.Update{Cluster: r.cluster})
	compare(t, r.Lab)
	r.tell(kube.Update{Change: r.become(load(t, 2, "0-application.yaml", "1-deny-all.yaml", "2-frontend-to-backend.yaml", "3-backend-to-database.yaml", "5-what-was-missing.yaml"))})
	compare(t, r.Lab)

	t.Run("a pod that the API server has no address of yet", func(t *testing.T) {
		c, late := withPod(r.cluster, "frontend", "late", "10.244.9.9", "fd00:10:244::99")
		ch := r.become(c)
		backend := r.Matrix.Endpoints()[slices.IndexFunc(r.Matrix.Endpoints(), func(e *model.Endpoint) bool { return e.Workload.Name == "backend" })]
		probe := func(timeout time.Duration) lab.Outcome {
			return r.Lab.Lab.Probe(t.Context(), []lab.Probe{{From: late.Key(), To: backend.IPs[0], Protocol: model.TCP, Port: backend.Ports[0].Number}}, timeout)[0]
		}
		const brief = 300 * time.Millisecond
		if got := probe(brief); got != lab.TimedOut {
			t.Errorf("an unknown pod's connection: %v", got)
		}
		// Who lives on another node is told by the API server alone.
		r.tell(kube.Update{Change: engine.Change{Endpoints: []*model.Endpoint{withoutAddresses(late)}}})
		if got := probe(brief); got != lab.TimedOut {
			t.Errorf("a pod without an address: %v", got)
		}
		here, client := r.nodes[late.Node], api.NewClient(r.socket[late.Node])
		if _, err := client.CheckPod(t.Context(), podOf(late)); err == nil {
			t.Error("a pod without an address is said to be enforced")
		}
		if e, err := client.AddPod(t.Context(), podOf(late)); err != nil || e.Revision == 0 {
			t.Fatalf("%v %v", e, err)
		}
		for name, w := range r.worlds {
			if name != late.Node {
				w.updates <- kube.Update{Change: ch}
			}
		}
		eventually(t, func() string {
			if probe(brief) != lab.Connected {
				return "the pod is enforced and cannot connect"
			}
			return ""
		})
		// Old news of the API server does not take its address away.
		r.worlds[late.Node].updates <- kube.Update{Change: engine.Change{Endpoints: []*model.Endpoint{withoutAddresses(late)}}, Revisions: map[string]string{"old": "1"}}
		eventually(t, func() string {
			if here.Status().Realised["old"] != "1" {
				return "the update did not arrive"
			}
			return ""
		})
		if got := probe(soon); got != lab.Connected {
			t.Errorf("after old news: %v", got)
		}
		r.tell(kube.Update{Change: ch})
		compare(t, r.Lab)
		must(t, client.DeletePod(t.Context(), podOf(late)))
		if got := probe(brief); got != lab.TimedOut {
			t.Errorf("a deleted pod's connection: %v", got)
		}
		if _, err := client.CheckPod(t.Context(), podOf(late)); err == nil {
			t.Error("a deleted pod is said to be enforced")
		}
		r.tell(kube.Update{Change: engine.Change{DeletedEndpoints: []string{late.Key()}}})
		c = load(t, 2, "0-application.yaml", "1-deny-all.yaml", "2-frontend-to-backend.yaml", "3-backend-to-database.yaml", "5-what-was-missing.yaml")
		r.become(c)
	})

	t.Run("a pod that the API server has not told of yet", func(t *testing.T) {
		c, soon := withPod(r.cluster, "frontend", "soon", "10.244.9.10")
		client := api.NewClient(r.socket[soon.Node])
		ch := r.become(c)
		answer := make(chan error, 1)
		go func() {
			_, err := client.AddPod(context.Background(), podOf(soon))
			answer <- err
		}()
		select {
		case err := <-answer:
			t.Fatalf("answered before the pod is known: %v", err)
		case <-time.After(100 * time.Millisecond):
		}
		// A pod of the same name that was there before is not the one.
		before := withoutAddresses(soon)
		before.UID = "uid-before"
		r.tell(kube.Update{Change: engine.Change{Endpoints: []*model.Endpoint{before}}})
		select {
		case err := <-answer:
			t.Fatalf("answered for another pod of the name: %v", err)
		case <-time.After(50 * time.Millisecond):
		}
		r.tell(kube.Update{Change: engine.Change{DeletedEndpoints: []string{soon.Key()}}})
		r.tell(kube.Update{Change: engine.Change{Endpoints: []*model.Endpoint{withoutAddresses(soon)}}})
		must(t, <-answer)
		r.tell(kube.Update{Change: ch})
		compare(t, r.Lab)
	})

	t.Run("an agent that comes back", func(t *testing.T) {
		for name, end := range r.ends {
			end()
			compare(t, r.Lab) // enforced all the same
			if _, err := api.NewClient(r.socket[name]).Status(t.Context()); err == nil {
				t.Error("an agent that has ended answers")
			}
			r.run(name)
			if s := r.nodes[name].Status(); s.Ready {
				t.Errorf("ready before the cluster is known: %+v", s)
			}
			compare(t, r.Lab)
		}
		r.tell(kube.Update{Cluster: r.cluster})
		compare(t, r.Lab)
	})
}

func TestANodeAnswersQuestions(t *testing.T) {
	r := newRealm(t, load(t, 2, "0-application.yaml", "1-deny-all.yaml", "2-frontend-to-backend.yaml"))
	r.tell(kube.Update{Cluster: r.cluster, Problems: []model.Problem{{Severity: model.Warning, Message: "odd", Source: model.Source{Kind: "NetworkPolicy", Namespace: "secure-app", Name: "default-deny-all"}}}})
	ctx := t.Context()
	clients := map[string]*api.Client{}
	for name, path := range r.socket {
		clients[name] = api.NewClient(path)
	}
	local := 0
	for name, c := range clients {
		s, err := c.Status(ctx)
		must(t, err)
		local += s.Local
		if s.Node != name || s.Endpoints != len(r.cluster.Endpoints) || s.Policies != len(r.cluster.Policies) || len(s.Problems) != 1 || len(s.Tables) < 8 {
			t.Errorf("%s: %+v", name, s)
		}
		list, err := c.Endpoints(ctx)
		must(t, err)
		for _, e := range list {
			if e.Local != (e.Node == name) || e.Local && (!e.Enforced || e.Device == "") || e.Identity == 0 {
				t.Errorf("%s: %+v", name, e)
			}
			if strings.HasPrefix(e.Pod, "secure-app/") && (len(e.Egress) == 0 || len(e.Ingress) == 0) {
				t.Errorf("%s: no policy isolates %s", name, e.Pod)
			}
		}
		policies, err := c.Policies(ctx)
		must(t, err)
		if len(policies) != len(r.cluster.Policies) || policies[0].Selected == 0 {
			t.Errorf("%+v", policies)
		}
		identities, err := c.Identities(ctx)
		must(t, err)
		if len(identities) < 2 {
			t.Errorf("%+v", identities)
		}
	}
	if want := len(r.cluster.Endpoints); local != want {
		t.Errorf("%d pods are local to some node, want %d", local, want)
	}

	// Probes from inside the pods, and what monitor sees of them.
	byName := map[string]*model.Endpoint{}
	for _, e := range r.Matrix.Endpoints() {
		byName[e.Workload.Name] = e
	}
	src, shut := byName["frontend"], byName["database"]
	seen := make(chan *flow.Flow, 16)
	watching, stop := context.WithCancel(ctx)
	defer stop()
	go clients[src.Node].Flows(watching, api.FlowFilter{Verdict: "denied", Pod: src.Key()}, func(f *flow.Flow) error {
		seen <- f
		return nil
	})
	eventually(t, func() string {
		if r.nodes[src.Node].flows.wanted() {
			return ""
		}
		return "nobody listens"
	})
	try := func(to *model.Endpoint) api.Outcome {
		o, err := clients[src.Node].Probe(ctx, api.Probe{From: src.Key(), To: to.IPs[0], Protocol: model.TCP, Port: to.Ports[0].Number, Timeout: 300 * time.Millisecond})
		must(t, err)
		return o
	}
	if o := try(shut); o.Result != lab.TimedOut.String() {
		t.Errorf("a denied probe: %+v", o)
	}
	select {
	case f := <-seen:
		if f.SourcePod != src.Key() || f.DestinationPod != shut.Key() || f.Egress == nil || !f.Egress.Attributed || len(f.Egress.Policies) == 0 {
			t.Errorf("%+v", f)
		}
	case <-time.After(30 * time.Second):
		t.Error("the denied connection was not reported")
	}
	denied := testutil.CollectAndCount(r.nodes[src.Node].counts.denied)
	if denied == 0 {
		t.Error("no denial was counted")
	}
	if problems, err := testutil.GatherAndLint(r.nodes[src.Node].counts.registry); err != nil || len(problems) > 0 {
		t.Errorf("%v %v", problems, err)
	}
}

// What somebody else changes in the kernel is put right.
func TestANodePutsDriftRight(t *testing.T) {
	r := newRealm(t, load(t, 1, "0-application.yaml", "1-deny-all.yaml", "2-frontend-to-backend.yaml", "5-what-was-missing.yaml"))
	r.tell(kube.Update{Cluster: r.cluster})
	name := r.cluster.Nodes[0].Name
	n := r.nodes[name]
	drift := func() float64 { return testutil.ToFloat64(n.counts.drift) }
	time.Sleep(300 * time.Millisecond)
	if drift() != 0 {
		t.Fatalf("%v drifts before anything was changed", drift())
	}
	for what, change := range map[string]func(){
		"the nftables table": func() {
			inside(t, r.NodeNetNS(name), func() error {
				return dropTables(func(x *nftables.Table) bool { return x.Name == "sallyport" })
			})
		},
		"a link's pin": func() {
			pins, err := filepath.Glob(filepath.Join(LabPins, name, "links_*", "forward_4"))
			must(t, errors.Join(err, os.Remove(pins[0])))
		},
	} {
		before := drift()
		change()
		eventually(t, func() string {
			if drift() == before || !n.Status().Ready {
				return what + " was changed, and nothing was done"
			}
			return ""
		})
		compare(t, r.Lab)
	}
}

// A node that has a Service's address, as NodeLocal DNSCache gives it one, is
// judged as what is behind the Service.
func TestANodeThatAnswersAService(t *testing.T) {
	r := newRealm(t, load(t, 1, "0-application.yaml", "1-deny-all.yaml", "5-what-was-missing.yaml"))
	name := r.cluster.Nodes[0].Name
	i := slices.IndexFunc(r.cluster.Services, func(s model.Service) bool { return s.Namespace == "kube-system" })
	plain, special := r.cluster.Services[i].ClusterIPs[0], netip.MustParseAddr("169.254.20.10")
	inside(t, r.NodeNetNS(name), func() error {
		// The addresses are the node's own: no rule translates them any more.
		if err := dropTables(func(x *nftables.Table) bool { return x.Name != "sallyport" }); err != nil {
			return err
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		for _, a := range []netip.Addr{plain, special} {
			if err := netlink.AddrAdd(lo, &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(32, 32)}}); err != nil {
				return err
			}
			s, err := net.ListenPacket("udp", netip.AddrPortFrom(a, 53).String())
			if err != nil {
				return err
			}
			t.Cleanup(func() { s.Close() })
			go echo(s)
		}
		return nil
	})
	r.tell(kube.Update{Cluster: r.cluster})
	r.tell(kube.Update{Services: true})
	ask := func(a netip.Addr) lab.Outcome {
		return r.Lab.Lab.Probe(t.Context(), []lab.Probe{{From: "secure-app/frontend", To: a, Protocol: model.UDP, Port: 53}}, 400*time.Millisecond)[0]
	}
	eventually(t, func() string {
		if got := ask(plain); got != lab.Connected {
			return fmt.Sprintf("DNS may be asked, and the node that answers for it is: %v", got)
		}
		return ""
	})
	if n := r.nodes[name]; !slices.Contains(placementOf(n).Node, special) {
		t.Errorf("%s is not known as the node's: %v", special, placementOf(n).Node)
	}
	if got := ask(special); got != lab.TimedOut {
		t.Errorf("the node's other address: %v", got)
	}
}

func placementOf(n *Node) datapath.Placement {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.placement
}

func echo(s net.PacketConn) {
	buf := make([]byte, 512)
	for {
		n, from, err := s.ReadFrom(buf)
		if err != nil {
			return
		}
		_, _ = s.WriteTo(buf[:n], from)
	}
}

// dropTables deletes nftables tables of the thread's namespace.
func dropTables(which func(*nftables.Table) bool) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	tables, err := c.ListTables()
	if err != nil {
		return err
	}
	for _, x := range tables {
		if which(x) {
			c.DelTable(x)
		}
	}
	return c.Flush()
}
