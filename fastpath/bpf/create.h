/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Flows that begin here, while the epoch stands that decided them: by the compiled policy, or by a policy-cache entry that the
 * pipeline has left for the pair and service. There may be as many as the limits say; a key that is in
 * the table already, because the pipeline has the flow, is not created a second time.
 */
#pragma once

#include "decide.h"
#include "track.h"

/* Is the packet of a port whose packets the pipeline checks one by one in this network, as those of DHCP? */
static __always_inline bool is_control_traffic(const struct network *network, const struct packet *p)
{
	if (p->proto != IPPROTO_UDP)
		return false;
	for (int i = 0; i < CONTROL_PORTS; i++) {
		__u16 port = network->control_ports[i];

		if (port && (p->sport == port || p->dport == port))
			return true;
	}
	return false;
}

/* Can the packet be the first of a flow that is decided here? Why not is noted. */
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
	return p->echo != ECHO_REPLY || punt(p, PUNT_NO_FLOW);
}

/* The outer source port of a flow that is created here, in network order */
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

/* What a packet asks for, as policy-cache entries have it */
static __always_inline __u16 service(const struct packet *p)
{
	if (p->echo)
		return (p->v6 ? ECHO_V6_REQUEST : ECHO_V4_REQUEST) << 8;
	return p->dport;
}

/*
 * Whether the flow that was just put into the table was decided by what is in force. Where an end of it has changed in
 * between, the walk of `recheck` may have been there before it.
 */
static __always_inline bool still_decided(struct scratch *scratch, __u32 place)
{
	const struct network *network = bpf_map_lookup_elem(&networks, &place);

	return network && policy_now(scratch, network) == scratch->policy;
}

/* Nothing passes by the flow any more; the pipeline is to decide about it. */
static __always_inline bool give_up(struct scratch *scratch)
{
	struct flow *flow = bpf_map_lookup_elem(&flows, &scratch->key);

	if (flow) {
		bpf_spin_lock(&flow->lock);
		flow->marks |= FLOW_STALE;
		bpf_spin_unlock(&flow->lock);
	}
	return punt(&scratch->packet, PUNT_STALE);
}

/* Writes into the scratch area by what the packet in hand is known in tables of pairs and services. */
static __always_inline struct policy_cache_key *service_key(struct scratch *scratch, __u32 vni)
{
	const struct packet *p = &scratch->packet;
	struct policy_cache_key *key = &scratch->policy_cache_key;

	*key = (struct policy_cache_key){ .src = p->src, .dst = p->dst, .vni = vni, .dport = service(p), .proto = p->proto };
	return key;
}

/* Copies the policy-cache entry for the packet in hand into the scratch area, when the pipeline has left one. */
static __always_inline bool find_cached_policy(struct scratch *scratch, __u32 vni)
{
	struct policy_cache_key *key = service_key(scratch, vni);
	const struct cached_policy *found;
	const struct network *network;
	__u32 place;

	found = bpf_map_lookup_elem(&policy_cache, key);
	if (!found)
		return false;
	place = found->network;
	network = bpf_map_lookup_elem(&networks, &place);
	if (!network)
		return false;
	scratch->policy = policy_now(scratch, network);
	scratch->cached_policy = *found;
	/*
	 * The table may give the place of an entry to another pair while we read it: what was read would be of both, and
	 * frames would go to the wrong one. An entry that is still the one of this key was so all the time.
	 */
	if (bpf_map_lookup_elem(&policy_cache, key) != found || (is_changing(network) && cached_is_superseded(scratch)))
		return false;
	/* Last, since who changed is forgotten once the walk has been here. */
	return *(volatile const __u32 *)&found->epoch == scratch->cached_policy.epoch;
}

/*
 * What becomes of the first packet of a flow, by the policy or by a policy-cache entry that the pipeline has left: VERDICT_ALLOW, VERDICT_DENY
 * or VERDICT_STATELESS in the scratch area, with the flow made ready, in no table yet, and where the packet goes. Its network; none where the pipeline is
 * to say.
 */
static __always_inline const struct network *decide_new(struct scratch *scratch, const struct config *config, __u32 vni, __u32 side)
{
	struct flow *flow = (struct flow *)scratch->flow;
	const struct cached_policy *cached_policy = &scratch->cached_policy;
	__u32 place, generation = config->generation;
	const struct network *network;

	scratch->verdict = decide(scratch, config, vni);
	if (scratch->packet.lone) {
		if (scratch->verdict != VERDICT_STATELESS)
			return 0;
	} else if (scratch->verdict == VERDICT_UNKNOWN && find_cached_policy(scratch, vni) && cached_policy->generation == generation)
		scratch->verdict = VERDICT_ALLOW;
	if (!scratch->packet.lone)
		punt(&scratch->packet, PUNT_UNDECIDED);
	if (scratch->verdict > VERDICT_DENY && scratch->verdict != VERDICT_STATELESS)
		return 0;
	if (scratch->verdict == VERDICT_DENY && bpf_map_lookup_elem(&expected, service_key(scratch, vni))) {
		punt(&scratch->packet, PUNT_EXPECTED);
		return 0;
	}
	flow->network = cached_policy->network;
	scratch->payer.account = cached_policy->account;
	flow->epoch = cached_policy->epoch;
	flow->generation = generation;
	flow->bindings = cached_policy->bindings;
	scratch->template = cached_policy->templates[0];
	if (side) {
		flow->ends.at[1] = cached_policy->ends.at[0];
		flow->ends.at[0] = cached_policy->ends.at[1];
		__builtin_memcpy(flow->ends.macs[1], cached_policy->ends.macs[0], 6);
		__builtin_memcpy(flow->ends.macs[0], cached_policy->ends.macs[1], 6);
		flow->dirs[1].rule = cached_policy->rules[0];
		flow->dirs[0].rule = cached_policy->rules[1];
		flow->dirs[1].template = cached_policy->templates[0];
		flow->dirs[0].template = cached_policy->templates[1];
	} else {
		flow->ends = cached_policy->ends;
		flow->dirs[0].rule = cached_policy->rules[0];
		flow->dirs[1].rule = cached_policy->rules[1];
		flow->dirs[0].template = cached_policy->templates[0];
		flow->dirs[1].template = cached_policy->templates[1];
	}
	scratch->ends = flow->ends;
	place = flow->network;
	network = bpf_map_lookup_elem(&networks, &place);
	if (!network || network->vni != vni || flow->epoch < network->epoch || !still_held(flow->bindings, network))
		return 0;
	if (!is_control_traffic(network, &scratch->packet))
		return network;
	punt(&scratch->packet, PUNT_DHCP);
	return 0;
}

/* Fills in what is the flow's own. */
static __always_inline void begin(struct scratch *scratch, __u32 side, __u64 now)
{
	struct flow *flow = (struct flow *)scratch->flow;
	const struct packet *p = &scratch->packet;
	struct flow_dir *from = side ? &flow->dirs[1] : &flow->dirs[0];
	__u16 port = source_port(p);

	flow->last_seen = now;
	flow->created = milliseconds(now);
	flow->opener = side;
	flow->marks = FLOW_KERNEL_CREATED;
	flow->tag = tag_of(&scratch->key);
	flow->dirs[0].template.source_port_be = port;
	flow->dirs[1].template.source_port_be = port;
	scratch->template.source_port_be = port;
	flow->dirs[0].template.header = p->tos >> 2;
	flow->dirs[1].template.header = p->flags;
	flow->dirs[0].packets = flow->dirs[0].bytes = 0;
	flow->dirs[1].packets = flow->dirs[1].bytes = 0;
	__builtin_memset(&flow->dirs[0].tcp, 0, sizeof(struct tcp_side));
	__builtin_memset(&flow->dirs[1].tcp, 0, sizeof(struct tcp_side));
	flow->dirs[0].tcp.account_half = scratch->payer.account;
	flow->dirs[1].tcp.account_half = scratch->payer.account >> 16;
	from->packets = 1;
	from->bytes = p->len + ETH_HLEN;
	if (p->proto == IPPROTO_TCP)
		hear_syn(p, &from->tcp);
}

/* Takes a place for the flow that is to begin, and its turn. Who pays for it is in the scratch area. */
static __always_inline bool pay(struct scratch *scratch, const struct config *config, const struct ct_settings *ct)
{
	const struct flow *flow = (struct flow *)scratch->flow;
	struct payer *payer = &scratch->payer;

	payer->network_account = ct->account;
	payer->is_left = is_left(flow->generation, config);
	if (!payer->network_account || !take_place(payer, POPULATION_UNREPLIED))
		return false;
	if (payer->is_left || take_start(payer->account, payer->network_account, the_time() + DAEMON_CLOCK_AHEAD))
		return true;
	give_place(payer, POPULATION_UNREPLIED);
	return false;
}

/* The flow that was paid for has not begun. */
static __always_inline void pay_back(const struct payer *payer)
{
	give_place(payer, POPULATION_UNREPLIED);
	if (!payer->is_left)
		give_back_start(payer->account, payer->network_account);
}

/* Puts the flow into the table, unless someone was quicker or there are too many. */
static __always_inline bool ct_create(struct scratch *scratch, const struct config *config, __u32 side)
{
	struct packet *p = &scratch->packet;
	struct flow *flow = (struct flow *)scratch->flow;
	__u32 network = flow->network;
	const struct ct_settings *ct = bpf_map_lookup_elem(&ct_settings, &network);

	if (ct && clamps(p, ct))
		return punt(p, PUNT_SYN_MSS);
	if (!ct || !pay(scratch, config, ct))
		return punt(p, PUNT_NO_CREDIT);
	begin(scratch, side, the_time());
	if (bpf_map_update_elem(&flows, &scratch->key, scratch->flow, BPF_NOEXIST) == 0)
		return still_decided(scratch, network) || give_up(scratch);
	pay_back(&scratch->payer);
	return punt(p, PUNT_RESERVED);
}

/*
 * A flow whose epoch is no longer in force may be replaced by one that its opener begins under the epoch that is: the
 * decision is that the policy lets the old one in as well, so that the pipeline would not have refused it either.
 */
static __always_inline bool may_replace(const struct flow *old, const struct packet *p, __u32 side, __u32 generation)
{
	return p->proto == IPPROTO_TCP && core_flags(p) == TCP_SYN && !(old->marks & FLOW_RESERVED) &&
	       old->marks & FLOW_KERNEL_CREATED && old->generation == generation && old->opener == side;
}

/*
 * A connection that is over, or whose time is, makes room for the one that its ends begin on the same ports (RFC 9293
 * section 3.6.1), whatever its number: as `Connection::syn`. The entry stays and becomes the new one under its lock, so that
 * at no moment there is none, or two.
 */
static __always_inline bool ct_reopen(struct flow *old, struct scratch *scratch, const struct config *config, __u32 side)
{
	struct packet *p = &scratch->packet;
	struct flow *flow = (struct flow *)scratch->flow;
	__u32 network = flow->network;
	const struct ct_settings *ct = bpf_map_lookup_elem(&ct_settings, &network);
	struct closed_flow *before_it = &scratch->closed_flows;
	__u64 now = the_time();
	__u32 state, paid_by = 0, populated = POPULATION_UNREPLIED;
	bool over = false;

	if (!ct || clamps(p, ct))
		return punt(p, PUNT_SYN_MSS);
	state = state_of(old, IPPROTO_TCP);
	if (state != STATE_TIME_WAIT && state != STATE_CLOSE && !is_over(old, state, ct, now))
		return punt(p, PUNT_TCP_IRREGULAR);
	if (!pay(scratch, config, ct))
		return punt(p, PUNT_NO_CREDIT);
	begin(scratch, side, now);
	before_it->key = scratch->key;
	bpf_spin_lock(&old->lock);
	if ((old->marks & (FLOW_KERNEL_CREATED | FLOW_RESERVED)) == FLOW_KERNEL_CREATED && old->network == network && old->tag == flow->tag) {
		state = state_of(old, IPPROTO_TCP);
		over = state == STATE_TIME_WAIT || state == STATE_CLOSE || is_over(old, state, ct, now);
	}
	if (over) {
		paid_by = account_of(old);
		populated = old->marks & FLOW_REPLIED ? POPULATION_REPLIED : POPULATION_UNREPLIED;
		before_it->epoch = old->epoch;
		before_it->opener = old->opener;
		before_it->packets[0] = old->dirs[0].packets;
		before_it->packets[1] = old->dirs[1].packets;
		before_it->bytes[0] = old->dirs[0].bytes;
		before_it->bytes[1] = old->dirs[1].bytes;
		before_it->rules[0] = old->dirs[0].rule;
		before_it->rules[1] = old->dirs[1].rule;
		before_it->last_seen = old->last_seen;
		before_it->created = old->created;
		old->epoch = flow->epoch;
		old->generation = flow->generation;
		old->last_seen = flow->last_seen;
		old->created = flow->created;
		old->opener = flow->opener;
		old->marks = flow->marks;
		old->bindings = flow->bindings;
		old->ends = flow->ends;
		old->dirs[0] = flow->dirs[0];
		old->dirs[1] = flow->dirs[1];
	}
	bpf_spin_unlock(&old->lock);
	if (!over) {
		pay_back(&scratch->payer);
		return punt(p, PUNT_TCP_IRREGULAR);
	}
	scratch->payer.account = paid_by;
	give_place(&scratch->payer, populated);
	/* Where the daemon does not keep up, its counters of frames lack these. */
	bpf_map_push_elem(&closed_flows, before_it, 0);
	return still_decided(scratch, network) || give_up(scratch);
}
