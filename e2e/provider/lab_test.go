package provider

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/binary"
	"github.com/sallyport-dev/sallyport/e2e/cluster"
	"github.com/sallyport-dev/sallyport/e2e/clustertest"
	"github.com/sallyport-dev/sallyport/e2e/image"
	"github.com/sallyport-dev/sallyport/e2e/poll"
	"github.com/sallyport-dev/sallyport/e2e/prober"
)

func TestMain(m *testing.M) {
	clustertest.Main(m, clustertest.Options())
}

const proberImage = "docker.io/library/prober:e2e"

// lab is the cluster with the prober's image and, unless it was taken away,
// the agent.
type lab struct {
	*cluster.Cluster
	t testing.TB
}

// imageLoaded is set once the cluster has the prober.
var imageLoaded bool

// bare returns the cluster as it is, with the prober's image.
func bare(t testing.TB) lab {
	t.Helper()
	l := lab{clustertest.Cluster(t), t}
	if imageLoaded {
		return l
	}
	dir := t.TempDir()
	must(t, binary.Compile(t.Context(), dir, "prober"))
	must(t, l.LoadImage(t.Context(), image.Image{
		Name: proberImage, Files: []image.File{{Path: "prober", Source: filepath.Join(dir, "prober")}}, Entrypoint: []string{"/prober"},
	}))
	imageLoaded = true
	return l
}

var installed bool

// enforced returns the cluster with the agent, which is installed once.
func enforced(t testing.TB) lab {
	t.Helper()
	l := bare(t)
	if !installed {
		must(t, l.Install(t.Context()))
		installed = true
	}
	return l
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

type object = map[string]any

// meta is what every object has.
type meta struct {
	Metadata struct {
		Name            string `json:"name"`
		ResourceVersion string `json:"resourceVersion"`
	} `json:"metadata"`
}

// namespace makes a namespace for the test. It is named after its first
// argument and a number, so that no test waits for another's end.
func (l lab) namespace(name string) string {
	l.t.Helper()
	namespaces++
	name += "-" + strconv.Itoa(namespaces)
	must(l.t, l.API(l.t.Context(), "POST", "/api/v1/namespaces", object{"metadata": object{"name": name, "labels": object{"name": name}}}, nil))
	l.t.Cleanup(func() { l.removeNamespace(name) })
	// Pods need the account. Who makes it may have lost the API server a moment
	// ago, and takes his time.
	must(l.t, eventually(func() error {
		return l.API(l.t.Context(), "GET", "/api/v1/namespaces/"+name+"/serviceaccounts/default", nil, nil)
	}))
	return name
}

var namespaces int

// removeNamespace ends its pods at once and does not wait for the rest.
func (l lab) removeNamespace(name string) {
	ctx, at := context.Background(), "/api/v1/namespaces/"+name
	_ = l.API(ctx, "DELETE", at+"/pods?gracePeriodSeconds=0", nil, nil)
	_ = l.API(ctx, "DELETE", at, nil, nil)
}

// pod is a prober.
type pod struct {
	ns, name    string
	node        *cluster.Node
	labels      object
	args        []string
	hostNetwork bool
	health      bool   // the kubelet asks it over HTTP, at port 8080
	ip, ip6     string // the second in a dual-stack cluster
	*prober.Client
}

func (p *pod) id() string { return p.ns + "." + p.name }

func (p *pod) at(port int) string { return net.JoinHostPort(p.ip, strconv.Itoa(port)) }

// ips are the pod's addresses, of one family or both.
func (p *pod) ips() []string {
	if p.ip6 == "" {
		return []string{p.ip}
	}
	return []string{p.ip, p.ip6}
}

// everywhere is the port at all of the pod's addresses, as the prober takes targets.
func (p *pod) everywhere(port int) string {
	out := p.at(port)
	if p.ip6 != "" {
		out += "," + p.at6(port)
	}
	return out
}

func (p *pod) at6(port int) string { return net.JoinHostPort(p.ip6, strconv.Itoa(port)) }

func (p *pod) object() object {
	args := append([]string{"-name", p.id()}, p.args...)
	if p.hostNetwork {
		args = append(args, "-tap=false")
	}
	container := object{
		// Enough not to be the last in line on a busy machine.
		"resources": object{"requests": object{"cpu": "20m"}},
		"name":      "prober", "image": proberImage, "imagePullPolicy": "Never", "args": args,
		"volumeMounts": []object{{"name": "sockets", "mountPath": prober.Dir}},
	}
	if p.health {
		container["args"] = append(args, "-health", ":8080")
		container["readinessProbe"] = object{"httpGet": object{"port": 8080}, "periodSeconds": 1, "failureThreshold": 1}
	}
	return object{
		"metadata": object{"name": p.name, "namespace": p.ns, "labels": p.labels},
		"spec": object{
			"nodeName": p.node.Name, "hostNetwork": p.hostNetwork, "terminationGracePeriodSeconds": 0,
			"enableServiceLinks": false, "automountServiceAccountToken": false,
			"tolerations": []object{{"operator": "Exists"}},
			"containers":  []object{container},
			"volumes":     []object{{"name": "sockets", "hostPath": object{"path": prober.Dir, "type": "DirectoryOrCreate"}}},
		},
	}
}

// create makes pods and does not wait for them.
func (l lab) create(pods ...*pod) {
	l.t.Helper()
	for _, p := range pods {
		if p.node == nil {
			p.node = l.Nodes[0]
		}
		p.Client = prober.NewClient(p.node.Root(prober.Dir + "/" + p.id() + ".sock"))
		must(l.t, l.API(l.t.Context(), "POST", "/api/v1/namespaces/"+p.ns+"/pods", p.object(), nil))
	}
}

type podList struct {
	Items []struct {
		meta
		Status struct {
			PodIP      string
			PodIPs     []struct{ IP string }
			Conditions []struct{ Type, Status string }
		}
	}
}

// wait returns when the pods are ready, and knows their addresses then.
func (l lab) wait(pods ...*pod) {
	l.t.Helper()
	must(l.t, eventually(func() error {
		lists, missing := map[string]podList{}, 0
		for _, p := range pods {
			list, ok := lists[p.ns]
			if !ok {
				if err := l.API(l.t.Context(), "GET", "/api/v1/namespaces/"+p.ns+"/pods", nil, &list); err != nil {
					return err
				}
				lists[p.ns] = list
			}
			ready := false
			for _, x := range list.Items {
				for _, c := range x.Status.Conditions {
					if x.Metadata.Name == p.name && c.Type == "Ready" && c.Status == "True" && x.Status.PodIP != "" {
						p.ip, ready = x.Status.PodIP, true
						if ips := x.Status.PodIPs; len(ips) > 1 {
							p.ip6 = ips[1].IP
						}
					}
				}
			}
			if !ready {
				missing++
			}
		}
		if missing > 0 {
			return fmt.Errorf("%d of %d pods are not ready", missing, len(pods))
		}
		return nil
	}))
}

func (l lab) start(pods ...*pod) {
	l.t.Helper()
	l.create(pods...)
	l.wait(pods...)
	for _, p := range pods {
		l.state(p) // a container that has started may not have got to its socket yet
	}
}

func (l lab) delete(p *pod) {
	l.t.Helper()
	must(l.t, l.API(l.t.Context(), "DELETE", "/api/v1/namespaces/"+p.ns+"/pods/"+p.name+"?gracePeriodSeconds=0", nil, nil))
}

// state asks a prober that must be there.
func (l lab) state(p *pod) prober.State {
	l.t.Helper()
	// A container that has started may not have got to its socket yet.
	var s prober.State
	err := eventually(func() (err error) {
		ctx, cancel := context.WithTimeout(l.t.Context(), 20*time.Second)
		defer cancel()
		s, err = p.State(ctx)
		return err
	})
	if err != nil {
		l.t.Fatalf("the prober %s does not answer: %v", p.id(), err)
	}
	return s
}

func (l lab) targets(p *pod, list ...string) {
	l.t.Helper()
	must(l.t, p.Targets(l.t.Context(), list))
}

// arrived counts the packets of some kinds that came from an address; "" is
// any address.
func arrived(s prober.State, from string, kinds ...string) (n uint64) {
	for _, a := range s.Arrivals {
		if (from == "" || a.From == from) && (len(kinds) == 0 || slices.Contains(kinds, a.Kind)) {
			n += a.Count
		}
	}
	return n
}

// policy writes a NetworkPolicy and returns when the API server acknowledged
// it, and its version.
func (l lab) policy(ns, name string, spec object) (time.Time, string) {
	l.t.Helper()
	var out meta
	in := object{"metadata": object{"name": name}, "spec": spec}
	must(l.t, l.API(l.t.Context(), "POST", "/apis/networking.k8s.io/v1/namespaces/"+ns+"/networkpolicies", in, &out))
	return time.Now(), out.Metadata.ResourceVersion
}

// deletePolicy returns when the API server acknowledged it.
func (l lab) deletePolicy(ns, name string) time.Time {
	l.t.Helper()
	must(l.t, l.API(l.t.Context(), "DELETE", "/apis/networking.k8s.io/v1/namespaces/"+ns+"/networkpolicies/"+name, nil, nil))
	return time.Now()
}

// deny isolates all pods of a namespace, both ways.
var deny = object{"podSelector": object{}, "policyTypes": []string{"Ingress", "Egress"}}

// peer lets pods of the namespace speak with those of another, both ways.
func peer(ns string) object {
	p := []object{{"namespaceSelector": object{"matchLabels": object{"name": ns}}}}
	return object{
		"podSelector": object{}, "policyTypes": []string{"Ingress", "Egress"},
		"ingress": []object{{"from": p}}, "egress": []object{{"to": p}},
	}
}

// status is what an agent says of itself.
type status struct {
	Ready    bool
	Degraded []string
	Realised map[string]string
	Revision uint32
	Local    int
	Version  string
}

func onSocket(path string) *http.Client {
	return &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}}}
}

// agent asks a node's agent.
func agent(n *cluster.Node) (s status, err error) { return s, ask(n, "status", &s) }

func ask(n *cluster.Node, what string, out any) error {
	res, err := onSocket(n.Root("/run/sallyport/agent.sock")).Get("http://agent/v1/" + what)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	if err == nil {
		err = json.Unmarshal(text, out)
	}
	return err
}

// realised returns when all nodes have policies up to this version in force.
func (l lab) realised(version string) {
	l.t.Helper()
	want, err := strconv.Atoi(version)
	must(l.t, err)
	must(l.t, eventually(func() error {
		for _, n := range l.Nodes {
			s, err := agent(n)
			if err != nil {
				return err
			}
			if now, _ := strconv.Atoi(s.Realised["networkpolicies.networking.k8s.io"]); now < want || !s.Ready {
				return fmt.Errorf("%s has realised version %d of policies, not %d; %v", n.Name, now, want, s.Degraded)
			}
		}
		return nil
	}))
}

// patience is how long what must come about may take: a machine may be busy.
// What must not come about has no second chance.
const patience = 2 * time.Minute

// eventually tries until it works, and returns the last error.
func eventually(try func() error) error { return poll.Until(context.Background(), patience, try) }

// known returns when all nodes know the addresses of the pods.
func (l lab) known(pods ...*pod) {
	l.t.Helper()
	addresses := map[string]string{}
	for _, p := range pods {
		addresses[p.ns+"/"+p.name] = p.ip
	}
	l.knownAt(addresses)
}

// knownAt returns when all nodes know that the pods have these first addresses.
func (l lab) knownAt(addresses map[string]string) {
	l.t.Helper()
	must(l.t, eventually(func() error {
		for _, n := range l.Nodes {
			known, err := knows(n)
			if err != nil {
				return err
			}
			for pod, ip := range addresses {
				if first, _, _ := strings.Cut(known[pod], ","); first != ip {
					return fmt.Errorf("%s knows %q as the address of %s, not %s", n.Name, known[pod], pod, ip)
				}
			}
		}
		return nil
	}))
}

// knows lists the pods that a node's agent knows, with their addresses.
func knows(n *cluster.Node) (map[string]string, error) {
	var list []struct {
		Pod string
		IPs []string
	}
	if err := ask(n, "endpoints", &list); err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, e := range list {
		out[e.Pod] = strings.Join(e.IPs, ",")
	}
	return out, nil
}

// sallyport runs the command on this machine, as an administrator does.
func (l lab) sallyport(args ...string) (string, error) {
	module, err := binary.Module()
	must(l.t, err)
	cmd := command(l.t.Context(), filepath.Join(module, "../bin/sallyport"), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+l.Kubeconfig)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// agents are the processes of the agents, as this machine counts them.
func (l lab) agents(n *cluster.Node) (pids []int) {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	own, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", n.PID))
	for _, dir := range dirs {
		line, _ := os.ReadFile(dir + "/cmdline")
		space, _ := os.Readlink(dir + "/ns/net")
		if args := strings.Split(string(line), "\x00"); len(args) > 2 && args[1] == "agent" && strings.HasSuffix(args[0], "sallyport") && space == own {
			pid, _ := strconv.Atoi(filepath.Base(dir))
			pids = append(pids, pid)
		}
	}
	return pids
}
