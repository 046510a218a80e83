/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* The path of a frame that a tenant sends. */
#pragma once

#include "answer.h"
#include "create.h"
#include "checksum.h"
#include "deliver.h"
#include "policy_drop.h"
#include "fragment.h"
#include "leg.h"
#include "punt_limit.h"
#include "stateless.h"
#include "trunk.h"

static __always_inline bool is_bum(struct __sk_buff *skb)
{
	const struct ethhdr *ethernet = (void *)(long)skb->data;

	return (void *)(ethernet + 1) <= (void *)(long)skb->data_end && ethernet->h_dest[0] & 1;
}

/* What is not decided here is decided by the pipeline; the frame goes there whole, with the attachment it came by. */
static __always_inline int punt_frame(struct __sk_buff *skb, const struct attachment *from, const struct config *config)
{
	struct punt_header header = { .ethertype_be = bpf_htons(PUNT_ETHERTYPE) };
	const struct scratch *scratch = the_scratch();
	__u32 why = scratch ? scratch->packet.punt : PUNT_OTHER;

	/* Of what is BUM traffic nothing is done here. */
	if ((why == PUNT_UNDECIDED || why == PUNT_PROTOCOL) && is_bum(skb))
		why = PUNT_MULTICAST;
	if (!take_punt_token(skb, from->vni, 0))
		return TC_ACT_SHOT;
	header.attachment_be = bpf_htonl(from->id);
	header.session_be = bpf_htonl(config->session);
	header.hash_be = bpf_htonl(bpf_get_hash_recalc(skb));
	if (bpf_skb_change_head(skb, sizeof(header), 0) ||
	    bpf_skb_store_bytes(skb, 0, &header, sizeof(header), 0)) {
		count(STAT_PUNT_FAILED);
		return TC_ACT_SHOT;
	}
	count(STAT_PUNTED);
	count_punt(why);
	skb->mark = EASTGATE_MARK;
	return bpf_redirect(config->punt_device, 0);
}

/* 1 admit: a flow was admitted from one attachment with these MACs, and from nowhere else. */
static __always_inline bool matches_template(struct __sk_buff *skb, const struct attachment *from,
					      const struct ends *ends, const struct template *template,
					      const struct network *network, __u32 side, struct packet *p)
{
	__u32 at = side ? ends->at[1] : ends->at[0];
	void *data = (void *)(long)skb->data;

	if (data + ETH_HLEN > (void *)(long)skb->data_end)
		return punt(p, PUNT_MALFORMED);
	if (!sum_can_be_had(skb, p, ends, side, SUM_NONE))
		return punt(p, PUNT_OUTER);
	return (template->flags & TEMPLATE_OPEN && at == from->number && right_macs(data, ends, template, network, side) &&
		largest(skb, p) <= template->max_packet && outlives_routing(template, p)) ||
	       punt(p, PUNT_PATH);
}

/* 4 track, 5 decide: whether the packet passes, and where to. */
static __always_inline enum forward_verdict tenant_forward(struct __sk_buff *skb, const struct attachment *from,
						   const struct config *config, struct scratch *scratch,
						   struct forwarding *forwarding)
{
	struct packet *p = &scratch->packet;
	__u32 side = key_of(p, from->vni, &scratch->key);
	const void *frame = (void *)(long)skb->data;
	const struct network *network;
	struct flow *flow;

	if (frame + ETH_HLEN > (void *)(long)skb->data_end)
		return FORWARD_PUNT;
	flow = find_flow(scratch, frame, side);

	if (flow) {
		const struct template *template = side ? &flow->dirs[1].template : &flow->dirs[0].template;

		network = in_force(scratch, flow, config->generation);
		if (!network) {
			if (!may_replace(flow, p, side, config->generation)) {
				p->punt = why_not_in_force(flow);
				return FORWARD_PUNT;
			}
		} else if (!matches_template(skb, from, &flow->ends, template, network, side, p)) {
			return FORWARD_PUNT;
		} else if (pass(skb, flow, side, scratch, config)) {
			find_forwarding(scratch, network, side, forwarding);
			return matches_template(skb, from, &scratch->ends, &scratch->template, network, side, p) ? FORWARD_PASS : FORWARD_PUNT;
		} else if (!is_syn(p)) {
			return FORWARD_PUNT;
		}
	}
	/* Flows of other legs than the direct one are opened by the pipeline. */
	p->lone = !may_begin(skb, p);
	if (scratch->key.leg || p->fragment == FRAGMENT_LATER || !beginning_fits(skb, 0, p, 0))
		return FORWARD_PUNT;
	network = decide_new(scratch, config, from->vni, side);
	if (!network || !matches_template(skb, from, &scratch->ends, &scratch->template, network, side, p))
		return FORWARD_PUNT;
	/* The other fragments of what is refused are the pipeline's to refuse. */
	if (scratch->verdict == VERDICT_DENY)
		return !flow && !p->fragment && count_policy_drop(scratch, config, from->id, skb->len) ? FORWARD_DENY : FORWARD_PUNT;
	if (!(scratch->verdict == VERDICT_STATELESS ? pass_alone(skb, flow, scratch) :
	      flow ? ct_reopen(flow, scratch, config, side) : ct_create(scratch, config, side)))
		return FORWARD_PUNT;
	find_forwarding(scratch, network, side, forwarding);
	return FORWARD_PASS;
}

/* The packet in the scratch area was counted and is punted after all, where it is counted again. */
static __always_inline void uncount(struct __sk_buff *skb, struct scratch *scratch)
{
	const struct packet *p = &scratch->packet;
	struct flow *flow = bpf_map_lookup_elem(&flows, &scratch->key);
	__u32 bytes = p->len + ETH_HLEN, packets = 1, gso_size = skb->gso_size;
	struct flow_dir *flow_dir;

	if (!flow) {
		if (p->stateless)
			count_stateless(skb, -1);
		return;
	}
	if (gso_size)
		packets = (bytes + gso_size - 1) / gso_size;
	flow_dir = same_addr(&p->src, &scratch->key.low) ? &flow->dirs[0] : &flow->dirs[1];
	bpf_spin_lock(&flow->lock);
	if (flow_dir->packets >= packets && flow_dir->bytes >= bytes) {
		flow_dir->packets -= packets;
		flow_dir->bytes -= bytes;
	}
	bpf_spin_unlock(&flow->lock);
}

/* The verdict, or PATH_PUNT for a frame that has to be punted. */
static __always_inline int tenant_path(struct __sk_buff *skb, const struct attachment *from, const struct config *config)
{
	struct scratch *scratch = the_scratch();
	struct forwarding *forwarding;
	struct packet *p;

	if (!scratch)
		return PATH_PUNT;
	p = &scratch->packet;
	forwarding = &scratch->forwarding;
	/* 2 answer: what is no packet of a flow may be a request for an address. */
	if (!read_packet(skb, 0, p) && (skb->vlan_present || read_fragment(skb, 0, from->vni) == FRAGMENT_NONE))
		return answer_again(skb, from->number, from->vni, config->generation);
	if (p->fragment == FRAGMENT_PUNT || !open_checksum_fits(skb, 0, p, 0) || !read_options(skb, 0, p) || !segment_fits(skb, 0, p, 0))
		return PATH_PUNT;
	switch (tenant_forward(skb, from, config, scratch, forwarding)) {
	case FORWARD_PUNT:
		return PATH_PUNT;
	case FORWARD_DENY:
		return TC_ACT_SHOT;
	case FORWARD_PASS:
		break;
	}
	if (p->fragment && !fragment_passes())
		return PATH_PUNT;
	/* 7 forward, 8 encapsulate */
	if (forwarding->to & AT_VTEP) {
		int verdict = into_tunnel(skb, config, forwarding, scratch, from->vni, 0, SUM_NONE);

		if (verdict == PATH_PUNT)
			uncount(skb, scratch);
		return verdict;
	}
	return write_ethernet(skb, forwarding) ? into_attachment(skb, forwarding, true) : PATH_BROKEN;
}

SEC("tc")
int tenant(struct __sk_buff *skb)
{
	const struct config *config = the_config();
	const struct scratch *scratch = the_scratch();
	const struct attachment *from;
	int verdict;

	count(STAT_FROM_PORTS);
	if (!config || !scratch || !resolve(skb)) {
		if (!config || !count_stray(skb))
			count(STAT_LOST);
		return TC_ACT_SHOT;
	}
	from = &scratch->from;
	verdict = tenant_path(skb, from, config);
	if (verdict == PATH_PUNT) {
		if (scratch->packet.fragment)
			punt_fragment();
		return punt_frame(skb, from, config);
	}
	if (verdict == PATH_BROKEN) {
		count(STAT_PUNT_FAILED);
		return TC_ACT_SHOT;
	}
	return verdict;
}
