/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Which attachment a frame came by, and the tag that it leaves with. On a trunk the outermost tag says whose a frame is, and is none of
 * what the endpoint sends and receives; a tag that is left behind it is the network's. On a segment that endpoints share, the source says it.
 */
#pragma once

#include "maps.h"

/* No endpoint's: it is reserved (IEEE 802.1Q table 9-2). */
#define NO_VLAN STRAY_ANY_VLAN

/* Is there a tag? It is noted beside the frame, as by the kernel, or stands in it, as in a trial. */
static __always_inline bool is_tagged(const struct __sk_buff *skb)
{
	return skb->vlan_present || skb->protocol == bpf_htons(ETH_P_8021Q);
}

/* The VLAN that a frame is of; 0 without a tag, or with one that is a priority alone. Those of a provider (S-TAG) are other VLANs. */
static __always_inline __u16 vlan_of(struct __sk_buff *skb)
{
	__be16 tag;

	if (skb->vlan_present)
		return skb->vlan_proto == bpf_htons(ETH_P_8021Q) ? skb->vlan_tci & VLAN_ID : NO_VLAN;
	if (skb->protocol == bpf_htons(ETH_P_8021AD))
		return NO_VLAN;
	if (skb->protocol != bpf_htons(ETH_P_8021Q))
		return 0;
	return bpf_skb_load_bytes(skb, ETH_HLEN, &tag, sizeof(tag)) ? NO_VLAN : bpf_ntohs(tag) & VLAN_ID;
}

/*
 * The attachment that a frame came by, into the scratch area: resolved once, here. One on a trunk gets its frames without the tag. Not
 * static, so that the verifier looks at all ways to find it once, and not at what follows behind each of them.
 */
__noinline int resolve(struct __sk_buff *skb)
{
	struct attachment_key key = { .ifindex = skb->ifindex, .vlan = vlan_of(skb) };
	const struct attachment *found = bpf_map_lookup_elem(&attachments, &key);
	struct scratch *scratch = the_scratch();

	if (!scratch)
		return 0;
	if (!found && key.vlan) {
		struct attachment_key untagged = { .ifindex = key.ifindex };

		found = bpf_map_lookup_elem(&attachments, &untagged);
		if (found && !(found->flags & ATTACHMENT_ANY_VLAN))
			found = 0;
	}
	if (!found && !bpf_skb_load_bytes(skb, ETH_ALEN, key.station, sizeof(key.station)))
		found = bpf_map_lookup_elem(&attachments, &key);
	if (!found)
		return 0;
	scratch->from = *found;
	return scratch->from.flags & ATTACHMENT_ANY_VLAN || !is_tagged(skb) || !bpf_skb_vlan_pop(skb);
}

/* Is it for the next bridge alone, as eastgate_wire::MacAddr::is_of_the_link has it? */
static __always_inline bool is_of_the_link(const __u8 *to)
{
	if (to[0] == 0x01 && to[1] == 0x80 && to[2] == 0xc2)
		return !to[3] && !to[4] && to[5] < 0x10;
	return to[0] == 0x01 && !to[1] && to[2] == 0x0c && to[3] == 0xcc && to[4] == 0xcc && (to[5] & 0xfe) == 0xcc;
}

/*
 * Counts a frame that is nobody's on the trunk or the shared segment that it came by; false where it came by none. Not static, so that the
 * verifier looks at it by itself.
 */
__noinline int count_stray(struct __sk_buff *skb)
{
	struct stray_key key = { .ifindex = skb->ifindex, .vlan = vlan_of(skb) };
	__u8 to[ETH_ALEN];
	struct stray *stray;
	__be16 tci = 0;

	if (!key.vlan && !bpf_skb_load_bytes(skb, 0, to, sizeof(to)) && is_of_the_link(to))
		key.vlan = STRAY_LINK;
	stray = bpf_map_lookup_elem(&strays, &key);
	if (!stray) {
		key.vlan = STRAY_ANY_VLAN;
		stray = bpf_map_lookup_elem(&strays, &key);
	}
	if (!stray)
		return 0;
	stray->last_at = bpf_ktime_get_ns();
	if (!stray->frames)
		stray->first_at = stray->last_at;
	stray->frames += 1;
	stray->bytes += skb->len;
	if (bpf_skb_load_bytes(skb, 0, stray->macs, sizeof(stray->macs)))
		return 1;
	if (skb->vlan_present) {
		stray->tag_type = bpf_ntohs(skb->vlan_proto);
		stray->tci = skb->vlan_tci;
	} else if (skb->protocol == bpf_htons(ETH_P_8021Q) || skb->protocol == bpf_htons(ETH_P_8021AD)) {
		bpf_skb_load_bytes(skb, ETH_HLEN, &tci, sizeof(tci));
		stray->tag_type = bpf_ntohs(skb->protocol);
		stray->tci = bpf_ntohs(tci);
	} else {
		stray->tag_type = 0;
		stray->tci = 0;
	}
	return 1;
}

/* Gives a frame the tag that it leaves an attachment with, where it is on a VLAN. */
static __always_inline bool put_tag(struct __sk_buff *skb, const struct egress *out)
{
	return !out->vlan || !bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021Q), out->vlan);
}
