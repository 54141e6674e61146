// Package image turns static binaries into images: one-layer OCI layouts in a
// tar, as `ctr images import` takes them, without docker and without a
// registry. The same files make the same tar, byte for byte.
package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
)

// Image is an image from scratch.
type Image struct {
	Name       string // full reference, such as "docker.io/library/sallyport:dev"
	Files      []File
	Entrypoint []string
	Env        []string // "NAME=value"
}

// File is a file of the image, or a symbolic link.
type File struct {
	Path   string // in the image, without a leading slash
	Source string // file on this machine; it becomes executable
	Link   string // what the symbolic link points to, instead of a Source
}

// Write makes the tar at path.
func (i Image) Write(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("cannot create the image %s: %w", i.Name, err)
	}
	if err := i.Encode(f); err != nil {
		_ = f.Close()
		return fmt.Errorf("cannot write the image %s: %w", i.Name, err)
	}
	return f.Close()
}

// Encode writes the tar to w.
func (i Image) Encode(w io.Writer) error {
	layer, err := i.layer()
	if err != nil {
		return err
	}
	out := layout{tar: tar.NewWriter(w)}
	rootfs := out.blob("application/vnd.oci.image.layer.v1.tar", layer)
	config := out.blobJSON("application/vnd.oci.image.config.v1+json", object{
		"architecture": runtime.GOARCH,
		"os":           "linux",
		"config":       object{"Entrypoint": i.Entrypoint, "Env": i.Env, "WorkingDir": "/"},
		"rootfs":       object{"type": "layers", "diff_ids": []string{rootfs.Digest}},
	})
	manifest := out.blobJSON("application/vnd.oci.image.manifest.v1+json", object{
		"schemaVersion": 2,
		"mediaType":     "application/vnd.oci.image.manifest.v1+json",
		"config":        config,
		"layers":        []descriptor{rootfs},
	})
	manifest.Annotations = map[string]string{"io.containerd.image.name": i.Name}
	out.fileJSON("index.json", object{"schemaVersion": 2, "manifests": []descriptor{manifest}})
	out.fileJSON("oci-layout", object{"imageLayoutVersion": "1.0.0"})
	if out.err != nil {
		return out.err
	}
	return out.tar.Close()
}

// layer is the tar of the image's files.
func (i Image) layer() ([]byte, error) {
	var b bytes.Buffer
	t := tar.NewWriter(&b)
	if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777}); err != nil {
		return nil, err
	}
	for _, f := range i.Files {
		h := &tar.Header{Typeflag: tar.TypeSymlink, Name: f.Path, Linkname: f.Link, Mode: 0o777}
		var data []byte
		if f.Link == "" {
			var err error
			if data, err = os.ReadFile(f.Source); err != nil {
				return nil, err
			}
			h = &tar.Header{Typeflag: tar.TypeReg, Name: f.Path, Size: int64(len(data)), Mode: 0o755}
		}
		if err := t.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := t.Write(data); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), t.Close()
}

type object map[string]any

// descriptor points to a blob of the layout.
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// layout writes an OCI image layout and keeps the first error.
type layout struct {
	tar *tar.Writer
	err error
}

func (l *layout) file(name string, data []byte) {
	if l.err == nil {
		l.err = l.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(data)), Mode: 0o644})
	}
	if l.err == nil {
		_, l.err = l.tar.Write(data)
	}
}

func (l *layout) fileJSON(name string, v any) { l.file(name, l.json(v)) }

func (l *layout) json(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil && l.err == nil {
		l.err = err
	}
	return data
}

func (l *layout) blob(mediaType string, data []byte) descriptor {
	sum := sha256.Sum256(data)
	digest := hex.EncodeToString(sum[:])
	l.file("blobs/sha256/"+digest, data)
	return descriptor{MediaType: mediaType, Digest: "sha256:" + digest, Size: len(data)}
}

func (l *layout) blobJSON(mediaType string, v any) descriptor {
	return l.blob(mediaType, l.json(v))
}
