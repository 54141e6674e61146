package clusterpolicy_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/sallyport-dev/sallyport/dialect/clusterpolicy"
	"github.com/sallyport-dev/sallyport/dialect/field"
	"github.com/sallyport-dev/sallyport/model"
)

// head is a ClusterNetworkPolicy that wants its rules.
const head = "tier: Admin\npriority: 10\nsubject: {namespaces: {}}\n"

// decode reads a spec of the kind.
func decode(t *testing.T, kind, name, spec string) (*model.Policy, []model.Problem) {
	t.Helper()
	version := map[string]string{"cnp": "v1alpha2", "anp": "v1alpha1", "banp": "v1alpha1"}[kind]
	long := map[string]string{"cnp": "ClusterNetworkPolicy", "anp": "AdminNetworkPolicy", "banp": "BaselineAdminNetworkPolicy"}[kind]
	text := "apiVersion: " + clusterpolicy.Group + "/" + version + "\nkind: " + long + "\nmetadata: {name: " + name + "}\nspec:\n  " + strings.ReplaceAll(spec, "\n", "\n  ")
	var document yaml.Node
	if err := yaml.Unmarshal([]byte(text), &document); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	s := model.Source{APIVersion: clusterpolicy.Group + "/" + version, Kind: long, Name: name}
	parts, problems := clusterpolicy.Decoders[[2]string{s.APIVersion, s.Kind}](field.Object{Source: s, Root: document.Content[0]})
	if len(parts.Policies) != 1 || len(parts.Tiers)+len(parts.Sets) > 0 {
		t.Fatalf("parts %+v", parts)
	}
	return parts.Policies[0], problems
}

// text writes a policy on a line for itself and one for each rule.
func text(p *model.Policy) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %v: %s\n", p.Tier, p.Order, p.Subject)
	for _, d := range []model.Direction{model.Ingress, model.Egress} {
		s := p.Section(d)
		if s == nil {
			continue
		}
		if s.DefaultDeny || !s.Ordered {
			b.WriteString("isolates or is unordered\n")
		}
		for _, r := range s.Rules {
			fmt.Fprintf(&b, "%s %s %s: %s: %s\n", d, r.Name, r.Action, peers(r), ports(r))
		}
	}
	return b.String()
}

func peers(r model.Rule) string {
	var out []string
	for _, p := range r.Peers {
		out = append(out, p.String())
	}
	if r.AnyPeer {
		out = append(out, "anybody")
	}
	return strings.Join(out, "; ")
}

func ports(r model.Rule) string {
	var out []string
	for _, p := range r.Ports {
		out = append(out, p.String())
	}
	if r.AnyPort {
		out = append(out, "anything")
	}
	return strings.Join(out, "; ")
}

func errors(problems []model.Problem) []string {
	var out []string
	for _, p := range problems {
		if p.Severity == model.Error {
			out = append(out, p.Source.Field+": "+p.Message)
		}
	}
	return out
}

func TestMeaning(t *testing.T) {
	for _, c := range []struct{ name, kind, spec, want string }{
		{"nothing", "cnp", head + "ingress: []", "kube-admin 10: all namespaces\n"},
		{"baseline", "cnp", "tier: Baseline\npriority: 0\nsubject: {pods: {namespaceSelector: {matchLabels: {a: b}}, podSelector: {matchLabels: {c: d}}}}",
			"kube-baseline 0: namespaces a=b, pods c=d\n"},
		{"pods without namespaces", "cnp", "tier: Admin\npriority: 1000\nsubject: {pods: {podSelector: {}}}", "kube-admin 1000: all namespaces\n"},
		{"peers", "cnp", head + `
egress:
- name: one
  action: Accept
  to:
  - namespaces: {matchLabels: {a: b}}
  - pods: {podSelector: {matchLabels: {c: d}}}
  - nodes: {matchLabels: {e: f}}
  - networks: [10.0.0.0/8, "::/0"]
- {name: two, action: Deny, to: [{nodes: {}}, {pods: {namespaceSelector: {}, podSelector: {}}}]}
- {action: Pass, to: [{namespaces: {}}]}
- {action: Accept, to: [{domainNames: [example.com., "*.a.example.com"]}]}
`, `kube-admin 10: all namespaces
egress one allow: namespaces a=b; all namespaces, pods c=d; nodes e=f; 10.0.0.0/8; ::/0: anything
egress two deny: nodes; all namespaces: anything
egress  pass: all namespaces: anything
egress  allow: names example.com. *.a.example.com: anything
`},
		{"protocols", "cnp", head + `
ingress:
- action: Accept
  from: [{namespaces: {}}]
  protocols:
  - tcp: {destinationPort: {number: 80}}
  - udp: {destinationPort: {range: {start: 1, end: 65535}}}
  - sctp: {destinationPort: {range: {start: 7, end: 8}}}
  - destinationNamedPort: web
`, "kube-admin 10: all namespaces\ningress  allow: all namespaces: 80/TCP; 1-65535/UDP; 7-8/SCTP; web/TCP; web/UDP; web/SCTP\n"},
		{"v1alpha1", "anp", `priority: 5
subject: {namespaces: {matchLabels: {a: b}}}
ingress:
- action: Allow
  from: [{pods: {namespaceSelector: {}, podSelector: {matchLabels: {c: d}}}}]
  ports:
  - portNumber: {port: 80}
  - portNumber: {protocol: SCTP, port: 9}
  - portRange: {start: 5, end: 5}
  - portRange: {protocol: UDP, start: 5, end: 6}
  - namedPort: web
egress:
- {action: Pass, to: [{nodes: {}}, {networks: [0.0.0.0/0]}]}
- {action: Allow, to: [{domainNames: [a.b]}]}
`, `kube-admin 5: namespaces a=b
ingress  allow: all namespaces, pods c=d: 80/TCP; 9/SCTP; 5/TCP; 5-6/UDP; web/TCP; web/UDP; web/SCTP
egress  pass: nodes; 0.0.0.0/0: anything
egress  allow: names a.b: anything
`},
		{"the baseline policy comes last", "banp", "subject: {namespaces: {}}\negress:\n- {action: Deny, to: [{nodes: {}}]}\n- {action: Allow, to: [{networks: [10.0.0.0/8]}]}",
			"kube-baseline +Inf: all namespaces\negress  deny: nodes: anything\negress  allow: 10.0.0.0/8: anything\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, problems := decode(t, c.kind, "default", c.spec)
			if d := cmp.Diff(c.want, text(p)); d != "" {
				t.Errorf("policy (-want +got):\n%s", d)
			}
			if e := errors(problems); len(e) > 0 {
				t.Errorf("errors %v", e)
			}
			if p.Family != model.FamilyCluster || p.Source.Name != "default" || p.Source.Field != "" {
				t.Errorf("policy %+v", p)
			}
		})
	}
}

// Every way that a rule can be wrong, in a rule of each action.
func TestARuleWithAnErrorIsClosed(t *testing.T) {
	for _, c := range []struct{ kind, to, errors string }{
		{"cnp", "to: [{}]", "spec.egress[0].to[0]: a peer must have namespaces, pods, nodes, networks or domainNames"},
		{"cnp", "to: [{namespaces: null}]", "spec.egress[0].to[0]: a peer must have namespaces, pods, nodes, networks or domainNames"},
		{"cnp", "to: [null]", "spec.egress[0].to[0]: is missing"},
		{"cnp", "to: [all]", "spec.egress[0].to[0]: must be an object, not \"all\""},
		{"cnp", "to: []", "spec.egress[0].to: must have an item"},
		{"cnp", "to: {namespaces: {}}", "spec.egress[0].to: must be a list, not an object"},
		{"cnp", "name: nobody", "spec.egress[0].to: is missing"},
		{"cnp", "to: [{namespaces: {}, nodes: {}}]", "spec.egress[0].to[0]: namespaces and nodes may not stand in one item"},
		{"cnp", "to: [{namespaces: {}}, {services: {}}]", "spec.egress[0].to[1].services: unknown field \"services\""},
		{"cnp", "to: [{namespaces: {}, services: {}}]", "spec.egress[0].to[0].services: unknown field \"services\""},
		{"cnp", "to: [{namespaces: {matchLabels: {a: b c}}}]", "spec.egress[0].to[0].namespaces.matchLabels.a: label value \"b c\" cannot exist"},
		{"cnp", "to: [{namespaces: {a: b}}]", "spec.egress[0].to[0].namespaces.a: unknown field \"a\""},
		{"cnp", "to: [{pods: {}}]", "spec.egress[0].to[0].pods.podSelector: is missing"},
		{"anp", "to: [{pods: {podSelector: {}}}]", "spec.egress[0].to[0].pods.namespaceSelector: is missing"},
		{"cnp", "to: [{pods: {podSelector: {}, namespaces: {}}}]", "spec.egress[0].to[0].pods.namespaces: unknown field \"namespaces\""},
		{"cnp", "to: [{networks: []}]", "spec.egress[0].to[0].networks: must have an item"},
		{"cnp", "to: [{networks: [10.0.0.1]}]", "spec.egress[0].to[0].networks[0]: \"10.0.0.1\" is no CIDR"},
		{"cnp", "to: [{networks: [10.0.0.0/8, 10.0.0.0/8]}]", "spec.egress[0].to[0].networks[1]: is in the list twice"},
		{"cnp", "to: [{networks: [" + repeat("10.%d.0.0/16", 26) + "]}]", "spec.egress[0].to[0].networks: has 26 items, but may have 25"},
		{"cnp", "to: [" + repeat("{nodes: {matchLabels: {a: b%d}}}", 26) + "]", "spec.egress[0].to: has 26 items, but may have 25"},
		{"anp", "to: [" + repeat("{nodes: {matchLabels: {a: b%d}}}", 101) + "]", "spec.egress[0].to: has 101 items, but may have 100"},
		{"anp", "to: [{networks: [" + repeat("10.%d.0.0/16", 26) + "]}]", "spec.egress[0].to[0].networks: has 26 items, but may have 25"},
		{"cnp", "to: [{nodes: {}}]\nname: " + strings.Repeat("x", 101), "spec.egress[0].name: may have at most 100 characters"},
		{"cnp", "to: [{nodes: {}}]\nname: 5", "spec.egress[0].name: must be a string, not the number 5"},
		{"cnp", "to: [{nodes: {}}]\nports: []", "spec.egress[0].ports: unknown field \"ports\""},
		{"anp", "to: [{nodes: {}}]\nprotocols: []", "spec.egress[0].protocols: unknown field \"protocols\""},
		{"cnp", "to: [{nodes: {}}]\nfrom: [{namespaces: {}}]", "spec.egress[0].from: unknown field \"from\""},
		{"cnp", protocols(""), "spec.egress[0].protocols: must have an item"},
		{"cnp", protocols("{}"), "spec.egress[0].protocols[0]: an item must have tcp, udp, sctp or destinationNamedPort"},
		{"cnp", protocols("{icmp: {}}"), "spec.egress[0].protocols[0].icmp: unknown field \"icmp\""},
		{"cnp", protocols("{tcp: {}}"), "spec.egress[0].protocols[0].tcp.destinationPort: is missing"},
		{"cnp", protocols("{tcp: {destinationPort: {number: 1}}, udp: {destinationPort: {number: 1}}}"), "spec.egress[0].protocols[0]: tcp and udp may not stand in one item"},
		{"cnp", protocols("{tcp: {destinationPort: 80}}"), "spec.egress[0].protocols[0].tcp.destinationPort: must be an object, not the number 80"},
		{"cnp", protocols("{tcp: {destinationPort: {}}}"), "spec.egress[0].protocols[0].tcp.destinationPort: a port must have number or range"},
		{"cnp", protocols("{tcp: {destinationPort: {number: 0}}}"), "spec.egress[0].protocols[0].tcp.destinationPort.number: must be between 1 and 65535, not 0"},
		{"cnp", protocols("{tcp: {destinationPort: {number: \"80\"}}}"), "spec.egress[0].protocols[0].tcp.destinationPort.number: must be a whole number, not \"80\""},
		{"cnp", protocols("{tcp: {destinationPort: {number: 1, range: {start: 1, end: 2}}}}"), "spec.egress[0].protocols[0].tcp.destinationPort: number and range may not stand in one item"},
		{"cnp", protocols("{tcp: {destinationPort: {range: {start: 1}}}}"), "spec.egress[0].protocols[0].tcp.destinationPort.range.end: is missing"},
		{"cnp", protocols("{tcp: {destinationPort: {range: {start: 2, end: 1}}}}"), "spec.egress[0].protocols[0].tcp.destinationPort.range.end: must not be below start"},
		{"cnp", protocols("{tcp: {destinationPort: {range: {start: 2, end: 2}}}}"), "spec.egress[0].protocols[0].tcp.destinationPort.range: start must be below end"},
		{"cnp", protocols("{tcp: {destinationPort: {range: {start: 1, end: 65536}}}}"), "spec.egress[0].protocols[0].tcp.destinationPort.range.end: must be between 1 and 65535, not 65536"},
		{"cnp", protocols("{destinationNamedPort: \"\"}"), "spec.egress[0].protocols[0].destinationNamedPort: \"\" is no valid port name"},
		{"cnp", protocols("{destinationNamedPort: Web}"), "spec.egress[0].protocols[0].destinationNamedPort: \"Web\" is no valid port name"},
		{"cnp", protocols(repeat("{tcp: {destinationPort: {number: 1%d}}}", 26)), "spec.egress[0].protocols: has 26 items, but may have 25"},
		{"cnp", "to: [{namespaces: {}}, {networks: [10.0.0.0/8]}]\nprotocols: [{destinationNamedPort: web}]", "spec.egress[0].protocols: a named port may not stand beside networks, nodes or domainNames"},
		{"cnp", "to: [{nodes: {}}]\nprotocols: [{destinationNamedPort: web}]", "spec.egress[0].protocols: a named port may not stand beside networks, nodes or domainNames"},
		{"anp", "to: [{nodes: {}}]\nports: [{namedPort: web}]", "spec.egress[0].ports: a named port may not stand beside networks, nodes or domainNames"},
		{"anp", "to: [{namespaces: {}}]\nports: [{portNumber: {protocol: tcp, port: 80}}]", "spec.egress[0].ports[0].portNumber.protocol: unknown protocol \"tcp\""},
		{"anp", "to: [{namespaces: {}}]\nports: [{portRange: {start: 9, end: 8}}]", "spec.egress[0].ports[0].portRange.end: must not be below start"},
		{"anp", "to: [{namespaces: {}}]\nports: [{portNumber: {protocol: UDP}}]", "spec.egress[0].ports[0].portNumber.port: is missing"},
		{"anp", "to: [{namespaces: {namespaceSelector: {}}}]", "spec.egress[0].to[0].namespaces.namespaceSelector: unknown field \"namespaceSelector\""},
		{"banp", "to: [{domainNames: [a.b]}]", "spec.egress[0].to[0].domainNames: unknown field \"domainNames\""},
	} {
		for _, action := range []string{"Accept", "Deny", "Pass"} {
			if c.kind == "banp" && action == "Pass" {
				continue
			}
			want := "egress  deny: anybody: anything\n"
			if action == "Accept" {
				want = "egress  allow: : \n"
				if c.kind != "cnp" {
					action = "Allow"
				}
			}
			t.Run(c.kind+"/"+c.to[:min(60, len(c.to))]+"/"+action, func(t *testing.T) {
				p, problems := decode(t, c.kind, "default", heads[c.kind]+"egress:\n- action: "+action+"\n  "+strings.ReplaceAll(c.to, "\n", "\n  "))
				_, got, _ := strings.Cut(text(p), "\n")
				got = strings.Replace(strings.Replace(got, strings.Repeat("x", 101), "", 1), "egress nobody", "egress ", 1)
				if d := cmp.Diff(want, got); d != "" {
					t.Errorf("rules (-want +got):\n%s", d)
				}
				if d := cmp.Diff([]string{c.errors}, errors(problems)); d != "" {
					t.Errorf("errors (-want +got):\n%s", d)
				}
			})
		}
	}
}

var heads = map[string]string{"cnp": head, "anp": "priority: 1\nsubject: {namespaces: {}}\n", "banp": "subject: {namespaces: {}}\n"}

func protocols(items string) string { return "to: [{namespaces: {}}]\nprotocols: [" + items + "]" }

// repeat is so many items of a list, each with its number.
func repeat(format string, n int) string {
	var out []string
	for i := range n {
		out = append(out, fmt.Sprintf(format, i))
	}
	return strings.Join(out, ", ")
}

func TestIngressPeersArePodsOnly(t *testing.T) {
	for _, peer := range []string{"nodes: {}", "networks: [10.0.0.0/8]", "domainNames: [a.b]"} {
		p, problems := decode(t, "cnp", "p", head+"ingress:\n- {action: Deny, from: [{"+peer+"}]}")
		if e := errors(problems); len(e) != 1 || !strings.HasPrefix(e[0], "spec.ingress[0].from[0].") || !p.Ingress.Rules[0].AnyPeer {
			t.Errorf("%s: errors %v, rule %+v", peer, e, p.Ingress.Rules[0])
		}
	}
}

func TestActions(t *testing.T) {
	for _, c := range []struct {
		kind, action string
		known        bool
		want         model.Action
	}{
		{"cnp", "Accept", true, model.Allow}, {"cnp", "Deny", true, model.Deny}, {"cnp", "Pass", true, model.Pass},
		{"anp", "Allow", true, model.Allow}, {"anp", "Deny", true, model.Deny}, {"anp", "Pass", true, model.Pass},
		{"banp", "Allow", true, model.Allow}, {"banp", "Deny", true, model.Deny},
		{"cnp", "Allow", false, model.Deny}, {"cnp", "accept", false, model.Deny}, {"cnp", "Log", false, model.Deny}, {"cnp", "", false, model.Deny},
		{"anp", "Accept", false, model.Deny}, {"banp", "Pass", false, model.Deny},
	} {
		p, problems := decode(t, c.kind, "default", heads[c.kind]+"ingress:\n- {action: "+c.action+", from: [{namespaces: {}}]}")
		r := p.Ingress.Rules[0]
		if r.Action != c.want || (len(errors(problems)) == 0) != c.known || r.AnyPeer == c.known {
			t.Errorf("%s %q: %+v, errors %v", c.kind, c.action, r, errors(problems))
		}
	}
}

// Where the policy belongs or whom it selects cannot be read: no rule can be.
func TestAPolicyWithAnErrorIsClosed(t *testing.T) {
	const rules = "\ningress:\n- {action: Accept, from: [{namespaces: {}}]}\n- {action: Deny, from: [{namespaces: {}}]}\n- {action: Pass, from: [{namespaces: {}}]}"
	const shut = "ingress  allow: : \ningress  deny: anybody: anything\ningress  deny: anybody: anything\n"
	const both = "ingress  deny: anybody: anything\negress  deny: anybody: anything\n"
	for _, c := range []struct{ kind, name, spec, want, errors string }{
		{"cnp", "p", "priority: 1\nsubject: {namespaces: {}}" + rules, "kube-admin 1: all namespaces\n" + shut, "spec.tier: is missing"},
		{"cnp", "p", "tier: baseline\npriority: 1\nsubject: {namespaces: {}}" + rules, "kube-admin 1: all namespaces\n" + shut, "spec.tier: unknown tier \"baseline\""},
		{"cnp", "p", "tier: Baseline\nsubject: {namespaces: {}}" + rules, "kube-baseline 0: all namespaces\n" + shut, "spec.priority: is missing"},
		{"cnp", "p", "tier: Baseline\npriority: 1001\nsubject: {namespaces: {}}" + rules, "kube-baseline 0: all namespaces\n" + shut, "spec.priority: must be between 0 and 1000, not 1001"},
		{"anp", "p", "priority: -1\nsubject: {namespaces: {}}" + rules, "kube-admin 0: all namespaces\n" + strings.Replace(shut, "allow: : ", "deny: anybody: anything", 1),
			"spec.priority: must be between 0 and 1000, not -1; spec.ingress[0].action: unknown action \"Accept\""},
		{"cnp", "p", "tier: Admin\npriority: 1" + rules, "kube-admin 1: all namespaces\n" + shut, "spec.subject: is missing"},
		{"cnp", "p", "tier: Admin\npriority: 1\nsubject: {}" + rules, "kube-admin 1: all namespaces\n" + shut, "spec.subject: a subject must have namespaces or pods"},
		{"cnp", "p", "tier: Admin\npriority: 1\nsubject: {namespaces: {matchLabels: {a: -}}}" + rules, "kube-admin 1: all namespaces\n" + shut, "spec.subject.namespaces.matchLabels.a: label value \"-\" cannot exist"},
		{"cnp", "p", "tier: Admin\npriority: 1\nsubject: {pods: {namespaceSelector: {matchLabels: {a: b}}, podSelector: {matchLabels: {a: -}}}}" + rules,
			"kube-admin 1: namespaces a=b\n" + shut, "spec.subject.pods.podSelector.matchLabels.a: label value \"-\" cannot exist"},
		{"cnp", "p", "tier: Admin\npriority: 1\nsubject: {pods: {podSelector: {}}, namespaces: {}}" + rules, "kube-admin 1: all namespaces\n" + shut, "spec.subject: namespaces and pods may not stand in one item"},
		{"banp", "other", "subject: {namespaces: {}}\ningress:\n- {action: Deny, from: [{pods: {namespaceSelector: {}, podSelector: {}}}]}", "kube-baseline +Inf: all namespaces\ningress  deny: anybody: anything\n", "metadata.name: must be default, not \"other\""},
		{"banp", "default", "priority: 7\nsubject: {namespaces: {}}", "kube-baseline +Inf: all namespaces\n" + both, "spec.priority: unknown field \"priority\""},
		{"cnp", "p", head + "ingres: []", "kube-admin 10: all namespaces\n" + both, "spec.ingres: unknown field \"ingres\""},
		{"cnp", "p", head + "ingress: {}", "kube-admin 10: all namespaces\ningress  deny: anybody: anything\n", "spec.ingress: must be a list, not an object"},
		{"cnp", "p", head + "ingress: [null]", "kube-admin 10: all namespaces\ningress  deny: anybody: anything\n", "spec.ingress[0]: is missing"},
		{"cnp", "p", "", "kube-admin 0: all namespaces\n" + both, "spec: is missing"},
		{"cnp", "p", "everything", "kube-admin 0: all namespaces\n" + both, "spec: must be an object, not \"everything\""},
	} {
		t.Run(c.errors, func(t *testing.T) {
			p, problems := decode(t, c.kind, c.name, c.spec)
			if d := cmp.Diff(c.want, text(p)); d != "" {
				t.Errorf("policy (-want +got):\n%s", d)
			}
			if d := cmp.Diff(c.errors, strings.Join(errors(problems), "; ")); d != "" {
				t.Errorf("errors (-want +got):\n%s", d)
			}
		})
	}
}

func TestSoManyRules(t *testing.T) {
	for kind, most := range map[string]int{"cnp": 25, "anp": 100, "banp": 100} {
		for n := most; n <= most+1; n++ {
			p, problems := decode(t, kind, "default", heads[kind]+"ingress: ["+repeat("{name: r%d, action: Deny, from: [{namespaces: {}}]}", n)+"]")
			if e := errors(problems); (len(e) == 0) != (n == most) || len(p.Ingress.Rules) != n {
				t.Errorf("%s with %d rules: %d, errors %v", kind, n, len(p.Ingress.Rules), e)
			}
		}
	}
}

func TestDomainNames(t *testing.T) {
	for name, ok := range map[string]bool{
		"example.com": true, "example.com.": true, "*.example.com": true, "a_b.Example.COM": true, "_dmarc.example.com": true,
		"com": false, "*": false, "*.com": false, "*.com.": false, "a.*.com": false, "a*.com": false, "*.*.com": false, ".a.b": false, "a..b": false,
		"-a.com": false, "a-.com": false, "a b.com": false, "": false, "example.com..": false, "https://example.com": false, "a^.com": false,
	} {
		p, problems := decode(t, "cnp", "p", head+"egress:\n- {action: Accept, to: [{domainNames: [\""+name+"\"]}]}")
		if e := errors(problems); (len(e) == 0) != ok || (len(p.Egress.Rules[0].Peers) == 1) != ok {
			t.Errorf("%q: %v, errors %v", name, p.Egress.Rules[0].Peers, e)
		}
		if p.Egress.Rules[0].Peers != nil && p.Egress.Rules[0].Peers[0].Names[0] != (model.NamePattern{Syntax: model.NameCluster, Text: name}) {
			t.Errorf("%q: %v", name, p.Egress.Rules[0].Peers[0].Names)
		}
		if last := problems[len(problems)-1]; last.Severity != model.Warning || last.Source.Field != "spec.egress[0].to[0].domainNames" {
			t.Errorf("%q: no warning that it is not enforced: %v", name, problems)
		}
	}
	for _, action := range []string{"Deny", "Pass"} {
		p, problems := decode(t, "cnp", "p", head+"egress:\n- {action: "+action+", to: [{domainNames: [example.com]}]}")
		if e := errors(problems); len(e) != 1 || p.Egress.Rules[0].Action != model.Deny || !p.Egress.Rules[0].AnyPeer {
			t.Errorf("%s: %+v, errors %v", action, p.Egress.Rules[0], e)
		}
	}
}

// Places are what explanations and editors go by.
func TestEachPartKnowsItsPlace(t *testing.T) {
	p, _ := decode(t, "cnp", "p", head+"egress:\n- {action: Accept, to: [{namespaces: {}}]}\n- action: Accept\n  to: [{nodes: {}}, {networks: [10.0.0.0/8, 11.0.0.0/8]}]\n  protocols: [{tcp: {destinationPort: {number: 1}}}]")
	r := p.Egress.Rules[1]
	got := []string{r.Source.Field, r.Peers[0].Source.Field, r.Peers[2].Source.Field, r.Ports[0].Source.Field}
	want := []string{"spec.egress[1]", "spec.egress[1].to[0]", "spec.egress[1].to[1].networks[1]", "spec.egress[1].protocols[0]"}
	if d := cmp.Diff(want, got); d != "" || r.Source.Line != 10 {
		t.Errorf("line %d, places (-want +got):\n%s", r.Source.Line, d)
	}
}
