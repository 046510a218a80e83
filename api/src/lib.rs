//! What a daemon is asked and what it answers: the types that the control socket, the command line and whoever else asks
//! have in common. As JSON they are what `-o json` prints, so that their field names are an interface. Over HTTP each is a method and a
//! path, which one table says ([`ROUTES`]), for those who ask and those who answer, and for the description of it all ([`openapi()`]).
//!
//! This crate has no sockets, no clocks and no threads; how requests travel is the business of who sends them.

mod caller;
mod changes;
mod event;
mod failure;
mod filter;
mod flow;
mod hex;
mod matrix;
mod near;
mod openapi;
mod probe;
mod protocol;
mod query;
mod reply;
mod route;
mod scope;
mod staged;
mod trace;
mod vdp;

pub use caller::CallerRow;
pub use changes::{Changes, Named};
pub use event::{EventKind, EventRow, Events, FLOW_ENDINGS, MAX_EVENTS, Verdict};
pub use failure::{ErrorCode, Failure};
pub use filter::{Criterion, FLOW_STATES, Filter};
pub use flow::{ExpectationRow, FlowRow, HelperCounts, RelatedTo};
pub use hex::{Hex, NoHex};
pub use matrix::{MatrixRow, PassageRow};
pub use near::nearest;
pub use openapi::openapi;
pub use probe::{
    MAX_COUNT, MAX_SIZE, MAX_TOTAL_MS, MAX_WAIT_MS, NO_ANSWER, NO_NEIGHBOR, ProbeKind, ProbeReport,
    ProbeRequest, ProbeStep, ProbedVtep, REACHED, REFUSED, UNREACHABLE,
};
pub use protocol::{
    Class, Done, DropRow, DropRows, EndpointRow, FdbRow, FlowCounts, GroupRow, LearnedAddress, LearnedCounts,
    Memory, NeighborRow, PolicyRow, PortStatus, RecentDrop, Request, Restored, Role, RuleCountRow, RuleRef,
    RuleRow, Status, Traffic, VtepStatus,
};
pub use reply::{List, MAX_ROWS, Reply, Row};
pub use route::{Body, Call, MAX_BODY, Method, Misrouted, PAGES, Page, ROUTES, Route, Takes, find};
pub use scope::Scope;
pub use staged::{StagedChange, StagedRow, StagedRows};
pub use trace::{Remedy, TraceReport, TraceRequest, TraceStep};
pub use vdp::{MachineRow, StationPort};
