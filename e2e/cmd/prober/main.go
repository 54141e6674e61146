// Command prober is the client, the server and the wiretap of the provider's
// tests. From its first instruction on it sends a UDP datagram and a TCP SYN
// to each of its targets every millisecond, records every packet that arrives
// at its pod, and answers on its ports. Package prober asks it what it saw.
//
//	prober -name web -listen 7000 -to 10.244.1.2:7000,10.244.1.3:7000 -burst 1s -then 50ms
package main

import (
	"encoding/json"
	"flag"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/prober"
)

var (
	name   = flag.String("name", "", "name of the socket, and in answers")
	listen = flag.String("listen", "", "ports to answer on: 7000 for TCP and UDP, tcp/80, udp/53, udp/10.0.0.1:53, udp/[fd00::1]:53")
	to     = flag.String("to", "", "targets, ip:port, with commas")
	every  = flag.Duration("every", time.Millisecond, "time between two rounds to the targets")
	burst  = flag.Duration("burst", 0, "how long that; 0 is for ever")
	then   = flag.Duration("then", 50*time.Millisecond, "time between two rounds afterwards")
	health = flag.String("health", "", "address that answers HTTP with 200")
	tap    = flag.Bool("tap", true, "record what arrives; it has no use on a node's network")
)

func main() {
	flag.Parse()
	log.SetFlags(log.Lmicroseconds)
	began := time.Now()
	s := newSender()
	if *to != "" {
		s.set(strings.Split(*to, ","))
	}
	r := newRecord()
	if *tap {
		if err := r.open(); err != nil {
			log.Fatalf("prober: cannot listen to packets: %v", err)
		}
		r.run()
		go s.run()
	}
	for spec := range strings.SplitSeq(*listen, ",") {
		if spec != "" {
			serve(spec)
		}
	}
	if *health != "" {
		go func() {
			log.Fatal(http.ListenAndServe(*health, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})))
		}()
	}
	var st streams
	mux := http.NewServeMux()
	handle(mux, "/state", func(struct{}) (any, error) {
		return prober.State{Name: *name, Began: began, Sent: s.count(), Arrivals: r.list(), Streams: st.list()}, nil
	})
	handle(mux, "/targets", func(list []string) (any, error) { s.set(list); return nil, nil })
	handle(mux, "/sent", func(seq uint32) (any, error) { return s.at(seq), nil })
	handle(mux, "/stream", func(a [2]string) (any, error) { st.add(a[0], a[1]); return nil, nil })
	handle(mux, "/connect", func(a [2]string) (any, error) { return prober.Dial(a[0], a[1], time.Second), nil })
	socket := filepath.Join(prober.Dir, *name+".sock")
	_ = os.Remove(socket)
	l, err := net.Listen("unix", socket)
	if err != nil {
		log.Fatalf("prober: %v", err)
	}
	log.Fatal(http.Serve(l, mux))
}

// handle answers with JSON.
func handle[In any](mux *http.ServeMux, path string, do func(In) (any, error)) {
	mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
		var in In
		err := json.NewDecoder(r.Body).Decode(&in)
		var out any
		if err == nil {
			out, err = do(in)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		_ = json.NewEncoder(w).Encode(out)
	})
}
