package bpf

import (
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// tableName is the nftables table that keeps conntrack going.
const tableName = "sallyport"

// trackConnections switches conntrack on in the thread's namespace: a rule
// that asks for its state does, in a chain that no packet comes through too.
// The batch replaces an older table without a moment of none.
func trackConnections() error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("cannot open nftables: %w", err)
	}
	table := &nftables.Table{Name: tableName, Family: nftables.TableFamilyINet}
	c.AddTable(table)
	c.DelTable(table)
	c.AddTable(table)
	chain := c.AddChain(&nftables.Chain{Name: "track", Table: table})
	c.AddRule(&nftables.Rule{
		Table: table, Chain: chain,
		Exprs: []expr.Any{&expr.Ct{Register: 1, Key: expr.CtKeySTATE}},
	})
	if err := c.Flush(); err != nil {
		return fmt.Errorf("cannot switch conntrack on: %w", err)
	}
	return nil
}

func untrackConnections() error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("cannot open nftables: %w", err)
	}
	c.DelTable(&nftables.Table{Name: tableName, Family: nftables.TableFamilyINet})
	if err := c.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("cannot remove nftables table %s: %w", tableName, err)
	}
	return nil
}
