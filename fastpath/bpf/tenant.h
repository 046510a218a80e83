/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* The path of a frame that a tenant sends. */
#pragma once

#include "answer.h"
#include "born.h"
#include "checksum.h"
#include "deliver.h"
#include "deny.h"
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
	/*
	 * A superframe of datagrams that the other VTEP's socket gets uncut, on this very machine, does not tell where to
	 * cut it. The pipeline cuts it before it goes.
	 */
	if (skb->gso_size && p->proto == IPPROTO_UDP && where_to(ends, side) & AT_VTEP)
		return punt(p, PUNT_GSO);
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
	if (desk->said == SAID_DENY)
		return !flow && count_denial(desk, config, port->id, skb->len) ? DENIED : GOES_UP;
	if (!(flow ? reborn(flow, desk, config, side) : born(desk, config, side)))
		return GOES_UP;
	find_passage(desk, network, side, passage);
	return PASSES;
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
	if (!read_packet(skb, 0, p))
		return answer_again(skb, port->vni, config->generation);
	if (!read_options(skb, 0, p) || !segment_fits(skb, 0, p, 0))
		return WRAP_REFUSED;
	switch (tenant_passage(skb, port, config, desk, passage)) {
	case GOES_UP:
		return WRAP_REFUSED;
	case DENIED:
		return TC_ACT_SHOT;
	case PASSES:
		break;
	}
	/* 6 forward, 7 wrap */
	if (passage->to & AT_VTEP)
		return into_tunnel(skb, config, passage, desk, port->vni, 0);
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
	if (verdict == WRAP_REFUSED)
		return up(skb, port, config);
	if (verdict == WRAP_BROKEN) {
		count(STAT_UP_FAILED);
		return TC_ACT_SHOT;
	}
	return verdict;
}
