package bpf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Priorities that are tried. They are odd, to keep out of nft chains' way; at
// LOCAL_IN they lie below 100, where replies still carry the pod's own source.
const (
	firstPriority = 31
	lastPriority  = 97
)

const linkFolder = "links_"

var hooks = []struct {
	name string
	hook link.NetfilterInetHook
}{
	{"forward", link.NetfilterInetForward},
	{"local_in", link.NetfilterInetLocalIn},
	{"local_out", link.NetfilterInetLocalOut},
}

var families = []struct {
	name   string
	family link.NetfilterProtocolFamily
}{
	{"4", link.NetfilterProtoIPv4},
	{"6", link.NetfilterProtoIPv6},
}

// linkSet is the links of one Load, pinned in a folder of their own.
type linkSet struct{ links []link.Link }

func (s *linkSet) close() error {
	var errs []error
	for _, l := range s.links {
		errs = append(errs, l.Close())
	}
	return errors.Join(errs...)
}

// attach links the program everywhere, then takes off every other set.
func attach(pin, netns string, program *ebpf.Program) (*linkSet, error) {
	folder, err := nextLinkFolder(pin)
	if err != nil {
		return nil, err
	}
	set := &linkSet{}
	err = inNetNS(netns, func() error { return set.attach(filepath.Join(pin, folder), program) })
	if err != nil {
		return nil, errors.Join(err, set.close(), removeLinks(filepath.Join(pin, folder)))
	}
	if err := detachAll(pin, folder); err != nil {
		return nil, errors.Join(err, set.close())
	}
	return set, nil
}

func (s *linkSet) attach(folder string, program *ebpf.Program) error {
	if err := os.Mkdir(folder, 0o700); err != nil {
		return fmt.Errorf("cannot make link folder: %w", err)
	}
	for _, h := range hooks {
		for _, f := range families {
			l, err := attachAt(program, h.hook, f.family)
			if err != nil {
				return fmt.Errorf("cannot link at %s for IPv%s: %w", h.name, f.name, err)
			}
			s.links = append(s.links, l)
			if err := l.Pin(filepath.Join(folder, h.name+"_"+f.name)); err != nil {
				return fmt.Errorf("cannot pin link at %s for IPv%s: %w", h.name, f.name, err)
			}
		}
	}
	return nil
}

// attachAt takes the first priority that is free.
func attachAt(program *ebpf.Program, hook link.NetfilterInetHook, family link.NetfilterProtocolFamily) (link.Link, error) {
	for priority := int32(firstPriority); ; priority += 2 {
		l, err := link.AttachNetfilter(link.NetfilterOptions{
			Program: program, ProtocolFamily: family, Hook: hook, Priority: priority,
		})
		if err == nil || !errors.Is(err, unix.EBUSY) || priority >= lastPriority {
			return l, err
		}
	}
}

// nextLinkFolder is a name that no earlier set of links has.
func nextLinkFolder(pin string) (string, error) {
	names, err := linkFolders(pin)
	last := -1
	for _, name := range names {
		if n, err := strconv.Atoi(strings.TrimPrefix(name, linkFolder)); err == nil {
			last = max(last, n)
		}
	}
	return linkFolder + strconv.Itoa(last+1), err
}

func linkFolders(pin string) ([]string, error) {
	entries, err := os.ReadDir(pin)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("cannot list pins: %w", err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && strings.HasPrefix(e.Name(), linkFolder) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// detachAll takes every set of links off but the one in the folder kept.
func detachAll(pin, keep string) error {
	names, err := linkFolders(pin)
	errs := []error{err}
	for _, name := range names {
		if name != keep {
			errs = append(errs, removeLinks(filepath.Join(pin, name)))
		}
	}
	return errors.Join(errs...)
}

// removeLinks detaches the links pinned in a folder and removes it. Detaching
// comes first: another process may hold the link open.
func removeLinks(folder string) error {
	entries, err := os.ReadDir(folder)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, e := range entries {
		errs = append(errs, removeLink(filepath.Join(folder, e.Name())))
	}
	return errors.Join(append(errs, os.RemoveAll(folder))...)
}

func removeLink(path string) error {
	l, err := link.LoadPinnedLink(path, nil)
	if err != nil {
		return fmt.Errorf("cannot open pinned link %s: %w", path, err)
	}
	defer l.Close()
	if err := l.Detach(); err != nil && !errors.Is(err, unix.ENOLINK) {
		return fmt.Errorf("cannot detach link %s: %w", path, err)
	}
	return nil
}

// inNetNS runs f in the network namespace at the path, or in the caller's.
func inNetNS(path string, f func() error) error {
	if path == "" {
		return f()
	}
	namespace, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("cannot open network namespace: %w", err)
	}
	defer namespace.Close()
	done := make(chan error)
	go func() {
		// Never unlocked: the thread ends with the goroutine, and nobody else
		// finds himself in the namespace.
		runtime.LockOSThread()
		if err := unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("cannot enter network namespace %s: %w", path, err)
			return
		}
		done <- f()
	}()
	return <-done
}
