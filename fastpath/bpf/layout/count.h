/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* What the programs count; a part of layout.h. */
#pragma once

enum stat {
	STAT_FROM_PORTS,
	STAT_FROM_UNDERLAY,
	STAT_TO_PORTS,
	STAT_TO_UNDERLAY,
	STAT_PUNTED,
	/* Not punted: too many of the network were */
	STAT_PUNT_LIMITED,
	/* Neither punted nor on: the kernel had no memory for it */
	STAT_PUNT_FAILED,
	/* From or to an attachment that is not open, or a GSO packet whose flow ended while the kernel unwrapped it */
	STAT_LOST,
	/* Requests for addresses that were answered here */
	STAT_ANSWERED,
	/* Refused by the rules */
	STAT_DENIED,
	STAT_COUNT,
};

/*
 * Why a packet is punted: left to the pipeline. `packet.punt` has the cause of the packet in hand, and each that is punted
 * is counted by it. src/punt.rs has their names for people.
 */
enum punt {
	/* None of those below */
	PUNT_OTHER,
	/* Lengths that do not agree, a wrong header checksum, bytes behind the packet */
	PUNT_MALFORMED,
	/* A request for an address, an announcement, or another neighbour message */
	PUNT_ARP_ND,
	/* To a group, or to all */
	PUNT_MULTICAST,
	/* Neither TCP nor UDP nor an echo */
	PUNT_PROTOCOL,
	PUNT_VLAN,
	PUNT_IP_OPTIONS,
	PUNT_FRAGMENT,
	/* Outer headers that are not read here: options, another device's address, a checksum */
	PUNT_OUTER,
	/* The ECN field of the inner packet would change. */
	PUNT_ECN,
	/* DHCP: its roles are checked packet by packet. */
	PUNT_DHCP,
	/* The transport checksum is wrong, or cannot be verified here. */
	PUNT_CHECKSUM,
	/* A SYN with data, or with options that are not read here */
	PUNT_SYN_DATA,
	/* A SYN whose MSS is to be lowered */
	PUNT_SYN_MSS,
	/* A segment that is no regular step of its connection */
	PUNT_TCP_IRREGULAR,
	/* Without a flow, and nothing that begins one: a segment that is no SYN, the reply of an echo */
	PUNT_NO_FLOW,
	/* The pipeline has the flow. */
	PUNT_RESERVED,
	/* The flow was decided under another epoch, or before a path or port changed. */
	PUNT_STALE,
	/* The flow's time is over. */
	PUNT_EXPIRED,
	/* A flow may not begin or become answered here: no place is granted for it. */
	PUNT_NO_CREDIT,
	/* Neither the policies here nor a policy-cache entry decide about it. */
	PUNT_UNDECIDED,
	/* The rules refuse it, and there is no room to count that here. */
	PUNT_DENIED,
	/* It does not fit the flow's path: port or VTEP, MACs, size. */
	PUNT_PATH,
	/* A GSO packet that has to be cut here */
	PUNT_GSO,
	/* The rules refuse it, but a helper expects it. */
	PUNT_EXPECTED,
	PUNT_COUNT,
};

/* As many as conntrack's table of expectations takes */
enum expected_max { EXPECTED_MAX = 16384 };
