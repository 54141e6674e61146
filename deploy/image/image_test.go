package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// program is a small static binary that says it is for a machine.
func program(t *testing.T, m elf.Machine) string {
	t.Helper()
	dir := t.TempDir()
	source, out := filepath.Join(dir, "main.go"), filepath.Join(dir, m.String())
	if err := os.WriteFile(source, []byte("package main\n\nfunc main() {}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	c := exec.Command("go", "build", "-trimpath", "-o", out, source)
	c.Env = append(os.Environ(), "GOOS=linux", "CGO_ENABLED=0")
	if said, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	text, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	binary.LittleEndian.PutUint16(text[18:], uint16(m)) // e_machine
	if err := os.WriteFile(out, text, 0o755); err != nil {
		t.Fatal(err)
	}
	return out
}

// files reads a tar: contents by name, and the target of a link.
func files(t *testing.T, r io.Reader) map[string]string {
	t.Helper()
	out := map[string]string{}
	for a := tar.NewReader(r); ; {
		h, err := a.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, twice := out[h.Name]; twice {
			t.Errorf("%s is there twice", h.Name)
		}
		text, err := io.ReadAll(a)
		if err != nil {
			t.Fatal(err)
		}
		if out[h.Name] = string(text); h.Typeflag == tar.TypeSymlink {
			out[h.Name] = "-> " + h.Linkname
		} else if strings.HasPrefix(h.Name, "sallyport") && h.Mode != 0o755 {
			t.Errorf("%s has mode %o", h.Name, h.Mode)
		}
	}
}

// reader follows descriptors and checks that each tells the truth.
type reader map[string]string

func (r reader) blob(t *testing.T, d descriptor, mediaType string) string {
	t.Helper()
	text, ok := r["blobs/sha256/"+strings.TrimPrefix(d.Digest, "sha256:")]
	if !ok || digestOf([]byte(text)) != d.Digest || len(text) != d.Size || d.MediaType != mediaType {
		t.Fatalf("the blob of %+v is missing or another, or is no %s", d, mediaType)
	}
	return text
}

func parse(t *testing.T, text string, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), into); err != nil {
		t.Fatal(err)
	}
}

func TestAnImageReadsBack(t *testing.T) {
	amd, arm := program(t, elf.EM_X86_64), program(t, elf.EM_AARCH64)
	out := filepath.Join(t.TempDir(), "new", "image.tar")
	digest, err := image{"sallyport:dev", "v1"}.build(out, []string{arm, amd})
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	r := reader(files(t, bytes.NewReader(text)))
	if r["oci-layout"] != `{"imageLayoutVersion":"1.0.0"}` || len(r) != 2+1+2*3 {
		t.Errorf("%d files", len(r))
	}
	var index struct{ Manifests []descriptor }
	parse(t, r["index.json"], &index)
	all := index.Manifests[0]
	if len(index.Manifests) != 1 || all.Digest != digest || all.Annotations[nameFull] != "docker.io/library/sallyport:dev" || all.Annotations[nameRef] != "dev" {
		t.Errorf("index %+v", index)
	}
	parse(t, r.blob(t, all, typeIndex), &index)
	for i, want := range []struct{ arch, path string }{{"amd64", amd}, {"arm64", arm}} {
		var m struct {
			Config descriptor
			Layers []descriptor
		}
		if *index.Manifests[i].Platform != (platform{want.arch, "linux"}) {
			t.Errorf("platform %+v", index.Manifests[i].Platform)
		}
		parse(t, r.blob(t, index.Manifests[i], typeManifest), &m)
		var c struct {
			Architecture, OS string
			Config           struct {
				Entrypoint []string
				Labels     map[string]string
			}
			Rootfs struct {
				DiffIDs []string `json:"diff_ids"`
			}
		}
		parse(t, r.blob(t, m.Config, typeConfig), &c)
		if c.Architecture != want.arch || c.OS != "linux" || strings.Join(c.Config.Entrypoint, " ") != "/sallyport" || c.Config.Labels["org.opencontainers.image.version"] != "v1" {
			t.Errorf("config %+v", c)
		}
		z, err := gzip.NewReader(strings.NewReader(r.blob(t, m.Layers[0], typeLayer)))
		if err != nil {
			t.Fatal(err)
		}
		layer, err := io.ReadAll(z)
		if err != nil || len(m.Layers) != 1 || len(c.Rootfs.DiffIDs) != 1 || c.Rootfs.DiffIDs[0] != digestOf(layer) {
			t.Errorf("layer %v: %v, %v", m.Layers, c.Rootfs, err)
		}
		program, err := os.ReadFile(want.path)
		inside := files(t, bytes.NewReader(layer))
		if err != nil || len(inside) != 4 || inside["var/run"] != "-> ../run" || inside["sallyport"] != string(program) || inside["sallyport-cni"] != "-> sallyport" {
			t.Errorf("%d files in the layer, %v", len(inside), err)
		}
	}
	again := filepath.Join(t.TempDir(), "image.tar")
	if _, err := (image{"sallyport:dev", "v1"}).build(again, []string{arm, amd}); err != nil {
		t.Fatal(err)
	}
	if second, err := os.ReadFile(again); err != nil || !bytes.Equal(text, second) {
		t.Errorf("the same input made other bytes, %v", err)
	}
}

func TestNamesAreCompletedAsRuntimesDo(t *testing.T) {
	for name, want := range map[string]string{
		"sallyport:dev":                "docker.io/library/sallyport:dev",
		"sallyport":                    "docker.io/library/sallyport:latest",
		"me/sallyport:1":               "docker.io/me/sallyport:1",
		"ghcr.io/sallyport-dev/x":      "ghcr.io/sallyport-dev/x:latest",
		"localhost/sallyport:1":        "localhost/sallyport:1",
		"registry:5000/sallyport":      "registry:5000/sallyport:latest",
		"registry.example:5000/a/b:v1": "registry.example:5000/a/b:v1",
	} {
		if got := fullName(name); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
}

func TestWhatCannotBeAnImageIsSaid(t *testing.T) {
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	amd := program(t, elf.EM_X86_64)
	for want, binaries := range map[string][]string{
		"no binary is given":  nil,
		"no Linux binary":     {text},
		"second binary":       {amd, amd},
		"images are made for": {program(t, elf.EM_386)},
		"cannot read":         {text + "-missing"},
		"CGO_ENABLED=0":       {"/bin/ls"},
	} {
		out := filepath.Join(t.TempDir(), "image.tar")
		if _, err := (image{"x", "v"}).build(out, binaries); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
		if left, err := os.ReadDir(filepath.Dir(out)); err != nil || len(left) != 0 {
			t.Errorf("left %v, %v", left, err)
		}
	}
}
