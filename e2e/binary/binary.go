// Package binary turns the sources of Kubernetes and of what it runs on into
// programs, once: they are kept in a cache folder whose name says the version
// and what they were built from. Several processes may build at once; one does
// and the others wait.
package binary

import (
	"bufio"
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"time"
)

const modulePath = "github.com/sallyport-dev/sallyport/e2e"

// Set is a folder of programs.
type Set struct {
	Dir     string // absolute
	Version string // of Kubernetes: "v1.37.1"
}

// Path of a program.
func (s Set) Path(name string) string { return filepath.Join(s.Dir, name) }

// step builds some programs of one of the modules below build/.
type step struct {
	what   string
	module string
	args   []string // of go, without -o
	output string   // name, or "" for one file per program
}

// steps to build everything. The programs are the tools of the modules' go.mod
// files; the suite is a test binary.
func steps(version string) []step {
	major, minor, _ := strings.Cut(strings.TrimPrefix(version, "v"), ".")
	minor, _, _ = strings.Cut(minor, ".")
	flags := "-s -w"
	for _, p := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		flags += fmt.Sprintf(" -X %[1]s.gitVersion=%[2]s -X %[1]s.gitMajor=%[3]s -X %[1]s.gitMinor=%[4]s -X %[1]s.gitTreeState=clean", p, version, major, minor)
	}
	return []step{
		{"etcd, containerd and CNI plugins", "runtime", []string{"build", "-tags", "no_btrfs no_devmapper no_zfs no_aufs", "-ldflags", "-s -w", "tool"}, ""},
		{"Kubernetes " + version, "kubernetes", []string{"build", "-ldflags", flags, "tool"}, ""},
		{"upstream's NetworkPolicy suite", "kubernetes", []string{"test", "-c", "-vet=off", "-ldflags", flags, "./netpol"}, "netpol.test"},
	}
}

// Build returns the programs of a cluster, and builds those that the cache
// does not have: about ten minutes on two cores the first time. Progress goes
// to log.
func Build(ctx context.Context, log io.Writer) (Set, error) {
	module, err := Module()
	if err != nil {
		return Set{}, err
	}
	set, err := locate(module)
	if err != nil {
		return Set{}, err
	}
	return set, once(set.Dir, func(part string) error {
		for _, s := range steps(set.Version) {
			if err := s.run(ctx, filepath.Join(module, "build"), part, log); err != nil {
				return err
			}
		}
		// The package's folder, a major version, gave etcd its name.
		if err := os.Rename(filepath.Join(part, "server"), filepath.Join(part, "etcd")); err != nil {
			return fmt.Errorf("cannot name etcd: %w", err)
		}
		return nil
	})
}

// Conformance returns the path of upstream's suite for
// policy.networking.k8s.io, and compiles it if the cache does not have it.
func Conformance(ctx context.Context, log io.Writer) (string, error) {
	module, err := Module()
	if err != nil {
		return "", err
	}
	s := step{"upstream's suite for policy.networking.k8s.io", "conformance", []string{"test", "-c", "-vet=off", "-ldflags", "-s -w", "."}, "conformance.test"}
	sum := sha256.New()
	version, err := read(sum, module, conformanceVersion, "conformance/go.mod", "conformance/go.sum", "conformance/suite_test.go")
	if err != nil {
		return "", err
	}
	_, _ = fmt.Fprint(sum, runtime.Version(), runtime.GOARCH, s)
	dir, err := cached("network-policy-api-"+version, sum)
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, s.output), once(dir, func(part string) error { return s.run(ctx, filepath.Join(module, "build"), part, log) })
}

// once makes the folder if it is not there yet. It gets its name when it is
// complete.
func once(dir string, fill func(part string) error) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return fmt.Errorf("cannot create the cache: %w", err)
	}
	lock, err := os.OpenFile(dir+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return fmt.Errorf("cannot lock the cache: %w", err)
	}
	defer func() { _ = lock.Close() }()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("cannot lock the cache: %w", err)
	}
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	part := dir + ".part"
	if err := os.MkdirAll(part, 0o755); err != nil {
		return fmt.Errorf("cannot create the cache: %w", err)
	}
	if err := fill(part); err != nil {
		return err
	}
	if err := os.Rename(part, dir); err != nil {
		return fmt.Errorf("cannot finish the cache: %w", err)
	}
	return nil
}

// Compile builds commands of the e2e module itself into dir. They are built
// each time, which takes a second.
func Compile(ctx context.Context, dir string, programs ...string) error {
	module, err := Module()
	if err != nil {
		return err
	}
	args := []string{"build", "-trimpath", "-ldflags", "-s -w", "-o", dir + "/"}
	for _, p := range programs {
		args = append(args, "./cmd/"+p)
	}
	if out, err := goCommand(ctx, module, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("cannot build %s: %w\n%s", strings.Join(programs, ", "), err, out)
	}
	return nil
}

// Module is the folder of the e2e module: the working directory, or one above
// it, or its e2e folder.
func Module() (string, error) {
	wd, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("cannot find the sources: %w", err)
	}
	for dir := wd; ; dir = filepath.Dir(dir) {
		for _, d := range []string{dir, filepath.Join(dir, "e2e")} {
			text, err := os.ReadFile(filepath.Join(d, "go.mod"))
			if err == nil && strings.HasPrefix(string(text), "module "+modulePath+"\n") {
				return d, nil
			}
		}
		if dir == "/" {
			return "", fmt.Errorf("cannot find module %s from %s: run it from inside the repository", modulePath, wd)
		}
	}
}

// The lines of go.mod files that say the versions of what is built.
var (
	kubernetesVersion  = regexp.MustCompile(`(?m)^require k8s\.io/kubernetes (v\S+)$`)
	conformanceVersion = regexp.MustCompile(`(?m)^\tsigs\.k8s\.io/network-policy-api (v\S+)$`)
)

// locate says where the programs belong: the name has the version of
// Kubernetes and a sum of everything that decides what is built.
func locate(module string) (Set, error) {
	sum := sha256.New()
	version, err := read(sum, module, kubernetesVersion, "runtime/go.mod", "runtime/go.sum", "kubernetes/go.mod", "kubernetes/go.sum", "kubernetes/netpol/suite_test.go")
	if err != nil {
		return Set{}, err
	}
	_, _ = fmt.Fprint(sum, runtime.Version(), runtime.GOARCH, steps(version))
	dir, err := cached(version, sum)
	return Set{Dir: dir, Version: version}, err
}

// read sums up what decides what is built, and finds the version in it.
func read(sum hash.Hash, module string, version *regexp.Regexp, names ...string) (found string, err error) {
	for _, name := range names {
		text, err := os.ReadFile(filepath.Join(module, "build", name))
		if err != nil {
			return "", fmt.Errorf("cannot read what to build: %w", err)
		}
		if m := version.FindSubmatch(text); m != nil {
			found = string(m[1])
		}
		sum.Write(text)
	}
	if found == "" {
		return "", fmt.Errorf("cannot find the version of what to build: none of %s has a line %s", strings.Join(names, ", "), version)
	}
	return found, nil
}

// cached is the folder of the cache for what the sum stands for.
func cached(name string, sum hash.Hash) (string, error) {
	cache := os.Getenv("SALLYPORT_CACHE")
	if cache == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("cannot place the cache: %w; set SALLYPORT_CACHE", err)
		}
		cache = filepath.Join(home, ".cache", "sallyport")
	}
	return filepath.Abs(filepath.Join(cache, "e2e", fmt.Sprintf("%s-%x", name, sum.Sum(nil)[:5])))
}

func goCommand(ctx context.Context, dir string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=-mod=readonly -buildvcs=false")
	return cmd
}

// run builds into dir and says every ten seconds how far it is.
func (s step) run(ctx context.Context, modules, dir string, log io.Writer) error {
	begin := time.Now()
	_, _ = fmt.Fprintf(log, "building %s\n", s.what)
	args := append([]string{s.args[0], "-v", "-trimpath", "-o", dir + "/" + s.output}, s.args[1:]...)
	cmd := goCommand(ctx, filepath.Join(modules, s.module), args...)
	errs, err := cmd.StderrPipe()
	if err != nil {
		return fmt.Errorf("cannot build %s: %w", s.what, err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("cannot build %s: %w; is Go in the PATH?", s.what, err)
	}
	var tail []string
	packages, told := 0, begin
	for lines := bufio.NewScanner(errs); lines.Scan(); {
		tail = append(tail, lines.Text())[max(0, len(tail)-30):]
		if packages++; time.Since(told) > 10*time.Second {
			told = time.Now()
			_, _ = fmt.Fprintf(log, "  %4.0f s, %d packages, at %s\n", time.Since(begin).Seconds(), packages, lines.Text())
		}
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("cannot build %s: %w\n%s", s.what, err, strings.Join(tail, "\n"))
	}
	_, _ = fmt.Fprintf(log, "built %s in %.0f s\n", s.what, time.Since(begin).Seconds())
	return nil
}
