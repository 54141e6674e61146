package field

import (
	"regexp"
	"strings"

	"github.com/sallyport-dev/sallyport/model"
)

var (
	labelValue = regexp.MustCompile(`^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$`)
	labelName  = regexp.MustCompile(`^([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]$`)
	dnsDomain  = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)
	portName   = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`)
	labelKey   = regexp.MustCompile(`^(([^/]+)/)?([^/]+)$`)
)

// ValidLabelKey says whether Kubernetes accepts the label key.
func ValidLabelKey(k string) bool {
	m := labelKey.FindStringSubmatch(k)
	return m != nil && len(m[3]) <= 63 && labelName.MatchString(m[3]) &&
		(m[1] == "" || len(m[2]) <= 253 && dnsDomain.MatchString(m[2]))
}

// ValidLabelValue says whether Kubernetes accepts the label value.
func ValidLabelValue(v string) bool { return len(v) <= 63 && labelValue.MatchString(v) }

// ValidName says whether Kubernetes accepts the object name (a DNS subdomain).
func ValidName(n string) bool { return n != "" && len(n) <= 253 && dnsDomain.MatchString(n) }

// ValidPortName says whether Kubernetes accepts the name for a container's port.
func ValidPortName(n string) bool {
	return len(n) <= 15 && portName.MatchString(n) && !strings.Contains(n, "--") && strings.ContainsAny(n, "abcdefghijklmnopqrstuvwxyz")
}

const (
	keyHint   = "a label key is an optional DNS prefix and '/', then up to 63 letters, digits, '-', '_' or '.', beginning and ending with a letter or digit"
	valueHint = "a label value is up to 63 letters, digits, '-', '_' or '.', beginning and ending with a letter or digit; no object can carry any other"
)

// Selector decodes a LabelSelector. A requirement with a problem makes the
// whole selector one that matches nothing.
func Selector(c Cursor) (model.Selector, bool) {
	if !c.Mapping() {
		return model.Selector{}, !c.Present()
	}
	ok := true
	args := []model.Selector{}
	c.Field("matchLabels").Entries(func(key, value Cursor) {
		ok = checkKey(key, key.node.Value) && ok
		v := value.String()
		ok = checkValue(value, v) && ok
		args = append(args, model.Selector{Op: model.SelectIn, Key: key.node.Value, Values: []string{v}})
	})
	for _, e := range c.Field("matchExpressions").Items() {
		r, good := requirement(e)
		ok = ok && good
		args = append(args, r)
	}
	ok = c.Done() && ok
	if !ok {
		return model.Selector{Op: model.SelectNone}, false
	}
	return model.And(args...), true
}

func checkKey(at Cursor, key string) bool {
	if !ValidLabelKey(key) {
		at.Error("label key \""+key+"\" cannot exist", keyHint)
		return false
	}
	return true
}

func checkValue(at Cursor, value string) bool {
	if strings.HasPrefix(value, "spiffe://") {
		at.Report(model.Warning, "a SPIFFE ID is no label value: no pod can carry it, so this selects nobody, and the API server refuses it",
			"select the pods that run as the service account; what proves an identity is authentication, not a label")
		return true
	}
	if !ValidLabelValue(value) {
		at.Error("label value \""+value+"\" cannot exist", valueHint)
		return false
	}
	return true
}

func requirement(c Cursor) (model.Selector, bool) {
	if !c.Mapping() {
		return model.Selector{}, false
	}
	key, op, values := c.Field("key"), c.Field("operator"), c.Field("values")
	r := model.Selector{Key: key.String(), Values: values.Strings()}
	ok := checkKey(key, r.Key)
	items := values.Items()
	wantValues := true
	switch op.String() {
	case "In":
		r.Op = model.SelectIn
	case "NotIn":
		r.Op = model.SelectNotIn
	case "Exists":
		r.Op, wantValues = model.SelectExists, false
	case "DoesNotExist":
		r.Op, wantValues = model.SelectNotExists, false
	default:
		op.Error("unknown operator \""+op.Value()+"\"", "one of In, NotIn, Exists, DoesNotExist")
		ok = false
	}
	switch {
	case wantValues && len(items) == 0:
		values.Error("must not be empty for "+op.Value(), "")
		ok = false
	case !wantValues && len(items) > 0:
		values.Error("must be empty for "+op.Value(), "")
		ok = false
	}
	for i, item := range items {
		ok = checkValue(item, r.Values[i]) && ok
	}
	if !wantValues {
		r.Values = nil
	}
	return r, c.Done() && ok
}
