/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* The path of a frame that a tenant sends. */
#pragma once

#include "answer.h"
#include "born.h"
#include "deliver.h"

/* Takes one of the port's tokens. */
static __always_inline bool may_go_up(struct port *port, const struct config *config)
{
	__u64 now = bpf_ktime_get_ns(), rate = config->up_rate, burst = config->up_burst, gained, since;
	bool may;

	bpf_spin_lock(&port->lock);
	since = now - port->filled_at;
	if (since > 1000000000)
		since = 1000000000;
	gained = since * rate / 1000000000;
	if (gained) {
		port->tokens += gained;
		if (port->tokens > burst)
			port->tokens = burst;
		port->filled_at = now;
	}
	may = port->tokens > 0;
	if (may)
		port->tokens -= 1;
	bpf_spin_unlock(&port->lock);
	return may;
}

/* What is not decided here is decided by the pipeline; the frame goes there whole, with the port it came from. */
static __always_inline int up(struct __sk_buff *skb, struct port *port, const struct config *config)
{
	struct up_header header = { .ethertype_be = bpf_htons(UP_ETHERTYPE) };

	if (!may_go_up(port, config)) {
		count(STAT_UP_LIMITED);
		return TC_ACT_SHOT;
	}
	header.port_be = bpf_htonl(port->id);
	header.session_be = bpf_htonl(config->session);
	header.hash_be = bpf_htonl(bpf_get_hash_recalc(skb));
	if (bpf_skb_change_head(skb, sizeof(header), 0) ||
	    bpf_skb_store_bytes(skb, 0, &header, sizeof(header), 0)) {
		count(STAT_UP_FAILED);
		return TC_ACT_SHOT;
	}
	count(STAT_UP);
	skb->mark = EASTGATE_MARK;
	return bpf_redirect(config->up_device, 0);
}

/* 1 admit: a flow was admitted from one port with these MACs, and from nowhere else. */
static __always_inline bool comes_from_port(struct __sk_buff *skb, const struct way *way, const struct packet *p)
{
	void *data = (void *)(long)skb->data;

	if (data + ETH_HLEN > (void *)(long)skb->data_end)
		return false;
	/*
	 * A superframe of datagrams that the other VTEP's socket gets uncut, on this very machine, does not tell where to
	 * cut it. The pipeline cuts it before it goes.
	 */
	if (skb->gso_size && p->proto == IPPROTO_UDP && !way->out_port)
		return false;
	return way->flags & WAY_OPEN && way->in_port == skb->ifindex && same_macs(data, way->in_macs) &&
	       largest(skb, p) <= way->max_packet;
}

/* 3 track, 4 decide: the way of a packet that passes. */
static __always_inline const struct way *tenant_way(struct __sk_buff *skb, const struct port *port,
						    const struct config *config, struct desk *desk)
{
	const struct packet *p = &desk->packet;
	__u32 side = key_of(p, port->vni, &desk->key);
	struct flow *flow = bpf_map_lookup_elem(&flows, &desk->key);
	struct way *way;

	if (flow) {
		way = side ? &flow->ways[1] : &flow->ways[0];
		if (!in_force(flow, config->generation)) {
			if (!may_replace(flow, p, side, config->generation))
				return 0;
		} else if (!comes_from_port(skb, way, p)) {
			return 0;
		} else if (pass(skb, flow, side, desk)) {
			return comes_from_port(skb, &desk->way, p) ? &desk->way : 0;
		} else if (p->proto != IPPROTO_TCP) {
			return 0;
		}
	}
	if (!may_begin(skb, p) || !permitted(desk, port->vni, config->generation, side))
		return 0;
	way = &((struct flow *)desk->flow)->ways[side ? 1 : 0];
	if (!comes_from_port(skb, way, p))
		return 0;
	if (flow ? reborn(flow, desk, side) : born(desk, side))
		return way;
	return 0;
}

/* The verdict, or WRAP_REFUSED for a frame that has to go up. */
static __always_inline int tenant_path(struct __sk_buff *skb, const struct port *port, const struct config *config)
{
	struct desk *desk = the_desk();
	struct packet *p = desk ? &desk->packet : 0;
	const struct way *way;

	if (!p)
		return WRAP_REFUSED;
	/* 2 answer: what is no packet of a flow may be a request for an address. */
	if (!read_packet(skb, 0, p))
		return answer_again(skb, port->vni, config->generation);
	if (!read_options(skb, 0, p))
		return WRAP_REFUSED;
	way = tenant_way(skb, port, config, desk);
	if (!way)
		return WRAP_REFUSED;
	/* 6 forward, 7 wrap */
	if (!way->out_port)
		return into_tunnel(skb, config, way, p, port->vni);
	return write_ethernet(skb, way->out_macs, p->v6) ? into_port(skb, way, true) : WRAP_BROKEN;
}

SEC("tc")
int tenant(struct __sk_buff *skb)
{
	const struct config *config = the_config();
	__u32 ifindex = skb->ifindex;
	struct port *port = bpf_map_lookup_elem(&ports, &ifindex);
	int verdict;

	count(STAT_FROM_PORTS);
	if (!config || !port) {
		count(STAT_LOST);
		return TC_ACT_SHOT;
	}
	verdict = tenant_path(skb, port, config);
	if (verdict == WRAP_REFUSED)
		return up(skb, port, config);
	if (verdict == WRAP_BROKEN) {
		count(STAT_UP_FAILED);
		return TC_ACT_SHOT;
	}
	return verdict;
}
