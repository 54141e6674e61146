package lint

import (
	"maps"
	"slices"

	"github.com/sallyport-dev/sallyport/model"
)

// Check is one thing that is looked for.
type Check struct {
	Code     string
	Severity model.Severity // of its findings, but where a page says otherwise
	Title    string
}

// Page is where the check is explained, in the repository.
func (c Check) Page() string { return "docs/lint/" + c.Code + ".md" }

// Checks lists all checks by their codes. A code is never given to another check.
func Checks() []Check {
	var out []Check
	for _, code := range slices.Sorted(maps.Keys(checks)) {
		c := checks[code]
		c.Code = code
		out = append(out, c)
	}
	return out
}

var checks = map[string]Check{
	// Who is covered.
	"SP1001": {Severity: model.Warning, Title: "pods that everybody reaches"},
	"SP1002": {Severity: model.Warning, Title: "pods that reach everybody"},
	"SP1003": {Severity: model.Info, Title: "a new pod would be open"},
	"SP1004": {Severity: model.Warning, Title: "a policy selects pods of the node's network"},
	"SP1005": {Severity: model.Warning, Title: "a denial of everything holds for one namespace only"},

	// Whom selectors select.
	"SP1101": {Severity: model.Warning, Title: "a policy selects no pod"},
	"SP1102": {Severity: model.Warning, Title: "a peer selects no pod"},
	"SP1103": {Severity: model.Warning, Title: "a selector matches no namespace"},
	"SP1104": {Severity: model.Warning, Title: "a policy is in a namespace that does not exist"},
	"SP1105": {Severity: model.Warning, Title: "a podSelector alone looks at its own namespace only"},
	"SP1106": {Severity: model.Info, Title: "two items are either, where both may have been meant"},
	"SP1107": {Severity: model.Warning, Title: "a label can never have this value"},
	"SP1108": {Severity: model.Warning, Title: "no destination has a port of this name"},
	"SP1109": {Severity: model.Warning, Title: "a peer matches pods of the node's network only"},
	"SP1110": {Severity: model.Warning, Title: "a peer names something that does not exist"},

	// How much rules allow.
	"SP1201": {Severity: model.Warning, Title: "a rule allows everything"},
	"SP1202": {Severity: model.Info, Title: "a rule allows every address"},
	"SP1203": {Severity: model.Warning, Title: "a block of all addresses, without exceptions"},
	"SP1204": {Severity: model.Info, Title: "a rule allows every port"},
	"SP1205": {Severity: model.Warning, Title: "a block covers pods"},
	"SP1206": {Severity: model.Warning, Title: "a block covers nodes"},
	"SP1207": {Severity: model.Warning, Title: "a block opens the cloud's metadata service"},
	"SP1208": {Severity: model.Info, Title: "a peer is every pod of every namespace"},

	// What rules and policies change.
	"SP1301": {Severity: model.Warning, Title: "a rule is superfluous: others allow the same"},
	"SP1302": {Severity: model.Warning, Title: "a rule never decides: others come first"},
	"SP1303": {Severity: model.Info, Title: "a rule changes nothing"},
	"SP1304": {Severity: model.Warning, Title: "a policy is superfluous"},

	// What is written, and what is not.
	"SP1401": {Severity: model.Error, Title: "two objects have one name"},
	"SP1402": {Severity: model.Info, Title: "policyTypes is missing"},
	"SP1403": {Severity: model.Warning, Title: "policyTypes leaves rules out"},
	"SP1404": {Severity: model.Info, Title: "the namespace is missing"},
	"SP1405": {Severity: model.Info, Title: "the protocol is missing"},
	"SP1406": {Severity: model.Warning, Title: "two policies of one tier have the same priority"},
	"SP1407": {Severity: model.Error, Title: "a tier does not exist"},

	// What gets through both doors.
	"SP1501": {Severity: model.Warning, Title: "egress is shut for DNS"},
	"SP1502": {Severity: model.Info, Title: "DNS is open over UDP only"},
	"SP1503": {Severity: model.Warning, Title: "a door is open at the source and shut at the destination"},
	"SP1504": {Severity: model.Warning, Title: "a door is open at the destination and shut at the source"},
	"SP1505": {Severity: model.Warning, Title: "a Service's port where its target port is meant"},
	"SP1506": {Severity: model.Warning, Title: "a block of Services' addresses"},

	// What is not enforced as written.
	"SP1601": {Severity: model.Warning, Title: "something is decoded and not enforced yet"},
	"SP1602": {Severity: model.Warning, Title: "a CIDR of Cilium never matches pods or nodes"},

	// What reading the input said.
	"SP1901": {Severity: model.Error, Title: "the input is wrong"},
	"SP1902": {Severity: model.Warning, Title: "the input is read otherwise than it looks"},
}
