package cli

import (
	"context"
	"embed"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sallyport-dev/sallyport/agent"
	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/lab"
	"github.com/sallyport-dev/sallyport/manifest"
	"github.com/sallyport-dev/sallyport/model"
	"github.com/sallyport-dev/sallyport/report"
)

//go:embed demo/*.yaml
var demoFiles embed.FS

func newDemo(s *session) *cobra.Command {
	return &cobra.Command{
		Use: "demo", Short: "A three-tier application, policy by policy, in the kernel", Args: cobra.NoArgs,
		Long: `Starts frontend, backend and database as pods on this machine, applies the four
policies of a well-known tutorial one after the other, and shows after each
what really connects. Then it shows which published expectations are wrong and
which doors are shut, and applies what was missing. Needs root; ends by itself.
Exit code 0 only if every observed connection equalled the computed one.`,
		Example: "  sudo sallyport demo",
		RunE:    func(c *cobra.Command, _ []string) error { return s.demo(c.Context()) },
	}
}

// demoSteps are the states of the demo: the files of each and what it shows.
var demoSteps = []struct{ file, title string }{
	{"0-application.yaml", "No policies: everybody reaches everybody"},
	{"1-deny-all.yaml", "deny-all: every pod of the namespace is isolated, in both directions"},
	{"2-frontend-to-backend.yaml", "allow-frontend-to-backend: opens the backend's ingress door"},
	{"3-backend-to-database.yaml", "allow-backend-to-database: opens the database's ingress door"},
	{"4-restrict-backend-egress.yaml", "restrict-backend-egress: the backend may leave for 203.0.113.0/24 only"},
	{"5-what-was-missing.yaml", "What was missing: egress of both senders, and DNS"},
}

// demoOutside is the external API of the tutorial.
var demoOutside = netip.MustParseAddr("203.0.113.10")

// demo is the running demonstration.
type demo struct {
	*session
	lab    *agent.Lab
	wrong  int // observations that differ from what was computed
	probes int
}

func (s *session) demo(ctx context.Context) (err error) {
	if err := requireRoot(); err != nil {
		return err
	}
	c, err := demoCluster(0)
	if err != nil {
		return err
	}
	began := time.Now()
	l, err := s.startLab(ctx, c)
	if err != nil {
		return environment(err)
	}
	defer func() {
		if stopErr := l.Stop(); stopErr != nil && err == nil {
			err = environment(stopErr)
		}
	}()
	d := &demo{session: s, lab: l}
	fmt.Fprintf(s.stdout, "Three pods, their Services and DNS are up in network namespaces (%s).\n", time.Since(began).Round(time.Millisecond))
	for step := range demoSteps {
		if err := d.step(ctx, step); err != nil {
			return environment(err)
		}
	}
	fmt.Fprintf(s.stdout, "\n%d connections tried, %d as computed, %d not (%s)\n", d.probes, d.probes-d.wrong, d.wrong, time.Since(began).Round(time.Millisecond))
	if d.wrong > 0 {
		return exit{code: ExitFindings}
	}
	return nil
}

// demoCluster is the application with the policies up to the step.
func demoCluster(step int) (*model.Cluster, error) {
	files := map[string][]byte{}
	var order []string
	for _, x := range demoSteps[:step+1] {
		text, err := demoFiles.ReadFile("demo/" + x.file)
		if err != nil {
			return nil, err
		}
		files[x.file] = text
		order = append(order, x.file)
	}
	r := manifest.Parse(files, order, manifest.Options{})
	if len(r.Problems) > 0 {
		return nil, r.Problems[0]
	}
	return lab.WithDNS(r.Cluster), nil
}

func (d *demo) step(ctx context.Context, step int) error {
	fmt.Fprintf(d.stdout, "\n%s\n", paint(d.stdout).Colour("1", fmt.Sprintf("%d. %s", step, demoSteps[step].title)))
	if step > 0 {
		c, err := demoCluster(step)
		if err != nil {
			return err
		}
		began := time.Now()
		if err := d.lab.Update(ctx, c); err != nil {
			return err
		}
		fmt.Fprintf(d.stdout, "   applied in %s\n", time.Since(began).Round(time.Microsecond))
	}
	if err := d.tryPairs(ctx); err != nil {
		return err
	}
	d.names(ctx)
	if step == len(demoSteps)-2 {
		d.claims()
	}
	return nil
}

// tryPairs tries every pair of the three pods and the way outside.
func (d *demo) tryPairs(ctx context.Context) error {
	var list []agent.Observation
	for _, o := range d.lab.Pairs() {
		if strings.HasPrefix(o.From, "secure-app/") && strings.HasPrefix(o.To, "secure-app/") {
			list = append(list, o)
		}
	}
	out, err := d.lab.Observation(engine.Party{Endpoint: d.lab.Matrix.Endpoint("secure-app/backend")}, engine.Party{Addr: demoOutside}, model.PortKeyOf(model.TCP, 443))
	if err != nil {
		return err
	}
	list = append(list, out)
	d.observe(ctx, d.lab, list)
	p := paint(d.stdout)
	for _, o := range list {
		mark := "as computed"
		if !o.Agrees() {
			d.wrong++
			mark = p.Colour("31", "NOT as computed: "+verdictWord(o.Computed.Allowed))
		}
		d.probes++
		reached := o.Outcome == lab.Connected
		fmt.Fprintf(d.stdout, "   %s  %-8s → %-12s %5d/%s  %-9s  %s\n", p.Verdict(verdictWord(reached)),
			short(o.From), short(o.To), o.Port, o.Protocol, o.Outcome, mark)
	}
	return nil
}

func short(name string) string { return strings.TrimPrefix(name, "secure-app/") }

// names looks up the Service that the tutorial's curl uses, from both senders.
func (d *demo) names(ctx context.Context) {
	for _, q := range [][2]string{{"frontend", "backend"}, {"backend", "database"}} {
		src := d.lab.Matrix.Endpoint("secure-app/" + q[0])
		dns := d.lab.Matrix.Endpoint("kube-system/coredns")
		computed := d.lab.Matrix.Verdict(engine.Party{Endpoint: src}, engine.Party{Endpoint: dns}, model.PortKeyOf(model.UDP, 53)).Allowed
		timeout := probeTimeout
		if computed {
			timeout = agent.Patience
		}
		addrs, err := d.lab.Lookup(ctx, src.Key(), q[1]+".secure-app.svc.cluster.local", timeout)
		text, mark := "does not resolve", "as computed"
		if err == nil {
			text = "is " + addrs[0].String()
		}
		d.probes++
		if (err == nil) != computed {
			d.wrong++
			mark = "NOT as computed"
		}
		fmt.Fprintf(d.stdout, "          %-8s asks DNS for %-8s  %-16s  %s\n", q[0], q[1], text, mark)
	}
}

// claim is one published expectation of the tutorial's final check.
type claim struct {
	from, to string
	port     uint16
	expected string
}

var claims = []claim{
	{"frontend", "backend", 80, "Success"},
	{"frontend", "database", 5432, "Connection refused"},
	{"backend", "database", 5432, "Success"},
}

// claims holds the tutorial's expectations against what the kernel does.
func (d *demo) claims() {
	p := paint(d.stdout)
	fmt.Fprintf(d.stdout, "\n%s\n", p.Colour("1", "   The tutorial ends here and says what to expect. What really happens:"))
	for _, c := range claims {
		src, dst := d.lab.Matrix.Endpoint("secure-app/"+c.from), d.lab.Matrix.Endpoint("secure-app/"+c.to)
		key := model.PortKeyOf(model.TCP, c.port)
		v := d.lab.Matrix.Verdict(engine.Party{Endpoint: src}, engine.Party{Endpoint: dst}, key)
		o := []agent.Observation{{Probe: lab.Probe{From: src.Key(), To: dst.IPs[0], Protocol: model.TCP, Port: c.port}, Computed: v}}
		d.lab.Observe(context.Background(), o, probeTimeout)
		d.probes++
		if !o[0].Agrees() {
			d.wrong++
		}
		fmt.Fprintf(d.stdout, "\n   curl %s:%d from %s: published %q, observed %q\n", c.to, c.port, c.from, c.expected, o[0].Outcome)
		var text strings.Builder
		report.Explain(src.Key(), dst.Key(), key, v).Text(&text, p)
		fmt.Fprintln(d.stdout, "   "+strings.ReplaceAll(strings.TrimSuffix(text.String(), "\n"), "\n", "\n   "))
	}
	fmt.Fprintln(d.stdout, `
   deny-all isolates egress too. Two ingress rules opened the receivers' doors;
   the senders' own egress doors stayed shut, and with them the way to DNS. A
   dropped packet is answered by nobody: the client times out, it is not refused.`)
}
