package bpf

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/sallyport-dev/sallyport/datapath"
	"github.com/sallyport-dev/sallyport/flow"
	"github.com/sallyport-dev/sallyport/model"
)

// witness sees every packet just before the program does, with nothing of the
// program's: nftables rules log it to a netlink group that tells conntrack's
// word about it, and the test's own parser reads it.
type witness struct {
	socket int
	buffer [1 << 17]byte
}

// sighting is a packet at a hook: as it was, and as the Fake wants it.
type sighting struct {
	raw    []byte
	packet datapath.Packet
}

// Netlink groups: one for each word of conntrack.
const (
	groupBase    = 100
	groupInvalid = groupBase + 8
)

// Bits in the second byte of the network header by which a packet asks the
// node not to track it, or to mark it as one on its way to the proxy.
const (
	tosUntracked = 0x04
	tosMarked    = 0x08
	redirectMark = 0x40
)

// newWitness opens the socket; it belongs to the namespace that the calling
// thread is in.
func newWitness() (*witness, error) {
	s, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, err
	}
	w := &witness{socket: s}
	_ = unix.SetsockoptInt(s, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20)
	if err := unix.Bind(s, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return w, err
	}
	for _, group := range []uint16{0, 1, 2, 3, 4, 7, 8} {
		if err := w.listen(groupBase + group); err != nil {
			return w, fmt.Errorf("netlink group %d: %w", group, err)
		}
	}
	return w, w.install()
}

// listen binds a group, with whole packets and at once.
func (w *witness) listen(group uint16) error {
	const (
		logConfig     = unix.NFNL_SUBSYS_ULOG<<8 | 1
		attrCommand   = 1
		attrMode      = 2
		attrThreshold = 5
		commandBind   = 1
		copyPacket    = 2
	)
	for _, attribute := range [][]byte{
		{5, 0, attrCommand, 0, commandBind, 0, 0, 0},
		{10, 0, attrMode, 0, 0, 0, 0xff, 0xff, copyPacket, 0, 0, 0},
		{8, 0, attrThreshold, 0, 0, 0, 0, 1},
	} {
		message := make([]byte, 20, 32)
		binary.NativeEndian.PutUint16(message[4:], logConfig)
		binary.NativeEndian.PutUint16(message[6:], unix.NLM_F_REQUEST|unix.NLM_F_ACK)
		binary.BigEndian.PutUint16(message[18:], group)
		message = append(message, attribute...)
		binary.NativeEndian.PutUint32(message, uint32(len(message)))
		if err := unix.Sendto(w.socket, message, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
			return err
		}
		answer := make([]byte, 256)
		if _, _, err := unix.Recvfrom(w.socket, answer, 0); err != nil {
			return err
		}
		if code := int32(binary.NativeEndian.Uint32(answer[16:])); code != 0 {
			return unix.Errno(-code)
		}
	}
	return nil
}

// install makes the rules that log, and those that answer to tos.
func (w *witness) install() error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	table := c.AddTable(&nftables.Table{Name: "witness", Family: nftables.TableFamilyINet})
	chain := func(name string, hook *nftables.ChainHook, priority *nftables.ChainPriority) *nftables.Chain {
		return c.AddChain(&nftables.Chain{Name: name, Table: table, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: priority})
	}
	rule := func(to *nftables.Chain, parts ...[]expr.Any) {
		r := &nftables.Rule{Table: table, Chain: to}
		for _, p := range parts {
			r.Exprs = append(r.Exprs, p...)
		}
		c.AddRule(r)
	}
	for name, hook := range map[string]*nftables.ChainHook{"in": nftables.ChainHookInput, "through": nftables.ChainHookForward, "out": nftables.ChainHookOutput} {
		logs := chain(name, hook, nftables.ChainPriorityFilter)
		for reply := range byte(2) {
			rule(logs, ctState(expr.CtStateBitESTABLISHED), ctDirection(reply), logTo(groupBase+uint16(reply)*3))
			rule(logs, ctState(expr.CtStateBitRELATED), ctDirection(reply), logTo(groupBase+1+uint16(reply)*3))
		}
		rule(logs, ctState(expr.CtStateBitNEW), logTo(groupBase+2))
		rule(logs, ctState(expr.CtStateBitUNTRACKED), logTo(groupBase+7))
		rule(logs, ctState(expr.CtStateBitINVALID), logTo(groupInvalid))
	}
	for name, hook := range map[string]*nftables.ChainHook{"before": nftables.ChainHookPrerouting, "own": nftables.ChainHookOutput} {
		raw := chain(name, hook, nftables.ChainPriorityRaw)
		for family, shift := range map[byte]int{unix.NFPROTO_IPV4: 0, unix.NFPROTO_IPV6: 4} {
			rule(raw, tos(family, tosUntracked<<shift), []expr.Any{&expr.Notrack{}})
			rule(raw, tos(family, tosMarked<<shift), []expr.Any{
				&expr.Immediate{Register: 1, Data: binaryutil.NativeEndian.PutUint32(redirectMark)},
				&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1},
			})
		}
	}
	return c.Flush()
}

func ctState(bit uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Register: 1, Key: expr.CtKeySTATE},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bit), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

func ctDirection(reply byte) []expr.Any {
	return []expr.Any{
		&expr.Ct{Register: 1, Key: expr.CtKeyDIRECTION},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{reply}},
	}
}

func logTo(group uint16) []expr.Any {
	return []expr.Any{&expr.Log{Key: 1<<unix.NFTA_LOG_GROUP | 1<<unix.NFTA_LOG_QTHRESHOLD, Group: group, QThreshold: 1}}
}

func tos(family, value byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{family}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 1, Len: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{value}},
	}
}

// sightings are the packets since the last call.
func (w *witness) sightings(t *testing.T) []sighting {
	t.Helper()
	var out []sighting
	for {
		n, _, err := unix.Recvfrom(w.socket, w.buffer[:], unix.MSG_DONTWAIT)
		if err == unix.EAGAIN {
			return out
		}
		if err != nil {
			t.Fatalf("the witness is deaf: %v", err)
		}
		for rest := w.buffer[:n]; len(rest) >= 20; {
			length := int(binary.NativeEndian.Uint32(rest))
			if binary.NativeEndian.Uint16(rest[4:]) == unix.NFNL_SUBSYS_ULOG<<8 {
				out = append(out, readLog(rest[16:length]))
			}
			rest = rest[min((length+3)&^3, len(rest)):]
		}
	}
}

// readLog reads one message of a netlink group.
func readLog(message []byte) sighting {
	var s sighting
	var p datapath.Packet
	group := binary.BigEndian.Uint16(message[2:])
	for rest := message[4:]; len(rest) >= 4; {
		length := int(binary.NativeEndian.Uint16(rest))
		value := rest[4:length]
		switch binary.NativeEndian.Uint16(rest[2:]) & 0x3fff {
		case 1: // header: protocol, hook
			p.Hook = flow.Hook(value[2])
		case 2:
			p.Mark = binary.BigEndian.Uint32(value)
		case 4:
			p.In = binary.BigEndian.Uint32(value)
		case 5:
			p.Out = binary.BigEndian.Uint32(value)
		case 9:
			s.raw = append([]byte(nil), value...)
		}
		rest = rest[min((length+3)&^3, len(rest)):]
	}
	if p.HasCT = group < groupBase+5; p.HasCT || group == groupBase+7 {
		p.CTInfo = datapath.CTInfo(group - groupBase)
	}
	v6 := message[0] == unix.AF_INET6
	inner := readPacket(&p, s.raw, v6)
	if p.HasCT && (p.CTInfo == datapath.CTRelated || p.CTInfo == datapath.CTRelatedReply) {
		p.Original = originalOf(inner, p.CTInfo, v6)
	}
	s.packet = p
	return s
}

// readPacket fills what the headers say and returns what follows the first
// eight bytes of the transport header: of an ICMP error, the packet at fault.
func readPacket(p *datapath.Packet, raw []byte, v6 bool) []byte {
	next, rest := 0, raw
	switch {
	case !v6 && (len(raw) < 24 || raw[0]>>4 != 4 || raw[0]&15 < 5), v6 && (len(raw) < 40 || raw[0]>>4 != 6):
		p.Malformed = true
		return nil
	case !v6:
		p.Src, _ = netip.AddrFromSlice(raw[12:16])
		p.Dst, _ = netip.AddrFromSlice(raw[16:20])
		p.HopLimit, next = raw[8], int(raw[9])
		p.Fragment = binary.BigEndian.Uint16(raw[6:])&0x1fff != 0
		rest = raw[min(int(raw[0]&15)*4, len(raw)):]
	default:
		p.Src, _ = netip.AddrFromSlice(raw[8:24])
		p.Dst, _ = netip.AddrFromSlice(raw[24:40])
		p.HopLimit = raw[7]
		next, rest = skipExtensions(p, int(raw[6]), raw[40:])
	}
	if p.Malformed || p.Fragment {
		return nil
	}
	p.Proto = model.Protocol(next)
	switch p.Proto {
	case model.TCP, model.UDP, model.SCTP, model.ICMP, model.ICMPv6:
	default:
		return nil
	}
	if len(rest) < 4 {
		p.Malformed = true
		return nil
	}
	p.SrcPort, p.DstPort = binary.BigEndian.Uint16(rest), binary.BigEndian.Uint16(rest[2:])
	if p.Proto == model.ICMP || p.Proto == model.ICMPv6 {
		p.SrcPort, p.DstPort = 0, p.SrcPort
	}
	return rest[min(8, len(rest)):]
}

// skipExtensions walks at most eight headers, the transport's among them.
func skipExtensions(p *datapath.Packet, next int, rest []byte) (int, []byte) {
	for range 8 {
		switch next {
		case 0, 43, 44, 51, 60:
		default:
			return next, rest
		}
		if len(rest) < 4 {
			break
		}
		length := 8 * (int(rest[1]) + 1)
		if next == 51 {
			length = 4 * (int(rest[1]) + 2)
		}
		if next == 44 {
			length = 8
			if p.Fragment = binary.BigEndian.Uint16(rest[2:])&^7 != 0; p.Fragment {
				return 0, nil
			}
		}
		next, rest = int(rest[0]), rest[min(length, len(rest)):]
	}
	p.Malformed = true
	return 0, nil
}

// originalOf is the connection that an ICMP error speaks of. Conntrack finds it
// by the inverse of the packet at fault, so that an error about the original
// direction counts as one of the reply direction.
func originalOf(inner []byte, info datapath.CTInfo, v6 bool) datapath.Tuple {
	var p datapath.Packet
	if !v6 && len(inner) >= 20 && len(inner) < 28 {
		inner = append(append([]byte(nil), inner...), make([]byte, 8)...)
	}
	readPacket(&p, inner, v6)
	t := p.Tuple
	if info == datapath.CTRelatedReply {
		return t
	}
	t.Src, t.Dst = t.Dst, t.Src
	requests := map[uint16]uint16{0: 8, 14: 13, 16: 15, 18: 17}
	switch t.Proto {
	case model.ICMPv6:
		requests = map[uint16]uint16{129: 128, 140: 139}
		fallthrough
	case model.ICMP:
		if request, ok := requests[t.DstPort>>8]; ok {
			t.DstPort = request<<8 | t.DstPort&0xff
		}
	default:
		t.SrcPort, t.DstPort = t.DstPort, t.SrcPort
	}
	return t
}
