//! eastgate: a VXLAN overlay and east-west traffic steering appliance with stateful policy.
//!
//! This crate is the appliance around the rooms that do the work. Where to begin reading:
//! [`eastgate_dataplane::pipeline`] is the packet's path, top to bottom. A [configuration](eastgate_config) becomes a
//! [`snapshot`](eastgate_dataplane::snapshot), the tables that the path works with. [`daemon`] puts the two together
//! with [`io`], the only place with sockets, netlink, procfs, clocks and threads.

pub mod changes;
pub mod cli;
pub mod control;
pub mod daemon;
pub mod doctor;
pub mod export;
pub mod faults;
pub mod http;
pub mod import;
pub mod io;
mod page;
pub mod plan;
pub mod policy_tools;
pub mod support;
