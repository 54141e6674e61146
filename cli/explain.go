package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/model"
	"github.com/sallyport-dev/sallyport/policytest"
	"github.com/sallyport-dev/sallyport/report"
)

type explainFlags struct{ src, dst, port, protocol string }

func newExplain(s *session) *cobra.Command {
	var f explainFlags
	c := &cobra.Command{
		Use:   "explain SRC DST [PORT] -f MANIFESTS",
		Short: "May SRC open a connection to DST, and which rule decides",
		Long: `Judges a connection door by door: egress of the source, ingress of the
destination. SRC and DST are pods or workloads as NAMESPACE/NAME, Services as
svc/NAMESPACE/NAME (DST only), addresses, "external" or "node". Without PORT
every protocol and port that passes is listed.

Exit code 0 if the connection is allowed, 1 if it is denied.`,
		Example: `  sallyport explain -f manifests/ shop/web shop/db 5432
  sallyport explain -f manifests/ --pod shop/web --to-pod shop/db --port 53 --protocol UDP
  sallyport explain -f manifests/ 203.0.113.7 shop/web 80 -o json`,
		Args: cobra.MaximumNArgs(3),
		RunE: func(_ *cobra.Command, args []string) error {
			for i, a := range args {
				*[]*string{&f.src, &f.dst, &f.port}[i] = a
			}
			if f.src == "" || f.dst == "" {
				return usage("explain needs a source and a destination")
			}
			return s.explain(f)
		},
	}
	s.inputFlags(c)
	s.outputFlag(c, "text", "text", "json")
	c.Flags().StringVar(&f.src, "pod", "", "the source pod")
	c.Flags().StringVar(&f.dst, "to-pod", "", "the destination pod")
	c.Flags().StringVar(&f.port, "port", "", "the destination port")
	c.Flags().StringVar(&f.protocol, "protocol", "TCP", "TCP, UDP, SCTP or ICMP")
	return c
}

func (s *session) explain(f explainFlags) error {
	protocol, ok := model.ParseProtocol(f.protocol)
	if !ok {
		return usage("unknown protocol %q: one of TCP, UDP, SCTP, ICMP", f.protocol)
	}
	if s.output != "text" && s.output != "json" {
		return usage("unknown output format %q: text or json", s.output)
	}
	r, err := s.load()
	if err != nil {
		return err
	}
	m := engine.Compile(r.Cluster)
	checks, err := s.asked(m, r.Cluster, f, protocol)
	if err != nil {
		return err
	}
	denied := false
	var out []report.Explanation
	for _, k := range checks {
		v := m.Verdict(k.from, k.to, k.key)
		denied = denied || !v.Allowed
		out = append(out, report.Explain(partyName(k.from, f.src), partyName(k.to, f.dst), k.key, v))
	}
	if f.port == "" && s.output == "text" {
		return s.connections(m, checks, f)
	}
	if err := s.printExplanations(out); err != nil {
		return err
	}
	if denied {
		return exit{code: ExitFindings}
	}
	return nil
}

func (s *session) printExplanations(list []report.Explanation) error {
	if s.output == "json" {
		e := json.NewEncoder(s.stdout)
		e.SetIndent("", "  ")
		if len(list) == 1 {
			return e.Encode(list[0])
		}
		return e.Encode(list)
	}
	for i, x := range list {
		if i > 0 {
			fmt.Fprintln(s.stdout)
		}
		x.Text(s.stdout, paint(s.stdout))
	}
	return nil
}

// connections lists what passes where no port was asked for.
func (s *session) connections(m *engine.Matrix, checks []asked, f explainFlags) error {
	denied := true
	for _, k := range checks {
		ports := m.Connections(k.from, k.to)
		text := ports.String()
		if len(ports) == 0 {
			text = "nothing"
		} else {
			denied = false
		}
		fmt.Fprintf(s.stdout, "%s → %s: %s\n", partyName(k.from, f.src), partyName(k.to, f.dst), text)
		explainNothing(s.stdout, m, k, ports, f, s)
	}
	if denied {
		return exit{code: ExitFindings}
	}
	return nil
}

// explainNothing shows the doors where nothing at all passes.
func explainNothing(w io.Writer, m *engine.Matrix, k asked, ports model.PortSet, f explainFlags, s *session) {
	if len(ports) > 0 {
		return
	}
	v := m.Verdict(k.from, k.to, k.key)
	report.Explain(partyName(k.from, f.src), partyName(k.to, f.dst), k.key, v).Text(w, paint(s.stdout))
}

// asked is one connection to judge.
type asked struct {
	from, to engine.Party
	key      model.PortKey
}

// asked lists the connections that the command line speaks of: one for each
// pair of pods that the names stand for that differs in its verdict's kind.
func (s *session) asked(m *engine.Matrix, c *model.Cluster, f explainFlags, protocol model.Protocol) ([]asked, error) {
	if strings.HasPrefix(f.dst, "svc/") {
		return s.askedService(m, c, f, protocol)
	}
	k := policytest.Case{From: policytest.ParseSide(f.src), To: policytest.ParseSide(f.dst)}
	if f.port != "" {
		p, err := policytest.ParsePort(f.port, protocol)
		if err != nil {
			return nil, usage("port %s: %v", f.port, err)
		}
		k.Ports = []policytest.Port{p}
	}
	checks, err := policytest.Expand(m, &k)
	if err != nil {
		return nil, usage("%v; pods and workloads are written NAMESPACE/NAME", err)
	}
	var out []asked
	for _, x := range checks {
		key := x.Ports[0].First
		if f.port == "" {
			key = model.PortKeyOf(protocol, 80)
		}
		out = append(out, asked{x.From, x.To, key})
	}
	return out, nil
}

// askedService asks about the Service's backends, which is what policies see.
func (s *session) askedService(m *engine.Matrix, c *model.Cluster, f explainFlags, protocol model.Protocol) ([]asked, error) {
	from, err := policytest.ParseSide(f.src).Parties(m, nil)
	if err != nil {
		return nil, usage("%v", err)
	}
	var out []asked
	for _, svc := range c.Services {
		if "svc/"+svc.Namespace+"/"+svc.Name != f.dst {
			continue
		}
		for _, p := range svc.Ports {
			if f.port != "" && f.port != fmt.Sprint(p.Port) && f.port != p.Name || f.port != "" && p.Protocol != protocol {
				continue
			}
			for _, b := range p.Backends {
				for _, src := range from {
					out = append(out, asked{src, engine.Party{Addr: b.IP, Endpoint: m.EndpointAt(b.IP)}, model.PortKeyOf(p.Protocol, b.Port)})
				}
			}
		}
	}
	if len(out) == 0 {
		return nil, usage("%s has no backend for port %q", f.dst, f.port)
	}
	return out, nil
}

func partyName(p engine.Party, text string) string {
	switch {
	case p.Endpoint != nil:
		return p.Endpoint.Key()
	case p.Node != "":
		return "node " + p.Node
	case p.Addr.IsValid():
		return p.Addr.String()
	}
	return text
}
