/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * The numbers that the programs and the daemon share, for src/tests.rs to hold those of layout.rs to. The compiler notes
 * enumerations that a variable has. Nobody loads this object.
 */
#include "layout.h"

#include <bpf/bpf_helpers.h>

struct constants {
	enum key_marks key_marks;
	enum side_flags side_flags;
	enum flow_state flow_state;
	enum attachment_flags attachment_flags;
	enum device_name device_name;
	enum stray_vlan stray_vlan;
	enum at_vtep at_vtep;
	enum template_flags template_flags;
	enum flow_marks flow_marks;
	enum stream_time stream_time;
	enum flow_rank flow_rank;
	enum endpoint_flags endpoint_flags;
	enum direction direction;
	enum no_rule no_rule;
	enum policy_block_words policy_block_words;
	enum policy_head policy_head;
	enum policy_tiers policy_tiers;
	enum policy_tier policy_tier;
	enum policy_value policy_value;
	enum policy_field policy_field;
	enum policy_port policy_port;
	enum rule_action rule_action;
	enum host_account host_account;
	enum daemon_clock daemon_clock;
	enum population population;
	enum take_how take_how;
	enum take_result take_result;
	enum answer_form answer_form;
	enum answer_max answer_max;
	enum unserved unserved;
	enum limited_bytes limited_bytes;
	enum no_epoch no_epoch;
	enum changed_kind changed_kind;
	enum control_ports control_ports;
	enum network_marks network_marks;
	enum vtep_flags vtep_flags;
	enum layout layout;
	enum config_flags config_flags;
	enum punt_ethertype punt_ethertype;
	enum eastgate_mark eastgate_mark;
	enum datagram_places datagram_places;
	enum datagram_state datagram_state;
	enum datagram_pieces datagram_pieces;
	enum stat stat;
	enum punt punt;
	enum expected_max expected_max;
};

struct constants constants;

char licence[] SEC("license") = "Dual MIT/GPL";
