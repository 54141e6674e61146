// Package cluster turns programs into a real Kubernetes cluster on one
// machine: etcd, API server, controllers and scheduler in one network
// namespace, and nodes, each a kubelet, containerd and kube-proxy in
// namespaces of its own, joined by a bridge:
//
//	machine ── fabric (198.18.0.0/24) ─┬─ control plane 198.18.0.1
//	198.18.0.254                       ├─ node1 198.18.0.11 ── pods 10.244.x.0/24
//	                                   └─ node2 198.18.0.12 ── pods 10.244.y.0/24
//
// A dual-stack cluster has fd00:198:18::/64 beside it, and fd00:10:244::/56.
//
// Nothing is shared with the machine but its kernel, its programs and one link
// to the fabric. All state is below Dir, and Remove finds everything again,
// also after a crash. There is one cluster on a machine at a time; it needs
// root. A Cluster is for one goroutine.
//
// Test with a cluster: go test ./... as root.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/binary"
)

// Options of a new cluster; the zero value is a good one.
type Options struct {
	Nodes int       // how many; 3 if zero
	CNI   string    // how pods are attached: "ptp" (if empty), or "bridge", whose packets pass netfilter by br_netfilter
	Dual  bool      // nodes, pods and Services have IPv6 addresses, too
	Log   io.Writer // progress; nil for none
}

// Cluster is a cluster that is up.
type Cluster struct {
	Kubeconfig string // path; its user may do everything
	Nodes      []*Node

	owner     identity
	programs  binary.Set
	processes []*process
	cni       string
	dual      bool
	log       io.Writer
}

// Start builds what the cache does not have and starts a cluster. It replaces
// one that was left behind, but not one that a living process has. If it
// fails, nothing is left and the error has the end of the log that matters.
func Start(ctx context.Context, o Options) (*Cluster, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("cannot start a cluster: namespaces need root")
	}
	c := &Cluster{owner: identify(os.Getpid()), cni: o.CNI, dual: o.Dual, log: o.Log}
	if c.log == nil {
		c.log = io.Discard
	}
	switch c.cni {
	case "":
		c.cni = "ptp"
	case "ptp":
	case "bridge":
		if err := loadBridgeNetfilter(ctx); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("cannot attach pods by %q: it is ptp or bridge", o.CNI)
	}
	if o.Nodes == 0 {
		o.Nodes = 3
	}
	if err := installPackages(ctx); err != nil {
		return nil, err
	}
	var err error
	if c.programs, err = binary.Build(ctx, c.log); err != nil {
		return nil, err
	}
	if err := claim(); err != nil {
		return nil, err
	}
	begin := time.Now()
	if err := c.start(ctx, o.Nodes); err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("cannot start a cluster: %w", ctx.Err()) // no log says more
		}
		return nil, errors.Join(err, Remove())
	}
	c.say("cluster of %d nodes is ready after %.1f s", o.Nodes, time.Since(begin).Seconds())
	return c, nil
}

func (c *Cluster) start(ctx context.Context, nodes int) error {
	if err := c.save(); err != nil {
		return err
	}
	if err := binary.Compile(ctx, filepath.Join(Dir, "bin"), "node", "pause"); err != nil {
		return err
	}
	if err := c.makeFabric(); err != nil {
		return err
	}
	for i := range nodes {
		c.Nodes = append(c.Nodes, newNode(i+1, c.dual))
	}
	if err := c.startControlPlane(ctx); err != nil {
		return err
	}
	for _, n := range c.Nodes {
		if err := c.startNode(n); err != nil {
			return err
		}
	}
	for _, n := range c.Nodes {
		if err := c.connectNode(ctx, n); err != nil {
			return err
		}
	}
	if err := c.makeRoutes(); err != nil {
		return err
	}
	if err := c.loadOwnImages(ctx); err != nil {
		return err
	}
	if _, err := c.Kubectl(ctx, "wait", "--for=condition=Ready", "node", "--all", "--timeout=5m"); err != nil {
		return errors.Join(err, c.logs("node1", "kubelet"))
	}
	return c.save()
}

// Open returns the cluster that is up, whoever started it.
func Open() (*Cluster, error) { return read() }

// Leave lets the cluster outlive this process; Remove removes it.
func (c *Cluster) Leave() error {
	c.owner = identity{}
	return c.save()
}

// Program is the path of one of the cluster's programs: "kubectl", "ctr",
// "ginkgo", "netpol.test" and the rest.
func (c *Cluster) Program(name string) string { return c.programs.Path(name) }

// Kubectl runs kubectl as the user who may do everything and returns what it
// prints. An error has what it complains about.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) (string, error) {
	return c.KubectlInput(ctx, "", args...)
}

// KubectlInput is Kubectl with something to read, for "apply -f -".
func (c *Cluster) KubectlInput(ctx context.Context, input string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, c.Program("kubectl"), append([]string{"--kubeconfig", c.Kubeconfig}, args...)...)
	cmd.Stdin = strings.NewReader(input)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return out.String(), nil
}

func (c *Cluster) say(format string, args ...any) { _, _ = fmt.Fprintf(c.log, format+"\n", args...) }

// Debian's packages for what is not built: missing ones are installed.
var packages = map[string]string{"runc": "runc", "nft": "nftables", "ip": "iproute2", "nsenter": "util-linux"}

func installPackages(ctx context.Context) error {
	var missing []string
	for program, name := range packages {
		if _, err := exec.LookPath(program); err != nil {
			missing = append(missing, name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	list := strings.Join(missing, " ")
	cmd := exec.CommandContext(ctx, "sh", "-c", "apt-get update -qq && apt-get install -y -qq "+list)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("cannot install %s: %w; install it by hand\n%s", list, err, out)
	}
	return nil
}

// loadBridgeNetfilter makes sure that what a bridge carries can pass netfilter.
func loadBridgeNetfilter(ctx context.Context) error {
	if _, err := os.Stat("/proc/sys/net/bridge"); err == nil {
		return nil
	}
	if out, err := exec.CommandContext(ctx, "modprobe", "br_netfilter").CombinedOutput(); err != nil {
		return fmt.Errorf("cannot attach pods by a bridge: this kernel has no br_netfilter, so policies would not see pods of one node: %w: %s", err, out)
	}
	return nil
}

// process is a program of the control plane, or a node's first process.
type process struct {
	Name     string   `json:"name"`
	Space    string   `json:"space"` // network namespace
	Args     []string `json:"args"`  // with the program's path
	Flags    uintptr  `json:"flags"` // further namespaces to make for it
	identity          // who it is now; zero while it is stopped
}

func (p *process) log() string { return filepath.Join(Dir, "log", p.Name+".log") }

// spawn starts the process, detached from this one, and records it.
func (c *Cluster) spawn(p *process) error {
	if err := os.MkdirAll(filepath.Join(Dir, "log"), 0o755); err != nil {
		return err
	}
	out, err := os.OpenFile(p.log(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = out.Close() }()
	// nsenter becomes the program, and so the first process of a new pid namespace.
	cmd := exec.Command("nsenter", append([]string{"--net=" + netns(p.Space), "--"}, p.Args...)...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: p.Flags}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("cannot start %s: %w", p.Name, err)
	}
	p.identity = identify(cmd.Process.Pid)
	go func() { _ = cmd.Wait() }()
	return c.save()
}

// add records a new process and starts it.
func (c *Cluster) add(p *process) error {
	c.processes = append(c.processes, p)
	return c.spawn(p)
}

func (c *Cluster) process(name string) (*process, error) {
	for _, p := range c.processes {
		if p.Name == name {
			return p, nil
		}
	}
	return nil, fmt.Errorf("the cluster has no process %s", name)
}

// logs is an error with the end of a log: of a process, or of a service of a
// node.
func (c *Cluster) logs(process string, service ...string) error {
	p, err := c.process(process)
	if err != nil {
		return err
	}
	path := p.log()
	if len(service) > 0 {
		path = fmt.Sprintf("/proc/%d/root/var/log/%s.log", p.PID, service[0])
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return fmt.Errorf("the end of %s:\n%s", path, strings.Join(lines[max(0, len(lines)-15):], "\n"))
}

// SaveLogs copies the logs of all processes and nodes into dir, for when the
// cluster is gone.
func (c *Cluster) SaveLogs(dir string) error {
	folders := map[string]string{dir: filepath.Join(Dir, "log")}
	for _, n := range c.Nodes {
		folders[filepath.Join(dir, n.Name)] = n.Root("/var/log")
	}
	for to, from := range folders {
		if err := os.MkdirAll(to, 0o755); err != nil {
			return fmt.Errorf("cannot save logs: %w", err)
		}
		logs, _ := filepath.Glob(from + "/*.log")
		for _, log := range logs {
			if err := copyFile(log, filepath.Join(to, filepath.Base(log))); err != nil {
				return fmt.Errorf("cannot save logs: %w", err)
			}
		}
	}
	return nil
}

// Each does something with every node at once.
func (c *Cluster) Each(do func(n *Node) error) error {
	errs := make([]error, len(c.Nodes))
	var all sync.WaitGroup
	for i, n := range c.Nodes {
		all.Go(func() { errs[i] = do(n) })
	}
	all.Wait()
	return errors.Join(errs...)
}
