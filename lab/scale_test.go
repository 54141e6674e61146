//go:build linux

package lab

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/model"
)

// TestManyPods asks every pod from every pod.
func TestManyPods(t *testing.T) {
	if testing.Short() {
		t.Skip("this test takes long")
	}
	const pods = 60
	c := testCluster()
	c.Endpoints, c.Services = nil, nil
	v4, v6 := addr("10.244.1.1"), addr("fd00:10:244::1:1")
	for i := range pods {
		c.Endpoints = append(c.Endpoints, testPod(fmt.Sprintf("p%03d", i), c.Nodes[i%2].Name, v4.String(), v6.String(), testPorts...))
		v4, v6 = v4.Next(), v6.Next()
	}
	svc := model.ServicePort{Protocol: model.TCP, Port: 80}
	for _, e := range c.Endpoints {
		svc.Backends = append(svc.Backends, model.Backend{IP: e.IPs[0], Port: 8080, Pod: e.Key()})
	}
	for i := range pods {
		c.Services = append(c.Services, model.Service{
			Namespace: "shop", Name: fmt.Sprintf("s%d", i), Ports: []model.ServicePort{svc},
			ClusterIPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 96, 1, byte(i)})},
		})
	}
	began := time.Now()
	l := upLab(t, c)
	t.Logf("up after %s", time.Since(began))
	var probes []Probe
	for i := range c.Endpoints {
		for j := range c.Endpoints {
			for _, ip := range append(c.Endpoints[j].IPs, netip.AddrFrom4([4]byte{10, 96, 1, byte(j)})) {
				port := uint16(8080)
				if ip.As16()[13] == 96 {
					port = 80
				}
				probes = append(probes, Probe{From: c.Endpoints[i].Key(), To: ip, Protocol: model.TCP, Port: port})
			}
		}
	}
	began = time.Now()
	for i, o := range l.Probe(context.Background(), probes, wait) {
		if o != Connected {
			t.Errorf("%+v: %s", probes[i], o)
		}
	}
	t.Logf("%d probes took %s", len(probes), time.Since(began))
	began = time.Now()
	if err := l.Down(); err != nil {
		t.Error(err)
	}
	t.Logf("down after %s", time.Since(began))
}
