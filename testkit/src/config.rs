//! Configurations from text, and texts that are too long to be written by hand.
#![allow(clippy::panic, reason = "a test that cannot go on ends with what is wrong")]

use std::{fmt::Write as _, sync::Arc};

use eastgate_config::{Config, load_str};

/// The configuration in a text, or all that is wrong with it.
pub fn parse(text: &str) -> Arc<Config> {
    load_str("test.toml", text).unwrap_or_else(|wrong| panic!("{}", wrong.render(false)))
}

/// Rules of each group of [`large_group`].
pub const RULES_OF_A_GROUP: usize = 10;

/// One of `groups` groups `g0`, `g1` ... of a tenant: its rules name others of them, prefixes and everyone.
#[must_use]
pub fn large_group(tenant: &str, group: usize, groups: usize) -> String {
    let mut text = format!("[tenant.{tenant}.group.g{group}]\ningress = [\n");
    for rule in 0..RULES_OF_A_GROUP {
        let from = match rule % 3 {
            0 => format!("group:g{}", (group * 7 + rule) % groups),
            1 => format!("172.16.{}.0/24", (group + rule) % 256),
            _ => "any".to_owned(),
        };
        let port = 1024 + (group * RULES_OF_A_GROUP + rule) % 60_000;
        let _ = writeln!(text, "  {{ proto = \"tcp\", ports = {port}, from = \"{from}\" }},");
    }
    text + "]\n"
}
