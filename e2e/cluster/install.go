package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/sallyport-dev/sallyport/e2e/binary"
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
	if err := c.LoadSallyport(ctx, Sallyport, program); err != nil {
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
		if _, err := c.Kubectl(ctx, "-n", namespace, "rollout", "status", "daemonset/"+name, "--timeout=5m"); err != nil {
			pods, why := c.Kubectl(ctx, "-n", namespace, "describe", "pods")
			return errors.Join(err, why, errors.New(pods))
		}
	}
	return nil
}

// LoadSallyport makes the image of a sallyport binary as make image does, under
// the name, and loads it.
func (c *Cluster) LoadSallyport(ctx context.Context, name, program string) error {
	module, err := binary.Module()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "sallyport-image")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	tar := filepath.Join(dir, "image.tar")
	cmd := exec.CommandContext(ctx, "go", "run", "./deploy/image", "-name", name, "-o", tar, program)
	cmd.Dir = filepath.Dir(module)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("cannot make the image %s: %w\n%s", name, err, out)
	}
	return c.Load(ctx, tar)
}
