// SPDX-License-Identifier: GPL-2.0
//go:build ignore

/* Judges every packet by the original direction of its connection.
 *
 * A packet is parsed, turned to its connection's original direction with the
 * help of conntrack, checked against the device it came by, and then meets
 * two doors: the egress gate of its source and the ingress gate of its
 * destination, as far as these are pods of this node. The global revision is
 * read once, before anything else is looked up.
 *
 * A call costs as much as ten loads where the kernel guards returns against
 * speculation. What most packets go through is therefore inlined, and does
 * without helpers and kfuncs that are calls. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <stdbool.h>
#include "kernel.h"
#include "tables.h"

char _license[] SEC("license") = "GPL";

extern int bpf_dynptr_from_skb(struct sk_buff *skb, __u64 flags, struct bpf_dynptr *ptr) __ksym;
extern void *bpf_dynptr_slice(const struct bpf_dynptr *ptr, __u32 offset, void *buffer,
			      __u32 buffer__szk) __ksym;
extern void *bpf_rdonly_cast(const void *object, __u32 btf_id) __ksym; /* no call */

enum { DROP = 0, ACCEPT = 1 };
enum { HOOK_LOCAL_IN = 1, HOOK_FORWARD = 2, HOOK_LOCAL_OUT = 3 };
enum { PF_V4 = 2, PF_V6 = 10 };
enum { LOOPBACK = 1 };
enum { MAX_WORDS = 10 }; /* of a packet that are read at once */
enum { UNDECIDED = REASONS };
/* What a door answers. */
enum { OPEN = 1, CONDITIONAL = 2, SHADOW = 4, LOG = 8 };
enum { TCP = 6, UDP = 17, SCTP = 132, ICMP = 1, IGMP = 2, ICMP6 = 58 };
enum { CT_ESTABLISHED, CT_RELATED, CT_NEW, CT_REPLY, CT_RELATED_REPLY, CT_NEW_REPLY, CT_UNTRACKED = 7 };

#define inline static __always_inline
#define READ(x) (*(const volatile typeof(x) *)&(x))
#define WRITE(x, to) (*(volatile typeof(x) *)&(x) = (to))

/* peer is what the tables say of an address. */
struct peer {
	__u32 identity;
	__u32 subject;
	__u32 ifindex;
	__u32 flags;
};

/* verdict collects what the doors say, for the event. */
struct verdict {
	__u32 egress_gate, ingress_gate;
	__u8 conditional; /* some door opens only with the redirect mark */
	__u8 shadow_shut; /* some door is shut in the shadow plane */
	__u8 log;
};

/* packet is everything about the packet that the judgement needs. What follows
 * the entry is not set before the packet is found to need it. */
struct packet {
	struct flow flow; /* turned to the original direction */
	__u32 revision;
	__u32 epoch;
	__u8 hop_limit;
	__u8 icmp_type;
	__u8 info;    /* of conntrack */
	__u8 tracked; /* there is a conntrack entry */
	__u8 v6;
	unsigned long entry;
	struct peer source, destination;
	struct verdict verdict;
};

inline __u32 at(const struct versioned *v, __u32 revision)
{
	/* The writer changes old, then since, then new: read the other way round. */
	__u32 new = READ(v->new), since = READ(v->since);

	return revision >= since ? new : READ(v->old);
}

inline void set_v4(__u64 *to, __u32 addr)
{
	to[0] = 0;
	to[1] = (__u64)addr << 32 | bpf_htonl(0xffff);
}

inline __u8 first_byte(const __u64 *addr)
{
	return addr[0] & 0xff;
}

inline bool is_link_local(const __u64 *addr)
{
	return (addr[0] & 0xc0ff) == 0x80fe;
}

inline bool is_v4(const __u64 *addr)
{
	return addr[0] == 0 && (__u32)addr[1] == bpf_htonl(0xffff);
}

/* icmp_request is the type of the request that a reply's type answers. */
inline __u8 icmp_request(__u8 protocol, __u8 type)
{
	if (protocol == ICMP)
		return type == 0 ? 8 : type == 14 ? 13 : type == 16 ? 15 : type == 18 ? 17 : type;
	return type == 129 ? 128 : type == 140 ? 139 : type;
}

inline void swap(struct flow *f)
{
	__u64 a0 = f->source[0], a1 = f->source[1];

	f->source[0] = f->destination[0];
	f->source[1] = f->destination[1];
	f->destination[0] = a0;
	f->destination[1] = a1;
	if (f->protocol == ICMP || f->protocol == ICMP6) {
		__u8 type = f->destination_port >> 8;

		f->destination_port = icmp_request(f->protocol, type) << 8 | (f->destination_port & 0xff);
		return;
	}
	__u16 port = f->source_port;

	f->source_port = f->destination_port;
	f->destination_port = port;
}

inline bool has_ports(__u8 protocol)
{
	return protocol == TCP || protocol == UDP || protocol == SCTP || protocol == ICMP ||
	       protocol == ICMP6;
}

/* word is the i'th word of what lies at the address in the kernel. Only typed
 * memory can be loaded from, and the kernel's IPv6 address is four words. */
inline __u32 word(const void *data, int i)
{
	const struct in6_addr *words = bpf_rdonly_cast(
		data + (i & ~3) * sizeof(__u32), bpf_core_type_id_kernel(struct in6_addr));

	__u32 out = words->in6_u.u6_addr32[i & 3];

	/* The verifier wants one kind of pointer for one load instruction. */
	barrier_var(out);
	return out;
}

/* read_scattered copies words of a packet whose headers are not in one piece. */
static __noinline bool read_scattered(struct bpf_nf_ctx *ctx, __u32 offset, __u32 *to, int n)
{
	struct bpf_dynptr data;

	if (bpf_dynptr_from_skb(ctx->skb, 0, &data))
		return false;
	for (int i = 0; i < MAX_WORDS; i++) {
		__u32 buffer, *from;

		if (i >= n)
			break;
		from = bpf_dynptr_slice(&data, offset + i * sizeof(buffer), &buffer, sizeof(buffer));
		if (!from)
			return false;
		to[i] = *from;
	}
	return true;
}

/* read copies n words of the packet; n is a constant. */
inline bool read(struct bpf_nf_ctx *ctx, __u32 offset, __u32 *to, const int n)
{
	struct sk_buff *skb = ctx->skb;

	if (skb->len - skb->data_len < offset + n * sizeof(__u32))
		return read_scattered(ctx, offset, to, n);
#pragma unroll
	for (int i = 0; i < n; i++)
		to[i] = word(skb->data + offset, i);
	return true;
}

/* take_ports takes the first four bytes behind the network header. */
inline void take_ports(struct packet *p, __u32 ports)
{
	__u8 protocol = p->flow.protocol;

	if (protocol == ICMP || protocol == ICMP6) {
		p->flow.destination_port = bpf_ntohs(ports);
		p->icmp_type = p->flow.destination_port >> 8;
		return;
	}
	p->flow.source_port = bpf_ntohs(ports);
	p->flow.destination_port = bpf_ntohs(ports >> 16);
}

inline int parse_ports(struct bpf_nf_ctx *ctx, __u32 offset, struct packet *p)
{
	__u32 ports;

	if (!has_ports(p->flow.protocol))
		return 0;
	if (!read(ctx, offset, &ports, 1))
		return REASON_MALFORMED;
	take_ports(p, ports);
	return 0;
}

/* parse_v4 reads header and ports at once: nothing without four bytes behind
 * its header is let through. */
inline int parse_v4(struct bpf_nf_ctx *ctx, struct packet *p)
{
	__u32 header[6];
	__u8 *bytes = (__u8 *)header;

	if (!read(ctx, 0, header, 6) || bytes[0] >> 4 != 4 || (bytes[0] & 15) < 5)
		return REASON_MALFORMED;
	set_v4(p->flow.source, header[3]);
	set_v4(p->flow.destination, header[4]);
	p->flow.protocol = bytes[9];
	p->hop_limit = bytes[8];
	if ((bytes[6] & 0x1f) | bytes[7])
		return REASON_FRAGMENT;
	if ((bytes[0] & 15) != 5)
		return parse_ports(ctx, (bytes[0] & 15) * 4, p);
	if (has_ports(bytes[9]))
		take_ports(p, header[5]);
	return 0;
}

/* parse_extensions walks a bounded number of extension headers. */
inline int parse_extensions(struct bpf_nf_ctx *ctx, struct packet *p, __u8 next)
{
	__u32 offset = 40;

#pragma unroll
	for (int i = 0; i < 8; i++) {
		__u32 first;
		__u8 *header = (__u8 *)&first;

		if (next != 0 && next != 43 && next != 44 && next != 51 && next != 60) {
			p->flow.protocol = next;
			return parse_ports(ctx, offset, p);
		}
		if (!read(ctx, offset, &first, 1))
			return REASON_MALFORMED;
		if (next == 44) {
			if (header[2] | (header[3] & 0xf8))
				return REASON_FRAGMENT;
			offset += 8;
		} else if (next == 51) {
			offset += (header[1] + 2) * 4;
		} else {
			offset += (header[1] + 1) * 8;
		}
		next = header[0];
	}
	return REASON_MALFORMED;
}

inline int parse_v6(struct bpf_nf_ctx *ctx, struct packet *p)
{
	__u32 header[10];
	__u8 *bytes = (__u8 *)header;

	if (!read(ctx, 0, header, 10) || bytes[0] >> 4 != 6)
		return REASON_MALFORMED;
	__builtin_memcpy(p->flow.source, &header[2], 16);
	__builtin_memcpy(p->flow.destination, &header[6], 16);
	p->hop_limit = bytes[7];
	/* A mapped address would be taken for the IPv4 address in the tables. */
	if (is_v4(p->flow.source) || is_v4(p->flow.destination))
		return REASON_MALFORMED;
	return parse_extensions(ctx, p, bytes[6]);
}

/* is_housekeeping says whether the packet is one without which a link does not
 * work. A router lowers the hop limit, so that 255 has come from the link. */
inline bool is_housekeeping(const struct packet *p)
{
	__u8 type = p->icmp_type;

	if (!p->v6)
		return p->flow.protocol == IGMP && (p->flow.destination[1] >> 32 & 0xf0) == 0xe0;
	if (p->flow.protocol != ICMP6)
		return false;
	if (type >= 133 && type <= 137)
		return p->hop_limit == 255;
	if ((type >= 130 && type <= 132) || type == 143)
		return p->hop_limit == 1 && first_byte(p->flow.destination) == 0xff;
	return false;
}

inline bool is_icmp_error(const struct packet *p)
{
	__u8 type = p->icmp_type;

	if (p->flow.protocol == ICMP)
		return type == 3 || type == 11 || type == 12;
	return p->flow.protocol == ICMP6 && type >= 1 && type <= 4;
}

/* bridge_port is the port by which a bridged packet came, or 0. */
inline __u32 bridge_port(struct sk_buff *skb)
{
	struct skb_ext *extensions;
	__u8 offset = 0, active = skb->active_extensions;
	void *info;
	int index = 0;

	if (!active || !bpf_core_enum_value_exists(enum skb_ext_id, SKB_EXT_BRIDGE_NF))
		return 0;
	__u64 id = bpf_core_enum_value(enum skb_ext_id, SKB_EXT_BRIDGE_NF);

	if (!(active >> (id & 7) & 1))
		return 0;
	extensions = skb->extensions;
	void *offsets = (void *)__builtin_preserve_access_index(&extensions->offset);

	if (bpf_probe_read_kernel(&offset, sizeof(offset), offsets + id))
		return 0;
	info = (void *)extensions + ((__u32)offset << 3);
	if (bpf_core_field_exists(struct nf_bridge_info, physinif)) {
		struct nf_bridge_info *b = info;

		BPF_CORE_READ_INTO(&index, b, physinif);
	} else {
		struct nf_bridge_info___device *b = info;

		BPF_CORE_READ_INTO(&index, b, physindev, ifindex);
	}
	return index;
}

inline __u32 index_of(struct net_device *device)
{
	return device ? device->ifindex : 0;
}

inline void read_devices(struct bpf_nf_ctx *ctx, struct packet *p)
{
	__u32 port = 0;

	if (p->flow.hook != HOOK_LOCAL_OUT)
		port = bridge_port(ctx->skb);
	p->flow.in_ifindex = port ? port : index_of(ctx->state->in);
	p->flow.out_ifindex = index_of(ctx->state->out);
}

/* Functions that are not static are verified once, for any argument, and not
 * along every path that leads to them. */

/* look_up_prefix fills what the longest prefix of an address says. */
__noinline int look_up_prefix(const struct address_key *addr, __u32 revision, struct peer *out)
{
	struct prefix_key key;
	struct prefix *prefix;

	if (!addr || !out)
		return 0;
	out->identity = out->subject = out->ifindex = out->flags = 0;
	key.length = 128;
	__builtin_memcpy(key.addr, addr->addr, 16);
	prefix = bpf_map_lookup_elem(&prefixes, &key);
	if (!prefix)
		return 0;
	out->flags = prefix->flags;
	if (!(out->flags & FLAG_CLOSED))
		out->identity = at(&prefix->identity, revision);
	return 0;
}

/* look_up fills what the tables say of an address: its own entry, or else
 * that of the longest prefix. */
inline void look_up(const __u64 *addr, __u32 revision, struct peer *out)
{
	struct address *entry = bpf_map_lookup_elem(&addresses, addr);

	if (!entry) {
		look_up_prefix((const void *)addr, revision, out);
		return;
	}
	out->identity = at(&entry->identity, revision);
	out->subject = entry->subject;
	out->ifindex = entry->ifindex;
	out->flags = entry->flags;
}

inline __u32 subject_of_device(__u32 ifindex)
{
	__u32 *subject = bpf_map_lookup_elem(&devices, &ifindex);

	return subject ? *subject : 0;
}

inline bool row_has(__u32 id, __u32 identity)
{
	__u32 column = identity >> CHUNK_SHIFT;
	struct row *row;
	void *chunk;

	if (id == ROW_NONE)
		return false;
	if (id == ROW_ALL)
		return true;
	chunk = bpf_map_lookup_elem(&rows, &column);
	if (!chunk)
		return false;
	row = bpf_map_lookup_elem(chunk, &id);
	if (!row)
		return false;
	return READ(row->words[identity >> 6 & (CHUNK_WORDS - 1)]) >> (identity & 63) & 1;
}

/* count_by_index is how many ranges of a gate start at the port key or before;
 * the page is that of the key. */
inline __u32 count_by_index(const struct page *page, __u32 port)
{
	__u32 upto = 2U << port % INDEX_PORTS;

	return page->before + __builtin_popcount(page->starts & (upto - 1));
}

inline struct page *find_page(__u32 id, __u32 port)
{
	struct index *index = bpf_map_lookup_elem(&indexes, &id);
	__u32 page = (port & 0xffff) / INDEX_PORTS + (port >> 16 == UDP) * INDEX_PAGES;

	return index ? &index->pages[page & (2 * INDEX_PAGES - 1)] : 0;
}

/* count_by_search is the same for gates and protocols without an index. The
 * search has no branch but its end: the verifier walks it once. */
inline __u32 count_by_search(const struct gate *gate, __u32 port)
{
	__u32 low = gate->first, left = gate->count;

	for (int i = 0; i < MAX_RANGE_STEPS && left > 1; i++) {
		__u32 half = left / 2, middle = low + half;
		struct range *range = bpf_map_lookup_elem(&ranges, &middle);

		if (!range)
			return 0;
		low += half * (__u32)(((__u64)range->start - port - 1) >> 63);
		left -= half;
	}
	return left == 1 ? low - gate->first + 1 : 0;
}

/* find_range is the last range of the gate that starts at the port key or
 * before. */
inline struct range *find_range(__u32 id, __u32 port)
{
	struct gate *gate = bpf_map_lookup_elem(&gates, &id);
	struct range *range;
	__u32 n;

	if (!gate)
		return 0;
	if (gate->index && (port >> 16 == TCP || port >> 16 == UDP)) {
		struct page *page = find_page(gate->index, port);

		n = page ? count_by_index(page, port) : 0;
	} else {
		n = count_by_search(gate, port);
	}
	if (n == 0 || n > gate->count)
		return 0;
	n += gate->first - 1;
	range = bpf_map_lookup_elem(&ranges, &n);
	return range && range->start <= port ? range : 0;
}

/* door says whether the gate lets the identity pass at the port. */
inline __u32 door(__u32 gate, __u32 port, __u32 identity)
{
	struct range *range = find_range(gate, port);
	__u32 out = 0;

	if (!range)
		return 0;
	if (row_has(range->allow, identity))
		out |= OPEN;
	else if (row_has(range->conditional, identity))
		out |= CONDITIONAL;
	if (range->shadow == range->allow ? out & OPEN : row_has(range->shadow, identity))
		out |= SHADOW;
	if (row_has(range->log, identity))
		out |= LOG;
	return out;
}

inline bool pass_door(struct verdict *v, __u32 gate, __u32 port, __u32 identity)
{
	__u32 answer;

	if (gate == GATE_OPEN)
		return true;
	answer = door(gate, port, identity);
	if (answer & CONDITIONAL)
		v->conditional = 1;
	if (!(answer & SHADOW))
		v->shadow_shut = 1;
	if (answer & LOG)
		v->log = 1;
	return answer & (OPEN | CONDITIONAL);
}

/* judge_doors takes the flow to both doors. */
inline __u32 judge_doors(struct packet *p, const struct peer *from, const struct peer *to)
{
	__u32 port = (__u32)p->flow.protocol << 16 | p->flow.destination_port;
	struct verdict *v = &p->verdict;
	struct subject *subject;
	bool out = true, in = true;

	if (from->subject && from->subject == to->subject)
		return REASON_ALLOWED;
	if (from->subject) {
		subject = bpf_map_lookup_elem(&subjects, &from->subject);
		if (!subject)
			return REASON_EGRESS;
		v->egress_gate = at(&subject->egress, p->revision);
		out = pass_door(v, v->egress_gate, port, to->identity);
	}
	if (to->subject && !(from->flags & FLAG_NODE)) {
		subject = bpf_map_lookup_elem(&subjects, &to->subject);
		if (!subject)
			return REASON_INGRESS;
		v->ingress_gate = at(&subject->ingress, p->revision);
		in = pass_door(v, v->ingress_gate, port, from->identity);
	}
	if (!out)
		return REASON_EGRESS;
	if (!in)
		return REASON_INGRESS;
	if (v->conditional && !p->flow.marked)
		return REASON_CONDITIONAL;
	return REASON_ALLOWED;
}

/* judge_doors_apart is judge_doors for what is rare; turned, for a flow that
 * goes the other way between the same ends. */
__noinline __u32 judge_doors_apart(struct packet *p, __u32 turned)
{
	if (!p)
		return REASON_MALFORMED;
	return turned ? judge_doors(p, &p->destination, &p->source) :
			judge_doors(p, &p->source, &p->destination);
}

inline bool is_closed(const struct peer *peer)
{
	return peer->identity == 0;
}

/* is_spoofed checks the packet's actual source against its device. */
inline bool is_spoofed(struct packet *p, struct peer *source, const __u64 *addr)
{
	__u32 device = p->flow.in_ifindex, owner;

	if (p->flow.hook == HOOK_LOCAL_OUT)
		return false;
	if (source->flags & FLAG_NODE && !source->subject)
		return true;
	if (source->subject)
		return source->ifindex != device;
	owner = subject_of_device(device);
	if (!owner)
		return false;
	if (p->flow.hook == HOOK_LOCAL_IN && is_link_local(addr)) {
		source->subject = owner;
		return false;
	}
	return true;
}

/* read_original replaces the flow by its connection's, as conntrack has it:
 * after DNAT and before SNAT. */
inline void read_original(struct packet *p)
{
	struct nf_conn *ct = (void *)p->entry;
	union nf_inet_addr addr = {};
	__be16 port = 0;
	__u8 type = 0, code = 0;

	BPF_CORE_READ_INTO(&p->flow.protocol, ct, tuplehash[0].tuple.dst.protonum);
	BPF_CORE_READ_INTO(&addr, ct, tuplehash[0].tuple.src.u3);
	if (p->v6)
		__builtin_memcpy(p->flow.source, &addr, 16);
	else
		set_v4(p->flow.source, addr.all[0]);
	BPF_CORE_READ_INTO(&addr, ct, tuplehash[1].tuple.src.u3);
	if (p->v6)
		__builtin_memcpy(p->flow.destination, &addr, 16);
	else
		set_v4(p->flow.destination, addr.all[0]);
	p->flow.source_port = p->flow.destination_port = 0;
	if (p->flow.protocol == ICMP || p->flow.protocol == ICMP6) {
		BPF_CORE_READ_INTO(&type, ct, tuplehash[0].tuple.dst.u.icmp.type);
		BPF_CORE_READ_INTO(&code, ct, tuplehash[0].tuple.dst.u.icmp.code);
		p->flow.destination_port = type << 8 | code;
		return;
	}
	if (p->flow.protocol != TCP && p->flow.protocol != UDP && p->flow.protocol != SCTP)
		return;
	BPF_CORE_READ_INTO(&port, ct, tuplehash[0].tuple.src.u.all);
	p->flow.source_port = bpf_ntohs(port);
	BPF_CORE_READ_INTO(&port, ct, tuplehash[1].tuple.src.u.all);
	p->flow.destination_port = bpf_ntohs(port);
}

/* concerns_node says that no pod of this node and no closed address is at the
 * other end of the node's own traffic: not ours to judge. */
inline bool concerns_node_only(const struct packet *p)
{
	if (p->flow.hook == HOOK_FORWARD)
		return false;
	return !p->source.subject && !p->destination.subject;
}

inline __u32 judge_untracked(struct packet *p)
{
	__u32 reason = judge_doors_apart(p, 0);
	__u16 port = p->flow.destination_port;

	if (reason != REASON_ALLOWED)
		return REASON_UNTRACKED;
	swap(&p->flow);
	reason = judge_doors_apart(p, 1);
	swap(&p->flow);
	p->flow.destination_port = port; /* a reply of ICMP came back as its request */
	return reason == REASON_ALLOWED ? REASON_ALLOWED : REASON_UNTRACKED;
}

/* judge_ends judges what needs no door; UNDECIDED if it takes the doors. */
inline __u32 judge_ends(struct packet *p)
{
	if (p->flow.hook == HOOK_FORWARD) {
		if (is_closed(&p->source) || is_closed(&p->destination))
			return REASON_UNKNOWN_PEER;
	} else if (p->flow.hook == HOOK_LOCAL_IN) {
		if (!p->source.subject && is_closed(p->flow.reply ? &p->destination : &p->source))
			return REASON_UNKNOWN_PEER;
	}
	if (concerns_node_only(p))
		return REASON_UNJUDGED;
	if (p->info == CT_UNTRACKED)
		return judge_untracked(p);
	return p->tracked ? UNDECIDED : REASON_INVALID;
}

/* judge_error judges an ICMP error by the connection it speaks of. A pod may
 * only speak of its own connections. */
__noinline __u32 judge_error(struct packet *p)
{
	struct peer sender;
	__u32 reason;

	if (!p)
		return REASON_MALFORMED;
	look_up(p->flow.source, p->revision, &sender);
	if (is_spoofed(p, &sender, p->flow.source))
		return REASON_SPOOFED;
	read_original(p);
	if (p->v6 && (is_v4(p->flow.source) || is_v4(p->flow.destination)))
		return REASON_MALFORMED;
	look_up(p->flow.source, p->revision, &p->source);
	look_up(p->flow.destination, p->revision, &p->destination);
	if (p->flow.hook == HOOK_LOCAL_OUT)
		sender.subject = 0;
	if (sender.subject && sender.subject != p->source.subject &&
	    sender.subject != p->destination.subject)
		return REASON_ICMP_ERROR;
	reason = judge_ends(p);
	if (reason == UNDECIDED)
		reason = judge_doors_apart(p, 0);
	return reason == REASON_ALLOWED || concerns_node_only(p) ? REASON_ALLOWED : REASON_ICMP_ERROR;
}

/* judge_packet looks both ends up and judges. */
inline __u32 judge_packet(struct packet *p)
{
	bool reply = p->flow.reply;
	__u32 reason;

	look_up(p->flow.source, p->revision, &p->source);
	look_up(p->flow.destination, p->revision, &p->destination);
	if (is_spoofed(p, reply ? &p->destination : &p->source,
		       reply ? p->flow.destination : p->flow.source))
		return REASON_SPOOFED;
	if (p->flow.hook == HOOK_LOCAL_OUT) {
		if (reply && is_link_local(p->flow.source) && !p->source.subject)
			p->source.subject = subject_of_device(p->flow.out_ifindex);
		if (!reply && p->info != CT_UNTRACKED && p->tracked)
			return REASON_UNJUDGED;
		if (!reply)
			p->source.flags |= FLAG_NODE;
	}
	reason = judge_ends(p);
	return reason == UNDECIDED ? judge_doors(p, &p->source, &p->destination) : reason;
}

inline __u32 slot_of(const struct flow *f)
{
	__u64 h = f->source[0] ^ f->source[1] * 0x9e3779b97f4a7c15ULL;

	h ^= (f->destination[0] ^ f->destination[1]) * 0xc2b2ae3d27d4eb4fULL;
	h ^= ((__u64)f->source_port << 48 | (__u64)f->destination_port << 32 |
	      (__u64)f->in_ifindex << 16 | f->protocol << 8 | f->hook << 2 | f->reply) *
	     0x165667b19e3779f9ULL;
	h *= 0x9e3779b97f4a7c15ULL;
	return h >> 32 & (CACHE_SLOTS - 1);
}

inline bool same_flow(const struct flow *a, const struct flow *b)
{
	const __u64 *x = (const void *)a, *y = (const void *)b;

	return !((x[0] ^ y[0]) | (x[1] ^ y[1]) | (x[2] ^ y[2]) | (x[3] ^ y[3]) | (x[4] ^ y[4]) |
		 (x[5] ^ y[5]));
}

inline void count(__u32 reason)
{
	__u64 *n = bpf_map_lookup_elem(&stats, &reason);

	if (n)
		*n += 1;
}

/* refill looks at the clock, which is dear: once in a tick. It gives the CPU
 * events for the time since the last one, at most a second's worth. */
inline void refill(struct ring *r, __u32 rate)
{
	__u64 now = bpf_ktime_get_ns(), passed = now - r->refilled, tokens = r->tokens;

	r->time = now;
	if (passed <= 10000000ULL)
		return;
	tokens += (passed > 1000000000ULL ? 1000000000ULL : passed) * rate / 1000000000ULL;
	r->tokens = tokens > rate ? rate : tokens;
	r->refilled = now;
}

/* next_event takes the next place in the CPU's part of the journal, if there
 * is one and the rate allows it. A packet that the node sends may be
 * interrupted anywhere in here by the judgement of another. */
inline struct event *next_event(__u32 rate, __u32 *number)
{
	__u32 cpu = bpf_get_smp_processor_id(), slot;
	struct ring *r = bpf_map_lookup_elem(&rings, &cpu);
	struct event *e;
	__u64 tick = bpf_jiffies64(), tokens;

	if (!r || READ(r->head) - READ(r->tail) >= RING_EVENTS - RING_SPARE)
		return 0;
	if (r->tick != tick) {
		r->tick = tick;
		refill(r, rate);
	}
	tokens = READ(r->tokens);
	if (!tokens)
		return 0;
	r->tokens = tokens - 1;
	*number = __sync_fetch_and_add(&r->head, 1);
	slot = cpu * RING_EVENTS + (*number & (RING_EVENTS - 1));
	e = bpf_map_lookup_elem(&journal, &slot);
	if (e)
		e->time = r->time;
	return e;
}

inline void report(const struct packet *p, __u32 reason, __u32 rate)
{
	__u32 number;
	struct event *e = next_event(rate, &number);
	__u8 flags = 0;

	if (!e) {
		count(REASON_LOST_EVENTS);
		return;
	}
	if (reason <= REASON_CONDITIONAL && reason != REASON_UNJUDGED &&
	    p->verdict.shadow_shut != (reason != REASON_ALLOWED))
		flags |= EVENT_SHADOW;
	if (p->verdict.log)
		flags |= EVENT_LOG;
	if (p->flow.reply)
		flags |= EVENT_REPLY;
	if (p->verdict.conditional)
		flags |= EVENT_CONDITIONAL;
	e->revision = p->revision;
	e->egress_gate = p->verdict.egress_gate;
	e->ingress_gate = p->verdict.ingress_gate;
	e->source_identity = p->source.identity;
	e->destination_identity = p->destination.identity;
	e->source_subject = p->source.subject;
	e->destination_subject = p->destination.subject;
	e->in_ifindex = p->flow.in_ifindex;
	e->out_ifindex = p->flow.out_ifindex;
	e->source_port = p->flow.source_port;
	e->destination_port = p->flow.destination_port;
	__builtin_memcpy(e->source, p->flow.source, 16);
	__builtin_memcpy(e->destination, p->flow.destination, 16);
	e->protocol = p->flow.protocol;
	e->hook = p->flow.hook;
	e->reason = reason;
	e->flags = flags;
	barrier(); /* the reader sees to the processors that need more */
	WRITE(e->sequence, number + 1);
}

inline void read_conntrack(struct bpf_nf_ctx *ctx, struct packet *p)
{
	unsigned long nfct = ctx->skb->_nfct;

	p->info = nfct & 7;
	p->entry = nfct & ~7UL;
	p->tracked = p->entry != 0;
	p->flow.reply = p->info == CT_REPLY || p->info == CT_NEW_REPLY;
}

inline bool is_marked(struct bpf_nf_ctx *ctx, const struct config *c, const struct packet *p)
{
	return p->flow.hook == HOOK_LOCAL_IN && c->redirect_mask &&
	       (ctx->skb->mark & c->redirect_mask) == c->redirect_mark;
}

/* read_packet reads what the packet and its connection say. It answers with
 * the verdict if that needs no table, and turns replies round if it does. */
inline __u32 read_packet(struct bpf_nf_ctx *ctx, struct packet *p, const struct config *c)
{
	int malformed;

	__builtin_memset(&p->flow, 0, sizeof(p->flow));
	p->icmp_type = p->info = 0;
	p->v6 = ctx->state->pf == PF_V6;
	p->flow.hook = ctx->state->hook;
	read_devices(ctx, p);
	if (p->flow.hook == HOOK_LOCAL_IN && p->flow.in_ifindex == LOOPBACK)
		return REASON_UNJUDGED;
	/* Before the first publication nothing is known of anybody: nothing is
	 * forwarded, and the node itself stays reachable. */
	if (!p->revision)
		return p->flow.hook == HOOK_FORWARD ? REASON_UNKNOWN_PEER : REASON_UNJUDGED;
	read_conntrack(ctx, p);
	malformed = p->v6 ? parse_v6(ctx, p) : parse_v4(ctx, p);
	if (malformed)
		return malformed;
	if (is_housekeeping(p))
		return REASON_UNJUDGED;
	p->flow.marked = is_marked(ctx, c, p);
	if (p->flow.reply)
		swap(&p->flow);
	return UNDECIDED;
}

/* The cache knows flows that conntrack knows and that the published tables let
 * through. A connection's first packet leaves its flow there for the second,
 * but is itself judged and reported. */
inline struct cached *find_cached(const struct packet *p)
{
	__u32 slot = slot_of(&p->flow);

	if (!p->tracked || p->info == CT_RELATED || p->info > CT_REPLY)
		return 0;
	return bpf_map_lookup_elem(&cache, &slot);
}

inline bool is_cached(const struct packet *p, const struct cached *c)
{
	return c->revision == p->revision && c->epoch == p->epoch && same_flow(&c->flow, &p->flow);
}

inline void turn_devices(struct flow *f)
{
	__u32 in = f->in_ifindex;

	f->in_ifindex = f->out_ifindex;
	f->out_ifindex = in;
	f->reply ^= 1;
}

/* is_answer says whether the packet goes back in a flow that is in the cache
 * and comes by the device of its source. Of forwarded packets the tables ask
 * the same in both directions but that. */
inline bool is_answer(struct packet *p)
{
	struct cached *c;
	__u32 slot;
	bool known;

	if (p->info != CT_REPLY || p->flow.hook != HOOK_FORWARD || !p->tracked)
		return false;
	turn_devices(&p->flow);
	slot = slot_of(&p->flow);
	c = bpf_map_lookup_elem(&cache, &slot);
	known = c && is_cached(p, c);
	turn_devices(&p->flow);
	if (!known)
		return false;
	look_up(p->flow.destination, p->revision, &p->destination);
	return !is_spoofed(p, &p->destination, p->flow.destination);
}

/* remember writes the revision last: a packet that interrupts this one, which
 * the node sends, does not take half a flow for a whole one. */
inline void remember(const struct packet *p, struct cached *c)
{
	WRITE(c->revision, 0);
	barrier();
	c->flow = p->flow;
	c->epoch = p->epoch;
	barrier();
	WRITE(c->revision, p->revision);
}

inline __u32 judge(struct packet *p)
{
	bool related = p->info == CT_RELATED || p->info == CT_RELATED_REPLY;

	if (is_answer(p))
		return REASON_ALLOWED;
	return p->tracked && related && is_icmp_error(p) ? judge_error(p) : judge_packet(p);
}

SEC("netfilter")
int sallyport(struct bpf_nf_ctx *ctx)
{
	struct cached *cached = 0;
	struct packet p;
	__u32 zero = 0, reason;
	struct config *c = bpf_map_lookup_elem(&config, &zero);

	if (!c)
		return DROP;
	p.revision = READ(c->revision);
	p.epoch = READ(c->epoch);
	reason = read_packet(ctx, &p, c);
	if (reason == UNDECIDED) {
		cached = find_cached(&p);
		if (cached && p.info != CT_NEW && is_cached(&p, cached)) {
			count(REASON_ALLOWED);
			return ACCEPT;
		}
	}
	__builtin_memset(&p.source, 0, sizeof(p.source));
	__builtin_memset(&p.destination, 0, sizeof(p.destination));
	__builtin_memset(&p.verdict, 0, sizeof(p.verdict));
	if (reason == UNDECIDED)
		reason = judge(&p);
	if (cached && reason == REASON_ALLOWED)
		remember(&p, cached);
	count(reason);
	if (c->flags & CONFIG_EVENTS && (reason > REASON_UNJUDGED || (p.info == CT_NEW && reason == REASON_ALLOWED)))
		report(&p, reason, c->event_rate);
	return reason <= REASON_UNJUDGED ? ACCEPT : DROP;
}

/* The measure of what a hook costs by itself. */
SEC("netfilter")
int empty(struct bpf_nf_ctx *ctx)
{
	return ACCEPT;
}
