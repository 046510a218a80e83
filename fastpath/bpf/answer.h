/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Answers to ARP and neighbour solicitations. What a request is answered with is the pipeline's decision: it leaves the
 * answer's bytes, and here they are given again to requests that differ in nothing that the pipeline looks at, for as
 * long as the policy's epoch stands and for as many tokens of the sender's as it has granted. Only the regular form is read;
 * every other request is punted.
 */
#pragma once

#include "changed.h"
#include "deliver.h"
#include "maps.h"

#include <linux/icmpv6.h>

struct arp_request {
	struct ethhdr ethernet;
	__be16 hardware;
	__be16 protocol;
	__u8 hardware_len;
	__u8 protocol_len;
	__be16 operation;
	__u8 sender_mac[ETH_ALEN];
	__be32 sender;
	__u8 target_mac[ETH_ALEN];
	__be32 target;
} __attribute__((packed));

struct solicitation {
	struct ethhdr ethernet;
	struct ipv6hdr ip;
	struct icmp6hdr icmp;
	struct addr target;
	/* The source link-layer address (RFC 4861 section 4.6.1), where there is one */
	__u8 option;
	__u8 option_len;
	__u8 option_mac[ETH_ALEN];
} __attribute__((packed));

#define ARP_ETHERNET 1
#define ARP_REQUEST 1
#define ND_SOLICITATION 135
#define ND_HOP_LIMIT 255
#define ND_SOURCE_MAC 1
#define PLAIN_SOLICITATION offsetof(struct solicitation, option)
/* Where the checksum's pseudo-header begins: the two addresses. */
#define PSEUDO_HEADER (ETH_HLEN + offsetof(struct ipv6hdr, saddr))
/* Ethernet pads what is shorter. */
#define LONGEST_ARP 60

_Static_assert(sizeof(struct arp_request) == 42, "as a reply");
_Static_assert(sizeof(struct solicitation) == 86, "as an advertisement");

static __always_inline bool is_broadcast(const __u8 *mac)
{
	for (int i = 0; i < ETH_ALEN; i++)
		if (mac[i] != 0xff)
			return false;
	return true;
}

/* RFC 826, as stacks send it. That the addresses can be those of hosts is part of what was decided. */
static __always_inline bool read_arp(struct __sk_buff *skb, struct scratch *scratch)
{
	const struct arp_request *request = (void *)scratch->request;
	struct neighbor_key *key = &scratch->asked;

	if (skb->len > LONGEST_ARP || bpf_skb_load_bytes(skb, 0, scratch->request, sizeof(*request)))
		return false;
	if (request->ethernet.h_proto != bpf_htons(ETH_P_ARP) || request->hardware != bpf_htons(ARP_ETHERNET) ||
	    request->protocol != bpf_htons(ETH_P_IP) || request->hardware_len != ETH_ALEN ||
	    request->protocol_len != sizeof(request->sender) || request->operation != bpf_htons(ARP_REQUEST) ||
	    !same_mac(request->ethernet.h_source, request->sender_mac))
		return false;
	if (is_broadcast(request->ethernet.h_dest))
		key->form = FORM_TO_ALL;
	else if (request->ethernet.h_dest[0] & 1)
		return false;
	else
		key->form = 0;
	key->sender = (struct addr){ { 0, 0, bpf_htonl(0xffff), request->sender } };
	key->target = (struct addr){ { 0, 0, bpf_htonl(0xffff), request->target } };
	return true;
}

/* Is it sent to the solicited-node group of its target (RFC 4291 section 2.7.1), and to that group's MAC? */
static __always_inline bool is_to_group(const struct solicitation *request)
{
	const __be32 *to = request->ip.daddr.s6_addr32;
	const __u8 *mac = request->ethernet.h_dest, *last = &request->ip.daddr.s6_addr[12];

	return to[0] == bpf_htonl(0xff020000) && to[1] == 0 && to[2] == bpf_htonl(1) &&
	       to[3] == (request->target.be[3] | bpf_htonl(0xff000000)) && mac[0] == 0x33 && mac[1] == 0x33 &&
	       mac[2] == last[0] && mac[3] == last[1] && mac[4] == last[2] && mac[5] == last[3];
}

static __always_inline bool is_to_target(const struct solicitation *request)
{
	const __be32 *to = request->ip.daddr.s6_addr32, *target = request->target.be;

	return !(request->ethernet.h_dest[0] & 1) && to[0] == target[0] && to[1] == target[1] && to[2] == target[2] &&
	       to[3] == target[3];
}

/* What is not in the request, behind a solicitation without an option, is zero. */
static __always_inline bool right_icmp_sum(const struct scratch *scratch, __u32 len)
{
	const __u16 *word = (const void *)&scratch->request[PSEUDO_HEADER];
	__u32 sum = bpf_htons(len) + bpf_htons(IPPROTO_ICMPV6);

	for (int i = 0; i < (sizeof(struct solicitation) - PSEUDO_HEADER) / 2; i++)
		sum += word[i];
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum == 0xffff;
}

/* RFC 4861 section 4.3, with the source link-layer address or without any option */
static __always_inline bool read_solicitation(struct __sk_buff *skb, struct scratch *scratch)
{
	const struct solicitation *request = (void *)scratch->request;
	struct neighbor_key *key = &scratch->asked;
	bool names_mac = skb->len == sizeof(*request);
	__u32 len = skb->len - ETH_HLEN - sizeof(struct ipv6hdr);

	if (!names_mac && skb->len != PLAIN_SOLICITATION)
		return false;
	__builtin_memset(scratch->request, 0, sizeof(scratch->request));
	if (names_mac ? bpf_skb_load_bytes(skb, 0, scratch->request, sizeof(*request)) :
			bpf_skb_load_bytes(skb, 0, scratch->request, PLAIN_SOLICITATION))
		return false;
	if (request->ethernet.h_proto != bpf_htons(ETH_P_IPV6) || request->ip.version != 6 ||
	    request->ip.payload_len != bpf_htons(len) || request->ip.nexthdr != IPPROTO_ICMPV6 ||
	    request->ip.hop_limit != ND_HOP_LIMIT || request->icmp.icmp6_type != ND_SOLICITATION ||
	    request->icmp.icmp6_code || !right_icmp_sum(scratch, len))
		return false;
	if (names_mac && (request->option != ND_SOURCE_MAC || request->option_len != 1 ||
			  !same_mac(request->option_mac, request->ethernet.h_source)))
		return false;
	key->form = FORM_ND | (names_mac ? FORM_NAMES_MAC : 0);
	if (is_to_group(request))
		key->form |= FORM_TO_ALL;
	else if (!is_to_target(request))
		return false;
	__builtin_memcpy(&key->sender, &request->ip.saddr, sizeof(key->sender));
	key->target = request->target;
	return true;
}

static __always_inline bool read_request(struct __sk_buff *skb, struct scratch *scratch, __u32 attachment)
{
	const struct ethhdr *ethernet = (void *)scratch->request;

	if (skb->vlan_present || skb->gso_size)
		return false;
	if (skb->protocol == bpf_htons(ETH_P_ARP)) {
		if (!read_arp(skb, scratch))
			return false;
	} else if (skb->protocol != bpf_htons(ETH_P_IPV6) || !read_solicitation(skb, scratch)) {
		return false;
	}
	scratch->asked.attachment = attachment;
	__builtin_memcpy(scratch->asked.mac, ethernet->h_source, ETH_ALEN);
	return true;
}

/* Puts the answer to the request in the scratch area and takes one of its tokens. */
static __always_inline bool take_answer(struct scratch *scratch, __u32 vni, __u32 generation)
{
	struct answer *answer = bpf_map_lookup_elem(&neighbor_cache, &scratch->asked), *copy = &scratch->answer;
	const struct network *network;
	__u64 credit;
	__u32 place;

	if (!answer)
		return false;
	/*
	 * Before all else of it: the entry may be given away twice while it is copied, and be the one of this key again. No two
	 * credits have one number, so that the step below then fails, and what was copied is of one answer when it does not.
	 */
	credit = *(volatile __u64 *)&answer->credit;
	barrier();
	*copy = *answer;
	copy->credit = credit;
	/* As in `find_cached_policy`: an entry that is still the one of this key was so all the time, or is so again. */
	if (bpf_map_lookup_elem(&neighbor_cache, &scratch->asked) != answer || copy->generation != generation)
		return false;
	place = copy->network;
	network = bpf_map_lookup_elem(&networks, &place);
	if (!network || network->vni != vni || copy->epoch < network->epoch || !(__u32)copy->credit)
		return false;
	if ((is_changing(network) && answer_is_superseded(scratch, vni)) || *(volatile const __u32 *)&answer->epoch != copy->epoch)
		return false;
	/* From this credit and no other, should the entry be given away just now. */
	return __sync_val_compare_and_swap(&answer->credit, copy->credit, copy->credit - 1) == copy->credit;
}

/*
 * Makes the request an answer. What is behind the headers is cut off before there is room again: the kernel refuses that
 * for a frame whose checksum was left open, which would be finished in the answer's bytes, and forgets what the device
 * has summed up.
 */
static __always_inline int turn_around(struct __sk_buff *skb, const struct scratch *scratch, const __u32 headers,
				       const __u32 len)
{
	const struct egress *out = bpf_map_lookup_elem(&egress, &scratch->asked.attachment);

	if (!out || scratch->answer.len != len || bpf_skb_change_tail(skb, headers, 0))
		return PATH_PUNT;
	if (bpf_skb_change_tail(skb, len, 0) ||
	    bpf_skb_store_bytes(skb, 0, scratch->answer.frame, len, BPF_F_INVALIDATE_HASH) || !put_tag(skb, out))
		return PATH_BROKEN;
	count(STAT_ANSWERED);
	count(STAT_TO_PORTS);
	skb->mark = EASTGATE_MARK;
	return bpf_redirect(skb->ifindex, 0);
}

/*
 * The verdict, or PATH_PUNT for a frame that has to be punted. Not static, so that the verifier looks at it by itself and
 * what packets of flows go through does not become longer.
 */
__noinline int answer_again(struct __sk_buff *skb, __u32 attachment, __u32 vni, __u32 generation)
{
	struct scratch *scratch = the_scratch();

	if (!scratch || !read_request(skb, scratch, attachment) || !take_answer(scratch, vni, generation))
		return PATH_PUNT;
	if (scratch->asked.form & FORM_ND)
		return turn_around(skb, scratch, ETH_HLEN + sizeof(struct ipv6hdr), sizeof(struct solicitation));
	return turn_around(skb, scratch, ETH_HLEN, sizeof(struct arp_request));
}
