package datapath

import (
	"fmt"
	"math/bits"
	"strings"
)

// String prints the transaction, one write per line, for people.
func (tx Tx) String() string {
	var b strings.Builder
	for i, op := range tx {
		fmt.Fprintf(&b, "%4d  %s\n", i, describe(op))
	}
	return b.String()
}

func describe(op Op) string {
	switch o := op.(type) {
	case SetRow:
		n := 0
		for _, w := range o.Words {
			n += bits.OnesCount64(w)
		}
		return fmt.Sprintf("row %d columns %d-%d: %d set", o.Row, o.Chunk*ChunkColumns, (o.Chunk+1)*ChunkColumns-1, n)
	case SetRange:
		r := o.Range
		return fmt.Sprintf("range %d from %d/%d: allow row %d, shadow row %d, conditional row %d, log row %d",
			o.Index, r.Start&0xffff, r.Start>>16, r.Allow, r.Shadow, r.Conditional, r.Log)
	case SetIndex:
		n := 0
		for _, page := range o.Index {
			n += bits.OnesCount32(page.Starts)
		}
		return fmt.Sprintf("index %d: %d starts", o.ID, n)
	case SetGate:
		return fmt.Sprintf("gate %d: ranges %d+%d, index %d", o.ID, o.Gate.First, o.Gate.Count, o.Gate.Index)
	case SetSubject:
		return fmt.Sprintf("subject %d: egress gate %v, ingress gate %v", o.ID, o.Subject.Egress, o.Subject.Ingress)
	case SetDevice:
		return fmt.Sprintf("device %d: subject %d", o.Ifindex, o.Subject)
	case DeleteDevice:
		return fmt.Sprintf("device %d: removed", o.Ifindex)
	case SetAddress:
		a := o.Address
		return fmt.Sprintf("address %s: identity %v, subject %d, device %d%s", o.Addr, a.Identity, a.Subject, a.Ifindex, flagNames(a.Flags))
	case DeleteAddress:
		return fmt.Sprintf("address %s: removed", o.Addr)
	case SetPrefix:
		return fmt.Sprintf("prefix %s: identity %v%s", o.Prefix, o.Entry.Identity, flagNames(o.Entry.Flags))
	case DeletePrefix:
		return fmt.Sprintf("prefix %s: removed", o.Prefix)
	case Publish:
		return fmt.Sprintf("publish revision %d", o.Revision)
	}
	panic(fmt.Sprintf("unknown operation %T", op))
}

func flagNames(flags uint32) string {
	out := ""
	if flags&FlagNode != 0 {
		out += ", own node"
	}
	if flags&FlagClosed != 0 {
		out += ", closed"
	}
	return out
}

// String writes the value as "old→new@since", or as the value alone where both
// are the same.
func (v Versioned) String() string {
	if v.Old == v.New {
		return fmt.Sprint(v.New)
	}
	return fmt.Sprintf("%d→%d@%d", v.Old, v.New, v.Since)
}
