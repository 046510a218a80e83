/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Steps 3 and 4 for a flow that the pipeline has decided and handed over: find it, hold the packet against its state.
 * A packet that the flow's state does not take is not dropped here: it goes up, where the pipeline takes the flow back
 * and judges with everything it knows.
 */
#pragma once

#include "maps.h"
#include "packet.h"

/* As in policy's flow/tcp.rs, where the four bounds are explained. */
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

/* Fills in the key and says from which end the packet comes: 0 the low one, 1 the high one. */
static __always_inline __u32 key_of(const struct packet *p, __u32 vni, struct flow_key *key)
{
	bool swapped = false;
	int i;

	for (i = 0; i < 4; i++) {
		__u32 src = bpf_ntohl(p->src.be[i]), dst = bpf_ntohl(p->dst.be[i]);

		if (src != dst) {
			swapped = src > dst;
			break;
		}
	}
	if (i == 4)
		swapped = p->sport > p->dport;
	key->vni = vni;
	key->proto = p->proto;
	key->low = swapped ? p->dst : p->src;
	key->high = swapped ? p->src : p->dst;
	key->low_port = swapped ? p->dport : p->sport;
	key->high_port = swapped ? p->sport : p->dport;
	return swapped;
}

/* A segment of an established connection, neither SYN, FIN nor RST: do bounds 1 to 4 hold? */
static __always_inline bool tcp_fits(const struct packet *p, const struct tcp_side *from, const struct tcp_side *to)
{
	__u32 end = p->seq + p->payload;
	__u32 oldest = from->end - at_least(to->max_window, 1) - 1;
	__u32 stale = at_least(from->max_window, SLACK);

	stale = stale > WIDEST / 2 ? WIDEST : stale * 2;
	return !before(from->max_end + 1, p->seq) && !before(end, oldest) && !before(to->end, p->ack) &&
	       !before(p->ack, to->end - stale);
}

/* What an accepted segment tells, as policy's `Connection::learn`. */
static __always_inline void tcp_learn(const struct packet *p, struct tcp_side *from, struct tcp_side *to)
{
	__u32 end = p->seq + p->payload, window = (__u32)p->window << (from->scale & 15), edge = p->ack + window;

	if (before(from->end, end))
		from->end = end;
	if (from->max_window < window)
		from->max_window = window;
	if (!(from->flags & TCP_SIDE_ACKED) || before(from->max_ack, p->ack)) {
		from->max_ack = p->ack;
		from->flags |= TCP_SIDE_ACKED;
	}
	if (before(to->max_end, edge))
		to->max_end = edge;
}

/* How many bytes of packet each frame on the wire will have, at most. */
static __always_inline __u32 largest(const struct __sk_buff *skb, const struct packet *p)
{
	return skb->gso_size ? p->headers + skb->gso_size : p->len;
}

/*
 * The direction of the flow that a packet belongs to, when the flow is in force; what the direction says of port, VTEP
 * and MACs is for the caller to compare.
 */
static __always_inline struct flow *find(const struct packet *p, __u32 vni, __u32 generation, __u32 *side)
{
	struct flow_key key;
	const struct network *network;
	struct flow *flow;
	__u32 place;

	*side = key_of(p, vni, &key);
	flow = bpf_map_lookup_elem(&flows, &key);
	if (!flow || flow->generation != generation)
		return 0;
	place = flow->network;
	network = bpf_map_lookup_elem(&networks, &place);
	return network && network->epoch == flow->epoch ? flow : 0;
}

/* A TCP segment that this program may judge: an acknowledgement and nothing that opens or closes. */
static __always_inline bool is_plain_segment(const struct packet *p)
{
	return (p->flags & (TCP_SYN | TCP_FIN | TCP_RST | TCP_ACK)) == TCP_ACK;
}

/* Does the packet fit the flow's state? The state is not changed. */
static __always_inline bool would_pass(const struct packet *p, const struct way *from, const struct way *to)
{
	return p->proto != IPPROTO_TCP || (is_plain_segment(p) && tcp_fits(p, &from->tcp, &to->tcp));
}

/* Holds the packet against the flow's state and lets the state advance; `false` changes nothing. */
static __always_inline bool pass(struct __sk_buff *skb, struct flow *flow, __u32 side, const struct packet *p)
{
	__u32 bytes = p->len + ETH_HLEN, packets = 1, gso_size = skb->gso_size;
	__u64 now = bpf_ktime_get_ns();
	struct way *from, *to;
	bool passes;

	if (gso_size)
		packets = (bytes + gso_size - 1) / gso_size;
	if (side) {
		from = &flow->ways[1];
		to = &flow->ways[0];
	} else {
		from = &flow->ways[0];
		to = &flow->ways[1];
	}
	bpf_spin_lock(&flow->lock);
	passes = would_pass(p, from, to);
	if (passes) {
		if (p->proto == IPPROTO_TCP)
			tcp_learn(p, &from->tcp, &to->tcp);
		from->packets += packets;
		from->bytes += bytes;
		flow->last_seen = now;
	}
	bpf_spin_unlock(&flow->lock);
	return passes;
}
