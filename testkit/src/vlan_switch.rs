//! A switch whose ports are each in a VLAN, and that has them all on a trunk: Linux's own bridge where it knows VLANs, and otherwise eBPF
//! programs on the ports, by which it is again the kernel that puts tags on and takes them off.
//!
//! Ports of different VLANs reach the trunk and nobody else.

#![allow(unsafe_code, reason = "programs are loaded and attached by calls that have no safe form")]

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use libbpf_rs::libbpf_sys::{
    BPF_PROG_TYPE_SCHED_CLS, BPF_TCX_INGRESS, bpf_insn, bpf_prog_attach_opts, bpf_prog_load,
};

use crate::{error::Error, netns::Netns};

/// The name of the bridge, where there is one.
const BRIDGE: &str = "vlans";
/// What is untagged on the trunk has a VLAN inside a bridge that no port has.
const INSIDE: u16 = 4094;

/// Makes a switch of devices that are there and up: `trunk`, and ports each with its VLAN, or none for what is untagged on the trunk.
/// It goes with the devices.
///
/// # Errors
/// What the system says.
pub fn join(netns: &Netns, trunk: &str, ports: &[(&str, Option<u16>)]) -> Result<(), Error> {
    let bridge = format!(
        "link add {BRIDGE} type bridge stp_state 0 forward_delay 0 mcast_snooping 0 vlan_filtering 1"
    );
    // A kernel whose bridge does not know VLANs refuses it.
    if netns.ip(&format!("{bridge} vlan_default_pvid 0")).is_ok() {
        join_bridge(netns, trunk, ports)
    } else {
        join_programs(netns, trunk, ports)
    }
}

fn join_bridge(netns: &Netns, trunk: &str, ports: &[(&str, Option<u16>)]) -> Result<(), Error> {
    netns.ip(&format!("link set {BRIDGE} addrgenmode none up"))?;
    netns.ip(&format!("link set {trunk} master {BRIDGE}"))?;
    for (port, vlan) in ports {
        netns.ip(&format!("link set {port} master {BRIDGE}"))?;
        let inside = vlan.unwrap_or(INSIDE);
        netns.bridge(&format!("vlan add dev {port} vid {inside} pvid untagged"))?;
        let on_trunk = if vlan.is_some() { "" } else { " pvid untagged" };
        netns.bridge(&format!("vlan add dev {trunk} vid {inside}{on_trunk}"))?;
    }
    Ok(())
}

fn join_programs(netns: &Netns, trunk: &str, ports: &[(&str, Option<u16>)]) -> Result<(), Error> {
    netns.enter(|| {
        let index = |name: &str| {
            nix::net::if_::if_nametoindex(name).map_err(|error| Error::device(name)(error.into()))
        };
        let to = index(trunk)?;
        let mut from_trunk = Vec::new();
        for (port, vlan) in ports {
            let at = index(port)?;
            attach(at, &into_trunk(*vlan, to)).map_err(Error::device(port))?;
            from_trunk.push((*vlan, at));
        }
        attach(to, &out_of_trunk(&from_trunk)).map_err(Error::device(trunk))
    })?
}

/// The type of a tag (IEEE 802.1Q table 9-1)
const TAG: u16 = 0x8100;

// Helpers and a verdict of linux/bpf.h and linux/pkt_cls.h
const SKB_VLAN_PUSH: i32 = 18;
const SKB_VLAN_POP: i32 = 19;
const REDIRECT: i32 = 23;
const SHOT: i32 = 2;

// `struct __sk_buff`
const VLAN_PRESENT: i16 = 20;
const VLAN_TCI: i16 = 24;

fn instruction(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> bpf_insn {
    let mut instruction = bpf_insn { code, off, imm, ..bpf_insn::default() };
    instruction.set_dst_reg(dst);
    instruction.set_src_reg(src);
    instruction
}

fn set(register: u8, to: i32) -> bpf_insn {
    instruction(0xb7, register, 0, 0, to)
}

fn copy(register: u8, from: u8) -> bpf_insn {
    instruction(0xbf, register, from, 0, 0)
}

fn call(helper: i32) -> bpf_insn {
    instruction(0x85, 0, 0, 0, helper)
}

fn skip_unless_equal(register: u8, to: i32, instructions: i16) -> bpf_insn {
    instruction(0x55, register, 0, instructions, to)
}

fn end() -> bpf_insn {
    instruction(0x95, 0, 0, 0, 0)
}

fn redirect(to: u32) -> [bpf_insn; 4] {
    [set(1, to.cast_signed()), set(2, 0), call(REDIRECT), end()]
}

/// At a port: its tag goes on, and the frame to the trunk.
fn into_trunk(vlan: Option<u16>, trunk: u32) -> Vec<bpf_insn> {
    let then = redirect(trunk);
    let Some(vlan) = vlan else { return then.to_vec() };
    let push = [set(2, TAG.to_be().into()), set(3, vlan.into()), call(SKB_VLAN_PUSH)];
    [&push[..], &[skip_unless_equal(0, 0, then.len() as i16)], &then, &[set(0, SHOT), end()]].concat()
}

/// At the trunk: the tag comes off, and the frame goes to the port whose VLAN it names.
fn out_of_trunk(ports: &[(Option<u16>, u32)]) -> Vec<bpf_insn> {
    let (frame, is_tagged, vlan) = (6, 7, 8);
    let mut program = vec![
        copy(frame, 1),
        instruction(0x61, is_tagged, frame, VLAN_PRESENT, 0),
        instruction(0x61, vlan, frame, VLAN_TCI, 0),
        instruction(0x57, vlan, 0, 0, 0xfff),
        skip_unless_equal(is_tagged, 0, 1),
        set(vlan, 0),
    ];
    for (of, port) in ports {
        let then = [&[copy(1, frame), call(SKB_VLAN_POP)][..], &redirect(*port)].concat();
        program.push(skip_unless_equal(vlan, of.unwrap_or(0).into(), then.len() as i16));
        program.extend(then);
    }
    program.extend([set(0, SHOT), end()]);
    program
}

/// Runs a program where frames come in at a device. It stays when the process ends.
fn attach(ifindex: u32, program: &[bpf_insn]) -> io::Result<()> {
    let told = |result: i32| if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(result) };
    // SAFETY: name and licence are C strings, and the program is as long as is said; all outlive the call.
    let loaded = told(unsafe {
        bpf_prog_load(
            BPF_PROG_TYPE_SCHED_CLS,
            c"vlan_switch".as_ptr(),
            c"Dual MIT/GPL".as_ptr(),
            program.as_ptr(),
            program.len() as u64,
            std::ptr::null_mut(),
        )
    })?;
    // SAFETY: the kernel has just given it, to nobody else.
    let loaded = unsafe { OwnedFd::from_raw_fd(loaded) };
    let options = bpf_prog_attach_opts { sz: size_of::<bpf_prog_attach_opts>() as u64, ..Default::default() };
    // SAFETY: `options` says how large it is and outlives the call.
    let attached = unsafe {
        libbpf_rs::libbpf_sys::bpf_prog_attach_opts(
            loaded.as_raw_fd(),
            ifindex.cast_signed(),
            BPF_TCX_INGRESS,
            &raw const options,
        )
    };
    told(attached).map(drop)
}
