//! tcx: the kernel's list of programs at each device and direction, in the order in which they run (Linux 6.6 and newer).
//!
//! Programs are attached without links, so that they outlive the process, and beside whatever qdiscs the device has:
//! nobody's `ingress` or `clsact` qdisc is in the way, nor in anybody else's. A program is told by its number, which needs
//! no privilege beyond that to attach.

#![allow(unsafe_code, reason = "libbpf-rs attaches by links alone, which end with the process")]

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use libbpf_rs::{
    libbpf_sys as sys,
    libbpf_sys::{
        BPF_F_AFTER, BPF_F_BEFORE, BPF_F_ID, BPF_TCX_EGRESS, BPF_TCX_INGRESS, bpf_attach_type,
        bpf_prog_attach_opts, bpf_prog_detach_opts, bpf_prog_query_opts,
    },
};

/// A direction, as the host sees it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Way {
    /// Frames that come in
    Ingress,
    /// Frames that go out
    Egress,
}

impl Way {
    /// Both of them
    pub const ALL: [Self; 2] = [Self::Ingress, Self::Egress];

    const fn kind(self) -> bpf_attach_type {
        match self {
            Self::Ingress => BPF_TCX_INGRESS,
            Self::Egress => BPF_TCX_EGRESS,
        }
    }

    /// As tc spells it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

/// Where in the list a program is put.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// Before all others
    First,
    /// Behind all others
    Last,
}

/// The kernel lists at most 64 programs at one place (`BPF_MPROG_MAX`).
const MOST: usize = 64;

/// The programs at a place, in the order in which they run.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Chain {
    /// Their numbers
    pub programs: Vec<u32>,
    /// Counts the changes to the list
    revision: u64,
}

/// Can programs be attached so? Kernels before 6.6 do not know it.
#[must_use]
pub fn is_available() -> bool {
    // Any device will do, and everyone has this one.
    const LOOPBACK: u32 = 1;
    match query(LOOPBACK, Way::Ingress) {
        Ok(_) => true,
        // Of a namespace without a loopback device: it knows the question.
        Err(error) => error.raw_os_error() == Some(libc::ENODEV),
    }
}

/// What is attached to the device with this index.
///
/// # Errors
/// What the kernel says: no such device, for one.
pub fn query(ifindex: u32, way: Way) -> io::Result<Chain> {
    let mut programs = [0u32; MOST];
    let mut options = bpf_prog_query_opts {
        sz: size_of::<bpf_prog_query_opts>() as sys::size_t,
        prog_ids: programs.as_mut_ptr(),
        ..bpf_prog_query_opts::default()
    };
    options.__bindgen_anon_1.count = MOST as u32;
    // SAFETY: `options` says how large it is, and how large the array is that it points to; both outlive the call.
    let result = unsafe { sys::bpf_prog_query_opts(index(ifindex), way.kind(), &raw mut options) };
    told(result)?;
    // SAFETY: either member of the union is a number, and the kernel has written how many programs there are.
    let count = unsafe { options.__bindgen_anon_1.count } as usize;
    Ok(Chain { programs: programs[..count.min(MOST)].to_vec(), revision: options.revision })
}

/// Attaches a program. It stays when the process ends.
///
/// # Errors
/// What the kernel says: `EEXIST` where the program is attached there already.
pub fn attach(ifindex: u32, way: Way, program: BorrowedFd<'_>, place: Place) -> io::Result<()> {
    let options = bpf_prog_attach_opts {
        sz: size_of::<bpf_prog_attach_opts>() as sys::size_t,
        flags: match place {
            Place::First => BPF_F_BEFORE,
            Place::Last => BPF_F_AFTER,
        },
        ..bpf_prog_attach_opts::default()
    };
    let program = program.as_raw_fd();
    // SAFETY: `options` says how large it is and outlives the call.
    told(unsafe { sys::bpf_prog_attach_opts(program, index(ifindex), way.kind(), &raw const options) })
}

/// Takes those programs off that `is_ours` says so of. Programs that are attached by links stay: they are not ours.
///
/// # Errors
/// What the kernel says.
pub fn detach(ifindex: u32, way: Way, is_ours: impl Fn(u32) -> bool) -> io::Result<()> {
    loop {
        let chain = query(ifindex, way)?;
        let Some(at) = chain.programs.iter().position(|id| is_ours(*id)) else { return Ok(()) };
        match detach_at(ifindex, way, &chain, at) {
            // Someone else has changed the list since it was read.
            Err(error) if error.raw_os_error() == Some(libc::ESTALE) => {}
            result => result?,
        }
    }
}

/// Takes off the program at this place of the list, if the list is still this one. The kernel names it by its
/// neighbour: whoever is before the next one, or behind all.
fn detach_at(ifindex: u32, way: Way, chain: &Chain, at: usize) -> io::Result<()> {
    let mut options = bpf_prog_detach_opts {
        sz: size_of::<bpf_prog_detach_opts>() as sys::size_t,
        flags: BPF_F_AFTER,
        expected_revision: chain.revision,
        ..bpf_prog_detach_opts::default()
    };
    if let Some(next) = chain.programs.get(at + 1) {
        options.flags = BPF_F_BEFORE | BPF_F_ID;
        options.relative_id = *next;
    }
    // SAFETY: `options` says how large it is and outlives the call; no program is named by a descriptor.
    told(unsafe { sys::bpf_prog_detach_opts(0, index(ifindex), way.kind(), &raw const options) })
}

/// The kernel's number of a loaded program.
///
/// # Errors
/// What the kernel says.
pub fn id_of(program: impl AsFd) -> io::Result<u32> {
    info_of(program.as_fd()).map(|info| info.id)
}

/// What a program is called; asking by number takes `CAP_SYS_ADMIN`.
#[must_use]
pub fn name_of(id: u32) -> Option<String> {
    let program = libbpf_rs::Program::fd_from_id(id).ok()?;
    let info = info_of(program.as_fd()).ok()?;
    let name = info.name.iter().map(|byte| byte.cast_unsigned()).take_while(|byte| *byte != 0);
    String::from_utf8(name.collect()).ok()
}

fn info_of(program: BorrowedFd<'_>) -> io::Result<sys::bpf_prog_info> {
    let mut info = sys::bpf_prog_info::default();
    let mut len = size_of::<sys::bpf_prog_info>() as u32;
    // SAFETY: `info` is as long as `len` says, all-zero asks for nothing beyond it, and both outlive the call.
    told(unsafe { sys::bpf_prog_get_info_by_fd(program.as_raw_fd(), &raw mut info, &raw mut len) })?;
    Ok(info)
}

const fn index(ifindex: u32) -> i32 {
    ifindex.cast_signed()
}

fn told(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(()) }
}
