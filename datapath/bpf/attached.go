package bpf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/nftables"
)

// Attached fails if the pins of links and maps are gone, or the nftables table
// that keeps conntrack going: then what is enforced would end with the process,
// or drops everything. The error says what is missing.
func (p *Program) Attached() error {
	folders, err := linkFolders(p.pin)
	if err != nil {
		return err
	}
	if len(folders) != 1 {
		return fmt.Errorf("there are %d sets of links pinned in %s, not one", len(folders), p.pin)
	}
	for _, h := range hooks {
		for _, f := range families {
			if _, err := os.Stat(filepath.Join(p.pin, folders[0], h.name+"_"+f.name)); err != nil {
				return fmt.Errorf("cannot find the pinned link: %w", err)
			}
		}
	}
	for _, name := range []string{"addresses", "prefixes", "devices", "subjects", "gates", "ranges", "rows", "config"} {
		if _, err := os.Stat(filepath.Join(p.maps, name)); err != nil {
			return fmt.Errorf("cannot find the pinned map: %w", err)
		}
	}
	return inNetNS(p.netns, haveTable)
}

func haveTable() error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("cannot open nftables: %w", err)
	}
	tables, err := c.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return fmt.Errorf("cannot list nftables tables: %w", err)
	}
	for _, t := range tables {
		if t.Name == tableName {
			return nil
		}
	}
	return errors.New("nftables table inet " + tableName + " is gone: connections are not tracked")
}

// RemoveAll is Remove, and takes off the nftables table of the namespace too.
func RemoveAll(pin, netns string) error {
	if pin == "" {
		pin = DefaultPin
	}
	return errors.Join(Remove(pin), inNetNS(netns, untrackConnections))
}
