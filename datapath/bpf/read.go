package bpf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"

	"github.com/sallyport-dev/sallyport/datapath"
)

// Read copies the tables pinned in the folder ("" is DefaultPin) into a Fake,
// which then decides packets as the kernel does: all that the published
// subjects lead to, to the last row. It changes nothing, and may be called
// beside the agent that writes there.
func Read(pin string) (*datapath.Fake, error) {
	if pin == "" {
		pin = DefaultPin
	}
	p, err := open(pin)
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	for range 100 {
		before := p.config.load(0, configEpoch)
		f, err := p.tables()
		switch {
		case errors.Is(err, ebpf.ErrIterationAborted):
		case err != nil:
			return nil, errors.Join(err, p.Close())
		case p.Revision() == f.Revision && p.config.load(0, configEpoch) == before:
			return f, p.Close()
		}
	}
	return nil, errors.Join(errors.New("cannot read the tables: they are written all the time; try again"), p.Close())
}

// open opens the pinned maps of this build's layout, and no program.
func open(pin string) (*Program, error) {
	p := &Program{pin: pin}
	spec, err := loadObject()
	if err != nil {
		return p, fmt.Errorf("cannot read the BPF object: %w", err)
	}
	p.maps = filepath.Join(pin, layoutOf(spec))
	o := &p.objects.objectMaps
	for name, to := range map[string]**ebpf.Map{
		"config": &o.Config, "addresses": &o.Addresses, "prefixes": &o.Prefixes, "devices": &o.Devices,
		"subjects": &o.Subjects, "gates": &o.Gates, "ranges": &o.Ranges, "indexes": &o.Indexes, "rows": &o.Rows,
	} {
		*to, err = ebpf.LoadPinnedMap(filepath.Join(p.maps, name), nil)
		if errors.Is(err, os.ErrNotExist) {
			return p, fmt.Errorf("cannot read the tables: nothing is enforced at %s, or by another version of sallyport", pin)
		}
		if err != nil {
			return p, fmt.Errorf("cannot open pinned map %s: %w", name, err)
		}
	}
	return p, p.mapAreas()
}

func (p *Program) tables() (*datapath.Fake, error) {
	s, err := p.Snapshot()
	if err != nil {
		return nil, err
	}
	f := &datapath.Fake{
		Revision: s.Revision, Addresses: s.Addresses, Prefixes: s.Prefixes, Devices: s.Devices, Subjects: s.Subjects,
		Gates: s.Gates, Ranges: s.Ranges, Indexes: map[uint32]*datapath.Index{}, Rows: map[[2]uint32]datapath.SetRow{},
		RedirectMark: p.config.load(0, configRedirectMark), RedirectMask: p.config.load(0, configRedirectMask),
	}
	for _, g := range f.Gates {
		if g.Index != datapath.IndexNone && f.Indexes[g.Index] == nil && g.Index < p.indexes.length {
			f.Indexes[g.Index] = p.index(g.Index)
		}
	}
	for _, r := range f.Ranges {
		for _, row := range []uint32{r.Allow, r.Shadow, r.Conditional, r.Log} {
			p.readRow(f, row)
		}
	}
	return f, nil
}

func (p *Program) index(id uint32) *datapath.Index {
	x := &datapath.Index{}
	for i := range x {
		x[i] = datapath.Page{Starts: p.indexes.load(id, uint32(8*i)), Before: p.indexes.load(id, uint32(8*i+4))}
	}
	return x
}

// readRow reads the chunks of a row; those that were never made are empty.
func (p *Program) readRow(f *datapath.Fake, row uint32) {
	for i, chunk := range p.chunks {
		at := [2]uint32{row, uint32(i)}
		if _, read := f.Rows[at]; read || chunk == nil || row >= chunk.length {
			continue
		}
		r := datapath.SetRow{Row: row, Chunk: uint32(i)}
		for w := range r.Words {
			r.Words[w] = *chunk.long(row, uint32(8*w))
		}
		f.Rows[at] = r
	}
}
