/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Steps 7 and 8: out of an attachment of this host, or encapsulated and onto the underlay. */
#pragma once

#include "maps.h"
#include "packet.h"
#include "sum.h"
#include "trunk.h"

#include <stddef.h>

struct vxlan_header {
	__u32 flags_be;
	/* VNI in the upper 24 bits */
	__u32 vni_be;
};

/* RFC 7348 section 5: I flag, all reserved bits zero. */
#define VXLAN_FLAGS 0x08000000

struct outer_v4 {
	__u16 ethertype_be;
	struct iphdr ip;
	struct udphdr udp;
	struct vxlan_header vxlan;
	struct ethhdr inner;
} __attribute__((packed, aligned(2)));

struct outer_v6 {
	__u16 ethertype_be;
	struct ipv6hdr ip;
	struct udphdr udp;
	struct vxlan_header vxlan;
	struct ethhdr inner;
} __attribute__((packed, aligned(2)));

/* What is around an inner packet, between the outer Ethernet header and the inner IP header. */
#define OUTER_V4 (sizeof(struct outer_v4) - sizeof(__u16))
#define OUTER_V6 (sizeof(struct outer_v6) - sizeof(__u16))

_Static_assert(sizeof(struct outer_v4) <= OUTER_ROOM && sizeof(struct outer_v6) <= OUTER_ROOM, "room in the scratch area");

/* What becomes of a packet. */
enum forward_verdict {
	/* The pipeline says. */
	FORWARD_PUNT,
	FORWARD_PASS,
	/* The rules have refused it, and it is counted. */
	FORWARD_DENY,
};

/* The forwarding result of a packet from this end, by what is in the scratch area */
static __always_inline void find_forwarding(const struct scratch *scratch, const struct network *network, __u32 side,
					 struct forwarding *forwarding)
{
	const __u8 *own = network->mac, *sender = side ? scratch->ends.macs[1] : scratch->ends.macs[0];

	forwarding->to = where_to(&scratch->ends, side);
	forwarding->template = scratch->template;
	if (scratch->template.flags & TEMPLATE_ROUTED && !(forwarding->to & AT_VTEP))
		__builtin_memcpy(forwarding->ethernet.h_dest, own, 6);
	else
		__builtin_memcpy(forwarding->ethernet.h_dest, side ? scratch->ends.macs[0] : scratch->ends.macs[1], 6);
	__builtin_memcpy(forwarding->ethernet.h_source, scratch->template.flags & TEMPLATE_FROM_US ? own : sender, 6);
	forwarding->ethernet.h_proto = scratch->packet.v6 ? bpf_htons(ETH_P_IPV6) : bpf_htons(ETH_P_IP);
}

/* Writes the Ethernet header that the frame leaves with. */
static __always_inline bool write_ethernet(struct __sk_buff *skb, const struct forwarding *forwarding)
{
	return bpf_skb_store_bytes(skb, 0, &forwarding->ethernet, sizeof(forwarding->ethernet), 0) == 0;
}

/*
 * Out of an attachment, with its tag. Straight into the peer of a veth, unless the frame's protocol is not the one the
 * kernel has noted for it (an inner packet of the other family than the outer one's): then through the device, which notes
 * it anew. Or to the kernel's routing, which lets the mark be and sends it out of the attachment's own device.
 */
static __always_inline int into_attachment(struct __sk_buff *skb, const struct forwarding *forwarding, bool noted)
{
	const struct egress *out = bpf_map_lookup_elem(&egress, &forwarding->to);

	if (!out || !out->ifindex || !put_tag(skb, out)) {
		count(STAT_LOST);
		return TC_ACT_SHOT;
	}
	count(STAT_TO_PORTS);
	if (noted && out->flags & ATTACHMENT_PEER)
		return bpf_redirect_peer(out->ifindex, 0);
	skb->mark = EASTGATE_MARK;
	return bpf_redirect(out->entry ? out->entry : out->ifindex, 0);
}

/* RFC 6040, normal mode: the inner ECN field is copied. */
static __always_inline __u8 outer_tos(const struct template *template, const struct packet *p)
{
	return template->flags & TEMPLATE_INHERIT_TOS ? p->tos : (template->tos & ~3) | (p->tos & 3);
}

static __always_inline __u8 outer_ttl(const struct template *template, const struct packet *p)
{
	/* A datagram with none left would not leave. */
	return template->flags & TEMPLATE_INHERIT_TTL ? p->ttl ? p->ttl : 1 : template->ttl;
}

/* The outer headers and the inner Ethernet header, in front of the inner packet; the outer MACs are the neighbour's. */
static __always_inline void fill_v4(struct outer_v4 *out, const struct config *config, const struct vtep *to,
				    const struct forwarding *forwarding, const struct packet *p, __u32 vni, __u32 len)
{
	struct iphdr ip = {
		.version = 4,
		.ihl = 5,
		.tos = outer_tos(&forwarding->template, p),
		.tot_len = bpf_htons(len),
		.ttl = outer_ttl(&forwarding->template, p),
		.protocol = IPPROTO_UDP,
		.saddr = config->vtep.be[3],
		.daddr = to->addr.be[3],
	};
	/* RFC 6864 section 4.1: an ID means something only where fragmentation is allowed. */
	if (config->dont_fragment)
		ip.frag_off = bpf_htons(0x4000);
	else
		ip.id = bpf_get_prandom_u32();
	ip.check = ~header_sum(&ip);
	out->ip = ip;
	out->ethertype_be = bpf_htons(ETH_P_IP);
	out->udp = (struct udphdr){
		.source = forwarding->template.source_port_be,
		.dest = config->vxlan_port_be,
		.len = bpf_htons(len - sizeof(struct iphdr)),
	};
	out->vxlan = (struct vxlan_header){ bpf_htonl(VXLAN_FLAGS), bpf_htonl(vni << 8) };
	out->inner = forwarding->ethernet;
}

static __always_inline void fill_v6(struct outer_v6 *out, const struct config *config, const struct vtep *to,
				    const struct forwarding *forwarding, const struct packet *p, __u32 vni, __u32 len)
{
	__u8 tos = outer_tos(&forwarding->template, p);

	out->ip = (struct ipv6hdr){
		.version = 6,
		.priority = tos >> 4,
		.payload_len = bpf_htons(len - sizeof(struct ipv6hdr)),
		.nexthdr = IPPROTO_UDP,
		.hop_limit = outer_ttl(&forwarding->template, p),
	};
	out->ip.flow_lbl[0] = tos << 4;
	out->ethertype_be = bpf_htons(ETH_P_IPV6);
	__builtin_memcpy(&out->ip.saddr, &config->vtep, sizeof(struct addr));
	__builtin_memcpy(&out->ip.daddr, &to->addr, sizeof(struct addr));
	out->udp = (struct udphdr){
		.source = forwarding->template.source_port_be,
		.dest = config->vxlan_port_be,
		.len = bpf_htons(len - sizeof(struct ipv6hdr)),
	};
	out->vxlan = (struct vxlan_header){ bpf_htonl(VXLAN_FLAGS), bpf_htonl(vni << 8) };
	out->inner = forwarding->ethernet;
}

#define GROW (BPF_F_ADJ_ROOM_ENCAP_L4_UDP | BPF_F_ADJ_ROOM_ENCAP_L2(ETH_HLEN) | BPF_F_ADJ_ROOM_ENCAP_L2_ETH | \
	      BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET)

enum encapsulated {
	/* Nothing was changed: the frame can be punted. */
	PATH_PUNT = -1,
	/* It is broken now. */
	PATH_BROKEN = -2,
};

/*
 * Can a packet from this end have the checksum that the VTEP wants to which it goes, if any? GSO packets are cut by the
 * kernel, which knows of a sum when it came with them, and only then.
 */
static __always_inline bool sum_can_be_had(const struct __sk_buff *skb, const struct packet *p, const struct ends *ends,
					   __u32 side, __u32 came)
{
	__u32 to = where_to(ends, side);
	const struct vtep *vtep;

	/* A fragment is not summed up here: most have no checksum to see by what is left open. */
	if (!(to & AT_VTEP) || (!skb->gso_size && came != SUM_OPEN && !(p->fragment && came == SUM_NONE)))
		return true;
	to &= ~AT_VTEP;
	vtep = bpf_map_lookup_elem(&vteps, &to);
	return vtep && !(vtep->flags & (came == SUM_OPEN ? VTEP_NO_SUM : VTEP_SUM));
}

#define FAMILY_V4 2
#define FAMILY_V6 10

/*
 * Finds the way that the kernel's routes send the datagram whose outer headers are ready in the scratch area, with `len` bytes
 * from its IP header on. The device, and in the scratch area who is next; 0 where the routes send it nowhere, or where the path is
 * too narrow: for the daemon's sockets to meet. The device by which frames are punted is asked as if the datagram came in there,
 * for that is the way to ask for any device at all.
 */
__noinline __u32 find_route(struct __sk_buff *skb, __u32 v6, __u32 len)
{
	const struct config *config = the_config();
	struct scratch *scratch = the_scratch();
	struct bpf_redir_neigh *neighbor;
	struct bpf_fib_lookup *route;
	const struct udphdr *udp;
	long found;

	if (!scratch || !config || !config->underlay)
		return 0;
	route = &scratch->route;
	neighbor = &scratch->neighbor;
	__builtin_memset(route, 0, sizeof(*route));
	if (v6) {
		const struct ipv6hdr *ip = (const void *)(scratch->outer + sizeof(__u16));

		udp = (const void *)(ip + 1);
		route->family = FAMILY_V6;
		route->flowinfo = *(const __be32 *)ip & bpf_htonl(0x0fffffff);
		__builtin_memcpy(route->ipv6_src, &ip->saddr, sizeof(struct addr));
		__builtin_memcpy(route->ipv6_dst, &ip->daddr, sizeof(struct addr));
	} else {
		const struct iphdr *ip = (const void *)(scratch->outer + sizeof(__u16));

		udp = (const void *)(ip + 1);
		route->family = FAMILY_V4;
		route->tos = ip->tos;
		route->ipv4_src = ip->saddr;
		route->ipv4_dst = ip->daddr;
	}
	route->l4_protocol = IPPROTO_UDP;
	route->sport = udp->source;
	route->dport = udp->dest;
	route->tot_len = len;
	route->ifindex = config->punt_device;
	found = bpf_fib_lookup(skb, route, sizeof(*route), 0);
	if (found != BPF_FIB_LKUP_RET_SUCCESS && found != BPF_FIB_LKUP_RET_NO_NEIGH)
		return 0;
	/* The next hop may be of the other family. */
	neighbor->nh_family = route->family;
	__builtin_memcpy(neighbor->ipv6_nh, route->ipv6_dst, sizeof(neighbor->ipv6_nh));
	return route->ifindex;
}

/*
 * Sends a frame to a VTEP. One from a tenant port is encapsulated; one that is encapsulated already, in `encapsulated` bytes, gets
 * other outer headers in place of those it came with, and is a GSO packet still if it was one. `came`: its `outer_sum`
 */
static __always_inline int into_tunnel(struct __sk_buff *skb, const struct config *config,
				       const struct forwarding *forwarding, struct scratch *scratch, __u32 vni,
				       const __u32 encapsulated, __u32 came)
{
	struct packet *p = &scratch->packet;
	const __u64 sum = encapsulated ? BPF_F_RECOMPUTE_CSUM : 0;
	__u32 place = forwarding->to & ~AT_VTEP, device;
	const struct vtep *to = bpf_map_lookup_elem(&vteps, &place);
	int check;

	p->punt = PUNT_PATH;
	if (!to)
		return PATH_PUNT;
	if (is_mapped(to->addr.be)) {
		struct outer_v4 *out = (struct outer_v4 *)scratch->outer;

		if (p->len + OUTER_V4 > 65535 || (encapsulated && encapsulated != OUTER_V4))
			return PATH_PUNT;
		fill_v4(out, config, to, forwarding, p, vni, p->len + OUTER_V4);
		check = next_sum(skb, came, encapsulated, false, to->flags);
		device = find_route(skb, false, largest(skb, p) + OUTER_V4);
		if (check < 0 || !device)
			return PATH_PUNT;
		out->udp.check = check;
		if (!encapsulated &&
		    bpf_skb_adjust_room(skb, OUTER_V4, BPF_ADJ_ROOM_MAC, GROW | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4))
			return PATH_PUNT;
		if (bpf_skb_store_bytes(skb, offsetof(struct ethhdr, h_proto), out, sizeof(*out), sum))
			return PATH_BROKEN;
	} else {
		struct outer_v6 *out = (struct outer_v6 *)scratch->outer;

		if (p->len + OUTER_V6 > 65535 || (encapsulated && encapsulated != OUTER_V6))
			return PATH_PUNT;
		fill_v6(out, config, to, forwarding, p, vni, p->len + OUTER_V6);
		check = next_sum(skb, came, encapsulated, true, to->flags);
		device = find_route(skb, true, largest(skb, p) + OUTER_V6);
		if (check < 0 || !device)
			return PATH_PUNT;
		out->udp.check = check;
		if (!encapsulated &&
		    bpf_skb_adjust_room(skb, OUTER_V6, BPF_ADJ_ROOM_MAC, GROW | BPF_F_ADJ_ROOM_ENCAP_L3_IPV6))
			return PATH_PUNT;
		if (bpf_skb_store_bytes(skb, offsetof(struct ethhdr, h_proto), out, sizeof(*out), sum))
			return PATH_BROKEN;
	}
	count(STAT_TO_UNDERLAY);
	return bpf_redirect_neigh(device, &scratch->neighbor, sizeof(scratch->neighbor), 0);
}
