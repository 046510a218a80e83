//! What the tests of several crates build with: frames of numbered stations, built by etherparse, which shares no code
//! with the path, and configurations from text. Only tests use it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on ends with what is missing")]

use std::sync::Arc;

use eastgate_config::{Config, load_str};

pub mod frames;

/// The configuration in a text, or all that is wrong with it.
pub fn parse(text: &str) -> Arc<Config> {
    load_str("test.toml", text).unwrap_or_else(|wrong| panic!("{}", wrong.render(false)))
}

/// A VXLAN datagram's payload (RFC 7348 section 5), built here so that the path's own encoder is not its judge.
pub fn vxlan(vni: u32, frame: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = vni.to_be_bytes();
    [&[8, 0, 0, 0, a, b, c, 0], frame].concat()
}
