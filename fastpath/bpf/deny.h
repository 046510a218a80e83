/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Packets that the rules do not let begin a flow. They are dropped here, and counted as the pipeline counts them: by who
 * sent them, whose rules refused them, and by which.
 */
#pragma once

#include "decide.h"
#include "track.h"

/* Of the packet that is refused: by what it differs from others of its kind */
static __always_inline void remember_denied(struct desk *desk, __u32 bytes, __u64 now)
{
	const struct packet *p = &desk->packet;
	struct denied_key *key = &desk->denied;
	struct denied *seen;

	key->kind = desk->refused;
	key->src = p->src;
	key->dst = p->dst;
	key->sport = p->sport;
	key->dport = p->dport;
	key->proto = p->proto;
	seen = bpf_map_lookup_elem(&denied, key);
	if (!seen) {
		bpf_map_update_elem(&denied, key, desk->nothing, BPF_NOEXIST);
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
static __always_inline bool count_denial(struct desk *desk, const struct config *config, __u32 from, __u32 bytes)
{
	struct packet *p = &desk->packet;
	__u64 now = the_time();
	struct denial *denial;

	p->punt = PUNT_DENIED;
	if (config->flags & CONFIG_CROWDED)
		return false;
	desk->refused.network = desk->permit.network;
	desk->refused.epoch = desk->permit.epoch;
	desk->refused.from = from;
	denial = bpf_map_lookup_elem(&denials, &desk->refused);
	if (!denial) {
		bpf_map_update_elem(&denials, &desk->refused, desk->nothing, BPF_NOEXIST);
		denial = bpf_map_lookup_elem(&denials, &desk->refused);
	}
	if (!denial)
		return false;
	bpf_spin_lock(&denial->lock);
	denial->packets += 1;
	denial->bytes += bytes;
	denial->last_at = now;
	denial->src = p->src;
	denial->dst = p->dst;
	denial->sport = p->sport;
	denial->dport = p->dport;
	denial->proto = p->proto;
	bpf_spin_unlock(&denial->lock);
	remember_denied(desk, bytes, now);
	count(STAT_DENIED);
	return true;
}
