package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sallyport-dev/sallyport/advice"
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
every protocol and port that passes is listed. Pods of one workload that have
the same verdict are one line.

A door that denies names the rules that nearly matched, and on what they
failed. The smallest change that would turn the verdict over is tried on the
policies before it is shown, with what else it would open and close.

Exit code 0 if the connection is allowed, 1 if it is denied.`,
		Example: `  sallyport explain -f manifests/ shop/web shop/db 5432
  sallyport explain -f manifests/ --pod shop/web --to-pod shop/db --port 53 --protocol UDP
  sallyport explain -f manifests/ 203.0.113.7 shop/web 80 -o json
  sallyport explain -f manifests/ shop/web svc/shop/db sql
  sallyport explain -f manifests/ shop/web shop/db 5432 -o json | jq -r .suggestion.policies > missing.yaml`,
		Args: cobra.MaximumNArgs(3), ValidArgsFunction: s.completeConnection,
		RunE: func(c *cobra.Command, args []string) error {
			for i, a := range args {
				*[]*string{&f.src, &f.dst, &f.port}[i] = a
			}
			if f.src == "" || f.dst == "" {
				return usage("explain needs a source and a destination")
			}
			return s.explain(c.Context(), f)
		},
	}
	s.liveFlags(c)
	s.outputFlag(c, "text", "text", "json")
	c.Flags().StringVar(&f.src, "pod", "", "the source pod")
	c.Flags().StringVar(&f.dst, "to-pod", "", "the destination pod")
	c.Flags().StringVar(&f.port, "port", "", "the destination port")
	c.Flags().StringVar(&f.protocol, "protocol", "TCP", "TCP, UDP, SCTP or ICMP")
	s.completeFlag(c, false, "pod")
	s.completeFlag(c, true, "to-pod")
	return c
}

func (s *session) explain(ctx context.Context, f explainFlags) error {
	hasty()
	protocol, ok := model.ParseProtocol(f.protocol)
	if !ok {
		return usage("unknown protocol %q: one of TCP, UDP, SCTP, ICMP", f.protocol)
	}
	if s.output != "text" && s.output != "json" {
		return usage("unknown output format %q: text or json", s.output)
	}
	r, err := s.loadAny(ctx)
	if err != nil {
		return err
	}
	m := engine.Compile(r.Cluster)
	checks, err := s.asked(m, r.Cluster, f, protocol)
	if err != nil {
		return err
	}
	if f.port == "" && s.output == "text" {
		return s.connections(m, r.Cluster, checks, f)
	}
	progress := s.progress("looking for the smallest change", 0)
	denied := false
	var out []report.Explanation
	for i, k := range folded(m, checks) {
		denied = denied || !k.verdict.Allowed
		e := k.explain(m, f)
		if i < mostSuggestions {
			e.Suggestion = k.suggest(m, r.Cluster, f)
		}
		out = append(out, e)
	}
	progress.end()
	if err := s.printExplanations(out); err != nil {
		return err
	}
	if denied {
		return exit{code: ExitFindings}
	}
	return nil
}

// folded keeps one of the connections that have the same verdict by the same
// rules between the same workloads.
func folded(m *engine.Matrix, checks []asked) []asked {
	type doors struct {
		from, to        [3]string
		key             model.PortKey
		egress, ingress engine.Reason
		out, in         *model.Rule
	}
	at := map[doors]int{}
	var out []asked
	for _, k := range checks {
		k.verdict, k.count = m.Verdict(k.from, k.to, k.key), 1
		v := k.verdict
		d := doors{identify(k.from), identify(k.to), k.key, v.Egress.Reason, v.Ingress.Reason, v.Egress.Rule, v.Ingress.Rule}
		if i, ok := at[d]; ok {
			out[i].count++
			continue
		}
		at[d] = len(out)
		out = append(out, k)
	}
	return out
}

// identify is what a party is folded by: its workload, or itself.
func identify(p engine.Party) [3]string {
	if e := p.Endpoint; e != nil {
		return [3]string{e.Namespace, e.Workload.Kind, e.Workload.Name}
	}
	return [3]string{p.Node, p.Addr.String()}
}

// names names the two ends. What stands for several pods has the name that it
// was asked for by.
func (k asked) names(f explainFlags) (from, to string) {
	from, to = partyName(k.from, f.src), partyName(k.to, f.dst)
	if k.count > 1 && k.from.Endpoint != nil {
		from = f.src
	}
	if k.count > 1 && k.to.Endpoint != nil && !strings.HasPrefix(f.dst, "svc/") {
		to = f.dst
	}
	return from, to
}

// explain explains one connection, with what nearly matched.
func (k asked) explain(m *engine.Matrix, f explainFlags) report.Explanation {
	from, to := k.names(f)
	e := report.Explain(from, to, k.key, k.verdict)
	e.Connections = m.Connections(k.from, k.to).String()
	e.AddTiers(m, k.from, k.to, k.key)
	e.AddNearMisses(m, k.from, k.to, k.key)
	return e
}

// mostSuggestions bounds the work for questions that stand for many pairs:
// each suggestion compiles the policies several times.
const mostSuggestions = 20

// suggest finds what would turn the verdict over.
func (k asked) suggest(m *engine.Matrix, c *model.Cluster, f explainFlags) *advice.Suggestion {
	return advice.Suggest(c, m, advice.Question{
		From: k.from, To: k.to, Key: k.key, External: f.src == "external" || f.dst == "external",
	})
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

// connections lists what passes where no port was asked for, and explains the
// doors where nothing at all does.
func (s *session) connections(m *engine.Matrix, c *model.Cluster, checks []asked, f explainFlags) error {
	denied := true
	for _, k := range folded(m, checks) {
		from, to := k.names(f)
		ports := m.Connections(k.from, k.to)
		denied = denied && len(ports) == 0
		if len(ports) > 0 {
			fmt.Fprintf(s.stdout, "%s → %s: %s\n", from, to, ports)
			continue
		}
		fmt.Fprintf(s.stdout, "%s → %s: nothing; for example\n", from, to)
		e := k.explain(m, f)
		e.Suggestion = k.suggest(m, c, f)
		e.Text(s.stdout, paint(s.stdout))
	}
	if denied {
		return exit{code: ExitFindings}
	}
	return nil
}

// asked is one connection to judge.
type asked struct {
	from, to engine.Party
	key      model.PortKey
	verdict  engine.Verdict
	count    int // pairs of pods that it stands for
}

// asked lists the connections that the command line speaks of: one for each
// pair of pods that the names stand for.
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
			if open := m.Connections(x.From, x.To); len(open) > 0 && !open.Contains(key) {
				key = open[0].First
			}
		}
		out = append(out, asked{from: x.From, to: x.To, key: key})
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
					to := engine.Party{Addr: b.IP, Endpoint: m.EndpointAt(b.IP)}
					out = append(out, asked{from: src, to: to, key: model.PortKeyOf(p.Protocol, b.Port)})
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
