//! The guard on a tenant port: the kernel behind it neither hears the tenant nor speaks to it.
//!
//! Packet sockets see a frame before traffic control does, so a clsact filter that drops everything on ingress
//! leaves eastgate's view whole while the host's own stack (its ARP, its routes, a bridge, a raw listener in
//! `INPUT`) gets nothing. On egress only what carries eastgate's mark goes out. The filters are classic BPF
//! inside `cls_bpf`, which needs no compiler and works on every kernel that has clsact. They stay when the
//! daemon is killed: the port is then closed, not open. With the fast path its program stands in the place of the filter on
//! ingress, and passes what belongs to flows that were decided.

use std::os::fd::{AsRawFd, BorrowedFd};

use rtnetlink::packet_core::DefaultNla;
use rtnetlink::packet_route::tc::{TcAttribute, TcHandle, TcMessage, TcOption};

use super::netlink::{Netlink, NetlinkError, errno};

/// The mark on every frame that eastgate sends to a port ("east" in ASCII).
pub const MARK: u32 = 0x6561_7374;

/// The filter's priority: before everything that others add by default.
const PRIORITY: u32 = 1;
const HANDLE: u32 = 0xea57;

const TCA_BPF_OPS_LEN: u16 = 4;
const TCA_BPF_OPS: u16 = 5;
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
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

/// What [`close`] found and made, so that [`open`] can leave the device as it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Closed {
    /// The clsact qdisc is ours; otherwise someone else's filters share it.
    pub made_qdisc: bool,
}

/// Closes a port to the kernel's own stack: what comes in is for `program` alone, or for packet sockets alone when
/// there is none. Doing it twice is the same as once.
///
/// # Errors
/// When the kernel refuses; the port must then not be used.
pub async fn close(
    netlink: &Netlink,
    index: u32,
    program: Option<BorrowedFd<'_>>,
) -> Result<Closed, NetlinkError> {
    let refused = |source| NetlinkError::Refused { what: format!("guard device {index}"), source };
    let refuse_all = refuse_all();
    let ingress = program.map_or(Filter::Classic(&refuse_all), Filter::Loaded);
    let closed = attach(netlink, index, ingress).await?;
    netlink
        .replace_filter(filter(
            index,
            TcHandle::MIN_EGRESS,
            "eastgate-egress",
            Filter::Classic(&only_marked()),
        ))
        .await
        .map_err(refused)?;
    Ok(closed)
}

/// Runs `program` on what comes in at a device that stays open to the kernel's own stack.
///
/// # Errors
/// When the kernel refuses.
pub async fn tap(netlink: &Netlink, index: u32, program: BorrowedFd<'_>) -> Result<Closed, NetlinkError> {
    attach(netlink, index, Filter::Loaded(program)).await
}

async fn attach(netlink: &Netlink, index: u32, ingress: Filter<'_>) -> Result<Closed, NetlinkError> {
    let refused = |source| NetlinkError::Refused { what: format!("attach to device {index}"), source };
    let made_qdisc = match netlink.add_qdisc(qdisc(index)).await {
        Ok(()) => true,
        Err(error) if errno(&error) == Some(libc::EEXIST) => false,
        Err(error) => return Err(refused(error)),
    };
    netlink
        .replace_filter(filter(index, TcHandle::MIN_INGRESS, "eastgate-ingress", ingress))
        .await
        .map_err(refused)?;
    Ok(Closed { made_qdisc })
}

/// Takes the guard off. A device that is gone is fine.
///
/// # Errors
/// When the kernel refuses for another reason.
pub async fn open(netlink: &Netlink, index: u32, closed: Closed) -> Result<(), NetlinkError> {
    let result = if closed.made_qdisc {
        netlink.delete_qdisc(qdisc(index)).await
    } else {
        let ingress = netlink.delete_filter(filter(index, TcHandle::MIN_INGRESS, "", Filter::Any)).await;
        let egress = netlink.delete_filter(filter(index, TcHandle::MIN_EGRESS, "", Filter::Any)).await;
        match ingress {
            // Where only what comes in is looked at there is no filter on the way out.
            Ok(()) => {
                egress.or_else(|error| if errno(&error) == Some(libc::ENOENT) { Ok(()) } else { Err(error) })
            }
            refused => refused,
        }
    };
    match result {
        Err(error) if !matches!(errno(&error), Some(libc::ENODEV | libc::ENOENT | libc::EINVAL)) => {
            Err(NetlinkError::Refused { what: format!("take the guard off device {index}"), source: error })
        }
        _ => Ok(()),
    }
}
