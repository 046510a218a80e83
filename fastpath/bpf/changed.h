/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Changes of single endpoints: who is decided about anew, and since which epoch, stands in `changed` before the network's
 * row says that the change is in force. While the row says so, each packet looks there by itself; meanwhile `recheck`
 * goes through the tables, and when it is done the row says so no more.
 */
#pragma once

#include "maps.h"

static __always_inline bool is_changing(const struct network *network)
{
	return *(volatile const __u16 *)&network->marks & NETWORK_CHANGING;
}

/* Is it decided about anew what was decided about the one in the scratch area? */
static __always_inline bool has_changed_since(const struct parties *parties)
{
	const __u32 *since = bpf_map_lookup_elem(&changed, &parties->key);

	return since && parties->epoch < *since;
}

/* Is what was decided about `scratch->parties` in force no more? Not static, so that the verifier looks at it once. */
__noinline int is_superseded(void)
{
	struct scratch *scratch = the_scratch();
	struct parties *parties;

	if (!scratch)
		return 1;
	parties = &scratch->parties;
	parties->key.kind = CHANGED_ADDRESS;
#pragma unroll
	for (int i = 0; i < 2; i++) {
		parties->key.addr = parties->addrs[i];
		if (has_changed_since(parties))
			return 1;
	}
	parties->key.kind = CHANGED_MAC;
#pragma unroll
	for (int i = 0; i < 2; i++) {
		__builtin_memset(&parties->key.addr, 0, sizeof(parties->key.addr));
		__builtin_memcpy(&parties->key.addr, parties->macs[i], 6);
		if (has_changed_since(parties))
			return 1;
	}
	return 0;
}

static __always_inline bool flow_is_superseded(struct scratch *scratch, const struct flow *flow)
{
	struct parties *parties = &scratch->parties;

	parties->addrs[0] = scratch->key.low;
	parties->addrs[1] = scratch->key.high;
	__builtin_memcpy(parties->macs, flow->ends.macs, sizeof(parties->macs));
	parties->key.vni = scratch->key.vni;
	parties->epoch = flow->epoch;
	return is_superseded();
}

/* By the copies of the entry and of its key in the scratch area */
static __always_inline bool cached_is_superseded(struct scratch *scratch)
{
	struct parties *parties = &scratch->parties;

	parties->addrs[0] = scratch->policy_cache_key.src;
	parties->addrs[1] = scratch->policy_cache_key.dst;
	__builtin_memcpy(parties->macs, scratch->cached_policy.ends.macs, sizeof(parties->macs));
	parties->key.vni = scratch->policy_cache_key.vni;
	parties->epoch = scratch->cached_policy.epoch;
	return is_superseded();
}

static __always_inline bool answer_is_superseded(struct scratch *scratch, __u32 vni)
{
	struct parties *parties = &scratch->parties;

	parties->addrs[0] = scratch->asked.sender;
	parties->addrs[1] = scratch->asked.target;
	__builtin_memcpy(parties->macs[0], scratch->asked.mac, sizeof(parties->macs[0]));
	__builtin_memcpy(parties->macs[1], scratch->asked.mac, sizeof(parties->macs[1]));
	parties->key.vni = vni;
	parties->epoch = scratch->answer.epoch;
	return is_superseded();
}
