package calico

import (
	"math"
	"regexp"
	"strconv"
	"strings"

	"github.com/sallyport-dev/sallyport/dialect/field"
	"github.com/sallyport-dev/sallyport/model"
)

// shape says which of the four kinds a policy is.
type shape struct{ global, staged bool }

// maxRules is how many rules a direction may have.
const maxRules = 1024

// copiedPrefix begins the names of Kubernetes' own policies where they are
// listed among these; they stand where Kubernetes' policies do.
const copiedPrefix = "knp.default."

func itoa(n int) string { return strconv.Itoa(n) }

func policy(o *object, k shape) model.Parts {
	p := &model.Policy{Source: o.source, Family: model.FamilyCalico, Tier: model.TierDefault, Order: math.Inf(1), Staged: k.staged}
	if !k.global {
		p.Subject.Namespace = o.source.Namespace
	}
	d := &decoder{object: o, namespace: p.Subject.Namespace}
	var typed types
	deleted, hostOnly := false, false
	hints(o.spec.Field("performanceHints"))
	readable := mapping(o.spec) && o.clean(func() {
		d.place(p)
		d.subject(p, k)
		typed = d.types()
		if k.staged {
			deleted = stagedAction(o.spec)
		}
		hostOnly = k.global && d.host()
		o.spec.Field("ingress")
		o.spec.Field("egress")
		if !o.spec.Done() || !o.whole {
			typed = types{true, true} // what is misspelt may have been the types
		}
	})
	switch {
	case !readable || !o.whole:
		shut(p, typed)
	case deleted || hostOnly:
		d.sections(p, typed) // for their problems
		return model.Parts{}
	default:
		d.sections(p, typed)
	}
	return model.Parts{Policies: []*model.Policy{p}}
}

// shut has the policy deny everything that it governs, or may govern.
func shut(p *model.Policy, t types) {
	deny := func() *model.Section {
		return &model.Section{DefaultDeny: true, Ordered: true, Rules: []model.Rule{{Action: model.Deny, AnyPeer: true, AnyPort: true, Source: p.Source}}}
	}
	if t.ingress || !t.egress {
		p.Ingress = deny()
	}
	if t.egress || !t.ingress {
		p.Egress = deny()
	}
}

// decoder decodes the rules of one policy.
type decoder struct {
	*object
	namespace string // that of the policy; "" for a global one
}

var tierName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

// place reads where the policy stands.
func (d *decoder) place(p *model.Policy) {
	tier, order := d.spec.Field("tier"), d.spec.Field("order")
	if name := tier.String(); name != "" {
		if !tierName.MatchString(name) {
			tier.Error(strconv.Quote(name)+" cannot be the name of a tier", "lower-case letters, digits and '-', at most 63")
		}
		p.Tier = name
	}
	if strings.HasPrefix(d.root.Field("metadata").Field("name").Value(), copiedPrefix) {
		p.Order = model.KubernetesOrder
	}
	if v, ok := order.Number(); ok {
		p.Order = v
	} else if order.Present() {
		p.Order = math.Inf(-1) // it closes, so it must not come too late
	}
}

// subject reads whom the policy selects. What cannot be read selects everybody.
func (d *decoder) subject(p *model.Policy, k shape) {
	pods, accounts := plainSelector(d.spec.Field("selector")), plainSelector(d.spec.Field("serviceAccountSelector"))
	p.Subject.Pods = model.And(podLabels(pods), accountLabels(accounts))
	if k.global {
		p.Subject.Namespaces = podNamespaces(plainSelector(d.spec.Field("namespaceSelector")))
	}
}

// types are the directions that a policy governs.
type types struct{ ingress, egress bool }

// types reads the directions. Whoever writes an object through the API gets
// them filled in: egress if there are only such rules, both if there are both
// kinds, else ingress. Stored without them they are both.
func (d *decoder) types() types {
	list := d.spec.Field("types")
	items := list.Items()
	if len(items) == 0 {
		if d.source.APIVersion == Stored {
			list.Report(model.Warning, "is missing: a stored policy without it governs both directions", "list Ingress, Egress or both")
			return types{true, true}
		}
		in, out := length(d.spec.Field("ingress")) > 0, length(d.spec.Field("egress")) > 0
		return types{ingress: in || !out, egress: out}
	}
	var t types
	for _, i := range items {
		switch i.String() {
		case "Ingress":
			t.ingress = true
		case "Egress":
			t.egress = true
		default:
			i.Error("unknown type \""+i.Value()+"\"", "one of Ingress, Egress (capitalised)")
			return types{true, true}
		}
	}
	return t
}

// host reads what is said about host endpoints, and whether the policy is
// about nothing else.
func (d *decoder) host() bool {
	untracked, early, forwarded := d.spec.Field("doNotTrack"), d.spec.Field("preDNAT"), d.spec.Field("applyOnForward")
	noTrack, noNAT, forward := untracked.Bool(), early.Bool(), forwarded.Bool()
	const hosts = "decides about host endpoints only, and nothing is enforced on hosts yet"
	switch {
	case noTrack && noNAT:
		early.Error("may not stand beside doNotTrack", "make two policies of it")
	case (noTrack || noNAT) && !forward:
		forwarded.Error("must be true where doNotTrack or preDNAT is", "")
	case noNAT && length(d.spec.Field("egress")) > 0:
		d.spec.Field("egress").Error("may not stand beside preDNAT", "packets that leave have no address to be translated before")
	case noTrack:
		untracked.Report(model.Warning, "a policy with doNotTrack "+hosts, "")
	case noNAT:
		early.Report(model.Warning, "a policy with preDNAT "+hosts, "")
	case forward:
		forwarded.Report(model.Info, "the policy holds for pods; on host endpoints nothing is enforced yet", "")
	}
	return noTrack || noNAT
}

// hints reads what the vendor wants to know for its speed.
func hints(c field.Cursor) {
	for _, i := range c.Items() {
		if i.String() != "AssumeNeededOnEveryNode" {
			i.Error("unknown hint \""+i.Value()+"\"", "AssumeNeededOnEveryNode")
		}
	}
}

// stagedAction reads what is to become of the policy, and says whether it is
// to be deleted: then there is nothing to evaluate.
func stagedAction(spec field.Cursor) bool {
	c := spec.Field("stagedAction")
	switch c.String() {
	case "", "Set", "Learn", "Ignore":
	case "Delete":
		c.Report(model.Info, "a staged deletion is not evaluated", "")
		spec.Entries(func(key, _ field.Cursor) {
			if key.Value() != "stagedAction" && key.Value() != "tier" {
				key.Error("must be left out where stagedAction is Delete", "")
			}
		})
		return true
	default:
		c.Error("unknown action \""+c.Value()+"\"", "one of Set, Delete, Learn, Ignore")
	}
	return false
}

func (d *decoder) sections(p *model.Policy, t types) {
	p.Ingress = d.section(model.Ingress, t.ingress)
	p.Egress = d.section(model.Egress, t.egress)
}

// section reads the rules of one direction. Where the policy does not govern
// it they are read for their problems.
func (d *decoder) section(dir model.Direction, governed bool) *model.Section {
	list := d.spec.Field(dir.String())
	items := list.Items()
	atMost(items, maxRules, list)
	s := &model.Section{DefaultDeny: true, Ordered: true}
	for _, c := range items {
		s.Rules = append(s.Rules, d.rule(c, dir))
	}
	switch {
	case !governed && len(items) > 0:
		list.Report(model.Warning, "these rules are not in force: types does not list "+map[model.Direction]string{model.Ingress: "Ingress", model.Egress: "Egress"}[dir], "")
		return nil
	case !governed:
		return nil
	case list.Present() && !list.IsList():
		s.Rules = []model.Rule{{Action: model.Deny, AnyPeer: true, AnyPort: true, Source: list.Source()}}
	}
	return s
}
