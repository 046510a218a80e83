/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Packets that rules without state let pass: they go where they would go as the first of a flow, and begin none. Of each it is
 * counted by which rules.
 */
#pragma once

#include "create.h"

/* Counts `packets` and `bytes` for one end of the packet in the scratch area, or takes them back; `false` when there is no room to. */
static __always_inline bool count_for_end(struct scratch *scratch, __u32 end, __s64 packets, __s64 bytes)
{
	struct policy_drop_key *key = &scratch->passed;
	struct denied *passed;

	key->rule = scratch->cached_policy.rules[end];
	if (key->rule == NO_RULE)
		return true;
	key->endpoint = scratch->endpoints[end].endpoint;
	key->direction = end ? INGRESS : EGRESS;
	passed = bpf_map_lookup_elem(&stateless, key);
	if (!passed) {
		bpf_map_update_elem(&stateless, key, scratch->nothing, BPF_NOEXIST);
		passed = bpf_map_lookup_elem(&stateless, key);
	}
	if (!passed)
		return false;
	__sync_fetch_and_add(&passed->packets, packets);
	__sync_fetch_and_add(&passed->bytes, bytes);
	passed->last_at = the_time();
	return true;
}

/* Not static, so that the verifier looks at it once; `sign` is 1, or -1 for a packet that is punted after all. */
__noinline int count_stateless(struct __sk_buff *skb, int sign)
{
	struct scratch *scratch = the_scratch();
	__s64 packets = 1, bytes, gso_size;

	if (!scratch)
		return 0;
	bytes = scratch->packet.len + ETH_HLEN;
	gso_size = skb->gso_size;
	if (gso_size)
		packets = (__u32)(bytes + gso_size - 1) / (__u32)gso_size;
	scratch->passed.network = scratch->cached_policy.network;
	scratch->passed.policy = scratch->cached_policy.epoch;
	return count_for_end(scratch, 0, sign < 0 ? -packets : packets, sign < 0 ? -bytes : bytes) &&
	       count_for_end(scratch, 1, sign < 0 ? -packets : packets, sign < 0 ? -bytes : bytes);
}

/* May the packet pass, which rules without state allow? One that a flow of its has no place for the pipeline judges. */
static __always_inline bool pass_alone(struct __sk_buff *skb, const struct flow *flow, struct scratch *scratch)
{
	struct packet *p = &scratch->packet;
	__u32 network = scratch->cached_policy.network;
	const struct ct_settings *ct = bpf_map_lookup_elem(&ct_settings, &network);

	if (flow || p->fragment)
		return punt(p, flow ? PUNT_STALE : PUNT_FRAGMENT);
	if (!ct || clamps(p, ct))
		return punt(p, PUNT_SYN_MSS);
	scratch->template.source_port_be = source_port(p);
	p->stateless = count_stateless(skb, 1);
	return p->stateless || punt(p, PUNT_DENIED);
}
