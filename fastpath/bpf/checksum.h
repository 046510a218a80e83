/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Transport checksums: what its receiver will not believe begins no flow here and moves no connection, as vtep's
 * `checksum_fits` has it. What its sender has left to a device has the sum of the pseudo-header in the field; and the kernel
 * tells when a device has verified it. So the packets themselves are summed up only where they come over a wire from a device
 * that does not verify what is inside a tunnel.
 */
#pragma once

#include "maps.h"

#include <bpf/bpf_core_read.h>

/* The parts of the kernel's `struct sk_buff` that no field of `__sk_buff` shows, wherever this kernel has them. */
struct sk_buff___open {
	__u8 ip_summed : 2;
	/* From `head` to where the sum begins, and from there to where it belongs */
	__u16 csum_start;
	__u16 csum_offset;
	unsigned char *head;
	unsigned char *data;
} __attribute__((preserve_access_index));

/* `enum` of <linux/skbuff.h>: a device is to finish the checksum. */
#define CHECKSUM_PARTIAL 3

/* Above every place in a packet */
#define CHECKSUM_UNKNOWN (1LL << 32)

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
 * Where the checksum belongs that a device is to finish: bytes from the start of the buffer to where its sum begins in the
 * upper half, and from there to the field in the lower; -1 where none is open, and CHECKSUM_UNKNOWN where that cannot be read.
 * Not static, so that its stack is its own.
 */
__noinline __s64 open_checksum(struct __sk_buff *skb)
{
	const struct sk_buff___open *real = (void *)skb;
	struct scratch *scratch = the_scratch();
	__s64 start;

	if (!scratch)
		return CHECKSUM_UNKNOWN;
	scratch->open.summed = 0;
	if (bpf_probe_read_kernel(&scratch->open.summed, sizeof(__u8),
				  (void *)skb + __builtin_preserve_field_info(real->ip_summed, BPF_FIELD_BYTE_OFFSET)))
		return CHECKSUM_UNKNOWN;
	scratch->open.summed <<= __builtin_preserve_field_info(real->ip_summed, BPF_FIELD_LSHIFT_U64);
	scratch->open.summed >>= __builtin_preserve_field_info(real->ip_summed, BPF_FIELD_RSHIFT_U64);
	if (scratch->open.summed != CHECKSUM_PARTIAL)
		return -1;
	if (bpf_probe_read_kernel(&scratch->open.start, sizeof(__u16), (void *)skb + bpf_core_field_offset(real->csum_start)) ||
	    bpf_probe_read_kernel(&scratch->open.offset, sizeof(__u16), (void *)skb + bpf_core_field_offset(real->csum_offset)) ||
	    bpf_probe_read_kernel(&scratch->open.head, sizeof(__u64), (void *)skb + bpf_core_field_offset(real->head)) ||
	    bpf_probe_read_kernel(&scratch->open.data, sizeof(__u64), (void *)skb + bpf_core_field_offset(real->data)))
		return CHECKSUM_UNKNOWN;
	start = (__s64)(scratch->open.head + scratch->open.start - scratch->open.data);
	return start < 0 || start > MOST_SUMMED ? CHECKSUM_UNKNOWN : start << 16 | scratch->open.offset;
}

/*
 * Does the packet stay what it is when the checksum is finished that its sender left open, if it did? A guest says by itself
 * where that belongs: elsewhere it would make another port or address of what was decided about. Its Ethernet header begins
 * `at` bytes behind the start of the buffer; `outer_udp` is where an outer UDP header is whose own checksum may be the one
 * that is open. What is in a guest's own tunnel is the pipeline's to judge, as vtep's `open_checksum_fits` has it.
 */
static __always_inline bool open_checksum_fits(struct __sk_buff *skb, const __u32 at, struct packet *p, const __u32 outer_udp)
{
	const __u32 transport = at + ETH_HLEN + (p->v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr));
	const __u32 field = p->proto == IPPROTO_TCP ? offsetof(struct tcphdr, check) :
			    p->proto == IPPROTO_UDP ? offsetof(struct udphdr, check) :
						      offsetof(struct echo_header, check);
	__s64 open = open_checksum(skb);

	if (open < 0 || (!p->fragment && open == ((__s64)transport << 16 | field)))
		return true;
	return (outer_udp && open == ((__s64)outer_udp << 16 | offsetof(struct udphdr, check))) || punt(p, PUNT_CHECKSUM);
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
