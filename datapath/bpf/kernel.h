/* SPDX-License-Identifier: GPL-2.0 */
/* The few kernel types that the program reads. Only the fields that are used
 * are declared; CO-RE finds their offsets in the running kernel. */
#ifndef SALLYPORT_KERNEL_H
#define SALLYPORT_KERNEL_H

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct net_device {
	int ifindex;
};

struct skb_ext {
	__u8 offset[1];
};

enum skb_ext_id {
	SKB_EXT_BRIDGE_NF,
};

struct nf_bridge_info {
	int physinif; /* since 6.7 */
};

struct nf_bridge_info___device {
	struct net_device *physindev; /* before */
};

struct in6_addr {
	union {
		__u32 u6_addr32[4];
	} in6_u;
};

struct sk_buff {
	unsigned long _nfct;
	unsigned char *data;
	__u32 len, data_len;
	__u32 mark;
	__u8 active_extensions;
	struct skb_ext *extensions;
};

struct nf_hook_state {
	__u8 hook;
	__u8 pf;
	struct net_device *in;
	struct net_device *out;
};

struct bpf_nf_ctx {
	const struct nf_hook_state *state;
	struct sk_buff *skb;
};

union nf_inet_addr {
	__u32 all[4];
};

union nf_conntrack_man_proto {
	__be16 all;
};

struct nf_conntrack_man {
	union nf_inet_addr u3;
	union nf_conntrack_man_proto u;
	__u16 l3num;
};

struct nf_conntrack_tuple {
	struct nf_conntrack_man src;
	struct {
		union nf_inet_addr u3;
		union {
			__be16 all;
			struct {
				__u8 type, code;
			} icmp;
		} u;
		__u8 protonum;
	} dst;
};

struct nf_conntrack_tuple_hash {
	struct nf_conntrack_tuple tuple;
};

struct nf_conn {
	struct nf_conntrack_tuple_hash tuplehash[2];
};

#pragma clang attribute pop

#endif
