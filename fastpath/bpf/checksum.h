/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Transport checksums: what its receiver will not believe begins no flow here and moves no connection, as vtep's
 * `checksum_fits` has it. The kernel does not tell a program whether a sender has left the checksum to a device, but what
 * stands in the field then is the sum of the pseudo-header; and it tells when a device has verified it. So the packets
 * themselves are summed up only where they come over a wire from a device that does not verify what is inside a tunnel.
 */
#pragma once

#include "maps.h"

/* As many bytes at a time as older kernels sum up, and as many times as a jumbo frame takes. */
#define CHUNKS 18

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
 * Are `len` bytes from `at` on, with what else is summed up, all ones? Not of more than a jumbo frame. Not static, so that
 * the verifier looks at it once and by itself.
 */
__noinline int sums_up(struct __sk_buff *skb, __u32 at, __u32 len, __u32 more)
{
	struct desk *desk = the_desk();
	__s64 sum = more;

	if (!desk)
		return 0;
	for (int i = 0; i < CHUNKS && len; i++) {
		__u32 here = len < CHUNK ? len : CHUNK;

		/* Words are summed up: what follows the last byte is zero. */
		*(__u32 *)&desk->chunk[here & (CHUNK - 4)] = 0;
		asm volatile("" : "+r"(here));
		if (here == 0 || here > CHUNK || bpf_skb_load_bytes(skb, at, desk->chunk, here))
			return 0;
		sum = bpf_csum_diff(0, 0, (__be32 *)desk->chunk, (here + 3) & ~3, sum);
		if (sum < 0)
			return 0;
		at += here;
		len -= here;
	}
	return !len && folded(sum) == 0xffff;
}

/*
 * Is the checksum of the packet right, whose Ethernet header begins `at` bytes behind the start of the buffer? A device
 * that has verified as many checksums as `level` says in front of it has verified this one, too.
 */
static __always_inline bool checksum_fits(struct __sk_buff *skb, const __u32 at, const struct packet *p, int level)
{
	const __u32 transport = at + ETH_HLEN + (p->v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr));
	__u32 pseudo = p->proto == IPPROTO_ICMP ? 0 : pseudo_sum(p);

	if (skb->gso_size || (p->proto != IPPROTO_ICMP && p->check == pseudo) || (p->proto == IPPROTO_UDP && !p->check))
		return true;
	/* Devices do not verify what is neither TCP nor UDP. */
	if (!p->echo && bpf_csum_level(skb, BPF_CSUM_LEVEL_QUERY) >= level)
		return true;
	return sums_up(skb, transport, p->summed, pseudo);
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
