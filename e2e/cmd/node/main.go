// Command node is the first process of a node: it gives the node its own view
// of the machine's files, then runs containerd, kubelet and kube-proxy, and
// runs them again when they end. It is started in new mount, pid, uts and ipc
// namespaces and in the node's network namespace:
//
//	node NAME IP DIR BIN
//
// IP is an address, or one of each family with a comma; DIR holds what the node writes, BIN the programs. Killing this process ends
// the node and everything that runs on it.
package main

import (
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// configs is where the node sees the files that the cluster wrote for it.
const configs = "/run/sallyport-e2e"

// service is a program that is to run as long as the node does.
type service struct {
	name string
	args []string
}

func services(ip string) []service {
	return []service{
		{"containerd", []string{"--config", configs + "/containerd.toml"}},
		{"kubelet", []string{"--config", configs + "/kubelet.json", "--kubeconfig", configs + "/kubelet.kubeconfig", "--node-ip", ip}},
		{"kube-proxy", []string{"--config", configs + "/kube-proxy.json"}},
	}
}

// tunables are what a kubelet insists on. They belong to the whole machine, so
// the node is shown files that say so, and the machine stays as it is.
var tunables = map[string]string{
	"vm/overcommit_memory":      "1",
	"vm/panic_on_oom":           "0",
	"kernel/panic":              "10",
	"kernel/panic_on_oops":      "1",
	"kernel/keys/root_maxkeys":  "1000000",
	"kernel/keys/root_maxbytes": "25000000",
}

func main() {
	log.SetFlags(0)
	if len(os.Args) != 5 {
		log.Fatal("usage: node NAME IP DIR BIN")
	}
	name, ip, dir, bin := os.Args[1], os.Args[2], os.Args[3], os.Args[4]
	if err := isolate(name, dir); err != nil {
		log.Fatalf("node %s: %v", name, err)
	}
	if err := run(bin, services(ip)); err != nil {
		log.Fatalf("node %s: %v", name, err)
	}
}

// isolate makes the node's files its own.
func isolate(name, dir string) error {
	if err := syscall.Sethostname([]byte(name)); err != nil {
		return fmt.Errorf("cannot set the host name: %w", err)
	}
	if err := mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := forgetNamespaces(); err != nil {
		return err
	}
	if err := mount("proc", "/proc", "proc", 0, ""); err != nil {
		return err
	}
	if err := mount("bpf", "/sys/fs/bpf", "bpf", 0, ""); err != nil {
		return err
	}
	if err := forward(); err != nil {
		return err
	}
	for key, value := range tunables {
		if err := pretend(filepath.Join("/proc/sys", key), value, filepath.Join(dir, "sys", key)); err != nil {
			return err
		}
	}
	for _, path := range []string{"etc", "opt", "var"} {
		if err := cover(path, dir); err != nil {
			return err
		}
	}
	// An overlay carries no overlays of containers.
	for _, path := range []string{"var/lib/containerd", "var/lib/kubelet", "run"} {
		if err := bind(filepath.Join(dir, path), filepath.Join("/", path)); err != nil {
			return err
		}
	}
	return mount("", "/", "", syscall.MS_REC|syscall.MS_SHARED, "")
}

// forward makes the node a router for its pods; what their bridge carries
// passes netfilter too.
func forward() error {
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
		return err
	}
	for _, path := range []string{
		"ipv6/conf/all/forwarding",                                          // missing: the kernel has no IPv6, and so its cluster has none
		"bridge/bridge-nf-call-iptables", "bridge/bridge-nf-call-ip6tables", // missing: the cluster has no bridges, or has said so
	} {
		if err := os.WriteFile(filepath.Join("/proc/sys/net", path), []byte("1"), 0); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	return nil
}

// forgetNamespaces drops the copies of other people's network namespaces,
// which would stay alive as long as the node.
func forgetNamespaces() error {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("cannot list mounts: %w", err)
	}
	for line := range strings.Lines(string(table)) {
		if at := strings.Fields(line)[4]; strings.HasPrefix(at, "/run/netns/") {
			_ = syscall.Unmount(at, syscall.MNT_DETACH) // gone already: as wanted
		}
	}
	return nil
}

// cover lays an overlay over /path; what the node writes goes to dir.
func cover(path, dir string) error {
	upper, work := filepath.Join(dir, "upper", path), filepath.Join(dir, "work", path)
	for _, d := range []string{upper, work} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	return mount("overlay", "/"+path, "overlay", 0, fmt.Sprintf("lowerdir=/%s,upperdir=%s,workdir=%s", path, upper, work))
}

func bind(source, target string) error {
	for _, d := range []string{source, target} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	return mount(source, target, "", syscall.MS_BIND, "")
}

// pretend shows the node a file at path with this value; the machine's own
// file is not written.
func pretend(path, value, source string) error {
	if err := os.MkdirAll(filepath.Dir(source), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(source, []byte(value+"\n"), 0o644); err != nil {
		return err
	}
	return mount(source, path, "", syscall.MS_BIND, "")
}

func mount(source, target, kind string, flags uintptr, data string) error {
	if err := syscall.Mount(source, target, kind, flags, data); err != nil {
		return fmt.Errorf("cannot mount %s: %w", target, err)
	}
	return nil
}

// run starts the services, restarts those that end, and reaps everything else
// that ends on the node: it is the node's process 1.
func run(bin string, services []service) error {
	if err := os.Setenv("PATH", bin+":"+os.Getenv("PATH")); err != nil {
		return err
	}
	running := map[int]service{}
	start := func(s service) error {
		pid, err := s.start(bin)
		running[pid] = s
		return err
	}
	for _, s := range services {
		if err := start(s); err != nil {
			return err
		}
	}
	for {
		pid, err := syscall.Wait4(-1, nil, 0, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("cannot wait for processes: %w", err)
		}
		if s, ok := running[pid]; ok {
			delete(running, pid)
			time.Sleep(200 * time.Millisecond)
			if err := start(s); err != nil {
				return err
			}
		}
	}
}

// start runs the service with a log of its own, /var/log/NAME.log, and leaves
// its number in /run/sallyport-e2e/NAME.pid.
func (s service) start(bin string) (int, error) {
	path := "/var/log/" + s.name + ".log"
	out, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return 0, err
	}
	defer func() { _ = out.Close() }()
	pid, err := syscall.ForkExec(filepath.Join(bin, s.name), append([]string{s.name}, s.args...), &syscall.ProcAttr{
		Env:   os.Environ(),
		Files: []uintptr{0, out.Fd(), out.Fd()},
	})
	if err != nil {
		return 0, fmt.Errorf("cannot start %s: %w", s.name, err)
	}
	return pid, os.WriteFile(configs+"/"+s.name+".pid", fmt.Append(nil, pid), 0o644)
}
