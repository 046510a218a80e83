/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Flows that begin here, while the epoch stands that decided them: by the compiled policy, or by a permit that the
 * pipeline has left for the pair and service. There may be as many as the limits say; a key that is in
 * the table already, because the pipeline has the flow, is not born a second time.
 */
#pragma once

#include "decide.h"
#include "track.h"

/* Flows of these UDP ports are the pipeline's, which checks each packet's role: DHCP and DHCPv6. */
static __always_inline bool has_role(__u16 port)
{
	return port == 67 || port == 68 || port == 546 || port == 547;
}

/* Can the packet be the first of a flow that is decided here? */
static __always_inline bool may_begin(const struct __sk_buff *skb, struct packet *p)
{
	if (skb->gso_size)
		return punt(p, PUNT_GSO);
	if (p->fragment == FRAGMENT_LATER)
		return punt(p, PUNT_FRAGMENT);
	if (p->proto == IPPROTO_TCP) {
		if (core_flags(p) != TCP_SYN)
			return punt(p, PUNT_NO_FLOW);
		return !p->payload || punt(p, PUNT_SYN_DATA);
	}
	if (p->echo)
		return p->echo == ECHO_REQUEST || punt(p, PUNT_NO_FLOW);
	return (!has_role(p->sport) && !has_role(p->dport)) || punt(p, PUNT_DHCP);
}

/* The outer source port of a flow that is born here, in network order */
static __always_inline __u16 source_port(const struct packet *p)
{
	__u32 zero = 0, bucket;
	const struct entropy *from = bpf_map_lookup_elem(&entropy, &zero);
	__u64 hash;

	if (!from || !from->buckets)
		return 0;
	/* Keyed, so that a tenant cannot choose it; each step is a bijection, so that nothing of the flow is lost before it. */
	hash = from->secret;
	for (int i = 0; i < 4; i++) {
		hash ^= (__u64)p->src.be[i] << 32 | p->dst.be[i];
		hash *= 0xff51afd7ed558ccdULL;
		hash ^= hash >> 32;
	}
	hash ^= (__u64)p->proto << 32 | (__u32)p->sport << 16 | p->dport;
	hash *= 0xc4ceb9fe1a85ec53ULL;
	hash ^= hash >> 29;
	hash *= 0xff51afd7ed558ccdULL;
	bucket = (hash >> 32) & (from->buckets - 1);
	return bpf_htons(from->first + (__u64)bucket * from->available / from->buckets);
}

/* What a packet asks for, as permits have it */
static __always_inline __u16 service(const struct packet *p)
{
	if (p->echo)
		return (p->v6 ? ECHO_V6_REQUEST : ECHO_V4_REQUEST) << 8;
	return p->dport;
}

/* Copies the permit for the packet in hand to the desk, when the pipeline has left one. */
static __always_inline bool find_permit(struct desk *desk, __u32 vni)
{
	const struct packet *p = &desk->packet;
	struct permit_key key = { .src = p->src, .dst = p->dst, .vni = vni, .dport = service(p), .proto = p->proto };
	const struct permit *found = bpf_map_lookup_elem(&permits, &key);

	if (!found)
		return false;
	desk->permit = *found;
	/*
	 * The table may give the place of an entry to another pair while we read it: what was read would be of both, and
	 * frames would go to the wrong one. An entry that is still the one of this key was so all the time.
	 */
	return bpf_map_lookup_elem(&permits, &key) == found;
}

/*
 * What becomes of the first packet of a flow, by the policy or by a permit that the pipeline has left: SAID_ALLOW or SAID_DENY
 * on the desk, with the flow made ready, in no table yet, and where the packet goes. Its network; none where the pipeline is
 * to say.
 */
static __always_inline const struct network *judge(struct desk *desk, const struct config *config, __u32 vni, __u32 side)
{
	struct flow *flow = (struct flow *)desk->flow;
	const struct permit *permit = &desk->permit;
	__u32 place, generation = config->generation;
	const struct network *network;

	desk->said = decide(desk, config, vni);
	if (desk->said == SAID_NOTHING && find_permit(desk, vni) && permit->generation == generation)
		desk->said = SAID_ALLOW;
	punt(&desk->packet, PUNT_UNDECIDED);
	if (desk->said > SAID_DENY)
		return 0;
	flow->network = permit->network;
	desk->payer.account = permit->account;
	flow->epoch = permit->epoch;
	flow->generation = generation;
	flow->bindings = permit->bindings;
	desk->lane = permit->lanes[0];
	if (side) {
		flow->ends.at[1] = permit->ends.at[0];
		flow->ends.at[0] = permit->ends.at[1];
		__builtin_memcpy(flow->ends.macs[1], permit->ends.macs[0], 6);
		__builtin_memcpy(flow->ends.macs[0], permit->ends.macs[1], 6);
		flow->ways[1].rule = permit->rules[0];
		flow->ways[0].rule = permit->rules[1];
		flow->ways[1].lane = permit->lanes[0];
		flow->ways[0].lane = permit->lanes[1];
	} else {
		flow->ends = permit->ends;
		flow->ways[0].rule = permit->rules[0];
		flow->ways[1].rule = permit->rules[1];
		flow->ways[0].lane = permit->lanes[0];
		flow->ways[1].lane = permit->lanes[1];
	}
	desk->ends = flow->ends;
	place = flow->network;
	network = bpf_map_lookup_elem(&networks, &place);
	return network && network->vni == vni && network->epoch == flow->epoch && still_held(flow->bindings, network) ?
		       network :
		       0;
}

/* Fills in what is the flow's own. */
static __always_inline void begin(struct desk *desk, __u32 side, __u64 now)
{
	struct flow *flow = (struct flow *)desk->flow;
	const struct packet *p = &desk->packet;
	struct way *from = side ? &flow->ways[1] : &flow->ways[0];
	__u16 port = source_port(p);

	flow->last_seen = now;
	flow->created = milliseconds(now);
	flow->opener = side;
	flow->marks = FLOW_BORN;
	flow->tag = tag_of(&desk->key);
	flow->ways[0].lane.source_port_be = port;
	flow->ways[1].lane.source_port_be = port;
	desk->lane.source_port_be = port;
	flow->ways[0].packets = flow->ways[0].bytes = 0;
	flow->ways[1].packets = flow->ways[1].bytes = 0;
	__builtin_memset(&flow->ways[0].tcp, 0, sizeof(struct tcp_side));
	__builtin_memset(&flow->ways[1].tcp, 0, sizeof(struct tcp_side));
	flow->ways[0].tcp.account_half = desk->payer.account;
	flow->ways[1].tcp.account_half = desk->payer.account >> 16;
	from->packets = 1;
	from->bytes = p->len + ETH_HLEN;
	if (p->proto == IPPROTO_TCP)
		hear_syn(p, &from->tcp);
}

/* Takes a place for the flow that is to begin. Who pays for it is on the desk. */
static __always_inline bool pay(struct desk *desk, const struct config *config, const struct terms *terms)
{
	const struct flow *flow = (struct flow *)desk->flow;
	struct payer *payer = &desk->payer;

	payer->network_account = terms->account;
	payer->is_left = is_left(flow->generation, config);
	return payer->network_account && take_place(payer, POPULATION_UNANSWERED);
}

/* Puts the flow into the table, unless someone was quicker or there are too many. */
static __always_inline bool born(struct desk *desk, const struct config *config, __u32 side)
{
	struct packet *p = &desk->packet;
	struct flow *flow = (struct flow *)desk->flow;
	__u32 network = flow->network;
	const struct terms *the_terms = bpf_map_lookup_elem(&terms, &network);

	if (the_terms && clamps(p, the_terms))
		return punt(p, PUNT_SYN_MSS);
	if (!the_terms || !pay(desk, config, the_terms))
		return punt(p, PUNT_NO_CREDIT);
	begin(desk, side, the_time());
	if (bpf_map_update_elem(&flows, &desk->key, desk->flow, BPF_NOEXIST) == 0)
		return true;
	give_place(&desk->payer, POPULATION_UNANSWERED);
	return punt(p, PUNT_HELD);
}

/*
 * A flow whose epoch is no longer in force may be replaced by one that its opener begins under the epoch that is: the
 * decision is that the policy lets the old one in as well, so that the pipeline would not have refused it either.
 */
static __always_inline bool may_replace(const struct flow *old, const struct packet *p, __u32 side, __u32 generation)
{
	return p->proto == IPPROTO_TCP && core_flags(p) == TCP_SYN && !(old->marks & FLOW_HELD) &&
	       old->marks & FLOW_BORN && old->generation == generation && old->opener == side;
}

/*
 * A connection that is over, or whose time is, makes room for the one that its ends begin on the same ports (RFC 9293
 * section 3.6.1), whatever its number: as `Connection::syn`. The entry stays and becomes the new one under its lock, so that
 * at no moment there is none, or two.
 */
static __always_inline bool reborn(struct flow *old, struct desk *desk, const struct config *config, __u32 side)
{
	struct packet *p = &desk->packet;
	struct flow *flow = (struct flow *)desk->flow;
	__u32 network = flow->network;
	const struct terms *the_terms = bpf_map_lookup_elem(&terms, &network);
	struct ended *before_it = &desk->ended;
	__u64 now = the_time();
	__u32 state, paid_by = 0, populated = POPULATION_UNANSWERED;
	bool over = false;

	if (!the_terms || clamps(p, the_terms))
		return punt(p, PUNT_SYN_MSS);
	state = state_of(old, IPPROTO_TCP);
	if (state != STATE_TIME_WAIT && state != STATE_CLOSE && !is_over(old, state, the_terms, now))
		return punt(p, PUNT_TCP_IRREGULAR);
	if (!pay(desk, config, the_terms))
		return punt(p, PUNT_NO_CREDIT);
	begin(desk, side, now);
	before_it->key = desk->key;
	bpf_spin_lock(&old->lock);
	if ((old->marks & (FLOW_BORN | FLOW_HELD)) == FLOW_BORN && old->network == network && old->tag == flow->tag) {
		state = state_of(old, IPPROTO_TCP);
		over = state == STATE_TIME_WAIT || state == STATE_CLOSE || is_over(old, state, the_terms, now);
	}
	if (over) {
		paid_by = account_of(old);
		populated = old->marks & FLOW_ANSWERED ? POPULATION_ANSWERED : POPULATION_UNANSWERED;
		before_it->epoch = old->epoch;
		before_it->opener = old->opener;
		before_it->packets[0] = old->ways[0].packets;
		before_it->packets[1] = old->ways[1].packets;
		before_it->bytes[0] = old->ways[0].bytes;
		before_it->bytes[1] = old->ways[1].bytes;
		before_it->rules[0] = old->ways[0].rule;
		before_it->rules[1] = old->ways[1].rule;
		old->epoch = flow->epoch;
		old->generation = flow->generation;
		old->last_seen = flow->last_seen;
		old->created = flow->created;
		old->opener = flow->opener;
		old->marks = flow->marks;
		old->bindings = flow->bindings;
		old->ends = flow->ends;
		old->ways[0] = flow->ways[0];
		old->ways[1] = flow->ways[1];
	}
	bpf_spin_unlock(&old->lock);
	if (!over) {
		give_place(&desk->payer, POPULATION_UNANSWERED);
		return punt(p, PUNT_TCP_IRREGULAR);
	}
	desk->payer.account = paid_by;
	give_place(&desk->payer, populated);
	/* Where the daemon does not keep up, its counters of frames lack these. */
	bpf_map_push_elem(&ended, before_it, 0);
	return true;
}
