/* SPDX-License-Identifier: GPL-2.0 */
/* Map contents. The structs are the twins of those in datapath/table.go and
 * event.go; a test compares their layout through BTF. */
#ifndef SALLYPORT_TABLES_H
#define SALLYPORT_TABLES_H

#define CHUNK_SHIFT 10
#define CHUNK_WORDS 16
#define CACHE_SLOTS 4096
#define RING_EVENTS 4096 /* per CPU */
#define RING_SPARE 16    /* for packets that interrupt each other */
#define MAX_RANGE_STEPS 20
#define INDEX_PORTS 32   /* per page */
#define INDEX_PAGES 2048 /* per protocol */

enum { GATE_OPEN = 0 };
enum { ROW_NONE = 0, ROW_ALL = 1 };
enum { FLAG_NODE = 1, FLAG_CLOSED = 2 };

/* config.flags */
enum { CONFIG_EVENTS = 1 };

struct config {
	__u32 revision;
	__u32 epoch; /* raised whenever unversioned contents change */
	__u32 flags;
	__u32 event_rate; /* per second and CPU */
	__u32 redirect_mark;
	__u32 redirect_mask; /* 0: no packet carries the mark */
};

struct versioned {
	__u32 old, new, since;
};

struct address_key {
	__u8 addr[16]; /* IPv4 as ::ffff:a.b.c.d */
};

struct address {
	struct versioned identity;
	__u32 subject;
	__u32 ifindex;
	__u32 flags;
};

struct prefix_key {
	__u32 length; /* IPv4: 96 more */
	__u8 addr[16];
};

struct prefix {
	struct versioned identity;
	__u32 flags;
};

struct subject {
	struct versioned egress;
	struct versioned ingress;
};

struct gate {
	__u32 first, count;
	__u32 index; /* 0: none */
};

struct range {
	__u32 start;
	__u32 allow, shadow, conditional, log;
};

/* page is what an index knows of 32 neighbouring ports: at which of them
 * ranges of the gate start, and how many ranges start before the first. */
struct page {
	__u32 starts, before;
};

/* index is what makes a large gate as fast as a small one. */
struct index {
	struct page pages[2 * INDEX_PAGES]; /* TCP's, UDP's */
};

struct row {
	__u64 words[CHUNK_WORDS];
};

/* Reasons are counted in stats and reported in events. The order is that of
 * the constants in event.go. */
enum reason {
	REASON_ALLOWED,
	REASON_UNJUDGED, /* neighbour discovery, loopback, the node's own */
	REASON_EGRESS,
	REASON_INGRESS,
	REASON_CONDITIONAL,
	REASON_SPOOFED,
	REASON_UNKNOWN_PEER,
	REASON_FRAGMENT,
	REASON_MALFORMED,
	REASON_INVALID,
	REASON_UNTRACKED,
	REASON_ICMP_ERROR,
	REASON_LOST_EVENTS, /* no verdict: events that were not delivered */
	REASONS,
};

/* event.flags */
enum {
	EVENT_SHADOW = 1,      /* the shadow plane decides otherwise */
	EVENT_LOG = 2,         /* a rule asks for a report */
	EVENT_REPLY = 4,       /* the packet went in the reply direction */
	EVENT_CONDITIONAL = 8, /* passed by the redirect mark */
};

struct event {
	__u64 time; /* CLOCK_MONOTONIC, ns; of the CPU's first event in a tick */
	__u32 revision;
	__u32 egress_gate, ingress_gate;
	__u32 source_identity, destination_identity;
	__u32 source_subject, destination_subject;
	__u32 in_ifindex, out_ifindex;
	__u16 source_port, destination_port; /* ICMP: 0, type<<8|code */
	__u8 source[16], destination[16];    /* of the original direction */
	__u8 protocol;
	__u8 hook;
	__u8 reason;
	__u8 flags;
	__u32 sequence; /* the event's number plus one; stored last */
};

/* A flow of the cache: everything that a verdict depends on but the tables. */
struct flow {
	__u64 source[2], destination[2];
	__u16 source_port, destination_port;
	__u8 protocol;
	__u8 hook;
	__u8 reply;
	__u8 marked;
	__u32 in_ifindex, out_ifindex;
};

struct cached {
	struct flow flow;
	__u32 revision, epoch;
};

/* A CPU's events: those from tail to head are in its part of the journal. No two
 * CPUs' share a cache line. */
struct ring {
	__u32 head; /* the program's */
	__u32 tail; /* the reader's */
	__u64 tick;
	__u64 time;     /* when the first event of the tick came, ns */
	__u64 refilled; /* ns */
	__u64 tokens;   /* events that may follow */
	__u64 unused[3];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct config);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} config SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 131072);
	__type(key, struct address_key);
	__type(value, struct address);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} addresses SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 131072);
	__type(key, struct prefix_key);
	__type(value, struct prefix);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} prefixes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, __u32);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} devices SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, struct subject);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} subjects SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 16384);
	__type(key, __u32);
	__type(value, struct gate);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} gates SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 262144);
	__type(key, __u32);
	__type(value, struct range);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} ranges SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 128);
	__type(key, __u32);
	__type(value, struct index);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} indexes SEC(".maps");

struct chunk {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 16384);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct row));
	__uint(map_flags, BPF_F_MMAPABLE);
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 64);
	__type(key, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__array(values, struct chunk);
} rows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, CACHE_SLOTS);
	__type(key, __u32);
	__type(value, struct cached);
} cache SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, REASONS);
	__type(key, __u32);
	__type(value, __u64);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} stats SEC(".maps");

/* The loader makes rings and journal for as many CPUs as there can be. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct ring);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} rings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, RING_EVENTS);
	__type(key, __u32);
	__type(value, struct event);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} journal SEC(".maps");

#endif
