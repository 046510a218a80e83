/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * How a change of single endpoints ends what was decided about them: the daemon writes who has changed into `changed`, says
 * so in the networks' rows, and runs `recheck` once over all flows, cached decisions and answers. Those that name one of
 * them and were decided before are in force no more; nobody else's are touched. It runs by BPF_PROG_RUN alone, as `take` does.
 *
 * A program may have decided by what was before and put its flow into the table behind the walk. It notices by itself:
 * `network.policy` is another one by then (`still_decided`).
 */
#pragma once

#include "track.h"

struct rechecked {
	__u32 flows;
	__u32 others;
};

/* The word and the bit of the filter that stand for a key and others */
static __always_inline __u64 *filter_word(const struct changed_key *key, __u64 *bit)
{
	const __u32 *be = key->addr.be;
	__u32 hash = (be[0] ^ be[1] ^ be[2] ^ be[3] ^ key->vni) * 0x9e3779b1;
	__u32 zero = 0;
	struct changed_filter *filter = bpf_map_lookup_elem(&changed_filter, &zero);

	*bit = 1ull << (hash >> 26);
	return filter ? &filter->words[hash >> 16 & 63] : NULL;
}

static long note_changed(void *map, const struct changed_key *key, __u32 *since, void *nothing)
{
	__u64 bit, *word = filter_word(key, &bit);

	if (word)
		*word |= bit;
	return 0;
}

static __always_inline bool is_changed(const struct changed_key *key, __u32 epoch)
{
	__u64 bit, *word = filter_word(key, &bit);
	const __u32 *since;

	if (!word || !(*word & bit))
		return false;
	since = bpf_map_lookup_elem(&changed, key);
	return since && epoch < *since;
}

static __always_inline bool has_changed(const struct addr *addr, __u32 vni, __u32 epoch)
{
	struct changed_key key = { .addr = *addr, .vni = vni, .kind = CHANGED_ADDRESS };

	return is_changed(&key, epoch);
}

static __always_inline bool mac_has_changed(const __u8 *mac, __u32 vni, __u32 epoch)
{
	struct changed_key key = { .vni = vni, .kind = CHANGED_MAC };

	__builtin_memcpy(&key.addr, mac, 6);
	return is_changed(&key, epoch);
}

static __always_inline bool ends_have_changed(const struct ends *ends, __u32 vni, __u32 epoch)
{
	return mac_has_changed(ends->macs[0], vni, epoch) || mac_has_changed(ends->macs[1], vni, epoch);
}

static long recheck_flow(void *map, const struct flow_key *key, struct flow *found, struct rechecked *count)
{
	__u32 epoch = found->epoch;
	struct flow *flow;

	if (found->marks & (FLOW_RESERVED | FLOW_STALE) ||
	    !(has_changed(&key->low, key->vni, epoch) || has_changed(&key->high, key->vni, epoch) ||
	      ends_have_changed(&found->ends, key->vni, epoch)))
		return 0;
	/* Kernels before 6.2 lock only what a look-up has found. */
	flow = bpf_map_lookup_elem(&flows, key);
	if (!flow)
		return 0;
	bpf_spin_lock(&flow->lock);
	/* Otherwise another has begun in its place since. */
	if (flow->epoch == epoch)
		flow->marks |= FLOW_STALE;
	bpf_spin_unlock(&flow->lock);
	count->flows++;
	return 0;
}

static long recheck_cached(void *map, const struct policy_cache_key *key, struct cached_policy *found,
			   struct rechecked *count)
{
	if (has_changed(&key->src, key->vni, found->epoch) || has_changed(&key->dst, key->vni, found->epoch) ||
	    ends_have_changed(&found->ends, key->vni, found->epoch)) {
		found->epoch = 0;
		count->others++;
	}
	return 0;
}

static long recheck_answer(void *map, const struct neighbor_key *key, struct answer *found,
			   struct rechecked *count)
{
	__u32 place = found->network;
	const struct network *network = bpf_map_lookup_elem(&networks, &place);

	if (network && (has_changed(&key->sender, network->vni, found->epoch) ||
			has_changed(&key->target, network->vni, found->epoch) ||
			mac_has_changed(key->mac, network->vni, found->epoch))) {
		found->epoch = 0;
		count->others++;
	}
	return 0;
}

/* Answers with how many flows are to be decided again, in place of the frame's first bytes. */
SEC("tc")
int recheck(struct __sk_buff *skb)
{
	struct changed_filter *filter;
	struct rechecked count = {};
	__u32 zero = 0;

	filter = bpf_map_lookup_elem(&changed_filter, &zero);
	if (!filter)
		return TC_ACT_SHOT;
	__builtin_memset(filter, 0, sizeof(*filter));
	bpf_for_each_map_elem(&changed, note_changed, NULL, 0);
	bpf_for_each_map_elem(&flows, recheck_flow, &count, 0);
	bpf_for_each_map_elem(&policy_cache, recheck_cached, &count, 0);
	bpf_for_each_map_elem(&neighbor_cache, recheck_answer, &count, 0);
	bpf_skb_store_bytes(skb, 0, &count, sizeof(count), 0);
	return TC_ACT_OK;
}
