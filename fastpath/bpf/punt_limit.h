/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * The way to the pipeline is limited for each network, so that one tenant's flood of what the programs do not carry is
 * that tenant's loss. Nothing here is on the path of a packet that they carry.
 */
#pragma once

#include "deliver.h"

#include <stddef.h>

#define SECOND 1000000000ULL

/* A frame is noted so much later than the one before, or not at all. */
#define NOTED_EVERY (SECOND / 10)

/* Notes what begins at `at` of a frame that is dropped. Of those that come at once, one is noted. */
static __always_inline void note_limited(struct __sk_buff *skb, __u32 vni, __u32 at, __u64 now)
{
	struct limited *noted = bpf_map_lookup_elem(&limited, &vni);
	const struct scratch *scratch;

	if (!noted) {
		scratch = the_scratch();
		if (!scratch)
			return;
		bpf_map_update_elem(&limited, &vni, scratch->nothing, BPF_NOEXIST);
		noted = bpf_map_lookup_elem(&limited, &vni);
	}
	if (!noted || now - noted->at < NOTED_EVERY || __sync_lock_test_and_set(&noted->noting, 1))
		return;
	if (!bpf_skb_load_bytes(skb, at, noted->frame, LIMITED_MAX))
		noted->len = LIMITED_MAX;
	else
		noted->len = bpf_skb_load_bytes(skb, at, noted->frame, LIMITED_LEAST) ? 0 : LIMITED_LEAST;
	noted->at = now;
	noted->noting = 0;
}

/*
 * May this frame of a network be punted? A GSO packet counts as the packets in it. What people are told of one that may not begins
 * at `at`. Not static, so that the verifier looks at it once and by itself.
 */
__noinline int take_punt_token(struct __sk_buff *skb, __u32 vni, __u32 at)
{
	__u32 packets = 1, gso_size = skb->gso_size;
	struct bucket *bucket = bpf_map_lookup_elem(&buckets, &vni);
	__u64 now = bpf_ktime_get_ns();
	__s64 since;
	bool may;

	if (!bucket) {
		vni = UNSERVED;
		bucket = bpf_map_lookup_elem(&buckets, &vni);
	}
	/* Of a datagram of an unknown network no more than its header is known. */
	if (vni == UNSERVED)
		at -= sizeof(struct vxlan_header);
	if (!bucket) {
		count(STAT_PUNT_LIMITED);
		return 0;
	}
	if (gso_size)
		packets = (skb->len + gso_size - 1) / gso_size;
	bpf_spin_lock(&bucket->lock);
	/* Another processor may have read the clock after us and come first. */
	since = now - bucket->filled_at;
	if (since > 0) {
		bucket->left += (since > SECOND ? SECOND : since) * bucket->rate;
		if (bucket->left > (__s64)(bucket->burst * SECOND))
			bucket->left = bucket->burst * SECOND;
		bucket->filled_at = now;
	}
	may = bucket->left > 0;
	if (may)
		bucket->left -= packets * SECOND;
	else
		bucket->dropped += 1;
	bpf_spin_unlock(&bucket->lock);
	if (!may) {
		count(STAT_PUNT_LIMITED);
		note_limited(skb, vni, at, now);
	}
	return may;
}

/* Is a datagram to this address one that the daemon might get? To our VTEP, or to a group. */
static __always_inline bool to_us_v4(__u32 be, const struct config *config)
{
	return (is_mapped(config->vtep.be) && be == config->vtep.be[3]) ||
	       (be & bpf_htonl(0xf0000000)) == bpf_htonl(0xe0000000);
}

static __always_inline bool to_us_v6(const struct addr *to, const struct config *config)
{
	return same_addr(to, &config->vtep) || (to->be[0] & bpf_htonl(0xff000000)) == bpf_htonl(0xff000000);
}

/* Where the UDP header of a datagram is that the daemon's socket might get, or 0. Of fragments, the first has it. */
static __always_inline __u32 udp_header_at(struct __sk_buff *skb, const struct config *config)
{
	const __u32 behind_v6 = ETH_HLEN + sizeof(struct ipv6hdr);
	/* One at a time, for the stack is small. */
	union {
		struct iphdr ip;
		struct addr to;
		struct {
			__u8 next, spare;
			__u16 offset_be;
			__u32 id_be;
		} fragment;
	} read;
	__u8 next;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		if (bpf_skb_load_bytes(skb, ETH_HLEN, &read.ip, sizeof(read.ip)) || read.ip.protocol != IPPROTO_UDP ||
		    read.ip.frag_off & bpf_htons(0x1fff) || !to_us_v4(read.ip.daddr, config))
			return 0;
		return ETH_HLEN + read.ip.ihl * 4;
	}
	if (skb->protocol != bpf_htons(ETH_P_IPV6) ||
	    bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct ipv6hdr, daddr), &read.to, sizeof(read.to)) ||
	    !to_us_v6(&read.to, config) ||
	    bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct ipv6hdr, nexthdr), &next, sizeof(next)))
		return 0;
	if (next == IPPROTO_UDP)
		return behind_v6;
	if (next != IPPROTO_FRAGMENT || bpf_skb_load_bytes(skb, behind_v6, &read.fragment, sizeof(read.fragment)) ||
	    read.fragment.next != IPPROTO_UDP || read.fragment.offset_be & bpf_htons(0xfff8))
		return 0;
	return behind_v6 + sizeof(read.fragment);
}

/*
 * The verdict on a datagram that is left to the kernel: to the daemon's socket, or to whomever else it is for. It is
 * read more generously than one that is carried, as the daemon does: options, a checksum, reserved bits. One for our
 * port that is no VXLAN is an unknown host's. `read` says that the programs have read the inner packet.
 */
__noinline int leave(struct __sk_buff *skb, __u32 read)
{
	const struct config *config = the_config();
	const struct scratch *scratch = read ? the_scratch() : 0;
	__u32 at = config ? udp_header_at(skb, config) : 0, vni = UNSERVED;
	struct vxlan_header vxlan;
	__u16 port;

	if (!at || bpf_skb_load_bytes(skb, at + offsetof(struct udphdr, dest), &port, sizeof(port)) ||
	    port != config->vxlan_port_be)
		return TC_ACT_UNSPEC;
	if (!bpf_skb_load_bytes(skb, at + sizeof(struct udphdr), &vxlan, sizeof(vxlan)) &&
	    vxlan.flags_be & bpf_htonl(VXLAN_FLAGS))
		vni = bpf_ntohl(vxlan.vni_be) >> 8;
	if (take_punt_token(skb, vni, at + sizeof(struct udphdr) + sizeof(struct vxlan_header))) {
		count_punt(scratch ? scratch->packet.punt : PUNT_OUTER);
		return TC_ACT_UNSPEC;
	}
	count(STAT_FROM_UNDERLAY);
	return TC_ACT_SHOT;
}
