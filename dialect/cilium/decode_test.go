package cilium_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/sallyport-dev/sallyport/dialect/cilium"
	"github.com/sallyport-dev/sallyport/dialect/field"
	"github.com/sallyport-dev/sallyport/model"
	"github.com/sallyport-dev/sallyport/scenarios"
)

var update = flag.Bool("update", false, "rewrite what the cases decode to; read the difference before committing it")

const (
	corpus = "testdata/decode.txtar"
	suffix = " decoded"
)

// The corpus is pairs of files: what is written, without its head, and what it
// decodes to. A name says of which kind the object is.
func TestDecode(t *testing.T) {
	data, err := os.ReadFile(corpus)
	if err != nil {
		t.Fatal(err)
	}
	a := scenarios.ParseArchive(data)
	out := &scenarios.Archive{Comment: a.Comment}
	want := map[string]string{}
	for _, f := range a.Files {
		if name, ok := strings.CutSuffix(f.Name, suffix); ok {
			want[name] = string(f.Data)
		}
	}
	for _, f := range a.Files {
		if strings.HasSuffix(f.Name, suffix) {
			continue
		}
		got := decoded(t, f.Name, string(f.Data))
		out.Files = append(out.Files, f, scenarios.File{Name: f.Name + suffix, Data: []byte(got)})
		if d := cmp.Diff(want[f.Name], got); d != "" && !*update {
			t.Errorf("%s (-want +got):\n%s", f.Name, d)
		}
	}
	if *update {
		if err := os.WriteFile(corpus, out.Format(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// object parses the text of a case below the head that its name stands for.
func object(t *testing.T, name, text string) field.Object {
	t.Helper()
	source := model.Source{APIVersion: cilium.V2, Kind: cilium.NetworkPolicy, Namespace: "shop", Name: "p"}
	switch {
	case strings.HasPrefix(name, "clusterwide-"):
		source.Kind, source.Namespace = cilium.ClusterwideNetworkPolicy, ""
	case strings.HasPrefix(name, "group-"):
		source.Kind, source.Namespace = cilium.CIDRGroup, ""
	}
	if !strings.Contains(text, "metadata:") {
		text += "metadata: {name: p, namespace: shop}\n"
	}
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(text), &doc); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return field.Object{Source: source, Root: doc.Content[0]}
}

func decoded(t *testing.T, name, text string) string {
	t.Helper()
	o := object(t, name, text)
	parts, problems := cilium.Decoders[[2]string{o.Source.APIVersion, o.Source.Kind}](o)
	var b strings.Builder
	for _, p := range parts.Policies {
		fmt.Fprintf(&b, "%d: %s\n", p.Part, p.Subject)
		if p.Log != "" {
			fmt.Fprintf(&b, "  log %s\n", p.Log)
		}
		printSection(&b, "ingress", p.Ingress)
		printSection(&b, "egress", p.Egress)
		if p.Family != model.FamilyCilium || p.Tier != model.TierDefault || p.Order != model.KubernetesOrder || p.Staged {
			t.Errorf("%s: family %d, tier %s, order %v, staged %v", name, p.Family, p.Tier, p.Order, p.Staged)
		}
	}
	for _, s := range parts.Sets {
		fmt.Fprintf(&b, "set %s %v %v\n", s.Key(), s.Labels, s.Blocks)
	}
	for _, p := range problems {
		fmt.Fprintf(&b, "%s: %s: %s (%s)\n", p.Severity, p.Source.Field, p.Message, p.Hint)
	}
	return b.String()
}

func printSection(b *strings.Builder, name string, s *model.Section) {
	if s == nil {
		return
	}
	fmt.Fprintf(b, "  %s, default deny %v\n", name, s.DefaultDeny)
	for _, r := range s.Rules {
		fmt.Fprintf(b, "    %s %s; %s; %s\n", r.Action, peerText(r), portText(r), r.Source.Field)
		if r.L7 != nil {
			fmt.Fprintf(b, "      %s\n", conditionText(r.L7))
		}
	}
}

func peerText(r model.Rule) string {
	var out []string
	for i := range r.Peers {
		out = append(out, r.Peers[i].String())
	}
	if r.AnyPeer {
		out = append(out, "everybody")
	}
	if out == nil {
		return "nobody"
	}
	return strings.Join(out, " | ")
}

func portText(r model.Rule) string {
	var out []string
	for _, p := range r.Ports {
		out = append(out, p.String())
	}
	if r.AnyPort {
		out = append(out, "every port")
	}
	if out == nil {
		return "no port"
	}
	return strings.Join(out, ", ")
}

func conditionText(l *model.L7) string {
	var out []string
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	for _, h := range l.HTTP {
		add("http methods %s paths %s hosts %s", matches(h.Methods), matches(h.Paths), matches(h.Hosts))
		for _, x := range h.Headers {
			value := "any"
			if x.Value != nil {
				value = fmt.Sprintf("%q", *x.Value)
			}
			add("header %q value %s secret %q mismatch %q never %v", x.Name, value, x.Secret, x.Mismatch, x.Never)
		}
	}
	for _, n := range l.DNS {
		add("dns %d %s", n.Syntax, n.Text)
	}
	for _, n := range l.ServerNames {
		add("server name %d %s", n.Syntax, n.Text)
	}
	if l.Authentication != "" {
		add("authentication %s", l.Authentication)
	}
	if l.Unsupported != "" {
		add("unsupported %s", l.Unsupported)
	}
	return strings.Join(out, "; ")
}

func matches(list []model.StringMatch) string {
	var out []string
	for _, m := range list {
		out = append(out, fmt.Sprintf("%d:%q", m.Form, m.Text))
	}
	return "[" + strings.Join(out, " ") + "]"
}
