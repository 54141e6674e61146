// Package bpf enforces transactions of package datapath in the kernel: it
// loads the netfilter-type BPF program, links it at FORWARD, LOCAL_IN and
// LOCAL_OUT of one network namespace, and writes the tables it judges by.
//
// Maps and links are pinned under one folder of bpffs: they outlive the
// process, and [Load] takes them over. A [Program] belongs to one goroutine,
// but for [Program.Events] and [Program.Stats], which any may call.
//
// A connection older than conntrack's entry for it (the first start on a node
// that tracked nothing, a flush) is judged as new by whichever packet comes
// first: from the client nothing changes; from the server it is taken for one
// to the client's ephemeral port, and stays cut where a gate does not let that
// pass until the client sends or reconnects.
//
// The tests
// need root; SALLYPORT_REQUIRE_ROOT=1 makes a run without it fail.
package bpf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"github.com/sallyport-dev/sallyport/datapath"
)

// DefaultPin is the folder of bpffs that holds an agent's maps and links.
const DefaultPin = "/sys/fs/bpf/sallyport"

// DefaultEventRate is the number of events per second and CPU that are
// delivered unless the options say otherwise.
const DefaultEventRate = 10000

// Options say where a program is to be loaded.
type Options struct {
	Pin string // folder of bpffs; "" is DefaultPin

	// NoMount makes it an error that bpffs is not mounted. In a container, one
	// mounted there would end with it, and the enforcement too.
	NoMount bool

	NetNS string // path of the network namespace, /proc/self/fd/N too; "" is the caller's

	// Limits are the sizes that new maps get, a zero being the default.
	// Program.Limits has those of the maps that are pinned already.
	Limits datapath.Limits

	EventRate    uint32 // per second and CPU; 0 is DefaultEventRate
	NoEvents     bool   // deliver none
	RedirectMark uint32 // packets with it pass conditional rows at LOCAL_IN
	RedirectMask uint32 // the bits of the mark that count; 0: no packet has it
}

// Program is the enforcement in one network namespace. Close ends the
// process's part in it; Remove ends the enforcement.
type Program struct {
	pin     string
	maps    string // where they are pinned: a folder in pin for each layout
	netns   string
	objects objectObjects
	links   *linkSet
	chunk   *ebpf.MapSpec

	config, subjects, gates, ranges, indexes *area

	chunks  []*area // nil: not made yet
	pending []datapath.Op
}

var _ datapath.Kernel = (*Program)(nil)

// Load opens the pinned maps, or makes them, and links a new program, then
// takes the links of an earlier process off: a packet always meets at least
// one of them. Until the first transaction is published nothing is forwarded.
func Load(o Options) (*Program, error) {
	if o.Pin == "" {
		o.Pin = DefaultPin
	}
	if err := preparePin(o); err != nil {
		return nil, err
	}
	p := &Program{pin: o.Pin, netns: o.NetNS}
	if err := p.load(o); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

func (p *Program) load(o Options) error {
	spec, err := loadObject()
	if err != nil {
		return fmt.Errorf("cannot read the BPF object: %w", err)
	}
	o.size(spec)
	if err := sizeJournal(spec); err != nil {
		return err
	}
	p.maps = filepath.Join(p.pin, layoutOf(spec))
	if err := os.MkdirAll(p.maps, 0o700); err != nil {
		return fmt.Errorf("cannot make folder for maps: %w", err)
	}
	if err := adoptPinnedSizes(spec, p.maps); err != nil {
		return err
	}
	p.chunk = spec.Maps["rows"].InnerMap
	err = spec.LoadAndAssign(&p.objects, &ebpf.CollectionOptions{
		Maps:     ebpf.MapOptions{PinPath: p.maps},
		Programs: ebpf.ProgramOptions{ExtraRelocationTargets: conntrackModule()},
	})
	if err != nil {
		return fmt.Errorf("cannot load the BPF program with maps at %s: %w", p.maps, err)
	}
	if err := p.mapAreas(); err != nil {
		return err
	}
	p.configure(o)
	if err := inNetNS(p.netns, trackConnections); err != nil {
		return err
	}
	if p.links, err = attach(p.pin, p.netns, p.objects.Sallyport); err != nil {
		return err
	}
	return removeLayouts(p.pin, filepath.Base(p.maps))
}

func (o Options) size(spec *ebpf.CollectionSpec) {
	l := o.Limits
	for name, n := range map[string]uint32{
		"addresses": l.Addresses, "prefixes": l.Prefixes, "devices": l.Devices,
		"subjects": l.Subjects, "gates": l.Gates, "ranges": l.Ranges, "indexes": l.Indexes, "rows": l.Columns / datapath.ChunkColumns,
	} {
		if n != 0 {
			spec.Maps[name].MaxEntries = n
		}
	}
	if l.Rows != 0 {
		spec.Maps["rows"].InnerMap.MaxEntries = l.Rows
	}
}

// Limits are the sizes of the maps as they are, for the planner.
func (p *Program) Limits() datapath.Limits {
	return datapath.Limits{
		Subjects: p.subjects.length, Gates: p.gates.length, Ranges: p.ranges.length, Indexes: p.indexes.length,
		Rows: p.chunk.MaxEntries, Columns: uint32(len(p.chunks)) * datapath.ChunkColumns,
		Addresses: p.objects.Addresses.MaxEntries(), Prefixes: p.objects.Prefixes.MaxEntries(),
		Devices: p.objects.Devices.MaxEntries(), History: datapath.DefaultLimits().History,
	}
}

// adoptPinnedSizes makes the spec agree with the maps that are there.
func adoptPinnedSizes(spec *ebpf.CollectionSpec, pin string) error {
	for name, m := range spec.Maps {
		if m.Pinning != ebpf.PinByName {
			continue
		}
		path := filepath.Join(pin, name)
		pinned, err := ebpf.LoadPinnedMap(path, nil)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("cannot open pinned map %s: %w", path, err)
		}
		m.MaxEntries = pinned.MaxEntries()
		if m.InnerMap != nil {
			err = adoptChunkSize(m.InnerMap, pinned)
		}
		if err := errors.Join(err, pinned.Close()); err != nil {
			return fmt.Errorf("cannot read pinned map %s: %w", path, err)
		}
	}
	return nil
}

func adoptChunkSize(spec *ebpf.MapSpec, rows *ebpf.Map) error {
	for column := range rows.MaxEntries() {
		chunk, err := openChunk(rows, column)
		if err != nil {
			return err
		}
		if chunk != nil {
			spec.MaxEntries = chunk.MaxEntries()
			return chunk.Close()
		}
	}
	return nil
}

// openChunk opens the inner map of a column, or returns nil if there is none.
func openChunk(rows *ebpf.Map, column uint32) (*ebpf.Map, error) {
	var chunk *ebpf.Map
	err := rows.Lookup(column, &chunk)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil, nil
	}
	return chunk, err
}

// conntrackModule is where conntrack's types are if it is a module.
func conntrackModule() []*btf.Spec {
	spec, err := btf.LoadKernelModuleSpec("nf_conntrack")
	if err != nil {
		return nil
	}
	return []*btf.Spec{spec}
}

func (p *Program) mapAreas() (err error) {
	for _, a := range []struct {
		to   **area
		from *ebpf.Map
	}{
		{&p.config, p.objects.Config}, {&p.subjects, p.objects.Subjects},
		{&p.gates, p.objects.Gates}, {&p.ranges, p.objects.Ranges}, {&p.indexes, p.objects.Indexes},
	} {
		if *a.to, err = newArea(a.from); err != nil {
			return err
		}
	}
	p.chunks = make([]*area, p.objects.Rows.MaxEntries())
	for i := range p.chunks {
		chunk, err := openChunk(p.objects.Rows, uint32(i))
		if err != nil {
			return fmt.Errorf("cannot open chunk %d of the rows: %w", i, err)
		}
		if chunk == nil {
			continue
		}
		p.chunks[i], err = newArea(chunk)
		if err := errors.Join(err, chunk.Close()); err != nil {
			return err
		}
	}
	return nil
}

// Offsets of the words of struct config.
const (
	configRevision = 4 * iota
	configEpoch
	configFlags
	configEventRate
	configRedirectMark
	configRedirectMask
)

func (p *Program) configure(o Options) {
	rate, flags := o.EventRate, uint32(1)
	if rate == 0 {
		rate = DefaultEventRate
	}
	if o.NoEvents {
		flags = 0
	}
	p.config.store(0, configEventRate, rate)
	p.config.store(0, configFlags, flags)
	p.config.store(0, configRedirectMask, 0)
	p.config.store(0, configRedirectMark, o.RedirectMark&o.RedirectMask)
	p.config.store(0, configRedirectMask, o.RedirectMask)
	atomic.AddUint32(p.config.word(0, configEpoch), 1)
}

// Revision is the last published revision; 0 before the first.
func (p *Program) Revision() datapath.Revision {
	return datapath.Revision(p.config.load(0, configRevision))
}

// Close releases what the process holds. The enforcement goes on.
func (p *Program) Close() error {
	errs := []error{p.objects.Close()}
	for _, a := range append([]*area{p.config, p.subjects, p.gates, p.ranges, p.indexes}, p.chunks...) {
		errs = append(errs, a.close())
	}
	if p.links != nil {
		errs = append(errs, p.links.close())
	}
	*p = Program{pin: p.pin, maps: p.maps, netns: p.netns}
	return errors.Join(errs...)
}

// Remove takes the links off, removes the pins and the nftables table, and
// closes the program: nothing is enforced any more.
func (p *Program) Remove() error {
	err := Remove(p.pin) // first: without conntrack everything would be dropped
	return errors.Join(err, inNetNS(p.netns, untrackConnections), p.Close())
}

// Remove takes off the links pinned in the folder and removes it, so that what
// a dead process left enforces nothing more. The nftables table of the
// namespace stays. A folder that is not there is no error.
func Remove(pin string) error {
	errs := []error{detachAll(pin, "")}
	if err := os.RemoveAll(pin); err != nil {
		errs = append(errs, fmt.Errorf("cannot remove pins: %w", err))
	}
	return errors.Join(errs...)
}

// preparePin makes the folder, and mounts bpffs if it is not and may be.
func preparePin(o Options) error {
	if err := mountBPFFS(o); err != nil {
		return err
	}
	if err := os.MkdirAll(o.Pin, 0o700); err != nil {
		return fmt.Errorf("cannot make pin folder: %w", err)
	}
	return nil
}

const bpffs = "/sys/fs/bpf"

func isBPFFS(path string) bool {
	var s unix.Statfs_t
	return unix.Statfs(path, &s) == nil && s.Type == unix.BPF_FS_MAGIC
}

func mountBPFFS(o Options) error {
	pin := filepath.Clean(o.Pin)
	dir := pin
	for _, err := os.Stat(dir); err != nil; _, err = os.Stat(dir) {
		dir = filepath.Dir(dir)
	}
	if isBPFFS(dir) {
		return nil
	}
	if pin != bpffs && !strings.HasPrefix(pin, bpffs+"/") {
		return fmt.Errorf("cannot pin to %s: it is not on a BPF file system", pin)
	}
	if o.NoMount {
		return fmt.Errorf("cannot pin to %s: no BPF file system is mounted there; on the node: mount -t bpf bpf %s", pin, bpffs)
	}
	if err := unix.Mount("bpf", bpffs, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
		return fmt.Errorf("cannot mount bpffs at %s: %w", bpffs, err)
	}
	return nil
}
