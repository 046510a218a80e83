/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* How compiled policies are laid out; a part of layout.h. */
#pragma once

/*
 * The compiled policy of a network, as policy's `Compiled::words` lays it out: first what `policy_head` names, then the
 * tables. No program ever sees half of one: it is written before it is put at its network's place, or while the network
 * is of another epoch, and the block that says its own last.
 */
enum policy_block_words { POLICY_BLOCK = 16 };

struct policy_block {
	__u32 words[POLICY_BLOCK];
};
_Static_assert(sizeof(struct policy_block) == 64, "as policy's `words::BLOCK` and src/policy.rs have it");

enum policy_head {
	/* The epoch that it was compiled in: `network.policy` */
	POLICY_EPOCH,
	/* Where each table begins, in words */
	POLICY_RULESETS,
	POLICY_RULES,
	POLICY_IDENTITIES,
	POLICY_FURTHER,
	POLICY_LISTS,
	POLICY_TIER_LISTS,
};

/* The tiers of a list: of each its ruleset, with END_PASSES where it passes when no rule matches; NO_TIER behind the last one. */
enum policy_tiers { POLICY_TIERS = 4 };
enum policy_tier {
	END_PASSES = 1u << 31,
	NO_TIER = 0xffffffffu,
};

/* A value in a list of intervals: how far behind its first rule the one that decides stands, or one of these. */
enum policy_value {
	/* No rule of the list matches. */
	NOWHERE = (1u << 31) - 1,
	/* A list over another field: which one is in the two bits from FIELD_AT on, and its place below. */
	NESTED = 1u << 31,
	FIELD_AT = 29,
};
/* The fields that lists lie in each other by, in that order */
enum policy_field {
	FIELD_SOURCE_PORT,
	FIELD_DSCP,
	FIELD_TCP_FLAGS,
	FIELD_COUNT,
};
/* In place of ports that a packet does not have */
enum policy_port { UNREAD = 1 << 16 };

/*
 * What a rule does: the second of its words. One that has more bits set than these says more than the programs carry out. What is to
 * be logged the daemon finds by the rule, in what they count.
 */
enum rule_action {
	RULE_ALLOW,
	RULE_DENY,
	RULE_REJECT,
	/* On to the next tier */
	RULE_PASS,
	RULE_LOG = 1 << 8,
	RULE_STATELESS = 1 << 11,
};
