//! Programs and filters on a device that are not eastgate's, and where they stand beside eastgate's.

use std::collections::BTreeSet;

use eastgate_fastpath::tcx::{self, Way};
use rtnetlink::{
    packet_core::Nla,
    packet_route::tc::{TcAttribute, TcFilterBpfOption, TcHandle, TcMessage, TcOption},
};

use super::Look;
use crate::io::{
    guard::clsact::{self, TCA_BPF_NAME},
    netlink::{Link, Netlink, Qdiscs, Xdp},
};

/// What calls a program.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Hook {
    /// The driver, before there is a packet of the kernel's
    Xdp,
    /// A tcx list
    Tcx,
    /// A qdisc's filters
    Filter,
}

/// A program or filter of someone else.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, serde::Serialize)]
pub struct Foreign {
    /// What calls it
    pub hook: Hook,
    /// `ingress` or `egress`
    pub way: &'static str,
    /// Its name, kind or number
    pub name: String,
    /// It comes before eastgate's, or there is none of eastgate's.
    pub is_first: bool,
}

/// What others have on a device. `ours` are the numbers of eastgate's programs.
///
/// # Errors
/// When programs may not be asked for.
pub(super) async fn of_others(
    netlink: &Netlink,
    link: &Link,
    xdp: Option<&Xdp>,
    qdiscs: &Qdiscs,
    ours: &BTreeSet<u32>,
) -> Look<Vec<Foreign>> {
    let mut found: Vec<Foreign> = xdp.into_iter().map(by_xdp).collect();
    let mut guarded = false;
    for way in Way::ALL {
        let programs = match tcx::query(link.index, way) {
            Ok(chain) => chain.programs,
            Err(error) => match error.raw_os_error() {
                Some(libc::EPERM | libc::EACCES) => {
                    return Err("asking for programs takes CAP_NET_ADMIN".into());
                }
                // A kernel without tcx, or a device that is gone
                _ => Vec::new(),
            },
        };
        let first_of_ours = programs.iter().position(|id| ours.contains(id));
        guarded |= first_of_ours.is_some();
        found.extend(programs.iter().enumerate().filter(|(_, id)| !ours.contains(id)).map(|(at, id)| {
            Foreign {
                hook: Hook::Tcx,
                way: way.name(),
                name: tcx::name_of(*id)
                    .filter(|name| !name.is_empty())
                    .unwrap_or_else(|| format!("program {id}")),
                is_first: first_of_ours.is_none_or(|ours| at < ours),
            }
        }));
    }
    let directions = [("ingress", TcHandle::MIN_INGRESS), ("egress", TcHandle::MIN_EGRESS)];
    // A qdisc `ingress` has one list, which the kernel shows whatever direction is asked for.
    let shown = match qdiscs.ingress.as_deref() {
        Some("clsact") => 2,
        Some(_) => 1,
        None => 0,
    };
    for (way, direction) in directions.into_iter().take(shown) {
        let filters = netlink.filters(link.index, direction).await;
        let is_guarded = guarded || filters.iter().any(clsact::is_ours);
        // The kernel also tells of lists, which have no handle.
        let others =
            filters.iter().filter(|filter| !clsact::is_ours(filter) && u32::from(filter.header.handle) != 0);
        found.extend(others.map(|filter| Foreign {
            hook: Hook::Filter,
            way,
            name: describe(filter),
            is_first: !is_guarded,
        }));
    }
    found.sort();
    Ok(found)
}

fn by_xdp(xdp: &Xdp) -> Foreign {
    let name = tcx::name_of(xdp.program).filter(|name| !name.is_empty());
    Foreign {
        hook: Hook::Xdp,
        way: "ingress",
        name: name.unwrap_or_else(|| format!("program {}", xdp.program)),
        is_first: true,
    }
}

/// As `tc filter show` names it: preference, kind, and what a program is called.
fn describe(filter: &TcMessage) -> String {
    let preference = filter.header.info >> 16;
    let (mut kind, mut program) = (String::from("filter"), None);
    for attribute in &filter.attributes {
        match attribute {
            TcAttribute::Kind(name) => kind.clone_from(name),
            TcAttribute::Options(options) => {
                program = program.or(options.iter().find_map(|option| match option {
                    TcOption::Bpf(TcFilterBpfOption::Other(value)) if value.kind() == TCA_BPF_NAME => {
                        let mut name = vec![0; value.value_len()];
                        value.emit_value(&mut name);
                        Some(String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned())
                    }
                    _ => None,
                }));
            }
            _ => {}
        }
    }
    match program {
        Some(program) => format!("{kind} {program} (pref {preference})"),
        None => format!("{kind} (pref {preference})"),
    }
}
