/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* The path of a frame that a tenant sends. */
#pragma once

#include "answer.h"
#include "born.h"
#include "checksum.h"
#include "deliver.h"
#include "deny.h"
#include "fragment.h"
#include "leg.h"
#include "slow.h"

static __always_inline bool to_many(struct __sk_buff *skb)
{
	const struct ethhdr *ethernet = (void *)(long)skb->data;

	return (void *)(ethernet + 1) <= (void *)(long)skb->data_end && ethernet->h_dest[0] & 1;
}

/* What is not decided here is decided by the pipeline; the frame goes there whole, with the attachment it came by. */
static __always_inline int up(struct __sk_buff *skb, const struct attachment *from, const struct config *config)
{
	struct up_header header = { .ethertype_be = bpf_htons(UP_ETHERTYPE) };
	const struct desk *desk = the_desk();
	__u32 why = desk ? desk->packet.punt : PUNT_OTHER;

	/* Of what goes to many nothing is done here. */
	if ((why == PUNT_UNDECIDED || why == PUNT_PROTOCOL) && to_many(skb))
		why = PUNT_MULTICAST;
	if (!may_go_up(skb, from->vni))
		return TC_ACT_SHOT;
	header.attachment_be = bpf_htonl(from->id);
	header.session_be = bpf_htonl(config->session);
	header.hash_be = bpf_htonl(bpf_get_hash_recalc(skb));
	if (bpf_skb_change_head(skb, sizeof(header), 0) ||
	    bpf_skb_store_bytes(skb, 0, &header, sizeof(header), 0)) {
		count(STAT_UP_FAILED);
		return TC_ACT_SHOT;
	}
	count(STAT_UP);
	count_punt(why);
	skb->mark = EASTGATE_MARK;
	return bpf_redirect(config->up_device, 0);
}

/* 1 admit: a flow was admitted from one attachment with these MACs, and from nowhere else. */
static __always_inline bool comes_from_port(struct __sk_buff *skb, const struct attachment *from,
					      const struct ends *ends, const struct lane *lane,
					      const struct network *network, __u32 side, struct packet *p)
{
	__u32 at = side ? ends->at[1] : ends->at[0];
	void *data = (void *)(long)skb->data;

	if (data + ETH_HLEN > (void *)(long)skb->data_end)
		return punt(p, PUNT_MALFORMED);
	if (!sum_can_be_had(skb, p, ends, side, SUM_NONE))
		return punt(p, PUNT_OUTER);
	return (lane->flags & LANE_OPEN && at == from->number && right_macs(data, ends, lane, network, side) &&
		largest(skb, p) <= lane->max_packet) ||
	       punt(p, PUNT_PATH);
}

/* 3 track, 4 decide: whether the packet passes, and where to. */
static __always_inline enum passing tenant_passage(struct __sk_buff *skb, const struct attachment *from,
						   const struct config *config, struct desk *desk,
						   struct passage *passage)
{
	struct packet *p = &desk->packet;
	__u32 side = key_of(p, from->vni, &desk->key);
	const void *frame = (void *)(long)skb->data;
	const struct network *network;
	struct flow *flow;

	if (frame + ETH_HLEN > (void *)(long)skb->data_end)
		return GOES_UP;
	flow = find_flow(desk, frame, side);

	if (flow) {
		const struct lane *lane = side ? &flow->ways[1].lane : &flow->ways[0].lane;

		network = in_force(flow, config->generation);
		if (!network) {
			if (!may_replace(flow, p, side, config->generation)) {
				p->punt = why_not_in_force(flow);
				return GOES_UP;
			}
		} else if (!comes_from_port(skb, from, &flow->ends, lane, network, side, p)) {
			return GOES_UP;
		} else if (pass(skb, flow, side, desk, config)) {
			find_passage(desk, network, side, passage);
			return comes_from_port(skb, from, &desk->ends, &desk->lane, network, side, p) ? PASSES : GOES_UP;
		} else if (!is_syn(p)) {
			return GOES_UP;
		}
	}
	/* Flows of other legs than the direct one are opened by the pipeline. */
	if (desk->key.leg || !may_begin(skb, p) || !beginning_fits(skb, 0, p, 0))
		return GOES_UP;
	network = judge(desk, config, from->vni, side);
	if (!network || !comes_from_port(skb, from, &desk->ends, &desk->lane, network, side, p))
		return GOES_UP;
	/* The other fragments of what is refused are the pipeline's to refuse. */
	if (desk->said == SAID_DENY)
		return !flow && !p->fragment && count_denial(desk, config, from->id, skb->len) ? DENIED : GOES_UP;
	if (!(flow ? reborn(flow, desk, config, side) : born(desk, config, side)))
		return GOES_UP;
	find_passage(desk, network, side, passage);
	return PASSES;
}

/* The packet on the desk was counted and goes up after all, where it is counted again. */
static __always_inline void uncount(struct __sk_buff *skb, struct desk *desk)
{
	const struct packet *p = &desk->packet;
	struct flow *flow = bpf_map_lookup_elem(&flows, &desk->key);
	__u32 bytes = p->len + ETH_HLEN, packets = 1, gso_size = skb->gso_size;
	struct way *way;

	if (!flow)
		return;
	if (gso_size)
		packets = (bytes + gso_size - 1) / gso_size;
	way = same_addr(&p->src, &desk->key.low) ? &flow->ways[0] : &flow->ways[1];
	bpf_spin_lock(&flow->lock);
	if (way->packets >= packets && way->bytes >= bytes) {
		way->packets -= packets;
		way->bytes -= bytes;
	}
	bpf_spin_unlock(&flow->lock);
}

/* The verdict, or WRAP_REFUSED for a frame that has to go up. */
static __always_inline int tenant_path(struct __sk_buff *skb, const struct attachment *from, const struct config *config)
{
	struct desk *desk = the_desk();
	struct passage *passage;
	struct packet *p;

	if (!desk)
		return WRAP_REFUSED;
	p = &desk->packet;
	passage = &desk->passage;
	/* 2 answer: what is no packet of a flow may be a request for an address. */
	if (!read_packet(skb, 0, p) && (skb->vlan_present || read_fragment(skb, 0, from->vni) == FRAGMENT_NONE))
		return answer_again(skb, from->number, from->vni, config->generation);
	if (p->fragment == FRAGMENT_UP || !read_options(skb, 0, p) || !segment_fits(skb, 0, p, 0))
		return WRAP_REFUSED;
	switch (tenant_passage(skb, from, config, desk, passage)) {
	case GOES_UP:
		return WRAP_REFUSED;
	case DENIED:
		return TC_ACT_SHOT;
	case PASSES:
		break;
	}
	if (p->fragment && !fragment_passes())
		return WRAP_REFUSED;
	/* 6 forward, 7 wrap */
	if (passage->to & AT_VTEP) {
		int verdict = into_tunnel(skb, config, passage, desk, from->vni, 0, SUM_NONE);

		if (verdict == WRAP_REFUSED)
			uncount(skb, desk);
		return verdict;
	}
	return write_ethernet(skb, passage) ? into_attachment(skb, passage, true) : WRAP_BROKEN;
}

/* The VLAN that a frame is of, or 0: its tag is noted beside it, as by the kernel, or stands in it, as in a trial. */
static __always_inline __u16 vlan_of(struct __sk_buff *skb)
{
	__be16 tag;

	if (skb->vlan_present)
		return skb->vlan_tci & VLAN_ID;
	if (skb->protocol != bpf_htons(ETH_P_8021Q) || bpf_skb_load_bytes(skb, ETH_HLEN, &tag, sizeof(tag)))
		return 0;
	return bpf_ntohs(tag) & VLAN_ID;
}

/*
 * The attachment that a frame came by: resolved once, here. One on a VLAN gets its frames without that tag, as it sends
 * them.
 */
static __always_inline const struct attachment *arrived_by(struct __sk_buff *skb)
{
	struct attachment_key key = { .ifindex = skb->ifindex, .vlan = vlan_of(skb) };
	const struct attachment *found = bpf_map_lookup_elem(&attachments, &key);

	if (!key.vlan)
		return found;
	if (found)
		return bpf_skb_vlan_pop(skb) ? 0 : found;
	key.vlan = 0;
	found = bpf_map_lookup_elem(&attachments, &key);
	return found && found->flags & ATTACHMENT_ANY_VLAN ? found : 0;
}

SEC("tc")
int tenant(struct __sk_buff *skb)
{
	const struct config *config = the_config();
	const struct attachment *from = arrived_by(skb);
	int verdict;

	count(STAT_FROM_PORTS);
	if (!config || !from) {
		count(STAT_LOST);
		return TC_ACT_SHOT;
	}
	verdict = tenant_path(skb, from, config);
	if (verdict == WRAP_REFUSED) {
		const struct desk *desk = the_desk();

		if (desk && desk->packet.fragment)
			fragment_goes_up();
		return up(skb, from, config);
	}
	if (verdict == WRAP_BROKEN) {
		count(STAT_UP_FAILED);
		return TC_ACT_SHOT;
	}
	return verdict;
}
