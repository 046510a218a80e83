/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Steps 3 and 4 for a flow that is known: hold the packet against its state. A packet that the flow's state does not
 * take is not dropped here: it goes up, where the pipeline takes the flow back and judges with everything it knows.
 */
#pragma once

#include "account.h"
#include "maps.h"
#include "packet.h"
#include "tcp.h"

/* Fills in the key, on the direct leg, and says from which end the packet comes: 0 the low one, 1 the high one. */
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
	key->leg = 0;
	/* Who asks travels with the request and against the reply: neither passes the other way. */
	if (p->echo && swapped == (p->echo == ECHO_REQUEST))
		key->proto |= KEY_HIGH_ASKS;
	key->low = swapped ? p->dst : p->src;
	key->high = swapped ? p->src : p->dst;
	key->low_port = swapped ? p->dport : p->sport;
	key->high_port = swapped ? p->sport : p->dport;
	return swapped;
}

/* What an entry remembers of its key. */
static __always_inline __u32 tag_of(const struct flow_key *key)
{
	__u32 mixed = key->vni ^ key->proto ^ key->leg;

	for (int i = 0; i < 4; i++) {
		mixed = (mixed ^ key->low.be[i]) * 0x9e3779b1u;
		mixed = (mixed ^ key->high.be[i]) * 0x85ebca6bu;
	}
	mixed ^= (__u32)key->low_port << 16 | key->high_port;
	return mixed * 0xc2b2ae35u;
}

/* How many bytes of packet each frame on the wire will have, at most. */
static __always_inline __u32 largest(const struct __sk_buff *skb, const struct packet *p)
{
	return skb->gso_size ? p->headers + skb->gso_size : p->len;
}

/* The monotonic clock, as of the last tick: time-outs are no finer, and it costs next to nothing. */
static __always_inline __u64 the_time(void)
{
	return bpf_ktime_get_coarse_ns();
}

static __always_inline __u32 milliseconds(__u64 nanoseconds)
{
	return nanoseconds / 1000000;
}

/* The state of a flow that was born here */
static __always_inline __u32 state_of(const struct flow *flow, __u8 proto)
{
	bool answered = flow->marks & FLOW_ANSWERED, goes_on = flow->marks & FLOW_STREAM;

	if (proto == IPPROTO_UDP)
		return goes_on ? STATE_STREAM : answered ? STATE_ANSWERED : STATE_UNANSWERED;
	if (proto != IPPROTO_TCP)
		return goes_on ? STATE_ECHO_STREAM : answered ? STATE_ECHO_ANSWERED : STATE_ECHO_UNANSWERED;
	return flow->opener ? tcp_state(&flow->ways[1].tcp, &flow->ways[0].tcp) :
			      tcp_state(&flow->ways[0].tcp, &flow->ways[1].tcp);
}

/* Is the time of a flow that was born here over? Half-open states last from its first packet, the others from its last. */
static __always_inline bool is_over(const struct flow *flow, __u32 state, const struct terms *terms, __u64 now)
{
	__u32 lasts;

	if (state >= STATE_COUNT)
		return true;
	lasts = terms->timeouts[state];
	if (state == STATE_SYN_SENT || state == STATE_SYN_RECEIVED)
		return (__s32)(milliseconds(now) - flow->created) >= (__s32)lasts;
	return flow->last_seen + (__u64)lasts * 1000000 <= now;
}

/* What the loss of a flow that was born here costs */
static __always_inline __u32 rank_of(const struct flow *flow, __u32 state, __u64 now)
{
	if (!(flow->marks & FLOW_ANSWERED))
		return RANK_UNREPLIED;
	switch (state) {
	case STATE_TIME_WAIT:
	case STATE_CLOSE:
		return RANK_FINISHED;
	case STATE_ANSWERED:
	case STATE_ECHO_ANSWERED:
		return RANK_EXCHANGE;
	case STATE_STREAM:
	case STATE_ECHO_STREAM:
		return flow->last_seen + STREAM_IDLE * 1000000ULL <= now ? RANK_STREAM : RANK_CONNECTION;
	default:
		return RANK_CONNECTION;
	}
}

/* Would the pipeline lower the MSS that a SYN names? */
static __always_inline bool clamps(const struct packet *p, const struct terms *terms)
{
	return p->flags & TCP_SYN && terms->mss_mtu && p->mss && p->mss + (p->v6 ? 60 : 40) > terms->mss_mtu;
}

/* Why a packet of a flow that is not in force is punted */
static __always_inline enum punt why_not_in_force(const struct flow *flow)
{
	return flow->marks & FLOW_HELD ? PUNT_HELD : PUNT_STALE;
}

/* Do the addresses of a flow or of a permit have the holders that it was decided for? Most have one for ever. */
static __always_inline bool still_held(__u16 bindings, const struct network *network)
{
	return !bindings || bindings == *(volatile const __u16 *)&network->bindings;
}

/* The flow's network, when the flow's epoch and generation are in force, and its addresses where they were. */
static __always_inline const struct network *in_force(const struct flow *flow, __u32 generation)
{
	__u32 place = flow->network;
	const struct network *network;

	if (flow->marks & FLOW_HELD || flow->generation != generation)
		return 0;
	network = bpf_map_lookup_elem(&networks, &place);
	return network && network->epoch == flow->epoch && still_held(flow->bindings, network) ? network : 0;
}

/* A flow that was handed over: the programs take only what neither opens nor closes it. */
static __always_inline bool steady(const struct packet *p, const struct way *from, const struct way *to)
{
	return p->proto != IPPROTO_TCP ||
	       (is_plain_segment(p) && seq_fits(p, &from->tcp, &to->tcp) && ack_fits(p, &from->tcp, &to->tcp));
}

/* Does the packet fit the flow's state, in which neither it nor another of its kind moves anything but numbers? */
static __always_inline bool would_pass(const struct packet *p, const struct flow *flow, const struct way *from,
				       const struct way *to)
{
	return steady(p, from, to) && (!(flow->marks & FLOW_BORN) || flow->marks & FLOW_ANSWERED);
}

/*
 * Takes a packet of a flow that was born here. `false` changes nothing. The flow is locked. `*place` says that one is taken
 * among the answered flows; it is used up when the flow is the packet's first answer.
 */
static __always_inline bool grow(struct flow *flow, const struct terms *terms, struct desk *desk, bool is_reply,
				 struct way *from, struct way *to, __u64 now, bool *place)
{
	struct tcp_side *sender = &desk->sender, *receiver = &desk->receiver;
	struct packet *p = &desk->packet;
	enum step step = STEP_ON;
	bool answers;

	if (flow->tag != tag_of(&desk->key) || is_over(flow, state_of(flow, p->proto), terms, now))
		return punt(p, PUNT_EXPIRED);
	*sender = from->tcp;
	*receiver = to->tcp;
	if (p->proto == IPPROTO_TCP) {
		if (clamps(p, terms))
			return punt(p, PUNT_SYN_MSS);
		step = tcp_step(p, is_reply, sender, receiver);
		if (step == STEP_PUNT)
			return punt(p, PUNT_TCP_IRREGULAR);
		answers = is_past_handshake(is_reply ? tcp_state(receiver, sender) : tcp_state(sender, receiver));
	} else {
		answers = is_reply;
	}
	if (flow->marks & FLOW_ANSWERED) {
		if (p->proto != IPPROTO_TCP && (__s32)(milliseconds(now) - flow->created) >= STREAM_AFTER)
			flow->marks |= FLOW_STREAM;
	} else if (answers) {
		if (!*place)
			return punt(p, PUNT_NO_CREDIT);
		*place = false;
		flow->marks |= FLOW_ANSWERED;
	}
	from->tcp = *sender;
	to->tcp = *receiver;
	if (step == STEP_ON)
		flow->last_seen = now;
	return true;
}

/* May the packet be a flow's first answer? Of a connection that is the end of its handshake. */
static __always_inline bool may_answer(const struct flow *flow, const struct packet *p, bool is_reply)
{
	return (flow->marks & (FLOW_BORN | FLOW_ANSWERED)) == FLOW_BORN &&
	       (p->proto == IPPROTO_TCP ? p->flags & TCP_ACK && !(p->flags & TCP_SYN) : is_reply);
}

/*
 * Holds the packet against the flow's state and lets the state advance; `false` means that it is for the pipeline. Where
 * it goes is on the desk then.
 */
static __always_inline bool pass(struct __sk_buff *skb, struct flow *flow, __u32 side, struct desk *desk,
				 const struct config *config)
{
	struct packet *p = &desk->packet;
	__u32 bytes = p->len + ETH_HLEN, packets = 1, gso_size = skb->gso_size, network = flow->network;
	const struct terms *the_terms = bpf_map_lookup_elem(&terms, &network);
	struct payer *payer = &desk->payer;
	__u64 now = the_time();
	struct way *from, *to;
	bool passes = false, may = false, place = false;

	if (!the_terms || (gso_size && p->proto == IPPROTO_TCP && p->flags & TCP_SYN))
		return punt(p, PUNT_GSO);
	if (gso_size)
		packets = (bytes + gso_size - 1) / gso_size;
	if (side) {
		from = &flow->ways[1];
		to = &flow->ways[0];
	} else {
		from = &flow->ways[0];
		to = &flow->ways[1];
	}
	/* No table may be asked while the flow is locked: what it may need is taken before. */
	if (may_answer(flow, p, side != flow->opener)) {
		payer->account = account_of(flow);
		payer->network_account = the_terms->account;
		payer->is_left = is_left(flow->generation, config);
		may = place = take_place(payer, POPULATION_ANSWERED);
	}
	p->punt = PUNT_TCP_IRREGULAR;
	bpf_spin_lock(&flow->lock);
	if (flow->marks & FLOW_HELD || flow->network != network || (place && account_of(flow) != payer->account)) {
		punt(p, PUNT_HELD);
	} else if (flow->marks & FLOW_BORN) {
		passes = grow(flow, the_terms, desk, side != flow->opener, from, to, now, &place);
	} else if (steady(p, from, to)) {
		passes = true;
		flow->last_seen = now;
		if (p->proto == IPPROTO_TCP)
			learn(p, &from->tcp, &to->tcp);
	}
	if (passes) {
		from->packets += packets;
		from->bytes += bytes;
		desk->ends = flow->ends;
		desk->lane = from->lane;
	}
	bpf_spin_unlock(&flow->lock);
	if (may)
		give_place(payer, place ? POPULATION_ANSWERED : POPULATION_UNANSWERED);
	/*
	 * A flow that ends leaves its entry to the next one that is written anywhere, at once, and whoever looked it up
	 * before has another flow in hand. One that is still found was this one all the time.
	 */
	return passes && bpf_map_lookup_elem(&flows, &desk->key) == flow;
}
