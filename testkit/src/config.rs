//! Configurations from text.
#![allow(clippy::panic, reason = "a test that cannot go on ends with what is wrong")]

use std::sync::Arc;

use eastgate_config::{Config, load_str};

/// The configuration in a text, or all that is wrong with it.
pub fn parse(text: &str) -> Arc<Config> {
    load_str("test.toml", text).unwrap_or_else(|wrong| panic!("{}", wrong.render(false)))
}
