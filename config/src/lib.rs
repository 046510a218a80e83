//! The configuration: TOML files in, one checked [`Config`] out, or every error at once, each with its place and
//! what to do about it.
//!
//! From text to [`Config`]: `islands`, `read` and `tables` turn TOML into plain values (`parts` only what changed),
//! `check` looks at each file by itself, `cross` at all of them together, and [`Loader`] remembers what did not
//! change.

mod check;
mod cross;
pub mod diagnostics;
mod digest;
mod ethertypes;
pub mod filters;
mod include;
mod islands;
pub mod leaf;
pub mod learned;
pub mod loader;
pub mod model;
mod near;
mod parts;
pub mod place;
pub mod policies;
pub mod prefixes;
pub mod problem;
mod read;

mod schema;
mod sizes;
mod tables;
mod timeouts;
mod values;
mod variables;
mod vdp;
mod vlans;

pub use diagnostics::Diagnostics;
pub use digest::Digest;
pub use ethertypes::L2Protocol;
pub use filters::{FILTERS, Filter};
pub use leaf::*;
pub use learned::{AssociatedMachines, Effective, LearnedAddresses};
pub use loader::{Loader, load_str};
pub use model::*;
pub use place::{Place, Source};
pub use policies::*;
pub use problem::{Diagnostic, Problem, Severity};
pub use schema::schema;
pub use vdp::{Profile, VdpDevice, VsiManager, VsiProfile};
pub use vlans::VlanRange;
