package manifest

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"sync"
	"testing"
)

// pieces of streams: what parts documents, and what only looks like it.
var pieces = []string{
	"---\n", "---\n", "---\n", "--- # with a comment\n", "---\r\n", "--- ", "----\n", " ---\n", "...\n", "%YAML 1.2\n", "# a comment\n", "\n", "\t\n",
	"apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n", "apiVersion: v1\nkind: Namespace\nmetadata: {name: b, lables: {}}\n",
	"apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\nspec:\n  podSelector: {}\n  ingres: []\n",
	"{apiVersion: v1, kind: Pod, metadata: {name: c}, spec: {containers: []}}\n",
	"apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Service, metadata: {name: s}, spec: {ports: [{port: 99999}]}}\n",
	"text: |\n  in it\n  ---\n  goes on\n", "text: \"in it\n  ---\n  goes on\"\n", "- a\n- b\n", "a: &x {b: c}\n", "a: *x\n", "a: [\n", "]\n", "a: b: c\n", "plain\n  text\n", "\u2028", "\ufeff", "\r",
}

func stream(r *rand.Rand, n int) string {
	var b strings.Builder
	for range n {
		b.WriteString(pieces[r.IntN(len(pieces))])
		if r.IntN(3) == 0 {
			b.WriteString("---\n")
		}
	}
	return b.String()
}

// TestDividedStreamsAreReadAsWholeOnes reads random streams, right and wrong,
// document by document and by the parser alone. The parser looks ahead, so that
// an error may take documents before it along.
func TestDividedStreamsAreReadAsWholeOnes(t *testing.T) {
	divided := 0
	for seed := range uint64(20_000) {
		r := rand.New(rand.NewPCG(seed, 0))
		text := stream(r, 1+r.IntN(8))
		one, other := newLoader(Options{}), newLoader(Options{})
		one.documents("f", []byte(text))
		other.stream("f", []byte(text), 0)
		got, want := one.finish(), other.finish()
		same := reflect.DeepEqual(got, want)
		if n := len(want.Problems); n > 0 && strings.HasPrefix(want.Problems[n-1].Message, "cannot be parsed") {
			m := len(got.Problems)
			same = m >= n && reflect.DeepEqual(got.Problems[:n-1], want.Problems[:n-1]) && reflect.DeepEqual(got.Problems[m-1], want.Problems[n-1])
		}
		if !same {
			t.Fatalf("seed %d: %q\ngot  %v\nwant %v", seed, text, got.Problems, want.Problems)
		}
		if len(divide([]byte(text))) > 1 {
			divided++
		}
	}
	if divided < 2000 {
		t.Errorf("only %d streams were divided", divided)
	}
}

// TestCommonDocumentsKeepTheirPlace reads two inputs at the same time that have
// most documents in common, at other lines, and an error in the end.
func TestCommonDocumentsKeepTheirPlace(t *testing.T) {
	var texts [2]string
	for i := range 500 {
		doc := fmt.Sprintf("---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p%d}\nspec: {podSelector: {}, wrong%d: 1}\n", i, i%7)
		texts[0] += doc
		if i%10 != 3 {
			texts[1] += doc
		}
	}
	texts[1] += "---\na: [\n"
	common := NewCommon(2)
	var got [2]*Result
	var both sync.WaitGroup
	for i, text := range texts {
		both.Go(func() {
			got[i] = Parse(map[string][]byte{"f": []byte(text)}, []string{"f"}, Options{Common: common})
		})
	}
	both.Wait()
	for i, text := range texts {
		l := newLoader(Options{})
		l.stream("f", []byte(text), 0)
		if want := l.finish(); !reflect.DeepEqual(got[i].Problems, want.Problems) || !reflect.DeepEqual(got[i].Cluster.Policies, want.Cluster.Policies) || len(want.Problems) < 400 {
			t.Errorf("input %d: %d problems and %d policies, want %d and %d", i, len(got[i].Problems), len(got[i].Cluster.Policies), len(want.Problems), len(want.Cluster.Policies))
		}
	}
}
