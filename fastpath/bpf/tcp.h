/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * A TCP connection as conntrack's flow/tcp.rs knows it, as far as it goes as it should: there the states and the four
 * bounds are explained. A segment that is not of that kind is not judged here: it is punted with its flow.
 */
#pragma once

#include "packet.h"

#define SLACK 65535u
#define WIDEST (65535u << 14)

static __always_inline bool before(__u32 a, __u32 b)
{
	return (__s32)(a - b) < 0;
}

static __always_inline __u32 at_least(__u32 value, __u32 floor)
{
	return value < floor ? floor : value;
}

/* The sequence number behind a segment */
static __always_inline __u32 end_of(const struct packet *p)
{
	return p->seq + p->payload + !!(p->flags & TCP_SYN) + !!(p->flags & TCP_FIN);
}

/* A segment that neither opens nor closes. */
static __always_inline bool is_plain_segment(const struct packet *p)
{
	return core_flags(p) == TCP_ACK;
}

/* The state, as it follows from what the opener and the other side sent and acknowledged. */
static __always_inline __u32 tcp_state(const struct tcp_side *opener, const struct tcp_side *other)
{
	__u32 either = opener->flags | other->flags, both = opener->flags & other->flags;

	if (either & SIDE_RESET)
		return STATE_CLOSE;
	if (!(other->flags & SIDE_HEARD))
		return STATE_SYN_SENT;
	if (!(both & SIDE_SYN_ACKED))
		return STATE_SYN_RECEIVED;
	if (!(either & SIDE_FIN))
		return STATE_ESTABLISHED;
	if (both & SIDE_FIN)
		return both & SIDE_FIN_ACKED ? STATE_TIME_WAIT : STATE_LAST_ACK;
	return either & SIDE_FIN_ACKED ? STATE_CLOSE_WAIT : STATE_FIN_WAIT;
}

/* Bounds 1 and 2 */
static __always_inline bool seq_fits(const struct packet *p, const struct tcp_side *from, const struct tcp_side *to)
{
	__u32 oldest = from->end - at_least(to->max_window, 1) - 1;

	return !before(from->max_end + 1, p->seq) && !before(end_of(p), oldest);
}

/* Bounds 3 and 4; `to` has sent more than a SYN. */
static __always_inline bool ack_fits(const struct packet *p, const struct tcp_side *from, const struct tcp_side *to)
{
	__u32 stale = at_least(from->max_window, SLACK);

	stale = stale > WIDEST / 2 ? WIDEST : stale * 2;
	return !before(to->end, p->ack) && !before(p->ack, to->end - stale);
}

/* Has a connection in this state had its handshake? */
static __always_inline bool is_past_handshake(__u32 state)
{
	return state >= STATE_ESTABLISHED && state <= STATE_TIME_WAIT;
}

/* A SYN that nothing is known of, the same one once more, or one from another number in its place makes this of its side. */
static __always_inline void hear_syn(const struct packet *p, struct tcp_side *from)
{
	bool again = from->flags & SIDE_SYN_ONLY && from->end == p->seq + 1;

	from->end = p->seq + 1;
	from->max_end = p->seq + 1;
	from->max_window = at_least(again ? at_least(from->max_window, p->window) : p->window, 1);
	from->scale = again && from->scale > p->scale ? from->scale : p->scale;
	from->flags = SIDE_HEARD | SIDE_SYN_ONLY | (again ? from->flags & SIDE_SCALES : 0) | (p->scales ? SIDE_SCALES : 0);
}

/* Takes over what a segment with ACK says, as `Connection::learn`. */
static __always_inline void learn(const struct packet *p, struct tcp_side *from, struct tcp_side *to)
{
	bool scales = from->flags & to->flags & SIDE_SCALES && !(p->flags & TCP_SYN);
	__u32 window = (__u32)p->window << (scales ? from->scale & 15 : 0), end = end_of(p), edge = p->ack + window;

	from->flags |= SIDE_HEARD;
	if (before(from->end, end)) {
		from->flags &= ~(SIDE_FIN | SIDE_FIN_ACKED);
		from->end = end;
	}
	if (p->flags & TCP_FIN && end == from->end)
		from->flags |= SIDE_FIN;
	from->max_window = at_least(from->max_window, window);
	if (!(from->flags & SIDE_ACKED) || before(from->max_ack, p->ack)) {
		from->max_ack = p->ack;
		from->flags |= SIDE_ACKED;
	}
	if (to->flags & SIDE_SYN_ONLY) {
		to->end = to->max_end;
		to->flags &= ~SIDE_SYN_ONLY;
	}
	to->flags |= SIDE_SYN_ACKED;
	if (to->flags & SIDE_FIN && p->ack == to->end)
		to->flags |= SIDE_FIN_ACKED;
	if (before(to->max_end, edge))
		to->max_end = edge;
}

/* The first answer to a SYN: what it makes of its side before anything is learned from it */
static __always_inline void hear_syn_ack(const struct packet *p, struct tcp_side *from, const struct tcp_side *to)
{
	from->end = end_of(p);
	from->max_end = end_of(p) + to->max_window;
	from->max_window = 1;
	from->max_ack = p->ack;
	from->scale = p->scale;
	from->flags = SIDE_HEARD | (p->scales ? SIDE_SCALES : 0);
}

enum step {
	/* It is for the pipeline, and the sides are no longer to be used. */
	STEP_PUNT,
	STEP_ON,
	/* It passes, and the connection lasts no longer for it. */
	STEP_BESIDE,
};

/* As `Connection::reset`: a RST at exactly the next number ends the connection, or one that refuses its SYN. */
static __always_inline enum step reset(const struct packet *p, struct tcp_side *from, const struct tcp_side *to)
{
	bool acked = to->flags & SIDE_ACKED, was_over;

	if (!(from->flags & SIDE_HEARD)) {
		if (!(p->flags & TCP_ACK) || !(to->flags & SIDE_SYN_ONLY) || p->ack != to->end)
			return STEP_PUNT;
	} else if (p->seq != from->end && !(acked && p->seq == to->max_ack)) {
		/* Somewhere else in the window it is for its receiver to challenge. */
		return !(acked && before(p->seq, to->max_ack)) && seq_fits(p, from, to) ? STEP_BESIDE : STEP_PUNT;
	}
	was_over = (from->flags | to->flags) & SIDE_RESET;
	from->flags |= SIDE_RESET;
	return was_over ? STEP_BESIDE : STEP_ON;
}

/* Takes a segment that a connection as it should be has, and lets both sides advance. */
static __always_inline enum step tcp_step(const struct packet *p, bool is_reply, struct tcp_side *from,
					  struct tcp_side *to)
{
	__u16 heard = from->flags & to->flags & SIDE_HEARD, either = from->flags | to->flags;

	switch (core_flags(p)) {
	case TCP_RST:
	case TCP_RST | TCP_ACK:
		return either & SIDE_SYN_ONLY && heard ? STEP_PUNT : reset(p, from, to);
	case TCP_SYN:
		/* Sent again, perhaps from another number, and nobody has said anything to it. */
		if (is_reply || p->payload || to->flags || !(from->flags & SIDE_SYN_ONLY) || either & SIDE_RESET ||
		    from->max_end != from->end)
			return STEP_PUNT;
		hear_syn(p, from);
		return STEP_ON;
	case TCP_SYN | TCP_ACK:
		if (!is_reply || p->payload || either & SIDE_RESET)
			return STEP_PUNT;
		if (to->flags & SIDE_SYN_ONLY) {
			if (from->flags || p->ack != to->end || to->max_end != to->end)
				return STEP_PUNT;
			hear_syn_ack(p, from, to);
		} else if (!heard || either & SIDE_SYN_ONLY || !seq_fits(p, from, to) || !ack_fits(p, from, to)) {
			return STEP_PUNT;
		}
		break;
	case TCP_ACK:
	case TCP_FIN | TCP_ACK:
		if (!heard || either & SIDE_SYN_ONLY || !seq_fits(p, from, to) || !ack_fits(p, from, to))
			return STEP_PUNT;
		break;
	default:
		return STEP_PUNT;
	}
	learn(p, from, to);
	return either & SIDE_RESET ? STEP_BESIDE : STEP_ON;
}
