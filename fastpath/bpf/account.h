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

/* So often is tried to change a word that others change, too. */
#define PACE_ATTEMPTS 4

/*
 * One flow begins at a place, if that keeps the pace: as `Words::begin` in conntrack's `quota/pace.rs`. Where others are quicker time and
 * again, the pipeline is to say.
 */
static __always_inline bool begin_at(__u32 place, __u64 now)
{
	struct account *account = bpf_map_lookup_elem(&accounts, &place);
	__u64 pace, between, most;

	if (!account)
		return false;
	pace = *(volatile const __u64 *)&account->pace;
	if (!pace)
		return true;
	between = (__u32)pace;
	most = (pace >> 32) * between;
	for (int i = 0; i < PACE_ATTEMPTS; i++) {
		__u64 next = *(volatile const __u64 *)&account->next;
		__u64 then = (next > now ? next : now) + between;

		if (then - now > most)
			return false;
		if (__sync_val_compare_and_swap(&account->next, next, then) == next)
			return true;
	}
	return false;
}

/*
 * One that was to begin has not: as `Words::give_back`. Where there was no pace yet when it was to begin, there is nothing to give back,
 * and a moment before the clock's first would be one that never comes. Where others are quicker time and again, one less begins.
 */
static __always_inline void give_back_at(__u32 place)
{
	struct account *account = bpf_map_lookup_elem(&accounts, &place);
	__u64 between;

	if (!account)
		return;
	between = (__u32)*(volatile const __u64 *)&account->pace;
	for (int i = 0; i < PACE_ATTEMPTS; i++) {
		__u64 next = *(volatile const __u64 *)&account->next;

		if (next < between || __sync_val_compare_and_swap(&account->next, next, next - between) == next)
			return;
	}
}

__noinline int give_back_start(__u32 account, __u32 network)
{
	give_back_at(network);
	give_back_at(account);
	return 0;
}

/* One flow begins of an endpoint and its network, as often as both may; `now` by the daemon's clock. */
__noinline int take_start(__u32 account, __u32 network, __u64 now)
{
	if (!begin_at(account, now))
		return 0;
	if (begin_at(network, now))
		return 1;
	give_back_at(account);
	return 0;
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
