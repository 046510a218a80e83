/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * What the programs and the daemon share. src/layout.rs is the same in Rust; a test holds sizes and offsets equal.
 * Addresses are 16 bytes, IPv4 mapped into IPv6 (RFC 4291 section 2.5.5.2). Fields named `be` are in network order.
 */
#pragma once

#include <linux/bpf.h>
#include <linux/types.h>

struct addr {
	__u32 be[4];
};

/* Both directions of a flow have this one key: `low` is the end whose (address, port) is the smaller. */
struct flow_key {
	struct addr low;
	struct addr high;
	__u32 vni;
	__u16 low_port;
	__u16 high_port;
	__u32 proto;
};

/* One side of an established TCP connection: what policy's `tcp::Side` remembers of it. */
struct tcp_side {
	__u32 end;
	__u32 max_end;
	__u32 max_window;
	__u32 max_ack;
	/* The shift for the windows it offers; 0 where scaling is not in force. */
	__u32 scale;
	/* As policy has them; the one the programs look at is below. */
	__u32 flags;
};

/* It acknowledged something: `max_ack` is valid. */
#define TCP_SIDE_ACKED 0x40

enum way_flags {
	/* The packets of this direction may go this way. */
	WAY_OPEN = 1 << 0,
	/* The receiving port is a veth: frames go straight into its peer. */
	WAY_PEER = 1 << 1,
	WAY_INHERIT_TOS = 1 << 2,
	WAY_INHERIT_TTL = 1 << 3,
};

/* One direction of a flow: how its frames come in, and how they leave. */
struct way {
	/* Where they come in: a tenant port, or 0 */
	__u32 in_port;
	/* Where they come in: the VTEP they are from, by its place in `vteps`; valid when `in_port` is 0 */
	__u32 in_vtep;
	/* Where they leave: a tenant port, or 0 */
	__u32 out_port;
	/* Where they leave: the VTEP they go to; valid when `out_port` is 0 */
	__u32 out_vtep;
	/* Destination and source MAC, as they come in and as they leave */
	__u8 in_macs[12];
	__u8 out_macs[12];
	/* The largest packet that may leave, in bytes from its IP header on */
	__u16 max_packet;
	/* The outer source port */
	__u16 source_port_be;
	__u8 tos;
	__u8 ttl;
	__u16 flags;
	__u64 packets;
	__u64 bytes;
	struct tcp_side tcp;
};

struct flow {
	struct bpf_spin_lock lock;
	/* Its network's place in `networks`, and the epoch that must be in force there */
	__u32 network;
	__u32 epoch;
	/* `config.generation` when it was written */
	__u32 generation;
	/* When a packet of it last passed, by the monotonic clock in nanoseconds */
	__u64 last_seen;
	/* Which end opened it: 0 the low one, 1 the high one */
	__u32 opener;
	__u32 pad;
	/* From the low end, and from the high end */
	struct way ways[2];
};

struct port {
	/* The daemon's number for the port */
	__u32 id;
	/* Its network; a port that is closed is not in the table */
	__u32 vni;
	struct bpf_spin_lock lock;
	__u32 pad;
	/* What it may still send up: frames, and when they were counted, in nanoseconds */
	__u64 tokens;
	__u64 filled_at;
};

struct network {
	__u32 vni;
	/* The epoch in force there: flows of another one do not pass. */
	__u32 epoch;
};

struct vtep {
	struct addr addr;
};

/* Counts up with every change to what this file says: a daemon takes over no tables that it reads otherwise. */
#define LAYOUT 2

struct config {
	/* LAYOUT */
	__u32 layout;
	/* Which daemon it is that frames go up to */
	__u32 session;
	/* Flows that were written under another generation do not pass. */
	__u32 generation;
	/* The underlay device */
	__u32 underlay;
	/* Where frames go up */
	__u32 up_device;
	/* The overlay's UDP port, and the one on which the kernel itself unwraps superframes */
	__u16 vxlan_port_be;
	__u16 tunnel_port_be;
	struct addr vtep;
	/* Set DF on the outer packet (IPv4) */
	__u32 dont_fragment;
	/* Frames a second that one port may send up, and how many at once */
	__u32 up_rate;
	__u32 up_burst;
};

enum stat {
	STAT_FROM_PORTS,
	STAT_FROM_UNDERLAY,
	STAT_TO_PORTS,
	STAT_TO_UNDERLAY,
	STAT_UP,
	/* Not sent up: the port had sent up too many */
	STAT_UP_LIMITED,
	/* Not sent up: the kernel had no memory for it */
	STAT_UP_FAILED,
	/* A superframe whose flow ended while the kernel unwrapped it */
	STAT_LOST,
	STAT_COUNT,
};

/* In front of a frame that goes up, in place of another Ethernet header. */
struct up_header {
	__u32 port_be;
	__u32 hash_be;
	/* `config.session`: the number of the port is that daemon's. */
	__u32 session_be;
	__u16 ethertype_be;
} __attribute__((packed));

/* IEEE 802 local experimental ethertype 1: no protocol of the kernel takes the frame. */
#define UP_ETHERTYPE 0x88b5
/* The mark without which nothing leaves a tenant port ("east"). */
#define EASTGATE_MARK 0x65617374
