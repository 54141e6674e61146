package kube

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/rest"
)

// TestMemoryOfALargeCluster reads 10,000 pods with their accounts and Services,
// and 2,000 policies, half of them Cilium's, in a process of its own and bounds
// what they cost there.
func TestMemoryOfALargeCluster(t *testing.T) {
	if url := os.Getenv("SALLYPORT_KUBE_CHILD"); url != "" {
		memoryChild(t, url)
		return
	}
	if testing.Short() {
		t.Skip("large")
	}
	s := world(t)
	for i := range 10_000 {
		s.put("pods", largePod(i))
	}
	pods := measure(t, s)
	for i := range 500 {
		s.put("serviceaccounts", largeAccount(i))
		s.put("services", largeService(i))
		s.put("endpointslices", largeSlice(i))
	}
	few := measure(t, s)
	s.serve(resourceNamed("ciliumnetworkpolicies"), true)
	for i := range 1000 {
		s.put("networkpolicies", largePolicy(i))
		s.put("ciliumnetworkpolicies", largeCilium(i))
	}
	s.set(func() { clear(s.events) })
	for _, streams := range []bool{true, false} {
		s.set(func() { s.streams = streams })
		all := measure(t, s)
		pod, workload, policy := pods["heap"]/10_000, (few["heap"]-pods["heap"])/500, (all["heap"]-few["heap"])/2000
		t.Logf("streams=%v: %d B per pod, %d B per account with a Service of 20 pods, %d B per policy; %d MB of heap in use, RSS %d MB, at most %d MB; first update after %d ms",
			streams, pod, workload, policy, all["heap"]>>20, all["VmRSS"]>>20, all["VmHWM"]>>20, all["ms"])
		if pod > 1500 || policy > 6000 {
			t.Errorf("%d B per pod, want ≤ 1500; %d B per policy, want ≤ 6000", pod, policy)
		}
		if hwm := all["VmHWM"] >> 20; hwm > 120 && !raced() {
			t.Errorf("at most %d MB of memory, want ≤ 120", hwm)
		}
	}
}

// raced says whether the race detector is on, which needs memory of its own.
func raced() bool {
	info, _ := debug.ReadBuildInfo()
	return slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// measure has a child read the server and returns what it says of itself.
func measure(t *testing.T, s *server) map[string]int {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestMemoryOfALargeCluster$", "-test.v")
	cmd.Env = append(os.Environ(), "SALLYPORT_KUBE_CHILD="+s.URL, "GOMEMLIMIT=100MiB")
	text, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	out := map[string]int{}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			out[name], _ = strconv.Atoi(value)
		}
	}
	return out
}

func memoryChild(t *testing.T, url string) {
	heap := func() int {
		var m runtime.MemStats
		debug.FreeOSMemory()
		runtime.ReadMemStats(&m)
		return int(m.HeapAlloc)
	}
	before := heap()
	w, err := New(Config{REST: &rest.Config{Host: url}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	start := time.Now()
	go func() { w.Run(ctx); close(done) }()
	u, err := w.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("ms=%d\n", time.Since(start).Milliseconds())
	time.Sleep(100 * time.Millisecond)
	fmt.Printf("heap=%d\n", heap()-before)
	file, err := os.Open("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		var kb int
		name, rest, _ := strings.Cut(lines.Text(), ":")
		if _, err := fmt.Sscanf(strings.TrimSpace(rest), "%d kB", &kb); err == nil {
			fmt.Printf("%s=%d\n", name, kb<<10)
		}
	}
	runtime.KeepAlive(u)
	cancel()
	<-done
}

// largePod is a pod as large as they are: most of it nothing that policies see.
func largePod(i int) jsonObject {
	app := i / 20 // pods per workload
	hash := fmt.Sprintf("%010x", app*7919)
	o := podObject(fmt.Sprintf("team-%d", app%100), fmt.Sprintf("service-%d-%s-%05x", app, hash, i), fmt.Sprintf("10.%d.%d.%d", 1+i>>16, i>>8&255, i&255), jsonObject{
		"app.kubernetes.io/name": fmt.Sprintf("service-%d", app), "app.kubernetes.io/part-of": fmt.Sprintf("team-%d", app%100),
		"app.kubernetes.io/managed-by": "Helm", "pod-template-hash": hash, "tier": []string{"web", "api", "db"}[app%3],
	})
	m, spec := o["metadata"].(jsonObject), o["spec"].(jsonObject)
	m["uid"] = fmt.Sprintf("8b1a9953-c461-4296-a827-%012d", i)
	m["ownerReferences"] = []any{jsonObject{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": fmt.Sprintf("service-%d-%s", app, hash), "uid": "x", "controller": true}}
	m["annotations"] = jsonObject{"checksum/config": strings.Repeat("0123456789abcdef", 4), "prometheus.io/scrape": "true"}
	m["managedFields"] = []any{jsonObject{"manager": "kubelet", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1",
		"fieldsV1": jsonObject{"f:status": jsonObject{"f:conditions": jsonObject{"pad": strings.Repeat("f:lastTransitionTime ", 60)}}}}}
	var env []any
	for j := range 25 {
		env = append(env, jsonObject{"name": fmt.Sprintf("SETTING_%d", j), "value": strings.Repeat("value ", 8)})
	}
	c := spec["containers"].([]any)[0].(jsonObject)
	c["env"], c["image"] = env, "registry.example.com/team/service@sha256:"+strings.Repeat("ab", 32)
	spec["nodeName"] = fmt.Sprintf("node-%d", i%300)
	spec["serviceAccountName"] = fmt.Sprintf("service-%d", app)
	o["status"].(jsonObject)["conditions"] = []any{jsonObject{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}}
	return o
}

func workloadOf(i int) (namespace, name string) {
	return fmt.Sprintf("team-%d", i%100), fmt.Sprintf("service-%d", i)
}

func largeAccount(i int) jsonObject {
	namespace, name := workloadOf(i)
	return jsonObject{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": named(namespace, name, jsonObject{"labels": jsonObject{
		"app.kubernetes.io/name": name, "app.kubernetes.io/managed-by": "Helm"}})}
}

func largeService(i int) jsonObject {
	namespace, name := workloadOf(i)
	return jsonObject{"apiVersion": "v1", "kind": "Service", "metadata": named(namespace, name, jsonObject{"labels": jsonObject{"app.kubernetes.io/name": name}}),
		"spec": jsonObject{"clusterIP": fmt.Sprintf("10.96.%d.%d", i>>8, i&255), "selector": jsonObject{"app.kubernetes.io/name": name}, "ports": []any{
			jsonObject{"name": "http", "port": 80, "targetPort": "http"}, jsonObject{"name": "metrics", "port": 9090}}}}
}

func largeSlice(i int) jsonObject {
	namespace, name := workloadOf(i)
	var list []any
	for j := range 20 {
		pod := i*20 + j
		list = append(list, jsonObject{"addresses": []any{fmt.Sprintf("10.%d.%d.%d", 1+pod>>16, pod>>8&255, pod&255)}, "conditions": jsonObject{"ready": true},
			"targetRef": jsonObject{"kind": "Pod", "namespace": namespace, "name": fmt.Sprintf("%s-%010x-%05x", name, i*7919, pod)}})
	}
	return jsonObject{"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
		"metadata":  named(namespace, name+"-x7k2p", jsonObject{"labels": jsonObject{"kubernetes.io/service-name": name}}),
		"ports":     []any{jsonObject{"name": "http", "port": 8080, "protocol": "TCP"}, jsonObject{"name": "metrics", "port": 9090, "protocol": "TCP"}},
		"endpoints": list}
}

func largeCilium(i int) jsonObject {
	namespace, name := workloadOf(i)
	return jsonObject{"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": named(namespace, fmt.Sprintf("allow-%d", i), jsonObject{"annotations": jsonObject{
		"kubectl.kubernetes.io/last-applied-configuration": strings.Repeat("x", 1200)}}), "spec": jsonObject{
		"endpointSelector": jsonObject{"matchLabels": jsonObject{"app.kubernetes.io/name": name}},
		"ingress": []any{jsonObject{"fromEndpoints": []any{jsonObject{"matchLabels": jsonObject{"tier": "web"}}, jsonObject{"matchLabels": jsonObject{"k8s:io.kubernetes.pod.namespace": "monitoring"}}},
			"toPorts": []any{jsonObject{"ports": []any{jsonObject{"port": "8080", "protocol": "TCP"}}}}}},
		"egress": []any{jsonObject{"toCIDRSet": []any{jsonObject{"cidr": "10.0.0.0/8", "except": []any{"10.9.0.0/16"}}}}, jsonObject{"toServices": []any{
			jsonObject{"k8sService": jsonObject{"serviceName": name, "namespace": namespace}}}}},
	}}
}

func largePolicy(i int) jsonObject {
	o := policyObject(fmt.Sprintf("team-%d", i%100), fmt.Sprintf("allow-%d", i), jsonObject{
		"podSelector": jsonObject{"matchLabels": jsonObject{"app.kubernetes.io/name": fmt.Sprintf("service-%d", i%500)}},
		"policyTypes": []any{"Ingress", "Egress"},
		"ingress": []any{jsonObject{"ports": []any{jsonObject{"port": 8080, "protocol": "TCP"}}, "from": []any{
			jsonObject{"podSelector": jsonObject{"matchLabels": jsonObject{"tier": "web"}}},
			jsonObject{"namespaceSelector": jsonObject{"matchLabels": jsonObject{"kubernetes.io/metadata.name": "monitoring"}}}}}},
		"egress": []any{jsonObject{"to": []any{jsonObject{"ipBlock": jsonObject{"cidr": "10.0.0.0/8", "except": []any{"10.9.0.0/16"}}}}}},
	})
	o["metadata"].(jsonObject)["annotations"] = jsonObject{"kubectl.kubernetes.io/last-applied-configuration": strings.Repeat("x", 1200)}
	return o
}
