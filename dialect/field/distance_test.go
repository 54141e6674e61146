package field

import "testing"

func TestDistance(t *testing.T) {
	for _, x := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"web", "web", 0}, {"wbe", "web", 1}, {"wbe", "db", 2}, {"frontned", "frontend", 1},
		{"", "abc", 3}, {"abc", "", 3}, {"ingres", "ingress", 1}, {"kitten", "sitting", 3}, {"ab", "ba", 1}, {"ca", "abc", 3},
	} {
		if got := Distance(x.a, x.b); got != x.want {
			t.Errorf("from %q to %q: %d, want %d", x.a, x.b, got, x.want)
		}
		if Distance(x.a, x.b) != Distance(x.b, x.a) {
			t.Errorf("%q and %q: the way back is another one", x.a, x.b)
		}
	}
}
