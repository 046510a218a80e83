/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* What is remembered of datagrams in fragments; a part of layout.h. */
#pragma once

/* A place for a datagram in fragments: those of a network are numbered. */
struct datagram_key {
	__u32 vni;
	__u32 slot;
};

/* The places that one datagram may be in, one behind the other */
enum datagram_places { DATAGRAM_PLACES = 2 };

/* By what a datagram in fragments is told from others of its network (RFC 791; RFC 8200 section 4.5: no protocol) */
struct datagram_id {
	struct addr src;
	struct addr dst;
	__u32 id;
	/* 0 in IPv6 */
	__u32 proto;
};

enum datagram_state {
	/* The place is nobody's, as it is when the time of its datagram is over. */
	DATAGRAM_FREE,
	/* The first fragment has passed here. */
	DATAGRAM_PASSES,
	/* All of its fragments are punted. */
	DATAGRAM_PUNTED,
};

/* Where a fragment begins and ends in its datagram, in bytes */
struct piece {
	__u16 start;
	__u16 end;
};

/* Datagrams of 65,535 bytes in fragments of 1,024, and more; a power of two */
enum datagram_pieces { DATAGRAM_PIECES = 64 };

/* What is remembered of a datagram whose first fragment has passed, or of one that is the pipeline's. */
struct datagram {
	struct bpf_spin_lock lock;
	/* `enum datagram_state` */
	__u32 state;
	/* Until when, in nanoseconds of the monotonic clock */
	__u64 until;
	struct datagram_id id;
	/* As in `packet`, of the first fragment */
	__u16 sport;
	__u16 dport;
	__u8 proto;
	__u8 echo;
	/* How many pieces have passed; 0 when none has here */
	__u16 count;
	/* Where it ends, or 0 as long as that is not known; the furthest end of a piece; bytes of all together */
	__u32 end;
	__u32 furthest;
	__u32 covered;
	struct piece pieces[DATAGRAM_PIECES];
	__u32 spare;
};
