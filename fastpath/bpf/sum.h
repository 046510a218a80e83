/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * The UDP checksum of the outer header: held to be right where one comes in, kept right where a datagram goes on to
 * another VTEP, written for VTEPs that want one. Programs are not told how far the kernel has come with a packet's
 * checksums; what it does with one when it is asked to change it says so.
 */
#pragma once

#include "checksum.h"
#include "packet.h"

#include <stddef.h>

#define UDP_CHECK_AT offsetof(struct udphdr, check)

/* Between the beginning of the UDP header and that of the inner packet */
#define WITHIN_UDP (sizeof(struct udphdr) + 8 + ETH_HLEN)

static __always_inline __u16 fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return sum + (sum >> 16);
}

/* The checksum that makes a sum right; zero would say that there is none (RFC 768). */
static __always_inline __u16 complement(__u32 sum)
{
	__u16 check = ~fold(sum);

	return check ? check : 0xffff;
}

/*
 * Is some checksum of the packet left open, for a device to finish (CHECKSUM_PARTIAL)? The kernel changes a field of a
 * transport header only where there is none. The two bytes at `at` are tried, and are as they were afterwards. Below 0 when
 * they cannot be.
 */
__noinline int is_open(struct __sk_buff *skb, __u32 at)
{
	__u16 before = 0, after = 0;

	if (bpf_skb_load_bytes(skb, at, &before, sizeof(before)) ||
	    bpf_l4_csum_replace(skb, at, 0, 1, sizeof(before)) ||
	    bpf_skb_load_bytes(skb, at, &after, sizeof(after)))
		return -1;
	if (after == before)
		return 1;
	return bpf_skb_store_bytes(skb, at, &before, sizeof(before), 0) ? -1 : 0;
}

/* The pseudo-header's sum of the packet in the scratch area. A mapped address sums up as the one that is mapped. */
static __always_inline __u32 inner_pseudo(const struct packet *p, __u32 ip_header)
{
	__u64 sum = bpf_htons(p->proto) + bpf_htons(p->len - ip_header);

	for (int i = 0; i < 4; i++)
		sum += (__u64)p->src.be[i] + p->dst.be[i];
	sum = (sum & 0xffffffff) + (sum >> 32);
	return fold((sum & 0xffffffff) + (sum >> 32));
}

static __always_inline __u32 inner_ip_header(const struct packet *p)
{
	return p->v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
}

/* Where its checksum is, behind the IP header */
static __always_inline __u32 inner_check_at(const struct packet *p)
{
	return p->proto == IPPROTO_TCP ? offsetof(struct tcphdr, check) :
	       p->proto == IPPROTO_UDP ? UDP_CHECK_AT :
					 offsetof(struct echo_header, check);
}

/* Does the packet in the scratch area, whose IP header is at `at`, have the bare sum of its pseudo-header for a checksum? */
static __always_inline bool inner_is_bare(struct __sk_buff *skb, const struct packet *p, __u32 at)
{
	__u32 ip_header = inner_ip_header(p);
	__u16 check = 0;

	return !bpf_skb_load_bytes(skb, at + ip_header + inner_check_at(p), &check, sizeof(check)) &&
	       check == inner_pseudo(p, ip_header);
}

/*
 * The sum of the packet in the scratch area as it will be received; its IP header is at `at`. Where its own checksum is left
 * open, all behind the IP header will sum up to what makes its pseudo-header right, whatever it is (the kernel's local
 * checksum offload). Below 0 when somebody has to look who sees what is open.
 */
__noinline __s64 inner_sum(struct __sk_buff *skb, __u32 at)
{
	struct scratch *scratch = the_scratch();
	const struct packet *p = scratch ? &scratch->packet : 0;
	__u32 ip_header;
	int open;

	if (!p)
		return -1;
	ip_header = inner_ip_header(p);
	open = is_open(skb, at + ip_header + inner_check_at(p));
	if (open < 0)
		return -1;
	if (!open)
		return sum_bytes(skb, at, p->len, 0);
	if (!inner_is_bare(skb, p, at))
		return -1;
	return sum_bytes(skb, at, ip_header, 0xffff & ~inner_pseudo(p, ip_header));
}

/*
 * What the outer checksum of a datagram says, whose UDP header is at `udp_at` and whose packet is in the scratch area: an
 * `outer_sum`. What is wrong, or is not to be told from wrong here, is for the kernel's UDP.
 */
__noinline int outer_sum(struct __sk_buff *skb, __u32 udp_at)
{
	const __u32 addresses = udp_at > ETH_HLEN + sizeof(struct iphdr) ? 2 * sizeof(struct in6_addr) : 2 * sizeof(__u32);
	struct scratch *scratch = the_scratch();
	struct udphdr udp = {};
	__s64 pseudo, sum;
	bool bare;
	int open;

	if (!scratch || bpf_skb_load_bytes(skb, udp_at, &udp, sizeof(udp)))
		return SUM_WRONG;
	if (!udp.check)
		return SUM_NONE;
	/* The addresses end both headers. */
	pseudo = sum_bytes(skb, udp_at - addresses, addresses, bpf_htons(IPPROTO_UDP) + udp.len);
	if (pseudo < 0)
		return SUM_WRONG;
	bare = fold(pseudo) == udp.check;
	/* What is cut later is summed up then. */
	if (skb->gso_size)
		return bare ? SUM_OPEN : SUM_WRONG;
	/* A device, or someone before us, has found it right. */
	if (bpf_csum_level(skb, BPF_CSUM_LEVEL_QUERY) >= 0)
		return SUM_RIGHT;
	open = is_open(skb, udp_at + UDP_CHECK_AT);
	if (open < 0)
		return SUM_WRONG;
	if (open) {
		/* Either the outer sum is open, or the inner one, and the outer is right for what that will be. */
		if (!bare)
			return SUM_RIGHT;
		return inner_is_bare(skb, &scratch->packet, udp_at + WITHIN_UDP) ? SUM_WRONG : SUM_OPEN;
	}
	sum = sum_bytes(skb, udp_at, bpf_ntohs(udp.len), pseudo);
	return sum >= 0 && fold(sum) == 0xffff ? SUM_RIGHT : SUM_WRONG;
}

/* What of the outer headers goes into the sum, and lies together: from the addresses to the inner MACs */
#define SUMMED_V4 (2 * sizeof(__u32) + WITHIN_UDP - sizeof(__u16))
#define SUMMED_V6 (2 * sizeof(struct in6_addr) + WITHIN_UDP - sizeof(__u16))
_Static_assert(SUMMED_V4 % 4 == 0 && SUMMED_V6 % 4 == 0 && SUMMED_V6 <= OUTER_ROOM, "as bpf_csum_diff wants it");

/*
 * The checksum of a datagram with the outer headers that are ready in the scratch area, its own field zero there. One that came
 * in a tunnel, in `encapsulated` bytes, has `came` for its sum. Below 0 where it cannot be had: the datagram is as it was.
 */
__noinline int next_sum(struct __sk_buff *skb, __u32 came, __u32 encapsulated, __u32 v6, __u32 flags)
{
	const __u32 len = v6 ? SUMMED_V6 : SUMMED_V4;
	struct scratch *scratch = the_scratch();
	const struct udphdr *udp;
	const __u16 *inner_type;
	__be32 *ready;
	__s64 sum;

	if (!scratch)
		return -1;
	if (v6) {
		ready = (__be32 *)(scratch->outer + sizeof(__u16) + offsetof(struct ipv6hdr, saddr));
		udp = (const void *)(scratch->outer + sizeof(__u16) + sizeof(struct ipv6hdr));
	} else {
		ready = (__be32 *)(scratch->outer + sizeof(__u16) + offsetof(struct iphdr, saddr));
		udp = (const void *)(scratch->outer + sizeof(__u16) + sizeof(struct iphdr));
	}
	if (came == SUM_OPEN) {
		if (flags & VTEP_NO_SUM)
			return -1;
		sum = bpf_csum_diff(0, 0, ready, v6 ? 2 * sizeof(struct in6_addr) : 2 * sizeof(__u32),
				    bpf_htons(IPPROTO_UDP) + udp->len);
		return sum < 0 ? -1 : fold(sum);
	}
	if (flags & VTEP_NO_SUM || (came == SUM_NONE && !(flags & VTEP_SUM)))
		return 0;
	if (came == SUM_RIGHT) {
		const __u32 before = encapsulated + ETH_HLEN - sizeof(__u16) - len;

		/* What was right stays so when the sum changes as much as what it is of. */
		if (bpf_skb_load_bytes(skb, before, scratch->summed, v6 ? SUMMED_V6 : SUMMED_V4))
			return -1;
		sum = bpf_csum_diff((__be32 *)scratch->summed, len, ready, len, 0);
		return sum < 0 ? -1 : complement(sum);
	}
	/* The kernel cuts datagrams with a sum only where it made the tunnel. */
	if (skb->gso_size)
		return -1;
	sum = inner_sum(skb, encapsulated + ETH_HLEN);
	if (sum < 0)
		return -1;
	inner_type = (const void *)((const __u8 *)ready + len);
	sum = fold(sum) + *inner_type + bpf_htons(IPPROTO_UDP) + udp->len;
	sum = bpf_csum_diff(0, 0, ready, len, sum);
	return sum < 0 ? -1 : complement(sum);
}
