package calico

import (
	"regexp"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/dialect/field"
	"github.com/sallyport-dev/sallyport/model"
)

// http reads what a rule asks of HTTP requests. They go over TCP, so a rule
// without a protocol is about TCP then.
func (d *decoder) http(c field.Cursor, dir model.Direction, r *model.Rule, l *l4) {
	if !c.Mapping() {
		return
	}
	m := model.HTTPMatch{Source: c.Source()}
	if d.clean(func() { d.request(c, dir, r, l, &m) }) {
		c.Report(model.Warning, "HTTP rules"+notYet, "")
	}
	r.L7 = &model.L7{HTTP: []model.HTTPMatch{m}}
}

// request reads what is asked of a request, and whether it may be asked here.
func (d *decoder) request(c field.Cursor, dir model.Direction, r *model.Rule, l *l4, m *model.HTTPMatch) {
	m.Methods = methods(c.Field("methods"))
	for _, p := range c.Field("paths").Items() {
		m.Paths = append(m.Paths, path(p))
	}
	c.Done()
	switch {
	case dir == model.Egress:
		c.Error("may not stand in an egress rule", "requests are checked where they arrive")
	case r.Action != model.Allow:
		c.Error("may stand in an Allow rule only", "what no rule allows is denied")
	case l.protocol != model.AnyProtocol && l.protocol != model.TCP:
		c.Error("needs protocol TCP, or none", "")
	case l.base == nil:
		l.base = []model.Port{{Protocol: model.TCP, Last: 65535, Source: c.Source()}}
	}
}

// methods reads the methods of requests; "*" is any.
func methods(c field.Cursor) []model.StringMatch {
	var out []model.StringMatch
	names := c.Strings()
	for i, name := range names {
		if slices.Contains(names[:i], name) {
			c.Error("method "+name+" is listed twice", "")
		}
		out = append(out, model.StringMatch{Text: name})
	}
	if slices.Contains(names, "*") {
		return nil
	}
	return out
}

// path reads exact or prefix.
func path(c field.Cursor) model.StringMatch {
	if c.Present() && !c.Mapping() {
		return model.StringMatch{}
	}
	exact, prefix := c.Field("exact"), c.Field("prefix")
	c.Done()
	out := model.StringMatch{Form: model.MatchExact, Text: exact.String()}
	if exact.Present() == prefix.Present() {
		c.Error("a path has one of exact and prefix", "")
		return out
	}
	at := exact
	if prefix.Present() {
		at, out = prefix, model.StringMatch{Form: model.MatchPrefix, Text: prefix.String()}
	}
	if !strings.HasPrefix(out.Text, "/") || strings.ContainsAny(out.Text, "? #") {
		at.Error("\""+out.Text+"\" is no path", "it begins with / and has no ?, # or space")
	}
	return out
}

// tls has the rule ask for a TLS server name: one of its domains, or any.
func (d *decoder) tls(r *model.Rule, names []model.NamePattern) {
	if r.L7 == nil {
		r.L7 = &model.L7{}
	}
	r.L7.ServerNames = names
	if len(names) == 0 {
		r.L7.ServerNames = []model.NamePattern{{Syntax: model.NameCalico, Text: "*"}}
	}
}

var domain = regexp.MustCompile(`^[a-z0-9_*]([-a-z0-9_*]*[a-z0-9_*])?(\.[a-z0-9_*]([-a-z0-9_*]*[a-z0-9_*])?)*$`)

// domains reads the DNS names of a destination.
func (d *decoder) domains(c field.Cursor, s side) (out []model.NamePattern) {
	if d.clean(func() { out = names(c, s) }) && out != nil {
		c.Report(model.Warning, "domain names"+notYet, "they are known to the vendor's commercial releases only; nets and network sets are to all")
	}
	return out
}

func names(c field.Cursor, s side) []model.NamePattern {
	items := c.Items()
	switch {
	case len(items) == 0:
		return nil
	case s.dir == model.Ingress || !s.peer:
		c.Error("may stand in the destination of an egress rule only", "")
	case s.action != model.Allow:
		c.Error("may stand in an Allow rule only", "an address may have names that nobody asked for")
	}
	var out []model.NamePattern
	for _, i := range items {
		name := strings.ToLower(strings.TrimSuffix(i.String(), "."))
		if len(name) > 253 || !domain.MatchString(name) || strings.Count(name, "*") > 1 {
			i.Error("\""+i.Value()+"\" is no name", "such as example.com, or with one *: *.example.com")
			continue
		}
		syntax := model.NameExact
		if strings.Contains(name, "*") {
			syntax = model.NameCalico
		}
		out = append(out, model.NamePattern{Syntax: syntax, Text: name})
	}
	return out
}
