package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/sallyport-dev/sallyport/e2e/image"
)

// Names of images.
const (
	pauseImage = "registry.k8s.io/pause:3.10.2"                   // holds a pod's namespaces
	Agnhost    = "registry.k8s.io/e2e-test-images/agnhost:2.66.1" // on every cluster: upstream's server and client of everything
	Sallyport  = "docker.io/library/sallyport:dev"                // "sallyport:dev" in manifests; Install loads it
)

// Load imports an image, a tar as "docker save" or package image write it,
// into all nodes. Pods find it by its name if their imagePullPolicy is not
// Always; there is no registry to pull from.
func (c *Cluster) Load(ctx context.Context, tar string) error {
	return c.Each(func(n *Node) error {
		cmd := exec.CommandContext(ctx, c.Program("ctr"), "--address", n.Root("/run/containerd/containerd.sock"),
			"--namespace", "k8s.io", "images", "import", "--local", tar)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("cannot load %s into %s: %w: %s", tar, n.Name, err, out)
		}
		return nil
	})
}

// loadOwnImages makes and loads the images that every cluster has.
func (c *Cluster) loadOwnImages(ctx context.Context) error {
	images := []image.Image{
		{
			Name:       pauseImage,
			Files:      []image.File{{Path: "pause", Source: filepath.Join(Dir, "bin/pause")}},
			Entrypoint: []string{"/pause"},
		},
		{
			Name:       Agnhost,
			Files:      []image.File{{Path: "agnhost", Source: c.Program("agnhost")}},
			Entrypoint: []string{"/agnhost"},
		},
	}
	for _, i := range images {
		if err := c.LoadImage(ctx, i); err != nil {
			return err
		}
	}
	return nil
}

// LoadImage makes an image and loads it.
func (c *Cluster) LoadImage(ctx context.Context, i image.Image) error {
	tar, err := os.CreateTemp(Dir, "image-*.tar")
	if err != nil {
		return fmt.Errorf("cannot make the image %s: %w", i.Name, err)
	}
	defer func() { _ = os.Remove(tar.Name()) }()
	if err := errors.Join(i.Encode(tar), tar.Close()); err != nil {
		return fmt.Errorf("cannot make the image %s: %w", i.Name, err)
	}
	return c.Load(ctx, tar.Name())
}
