package cilium

import (
	"regexp"
	"strings"

	"github.com/sallyport-dev/sallyport/dialect/field"
	"github.com/sallyport-dev/sallyport/model"
)

// conditions reads what an entry of toPorts asks beyond ports; nil if nothing.
func (d *decoder) conditions(c field.Cursor, l list, ports field.Cursor, read []portProtocol) *model.L7 {
	rules, servers := c.Field("rules"), c.Field("serverNames")
	terminating, originating, listener := c.Field("terminatingTLS"), c.Field("originatingTLS"), c.Field("listener")
	out := &model.L7{ServerNames: serverNames(servers)}
	unsupported := func(f field.Cursor, what string) {
		if f.Present() {
			out.Unsupported = what
			f.Report(model.Warning, what+" is not supported: what only this rule allows is denied", "")
		}
	}
	checkTLS(terminating)
	checkTLS(originating)
	checkListener(listener, l)
	unsupported(terminating, "terminatingTLS")
	unsupported(originating, "originatingTLS")
	unsupported(listener, "listener")
	applied := d.l7Rules(rules, l, out)
	switch {
	case !applied:
	case servers.Present() && !terminating.Present():
		servers.Error("may not stand beside HTTP or DNS rules", "only with terminatingTLS can both be checked")
	case listener.Present():
		listener.Error("may not stand beside HTTP or DNS rules", "write two entries of toPorts")
	default:
		checkPorts(ports, read, len(out.DNS) > 0)
	}
	if !applied && len(out.ServerNames) == 0 && out.Unsupported == "" {
		return nil
	}
	return out
}

// checkPorts holds the ports to what HTTP and DNS rules can be about.
func checkPorts(ports field.Cursor, read []portProtocol, dns bool) {
	if dns && len(read) == 0 {
		ports.Error("is missing", "DNS rules need their ports, mostly \"53\"")
	}
	items := ports.Items()
	for i, p := range read {
		switch {
		case p.zero:
			items[i].Error("every port cannot have HTTP or DNS rules", "write the port's number")
		case dns && p.ranged:
			items[i].Error("a range of ports cannot have DNS rules", "write the ports one by one")
		case !dns && !(len(p.protocols) == 1 && p.protocols[0] == model.TCP):
			items[i].Error("HTTP rules are about TCP only", "write protocol: TCP")
		}
	}
}

// l7Rules reads rules into the conditions and says whether there are any.
func (d *decoder) l7Rules(c field.Cursor, l list, out *model.L7) bool {
	if !c.Mapping() {
		return false
	}
	http, dns := c.Field("http"), c.Field("dns")
	for _, old := range []string{"kafka", "l7proto", "l7"} {
		if f := c.Field(old); f.Present() {
			f.Error("is no field of Cilium's policies since 1.20", "HTTP and DNS are the protocols that rules can be about; 1.18 was the last with this one")
		}
	}
	c.Done()
	for _, i := range http.Items() {
		out.HTTP = append(out.HTTP, d.httpMatch(i))
	}
	items := dns.Items()
	for _, i := range items {
		if n, ok := namePattern(i); ok {
			out.DNS = append(out.DNS, n)
		}
	}
	switch {
	case len(out.HTTP) > 0 && dns.Present() || len(items) > 0 && http.Present():
		c.Error("http and dns exclude each other", "write two entries of toPorts")
	case len(items) > 0 && l.direction == model.Ingress:
		dns.Error("DNS rules are about egress only", "write them in egress of the pods that ask")
	case len(items) > 0:
		notEnforced(dns, "DNS rules are")
	case len(out.HTTP) > 0:
		notEnforced(http, "HTTP rules are")
	}
	return len(out.HTTP) > 0 || len(items) > 0
}

// httpMatch reads one alternative of http.
func (d *decoder) httpMatch(c field.Cursor) model.HTTPMatch {
	out := model.HTTPMatch{Source: c.Source()}
	if !c.Present() || !c.Mapping() { // null is {}
		return out
	}
	out.Methods = pattern(c.Field("method"))
	out.Paths = pattern(c.Field("path"))
	out.Hosts = pattern(c.Field("host"))
	for _, h := range c.Field("headers").Items() {
		out.Headers = append(out.Headers, header(h))
	}
	for _, h := range c.Field("headerMatches").Items() {
		out.Headers = append(out.Headers, d.headerMatch(h))
	}
	c.Done()
	return out
}

// pattern reads a regular expression over a whole text; empty is any.
func pattern(c field.Cursor) []model.StringMatch {
	text := c.String()
	if text == "" {
		return nil
	}
	if _, err := regexp.Compile(text); err != nil {
		c.Error("is no regular expression: "+err.Error(), "the syntax is RE2; a dot or a slash that is meant is \\. and /")
		return nil
	}
	return []model.StringMatch{{Form: model.MatchRegex, Text: text}}
}

// header reads a line "Name: value", or "Name" for its mere presence.
func header(c field.Cursor) model.HeaderMatch {
	var line string
	if c.IsMapping() {
		line = headerMapping(c)
	} else {
		line = c.String()
	}
	name, value, found := strings.Cut(line, " ")
	out := model.HeaderMatch{Name: strings.TrimSuffix(name, ":")}
	switch {
	case found:
		out.Value = &value
	case strings.Contains(strings.TrimSuffix(name, ":"), ":"):
		out.Name, out.Never = name, true
		c.Report(model.Warning, "\""+line+"\" never matches: without a space after the colon all of it is the header's name", "write "+strings.Replace(line, ":", ": ", 1))
	}
	if out.Name == "" {
		c.Error("has no name of a header", "\"X-Version: 2\"")
	}
	return out
}

// headerMapping takes {X-Version: 2}, which is what a line without quotes is
// to YAML, for the line.
func headerMapping(c field.Cursor) string {
	line, n := "", 0
	c.Entries(func(key, value field.Cursor) { n, line = n+1, key.Value()+": "+value.Value() })
	if n != 1 {
		c.Error("must be a string", "\"X-Version: 2\", in quotes")
		return ""
	}
	c.Report(model.Warning, "is read as the header \""+line+"\"; Cilium takes strings only", "put it in quotes: \""+line+"\"")
	return line
}

func (d *decoder) headerMatch(c field.Cursor) model.HeaderMatch {
	if !c.Mapping() {
		if !c.Present() {
			c.Error("must be an object, not null", "take the item out")
		}
		return model.HeaderMatch{}
	}
	name, value, secret, mismatch := c.Field("name"), c.Field("value"), c.Field("secret"), c.Field("mismatch")
	c.Done()
	out := model.HeaderMatch{Name: name.String(), Secret: secretName(secret, d.namespace), Mismatch: mismatch.String()}
	if out.Name == "" {
		name.Error("is missing", "the header's name")
	}
	if v := value.String(); v != "" {
		out.Value = &v
	}
	switch out.Mismatch {
	case "", "LOG", "ADD", "DELETE", "REPLACE":
	default:
		mismatch.Error("unknown action \""+out.Mismatch+"\"", "one of LOG, ADD, DELETE, REPLACE; left out, a request without a match is denied")
	}
	return out
}

// secretName reads a reference to a Secret, of the namespace unless it names one.
func secretName(c field.Cursor, namespace string) string {
	if !c.Mapping() {
		return ""
	}
	own, name := c.Field("namespace").String(), c.Field("name")
	c.Done()
	if name.String() == "" {
		name.Error("is missing", "the Secret's name")
	}
	if own != "" {
		namespace = own
	}
	return namespace + "/" + name.Value()
}

// serverNames reads the names that TLS clients may ask for.
func serverNames(c field.Cursor) []model.NamePattern {
	items := c.Items()
	if c.IsList() && len(items) == 0 {
		c.Error("is empty", "leave it out, or write at least one name")
	}
	var out []model.NamePattern
	for _, i := range items {
		text := i.String()
		if checkName(i, text, patternText) {
			out = append(out, model.NamePattern{Syntax: model.NameCilium, Text: text})
		}
	}
	if len(out) > 0 {
		notEnforced(c, "TLS server names are")
	}
	return out
}

// What Cilium accepts as a name and as a pattern.
var (
	nameText    = regexp.MustCompile(`^([-a-zA-Z0-9_]+[.]?)+$`)
	patternText = regexp.MustCompile(`^([-a-zA-Z0-9_*]+[.]?)+$`)
)

func checkName(c field.Cursor, text string, form *regexp.Regexp) bool {
	if len(text) <= 255 && form.MatchString(text) {
		return true
	}
	if c.Value() == text {
		c.Error("\""+text+"\" is no name", "at most 255 letters, digits, '-', '_' and single dots; in patterns '*', too")
	}
	return false
}

// namePattern reads an item {matchName} or {matchPattern}.
func namePattern(c field.Cursor) (model.NamePattern, bool) {
	if !c.Mapping() {
		if !c.Present() {
			c.Error("must be an object, not null", "")
		}
		return model.NamePattern{}, false
	}
	name, wild := c.Field("matchName"), c.Field("matchPattern")
	clean := c.Done()
	switch {
	case name.Present() == wild.Present():
		c.Error("needs one of matchName, matchPattern", "")
		return model.NamePattern{}, false
	case name.Present():
		return model.NamePattern{Syntax: model.NameExact, Text: name.Value()}, checkName(name, name.String(), nameText) && clean
	}
	return model.NamePattern{Syntax: model.NameCilium, Text: wild.Value()}, checkName(wild, wild.String(), patternText) && clean
}

// checkTLS checks a reference to TLS keys.
func checkTLS(c field.Cursor) {
	if !c.Mapping() {
		return
	}
	secret := c.Field("secret")
	checkStrings(c.Field("trustedCA"), c.Field("certificate"), c.Field("privateKey"))
	c.Done()
	if !secret.Present() {
		secret.Error("is missing", "{namespace, name} of a Secret")
		return
	}
	secretName(secret, "")
}

// checkListener checks a reference to a listener of Envoy.
func checkListener(c field.Cursor, l list) {
	if !c.Mapping() {
		return
	}
	config, name := c.Field("envoyConfig"), c.Field("name")
	c.Field("priority").Int(1, 100)
	c.Done()
	if name.String() == "" {
		name.Error("is missing", "the listener's name")
	}
	if l.direction == model.Ingress {
		c.Error("listeners are for egress only", "")
	}
	if !config.Present() {
		config.Error("is missing", "{kind, name} of the listener's configuration")
	}
	if !config.Mapping() {
		return
	}
	kind, named := config.Field("kind"), config.Field("name")
	config.Done()
	switch kind.String() {
	case "", "CiliumEnvoyConfig", "CiliumClusterwideEnvoyConfig":
	default:
		kind.Error("unknown kind \""+kind.Value()+"\"", "CiliumEnvoyConfig or CiliumClusterwideEnvoyConfig")
	}
	if named.String() == "" {
		named.Error("is missing", "the configuration's name")
	}
}
