package kube

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestMergeCoversJustThePrefixes(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"", ""},
		{"10.0.1.0/24 10.0.0.0/24", "10.0.0.0/23"},
		{"10.0.1.0/24 10.0.2.0/24", "10.0.1.0/24 10.0.2.0/24"},
		{"10.0.3.0/24 10.0.1.0/24 10.0.0.0/24 10.0.2.0/24", "10.0.0.0/22"},
		{"10.0.0.0/16 10.0.3.0/24 10.0.0.0/24", "10.0.0.0/16"},
		{"0.0.0.0/1 128.0.0.0/1", "0.0.0.0/0"},
		{"fd00::/64 10.0.0.0/24 fd00:0:0:1::/64", "10.0.0.0/24 fd00::/63"},
		{"255.255.255.255/32 ::/128", "255.255.255.255/32 ::/128"},
	} {
		var in []netip.Prefix
		for s := range strings.FieldsSeq(c.in) {
			in = append(in, netip.MustParsePrefix(s))
		}
		if got := strings.Trim(fmt.Sprint(merge(in)), "[]"); got != c.want {
			t.Errorf("%s: %s, want %s", c.in, got, c.want)
		}
	}
}

// BenchmarkPodEvent is what a pod's event costs among many pods.
func BenchmarkPodEvent(b *testing.B) {
	for _, pods := range []int{1000, 100_000} {
		b.Run(fmt.Sprint(pods), func(b *testing.B) {
			p, s := newPool(), newState(nil)
			object := func(i int, phase corev1.PodPhase) *corev1.Pod {
				return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: fmt.Sprint("p", i), Labels: map[string]string{"app": "x"}},
					Status: corev1.PodStatus{Phase: phase, PodIPs: []corev1.PodIP{{IP: netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}).String()}}}}
			}
			for i := range pods {
				s.pods.event(key{"a", fmt.Sprint("p", i)}, 0, trimPod(p, object(i, corev1.PodRunning)))
			}
			s.take()
			b.ReportAllocs()
			i := pods
			for b.Loop() {
				o := object(i, corev1.PodRunning)
				k := key{o.Namespace, o.Name}
				s.pods.event(k, 0, trimPod(p, o))
				if u, ok := s.take(); !ok || len(u.Change.Endpoints) != 1 {
					b.Fatal("no update")
				}
				s.pods.event(k, 0, nil)
				if u, ok := s.take(); !ok || len(u.Change.DeletedEndpoints) != 1 {
					b.Fatal("no update")
				}
				i++
			}
		})
	}
}
