// Command image turns static binaries, one for each architecture, into an OCI
// image: a tar that `ctr images import`, `kind load image-archive` and
// `podman load` take. It needs no docker and no registry. The same binaries,
// name and version make the same bytes.
package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"debug/elf"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

func main() {
	i := image{}
	out := flag.String("o", "sallyport-image.tar", "file to write")
	flag.StringVar(&i.name, "name", "sallyport:dev", "name that the image is imported under")
	flag.StringVar(&i.version, "version", "unknown", "version, for the label")
	flag.Parse()
	digest, err := i.build(*out, flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
	fmt.Printf("%s is %s@%s\n", *out, fullName(i.name), digest)
}

// image is what a runtime is told of the binaries.
type image struct{ name, version string }

// build writes the image, at once, and returns its digest.
func (i image) build(path string, binaries []string) (digest string, err error) {
	if len(binaries) == 0 {
		return "", errors.New("no binary is given: name one for each architecture, as make image does")
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", fmt.Errorf("cannot write the image: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".image-*")
	if err != nil {
		return "", fmt.Errorf("cannot write the image: %w", err)
	}
	defer os.Remove(f.Name())
	digest, err = i.write(f, binaries)
	if err = errors.Join(err, f.Chmod(0o644), f.Close()); err != nil {
		return "", err
	}
	return digest, os.Rename(f.Name(), path)
}

// The names of the OCI image specification.
const (
	typeIndex    = "application/vnd.oci.image.index.v1+json"
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
	typeConfig   = "application/vnd.oci.image.config.v1+json"
	typeLayer    = "application/vnd.oci.image.layer.v1.tar+gzip"
	nameRef      = "org.opencontainers.image.ref.name"
	nameFull     = "io.containerd.image.name"
)

// object is a JSON object; its keys are written in order.
type object map[string]any

// descriptor points to a blob.
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"` // bytes
	Platform    *platform         `json:"platform,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
}

// write writes the layout: an index of one image, which is an index of one
// manifest for each architecture.
func (i image) write(w io.Writer, binaries []string) (digest string, err error) {
	l := layout{tar: tar.NewWriter(w), has: map[string]bool{}}
	l.file("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))
	var manifests []descriptor
	for _, path := range binaries {
		binary, arch, err := readBinary(path)
		if err != nil {
			return "", err
		}
		p := &platform{arch, "linux"}
		if slices.ContainsFunc(manifests, func(d descriptor) bool { return *d.Platform == *p }) {
			return "", fmt.Errorf("%s is a second binary for %s", path, arch)
		}
		manifests = append(manifests, i.manifest(&l, p, binary))
	}
	slices.SortFunc(manifests, func(a, b descriptor) int {
		return strings.Compare(a.Platform.Architecture, b.Platform.Architecture)
	})
	all := l.json(typeIndex, object{"schemaVersion": 2, "mediaType": typeIndex, "manifests": manifests})
	full := fullName(i.name)
	all.Annotations = map[string]string{nameFull: full, nameRef: full[strings.LastIndex(full, ":")+1:]}
	index, err := json.Marshal(object{"schemaVersion": 2, "mediaType": typeIndex, "manifests": []descriptor{all}})
	l.file("index.json", index)
	return all.Digest, errors.Join(l.err, err, l.tar.Close())
}

// manifest writes the blobs of one architecture.
func (i image) manifest(l *layout, p *platform, binary []byte) descriptor {
	files, layer, err := makeLayer(binary)
	l.err = errors.Join(l.err, err)
	content := l.blob(typeLayer, layer)
	config := l.json(typeConfig, object{
		"architecture": p.Architecture,
		"os":           p.OS,
		"config": object{
			"Entrypoint": []string{"/sallyport"},
			"WorkingDir": "/",
			"Labels": object{
				"org.opencontainers.image.title":       "sallyport",
				"org.opencontainers.image.description": "A Kubernetes network-policy provider",
				"org.opencontainers.image.source":      "https://github.com/sallyport-dev/sallyport",
				"org.opencontainers.image.licenses":    "Apache-2.0 AND GPL-2.0-only",
				"org.opencontainers.image.version":     i.version,
			},
		},
		"rootfs": object{"type": "layers", "diff_ids": []string{digestOf(files)}},
	})
	d := l.json(typeManifest, object{"schemaVersion": 2, "mediaType": typeManifest, "config": config, "layers": []descriptor{content}})
	d.Platform = p
	return d
}

// makeLayer puts the binary under its two names into a tar: plain, which the
// image is told by, and compressed.
func makeLayer(binary []byte) (plain, compressed []byte, err error) {
	var files, packed bytes.Buffer
	t := tar.NewWriter(&files)
	for _, h := range []tar.Header{
		{Name: "sallyport", Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(binary))},
		{Name: "sallyport-cni", Typeflag: tar.TypeSymlink, Mode: 0o777, Linkname: "sallyport"},
		// Runtimes name a pod's network namespace /var/run/netns/X.
		{Name: "var/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "var/run", Typeflag: tar.TypeSymlink, Mode: 0o777, Linkname: "../run"},
	} {
		h.ModTime = time.Unix(0, 0)
		err = errors.Join(err, t.WriteHeader(&h))
		if h.Size > 0 {
			_, e := t.Write(binary)
			err = errors.Join(err, e)
		}
	}
	err = errors.Join(err, t.Close())
	z := gzip.NewWriter(&packed)
	_, e := z.Write(files.Bytes())
	err = errors.Join(err, e, z.Close())
	return files.Bytes(), packed.Bytes(), err
}

// readBinary reads a binary that needs nothing else of an image, and says what
// machines run it.
func readBinary(path string) (text []byte, arch string, err error) {
	if text, err = os.ReadFile(path); err != nil {
		return nil, "", fmt.Errorf("cannot read the binary: %w", err)
	}
	f, err := elf.NewFile(bytes.NewReader(text))
	if err != nil {
		return nil, "", fmt.Errorf("%s is no Linux binary: %w; build it with GOOS=linux", path, err)
	}
	if slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
		return nil, "", fmt.Errorf("%s is linked dynamically, and the image has no libraries; build it with CGO_ENABLED=0", path)
	}
	arch, ok := map[elf.Machine]string{elf.EM_X86_64: "amd64", elf.EM_AARCH64: "arm64"}[f.Machine]
	if !ok {
		return nil, "", fmt.Errorf("%s is for %s; images are made for amd64 and arm64", path, f.Machine)
	}
	return text, arch, nil
}

// fullName is a name as container runtimes complete it: "sallyport:dev" is
// docker.io/library/sallyport:dev.
func fullName(name string) string {
	host, _, path := strings.Cut(name, "/")
	switch {
	case !path:
		name = "docker.io/library/" + name
	case !strings.ContainsAny(host, ".:") && host != "localhost":
		name = "docker.io/" + name
	}
	if !strings.Contains(name[strings.LastIndex(name, "/"):], ":") {
		name += ":latest"
	}
	return name
}

func digestOf(text []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(text)) }

// layout writes the files of an OCI layout. The first error stays in err.
type layout struct {
	tar *tar.Writer
	has map[string]bool
	err error
}

func (l *layout) file(name string, text []byte) {
	if l.err != nil || l.has[name] {
		return
	}
	l.has[name] = true
	h := tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(text)), ModTime: time.Unix(0, 0)}
	if l.err = l.tar.WriteHeader(&h); l.err == nil {
		_, l.err = l.tar.Write(text)
	}
}

func (l *layout) blob(mediaType string, text []byte) descriptor {
	digest := digestOf(text)
	l.file("blobs/sha256/"+strings.TrimPrefix(digest, "sha256:"), text)
	return descriptor{MediaType: mediaType, Digest: digest, Size: len(text)}
}

func (l *layout) json(mediaType string, v object) descriptor {
	text, err := json.Marshal(v)
	l.err = errors.Join(l.err, err)
	return l.blob(mediaType, text)
}
