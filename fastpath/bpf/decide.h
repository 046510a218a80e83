/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Step 5 for a flow between two endpoints that are known: what the compiled policy says of it. The tables are the
 * pipeline's own (policy's `Compiled`), copied; what is here looks up in them as `Compiled::decide` does, but bisects
 * where that has tables to jump by: every word costs a call here.
 */
#pragma once

#include "maps.h"
#include "packet.h"

/* An identity that nobody has; a ruleset's entry that is not there */
#define NOBODY 0xffffffff

/* How deep the prefixes of rules lie in each other, at most; a policy with deeper ones decides in the pipeline. */
#define POLICY_DEPTH 32
/* So many halvings find a word among all that a policy can have. */
#define HALVINGS 28

/* What the policy of one end says: one of these in the upper half, and the rule in the lower one. */
enum verdict {
	VERDICT_ALLOW,
	VERDICT_DENY,
	/* More than the programs carry out: a rejection, a trial, a chain. No policy-cache entry stands for it. */
	VERDICT_PUNT,
	/* The tables do not say. */
	VERDICT_UNKNOWN,
	/* Of a tier: the next one is asked. */
	VERDICT_PASS,
	/* Allowed, and of no flow */
	VERDICT_STATELESS,
	/* Of one end: its policy is not asked here. */
	VERDICT_NOT_ASKED,
};

#define POLICY_RESULT(what, rule) ((__u64)(what) << 32 | (rule))

/* Words that do not cross a block: those of a row, at a multiple of its length. */
static __always_inline const __u32 *policy_row(void *policy, __u32 at, const __u32 len)
{
	__u32 block = at / POLICY_BLOCK, in = at & (POLICY_BLOCK - len);
	const struct policy_block *found = bpf_map_lookup_elem(policy, &block);

	return found ? &found->words[in] : 0;
}

/*
 * In `count` sorted keys that are `stride` words apart: the place of the last one that is not above `key`; 0 when all
 * are. Not static, so that the verifier looks at it once.
 */
__noinline __u32 policy_search(__u32 place, __u32 keys, __u32 count, __u32 stride, __u32 key)
{
	void *policy = bpf_map_lookup_elem(&policies, &place);
	__u32 first = 0;

	if (!policy)
		return 0;
	for (int i = 0; i < HALVINGS && count > 1; i++) {
		__u32 half = count / 2;
		const __u32 *middle = policy_row(policy, keys + (first + half) * stride, 1);

		if (middle && *middle <= key)
			first += half;
		count -= half;
	}
	return first;
}

/* What a list says of a key: how far behind its first rule the one that decides stands, or NOWHERE. */
__noinline __u32 policy_value(__u32 place, __u32 list, __u32 key)
{
	void *policy = bpf_map_lookup_elem(&policies, &place);
	const __u32 *len, *value;

	if (!policy)
		return NOWHERE;
	len = policy_row(policy, list, 1);
	if (!len)
		return NOWHERE;
	value = policy_row(policy, list + 1 + *len + policy_search(place, list + 1, *len, 1, key), 1);
	return value ? *value : NOWHERE;
}

/* What an identity has of a ruleset, as policy's `Entry`. */
struct policy_entry {
	__u32 ruleset;
	__u32 list;
	__u32 base;
	__u32 spare;
};

/* As policy's `IdentityRow` */
struct policy_identity {
	__u32 parent;
	__u32 further_from;
	__u32 further_to;
	__u32 spare;
	struct policy_entry entry;
};

#define WORDS(type) (sizeof(type) / sizeof(__u32))

/*
 * The fields by which rules may tell flows of a pair and service apart, in one word: source port, DSCP and TCP flags from the
 * lowest bit on.
 */
#define DSCP_AT 17
#define TCP_FLAGS_AT 23

static __always_inline __u32 policy_field(__u32 fields, __u32 which)
{
	if (which == FIELD_SOURCE_PORT)
		return fields & ((1 << DSCP_AT) - 1);
	if (which == FIELD_DSCP)
		return fields >> DSCP_AT & 0x3f;
	return fields >> TCP_FLAGS_AT;
}

/* What one tier of one end's policy says of the other end: `verdict`, and the rule. `tier` counts those of all lists before it. */
__noinline __u64 policy_lookup(__u32 place, __u32 tier, __u32 identity, __u32 key, __u32 fields)
{
	void *policy = bpf_map_lookup_elem(&policies, &place);
	__u32 zero = 0, first = NOWHERE, ruleset, does;
	const struct policy_block *head;
	const __u32 *from, *rule, *the_tier;

	head = policy ? bpf_map_lookup_elem(policy, &zero) : 0;
	if (!head)
		return POLICY_RESULT(VERDICT_UNKNOWN, NO_RULE);
	the_tier = policy_row(policy, head->words[POLICY_TIER_LISTS] + tier, 1);
	if (!the_tier)
		return POLICY_RESULT(VERDICT_UNKNOWN, NO_RULE);
	if (*the_tier == NO_TIER)
		return POLICY_RESULT(VERDICT_DENY, NO_RULE);
	ruleset = *the_tier & ~END_PASSES;
	for (int i = 0; i < POLICY_DEPTH && identity != NOBODY; i++) {
		const struct policy_identity *row =
			(const void *)policy_row(policy, head->words[POLICY_IDENTITIES] + identity * WORDS(*row), WORDS(*row));
		const struct policy_entry *entry;

		if (!row)
			return POLICY_RESULT(VERDICT_UNKNOWN, NO_RULE);
		entry = &row->entry;
		if (entry->ruleset != ruleset && row->further_to > row->further_from) {
			__u32 further = head->words[POLICY_FURTHER] + row->further_from * WORDS(*entry);

			further += WORDS(*entry) *
				   policy_search(place, further, row->further_to - row->further_from, WORDS(*entry), ruleset);
			entry = (const void *)policy_row(policy, further, WORDS(*entry));
			if (!entry)
				return POLICY_RESULT(VERDICT_UNKNOWN, NO_RULE);
		}
		if (entry->ruleset == ruleset) {
			__u32 lists = head->words[POLICY_LISTS], value = policy_value(place, lists + entry->list, key);

			for (int deep = 0; deep < FIELD_COUNT && value & NESTED; deep++)
				value = policy_value(place, lists + (value & ((1u << FIELD_AT) - 1)),
						     policy_field(fields, value >> FIELD_AT & 3));
			if (entry->base + value < first)
				first = entry->base + value;
		}
		/* The widest one there is names itself. */
		identity = row->parent == identity ? NOBODY : row->parent;
	}
	if (identity != NOBODY)
		return POLICY_RESULT(VERDICT_UNKNOWN, NO_RULE);
	if (first >= NOWHERE)
		return POLICY_RESULT(*the_tier & END_PASSES ? VERDICT_PASS : VERDICT_DENY, NO_RULE);
	from = policy_row(policy, head->words[POLICY_RULESETS] + ruleset, 1);
	if (!from)
		return POLICY_RESULT(VERDICT_UNKNOWN, NO_RULE);
	rule = policy_row(policy, head->words[POLICY_RULES] + 2 * (*from + first), 2);
	if (!rule)
		return POLICY_RESULT(VERDICT_UNKNOWN, NO_RULE);
	does = rule[1] & ~RULE_LOG;
	if (does == (RULE_ALLOW | RULE_STATELESS))
		return POLICY_RESULT(VERDICT_STATELESS, rule[0]);
	if (does == RULE_PASS)
		return POLICY_RESULT(VERDICT_PASS, NO_RULE);
	return POLICY_RESULT(does <= RULE_DENY ? does : VERDICT_PUNT, rule[0]);
}

/* What rules look at in a packet, as policy's `Point`: the protocol and, below it, port or type. */
static __always_inline __u32 policy_key(const struct packet *p)
{
	__u32 below = p->dport;

	if (p->echo == ECHO_REQUEST)
		below = (p->v6 ? ECHO_V6_REQUEST : ECHO_V4_REQUEST) << 8;
	else if (p->echo)
		below = (p->v6 ? ECHO_V6_REPLY : ECHO_V4_REPLY) << 8;
	return (__u32)p->proto << 17 | below;
}

/* `policy_field` takes it apart. An echo has no source port; what it has for TCP flags no rule looks at. */
static __always_inline __u32 policy_fields(const struct packet *p)
{
	return (p->echo ? UNREAD : p->sport) | (__u32)(p->tos >> 2) << DSCP_AT | (__u32)p->flags << TCP_FLAGS_AT;
}

/* How packets from one endpoint to the other leave */
static __always_inline bool make_template(struct template *template, const struct network *network, const struct endpoint *from,
				     const struct endpoint *to)
{
	*template = (struct template){
		.max_packet = 0xffff,
		.tos = network->tos,
		.ttl = network->ttl,
		.flags = TEMPLATE_OPEN | network->template_flags,
	};
	if (to->at & AT_VTEP) {
		__u32 place = to->at & ~AT_VTEP;
		const struct vtep *vtep = bpf_map_lookup_elem(&vteps, &place);

		if (!vtep)
			return false;
		template->max_packet = vtep->max_packet;
	}
	if (from->flags & ENDPOINT_PROXIED)
		template->flags |= TEMPLATE_TO_US;
	if (to->flags & ENDPOINT_PROXIED)
		template->flags |= TEMPLATE_FROM_US;
	return true;
}

/* Copies what is known of an end; `false` when it is not known, or changes just now. */
static __always_inline bool find_endpoint(const struct endpoint_key *key, struct endpoint *endpoint)
{
	const struct endpoint *found = bpf_map_lookup_elem(&endpoints, key);

	if (!found)
		return false;
	*endpoint = *found;
	/* One that is taken away leaves its entry to another. One that is still found was this one all the time. */
	return bpf_map_lookup_elem(&endpoints, key) == found;
}

/*
 * The policy in force, read behind all reads before it and ahead of all after it. What orders them is a word of this
 * processor's own, so that nobody else's cache line moves.
 */
static __always_inline __u32 policy_now(struct scratch *scratch, const struct network *network)
{
	__u32 policy;

	__sync_fetch_and_add(&scratch->fence, 1);
	policy = *(volatile const __u32 *)&network->policy;
	__sync_fetch_and_add(&scratch->fence, 1);
	return policy;
}

_Static_assert(POLICY_TIERS == 4, "as many as `ask_policy` asks");

static __always_inline __u64 ask_tier(const struct scratch *scratch, const struct endpoint *whose, const struct endpoint *peer,
				      __u32 tier, __u32 fields)
{
	return policy_lookup(whose->network, tier, peer->identity, scratch->policy_key, fields);
}

/* Asks the policy of one end about the other one, tier by tier, and notes in the scratch area what it says. */
static __always_inline enum verdict ask_policy(struct scratch *scratch, const struct endpoint *whose, const struct endpoint *peer,
				     enum direction direction, __u32 *rule)
{
	const struct packet *p = &scratch->packet;
	__u32 tiers = whose->tiers[direction], fields = policy_fields(p);
	__u64 result;

	*rule = NO_RULE;
	if (tiers == NO_RULE)
		return VERDICT_NOT_ASKED;
	/* One after the other, and no loop: 6.1 takes none that is fallen into from above, as the compiler would have it. */
	result = ask_tier(scratch, whose, peer, tiers * POLICY_TIERS, fields);
	if (result >> 32 == VERDICT_PASS)
		result = ask_tier(scratch, whose, peer, tiers * POLICY_TIERS + 1, fields);
	if (result >> 32 == VERDICT_PASS)
		result = ask_tier(scratch, whose, peer, tiers * POLICY_TIERS + 2, fields);
	if (result >> 32 == VERDICT_PASS)
		result = ask_tier(scratch, whose, peer, tiers * POLICY_TIERS + 3, fields);
	/* There is nothing behind the last one. */
	if (result >> 32 == VERDICT_PASS)
		result = POLICY_RESULT(VERDICT_DENY, NO_RULE);
	*rule = result;
	scratch->refused.endpoint = whose->endpoint;
	scratch->refused.rule = result;
	scratch->refused.direction = direction;
	return result >> 32;
}

/* What the verdict of the receiving end makes of one that lets pass. A flow of which one end keeps no state is the pipeline's. */
static __always_inline enum verdict both_say(enum verdict sender, enum verdict receiver)
{
	if (receiver == VERDICT_NOT_ASKED)
		return sender == VERDICT_NOT_ASKED ? VERDICT_ALLOW : sender;
	if ((receiver == VERDICT_ALLOW && sender == VERDICT_STATELESS) || (receiver == VERDICT_STATELESS && sender == VERDICT_ALLOW))
		return VERDICT_PUNT;
	return receiver;
}

/*
 * What the rules of both ends say of the packet in hand as the first of a flow. By which policy-cache entry it would begin is on the
 * scratch area, also where they do not let it; and by what it is refused then.
 */
static __always_inline enum verdict decide(struct scratch *scratch, const struct config *config, __u32 vni)
{
	const struct packet *p = &scratch->packet;
	struct endpoint_key *keys = scratch->endpoint_keys;
	struct endpoint *src = &scratch->endpoints[0], *dst = &scratch->endpoints[1];
	struct cached_policy *cached_policy = &scratch->cached_policy;
	const struct policy_block *head;
	const struct network *network;
	__u32 place, epoch, zero = 0;
	enum verdict verdict, other;
	void *policy;

	if (config->flags & CONFIG_UNDECIDED)
		return VERDICT_UNKNOWN;
	keys[0] = (struct endpoint_key){ p->src, vni };
	keys[1] = (struct endpoint_key){ p->dst, vni };
	if (!find_endpoint(&keys[0], src))
		return VERDICT_UNKNOWN;
	place = src->network;
	network = bpf_map_lookup_elem(&networks, &place);
	policy = bpf_map_lookup_elem(&policies, &place);
	head = policy ? bpf_map_lookup_elem(policy, &zero) : 0;
	if (!network || !head || network->vni != vni)
		return VERDICT_UNKNOWN;
	/*
	 * A change of the network begins with its policy's epoch in `networks`, goes on with its endpoints and ends with its policy.
	 * Where both say the same before the endpoints are read, and still do when everything was, all of it is of one epoch.
	 */
	epoch = head->words[POLICY_EPOCH];
	scratch->policy = policy_now(scratch, network);
	if (scratch->policy != epoch || !find_endpoint(&keys[0], src) || !find_endpoint(&keys[1], dst) ||
	    src->network != place || dst->network != place)
		return VERDICT_UNKNOWN;
	if (p->lone && !(network->marks & NETWORK_STATELESS))
		return VERDICT_UNKNOWN;
	/* Back to where it came from: only a hub sends to VTEPs what VTEPs have sent. */
	if (same_addr(&p->src, &p->dst) ||
	    (src->at & dst->at & AT_VTEP ? !(network->marks & NETWORK_HUB) : src->at == dst->at))
		return VERDICT_UNKNOWN;
	cached_policy->network = place;
	cached_policy->epoch = epoch;
	cached_policy->generation = config->generation;
	/* Addresses that move are not among the endpoints. */
	cached_policy->bindings = 0;
	cached_policy->account = src->account;
	cached_policy->ends.at[0] = src->at;
	cached_policy->ends.at[1] = dst->at;
	__builtin_memcpy(cached_policy->ends.macs[0], src->mac, 6);
	__builtin_memcpy(cached_policy->ends.macs[1], dst->mac, 6);
	if (!make_template(&cached_policy->templates[0], network, src, dst) || !make_template(&cached_policy->templates[1], network, dst, src))
		return VERDICT_UNKNOWN;
	scratch->policy_key = policy_key(p);
	verdict = ask_policy(scratch, src, dst, EGRESS, &cached_policy->rules[0]);
	if (verdict == VERDICT_ALLOW || verdict >= VERDICT_STATELESS) {
		other = ask_policy(scratch, dst, src, INGRESS, &cached_policy->rules[1]);
		verdict = both_say(verdict, other);
	}
	if (verdict == VERDICT_ALLOW && (src->flags | dst->flags) & ENDPOINT_OWN_TIMEOUTS)
		verdict = VERDICT_PUNT;
	return policy_now(scratch, network) == epoch ? verdict : VERDICT_UNKNOWN;
}
