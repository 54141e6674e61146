package provider

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/binary"
	"github.com/sallyport-dev/sallyport/e2e/prober"
)

// scenario is one of ../../scenarios, as objects. Its namespaces are its
// group's alone, so that groups stand beside each other.
type scenario struct {
	name     string
	group    string // prefix of its namespaces, shared by scenarios of one cluster
	pods     []object
	spaces   map[string]object // namespace to labels
	policies []object
	test     object
	cases    int
	dropped  int // cases that a cluster cannot express
	why      string
}

var marker = regexp.MustCompile(`(?m)^-- (.+) --\n`)

// parse reads a scenario; kubectl turns its YAML into JSON. group names the
// group of a text that describes a cluster.
func (l lab) parse(path string, group func(cluster string) string) (s scenario) {
	s = scenario{name: strings.TrimSuffix(filepath.Base(path), ".txtar"), spaces: map[string]object{}}
	if strings.HasPrefix(s.name, "invalid-") {
		s.why = "it is about manifests that are not valid"
		return s
	}
	text, err := os.ReadFile(path)
	must(l.t, err)
	var all strings.Builder
	at := marker.FindAllSubmatchIndex(text, -1)
	for i, m := range at {
		end := len(text)
		if i+1 < len(at) {
			end = at[i+1][0]
		}
		name, body := string(text[m[2]:m[3]]), string(text[m[1]:end])
		if name == "cluster.yaml" {
			s.group = group(body)
		}
		if name == "cluster.yaml" || name == "test.yaml" || strings.HasPrefix(name, "policies") {
			all.WriteString(body + "\n---\n")
		}
	}
	list, err := l.decode(all.String())
	if err != nil {
		s.why = "its manifests are not valid: " + reason(err)
		return s
	}
	s.why = s.read(list)
	return s
}

// read returns why a cluster cannot express the scenario.
func (s *scenario) read(list []object) string {
	for _, x := range list {
		switch kind := x["kind"]; kind {
		case "Namespace":
			meta, _ := x["metadata"].(object)
			labels, _ := meta["labels"].(object)
			s.spaces[s.space(meta["name"])] = labels
		case "Pod":
			s.pods = append(s.pods, x)
		case "NetworkPolicy":
			s.policies = append(s.policies, x)
		case "PolicyTest":
			if s.test != nil {
				return "it has several tests"
			}
			s.test = x
		default:
			return fmt.Sprintf("its %ss are not made of probers, have fixed addresses, or are policies of another kind", kind)
		}
	}
	if len(s.pods) == 0 || s.test == nil {
		return "it has no pods, or no test"
	}
	for _, x := range slices.Concat(s.pods, s.policies) {
		meta, _ := x["metadata"].(object)
		meta["namespace"] = s.space(meta["namespace"])
		s.rename(x["spec"])
	}
	for _, p := range s.pods {
		if why := fit(p); why != "" {
			return why
		}
		if ns := p["metadata"].(object)["namespace"].(string); s.spaces[ns] == nil {
			s.spaces[ns] = object{}
		}
	}
	spec, _ := s.test["spec"].(object)
	cases, _ := spec["cases"].([]any)
	kept := []any{}
	for _, c := range cases {
		if c := c.(object); expressible(c) {
			s.renameCase(c)
			kept = append(kept, c)
		}
	}
	if len(kept) == 0 {
		return "none of its cases is between pods, by TCP or UDP"
	}
	spec["cases"], s.cases, s.dropped = kept, len(kept), len(cases)-len(kept)
	return ""
}

// space is the namespace that the scenario has instead of the one it names.
func (s *scenario) space(name any) string {
	if name == nil {
		name = "default"
	}
	return s.group + "-" + name.(string)
}

const metadataName = "kubernetes.io/metadata.name"

// rename has selectors in x name the scenario's own namespaces.
func (s *scenario) rename(x any) {
	switch x := x.(type) {
	case []any:
		for _, item := range x {
			s.rename(item)
		}
	case object:
		if values, ok := x["values"].([]any); ok && x["key"] == metadataName {
			for i, v := range values {
				values[i] = s.space(v)
			}
		}
		for k, v := range x {
			if name, ok := v.(string); ok && k == metadataName {
				x[k] = s.space(name)
			}
			s.rename(v)
		}
	}
}

// groupLabel keeps the selectors of a test to the scenario's own namespaces.
const groupLabel = "e2e-group"

func (s *scenario) renameCase(c object) {
	for _, end := range []string{"from", "to"} {
		switch side := c[end].(type) {
		case string:
			c[end] = s.group + "-" + side
		case object:
			s.rename(side)
			ns, _ := side["namespace"].(object)
			if ns == nil {
				ns = object{}
				side["namespace"] = ns
			}
			labels, _ := ns["matchLabels"].(object)
			if labels == nil {
				labels = object{}
				ns["matchLabels"] = labels
			}
			labels[groupLabel] = s.group
		}
	}
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
		c["image"], c["imagePullPolicy"], c["resources"] = proberImage, "Never", object{"requests": object{"cpu": "20m"}}
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
func (l lab) stand(s *scenario) {
	l.t.Helper()
	ctx := l.t.Context()
	for name, labels := range s.spaces {
		own := maps.Clone(labels)
		own[groupLabel] = s.group
		must(l.t, l.API(ctx, "POST", "/api/v1/namespaces", object{"metadata": object{"name": name, "labels": own}}, nil))
		l.t.Cleanup(func() { l.removeNamespace(name) })
	}
	for name := range s.spaces {
		must(l.t, eventually(func() error {
			return l.API(ctx, "GET", "/api/v1/namespaces/"+name+"/serviceaccounts/default", nil, nil)
		}))
	}
	for i, p := range s.pods {
		p["spec"].(object)["nodeName"] = l.Nodes[i%len(l.Nodes)].Name
		err := l.API(ctx, "POST", fmt.Sprintf("/api/v1/namespaces/%s/pods", p["metadata"].(object)["namespace"]), p, nil)
		if refused(err) {
			l.t.Skipf("NOT TESTED: there can be no such pod: %v", err)
		}
		must(l.t, err)
	}
	addresses := map[string]string{}
	must(l.t, eventually(func() error {
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
	}))
	l.knownAt(addresses)
}

// groupsAtOnce is how many groups of scenarios stand beside each other: most of
// their time they wait for pods, reports and connections that are denied.
const groupsAtOnce = 8

// TestScenarios has real pods of the corpus's scenarios connect, and holds the
// outcome against what the scenarios expect.
func TestScenarios(t *testing.T) {
	l := enforced(t)
	began := time.Now()
	groups := l.scenarios()
	parsed := time.Since(began)
	todo := make(chan []*scenario, len(groups))
	for _, g := range groups {
		todo <- g
	}
	close(todo)
	var workers sync.WaitGroup
	var ran, cases, dropped atomic.Int64
	for range groupsAtOnce {
		workers.Go(func() {
			for group := range todo {
				t.Run(group[0].name, func(t *testing.T) {
					l := lab{l.Cluster, t}
					l.stand(group[0])
					for _, s := range group {
						if err := l.play(s); err != nil {
							t.Error(err)
						}
						ran.Add(1)
						cases.Add(int64(s.cases))
						dropped.Add(int64(s.dropped))
					}
				})
			}
		})
	}
	workers.Wait()
	t.Logf("%d scenarios in %d clusters, %d cases (%d more are not between pods), in %.0f s (%.0f s to read them)",
		ran.Load(), len(groups), cases.Load(), dropped.Load(), time.Since(began).Seconds(), parsed.Seconds())
}

// scenarios reads those that a cluster can express, by groups of one cluster,
// and says why not the others.
func (l lab) scenarios() (groups [][]*scenario) {
	l.t.Helper()
	module, err := binary.Module()
	must(l.t, err)
	pattern := "*.txtar"
	if testing.Short() {
		pattern = "e2e-[0-2]*.txtar"
	}
	files, _ := filepath.Glob(filepath.Join(module, "../scenarios", pattern))
	names, skipped := map[string]string{}, map[string][]string{}
	var order []string
	byGroup := map[string][]*scenario{}
	for _, f := range files {
		s := l.parse(f, func(cluster string) string {
			if names[cluster] == "" {
				names[cluster] = fmt.Sprint("g", len(names)+1)
			}
			return names[cluster]
		})
		if s.why != "" {
			skipped[s.why] = append(skipped[s.why], s.name)
			continue
		}
		if byGroup[s.group] == nil {
			order = append(order, s.group)
		}
		byGroup[s.group] = append(byGroup[s.group], &s)
	}
	for _, why := range slices.Sorted(maps.Keys(skipped)) {
		l.t.Logf("SKIPPED %d of %d, because %s: %s", len(skipped[why]), len(files), why, strings.Join(skipped[why], " "))
	}
	tried := 0
	for _, g := range order {
		group := byGroup[g]
		tried += len(group)
		// Those without policies first: they cannot tell when those before are gone.
		slices.SortStableFunc(group, func(a, b *scenario) int { return min(1, len(a.policies)) - min(1, len(b.policies)) })
		groups = append(groups, group)
	}
	if tried < 30 {
		l.t.Fatalf("only %d of %d scenarios can be tried: is something wrong with all of them?", tried, len(files))
	}
	// The longest first, that nobody waits for it at the end.
	slices.SortStableFunc(groups, func(a, b []*scenario) int { return len(b) - len(a) })
	return groups
}

// play applies a scenario's policies, runs its test, and takes them away.
func (l lab) play(s *scenario) error {
	version := "0"
	var paths []string
	for _, p := range s.policies {
		var out meta
		path := fmt.Sprintf("/apis/networking.k8s.io/v1/namespaces/%s/networkpolicies", p["metadata"].(object)["namespace"])
		if err := l.API(l.t.Context(), "POST", path, p, &out); refused(err) {
			l.t.Logf("NOT TESTED: there can be no policy as in %s: %v", s.name, err)
			return l.remove(paths)
		} else if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		paths, version = append(paths, path+"/"+out.Metadata.Name), out.Metadata.ResourceVersion
	}
	l.realised(version)
	file := filepath.Join(l.t.TempDir(), "test.json")
	text, err := json.Marshal(s.test)
	must(l.t, err)
	must(l.t, os.WriteFile(file, text, 0o644))
	var out string
	for range 3 {
		out, err = l.sallyport("test", "--live", "--expect", file)
		// On a busy machine a connection may take longer than a second. What must
		// not come about has no second chance.
		if err == nil || !strings.Contains(out, "observed: timed out") || strings.Contains(out, "expected deny") {
			break
		}
	}
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s", s.name, err, out)
	} else if len(s.policies) > 0 {
		err = l.inForce(s)
	}
	return errors.Join(err, l.remove(paths))
}

// remove deletes policies. That they are gone is seen with the next scenario's,
// which come later.
func (l lab) remove(paths []string) (err error) {
	for _, path := range paths {
		err = errors.Join(err, l.API(l.t.Context(), "DELETE", path, nil, nil))
	}
	return err
}

// refused says whether the API server takes no such object: a file may say
// what an API server would not have.
func refused(err error) bool {
	return err != nil && (strings.Contains(err.Error(), "400 Bad Request") || strings.Contains(err.Error(), "422 Unprocessable Entity"))
}

// inForce waits until the command says that the scenario's policies are in
// force everywhere: nodes report to the API server once a second.
func (l lab) inForce(s *scenario) error {
	return eventually(func() error {
		out, err := l.sallyport("get", "policies")
		n := 0
		for line := range strings.Lines(out) {
			if fields := strings.Fields(line); len(fields) > 0 && s.spaces[fields[0]] != nil && strings.Contains(line, "3/3") {
				n++
			}
		}
		if n == len(s.policies) {
			return nil // whatever it finds of other groups
		}
		time.Sleep(200 * time.Millisecond) // it is a process each time
		return fmt.Errorf("%s: not all %d policies are in force on 3 nodes: %v\n%s", s.name, len(s.policies), err, out)
	})
}
