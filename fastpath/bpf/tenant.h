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

/* What is not decided here is decided by the pipeline; the frame goes there whole, with the port it came from. */
static __always_inline int up(struct __sk_buff *skb, const struct port *port, const struct config *config)
{
	struct up_header header = { .ethertype_be = bpf_htons(UP_ETHERTYPE) };
	const struct desk *desk = the_desk();
	__u32 why = desk ? desk->packet.punt : PUNT_OTHER;

	/* Of what goes to many nothing is done here. */
	if ((why == PUNT_UNDECIDED || why == PUNT_PROTOCOL) && to_many(skb))
		why = PUNT_MULTICAST;
	if (!may_go_up(skb, port->vni))
		return TC_ACT_SHOT;
	header.port_be = bpf_htonl(port->id);
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

/* 1 admit: a flow was admitted from one port with these MACs, and from nowhere else. */
static __always_inline bool comes_from_port(struct __sk_buff *skb, const struct ends *ends, const struct lane *lane,
					    const struct network *network, __u32 side, struct packet *p)
{
	__u32 from = side ? ends->at[1] : ends->at[0];
	void *data = (void *)(long)skb->data;

	if (data + ETH_HLEN > (void *)(long)skb->data_end)
		return punt(p, PUNT_MALFORMED);
	if (!sum_can_be_had(skb, p, ends, side, SUM_NONE))
		return punt(p, PUNT_OUTER);
	return (lane->flags & LANE_OPEN && from == skb->ifindex && right_macs(data, ends, lane, network, side) &&
		largest(skb, p) <= lane->max_packet) ||
	       punt(p, PUNT_PATH);
}

/* 3 track, 4 decide: whether the packet passes, and where to. */
static __always_inline enum passing tenant_passage(struct __sk_buff *skb, const struct port *port,
						   const struct config *config, struct desk *desk,
						   struct passage *passage)
{
	struct packet *p = &desk->packet;
	__u32 side = key_of(p, port->vni, &desk->key);
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
		} else if (!comes_from_port(skb, &flow->ends, lane, network, side, p)) {
			return GOES_UP;
		} else if (pass(skb, flow, side, desk, config)) {
			find_passage(desk, network, side, passage);
			return comes_from_port(skb, &desk->ends, &desk->lane, network, side, p) ? PASSES : GOES_UP;
		} else if (!is_syn(p)) {
			return GOES_UP;
		}
	}
	/* Flows of other legs than the direct one are opened by the pipeline. */
	if (desk->key.leg || !may_begin(skb, p) || !beginning_fits(skb, 0, p, 0))
		return GOES_UP;
	network = judge(desk, config, port->vni, side);
	if (!network || !comes_from_port(skb, &desk->ends, &desk->lane, network, side, p))
		return GOES_UP;
	/* The other fragments of what is refused are the pipeline's to refuse. */
	if (desk->said == SAID_DENY)
		return !flow && !p->fragment && count_denial(desk, config, port->id, skb->len) ? DENIED : GOES_UP;
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
static __always_inline int tenant_path(struct __sk_buff *skb, const struct port *port, const struct config *config)
{
	struct desk *desk = the_desk();
	struct passage *passage;
	struct packet *p;

	if (!desk)
		return WRAP_REFUSED;
	p = &desk->packet;
	passage = &desk->passage;
	/* 2 answer: what is no packet of a flow may be a request for an address. */
	if (!read_packet(skb, 0, p) && (skb->vlan_present || read_fragment(skb, 0, port->vni) == FRAGMENT_NONE))
		return answer_again(skb, port->vni, config->generation);
	if (p->fragment == FRAGMENT_UP || !read_options(skb, 0, p) || !segment_fits(skb, 0, p, 0))
		return WRAP_REFUSED;
	switch (tenant_passage(skb, port, config, desk, passage)) {
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
		int verdict = into_tunnel(skb, config, passage, desk, port->vni, 0, SUM_NONE);

		if (verdict == WRAP_REFUSED)
			uncount(skb, desk);
		return verdict;
	}
	return write_ethernet(skb, passage) ? into_port(skb, passage, true) : WRAP_BROKEN;
}

SEC("tc")
int tenant(struct __sk_buff *skb)
{
	const struct config *config = the_config();
	__u32 ifindex = skb->ifindex;
	const struct port *port = bpf_map_lookup_elem(&ports, &ifindex);
	int verdict;

	count(STAT_FROM_PORTS);
	if (!config || !port) {
		count(STAT_LOST);
		return TC_ACT_SHOT;
	}
	verdict = tenant_path(skb, port, config);
	if (verdict == WRAP_REFUSED) {
		const struct desk *desk = the_desk();

		if (desk && desk->packet.fragment)
			fragment_goes_up();
		return up(skb, port, config);
	}
	if (verdict == WRAP_BROKEN) {
		count(STAT_UP_FAILED);
		return TC_ACT_SHOT;
	}
	return verdict;
}
