/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * How the daemon takes a flow out of the programs' hands: in one step, under the flow's lock, it learns where the flow
 * has got to and nothing passes by it any more. Looking it up and deleting it would lose what passes in between, and
 * without an entry in its place the flow could be created again beside the pipeline's own. It runs by BPF_PROG_RUN alone,
 * as a program for frames since that kind may lock.
 */
#pragma once

#include "track.h"

_Static_assert(sizeof(struct take) == 16 + sizeof(struct flow_key) + sizeof(struct flow), "as in src/layout.rs");

SEC("tc")
int take(struct __sk_buff *skb)
{
	struct take *take = (void *)(long)skb->data;
	const struct ct_settings *ct;
	struct flow_key key;
	struct flow *flow;
	__u32 network;
	__u8 how, result;
	__u64 now;

	if ((void *)(take + 1) > (void *)(long)skb->data_end)
		return TC_ACT_SHOT;
	how = take->how;
	key = take->key;
	take->result = TAKE_ABSENT;
	flow = bpf_map_lookup_elem(&flows, &key);
	if (!flow)
		return TC_ACT_OK;
	network = flow->network;
	ct = bpf_map_lookup_elem(&ct_settings, &network);
	if (!ct)
		return TC_ACT_SHOT;
	now = the_time();
	bpf_spin_lock(&flow->lock);
	if (flow->marks & FLOW_RESERVED) {
		result = TAKE_RESERVED;
	} else if (how & TAKE_IF_OVER && !(flow->marks & FLOW_KERNEL_CREATED &&
					   is_over(flow, state_of(flow, key.proto), ct, now))) {
		result = TAKE_ALIVE;
	} else if (how & TAKE_IF_RANK && !(flow->marks & FLOW_KERNEL_CREATED && rank_of(flow, state_of(flow, key.proto), now) ==
								      how >> TAKE_RANK_AT)) {
		result = TAKE_ALIVE;
	} else {
		result = TAKE_TAKEN;
		take->flow.network = flow->network;
		take->flow.epoch = flow->epoch;
		take->flow.generation = flow->generation;
		take->flow.last_seen = flow->last_seen;
		take->flow.created = flow->created;
		take->flow.opener = flow->opener;
		take->flow.marks = flow->marks;
		take->flow.ends = flow->ends;
		take->flow.dirs[0] = flow->dirs[0];
		take->flow.dirs[1] = flow->dirs[1];
		flow->marks |= FLOW_RESERVED;
	}
	bpf_spin_unlock(&flow->lock);
	take->result = result;
	if (how & TAKE_DELETE && (result == TAKE_TAKEN || (result == TAKE_RESERVED && !(how & (TAKE_IF_OVER | TAKE_IF_RANK)))))
		bpf_map_delete_elem(&flows, &key);
	return TC_ACT_OK;
}
