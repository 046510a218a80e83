/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * What the programs and the daemon share. src/layout.rs is the same in Rust; a test holds sizes,
 * offsets and numbers equal, which is why constants are enumerators here: the compiler notes those.
 * Addresses are 16 bytes, IPv4 mapped into IPv6 (RFC 4291 section 2.5.5.2). Fields named `be` are in network order.
 */
#pragma once

#include <linux/bpf.h>
#include <linux/types.h>

struct addr {
	__u32 be[4];
};

/*
 * Both directions of a flow have this one key: `low` is the end whose (address, port) is the smaller. An echo has its
 * identifier for both ports, and says in `proto` who asks: with one identifier both ends can ask each other.
 */
struct flow_key {
	struct addr low;
	struct addr high;
	__u32 vni;
	__u16 low_port;
	__u16 high_port;
	/* The IP protocol and `key_marks` */
	__u32 proto;
	/* The leg of the packets' way, where an endpoint forwards them: see leg.h. 0 is the direct one. */
	__u32 leg;
};

enum key_marks {
	/* An echo: the high end asks. */
	KEY_HIGH_ASKS = 1 << 8,
};

/* One side of a TCP connection: what conntrack's `tcp::Side` remembers of it. */
struct tcp_side {
	__u32 end;
	__u32 max_end;
	__u32 max_window;
	__u32 max_ack;
	/* Window scale from its SYN; valid with SIDE_SCALES */
	__u8 scale;
	/* `side_flags` */
	__u8 flags;
	/* Not of the connection: there is room for it here, and no other left. `account_of` */
	__u16 account_half;
};

/* As conntrack has them. A side with one of the others is for the pipeline. */
enum side_flags {
	/* It sent a SYN. */
	SIDE_HEARD = 0x01,
	/* Its SYN is acknowledged. */
	SIDE_SYN_ACKED = 0x02,
	/* All it sent so far is a SYN without ACK. */
	SIDE_SYN_ONLY = 0x04,
	/* It sent a FIN; `end` is behind it. */
	SIDE_FIN = 0x08,
	/* That FIN is acknowledged. */
	SIDE_FIN_ACKED = 0x10,
	/* Its SYN offered window scaling. */
	SIDE_SCALES = 0x20,
	/* It acknowledged something: `max_ack` is valid. */
	SIDE_ACKED = 0x40,
	/* A RST that ended the connection came from it. */
	SIDE_RESET = 0x80,
};

/* The states of a flow; conntrack's `FlowState` as far as programs carry flows in it. */
enum flow_state {
	STATE_UNREPLIED,
	STATE_REPLIED,
	STATE_SYN_SENT,
	STATE_SYN_RECEIVED,
	STATE_ESTABLISHED,
	STATE_FIN_WAIT,
	STATE_CLOSE_WAIT,
	STATE_LAST_ACK,
	STATE_TIME_WAIT,
	/* As the first two, of an echo */
	STATE_ECHO_UNREPLIED,
	STATE_ECHO_REPLIED,
	/* A RST ended the connection. */
	STATE_CLOSE,
	/* An answered one that goes on, and of an echo */
	STATE_STREAM,
	STATE_ECHO_STREAM,
	STATE_COUNT,
};

#include "layout/attachment.h"

/* In `ends.at`: not the number of an attachment, but the place of a VTEP in `vteps`. */
enum at_vtep { AT_VTEP = 0x80000000u };

/* The two endpoints of a flow. */
struct ends {
	/* Where each is: the number of an attachment, or a VTEP */
	__u32 at[2];
	__u8 macs[2][6];
};

enum template_flags {
	/* The packets of this direction may go this way. */
	TEMPLATE_OPEN = 1 << 0,
	TEMPLATE_INHERIT_TOS = 1 << 1,
	TEMPLATE_INHERIT_TTL = 1 << 2,
	/* They come in to the network's own MAC, in place of the receiver's. */
	TEMPLATE_TO_US = 1 << 3,
	/* They leave from the network's own MAC, in place of the sender's. */
	TEMPLATE_FROM_US = 1 << 4,
	/* To an attachment they are routed by the kernel, which takes them by the network's own MAC. */
	TEMPLATE_ROUTED = 1 << 5,
};

/* What the packets of one direction are like as they leave. */
struct template {
	/* The largest one, in bytes from its IP header on */
	__u16 max_packet;
	/* Of the outer headers, where they leave in a tunnel */
	__u16 source_port_be;
	__u8 tos;
	__u8 ttl;
	/* `template_flags` */
	__u8 flags;
	/*
	 * Not of the way, but of the flow's first packet, where there is room for it: its DSCP with the low end, its TCP flags with the
	 * high one. Only of templates that are a flow's.
	 */
	__u8 header;
};

/* One direction of a flow. */
struct flow_dir {
	__u64 packets;
	__u64 bytes;
	struct tcp_side tcp;
	/* The rule that admitted the flow: egress with the opener's way, ingress with the other one */
	__u32 rule;
	struct template template;
};

enum flow_marks {
	/* The pipeline has the flow, and this entry keeps its place: nothing passes by it, all its packets are punted. */
	FLOW_RESERVED = 1 << 0,
	/* It began here, by the policy or by a policy-cache entry: its state, its time and its place in the limits are here and nowhere else. */
	FLOW_KERNEL_CREATED = 1 << 1,
	/* It counts among the replied flows of its network; said of flows that were created here. */
	FLOW_REPLIED = 1 << 2,
	/* It is no TCP, was created here and answered, and goes on. */
	FLOW_STREAM = 1 << 3,
	/* One of its ends is another one than it was decided for: nothing passes by it, its next packet is punted. */
	FLOW_STALE = 1 << 4,
	/* A helper has let it begin; said of flows that the pipeline has handed over. `created` and the halves of an account say how. */
	FLOW_RELATED = 1 << 5,
};

/* As conntrack's `STREAM_AFTER` and `STREAM_IDLE`, in milliseconds */
enum stream_time {
	STREAM_AFTER = 2000,
	STREAM_IDLE = 60000,
};

/* What the loss of a flow costs, as conntrack's `Rank`. */
enum flow_rank {
	RANK_UNREPLIED,
	RANK_FINISHED,
	RANK_EXCHANGE,
	/* A stream that is not idle is no cheaper than a connection. */
	RANK_STREAM,
	RANK_CONNECTION,
};

/*
 * With its key and what the kernel adds to both it is 256 bytes, which is what the kernel's allocator then takes;
 * with one byte more it takes 512.
 */
struct flow {
	struct bpf_spin_lock lock;
	/* Its network's place in `networks`, and the epoch that it was decided in: not before that of its network */
	__u32 network;
	__u32 epoch;
	/* `config.generation` when it was written */
	__u32 generation;
	/* When a packet of it last passed, by the monotonic clock in nanoseconds */
	__u64 last_seen;
	/* When it was created, in milliseconds of that clock; they wrap. With FLOW_RELATED what the daemon makes of it */
	__u32 created;
	/* Which end opened it: 0 the low one, 1 the high one */
	__u8 opener;
	/* `flow_marks` */
	__u8 marks;
	/* `network.bindings` that it was decided under, where one of its addresses moves between endpoints; else 0 */
	__u16 bindings;
	/* The low end, and the high end */
	struct ends ends;
	/* Of a flow that was created here: made of its key, so that no other flow is taken for it when the entry is used again. */
	__u32 tag;
	/* From the low end, and from the high end */
	struct flow_dir dirs[2];
};

/*
 * Flows of a pair and service, as the opener's packets travel; the source port is whatever it is. The pipeline gives a
 * policy-cache entry only where its decision does not depend on that port. An echo has the type of its request in place of the upper
 * half of the destination port, and its code in place of the lower one.
 */
struct policy_cache_key {
	struct addr src;
	struct addr dst;
	__u32 vni;
	__u16 dport;
	__u16 proto;
};

/* What the pipeline has decided for such a flow, and would decide again while epoch and generation stand. */
struct cached_policy {
	__u32 network;
	__u32 epoch;
	__u32 generation;
	/* The opener, and the other end */
	struct ends ends;
	/* The opener's way, and the other one; outer source ports are the flow's own. */
	__u32 rules[2];
	struct template templates[2];
	/* As `flow.bindings` */
	__u16 bindings;
	__u16 spare;
	/* Who pays for them */
	__u32 account;
};

struct endpoint_key {
	struct addr addr;
	__u32 vni;
};

enum endpoint_flags {
	/* eastgate answers for others (proxy) to it, by the network's own MAC. */
	ENDPOINT_PROXIED = 1 << 0,
	/* Its flows last as it says, and not as its network does: they begin with the pipeline. */
	ENDPOINT_OWN_TIMEOUTS = 1 << 1,
};

enum direction {
	INGRESS,
	EGRESS,
};

/* In place of a list of tiers or of a rule's number: nobody was asked, the other host's eastgate asks. */
enum no_rule { NO_RULE = 0xffffffffu };

/*
 * An endpoint's address: where it is, and what the policy knows it as. One that may be sent from with this MAC alone, and
 * that owes no other check.
 */
struct endpoint {
	/* Its network's place in `networks` */
	__u32 network;
	/* As `ends.at` */
	__u32 at;
	__u8 mac[6];
	/* `endpoint_flags` */
	__u16 flags;
	/* What rules about its peers know it by */
	__u32 identity;
	/* Its list of tiers by `direction`, or NO_RULE */
	__u32 tiers[2];
	/* Its number in the epoch of its network */
	__u32 endpoint;
	/* Where the flows that it opens are counted */
	__u32 account;
};

/* What packets are that the rules have not let begin a flow; each kind is counted by itself. */
struct policy_drop_key {
	/* Place of the network, and its policy: under another one the numbers below may mean others. */
	__u32 network;
	__u32 policy;
	/* Where they come from: an attachment by the daemon's number, or a VTEP as in `ends.at` */
	__u32 from;
	/* Whose rules refuse them, which of them, and in which `direction` */
	__u32 endpoint;
	__u32 rule;
	__u32 direction;
};

struct policy_drop {
	struct bpf_spin_lock lock;
	__u32 spare;
	__u64 packets;
	/* Of their frames, with the VXLAN header of those that came through the tunnel */
	__u64 bytes;
	/* The first and the last of them, in nanoseconds of the monotonic clock; and what the last one was */
	__u64 first_at;
	__u64 last_at;
	struct addr src;
	struct addr dst;
	__u16 sport;
	__u16 dport;
	__u32 proto;
};

/* A packet that the rules have not let begin a flow. */
struct denied_key {
	struct policy_drop_key kind;
	struct addr src;
	struct addr dst;
	__u16 sport;
	__u16 dport;
	__u32 proto;
};

/* How many such packets, their bytes, and when the last one was; as in `policy_drop` */
struct denied {
	__u64 packets;
	__u64 bytes;
	__u64 last_at;
};
_Static_assert(sizeof(struct denied) <= sizeof(struct policy_drop), "the scratch area's `nothing` is what both begin as");

#include "layout/policy.h"

/*
 * How many flows an endpoint, a network or the host has, those of the pipeline included: by population, how many there may
 * be in the upper half, and how many there are in the lower one. The daemon has this in its memory too; both sides change
 * it by atomic steps only.
 */
struct account {
	__u64 flows[2];
	/* When the next one would begin that keeps the pace, by the daemon's clock in nanoseconds */
	__u64 next;
	/* Nanoseconds between two that begin, and how many may at once in the upper half; 0 where any number may */
	__u64 pace;
};

/* By how much the daemon's clock is ahead of this one, in nanoseconds */
enum daemon_clock { DAEMON_CLOCK_AHEAD = 1000000000 };

/* The host's own */
enum host_account { HOST_ACCOUNT = 0 };

/* How flows live in a network. */
struct ct_settings {
	/* Where all its flows are counted; none begins here while this is 0. */
	__u32 account;
	/* How long a flow lasts in each state, in milliseconds */
	__u32 timeouts[STATE_COUNT];
	/* A SYN with an MSS option that does not fit this many bytes of packet is not for here; 0 where any will do. */
	__u32 mss_mtu;
};

/* How flows that are created here come to their outer source port: vtep's `SourcePorts`, with a hash of its own. */
struct entropy {
	__u64 secret;
	__u32 first;
	__u32 available;
	/* A power of two; 0 while nothing is created */
	__u32 buckets;
	__u32 spare;
};

enum population {
	POPULATION_UNREPLIED,
	POPULATION_REPLIED,
};

/* A flow that another one of the same key took the place of, for the daemon to count. */
struct closed_flow {
	struct flow_key key;
	__u32 epoch;
	__u32 opener;
	/* From the low end, and from the high end */
	__u64 packets[2];
	__u64 bytes[2];
	__u32 rules[2];
	/* As in `flow` */
	__u64 last_seen;
	__u32 created;
	__u32 spare;
};

enum take_how {
	/* Only a created flow whose time is over */
	TAKE_IF_OVER = 1 << 0,
	/* The entry goes, too. */
	TAKE_DELETE = 1 << 1,
	/* Only a created flow of the rank that the upper half of `how` says */
	TAKE_IF_RANK = 1 << 2,
	TAKE_RANK_AT = 4,
};

enum take_result {
	TAKE_ABSENT,
	/* Its place was kept already: it is with the pipeline. */
	TAKE_RESERVED,
	/* It was here; now nothing passes by it. */
	TAKE_TAKEN,
	/* Its time is not over. */
	TAKE_ALIVE,
};

/* What the daemon asks `take`, as a frame of its own. */
struct take {
	__u8 ethernet[14];
	__u8 how;
	__u8 result;
	struct flow_key key;
	/* Where the flow had got to; without its lock */
	struct flow flow;
} __attribute__((packed));

/* How a request for an address is sent: `neighbor_key.form`. */
enum answer_form {
	/* A neighbour solicitation, and not ARP */
	FORM_ND = 1 << 0,
	/* To everyone: broadcast, or the target's solicited-node group */
	FORM_TO_ALL = 1 << 1,
	/* A solicitation with the sender's link-layer address in it */
	FORM_NAMES_MAC = 1 << 2,
};

/* What a request for an address is made of: nothing else in it moves the pipeline's answer. */
struct neighbor_key {
	/* The number of the attachment it comes from */
	__u32 attachment;
	/* Its sender's, in all places */
	__u8 mac[6];
	/* `answer_form` */
	__u16 form;
	struct addr sender;
	struct addr target;
};

/* The largest answer is a neighbour advertisement: 86 bytes. */
enum answer_max { ANSWER_MAX = 88 };

/* What the pipeline has answered, and would answer again while epoch and generation stand. */
struct answer {
	__u32 network;
	__u32 epoch;
	__u32 generation;
	/* Bytes of `frame` */
	__u32 len;
	/*
	 * How many times it may still be given, in the lower half: so many of the sender's tokens are granted. The upper half is
	 * the credit's number, which no other of the same daemon has.
	 */
	__u64 credit;
	__u8 frame[ANSWER_MAX];
};

/* What may be punted to the pipeline of one network, from its attachments and from the tunnel together. */
struct bucket {
	struct bpf_spin_lock lock;
	/* Packets a second, and how many at once */
	__u32 rate;
	__u32 burst;
	/* Places that the network has for datagrams in fragments */
	__u32 datagrams;
	/* Billionths of packets that may be punted now; below 0 after a GSO packet of more packets than there were left */
	__s64 left;
	/* When that was counted, in nanoseconds of the monotonic clock */
	__u64 filled_at;
	/* Frames that were dropped */
	__u64 dropped;
};

/* Bytes of a frame that are noted: to the ports of an IPv6 packet; of a shorter one, to those of an IPv4 packet */
enum limited_bytes { LIMITED_LEAST = 42, LIMITED_MAX = 64 };

/* Of a network: a frame that was dropped because more were to be punted than may be. */
struct limited {
	/* When, in nanoseconds of the monotonic clock; written last */
	__u64 at;
	/* Somebody writes it. */
	__u32 noting;
	/* Bytes of `frame` */
	__u32 len;
	__u8 frame[LIMITED_MAX];
};
_Static_assert(sizeof(struct limited) <= sizeof(struct policy_drop), "the scratch area's `nothing` is what it begins as");

#include "layout/datagram.h"

/* Where the networks that this host does not serve have their one bucket: no VNI is as large. */
enum unserved { UNSERVED = 0xffffffffu };

#include "layout/network.h"

struct vtep {
	struct addr addr;
	/* The largest packet that a path to it takes, from its IP header on */
	__u32 max_packet;
	/* `vtep_flags` */
	__u32 flags;
};

enum vtep_flags {
	/* Datagrams to it have a UDP checksum, or */
	VTEP_SUM = 1 << 0,
	/* none. With neither, those that are encapsulated here have none, and those that are passed on keep theirs. */
	VTEP_NO_SUM = 1 << 1,
};

/* Counts up with every change to what is said here and in layout/: a daemon takes over no tables that it reads otherwise. */
enum layout { LAYOUT = 24 };

struct config {
	/* LAYOUT */
	__u32 layout;
	/* Which daemon it is that frames are punted to */
	__u32 session;
	/* Flows that were written under another generation do not pass. */
	__u32 generation;
	/* From which generation on flows are this daemon's, and counted: those before are of one that is gone. */
	__u32 since;
	/* A device of the underlay; 0 when there is none */
	__u32 underlay;
	/* Where frames are punted */
	__u32 punt_device;
	/* The overlay's UDP port, and the one on which the kernel itself decapsulates GSO packets */
	__u16 vxlan_port_be;
	__u16 tunnel_port_be;
	struct addr vtep;
	/* Set DF on the outer packet (IPv4) */
	__u32 dont_fragment;
	/* `config_flags` */
	__u32 flags;
};

enum config_flags {
	/*
	 * Some flow of the pipeline has no place here: what seems to begin one may be a part of it, so that the rules alone do
	 * not refuse it.
	 */
	CONFIG_CROWDED = 1 << 0,
	/* The policies here may not be those in force: the pipeline decides. */
	CONFIG_UNDECIDED = 1 << 1,
};

#include "layout/count.h"

/* In front of a frame that is punted, in place of another Ethernet header. */
struct punt_header {
	/* `attachment.id` */
	__u32 attachment_be;
	__u32 hash_be;
	/* `config.session`: the number is that daemon's. */
	__u32 session_be;
	__u16 ethertype_be;
} __attribute__((packed));

/* IEEE 802 local experimental ethertype 1: no protocol of the kernel takes the frame. */
enum punt_ethertype { PUNT_ETHERTYPE = 0x88b5 };
/* The mark without which nothing leaves by an attachment ("east"). */
enum eastgate_mark { EASTGATE_MARK = 0x65617374 };
