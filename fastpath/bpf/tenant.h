/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* The path of a frame that a tenant sends. */
#pragma once

#include "deliver.h"
#include "track.h"

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

/* The verdict, or WRAP_REFUSED for a frame that has to go up. */
static __always_inline int tenant_path(struct __sk_buff *skb, const struct port *port, const struct config *config)
{
	struct packet p = {};
	struct flow *flow;
	struct way *way;
	__u32 side;
	void *data;

	if (!read_packet(skb, 0, &p))
		return WRAP_REFUSED;
	flow = find(&p, port->vni, config->generation, &side);
	if (!flow)
		return WRAP_REFUSED;
	way = side ? &flow->ways[1] : &flow->ways[0];
	data = (void *)(long)skb->data;
	if (data + ETH_HLEN > (void *)(long)skb->data_end)
		return WRAP_REFUSED;
	/* 1 admit: the flow was admitted from this port with these MACs, and from nowhere else. */
	if (!(way->flags & WAY_OPEN) || way->in_port != skb->ifindex || !same_macs(data, way->in_macs) ||
	    largest(skb, &p) > way->max_packet)
		return WRAP_REFUSED;
	/*
	 * A superframe of datagrams that the other VTEP's socket gets uncut, on this very machine, does not tell where to
	 * cut it. The pipeline cuts it before it goes.
	 */
	if (skb->gso_size && p.proto == IPPROTO_UDP && !way->out_port)
		return WRAP_REFUSED;
	/* 3 track, 4 decide */
	if (!pass(skb, flow, side, &p))
		return WRAP_REFUSED;
	/* 6 forward, 7 wrap */
	if (!way->out_port)
		return into_tunnel(skb, config, way, &p, port->vni);
	return write_ethernet(skb, way->out_macs, p.v6) ? into_port(skb, way, true) : WRAP_BROKEN;
}

SEC("tc")
int tenant(struct __sk_buff *skb)
{
	const struct config *config = the_config();
	__u32 ifindex = skb->ifindex;
	struct port *port = bpf_map_lookup_elem(&ports, &ifindex);
	int verdict;

	if (!config || !port)
		return TC_ACT_SHOT;
	count(STAT_FROM_PORTS);
	verdict = tenant_path(skb, port, config);
	if (verdict == WRAP_REFUSED)
		return up(skb, port, config);
	return verdict == WRAP_BROKEN ? TC_ACT_SHOT : verdict;
}
