package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/sallyport-dev/sallyport/e2e/binary"
	"github.com/sallyport-dev/sallyport/e2e/image"
)

// Install makes and loads the image of bin/sallyport, applies
// deploy/sallyport.yaml and returns when its DaemonSets are ready on every
// node.
func (c *Cluster) Install(ctx context.Context) error {
	module, err := binary.Module()
	if err != nil {
		return err
	}
	program := filepath.Join(module, "../bin/sallyport")
	manifest := filepath.Join(module, "../deploy/sallyport.yaml")
	if _, err := os.Stat(program); err != nil {
		return fmt.Errorf("cannot install sallyport: %w: run make build first", err)
	}
	err = c.LoadImage(ctx, image.Image{
		Name: Sallyport,
		Files: []image.File{
			{Path: "sallyport", Source: program},
			{Path: "sallyport-cni", Link: "/sallyport"},
		},
		Entrypoint: []string{"/sallyport"},
	})
	if err != nil {
		return err
	}
	if _, err := c.Kubectl(ctx, "apply", "-f", manifest); err != nil {
		return err
	}
	const sets = `{range .items[?(@.kind=="DaemonSet")]}{.metadata.namespace}/{.metadata.name}{"\n"}{end}`
	list, err := c.Kubectl(ctx, "get", "-f", manifest, "-o", "jsonpath="+sets)
	if err != nil {
		return err
	}
	if list == "" {
		return fmt.Errorf("cannot install sallyport: %s has no DaemonSet", manifest)
	}
	for set := range strings.FieldsSeq(list) {
		namespace, name, _ := strings.Cut(set, "/")
		if _, err := c.Kubectl(ctx, "-n", namespace, "rollout", "status", "daemonset/"+name, "--timeout=60s"); err != nil {
			pods, why := c.Kubectl(ctx, "-n", namespace, "describe", "pods")
			return errors.Join(err, why, errors.New(pods))
		}
	}
	return nil
}
