package image

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestEncode(t *testing.T) {
	program := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(program, []byte("#!static"), 0o600); err != nil {
		t.Fatal(err)
	}
	i := Image{
		Name:       "example.org/program:dev",
		Files:      []File{{Path: "program", Source: program}, {Path: "other", Link: "/program"}},
		Entrypoint: []string{"/program"},
	}
	var b, again bytes.Buffer
	if err := i.Encode(&b); err != nil {
		t.Fatal(err)
	}
	if err := i.Encode(&again); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b.Bytes(), again.Bytes()) {
		t.Error("the same files made two different images")
	}

	files := untar(t, b.Bytes())
	var index struct{ Manifests []descriptor }
	decode(t, files["index.json"], &index)
	if got := index.Manifests[0].Annotations["io.containerd.image.name"]; got != i.Name {
		t.Errorf("the image is called %q, want %q", got, i.Name)
	}
	blob := func(d descriptor) []byte {
		data := files["blobs/sha256/"+strings.TrimPrefix(d.Digest, "sha256:")]
		if len(data) != d.Size {
			t.Errorf("blob %s has %d bytes, want %d", d.Digest, len(data), d.Size)
		}
		return data
	}
	var manifest struct {
		Config descriptor
		Layers []descriptor
	}
	decode(t, blob(index.Manifests[0]), &manifest)
	blob(manifest.Config)
	layer := untar(t, blob(manifest.Layers[0]))
	if got := string(layer["program"]); got != "#!static" {
		t.Errorf("the program is %q", got)
	}
	if _, ok := layer["other"]; !ok {
		t.Error("the link is missing")
	}
}

func TestEncodeSaysWhatIsMissing(t *testing.T) {
	i := Image{Name: "x", Files: []File{{Path: "x", Source: "/does/not/exist"}}}
	if err := i.Encode(io.Discard); err == nil || !strings.Contains(err.Error(), "/does/not/exist") {
		t.Errorf("got %v", err)
	}
}

func untar(t *testing.T, data []byte) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if err == io.EOF {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}

func decode(t *testing.T, data []byte, v any) {
	t.Helper()
	if err := json.Unmarshal(data, v); err != nil {
		t.Fatal(err)
	}
}
