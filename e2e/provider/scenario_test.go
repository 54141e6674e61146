package provider

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/binary"
	"github.com/sallyport-dev/sallyport/e2e/cluster"
	"github.com/sallyport-dev/sallyport/e2e/prober"
)

// scenario is one of ../../scenarios, as objects.
type scenario struct {
	name     string
	cluster  string // the text, which many scenarios share
	pods     []object
	spaces   map[string]object // namespace to labels
	policies []object
	test     object
	dropped  int // cases that a cluster cannot express
	why      string
}

var marker = regexp.MustCompile(`(?m)^-- (.+) --\n`)

// parse reads a scenario; kubectl turns its YAML into JSON.
func (l lab) parse(path string) (s scenario) {
	s = scenario{name: strings.TrimSuffix(filepath.Base(path), ".txtar"), spaces: map[string]object{}}
	text, err := os.ReadFile(path)
	must(l.t, err)
	var policies, test strings.Builder
	at := marker.FindAllSubmatchIndex(text, -1)
	for i, m := range at {
		end := len(text)
		if i+1 < len(at) {
			end = at[i+1][0]
		}
		switch name, body := string(text[m[2]:m[3]]), string(text[m[1]:end]); {
		case name == "cluster.yaml":
			s.cluster = body
		case strings.HasPrefix(name, "policies"):
			policies.WriteString(body + "\n---\n")
		case name == "test.yaml":
			test.WriteString(body)
		}
	}
	s.why = l.read(&s, policies.String(), test.String())
	return s
}

// read returns why a cluster cannot express the scenario.
func (l lab) read(s *scenario, policies, test string) string {
	things, err := l.decode(s.cluster)
	if err != nil {
		return "its cluster is not valid: " + reason(err)
	}
	for _, x := range things {
		meta, _ := x["metadata"].(object)
		name, _ := meta["name"].(string)
		switch kind := x["kind"]; kind {
		case "Namespace":
			labels, _ := meta["labels"].(object)
			s.spaces[name] = labels
		case "Pod":
			if why := fit(x); why != "" {
				return why
			}
			if meta["namespace"] == nil {
				meta["namespace"] = "default"
			}
			if ns := meta["namespace"].(string); s.spaces[ns] == nil {
				s.spaces[ns] = nil
			}
			s.pods = append(s.pods, x)
		default:
			return fmt.Sprintf("its %ss are not made of probers, or have fixed addresses", kind)
		}
	}
	if len(s.pods) == 0 {
		return "it has no pods"
	}
	if strings.TrimSpace(strings.ReplaceAll(policies, "---", "")) != "" {
		list, err := l.decode(policies)
		if err != nil {
			return "its policies are not valid: " + reason(err)
		}
		for _, p := range list {
			if p["kind"] != "NetworkPolicy" {
				return fmt.Sprintf("its policies are also of kind %s", p["kind"])
			}
		}
		s.policies = list
	}
	// The test's kind is unknown to the API server: a List of it is not asked.
	tests, err := l.decode(test)
	if err != nil || len(tests) != 1 {
		return fmt.Sprintf("its tests are not one object: %v", err)
	}
	s.test = tests[0]
	spec, _ := s.test["spec"].(object)
	cases, _ := spec["cases"].([]any)
	kept := slices.DeleteFunc(slices.Clone(cases), func(c any) bool { return !expressible(c.(object)) })
	spec["cases"], s.dropped = kept, len(cases)-len(kept)
	if len(kept) == 0 {
		return "none of its cases is between pods, by TCP or UDP"
	}
	return ""
}

func reason(err error) string {
	_, after, found := strings.Cut(err.Error(), "exit status 1: ")
	if !found {
		after = err.Error()
	}
	return strings.Join(strings.Fields(after), " ")[:min(len(strings.Join(strings.Fields(after), " ")), 160)]
}

// yes is what kubectl, with YAML 1.1, takes for a boolean, and the scenarios
// for the name of a namespace.
var yes = regexp.MustCompile(`([:\[,] ?)y([,}\]\n])`)

// decode turns YAML into objects; kubectl knows both, and asks nobody when it
// patches a local file with nothing.
func (l lab) decode(yaml string) ([]object, error) {
	out, err := l.KubectlInput(l.t.Context(), yes.ReplaceAllString(yaml, `$1"y"$2`), "label", "--local", "-f", "-", "e2e-nothing-", "-o", "json")
	if err != nil {
		return nil, err
	}
	var list []object
	for d := json.NewDecoder(strings.NewReader(out)); d.More(); {
		var x object
		if err := d.Decode(&x); err != nil {
			return nil, err
		}
		if items, ok := x["items"].([]any); ok {
			for _, i := range items {
				list = append(list, i.(object))
			}
			continue
		}
		list = append(list, x)
	}
	return list, nil
}

// expressible says whether a case is between pods, in a protocol that the
// kernel speaks.
func expressible(c object) bool {
	for _, end := range []string{"from", "to"} {
		text, ok := c[end].(string)
		if !ok {
			continue // a selector
		}
		if _, _, err := net.ParseCIDR(text); err == nil || net.ParseIP(text) != nil || text == "external" || text == "node" || strings.Count(text, "/") != 1 {
			return false
		}
	}
	text, _ := json.Marshal(c)
	return !strings.Contains(strings.ToLower(string(text)), "sctp") && !strings.Contains(strings.ToLower(string(text)), "icmp")
}

// fit makes the pod one of probers that listen on all its ports, or says why
// it cannot.
func fit(x object) string {
	spec, _ := x["spec"].(object)
	if spec == nil {
		return "a pod has no containers"
	}
	if spec["hostNetwork"] == true {
		return "a hostNetwork pod cannot be asked to connect"
	}
	if status, _ := x["status"].(object); status["phase"] != nil && status["phase"] != "Running" {
		return "a pod has ended"
	} else if status["podIP"] != nil || status["podIPs"] != nil {
		return "a pod has a fixed address"
	}
	if spec["initContainers"] != nil {
		return "a pod has init containers"
	}
	delete(x, "status")
	meta := x["metadata"].(object)
	ns, _ := meta["namespace"].(string)
	for i, c := range spec["containers"].([]any) {
		c := c.(object)
		var listen []string
		ports, _ := c["ports"].([]any)
		for _, p := range ports {
			p := p.(object)
			proto, _ := p["protocol"].(string)
			if proto == "SCTP" {
				continue
			}
			if proto == "" {
				proto = "tcp"
			}
			listen = append(listen, strings.ToLower(proto)+"/"+fmt.Sprint(p["containerPort"]))
		}
		c["image"], c["imagePullPolicy"], c["resources"] = proberImage, "Never", object{}
		delete(c, "command")
		c["args"] = []string{"-name", fmt.Sprintf("%s.%s.%d", ns, meta["name"], i), "-listen", strings.Join(listen, ","), "-tap=false"}
		c["volumeMounts"] = []object{{"name": "sockets", "mountPath": prober.Dir}}
	}
	delete(spec, "serviceAccountName")
	delete(spec, "serviceAccount")
	delete(spec, "nodeName")
	spec["volumes"] = []object{{"name": "sockets", "hostPath": object{"path": prober.Dir, "type": "DirectoryOrCreate"}}}
	spec["terminationGracePeriodSeconds"] = 0
	spec["automountServiceAccountToken"] = false
	spec["enableServiceLinks"] = false
	return ""
}

// stand makes the pods of a group of scenarios, spread over the nodes, and
// returns when all nodes know them.
func (l lab) stand(s *scenario) error {
	ctx := l.t.Context()
	for name, labels := range s.spaces {
		_ = l.API(ctx, "POST", "/api/v1/namespaces", object{"metadata": object{"name": name}}, nil) // it may be there
		// The labels are those of the scenario and the one that all have.
		all := object{"kubernetes.io/metadata.name": name}
		var now struct {
			Metadata struct{ Labels map[string]string }
		}
		if err := l.API(ctx, "GET", "/api/v1/namespaces/"+name, nil, &now); err != nil {
			return err
		}
		for k := range now.Metadata.Labels {
			if all[k] == nil {
				all[k] = nil
			}
		}
		for k, v := range labels {
			all[k] = v
		}
		if err := l.API(ctx, "PATCH", "/api/v1/namespaces/"+name, object{"metadata": object{"labels": all}}, nil); err != nil {
			return err
		}
		if err := eventually(10*time.Second, func() error {
			return l.API(ctx, "GET", "/api/v1/namespaces/"+name+"/serviceaccounts/default", nil, nil)
		}); err != nil {
			return err
		}
	}
	for i, p := range s.pods {
		p["spec"].(object)["nodeName"] = l.Nodes[i%len(l.Nodes)].Name
		if err := l.API(ctx, "POST", fmt.Sprintf("/api/v1/namespaces/%s/pods", p["metadata"].(object)["namespace"]), p, nil); err != nil {
			return err
		}
	}
	addresses := map[string]string{}
	err := eventually(30*time.Second, func() error {
		for ns := range s.spaces {
			var list podList
			if err := l.API(ctx, "GET", "/api/v1/namespaces/"+ns+"/pods", nil, &list); err != nil {
				return err
			}
			for _, x := range list.Items {
				if !slices.ContainsFunc(x.Status.Conditions, func(c struct{ Type, Status string }) bool { return c.Type == "Ready" && c.Status == "True" }) {
					return fmt.Errorf("pod %s/%s is not ready", ns, x.Metadata.Name)
				}
				addresses[ns+"/"+x.Metadata.Name] = x.Status.PodIP
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return eventually(10*time.Second, func() error {
		for _, n := range l.Nodes {
			known, err := knows(n)
			if err != nil {
				return err
			}
			for pod, ip := range addresses {
				if known[pod] != ip {
					return fmt.Errorf("%s knows %q as the address of %s, not %s", n.Name, known[pod], pod, ip)
				}
			}
		}
		return nil
	})
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

func (l lab) clear(s *scenario, what string) {
	for ns := range s.spaces {
		at := "/api/v1/namespaces/" + ns + "/pods?gracePeriodSeconds=0"
		if what == "networkpolicies" {
			at = "/apis/networking.k8s.io/v1/namespaces/" + ns + "/networkpolicies"
		}
		must(l.t, l.API(context.Background(), "DELETE", at, nil, nil))
	}
}

// TestScenarios has real pods of the corpus's scenarios connect, and holds the
// outcome against what the scenarios expect.
func TestScenarios(t *testing.T) {
	l := enforced(t)
	module, err := binary.Module()
	must(t, err)
	pattern := "*.txtar"
	if testing.Short() {
		pattern = "e2e-[0-2]*.txtar"
	}
	files, _ := filepath.Glob(filepath.Join(module, "../scenarios", pattern))
	all := make([]scenario, len(files))
	var parsing sync.WaitGroup
	limit := make(chan struct{}, 4)
	for i, f := range files {
		parsing.Go(func() {
			limit <- struct{}{}
			defer func() { <-limit }()
			if strings.HasPrefix(filepath.Base(f), "invalid-") {
				all[i] = scenario{name: strings.TrimSuffix(filepath.Base(f), ".txtar"), why: "it is about manifests that are not valid"}
				return
			}
			all[i] = l.parse(f)
		})
	}
	parsing.Wait()
	groups := map[string][]*scenario{}
	var order []string
	skipped := map[string][]string{}
	for i := range all {
		s := &all[i]
		if s.why != "" {
			skipped[s.why] = append(skipped[s.why], s.name)
			continue
		}
		if groups[s.cluster] == nil {
			order = append(order, s.cluster)
		}
		groups[s.cluster] = append(groups[s.cluster], s)
	}
	ran, cases, dropped, failed := 0, 0, 0, 0
	began := time.Now()
	var stood, played time.Duration
	for _, key := range order {
		group := groups[key]
		first := group[0]
		clock := time.Now()
		if err := l.stand(first); err != nil {
			t.Errorf("%s: %v", first.name, err)
			failed++
			l.clear(first, "pods")
			continue
		}
		stood += time.Since(clock)
		clock = time.Now()
		for _, s := range group {
			ran++
			cases += len(s.test["spec"].(object)["cases"].([]any))
			dropped += s.dropped
			if err := l.play(s); err != nil {
				failed++
				t.Errorf("%s: %v", s.name, err)
			}
			l.clear(first, "networkpolicies")
		}
		played += time.Since(clock)
		l.clear(first, "pods")
	}
	for why, names := range skipped {
		t.Logf("SKIPPED %d, because %s: %s", len(names), why, strings.Join(names, " "))
	}
	t.Logf("%d scenarios of %d in %d clusters, %d cases (%d more are not between pods): %d failed, in %.0f s (%.0f s for pods to start, %.0f s for policies and connections)",
		ran, len(all), len(order), cases, dropped, failed, time.Since(began).Seconds(), stood.Seconds(), played.Seconds())
}

// play applies a scenario's policies and runs its test.
func (l lab) play(s *scenario) error {
	version := "0"
	for _, p := range s.policies {
		var out meta
		ns, _ := p["metadata"].(object)["namespace"].(string)
		if ns == "" {
			ns = "default"
		}
		if err := l.API(l.t.Context(), "POST", "/apis/networking.k8s.io/v1/namespaces/"+ns+"/networkpolicies", p, &out); err != nil {
			return err
		}
		version = out.Metadata.ResourceVersion
	}
	l.realised(version)
	file := filepath.Join(l.t.TempDir(), "test.json")
	text, err := json.Marshal(s.test)
	if err == nil {
		err = os.WriteFile(file, text, 0o644)
	}
	if err != nil {
		return err
	}
	out, err := l.sallyport("test", "--live", "--expect", file)
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	// Nodes report to the API server every few seconds.
	return eventually(15*time.Second, func() error {
		out, err := l.sallyport("get", "policies")
		if err != nil || strings.Count(out, "3/3") != len(s.policies) {
			return fmt.Errorf("not all %d policies are in force on 3 nodes: %v\n%s", len(s.policies), err, out)
		}
		return nil
	})
}
