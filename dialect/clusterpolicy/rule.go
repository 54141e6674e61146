package clusterpolicy

import (
	"strconv"
	"unicode/utf8"

	"github.com/sallyport-dev/sallyport/dialect/field"
	"github.com/sallyport-dev/sallyport/model"
)

// section reads the rules of one direction. Without a rule the policy does not
// govern it.
func (d *decoder) section(list field.Cursor, peers string) *model.Section {
	if !list.Present() {
		return nil
	}
	items := limited(list, d.rules)
	if !list.IsList() {
		return shut(list)
	}
	if len(items) == 0 {
		return nil
	}
	out := &model.Section{Ordered: true}
	for _, c := range items {
		out.Rules = append(out.Rules, d.rule(c, peers))
	}
	return out
}

// shut is a section in place of one that cannot be read.
func shut(c field.Cursor) *model.Section {
	return &model.Section{Ordered: true, Rules: []model.Rule{closed(model.Rule{Action: model.Deny, Source: c.Source()})}}
}

// closed is what a rule that cannot be read does.
func closed(r model.Rule) model.Rule {
	out := model.Rule{Name: r.Name, Action: r.Action, Source: r.Source}
	if r.Action != model.Allow {
		out.Action, out.AnyPeer, out.AnyPort = model.Deny, true, true
	}
	return out
}

func (d *decoder) rule(c field.Cursor, peersField string) model.Rule {
	r := model.Rule{Action: model.Deny, Source: c.Source()}
	clean := d.clean(func() {
		if object(c) {
			d.readRule(c, peersField, &r)
		}
	})
	if d.broken || !clean {
		return closed(r)
	}
	return r
}

func (d *decoder) readRule(c field.Cursor, peersField string, r *model.Rule) {
	r.Name = ruleName(c.Field("name"))
	r.Action = d.action(c.Field("action"))
	if peers := c.Field(peersField); required(peers) {
		for _, i := range filled(peers, d.peers) {
			r.Peers = append(r.Peers, d.peer(i, peersField == "to", r.Action)...)
		}
	}
	ports := c.Field(d.ports)
	r.AnyPort = !ports.Present()
	for _, i := range filled(ports, d.peers) {
		r.Ports = append(r.Ports, d.port(i)...)
	}
	namesNeedPods(ports, r)
	c.Done()
}

// namesNeedPods reports port names where a peer is not made of pods: nothing
// else has names for its ports.
func namesNeedPods(at field.Cursor, r *model.Rule) {
	named, others := false, false
	for _, p := range r.Ports {
		named = named || p.Name != ""
	}
	for _, p := range r.Peers {
		others = others || p.Pods == nil
	}
	if named && others {
		at.Error("a named port may not stand beside networks, nodes or domainNames", "only pods name their ports; write a rule of its own for the other peers")
	}
}

func ruleName(c field.Cursor) string {
	name := c.String()
	if utf8.RuneCountInString(name) > 100 {
		c.Error("may have at most 100 characters", "")
	}
	return name
}

// action reads the action. One that is unknown may be meant to deny.
func (d *decoder) action(c field.Cursor) model.Action {
	known := d.accept + ", Deny"
	if d.pass {
		known += ", Pass"
	}
	switch word := c.String(); {
	case !required(c):
	case word == d.accept:
		return model.Allow
	case word == "Pass" && d.pass:
		return model.Pass
	case word != "Deny":
		c.Error("unknown action "+strconv.Quote(c.Value()), "one of "+known)
	}
	return model.Deny
}

// object says whether the node is an object, and reports it if not, also if it
// is missing.
func object(c field.Cursor) bool { return required(c) && c.Mapping() }

func required(c field.Cursor) bool {
	if !c.Present() {
		c.Error("is missing", "")
	}
	return c.Present()
}

// one is the only one of the fields that c has, and its name; "" if that
// cannot be said, which it reports.
func one(c field.Cursor, what string, names ...string) (string, field.Cursor) {
	var set []string
	var at field.Cursor
	if !object(c) {
		return "", at
	}
	for _, n := range names {
		if f := c.Field(n); f.Present() {
			set, at = append(set, n), f
		}
	}
	switch clean := c.Done(); {
	case len(set) == 1 && clean:
		return set[0], at
	case len(set) > 1:
		c.Error(list(set, "and")+" may not stand in one item", what+" has exactly one of "+list(names, "or"))
	case clean:
		c.Error(what+" must have "+list(names, "or"), "")
	}
	return "", at
}

// list writes words as a sentence does.
func list(words []string, last string) string {
	out := words[0]
	for i, w := range words[1:] {
		separator := ", "
		if i == len(words)-2 {
			separator = " " + last + " "
		}
		out += separator + w
	}
	return out
}

// limited is the items of a list that may have so many.
func limited(c field.Cursor, most int) []field.Cursor {
	items := c.Items()
	if len(items) > most {
		c.Error("has "+strconv.Itoa(len(items))+" items, but may have "+strconv.Itoa(most), "")
	}
	return items
}

// filled is the items of a list that may be missing, but not empty.
func filled(c field.Cursor, most int) []field.Cursor {
	items := limited(c, most)
	if c.IsList() && len(items) == 0 {
		c.Error("must have an item", "an empty list is neither everything nor nothing here")
	}
	return items
}
