/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * A packet that an endpoint forwards inside its network passes twice, with the same addresses and ports. Each leg of its way
 * is a flow of its own, whose key names those ends that stand in for the holders of its addresses; wire's `Leg` makes it
 * in the same way. Who holds an address is not asked here: of the keys that the frame's MACs can stand for, the one in the
 * table is the packet's, since it was put there for these MACs.
 */
#pragma once

#include "maps.h"
#include "packet.h"

#define LEG_LOW 1
#define LEG_HIGH 2

/* A MAC's part of a leg */
static __always_inline __u32 leg_half(const __u8 *mac)
{
	__u32 vendor = (__u32)mac[0] << 8 | mac[1];
	__u32 mixed = (__u32)mac[2] << 24 | (__u32)mac[3] << 16 | (__u32)mac[4] << 8 | mac[5];

	mixed = (mixed ^ vendor * 0x9e3779b1u) * 0x85ebca6bu;
	mixed ^= mixed >> 15;
	return mixed ? mixed : 1;
}

/* Was the flow put there for frames with these MACs? One that the pipeline has is there for whatever comes. */
static __always_inline bool has_macs(const struct flow *flow, const struct ethhdr *frame, __u32 side)
{
	const struct ends *ends = &flow->ends;
	const struct template *template = side ? &flow->dirs[1].template : &flow->dirs[0].template;

	return same_mac(frame->h_source, side ? ends->macs[1] : ends->macs[0]) &&
	       (template->flags & TEMPLATE_TO_US || same_mac(frame->h_dest, side ? ends->macs[0] : ends->macs[1]));
}

/*
 * The flow of the packet whose key is in the scratch area, which is the key on the direct leg when this is called, and the flow's
 * own afterwards. `side` is the end that it comes from.
 */
static __always_inline struct flow *find_flow(struct scratch *scratch, const struct ethhdr *frame, __u32 side)
{
	struct flow *found = bpf_map_lookup_elem(&flows, &scratch->key);
	__u32 high, tried;

	if (found && !(found->marks & FLOW_RESERVED) && has_macs(found, frame, side))
		return found;
	/* in the scratch area, since the stack is short. */
	scratch->leg_low = leg_half(side ? frame->h_dest : frame->h_source);
	high = leg_half(side ? frame->h_source : frame->h_dest);
	scratch->leg_high = high << 16 | high >> 16;
#pragma unroll
	for (tried = LEG_LOW; tried <= (LEG_LOW | LEG_HIGH); tried++) {
		scratch->key.leg = (tried & LEG_LOW ? scratch->leg_low : 0) ^ (tried & LEG_HIGH ? scratch->leg_high : 0);
		found = bpf_map_lookup_elem(&flows, &scratch->key);
		if (found && (found->marks & FLOW_RESERVED || has_macs(found, frame, side)))
			return found;
	}
	scratch->key.leg = 0;
	return bpf_map_lookup_elem(&flows, &scratch->key);
}
