/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Reading a frame: only what the programs can judge exactly as the pipeline would. IPv4 without options or IPv6
 * without extension headers, whole, TCP, UDP or an echo, lengths that agree to the byte. `false` is no verdict: the frame
 * is punted, where wire's `View::parse` says what it is.
 */
#pragma once

#include "layout.h"

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <stdbool.h>

/* Of the two bytes behind a tag's type (IEEE 802.1Q section 9.6) */
#define VLAN_ID 0x0fff

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

/* The types of an echo; its code is 0 (RFC 792, RFC 4443 section 4). */
enum echo_type {
	ECHO_V4_REQUEST = 8,
	ECHO_V4_REPLY = 0,
	ECHO_V6_REQUEST = 128,
	ECHO_V6_REPLY = 129,
};

/* Types of neighbour discovery (RFC 4861 section 4) */
#define ND_FIRST 133
#define ND_LAST 137

/* ICMP and ICMPv6 alike */
struct echo_header {
	__u8 type;
	__u8 code;
	__u16 check;
	__u16 id_be;
	__u16 seq_be;
};

enum echo {
	ECHO_NONE,
	ECHO_REQUEST,
	ECHO_REPLY,
};

enum fragment_kind {
	/* None, or one of a datagram that is not carried here at all */
	FRAGMENT_NONE,
	FRAGMENT_FIRST,
	FRAGMENT_LATER,
	/* The pipeline has its datagram, or gets it now. */
	FRAGMENT_PUNT,
};

struct packet {
	struct addr src;
	struct addr dst;
	/* An echo has its identifier for both. */
	__u16 sport;
	__u16 dport;
	__u8 proto;
	__u8 tos;
	__u8 ttl;
	bool v6;
	/* `enum echo` */
	__u8 echo;
	/* `enum fragment_kind` */
	__u8 fragment;
	/* Of the transport header and what is before it, from the IP header on */
	__u16 headers;
	/* The transport checksum as it stands there, and of how many bytes it is */
	__u16 check;
	__u16 summed;
	/* From the IP header to the end of the packet */
	__u32 len;
	/* TCP */
	__u32 seq;
	__u32 ack;
	__u32 payload;
	__u16 window;
	__u8 flags;
	/* SYN: whether it offers window scaling, the shift, and the largest MSS that it names, or 0 */
	bool scales;
	__u8 scale;
	__u16 mss;
	/* It is none that a flow begins with: it passes by rules without state, or not here. */
	bool lone;
	/* It passes by rules without state, and was counted for them. */
	bool stateless;
	/* Why it is punted, should it be */
	enum punt punt;
};

/* Notes why the packet is punted: for `return punt(...)` where a step gives `false` for that. */
static __always_inline bool punt(struct packet *p, enum punt why)
{
	p->punt = why;
	return false;
}

/* Makes the first `len` bytes readable at `data`. */
static __always_inline bool readable(struct __sk_buff *skb, __u32 len)
{
	if ((void *)(long)skb->data + len <= (void *)(long)skb->data_end)
		return true;
	return bpf_skb_pull_data(skb, len) == 0 && (void *)(long)skb->data + len <= (void *)(long)skb->data_end;
}

/* The ones' complement sum of a header without options, its checksum included */
static __always_inline __u16 header_sum(const struct iphdr *ip)
{
	const __u16 *word = (const void *)ip;
	__u32 sum = 0;

#pragma unroll
	for (int i = 0; i < 10; i++)
		sum += word[i];
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

static __always_inline bool same_addr(const struct addr *a, const struct addr *b)
{
	return a->be[0] == b->be[0] && a->be[1] == b->be[1] && a->be[2] == b->be[2] && a->be[3] == b->be[3];
}

static __always_inline bool is_mapped(const __u32 *be)
{
	return be[0] == 0 && be[1] == 0 && be[2] == bpf_htonl(0xffff);
}

static __always_inline bool read_tcp(const struct tcphdr *tcp, void *end, struct packet *p, __u32 ip_header)
{
	__u32 header;

	if ((void *)(tcp + 1) > end)
		return punt(p, PUNT_MALFORMED);
	header = tcp->doff * 4;
	if (header < sizeof(*tcp) || ip_header + header > p->len)
		return punt(p, PUNT_MALFORMED);
	p->sport = bpf_ntohs(tcp->source);
	p->dport = bpf_ntohs(tcp->dest);
	p->seq = bpf_ntohl(tcp->seq);
	p->ack = bpf_ntohl(tcp->ack_seq);
	p->window = bpf_ntohs(tcp->window);
	p->flags = ((const __u8 *)tcp)[13];
	p->check = tcp->check;
	p->summed = p->len - ip_header;
	p->headers = ip_header + header;
	p->payload = p->len - p->headers;
	return true;
}

static __always_inline bool read_udp(const struct udphdr *udp, void *end, struct packet *p, __u32 ip_header)
{
	__u32 said;

	if ((void *)(udp + 1) > end)
		return punt(p, PUNT_MALFORMED);
	said = bpf_ntohs(udp->len);
	if (said < sizeof(*udp) || said > p->len - ip_header)
		return punt(p, PUNT_MALFORMED);
	p->sport = bpf_ntohs(udp->source);
	p->dport = bpf_ntohs(udp->dest);
	p->check = udp->check;
	p->summed = said;
	p->headers = ip_header + sizeof(*udp);
	return true;
}

static __always_inline bool read_echo(const struct echo_header *echo, void *end, struct packet *p, __u32 ip_header)
{
	if ((void *)(echo + 1) > end || echo->code)
		return punt(p, PUNT_PROTOCOL);
	if (echo->type == (p->v6 ? ECHO_V6_REQUEST : ECHO_V4_REQUEST))
		p->echo = ECHO_REQUEST;
	else if (echo->type == (p->v6 ? ECHO_V6_REPLY : ECHO_V4_REPLY))
		p->echo = ECHO_REPLY;
	else
		return punt(p, p->v6 && echo->type >= ND_FIRST && echo->type <= ND_LAST ? PUNT_ARP_ND : PUNT_PROTOCOL);
	p->sport = bpf_ntohs(echo->id_be);
	p->dport = p->sport;
	p->check = echo->check;
	p->summed = p->len - ip_header;
	p->headers = ip_header + sizeof(*echo);
	return true;
}

/* Why a packet of IPv6 with this next header is not for the programs */
static __always_inline enum punt why_not_v6(__u8 next)
{
	switch (next) {
	case IPPROTO_FRAGMENT:
		return PUNT_FRAGMENT;
	case IPPROTO_HOPOPTS:
	case IPPROTO_ROUTING:
	case IPPROTO_DSTOPTS:
		return PUNT_IP_OPTIONS;
	default:
		return PUNT_PROTOCOL;
	}
}

/*
 * Reads the frame whose Ethernet header begins `at` bytes behind the start of the buffer. Its headers need not be
 * readable yet; afterwards they are.
 */
static __always_inline bool read_packet(struct __sk_buff *skb, const __u32 at, struct packet *p)
{
	const __u32 v4 = at + ETH_HLEN + sizeof(struct iphdr), v6 = at + ETH_HLEN + sizeof(struct ipv6hdr);
	void *data, *end;
	__u16 ethertype;

	*p = (struct packet){ .punt = PUNT_MALFORMED };
	if (skb->vlan_present)
		return punt(p, PUNT_VLAN);
	if (!readable(skb, v4 + sizeof(struct udphdr)))
		return skb->protocol == bpf_htons(ETH_P_ARP) && punt(p, PUNT_ARP_ND);
	data = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	if (data + v4 + sizeof(struct udphdr) > end)
		return false;
	ethertype = ((struct ethhdr *)(data + at))->h_proto;
	if (ethertype == bpf_htons(ETH_P_IP)) {
		const struct iphdr *ip = data + at + ETH_HLEN;

		p->proto = ip->protocol;
		if (p->proto == IPPROTO_TCP && !readable(skb, v4 + sizeof(struct tcphdr)))
			return false;
		data = (void *)(long)skb->data;
		end = (void *)(long)skb->data_end;
		ip = data + at + ETH_HLEN;
		if ((void *)(ip + 1) > end)
			return false;
		p->len = bpf_ntohs(ip->tot_len);
		/* Version 4 without options; neither a fragment nor the reserved bit; nothing behind the packet. */
		if (ip->frag_off & bpf_htons(0x3fff))
			return punt(p, PUNT_FRAGMENT);
		if (*(const __u8 *)ip != 0x45)
			return punt(p, *(const __u8 *)ip >> 4 == 4 ? PUNT_IP_OPTIONS : PUNT_MALFORMED);
		if (ip->frag_off & bpf_htons(0x8000) || p->len + at + ETH_HLEN != skb->len ||
		    p->len < sizeof(*ip) + sizeof(struct udphdr) || header_sum(ip) != 0xffff)
			return punt(p, PUNT_MALFORMED);
		p->v6 = false;
		p->tos = ip->tos;
		p->ttl = ip->ttl;
		p->src = (struct addr){ { 0, 0, bpf_htonl(0xffff), ip->saddr } };
		p->dst = (struct addr){ { 0, 0, bpf_htonl(0xffff), ip->daddr } };
		if (p->proto == IPPROTO_TCP)
			return read_tcp(data + v4, end, p, sizeof(*ip));
		if (p->proto == IPPROTO_UDP)
			return read_udp(data + v4, end, p, sizeof(*ip));
		return p->proto == IPPROTO_ICMP ? read_echo(data + v4, end, p, sizeof(*ip)) : punt(p, PUNT_PROTOCOL);
	}
	if (ethertype == bpf_htons(ETH_P_IPV6)) {
		const struct ipv6hdr *ip;

		if (!readable(skb, v6 + sizeof(struct udphdr)))
			return false;
		data = (void *)(long)skb->data;
		end = (void *)(long)skb->data_end;
		ip = data + at + ETH_HLEN;
		if ((void *)(ip + 1) > end)
			return false;
		p->proto = ip->nexthdr;
		if (p->proto == IPPROTO_TCP) {
			if (!readable(skb, v6 + sizeof(struct tcphdr)))
				return false;
			data = (void *)(long)skb->data;
			end = (void *)(long)skb->data_end;
			ip = data + at + ETH_HLEN;
			if ((void *)(ip + 1) > end)
				return false;
		}
		p->len = bpf_ntohs(ip->payload_len) + sizeof(*ip);
		if (ip->version != 6 || p->len + at + ETH_HLEN != skb->len ||
		    p->len < sizeof(*ip) + sizeof(struct udphdr))
			return punt(p, PUNT_MALFORMED);
		p->v6 = true;
		p->tos = ip->priority << 4 | ip->flow_lbl[0] >> 4;
		p->ttl = ip->hop_limit;
		__builtin_memcpy(&p->src, &ip->saddr, sizeof(p->src));
		__builtin_memcpy(&p->dst, &ip->daddr, sizeof(p->dst));
		if (is_mapped(p->src.be) || is_mapped(p->dst.be))
			return punt(p, PUNT_MALFORMED);
		if (p->proto == IPPROTO_TCP)
			return read_tcp(data + v6, end, p, sizeof(*ip));
		if (p->proto == IPPROTO_UDP)
			return read_udp(data + v6, end, p, sizeof(*ip));
		if (p->proto == IPPROTO_ICMPV6)
			return read_echo(data + v6, end, p, sizeof(*ip));
		return punt(p, why_not_v6(p->proto));
	}
	return punt(p, ethertype == bpf_htons(ETH_P_ARP) ? PUNT_ARP_ND : PUNT_PROTOCOL);
}

/* Flags without those that go with all segments */
static __always_inline __u8 core_flags(const struct packet *p)
{
	return p->flags & (TCP_SYN | TCP_FIN | TCP_RST | TCP_ACK);
}

/* TCP that would open a connection */
static __always_inline bool is_syn(const struct packet *p)
{
	return p->proto == IPPROTO_TCP && core_flags(p) == TCP_SYN;
}

#define TCP_OPTIONS 40
/* More than any stack sends; with more of them the SYN is punted. */
#define MANY_OPTIONS 12

enum syn_options {
	SYN_MSS = 0xffff,
	SYN_SCALE_SHIFT = 16,
	SYN_SCALE = 0xf,
	SYN_SCALES = 1 << 20,
};

/*
 * The options of a SYN, as wire's `Tcp::parse_syn_options` reads them, in one number; below 0 when they are not
 * readable or too many. `at` is where they begin. Not static, so that the verifier looks at it once and by itself.
 */
__noinline int syn_options(struct __sk_buff *skb, __u32 at, __u32 len)
{
	/* With room behind them, for verifiers that know the bounds less exactly. */
	__u8 options[64] = {};
	__u32 here = 0, scale = 0, mss = 0;

	/* They come in words of four bytes. Put like this, older verifiers see that what is read is not nothing. */
	if (len < 4)
		return 0;
	if (len > TCP_OPTIONS || bpf_skb_load_bytes(skb, at, options, len))
		return -1;
	for (int i = 0; i < MANY_OPTIONS; i++) {
		__u32 kind, size;

		if (here >= len || here >= TCP_OPTIONS)
			return scale | (mss & SYN_MSS);
		kind = options[here];
		if (kind == 0)
			return scale | (mss & SYN_MSS);
		if (kind == 1) {
			here += 1;
			continue;
		}
		if (here + 1 >= len || here + 1 >= TCP_OPTIONS)
			return scale | (mss & SYN_MSS);
		size = options[here + 1];
		if (size < 2 || here + size > len)
			return scale | (mss & SYN_MSS);
		if (kind == 3 && size == 3 && here + 2 < TCP_OPTIONS) {
			scale = options[here + 2];
			scale = SYN_SCALES | (scale > 14 ? 14 : scale) << SYN_SCALE_SHIFT;
		}
		if (kind == 2 && size == 4 && here + 3 < TCP_OPTIONS) {
			__u32 named = (__u32)options[here + 2] << 8 | options[here + 3];

			if (named > mss)
				mss = named;
		}
		here += size;
	}
	return here < len ? -1 : (int)(scale | (mss & SYN_MSS));
}

/* Reads the options of a packet that begins a connection or answers one that begins; of others there is nothing. */
static __always_inline bool read_options(struct __sk_buff *skb, const __u32 at, struct packet *p)
{
	const __u32 tcp = (p->v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr)) + sizeof(struct tcphdr);
	int options;

	if (p->proto != IPPROTO_TCP || !(p->flags & TCP_SYN))
		return true;
	options = syn_options(skb, at + ETH_HLEN + tcp, p->headers - tcp);
	if (options < 0)
		return punt(p, PUNT_SYN_DATA);
	p->scales = options & SYN_SCALES;
	p->scale = options >> SYN_SCALE_SHIFT & SYN_SCALE;
	p->mss = options & SYN_MSS;
	return true;
}

static __always_inline bool same_mac(const __u8 *a, const __u8 *b)
{
	const __u16 *x = (const __u16 *)a, *y = (const __u16 *)b;

	return x[0] == y[0] && x[1] == y[1] && x[2] == y[2];
}

/* Where packets from this end of the flow go */
static __always_inline __u32 where_to(const struct ends *ends, __u32 side)
{
	return side ? ends->at[0] : ends->at[1];
}

/* Would the kernel's routing, which is not to say so, have to say that the packet's TTL ends there? */
static __always_inline bool outlives_routing(const struct template *template, const struct packet *p)
{
	return !(template->flags & TEMPLATE_ROUTED) || p->ttl > 1;
}

/* Are the frame's MACs those that packets from this end of the flow come in with? */
static __always_inline bool right_macs(const struct ethhdr *frame, const struct ends *ends, const struct template *template,
				       const struct network *network, __u32 side)
{
	const __u8 *sender = side ? ends->macs[1] : ends->macs[0], *receiver = side ? ends->macs[0] : ends->macs[1];

	return same_mac(frame->h_dest, template->flags & TEMPLATE_TO_US ? network->mac : receiver) &&
	       same_mac(frame->h_source, sender);
}
