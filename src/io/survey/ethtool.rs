//! What a device takes off the processor's hands, as `ethtool -k` tells it.

#![allow(unsafe_code, reason = "the ioctl takes a pointer to a buffer of its own form")]

use std::{collections::BTreeMap, net::UdpSocket, os::fd::AsRawFd};

use super::Look;

/// By the kernel's name, such as `rx-lro`: whether it is on.
pub type Features = BTreeMap<String, bool>;

const SIOCETHTOOL: libc::c_ulong = 0x8946;
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETHTOOL_GFEATURES: u32 = 0x3a;
const ETH_SS_FEATURES: u32 = 4;
/// Bytes of a name.
const NAME: usize = 32;
/// Words of a block of 32 features: available, requested, active, never changed.
const BLOCK: usize = 4;
const AVAILABLE: usize = 0;
const ACTIVE: usize = 2;
const NEVER_CHANGED: usize = 3;
/// More features than any kernel has; what says it has more is not believed.
const MOST: usize = 1024;

/// The features of a device of this network namespace.
///
/// # Errors
/// What the kernel says.
pub fn features(device: &str) -> Look<Features> {
    // Any socket will do to speak to the kernel by.
    let socket = UdpSocket::bind("127.0.0.1:0").or_else(|_| UdpSocket::bind("[::1]:0"));
    let socket = socket.map_err(|error| format!("no socket to ask for features by: {error}"))?;
    let ask = |buffer: &mut [u32]| ask(&socket, device, buffer);
    // Command, reserved, a mask of which sets are asked for, and their sizes.
    let mut info = vec![ETHTOOL_GSSET_INFO, 0, 1 << ETH_SS_FEATURES, 0, 0];
    if cfg!(target_endian = "big") {
        info.swap(2, 3);
    }
    ask(&mut info)?;
    let count = info.get(4).map_or(0, |count| *count as usize).min(MOST);
    let mut names = vec![0; 3 + count * NAME / size_of::<u32>()];
    names[..3].copy_from_slice(&[ETHTOOL_GSTRINGS, ETH_SS_FEATURES, count as u32]);
    ask(&mut names)?;
    let blocks = count.div_ceil(32);
    let mut states = vec![0; 2 + blocks * BLOCK];
    states[..2].copy_from_slice(&[ETHTOOL_GFEATURES, blocks as u32]);
    ask(&mut states)?;
    let names: Vec<u8> = names.iter().skip(3).flat_map(|word| word.to_ne_bytes()).collect();
    let states = states.get(2..).unwrap_or_default();
    let has = |word: usize, number: usize| {
        let bits = states.get(number / 32 * BLOCK + word).copied().unwrap_or(0);
        bits & (1 << (number % 32)) != 0
    };
    // One that nobody can change is not for anybody to be told of.
    let is_fixed = |number: usize| !has(AVAILABLE, number) || has(NEVER_CHANGED, number);
    let named = names.chunks(NAME).enumerate().filter_map(|(number, name)| {
        let name = name.split(|byte| *byte == 0).next().and_then(|name| std::str::from_utf8(name).ok())?;
        (!name.is_empty() && !is_fixed(number)).then(|| (name.to_owned(), has(ACTIVE, number)))
    });
    Ok(named.collect())
}

fn ask(socket: &UdpSocket, device: &str, buffer: &mut [u32]) -> Look<()> {
    // SAFETY: all-zero is a value of this plain struct.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if device.len() >= request.ifr_name.len() {
        return Err(format!("{device} is no name of a device"));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(device.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = buffer.as_mut_ptr().cast();
    // SAFETY: the name ends with a zero; the buffer is as large as its own header says, and both outlive the call.
    match unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) } {
        0.. => Ok(()),
        _ => Err(format!("features of {device}: {}", std::io::Error::last_os_error())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_machine_has_a_loopback_device_with_features() {
        let features = features("lo").unwrap();
        assert!(features.contains_key("rx-gro"), "{features:?}");
        assert!(!features.contains_key("loopback"), "nobody can change it: {features:?}");
        assert!(super::features("no-such-device").is_err());
        assert!(super::features("a-name-that-no-device-can-have").is_err());
    }
}
