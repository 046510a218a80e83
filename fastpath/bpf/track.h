/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Steps 4 and 5 for a flow that is known: hold the packet against its state. A packet that the flow's state does not
 * take is not dropped here: it is punted, where the pipeline takes the flow back and judges with everything it knows.
 */
#pragma once

#include "account.h"
#include "changed.h"
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

/* The state of a flow that was created here */
static __always_inline __u32 state_of(const struct flow *flow, __u8 proto)
{
	bool replied = flow->marks & FLOW_REPLIED, goes_on = flow->marks & FLOW_STREAM;

	if (proto == IPPROTO_UDP)
		return goes_on ? STATE_STREAM : replied ? STATE_REPLIED : STATE_UNREPLIED;
	if (proto != IPPROTO_TCP)
		return goes_on ? STATE_ECHO_STREAM : replied ? STATE_ECHO_REPLIED : STATE_ECHO_UNREPLIED;
	return flow->opener ? tcp_state(&flow->dirs[1].tcp, &flow->dirs[0].tcp) :
			      tcp_state(&flow->dirs[0].tcp, &flow->dirs[1].tcp);
}

/* Is the time of a flow that was created here over? Half-open states last from its first packet, the others from its last. */
static __always_inline bool is_over(const struct flow *flow, __u32 state, const struct ct_settings *ct, __u64 now)
{
	__u32 lasts;

	if (state >= STATE_COUNT)
		return true;
	lasts = ct->timeouts[state];
	if (state == STATE_SYN_SENT || state == STATE_SYN_RECEIVED)
		return (__s32)(milliseconds(now) - flow->created) >= (__s32)lasts;
	return flow->last_seen + (__u64)lasts * 1000000 <= now;
}

/* What the loss of a flow that was created here costs */
static __always_inline __u32 rank_of(const struct flow *flow, __u32 state, __u64 now)
{
	if (!(flow->marks & FLOW_REPLIED))
		return RANK_UNREPLIED;
	switch (state) {
	case STATE_TIME_WAIT:
	case STATE_CLOSE:
		return RANK_FINISHED;
	case STATE_REPLIED:
	case STATE_ECHO_REPLIED:
		return RANK_EXCHANGE;
	case STATE_STREAM:
	case STATE_ECHO_STREAM:
		return flow->last_seen + STREAM_IDLE * 1000000ULL <= now ? RANK_STREAM : RANK_CONNECTION;
	default:
		return RANK_CONNECTION;
	}
}

/* Would the pipeline lower the MSS that a SYN names? */
static __always_inline bool clamps(const struct packet *p, const struct ct_settings *ct)
{
	return p->flags & TCP_SYN && ct->mss_mtu && p->mss && p->mss + (p->v6 ? 60 : 40) > ct->mss_mtu;
}

/* Why a packet of a flow that is not in force is punted */
static __always_inline enum punt why_not_in_force(const struct flow *flow)
{
	return flow->marks & FLOW_RESERVED ? PUNT_RESERVED : PUNT_STALE;
}

/* Do the addresses of a flow or of a policy-cache entry have the holders that it was decided for? Most have one for ever. */
static __always_inline bool still_held(__u16 bindings, const struct network *network)
{
	return !bindings || bindings == *(volatile const __u16 *)&network->bindings;
}

/* The network of the flow whose key is in the scratch area, when the flow's epoch and generation are in force, and its ends as they were. */
static __always_inline const struct network *in_force(struct scratch *scratch, const struct flow *flow, __u32 generation)
{
	__u32 place = flow->network;
	const struct network *network;

	if (flow->marks & (FLOW_RESERVED | FLOW_STALE) || flow->generation != generation)
		return 0;
	network = bpf_map_lookup_elem(&networks, &place);
	if (!network || flow->epoch < network->epoch || !still_held(flow->bindings, network))
		return 0;
	return is_changing(network) && flow_is_superseded(scratch, flow) ? 0 : network;
}

/* A flow that was handed over: the programs take only what neither opens nor closes it. */
static __always_inline bool steady(const struct packet *p, const struct flow_dir *from, const struct flow_dir *to)
{
	return p->proto != IPPROTO_TCP ||
	       (is_plain_segment(p) && seq_fits(p, &from->tcp, &to->tcp) && ack_fits(p, &from->tcp, &to->tcp));
}

/* Does the packet fit the flow's state, in which neither it nor another of its kind moves anything but numbers? */
static __always_inline bool would_pass(const struct packet *p, const struct flow *flow, const struct flow_dir *from,
				       const struct flow_dir *to)
{
	return steady(p, from, to) && (!(flow->marks & FLOW_KERNEL_CREATED) || flow->marks & FLOW_REPLIED);
}

/*
 * Takes a packet of a flow that was created here. `false` changes nothing. The flow is locked. `*place` says that one is taken
 * among the replied flows; it is used up when the flow is the packet's first answer.
 */
static __always_inline bool grow(struct flow *flow, const struct ct_settings *ct, struct scratch *scratch, bool is_reply,
				 struct flow_dir *from, struct flow_dir *to, __u64 now, bool *place)
{
	struct tcp_side *sender = &scratch->sender, *receiver = &scratch->receiver;
	struct packet *p = &scratch->packet;
	enum step step = STEP_ON;
	bool neighbor_cache;

	if (flow->tag != tag_of(&scratch->key) || is_over(flow, state_of(flow, p->proto), ct, now))
		return punt(p, PUNT_EXPIRED);
	*sender = from->tcp;
	*receiver = to->tcp;
	if (p->proto == IPPROTO_TCP) {
		if (clamps(p, ct))
			return punt(p, PUNT_SYN_MSS);
		step = tcp_step(p, is_reply, sender, receiver);
		if (step == STEP_PUNT)
			return punt(p, PUNT_TCP_IRREGULAR);
		neighbor_cache = is_past_handshake(is_reply ? tcp_state(receiver, sender) : tcp_state(sender, receiver));
	} else {
		neighbor_cache = is_reply;
	}
	if (flow->marks & FLOW_REPLIED) {
		if (p->proto != IPPROTO_TCP && (__s32)(milliseconds(now) - flow->created) >= STREAM_AFTER)
			flow->marks |= FLOW_STREAM;
	} else if (neighbor_cache) {
		if (!*place)
			return punt(p, PUNT_NO_CREDIT);
		*place = false;
		flow->marks |= FLOW_REPLIED;
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
	return (flow->marks & (FLOW_KERNEL_CREATED | FLOW_REPLIED)) == FLOW_KERNEL_CREATED &&
	       (p->proto == IPPROTO_TCP ? p->flags & TCP_ACK && !(p->flags & TCP_SYN) : is_reply);
}

/*
 * Holds the packet against the flow's state and lets the state advance; `false` means that it is for the pipeline. Where
 * it goes is in the scratch area then.
 */
static __always_inline bool pass(struct __sk_buff *skb, struct flow *flow, __u32 side, struct scratch *scratch,
				 const struct config *config)
{
	struct packet *p = &scratch->packet;
	__u32 bytes = p->len + ETH_HLEN, packets = 1, gso_size = skb->gso_size, network = flow->network;
	const struct ct_settings *ct = bpf_map_lookup_elem(&ct_settings, &network);
	struct payer *payer = &scratch->payer;
	__u64 now = the_time();
	struct flow_dir *from, *to;
	bool passes = false, may = false, place = false;

	if (!ct || (gso_size && p->proto == IPPROTO_TCP && p->flags & TCP_SYN))
		return punt(p, PUNT_GSO);
	if (gso_size)
		packets = (bytes + gso_size - 1) / gso_size;
	if (side) {
		from = &flow->dirs[1];
		to = &flow->dirs[0];
	} else {
		from = &flow->dirs[0];
		to = &flow->dirs[1];
	}
	/* No table may be asked while the flow is locked: what it may need is taken before. */
	if (may_answer(flow, p, side != flow->opener)) {
		payer->account = account_of(flow);
		payer->network_account = ct->account;
		payer->is_left = is_left(flow->generation, config);
		may = place = take_place(payer, POPULATION_REPLIED);
	}
	p->punt = PUNT_TCP_IRREGULAR;
	bpf_spin_lock(&flow->lock);
	if (flow->marks & (FLOW_RESERVED | FLOW_STALE) || flow->network != network || (place && account_of(flow) != payer->account)) {
		punt(p, PUNT_RESERVED);
	} else if (flow->marks & FLOW_KERNEL_CREATED) {
		passes = grow(flow, ct, scratch, side != flow->opener, from, to, now, &place);
	} else if (steady(p, from, to)) {
		passes = true;
		flow->last_seen = now;
		if (p->proto == IPPROTO_TCP)
			learn(p, &from->tcp, &to->tcp);
	}
	if (passes) {
		from->packets += packets;
		from->bytes += bytes;
		scratch->ends = flow->ends;
		scratch->template = from->template;
	}
	bpf_spin_unlock(&flow->lock);
	if (may)
		give_place(payer, place ? POPULATION_REPLIED : POPULATION_UNREPLIED);
	/*
	 * A flow that ends leaves its entry to the next one that is written anywhere, at once, and whoever looked it up
	 * before has another flow in hand. One that is still found was this one all the time.
	 */
	return passes && bpf_map_lookup_elem(&flows, &scratch->key) == flow;
}
