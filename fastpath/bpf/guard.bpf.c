/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * The guard on a tenant port where the kernel has tcx: `refuse_all` where frames come in, `only_marked` where they go
 * out. An object of its own, without tables, so that there is a guard also where the fast path is not to be had.
 */
#include "layout.h"

#include <bpf/bpf_helpers.h>
#include <linux/pkt_cls.h>

/* The kernel's own stack gets nothing. Packet sockets have seen the frame by then. */
SEC("tc")
int refuse_all(struct __sk_buff *skb)
{
	return TC_ACT_SHOT;
}

/* What goes out is eastgate's. The programs and qdiscs of others behind this one still see it. */
SEC("tc")
int only_marked(struct __sk_buff *skb)
{
	return skb->mark == EASTGATE_MARK ? TC_ACT_UNSPEC : TC_ACT_SHOT;
}

char licence[] SEC("license") = "Dual MIT/GPL";
