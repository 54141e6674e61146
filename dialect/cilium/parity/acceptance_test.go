package parity

import (
	"os"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/manifest"
	"github.com/sallyport-dev/sallyport/model"
	"github.com/sallyport-dev/sallyport/scenarios"
)

// stricter are the errors of ours that Cilium's agent does not see, each with
// the reason. Most of them its definitions reject, before an agent sees them.
var stricter = map[string]string{
	"neither spec nor specs is there":             "Go's JSON does not look at capitals; the API server does",
	"longer than 32 characters":                   "its definition rejects it",
	"is missing":                                  "its definition requires the field, or a port, unless extended protocols are switched on",
	"needs one of matchName, matchPattern":        "its definition rejects it; in DNS rules the agent takes both, and none",
	"is no name":                                  "its definition rejects it",
	"must be an object, not null":                 "the API server drops null; the agent reads it as everybody",
	"needs one of k8sService, k8sServiceSelector": "the agent takes both, and reads none as everybody",
	"IPv4-mapped":                                 "no packet has such an address",
	"unknown field":                               "the API server drops or rejects it; the agent does not look inside selectors",
	"is no field of Cilium's policies since":      "the agent ignores it in the form of texts",
	"is no regular expression":                    "the agent does not look at the host's",
	"has no name of a header":                     "the agent does not look at headers",
	"unknown mode":                                "its definition rejects it",
	"must be between 0 and 255":                   "the agent takes the number, which no packet has",
	"must be between 0 and 65535":                 "its definition rejects it",
	"must be between 1 and 100":                   "its definition rejects it",
	"unknown kind":                                "its definition rejects it",
	"is empty":                                    "its definition rejects it",
	"must be a whole number":                      "its definition rejects it",
	"is no valid name":                            "its definition rejects it",
	"unknown ICMP type":                           "the agent takes numbers above 255, which no packet has",
	"endpointSelector is missing":                 "the agent reads null as everybody",
	"is written twice":                            "JSON takes the last one",
	"one error makes the whole object invalid":    "it follows another error",
}

// laxer are the warnings of ours about what Cilium rejects.
var laxer = map[string]string{
	"no label can have the value \"spiffe://": "people write it; nothing satisfies it, and that is said",
	"Cilium takes strings only":               "a header without quotes is understood in files",
}

// differs compares the two verdicts about one object. It returns a complaint,
// or "" if they agree or may differ.
func differs(problems []model.Problem, err error) string {
	wrong := model.HasErrors(problems)
	switch {
	case wrong == (err != nil):
		return ""
	case wrong:
		for _, p := range problems {
			if p.Severity == model.Error && !explained(stricter, p.Message) {
				return "Cilium takes it; ours: " + p.Error()
			}
		}
		return ""
	}
	for _, p := range problems {
		if explained(laxer, p.Message) {
			return ""
		}
	}
	return "ours takes it; Cilium: " + err.Error()
}

func explained(table map[string]string, message string) bool {
	for part := range table {
		if strings.Contains(message, part) {
			return true
		}
	}
	return false
}

// isCilium says whether the text is a policy of Cilium's.
func isCilium(text string) bool {
	return strings.Contains(text, "kind: CiliumNetworkPolicy") || strings.Contains(text, "kind: CiliumClusterwideNetworkPolicy")
}

// accept compares what both sides say to one object.
func accept(t *testing.T, name, text string) (rejected bool) {
	t.Helper()
	r := manifest.Parse(map[string][]byte{"p.yaml": []byte(text)}, []string{"p.yaml"}, manifest.Options{})
	_, _, err := parse([]byte(text))
	if said := differs(r.Problems, err); said != "" {
		t.Errorf("%s: %s\n%s", name, said, text)
	}
	return err != nil
}

func TestScenariosAreAccepted(t *testing.T) {
	all, err := scenarios.Load(scenarios.Files)
	if err != nil {
		t.Fatal(err)
	}
	tried, rejected := 0, 0
	for _, s := range all {
		for _, file := range s.Order {
			for _, text := range strings.Split("\n"+string(s.Files[file]), "\n---") {
				if !isCilium(text) {
					continue
				}
				tried++
				if accept(t, s.Name, text) {
					rejected++
				}
			}
		}
	}
	t.Logf("%d objects of scenarios, of which Cilium rejects %d", tried, rejected)
	if tried < 100 {
		t.Errorf("only %d objects", tried)
	}
}

// TestDecoderCorpusIsAccepted takes the corpus of the decoder's own tests.
func TestDecoderCorpusIsAccepted(t *testing.T) {
	data, err := os.ReadFile("../testdata/decode.txtar")
	if err != nil {
		t.Fatal(err)
	}
	rejected := 0
	for _, f := range scenarios.ParseArchive(data).Files {
		if strings.HasSuffix(f.Name, " decoded") || strings.HasPrefix(f.Name, "group-") {
			continue
		}
		head := "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: p, namespace: shop}\n"
		if strings.HasPrefix(f.Name, "clusterwide-") {
			head = "apiVersion: cilium.io/v2\nkind: CiliumClusterwideNetworkPolicy\nmetadata: {name: p}\n"
		}
		if accept(t, f.Name, head+string(f.Data)) {
			rejected++
		}
	}
	t.Logf("Cilium rejects %d", rejected)
}
