package flow

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/model"
)

func TestParseRecord(t *testing.T) {
	web := Record{
		Source: netip.MustParseAddr("10.0.0.1"), Destination: netip.MustParseAddr("10.0.0.2"), SourcePod: "shop/web", DestinationPod: "shop/db",
		Key: model.PortKeyOf(model.TCP, 5432), Allowed: true,
	}
	denied := web
	denied.Allowed = false
	outside := web
	outside.DestinationPod, outside.Destination, outside.Key = "", netip.MustParseAddr("2001:db8::1"), model.PortKeyOf(model.UDP, 53)
	ping := web
	ping.Key = model.PortKeyOf(model.ICMP, 8<<8)
	for line, want := range map[string]*Record{
		`{"time":1,"revision":2,"hook":"forward","reason":"allowed","source":"10.0.0.1","destination":"10.0.0.2","sourcePort":1,"destinationPort":5432,"protocol":6,"sourcePod":"shop/web","destinationPod":"shop/db","verdict":"allowed"}`:                            &web,
		`{"source":"10.0.0.1","destination":"10.0.0.2","destinationPort":5432,"protocol":6,"sourcePod":"shop/web","destinationPod":"shop/db","verdict":"denied"}`:                                                                                                      &denied,
		`{"flow":{"verdict":"FORWARDED","IP":{"source":"10.0.0.1","destination":"10.0.0.2"},"l4":{"TCP":{"source_port":1,"destination_port":5432}},"source":{"namespace":"shop","pod_name":"web"},"destination":{"namespace":"shop","pod_name":"db"},"Type":"L3_L4"}}`: &web,
		`{"verdict":"DROPPED","IP":{"source":"10.0.0.1","destination":"10.0.0.2"},"l4":{"TCP":{"destination_port":5432}},"source":{"namespace":"shop","pod_name":"web"},"destination":{"namespace":"shop","pod_name":"db"}}`:                                           &denied,
		`{"flow":{"verdict":"FORWARDED","IP":{"source":"10.0.0.1","destination":"2001:db8::1"},"l4":{"UDP":{"destination_port":53}},"source":{"namespace":"shop","pod_name":"web"},"destination":{"labels":["reserved:world"]}}}`:                                      &outside,
		`{"flow":{"verdict":"FORWARDED","IP":{"source":"10.0.0.1","destination":"10.0.0.2"},"l4":{"ICMPv4":{"type":8}},"source":{"namespace":"shop","pod_name":"web"},"destination":{"namespace":"shop","pod_name":"db"}}}`:                                            &ping,
		`{"flow":{"verdict":"FORWARDED","is_reply":true,"IP":{"source":"10.0.0.2","destination":"10.0.0.1"},"l4":{"TCP":{"destination_port":40000}}}}`:                                                                                                                 nil,
		`{"flow":{"verdict":"FORWARDED","Type":"L7","IP":{"source":"10.0.0.1","destination":"10.0.0.2"},"l4":{"TCP":{"destination_port":80}}}}`:                                                                                                                        nil,
		`{"lost_events":{"num_events_lost":3}}`: nil,
	} {
		got, ok, err := ParseRecord([]byte(line))
		if err != nil || ok != (want != nil) || ok && got != *want {
			t.Errorf("%s\ngot  %+v %v %v\nwant %+v", line, got, ok, err, want)
		}
	}
	for _, line := range []string{"", "{", "text", `{"verdict":"allowed","source":"web","destination":"10.0.0.2"}`, `{"verdict":"allowed"}`} {
		if _, ok, err := ParseRecord([]byte(line)); err == nil || ok || !strings.Contains(err.Error(), "is no flow") {
			t.Errorf("%q: %v %v", line, ok, err)
		}
	}
}

func BenchmarkParseRecord(b *testing.B) {
	line := []byte(`{"time":123456789,"revision":2,"hook":"forward","reason":"allowed","source":"10.0.0.1","destination":"10.0.0.2","sourcePort":41000,"destinationPort":5432,"protocol":6,"sourcePod":"shop/web-5f7c9","destinationPod":"shop/db-0","verdict":"allowed"}`)
	for b.Loop() {
		if _, ok, _ := ParseRecord(line); !ok {
			b.Fatal("not read")
		}
	}
}
