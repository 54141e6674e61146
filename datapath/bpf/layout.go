package bpf

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

const layoutFolder = "layout_"

// layoutOf names the shapes of the pinned maps, whatever their lengths: maps of
// one layout can be taken over by any build that has it. A build with another
// one begins with empty maps beside, closed until its first publication.
func layoutOf(spec *ebpf.CollectionSpec) string {
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(spec.Maps)) {
		if m := spec.Maps[name]; m.Pinning == ebpf.PinByName {
			describeMap(h, name, m)
		}
	}
	return fmt.Sprintf("%s%x", layoutFolder, h.Sum(nil)[:6])
}

func describeMap(w interface{ Write([]byte) (int, error) }, name string, m *ebpf.MapSpec) {
	fmt.Fprintln(w, name, m.Type, m.KeySize, m.ValueSize, m.Flags)
	for _, t := range []btf.Type{m.Key, m.Value} {
		describeType(w, t)
	}
	if m.InnerMap != nil {
		describeMap(w, name+" inner", m.InnerMap)
	}
}

// describeType writes names and places of a structure's members, and of those
// of its members' structures.
func describeType(w interface{ Write([]byte) (int, error) }, t btf.Type) {
	if array, ok := t.(*btf.Array); ok {
		t = array.Type
	}
	s, ok := btf.UnderlyingType(t).(*btf.Struct)
	if t == nil || !ok {
		return
	}
	for _, m := range s.Members {
		fmt.Fprintln(w, m.Name, m.Offset)
		describeType(w, m.Type)
	}
}

// removeLayouts removes the maps of every other layout, which nothing uses any
// more.
func removeLayouts(pin, keep string) error {
	entries, err := os.ReadDir(pin)
	if err != nil {
		return fmt.Errorf("cannot list pins: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if name := e.Name(); name != keep && !strings.HasPrefix(name, linkFolder) {
			errs = append(errs, os.RemoveAll(filepath.Join(pin, name)))
		}
	}
	return errors.Join(errs...)
}
