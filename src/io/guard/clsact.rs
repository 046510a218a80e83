//! The guard by filters on a clsact qdisc, for kernels without tcx.
//!
//! The filters are classic BPF inside `cls_bpf`, which works on every kernel that has clsact, or the fast path's programs.
//! There is one place for clsact and its older kind, `ingress`: where someone else's clsact is, its filters stay; an
//! `ingress` qdisc has no egress to guard, and such a port is closed and not served.

use std::os::fd::{AsRawFd, BorrowedFd};

use rtnetlink::{
    packet_core::{DefaultNla, Nla},
    packet_route::tc::{TcAttribute, TcFilterBpfOption, TcHandle, TcMessage, TcOption},
};

use super::{GuardError, MARK, Role};
use crate::io::netlink::{Link, Netlink, NetlinkError, errno};

/// The filter's priority: before everything that others add by default.
const PRIORITY: u32 = 1;
const HANDLE: u32 = 0xea57;

const TCA_BPF_OPS_LEN: u16 = 4;
const TCA_BPF_OPS: u16 = 5;
const TCA_BPF_FD: u16 = 6;
pub(in crate::io) const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_FLAG_ACT_DIRECT: u32 = 1;
const TC_ACT_UNSPEC: u32 = u32::MAX;
const TC_ACT_SHOT: u32 = 2;
/// `SKF_AD_OFF + SKF_AD_MARK`: where classic BPF reads the mark.
const MARK_FIELD: u32 = 0xffff_f000 + 20;

fn op(code: u32, jt: u8, jf: u8, k: u32) -> [u8; 8] {
    let [a, b] = (code as u16).to_ne_bytes();
    let [c, d, e, f] = k.to_ne_bytes();
    [a, b, jt, jf, c, d, e, f]
}

fn refuse_all() -> Vec<[u8; 8]> {
    vec![op(libc::BPF_RET | libc::BPF_K, 0, 0, TC_ACT_SHOT)]
}

fn only_marked() -> Vec<[u8; 8]> {
    vec![
        op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, MARK_FIELD),
        op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, MARK),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, TC_ACT_UNSPEC),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, TC_ACT_SHOT),
    ]
}

fn qdisc(index: u32) -> TcMessage {
    let mut message = TcMessage::with_index(index as i32);
    message.header.parent = TcHandle::CLSACT;
    message.header.handle = TcHandle { major: u16::MAX, minor: 0 };
    message.attributes.push(TcAttribute::Kind("clsact".into()));
    message
}

/// What a filter runs.
#[derive(Clone, Copy, Debug)]
enum Filter<'a> {
    /// Classic BPF
    Classic(&'a [[u8; 8]]),
    /// A loaded eBPF program
    Loaded(BorrowedFd<'a>),
    /// Nothing: names the filter that is to go
    Any,
}

fn filter(index: u32, direction: u16, name: &str, what: Filter<'_>) -> TcMessage {
    let mut message = TcMessage::with_index(index as i32);
    message.header.parent = TcHandle { major: u16::MAX, minor: direction };
    message.header.handle = HANDLE.into();
    message.header.info = PRIORITY << 16 | u32::from((libc::ETH_P_ALL as u16).to_be());
    let option = |kind, value: Vec<u8>| TcOption::Other(DefaultNla::new(kind, value));
    message.attributes.push(TcAttribute::Kind("bpf".into()));
    let mut options = match what {
        Filter::Classic(program) => vec![
            option(TCA_BPF_OPS_LEN, (program.len() as u16).to_ne_bytes().to_vec()),
            option(TCA_BPF_OPS, program.concat()),
        ],
        Filter::Loaded(program) => vec![option(TCA_BPF_FD, program.as_raw_fd().to_ne_bytes().to_vec())],
        Filter::Any => Vec::new(),
    };
    options.push(option(TCA_BPF_NAME, [name.as_bytes(), &[0]].concat()));
    options.push(option(TCA_BPF_FLAGS, TCA_BPF_FLAG_ACT_DIRECT.to_ne_bytes().to_vec()));
    message.attributes.push(TcAttribute::Options(options));
    message
}

/// What eastgate found and made, so that `open` can leave the device as it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Clsact {
    /// The clsact qdisc is ours; otherwise someone else's filters share it.
    pub made_qdisc: bool,
}

/// Puts the filters on a device that lacks some of them.
///
/// # Errors
/// When the kernel refuses, or there is no place for them. Where an `ingress` qdisc has it, it then drops what comes in.
pub(in crate::io) async fn attach(netlink: &Netlink, link: &Link, role: Role<'_>) -> Result<(), GuardError> {
    let refuse_all = refuse_all();
    match netlink.add_qdisc(qdisc(link.index)).await {
        Ok(()) => {}
        Err(error) if errno(&error) == Some(libc::EEXIST) => {
            let there = netlink.qdiscs().await.remove(&link.index).unwrap_or_default();
            if there.ingress.as_deref() == Some("ingress") && !role.is_tap() {
                // It has one list of filters, whatever direction they are for.
                if missing(netlink, link.index, Role::Port(None)).await.contains(&INGRESS) {
                    put(netlink, link, INGRESS, Filter::Classic(&refuse_all)).await?;
                }
                return Err(GuardError::IngressQdisc(link.name.clone()));
            }
        }
        Err(source) => {
            return Err(NetlinkError::Refused { what: format!("guard {}", link.name), source }.into());
        }
    }
    let ingress = role.program().map_or(Filter::Classic(&refuse_all), Filter::Loaded);
    put(netlink, link, INGRESS, ingress).await?;
    if !role.is_tap() {
        put(netlink, link, EGRESS, Filter::Classic(&only_marked())).await?;
    }
    Ok(())
}

const INGRESS: &str = "ingress";
const EGRESS: &str = "egress";

fn direction(way: &str) -> u16 {
    if way == INGRESS { TcHandle::MIN_INGRESS } else { TcHandle::MIN_EGRESS }
}

async fn put(netlink: &Netlink, link: &Link, way: &'static str, what: Filter<'_>) -> Result<(), GuardError> {
    let name = format!("eastgate-{way}");
    match netlink.replace_filter(filter(link.index, direction(way), &name, what)).await {
        // A preference belongs to one kind and protocol.
        Err(error) if errno(&error) == Some(libc::EINVAL) => {
            Err(GuardError::Preference(link.name.clone(), way))
        }
        Err(source) => {
            Err(NetlinkError::Refused { what: format!("guard {} at its {way}", link.name), source }.into())
        }
        Ok(()) => Ok(()),
    }
}

/// The directions in which the filter is not there, or does not run what it should.
pub(in crate::io) async fn missing(netlink: &Netlink, index: u32, role: Role<'_>) -> Vec<&'static str> {
    let program = role.program().and_then(|program| eastgate_fastpath::tcx::id_of(program).ok());
    let ingress = program.map_or_else(|| Runs::Classic(refuse_all().concat()), Runs::Program);
    let mut wanted = vec![(INGRESS, ingress)];
    if !role.is_tap() {
        wanted.push((EGRESS, Runs::Classic(only_marked().concat())));
    }
    let mut missing = Vec::new();
    for (way, runs) in wanted {
        let filters = netlink.filters(index, direction(way)).await;
        let stands = |message: &TcMessage| {
            u32::from(message.header.handle) == HANDLE && is_ours(message) && runs.is_in(message)
        };
        if !filters.iter().any(stands) {
            missing.push(way);
        }
    }
    missing
}

/// What a filter runs, as the kernel tells it.
enum Runs {
    Program(u32),
    Classic(Vec<u8>),
}

impl Runs {
    fn is_in(&self, message: &TcMessage) -> bool {
        let options = message.attributes.iter().filter_map(|attribute| match attribute {
            TcAttribute::Options(options) => Some(options),
            _ => None,
        });
        options.flatten().any(|option| match (option, self) {
            (TcOption::Bpf(TcFilterBpfOption::ProgId(id)), Self::Program(wanted)) => id == wanted,
            (TcOption::Bpf(TcFilterBpfOption::Other(code)), Self::Classic(wanted)) => {
                let mut value = vec![0; code.value_len()];
                code.emit_value(&mut value);
                code.kind() == TCA_BPF_OPS && value == *wanted
            }
            _ => false,
        })
    }
}

/// Which directions of a device, ingress and egress, have filters that are not eastgate's.
pub(in crate::io) async fn others(netlink: &Netlink, index: u32, qdisc: Option<&str>) -> (bool, bool) {
    let foreign =
        async |way| netlink.filters(index, direction(way)).await.iter().any(|message| !is_ours(message));
    match qdisc {
        Some("clsact") => (foreign(INGRESS).await, foreign(EGRESS).await),
        Some(_) => (foreign(INGRESS).await, false),
        None => (false, false),
    }
}

/// Whether a filter is one of the guard's.
pub(in crate::io) fn is_ours(message: &TcMessage) -> bool {
    message.header.info >> 16 == PRIORITY
        // The kernel also tells of the list that a filter is in, which has no handle.
        && (u32::from(message.header.handle) == HANDLE || u32::from(message.header.handle) == 0)
        && message.attributes.iter().any(|attribute| matches!(attribute, TcAttribute::Kind(kind) if kind == "bpf"))
}

/// Takes the filters off. A device that is gone is fine.
///
/// # Errors
/// When the kernel refuses for another reason.
pub(in crate::io) async fn open(netlink: &Netlink, index: u32, clsact: Clsact) -> Result<(), NetlinkError> {
    let mut result = Ok(());
    for way in [INGRESS, EGRESS] {
        let filter = filter(index, direction(way), "", Filter::Any);
        result = result.and(gone(netlink.delete_filter(filter).await));
    }
    // Filters that others have added to it since go on. Where they have put another qdisc in its place, this names none.
    if clsact.made_qdisc && others(netlink, index, Some("clsact")).await == (false, false) {
        result = result.and(gone(netlink.delete_qdisc(qdisc(index)).await));
    }
    result.map_err(|source| NetlinkError::Refused {
        what: format!("take the guard off device {index}"),
        source,
    })
}

fn gone(result: Result<(), rtnetlink::Error>) -> Result<(), rtnetlink::Error> {
    match result {
        Err(error) if matches!(errno(&error), Some(libc::ENODEV | libc::ENOENT | libc::EINVAL)) => Ok(()),
        other => other,
    }
}
