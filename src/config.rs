//! The configuration: TOML files in, one checked [`Config`] out, or every error at once, each with its place and
//! what to do about it.

pub mod leaf;
pub mod model;
pub mod place;

pub use leaf::*;
pub use model::*;
pub use place::{Place, Source};
