/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * The tables; the daemon says before they are made how large those are that are not of one entry. It writes them; the
 * programs write into flows, answers, accounts, buckets, policy drops, denied, stateless, strays, ended and stats.
 */
#pragma once

#include "layout.h"
#include "packet.h"

#include <bpf/bpf_helpers.h>

/*
 * Flows: those that the pipeline has handed over, those that were created here, and the places of those that it has
 * itself. A key is here once, so that a flow is in one place. Not allocated ahead: a host with few flows pays for few.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 20);
	__type(key, struct flow_key);
	__type(value, struct flow);
} flows SEC(".maps");

/* The attachments that are open, as frames come in by them */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 14);
	__type(key, struct attachment_key);
	__type(value, struct attachment);
} attachments SEC(".maps");

/* Attachments by number, as frames leave by them. Numbers are given from 0 on, in order. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1 << 14);
	__type(key, __u32);
	__type(value, struct egress);
} egress SEC(".maps");

/* Of each trunk what is nobody's there. Each processor counts by itself; each daemon begins with an empty one. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 14);
	__type(key, struct stray_key);
	__type(value, struct stray);
} strays SEC(".maps");

/* Networks of this host */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1 << 16);
	__type(key, __u32);
	__type(value, struct network);
} networks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1 << 14);
	__type(key, __u32);
	__type(value, struct vtep);
} vteps SEC(".maps");

/* By VNI: the networks of this host, and UNSERVED */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, (1 << 16) + 1);
	__type(key, __u32);
	__type(value, struct bucket);
} buckets SEC(".maps");

/* By VNI likewise: what was dropped last for want of tokens, for people who ask. It holds those that such frames came of lately. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1 << 8);
	__type(key, __u32);
	__type(value, struct limited);
} limited SEC(".maps");

/* Datagrams in fragments. Allocated ahead: a place that is in use may be written again, and is taken away only idle. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 12);
	__type(key, struct datagram_key);
	__type(value, struct datagram);
} datagrams SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct config);
} settings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, STAT_COUNT);
	__type(key, __u32);
	__type(value, __u64);
} stats SEC(".maps");

/* What was punted, by `enum punt` */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, PUNT_COUNT);
	__type(key, __u32);
	__type(value, __u64);
} punts SEC(".maps");

/* What the pipeline has decided for pairs and services that the policies here do not say; those that nobody asks for give way to others. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1 << 14);
	__type(key, struct policy_cache_key);
	__type(value, struct cached_policy);
} policy_cache SEC(".maps");

/*
 * Flows that helpers expect, by what their first packets have in common with each other: the pipeline lets one begin that the policy
 * would refuse. As many as it keeps.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, EXPECTED_MAX);
	__type(key, struct policy_cache_key);
	__type(value, __u8);
} expected SEC(".maps");

/* Who is decided about anew, and since which epoch; emptied once `recheck` has gone through the tables */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 16);
	__type(key, struct changed_key);
	__type(value, __u32);
} changed SEC(".maps");

/* Which of them `recheck` looks for: most flows name nobody who has changed, which four bits of this tell. */
struct changed_filter {
	__u64 words[64];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct changed_filter);
} changed_filter SEC(".maps");

/* The endpoints of this host's networks, as far as flows between them can be decided here. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 18);
	__type(key, struct endpoint_key);
	__type(value, struct endpoint);
} endpoints SEC(".maps");

/* Compiled policies, by place of the network: each as large as it is, and exchanged in one step. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1 << 16);
	__type(key, __u32);
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_ARRAY);
		__uint(map_flags, BPF_F_INNER_MAP);
		__uint(max_entries, 1);
		__uint(key_size, sizeof(__u32));
		__uint(value_size, sizeof(struct policy_block));
	});
} policies SEC(".maps");

/* What the rules have refused here */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 14);
	__type(key, struct policy_drop_key);
	__type(value, struct policy_drop);
} policy_drops SEC(".maps");

/* The same packet by packet, as far as there is room: those that were not seen for longest give way. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1 << 14);
	__type(key, struct denied_key);
	__type(value, struct denied);
} denied SEC(".maps");

/* What the rules without state have let pass. Of each as `policy_drops` names who is refused. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 14);
	__type(key, struct policy_drop_key);
	__type(value, struct denied);
} stateless SEC(".maps");

/* What the pipeline has answered; those that nobody asks for give way to others. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1 << 14);
	__type(key, struct neighbor_key);
	__type(value, struct answer);
} neighbor_cache SEC(".maps");

/* By place of the network, as `networks` */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1 << 16);
	__type(key, __u32);
	__type(value, struct ct_settings);
} ct_settings SEC(".maps");

/* By the places that the daemon's registry gives; each daemon begins with an empty one. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1 << 18);
	__type(key, __u32);
	__type(value, struct account);
} accounts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct entropy);
} entropy SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 1 << 14);
	__type(value, struct closed_flow);
} closed_flows SEC(".maps");

/* A fragment in hand, and where its datagram's note may be. */
struct fragment {
	struct datagram_id id;
	struct datagram_key place;
	__u32 hash;
	/* How many places the network has */
	__u32 places;
	struct piece piece;
	bool more;
	/* Neither options nor bytes behind it */
	bool plain;
	/* Of the note, when it was held against it */
	__u16 count;
	__u64 until;
};

#define OUTER_ROOM 72
/* Bytes that a checksum is made of at once */
#define CHUNK 512

/* The outer UDP checksum of a datagram that came in a tunnel */
enum outer_sum {
	/* It has none. */
	SUM_NONE,
	/* It is there, and right. */
	SUM_RIGHT,
	/* It is left open, for a device to finish: the field has the pseudo-header's sum. */
	SUM_OPEN,
	/* It is wrong, or somebody else has to say. */
	SUM_WRONG,
};

/* Where a packet that passes goes, and as what. */
struct forwarding {
	/* An attachment or a VTEP, as in `ends.at` */
	__u32 to;
	struct template template;
	struct ethhdr ethernet;
};

/* Who pays for a flow that was created here */
struct payer {
	__u32 account;
	__u32 network_account;
	/* Not 0 where the flow is not counted: it is of a daemon that is gone. */
	__u32 is_left;
};

/* The outer headers of a datagram from the underlay that the path needs again behind the inner ones. */
struct outer {
	struct addr src;
	__u32 vni;
	__u8 ecn;
	/* It goes to the kernel's own vxlan device from here. */
	bool to_tunnel;
	/* The outer headers were read: why it is punted is with the inner packet. */
	bool read;
};

/*
 * What is too large for the stack: the packet in hand, the headers that are put around it, and a flow that is made ready before
 * it goes into the table. The programs run one after the other on a processor. The flow's lock is no lock here, which the type
 * says to the verifier.
 */
/* Whom a decision is about, and which epoch's it is; `key` is room to ask by. */
struct parties {
	struct addr addrs[2];
	__u8 macs[2][6];
	__u32 epoch;
	struct changed_key key;
};

struct scratch {
	struct packet packet;
	/* The attachment that a frame of a tenant came by */
	struct attachment from;
	struct outer arrived;
	struct flow_key key;
	/* What the frame's MACs make of `key.leg` */
	__u32 leg_low;
	__u32 leg_high;
	struct tcp_side sender;
	struct tcp_side receiver;
	/* Of the packet's flow and way, as they were under the flow's lock */
	struct ends ends;
	struct template template;
	struct forwarding forwarding;
	/* What a flow would begin by, who its ends are, and what was said to it */
	struct cached_policy cached_policy;
	/* By which it may be in `policy_cache`; here, since the stack is short */
	struct policy_cache_key policy_cache_key;
	struct endpoint_key endpoint_keys[2];
	struct endpoint endpoints[2];
	/* `enum verdict` */
	__u32 verdict;
	/* What rules look at in the packet: here, since the stack is full while they are asked */
	__u32 policy_key;
	/* Who pays for a flow that was created here, and in which network */
	struct payer payer;
	/* `network.policy` when the decision in hand began */
	__u32 policy;
	/* Only to order reads by */
	__u32 fence;
	struct parties parties;
	struct policy_drop_key refused;
	/* Of a packet that rules without state let pass */
	struct policy_drop_key passed;
	struct denied_key denied;
	/* Never written: what a denial begins as, its lock not one here */
	__u8 nothing[sizeof(struct policy_drop)] __attribute__((aligned(8)));
	struct closed_flow closed_flows;
	__u8 flow[sizeof(struct flow)] __attribute__((aligned(8)));
	__u8 chunk[CHUNK] __attribute__((aligned(8)));
	/* What the kernel has noted of a checksum that a device is to finish: `struct sk_buff` */
	struct {
		__u64 summed;
		__u64 head;
		__u64 data;
		__u16 start;
		__u16 offset;
	} open;
	/* struct outer_v4 or outer_v6 */
	__u8 outer[OUTER_ROOM] __attribute__((aligned(8)));
	/* `enum outer_sum` of a datagram that came in a tunnel */
	__u32 came;
	/* Its outer headers, as far as they are summed up */
	__u8 summed[OUTER_ROOM] __attribute__((aligned(8)));
	/* The way that the kernel's routes send a datagram, and who is next on it */
	struct bpf_fib_lookup route;
	struct bpf_redir_neigh neighbor;
	/* A request for an address, its key, and the answer as it was when nobody else had its place */
	__u8 request[ANSWER_MAX] __attribute__((aligned(8)));
	struct neighbor_key asked;
	struct answer answer;
	struct fragment fragment;
	/* A note of a datagram that is made ready; its lock is no lock here. */
	__u8 datagram[sizeof(struct datagram)] __attribute__((aligned(8)));
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scratch);
} scratches SEC(".maps");

static __always_inline struct scratch *the_scratch(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&scratches, &zero);
}

static __always_inline void count(__u32 what)
{
	__u64 *value = bpf_map_lookup_elem(&stats, &what);

	if (value)
		*value += 1;
}

/* A packet was punted. */
static __always_inline void count_punt(__u32 why)
{
	__u64 *value = bpf_map_lookup_elem(&punts, &why);

	if (value)
		*value += 1;
}

static __always_inline const struct config *the_config(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&settings, &zero);
}
