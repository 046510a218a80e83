/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Transport checksums: what its receiver will not believe begins no flow here and moves no connection, as vtep's
 * `checksum_fits` has it. The kernel does not tell a program whether a sender has left the checksum to a device, but what
 * stands in the field then is the sum of the pseudo-header; and it tells when a device has verified it. So the packets
 * themselves are summed up only where they come over a wire from a device that does not verify what is inside a tunnel.
 */
#pragma once

#include "maps.h"

/* No packet has more. */
#define MOST_SUMMED 65535

static __always_inline __u32 folded(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

/* The prefix of a mapped address adds nothing: its sum is all ones. */
static __always_inline __u32 pseudo_sum(const struct packet *p)
{
	__u64 sum = (__u32)bpf_htons(p->proto) + bpf_htons(p->summed);

#pragma unroll
	for (int i = 0; i < 4; i++)
		sum += (__u64)p->src.be[i] + p->dst.be[i];
	return folded(sum);
}

/*
 * The sum of `len` bytes from `at` on, which is an even place of what is summed up, and of `sum`; below 0 when it cannot be
 * read. Not static, so that the verifier looks at it once and by itself.
 */
__noinline __s64 sum_bytes(struct __sk_buff *skb, __u32 at, __u32 len, __u32 sum)
{
	struct scratch *scratch = the_scratch();
	__s64 all = sum;

	if (!scratch || len > MOST_SUMMED)
		return -1;
	for (; len >= CHUNK; len -= CHUNK) {
		if (bpf_skb_load_bytes(skb, at, scratch->chunk, CHUNK))
			return -1;
		all = bpf_csum_diff(0, 0, (__be32 *)scratch->chunk, CHUNK, all);
		at += CHUNK;
	}
	if (!len)
		return all;
	__builtin_memset(scratch->chunk, 0, CHUNK);
	/* In a form that older verifiers see to be neither 0 nor too much */
	len = (len - 1) & (CHUNK - 1);
	asm volatile("" : "+r"(len));
	if (bpf_skb_load_bytes(skb, at, scratch->chunk, len + 1))
		return -1;
	return bpf_csum_diff(0, 0, (__be32 *)scratch->chunk, CHUNK, all);
}

/*
 * Is the checksum of the packet right, whose Ethernet header begins `at` bytes behind the start of the buffer? A device
 * that has verified as many checksums as `level` says in front of it has verified this one, too.
 */
static __always_inline bool checksum_fits(struct __sk_buff *skb, const __u32 at, const struct packet *p, int level)
{
	const __u32 transport = at + ETH_HLEN + (p->v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr));
	__u32 pseudo = p->proto == IPPROTO_ICMP ? 0 : pseudo_sum(p);
	__s64 sum;

	if (skb->gso_size || (p->proto != IPPROTO_ICMP && p->check == pseudo) || (p->proto == IPPROTO_UDP && !p->check))
		return true;
	/* Devices do not verify what is neither TCP nor UDP. */
	if (!p->echo && bpf_csum_level(skb, BPF_CSUM_LEVEL_QUERY) >= level)
		return true;
	sum = sum_bytes(skb, transport, p->summed, pseudo);
	return sum >= 0 && folded(sum) == 0xffff;
}

/* TCP moves its connection with every segment, everything else begins flows alone. */
static __always_inline bool segment_fits(struct __sk_buff *skb, const __u32 at, struct packet *p, int level)
{
	return p->proto != IPPROTO_TCP || checksum_fits(skb, at, p, level) || punt(p, PUNT_CHECKSUM);
}

static __always_inline bool beginning_fits(struct __sk_buff *skb, const __u32 at, struct packet *p, int level)
{
	/* Of a datagram in fragments, none of them has all that is summed up. */
	return p->proto == IPPROTO_TCP || p->fragment || checksum_fits(skb, at, p, level) || punt(p, PUNT_CHECKSUM);
}
