package kube

import (
	"math/rand"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/randfill"
)

// Of random pods and nodes, what is decoded slim is trimmed to the same.
func TestSlimIsEnough(t *testing.T) {
	fill := randfill.NewWithSeed(1).NilChance(0.2).NumElements(0, 3).MaxDepth(12).Funcs(
		func(o *metav1.Time, c randfill.Continue) { *o = metav1.Unix(c.Int63n(1<<32), 0) },
		func(o *metav1.FieldsV1, _ randfill.Continue) { o.Raw = []byte("{}") },
		func(o *runtime.Object, _ randfill.Continue) { *o = nil },
		func(o *corev1.PodIP, c randfill.Continue) { o.IP = addressOf(c.Rand) },
		func(o *corev1.NodeAddress, c randfill.Continue) {
			*o = corev1.NodeAddress{Type: []corev1.NodeAddressType{corev1.NodeInternalIP, corev1.NodeExternalIP, corev1.NodeHostName}[c.Intn(3)], Address: addressOf(c.Rand)}
		},
	)
	compare := func(whole, slim any) {
		t.Helper()
		if diff := cmp.Diff(whole, slim, cmp.AllowUnexported(pod{}, node{}), addresses, prefixes); diff != "" {
			t.Fatalf("-whole +slim:\n%s", diff)
		}
	}
	must := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	addressed := 0
	for range 2000 {
		var whole corev1.Pod
		fill.Fill(&whole)
		whole.Status.Phase = corev1.PodRunning
		if len(whole.Status.Conditions) > 0 {
			whole.Status.Conditions[0].Type = corev1.PodReady
		}
		text, err := whole.Marshal()
		must(t, err)
		var slim slimPod
		must(t, slim.Unmarshal(text))
		p := newPool()
		compare(trimPod(p, &whole), trimPod(p, &slim.Pod))
		if slim.Name != whole.Name || slim.ResourceVersion != whole.ResourceVersion {
			t.Fatal("name and version are missing")
		}
		if slim.Spec.Volumes != nil || slim.ManagedFields != nil {
			t.Fatal("it is not slim")
		}
		addressed += len(slim.Status.PodIPs)

		var one corev1.Node
		fill.Fill(&one)
		one.Spec.PodCIDRs = []string{"10.0.1.0/24", "fd00::/64"}[:len(one.Name)%3]
		text, err = one.Marshal()
		must(t, err)
		var thin slimNode
		must(t, thin.Unmarshal(text))
		compare(trimNode(p, &one), trimNode(p, &thin.Node))

		list := corev1.PodList{ListMeta: metav1.ListMeta{ResourceVersion: "7", Continue: "next"}, Items: []corev1.Pod{whole, {}, whole}}
		text, err = list.Marshal()
		must(t, err)
		var some slimList[slimPod, *slimPod]
		must(t, some.Unmarshal(text))
		if some.ResourceVersion != "7" || some.Continue != "next" || len(some.Items) != 3 {
			t.Fatalf("list %+v", some.ListMeta)
		}
		compare(slim.Pod.Spec, some.Items[2].Pod.Spec)
	}
	if addressed < 100 {
		t.Errorf("only %d addresses", addressed)
	}
}

func addressOf(r *rand.Rand) string { return []string{"10.0.0.1", "10.0.0.2", "fd00::3"}[r.Intn(3)] }

// What is cut off is an error, and nothing panics.
func FuzzSlim(f *testing.F) {
	text, err := (&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: corev1.PodSpec{NodeName: "n", Containers: []corev1.Container{{Name: "c", Ports: []corev1.ContainerPort{{ContainerPort: 80}}}}}}).Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Fuzz(func(t *testing.T, b []byte) {
		var whole corev1.Pod
		var slim slimPod
		if whole.Unmarshal(b) == nil {
			if err := slim.Unmarshal(b); err != nil {
				t.Skip() // k8s.io/api is laxer about groups
			}
			p := newPool()
			if diff := cmp.Diff(trimPod(p, &whole), trimPod(p, &slim.Pod), cmp.AllowUnexported(pod{}), addresses); diff != "" {
				t.Errorf("-whole +slim:\n%s", diff)
			}
		}
	})
}
