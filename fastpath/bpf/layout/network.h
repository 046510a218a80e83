/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Networks, and who in them is decided about anew; a part of layout.h. */
#pragma once

/* Above all epochs */
enum no_epoch { NO_EPOCH = 0xffffffffu };

enum control_ports { CONTROL_PORTS = 8 };

struct network {
	__u32 vni;
	/* What was decided in an epoch before this one does not pass; NO_EPOCH where nothing does. */
	__u32 epoch;
	/* The epoch of the policy that new flows are decided by, once `policies` has it */
	__u32 policy;
	/* The MAC that eastgate has there where it answers for others (proxy) */
	__u8 mac[6];
	/* `template_flags` that all templates of the network have, and what they have into the tunnel: `template.tos` and `template.ttl` */
	__u16 template_flags;
	__u8 tos;
	__u8 ttl;
	/* `network_marks` */
	__u16 marks;
	/* Another number whenever an address of it has changed hands; never 0 */
	__u16 bindings;
	__u16 spare;
	/* UDP ports whose packets the pipeline checks one by one: those of DHCP, and of what reads payloads. 0 is none. */
	__u16 control_ports[CONTROL_PORTS];
};

enum changed_kind {
	CHANGED_ADDRESS,
	/* In the first bytes of `changed_key.addr` */
	CHANGED_MAC,
};

/* Who is decided about anew */
struct changed_key {
	struct addr addr;
	__u32 vni;
	/* `changed_kind` */
	__u32 kind;
};

enum network_marks {
	/* What comes from one VTEP may go to another. */
	NETWORK_HUB = 1 << 0,
	/* Some of its rules keep no state: what is of no flow may pass all the same. */
	NETWORK_STATELESS = 1 << 1,
	/* Ends of it are decided about anew, and `changed` says which. */
	NETWORK_CHANGING = 1 << 2,
};
