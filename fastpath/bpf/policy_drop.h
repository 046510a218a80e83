/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Packets that the rules do not let begin a flow. They are dropped here, and counted as the pipeline counts them: by who
 * sent them, whose rules refused them, and by which.
 */
#pragma once

#include "decide.h"
#include "track.h"

/* Of the packet that is refused: by what it differs from others of its kind */
static __always_inline void remember_denied(struct scratch *scratch, __u32 bytes, __u64 now)
{
	const struct packet *p = &scratch->packet;
	struct denied_key *key = &scratch->denied;
	struct denied *seen;

	key->kind = scratch->refused;
	key->src = p->src;
	key->dst = p->dst;
	key->sport = p->sport;
	key->dport = p->dport;
	key->proto = p->proto;
	seen = bpf_map_lookup_elem(&denied, key);
	if (!seen) {
		bpf_map_update_elem(&denied, key, scratch->nothing, BPF_NOEXIST);
		seen = bpf_map_lookup_elem(&denied, key);
	}
	if (!seen)
		return;
	__sync_fetch_and_add(&seen->packets, 1);
	__sync_fetch_and_add(&seen->bytes, bytes);
	seen->last_at = now;
}

/*
 * Counts a packet that the rules have refused; `bytes` of frame came, `from` an attachment by the daemon's number or a VTEP
 * by its place. `false` when there is no room to, and when it might be of a flow that is not known here.
 */
static __always_inline bool count_policy_drop(struct scratch *scratch, const struct config *config, __u32 from, __u32 bytes)
{
	struct packet *p = &scratch->packet;
	__u64 now = the_time();
	struct policy_drop *policy_drop;

	p->punt = PUNT_DENIED;
	if (config->flags & CONFIG_CROWDED)
		return false;
	scratch->refused.network = scratch->cached_policy.network;
	scratch->refused.policy = scratch->cached_policy.epoch;
	scratch->refused.from = from;
	policy_drop = bpf_map_lookup_elem(&policy_drops, &scratch->refused);
	if (!policy_drop) {
		bpf_map_update_elem(&policy_drops, &scratch->refused, scratch->nothing, BPF_NOEXIST);
		policy_drop = bpf_map_lookup_elem(&policy_drops, &scratch->refused);
	}
	if (!policy_drop)
		return false;
	bpf_spin_lock(&policy_drop->lock);
	if (!policy_drop->packets)
		policy_drop->first_at = now;
	policy_drop->packets += 1;
	policy_drop->bytes += bytes;
	policy_drop->last_at = now;
	policy_drop->src = p->src;
	policy_drop->dst = p->dst;
	policy_drop->sport = p->sport;
	policy_drop->dport = p->dport;
	policy_drop->proto = p->proto;
	bpf_spin_unlock(&policy_drop->lock);
	remember_denied(scratch, bytes, now);
	count(STAT_DENIED);
	return true;
}
