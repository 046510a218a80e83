//! Who answers ARP and neighbour discovery and with which MAC, which hosts were learned from them, and which
//! interface settings keep the kernel from answering in our place.
//!
//! Nothing here does I/O or reads a clock: frames, tables and `now` go in; answers, bytes and changes come
//! out.

pub mod bindings;
pub mod holders;
pub mod kernel;
pub mod responder;
pub mod rewrite;
pub mod settings;
pub mod snooping;
pub mod vdp;

pub use bindings::{Known, Learn, LearnLimits, Learned};
pub use holders::{Heard, Holder, HolderLimits, Holders, Title};
pub use responder::{
    Answer, Answers, Binding, Bindings, Claim, Conflict, Mode, Onward, Question, Requester, Unknown,
    announced, announcement, answer, ask, choice, claim, question, request,
};
pub use rewrite::{proxy_mac, rewrite};
