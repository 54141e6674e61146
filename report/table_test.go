package report

import (
	"slices"
	"strings"
	"testing"
)

func printed(t *testing.T, width int, header []string, rows ...[]string) string {
	t.Helper()
	var b strings.Builder
	if err := Table(&b, width, header, slices.Values(rows)); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestTableFitsTheTerminal(t *testing.T) {
	header := []string{"SOURCE", "DESTINATION", "CONNECTIONS"}
	rows := [][]string{
		{"shop/web", "shop/a-very-long-workload-name-of-somebody", "TCP 80,443,1000-2000,3000-4000,5000-6000; UDP 53,5353,10000-20000"},
		{"shop/web", "shop/db", "All"},
	}
	for width := 30; width < 200; width++ {
		for _, line := range strings.Split(printed(t, width, header, rows...), "\n") {
			if visible(line) > width {
				t.Fatalf("width %d: %d columns: %s", width, visible(line), line)
			}
		}
	}
	want := `SOURCE    DESTINATION                                 CONNECTIONS
shop/web  shop/a-very-long-workload-name-of-somebody  TCP 80,443,1000-2000,3000-4000,
                                                      5000-6000; UDP 53,5353,
                                                      10000-20000
shop/web  shop/db                                     All
`
	if got := printed(t, 85, header, rows...); got != want {
		t.Errorf("got\n%s", got)
	}
	want = `SOURCE    DESTINATION             CONNECTIONS
shop/web  shop/a-very…f-somebody  TCP 80,443,1000-2000,
                                  3000-4000,5000-6000; UDP
                                  53,5353,10000-20000
shop/web  shop/db                 All
`
	if got := printed(t, 58, header, rows...); got != want {
		t.Errorf("got\n%s", got)
	}
	if got := printed(t, 0, header, rows...); strings.Count(got, "\n") != 3 || !strings.Contains(got, rows[0][2]+"\n") {
		t.Errorf("without a terminal rows are not whole lines:\n%s", got)
	}
}

func TestTableDoesNotCountColours(t *testing.T) {
	p := Paint{On: true}
	got := printed(t, 40, []string{"A", "B", "C"}, []string{"x", p.Verdict("deny"), "y"}, []string{"x", "12345", "y"})
	if want := "A  B      C\nx  \x1b[31mDENY \x1b[0m  y\nx  12345  y\n"; got != want {
		t.Errorf("got %q", got)
	}
}
