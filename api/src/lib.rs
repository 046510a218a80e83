//! What a daemon is asked and what it answers: the types that the control socket, the command line and whoever else asks
//! have in common. As JSON they are what `-o json` prints, so that their field names are an interface.
//!
//! This crate has no sockets, no clocks and no threads; how requests travel is the business of who sends them.

mod changes;
mod event;
mod failure;
mod filter;
mod flow;
mod hex;
mod protocol;
mod reply;
mod staged;
mod trace;
mod vdp;

pub use changes::{Changes, Named};
pub use event::{EventKind, EventRow, Events, FLOW_ENDINGS, MAX_EVENTS, Verdict};
pub use failure::{ErrorCode, Failure};
pub use filter::{Criterion, FLOW_STATES, Filter};
pub use flow::{ExpectationRow, FlowRow, HelperCounts, RelatedTo};
pub use hex::{Hex, NoHex};
pub use protocol::{
    Class, Done, DropRow, DropRows, EndpointRow, FdbRow, FlowCounts, GroupRow, LearnedAddress, LearnedCounts,
    Memory, NeighborRow, PolicyRow, PortStatus, RecentDrop, Request, Restored, RuleCountRow, RuleRef,
    RuleRow, Status, Traffic, VtepStatus,
};
pub use reply::{List, MAX_ROWS, Reply, Row};
pub use staged::{StagedChange, StagedRow, StagedRows};
pub use trace::{Remedy, TraceReport, TraceRequest, TraceStep};
pub use vdp::{MachineRow, StationPort};
