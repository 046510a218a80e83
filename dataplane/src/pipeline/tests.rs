//! The promises of the packet's path, each as a test: several hosts, compiled from one configuration, exchange
//! real frames over a simulated underlay in virtual time.
//!
//! Frames are built by `etherparse`, which shares no code with the path. What becomes of one reads as text, who
//! got it and who dropped it: `assert_eq!(net.send("web1", syn), "db1")`. At the end of every test the drops that
//! were returned and the drops that were counted are held against each other, on every host.

mod control_traffic;
mod decisions;
mod encap;
mod filters;
mod fragments;
mod groups;
mod helpers;
mod learning;
mod legs;
mod limits;
mod movable;
mod moves;
mod neighbors;
mod net;
mod noise;
mod oracle;
mod policies;
mod reject;
mod reload;
mod routed;
mod routes;
mod rule_counts;
mod rule_limits;
mod scene;
mod sctp;
mod search;
mod size;
mod stateless;
mod tenants;
mod tiers;
mod timeouts;
mod topology;
mod underlay;
mod unknown_segments;

use eastgate_testkit::frames;
