package report

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/model"
)

var update = flag.Bool("update", false, "write the golden files anew")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs; if that is right, run go test ./report -update", path)
	}
}

func tcp(ports ...uint16) model.PortSet {
	var out []model.Interval
	for _, p := range ports {
		out = append(out, model.Interval{First: model.PortKeyOf(model.TCP, p), Last: model.PortKeyOf(model.TCP, p)})
	}
	return model.Union(out...)
}

// shopGrid has workloads that nobody reaches, two namespaces and the outside.
func shopGrid() Grid {
	names := []string{"shop/web", "shop/db", "shop/idle", "ops/Deployment/scraper", "ops/<odd>&"}
	return Grid{Sources: names, Destinations: names, Edges: []Edge{
		{"0.0.0.0/0", "shop/web", tcp(80, 443)},
		{"ops/<odd>&", "ops/Deployment/scraper", model.AllPorts()},
		{"ops/Deployment/scraper", "shop/db", tcp(9100)},
		{"ops/Deployment/scraper", "shop/web", tcp(9100)},
		{"shop/web", "::/0", model.AllPorts()},
		{"shop/web", "shop/db", tcp(5432)},
		{"shop/web", "shop/web", tcp(80, 443)},
	}}
}

func TestGridPictures(t *testing.T) {
	for name, print := range map[string]func(io.Writer) error{"matrix.svg": shopGrid().SVG} {
		var b bytes.Buffer
		if err := print(&b); err != nil {
			t.Fatal(err)
		}
		golden(t, name, b.Bytes())
		if i := strings.Index(b.String(), "http"); strings.Count(b.String(), "://") != 1 || !strings.HasPrefix(b.String()[i:], "http://www.w3.org/2000/svg") {
			t.Errorf("%s refers to something elsewhere", name)
		}
	}
}

func TestGridIsWellFormedAndDeterministic(t *testing.T) {
	g := shopGrid()
	for i := range uint16(20) { // more connections than colours
		g.Edges = append(g.Edges, Edge{fmt.Sprintf("many/a%d", i), "shop/db", tcp(i + 1)})
	}
	for _, g := range []Grid{g, shopGrid(), {}} {
		var first, second bytes.Buffer
		if err := g.SVG(&first); err != nil {
			t.Fatal(err)
		}
		if err := g.SVG(&second); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(first.Bytes(), second.Bytes()) {
			t.Error("the same grid has two pictures")
		}
		cells := 0
		for d := xml.NewDecoder(&first); ; {
			token, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if e, ok := token.(xml.StartElement); ok {
				for _, a := range e.Attr {
					if a.Name.Local == "class" && strings.HasPrefix(a.Value, "x ") {
						cells++
					}
				}
			}
		}
		if cells != len(g.Edges) {
			t.Errorf("%d cells of %d connections", cells, len(g.Edges))
		}
	}
}
