package flow

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// TestReaderReadsWhatParseRecordReads writes random flows, right and wrong, in
// both formats: ParseRecord, which knows JSON by the library, says what is in
// them.
func TestReaderReadsWhatParseRecordReads(t *testing.T) {
	var r Reader
	read := 0
	for seed := range uint64(50_000) {
		w := lineWriter{rand.New(rand.NewPCG(seed, 0))}
		line := []byte(w.line())
		if !json.Valid(line) {
			t.Fatalf("seed %d: %s is no JSON", seed, line)
		}
		want, wantOK, wantErr := ParseRecord(line)
		got, ok, err := r.Parse(line)
		if ok != wantOK || (err == nil) != (wantErr == nil) || ok && got != want {
			t.Fatalf("seed %d: %s\ngot  %+v %v %v\nwant %+v %v %v", seed, line, got, ok, err, want, wantOK, wantErr)
		}
		if ok {
			read++
		}
	}
	if read < 5_000 {
		t.Errorf("only %d lines are flows", read)
	}
}

// A line that ends too early, or goes on, is as wrong for the one as for the other.
func TestReaderReportsWhatIsNoFlow(t *testing.T) {
	var r Reader
	for n := range len(hubbleLine) {
		if _, ok, err := r.Parse([]byte(hubbleLine[:n])); ok || err == nil {
			t.Fatalf("%s: %v %v, want an error", hubbleLine[:n], ok, err)
		}
	}
	for _, line := range []string{hubbleLine + "}", hubbleLine + "{}", "text", "[]", `"text"`, "1"} {
		if _, ok, err := r.Parse([]byte(line)); ok || err == nil {
			t.Errorf("%s: %v %v, want an error", line, ok, err)
		}
	}
}

type lineWriter struct{ *rand.Rand }

func (w lineWriter) one(of ...string) string { return of[w.IntN(len(of))] }

// object writes the fields in any order, without some, with others, seldom
// with a value of another kind.
func (w lineWriter) object(fields ...[2]string) string {
	fields = append(fields, [2]string{"other", w.one("1", "-2.5e3", "null", `"a \"quoted\" } text"`, `{"a":[1,{"b":"]"}]}`, "[]", "true")})
	w.Shuffle(len(fields), func(i, j int) { fields[i], fields[j] = fields[j], fields[i] })
	var out []string
	for _, f := range fields {
		value := f[1]
		switch w.IntN(40) {
		case 0, 1:
			continue
		case 2:
			value = w.one("null", `""`, "7", "{}", "[]", "false", `"text"`, "70000")
		}
		out = append(out, fmt.Sprintf("%q:%s%s", f[0], w.one("", " "), value))
	}
	return "{" + strings.Join(out, w.one(",", ", ")) + "}"
}

func (w lineWriter) line() string {
	address := func() string { return w.one(`"10.0.0.1"`, `"10.0.0.2"`, `"::ffff:10.0.0.3"`, `"2001:db8::1"`, `"web"`) }
	pod := func() string { return w.one(`"shop/web"`, `"shop/db"`, `""`, `"shop/\u0077eb"`, `"shop/wéb"`) }
	port := func() string { return fmt.Sprint(w.IntN(70_000)) }
	if w.IntN(3) == 0 {
		return w.object([2]string{"source", address()}, [2]string{"destination", address()}, [2]string{"sourcePod", pod()}, [2]string{"destinationPod", pod()},
			[2]string{"destinationPort", port()}, [2]string{"protocol", w.one("6", "17", "300", "1")}, [2]string{"verdict", w.one(`"allowed"`, `"denied"`, `"lost"`)})
	}
	end := func() string {
		return w.object([2]string{"namespace", w.one(`"shop"`, `""`)}, [2]string{"pod_name", w.one(`"web"`, `"db"`, `""`)})
	}
	layer := w.object([2]string{"destination_port", port()}, [2]string{"source_port", "1"})
	ping := w.object([2]string{"type", w.one("8", "128", "256")}, [2]string{"code", "0"})
	layers := [][2]string{{"TCP", layer}, {"UDP", layer}, {"SCTP", layer}, {"ICMPv4", ping}, {"ICMPv6", ping}}
	w.Shuffle(len(layers), func(i, j int) { layers[i], layers[j] = layers[j], layers[i] })
	flow := w.object(
		[2]string{"verdict", w.one(`"FORWARDED"`, `"DROPPED"`, `"AUDIT"`, `"ERROR"`)}, [2]string{"IP", w.object([2]string{"source", address()}, [2]string{"destination", address()})},
		[2]string{"l4", w.object(slices.Clone(layers[:1+w.IntN(20)/19])...)}, [2]string{"source", end()}, [2]string{"destination", end()},
		[2]string{"Type", w.one(`"L3_L4"`, `"L3_L4"`, `"L7"`)}, [2]string{"is_reply", w.one("false", "false", "true")},
	)
	if w.IntN(2) == 0 {
		return flow
	}
	return w.object([2]string{"flow", flow}, [2]string{"node_name", `"n"`})
}

const hubbleLine = `{"flow":{"time":"2026-01-01T00:00:02.000000001Z","uuid":"8f6c0c1e-4b1d-4f6e-9c60-000000000001","verdict":"FORWARDED","ethernet":{"source":"0a:58:0a:00:00:01","destination":"0a:58:0a:00:00:02"},"IP":{"source":"10.0.0.1","destination":"10.0.0.2","ipVersion":"IPv4"},"l4":{"TCP":{"source_port":40000,"destination_port":5432,"flags":{"SYN":true}}},"source":{"ID":1,"identity":77,"namespace":"shop","labels":["k8s:app=a","k8s:io.kubernetes.pod.namespace=shop"],"pod_name":"web","workloads":[{"name":"w","kind":"Deployment"}]},"destination":{"ID":2,"identity":78,"namespace":"shop","labels":["k8s:app=b","k8s:io.kubernetes.pod.namespace=shop"],"pod_name":"db","workloads":[{"name":"w","kind":"Deployment"}]},"Type":"L3_L4","node_name":"node-1","event_type":{"type":4,"sub_type":3},"traffic_direction":"INGRESS","trace_observation_point":"TO_ENDPOINT","is_reply":false,"Summary":"TCP Flags: SYN"},"node_name":"node-1","time":"2026-01-01T00:00:00Z"}`

func BenchmarkReader(b *testing.B) {
	for name, line := range map[string]string{
		"ours":   `{"time":123456789,"revision":2,"hook":"forward","reason":"allowed","source":"10.0.0.1","destination":"10.0.0.2","sourcePort":41000,"destinationPort":5432,"protocol":6,"sourcePod":"shop/web-5f7c9","destinationPod":"shop/db-0","verdict":"allowed"}`,
		"hubble": hubbleLine,
	} {
		b.Run(name, func(b *testing.B) {
			var r Reader
			b.ReportAllocs()
			b.SetBytes(int64(len(line)))
			for b.Loop() {
				if _, ok, _ := r.Parse([]byte(line)); !ok {
					b.Fatal("not read")
				}
			}
		})
	}
}
