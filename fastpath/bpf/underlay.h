/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * The path of a datagram from another VTEP. What is not decided here goes on to the daemon's socket as if there were
 * no program. A GSO packet for a port is not cut out of its tunnel here: only the kernel's own vxlan device resets what
 * the kernel notes about it, so it is sent there, by way of its destination port, and met again in `tunnel`. One for
 * another VTEP stays encapsulated: what is noted about it goes on being true.
 */
#pragma once

#include "create.h"
#include "checksum.h"
#include "deliver.h"
#include "policy_drop.h"
#include "fragment.h"
#include "leg.h"
#include "punt_limit.h"
#include "stateless.h"

/* The UDP header at `at`, and what follows it: is it a VXLAN header as we write them ourselves? */
static __always_inline bool read_vxlan(struct __sk_buff *skb, const __u32 at, const struct config *config,
				       struct outer *outer)
{
	void *data = (void *)(long)skb->data;
	const struct udphdr *udp = data + at;
	const struct vxlan_header *vxlan = (const void *)(udp + 1);

	if ((void *)(vxlan + 1) > (void *)(long)skb->data_end)
		return false;
	if (udp->dest != config->vxlan_port_be || bpf_ntohs(udp->len) + at != skb->len ||
	    vxlan->flags_be != bpf_htonl(VXLAN_FLAGS) || vxlan->vni_be & bpf_htonl(0xff))
		return false;
	outer->vni = bpf_ntohl(vxlan->vni_be) >> 8;
	return true;
}

static __always_inline bool read_outer_v4(struct __sk_buff *skb, const struct config *config, struct outer *outer)
{
	const struct iphdr *ip;

	if (!readable(skb, ETH_HLEN + OUTER_V4))
		return false;
	ip = (void *)(long)skb->data + ETH_HLEN;
	if ((void *)(ip + 1) > (void *)(long)skb->data_end)
		return false;
	if (*(const __u8 *)ip != 0x45 || ip->protocol != IPPROTO_UDP || ip->frag_off & bpf_htons(0xbfff) ||
	    ip->daddr != config->vtep.be[3] || !is_mapped(config->vtep.be) ||
	    bpf_ntohs(ip->tot_len) + ETH_HLEN != skb->len || header_sum(ip) != 0xffff)
		return false;
	outer->src = (struct addr){ { 0, 0, bpf_htonl(0xffff), ip->saddr } };
	outer->ecn = ip->tos & 3;
	return read_vxlan(skb, ETH_HLEN + sizeof(*ip), config, outer);
}

static __always_inline bool read_outer_v6(struct __sk_buff *skb, const struct config *config, struct outer *outer)
{
	const struct ipv6hdr *ip;
	struct addr dst;

	if (!readable(skb, ETH_HLEN + OUTER_V6))
		return false;
	ip = (void *)(long)skb->data + ETH_HLEN;
	if ((void *)(ip + 1) > (void *)(long)skb->data_end)
		return false;
	__builtin_memcpy(&outer->src, &ip->saddr, sizeof(outer->src));
	__builtin_memcpy(&dst, &ip->daddr, sizeof(dst));
	if (ip->version != 6 || ip->nexthdr != IPPROTO_UDP ||
	    !same_addr(&dst, &config->vtep) ||
	    bpf_ntohs(ip->payload_len) + sizeof(*ip) + ETH_HLEN != skb->len)
		return false;
	outer->ecn = ip->flow_lbl[0] >> 4 & 3;
	return read_vxlan(skb, ETH_HLEN + sizeof(*ip), config, outer);
}

/* Is the flow's direction the one by which this frame, from this VTEP with these MACs, comes in, and does it fit? */
static __always_inline bool comes_this_way(const struct __sk_buff *skb, struct packet *p, const struct ends *ends,
					   const struct template *template, const struct network *network, __u32 side,
					   const struct addr *from, const void *frame)
{
	__u32 at = side ? ends->at[1] : ends->at[0];
	const struct vtep *vtep;

	if (!(template->flags & TEMPLATE_OPEN) || !(at & AT_VTEP) || !right_macs(frame, ends, template, network, side) ||
	    largest(skb, p) > template->max_packet || !outlives_routing(template, p))
		return punt(p, PUNT_PATH);
	at &= ~AT_VTEP;
	vtep = bpf_map_lookup_elem(&vteps, &at);
	return (vtep && same_addr(&vtep->addr, from)) || punt(p, PUNT_PATH);
}

/* RFC 6040 figure 4: would the inner ECN field have to change, or the packet be dropped? */
static __always_inline bool ecn_unchanged(__u8 outer, __u8 inner)
{
	return outer == inner || outer == 0 || (inner == 0 && outer != 3) || inner == 3 || (outer == 2 && inner == 1);
}

/*
 * Is the packet, if it is for a port, to be cut out of its tunnel by the kernel's own vxlan device? What is noted about it is
 * of outer headers, that are gone then.
 */
static __always_inline bool goes_by_tunnel(const struct __sk_buff *skb, const struct scratch *scratch)
{
	return skb->gso_size || scratch->came == SUM_OPEN;
}

/* The kernel does not take outer headers off that would leave less than an IPv6 header of a packet that came as one. */
static __always_inline bool is_small(const struct packet *p, const __u32 udp_at)
{
	return udp_at > ETH_HLEN + sizeof(struct iphdr) && p->len < sizeof(struct ipv6hdr);
}

/* Has the datagram no outer checksum, or one that is not wrong? What it is comes to be in the scratch area. */
static __always_inline bool sum_is_right(struct __sk_buff *skb, struct scratch *scratch, const __u32 udp_at)
{
	const struct udphdr *udp = (void *)(long)skb->data + udp_at;

	if ((void *)(udp + 1) > (void *)(long)skb->data_end)
		return false;
	scratch->came = udp->check ? outer_sum(skb, udp_at) : SUM_NONE;
	return scratch->came != SUM_WRONG;
}

/* The first answer in a flow that began here: it passes where there is a place for the flow among those that are answered. */
static __always_inline bool would_answer(const struct packet *p, const struct flow *flow, __u32 side)
{
	return p->proto != IPPROTO_TCP && flow->marks & FLOW_KERNEL_CREATED && flow->opener != side;
}

/* 4' track, 5' decide: whether the packet, `outer_len` bytes behind the start of the frame, passes, and where to. */
static __always_inline enum forward_verdict underlay_forward(struct __sk_buff *skb, const struct config *config,
						     struct outer *outer, const __u32 outer_len,
						     const __u32 udp_at, struct scratch *scratch, struct forwarding *forwarding)
{
	struct packet *p = &scratch->packet;
	void *data = (void *)(long)skb->data;
	const void *inner = data + outer_len;
	const struct network *network;
	struct flow *flow;
	__u32 side;

	if (data + outer_len + ETH_HLEN > (void *)(long)skb->data_end)
		return FORWARD_PUNT;
	side = key_of(p, outer->vni, &scratch->key);
	flow = find_flow(scratch, inner, side);
	if (flow) {
		const struct flow_dir *from = side ? &flow->dirs[1] : &flow->dirs[0];
		const struct flow_dir *to = side ? &flow->dirs[0] : &flow->dirs[1];

		network = in_force(scratch, flow, config->generation);
		if (!network) {
			if (!may_replace(flow, p, side, config->generation)) {
				p->punt = why_not_in_force(flow);
				return FORWARD_PUNT;
			}
		} else if (!comes_this_way(skb, p, &flow->ends, &from->template, network, side, &outer->src, inner)) {
			return FORWARD_PUNT;
		} else if ((is_small(p, udp_at) && !(where_to(&flow->ends, side) & AT_VTEP)) ||
			   !sum_can_be_had(skb, p, &flow->ends, side, scratch->came)) {
			p->punt = PUNT_OUTER;
			return FORWARD_PUNT;
		} else if (goes_by_tunnel(skb, scratch) && !(where_to(&flow->ends, side) & AT_VTEP)) {
			__u16 port = config->tunnel_port_be;

			p->punt = skb->gso_size ? PUNT_GSO : PUNT_OUTER;
			/* Judged again, and for good, behind the tunnel. */
			if (port && (would_pass(p, flow, from, to) || would_answer(p, flow, side)))
				outer->to_tunnel =
					!bpf_skb_store_bytes(skb, udp_at + 2, &port, sizeof(port), 0);
			return FORWARD_PUNT;
		} else if (pass(skb, flow, side, scratch, config)) {
			find_forwarding(scratch, network, side, forwarding);
			return comes_this_way(skb, p, &scratch->ends, &scratch->template, network, side, &outer->src, inner) ? FORWARD_PASS :
														   FORWARD_PUNT;
		} else if (!is_syn(p)) {
			return FORWARD_PUNT;
		}
	}
	p->lone = !may_begin(skb, p);
	if (scratch->key.leg || p->fragment == FRAGMENT_LATER || !beginning_fits(skb, outer_len, p, 1))
		return FORWARD_PUNT;
	network = decide_new(scratch, config, outer->vni, side);
	if (!network || !comes_this_way(skb, p, &scratch->ends, &scratch->template, network, side, &outer->src, inner))
		return FORWARD_PUNT;
	if (((goes_by_tunnel(skb, scratch) || is_small(p, udp_at)) && !(where_to(&scratch->ends, side) & AT_VTEP)) ||
	    !sum_can_be_had(skb, p, &scratch->ends, side, scratch->came)) {
		p->punt = skb->gso_size ? PUNT_GSO : PUNT_OUTER;
		return FORWARD_PUNT;
	}
	if (scratch->verdict == VERDICT_DENY)
		return !flow && !p->fragment && count_policy_drop(scratch, config, scratch->cached_policy.ends.at[0], skb->len - udp_at - sizeof(struct udphdr)) ?
			       FORWARD_DENY :
			       FORWARD_PUNT;
	if (!(scratch->verdict == VERDICT_STATELESS ? pass_alone(skb, flow, scratch) :
	      flow ? ct_reopen(flow, scratch, config, side) : ct_create(scratch, config, side)))
		return FORWARD_PUNT;
	find_forwarding(scratch, network, side, forwarding);
	return FORWARD_PASS;
}

/* On to another VTEP: what came in `outer_len` bytes of outer headers leaves in as many. */
static __always_inline int onward(struct __sk_buff *skb, const struct config *config, const struct forwarding *forwarding,
				  struct scratch *scratch, const struct outer *outer, const __u32 outer_len)
{
	int verdict = into_tunnel(skb, config, forwarding, scratch, outer->vni, outer_len, scratch->came);

	if (verdict == PATH_PUNT)
		return verdict;
	count(STAT_FROM_UNDERLAY);
	if (verdict != PATH_BROKEN)
		return verdict;
	count(STAT_LOST);
	return TC_ACT_SHOT;
}

/* From here on the outer headers are known to be `outer_len` bytes, the inner Ethernet header included. */
static __always_inline int decap_inner(struct __sk_buff *skb, const struct config *config, struct outer *outer,
					const __u32 outer_len, const __u32 udp_at, bool outer_v6)
{
	struct scratch *scratch = the_scratch();
	struct forwarding *forwarding;
	struct packet *p;

	if (!scratch)
		return PATH_PUNT;
	p = &scratch->packet;
	forwarding = &scratch->forwarding;
	outer->read = true;
	if ((!read_packet(skb, outer_len, p) && read_fragment(skb, outer_len, outer->vni) == FRAGMENT_NONE) ||
	    p->fragment == FRAGMENT_PUNT)
		return PATH_PUNT;
	if (!ecn_unchanged(outer->ecn, p->tos & 3)) {
		p->punt = PUNT_ECN;
		return PATH_PUNT;
	}
	if (!open_checksum_fits(skb, outer_len, p, udp_at) || !read_options(skb, outer_len, p) || !segment_fits(skb, outer_len, p, 1))
		return PATH_PUNT;
	if (!sum_is_right(skb, scratch, udp_at)) {
		p->punt = PUNT_OUTER;
		return PATH_PUNT;
	}
	switch (underlay_forward(skb, config, outer, outer_len, udp_at, scratch, forwarding)) {
	case FORWARD_PUNT:
		return PATH_PUNT;
	case FORWARD_DENY:
		count(STAT_FROM_UNDERLAY);
		return TC_ACT_SHOT;
	case FORWARD_PASS:
		break;
	}
	if (p->fragment && !fragment_passes())
		return PATH_PUNT;
	/* 7' forward */
	if (forwarding->to & AT_VTEP)
		return onward(skb, config, forwarding, scratch, outer, outer_len);
	count(STAT_FROM_UNDERLAY);
	/* A GSO packet whose flow was one to another VTEP a moment ago has no business here. */
	if (goes_by_tunnel(skb, scratch) || is_small(p, udp_at) || bpf_skb_adjust_room(skb, -(__s32)outer_len, BPF_ADJ_ROOM_MAC, 0) ||
	    !write_ethernet(skb, forwarding)) {
		count(STAT_LOST);
		return TC_ACT_SHOT;
	}
	return into_attachment(skb, forwarding, p->v6 == outer_v6);
}

static __always_inline int unwrap(struct __sk_buff *skb, const struct config *config, struct outer *outer,
				  const __u32 outer_len, const __u32 udp_at, bool outer_v6)
{
	int verdict = decap_inner(skb, config, outer, outer_len, udp_at, outer_v6);
	const struct scratch *scratch = the_scratch();

	if (verdict == PATH_PUNT && scratch && scratch->packet.fragment)
		punt_fragment();
	return verdict;
}

/* The verdict, or PATH_PUNT for a datagram that is left as it is. */
static __always_inline int underlay_path(struct __sk_buff *skb, const struct config *config, struct outer *outer)
{
	if (skb->vlan_present)
		return PATH_PUNT;
	if (skb->protocol == bpf_htons(ETH_P_IP) && read_outer_v4(skb, config, outer))
		return unwrap(skb, config, outer, OUTER_V4, ETH_HLEN + sizeof(struct iphdr), false);
	if (skb->protocol == bpf_htons(ETH_P_IPV6) && read_outer_v6(skb, config, outer))
		return unwrap(skb, config, outer, OUTER_V6, ETH_HLEN + sizeof(struct ipv6hdr), true);
	return PATH_PUNT;
}

SEC("tc")
int underlay(struct __sk_buff *skb)
{
	const struct config *config = the_config();
	struct scratch *scratch = the_scratch();
	struct outer *outer;
	int verdict;

	/* What is for another machine, and is seen because the device is promiscuous or a switch floods, nobody here takes. */
	if (!config || !scratch || skb->pkt_type == PACKET_OTHERHOST)
		return TC_ACT_UNSPEC;
	outer = &scratch->arrived;
	outer->read = outer->to_tunnel = false;
	verdict = skb->pkt_type == PACKET_HOST ? underlay_path(skb, config, outer) : PATH_PUNT;
	if (verdict != PATH_PUNT)
		return verdict;
	return outer->to_tunnel ? TC_ACT_UNSPEC : leave(skb, outer->read);
}

/* A GSO packet that `underlay` sent through the kernel's vxlan device. Nothing else has business there. */
static __always_inline int tunnel_path(struct __sk_buff *skb, const struct config *config)
{
	struct bpf_tunnel_key key = {};
	struct scratch *scratch = the_scratch();
	struct packet *p = scratch ? &scratch->packet : 0;
	const struct network *network;
	struct forwarding *forwarding;
	struct addr from = {};
	struct flow *flow;
	struct template *template;
	__u32 side;
	void *data;

	if (is_mapped(config->vtep.be)) {
		if (bpf_skb_get_tunnel_key(skb, &key, sizeof(key), 0))
			return PATH_PUNT;
		/* The helper gives IPv4 addresses in the byte order of the host. */
		from = (struct addr){ { 0, 0, bpf_htonl(0xffff), bpf_htonl(key.remote_ipv4) } };
	} else {
		if (bpf_skb_get_tunnel_key(skb, &key, sizeof(key), BPF_F_TUNINFO_IPV6))
			return PATH_PUNT;
		__builtin_memcpy(&from, key.remote_ipv6, sizeof(from));
	}
	/* No GSO packet has SYN; anyone may write to the device's port. */
	if (!p || !read_packet(skb, 0, p) || (p->proto == IPPROTO_TCP && p->flags & TCP_SYN) ||
	    !open_checksum_fits(skb, 0, p, 0) || !segment_fits(skb, 0, p, 0))
		return PATH_PUNT;
	side = key_of(p, key.tunnel_id, &scratch->key);
	data = (void *)(long)skb->data;
	if (data + ETH_HLEN > (void *)(long)skb->data_end)
		return PATH_PUNT;
	flow = find_flow(scratch, data, side);
	if (!flow)
		return PATH_PUNT;
	network = in_force(scratch, flow, config->generation);
	template = side ? &flow->dirs[1].template : &flow->dirs[0].template;
	if (!network)
		return PATH_PUNT;
	/* A frame for another VTEP was never sent here. */
	if (where_to(&flow->ends, side) & AT_VTEP || !comes_this_way(skb, p, &flow->ends, template, network, side, &from, data) ||
	    !pass(skb, flow, side, scratch, config) || where_to(&scratch->ends, side) & AT_VTEP ||
	    !comes_this_way(skb, p, &scratch->ends, &scratch->template, network, side, &from, data))
		return PATH_PUNT;
	count(STAT_FROM_UNDERLAY);
	forwarding = &scratch->forwarding;
	find_forwarding(scratch, network, side, forwarding);
	return write_ethernet(skb, forwarding) ? into_attachment(skb, forwarding, true) : PATH_BROKEN;
}

SEC("tc")
int tunnel(struct __sk_buff *skb)
{
	const struct config *config = the_config();
	int verdict = config ? tunnel_path(skb, config) : PATH_PUNT;

	if (verdict >= 0)
		return verdict;
	count(STAT_LOST);
	return TC_ACT_SHOT;
}
