/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Who pays for flows: the endpoint that opens one, its network and the host have one more. The counts are the daemon's own,
 * so that limits hold for what begins here and for what the pipeline opens together.
 */
#pragma once

#include "maps.h"

/* Who pays for a flow that was created here: a place in `accounts`, in halves */
static __always_inline __u32 account_of(const struct flow *flow)
{
	return (__u32)flow->dirs[1].tcp.account_half << 16 | flow->dirs[0].tcp.account_half;
}

/* One flow more at a place. */
static __always_inline bool take_at(__u32 place, __u32 of)
{
	struct account *account = bpf_map_lookup_elem(&accounts, &place);
	__u64 before;

	if (!account)
		return false;
	before = __sync_fetch_and_add(&account->flows[of & 1], 1);
	if ((__u32)before < before >> 32)
		return true;
	__sync_fetch_and_add(&account->flows[of & 1], -1);
	return false;
}

static __always_inline void give_at(__u32 place, __u32 of)
{
	struct account *account = bpf_map_lookup_elem(&accounts, &place);

	if (account)
		__sync_fetch_and_add(&account->flows[of & 1], -1);
}

/* Not static, so that the verifier looks at it once. */
__noinline int give_places(__u32 account, __u32 network, __u32 of)
{
	give_at(HOST_ACCOUNT, of);
	give_at(network, of);
	give_at(account, of);
	return 0;
}

__noinline int take_places(__u32 account, __u32 network, __u32 of)
{
	if (!take_at(account, of))
		return 0;
	if (take_at(network, of)) {
		if (take_at(HOST_ACCOUNT, of))
			return 1;
		give_at(network, of);
	}
	give_at(account, of);
	return 0;
}

/* One flow more of a population, within the limits. */
static __always_inline bool take_place(const struct payer *payer, enum population of)
{
	return payer->is_left || take_places(payer->account, payer->network_account, of);
}

static __always_inline void give_place(const struct payer *payer, enum population of)
{
	if (!payer->is_left)
		give_places(payer->account, payer->network_account, of);
}

/* Is a flow of this generation one of a daemon before? */
static __always_inline bool is_left(__u32 generation, const struct config *config)
{
	return (__s32)(generation - config->since) < 0;
}
