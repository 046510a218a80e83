//! Changes of single endpoints: what was decided about them, and about nobody else, is in force no more.

#![allow(unsafe_code, reason = "libbpf-rs runs programs with buffers of its own")]

use std::{
    os::fd::{AsRawFd, OwnedFd},
    ptr,
};

use libbpf_rs::{MapCore, MapFlags, libbpf_sys};
use zerocopy::{FromBytes, FromZeros as _, Immutable, IntoBytes};

use crate::{Error, Fastpath, layout::ChangedKey, remove};

/// What `recheck` answers with, in the place of a frame.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Rechecked {
    flows: u32,
    others: u32,
    rest: [u8; 24],
}

impl Fastpath {
    /// What was decided about these before the epoch `since` is in force no more once their networks' rows say
    /// [`NETWORK_CHANGING`](crate::NETWORK_CHANGING): packet by packet, until [`recheck`](Self::recheck) has ended it.
    ///
    /// # Errors
    /// [`Error::Table`], also when they are more than there is room for: some of them may be known then.
    pub fn note_changed(&self, changed: &[ChangedKey], since: u32) -> Result<(), Error> {
        let (count, since) = (changed.len() as u32, vec![since; changed.len()]);
        self.changed
            .update_batch(changed.as_bytes(), since.as_bytes(), count, MapFlags::ANY, MapFlags::ANY)
            .map_err(|source| Error::Table { table: "changed", source })
    }

    /// Ends the flows, cached decisions and answers that name one of those who changed; nobody else's are touched. How many
    /// flows that were. The policies of their networks must be others already ([`Network::policy`](crate::Network::policy)):
    /// whatever is decided by what was before is noticed then.
    ///
    /// # Errors
    /// [`Error::Trial`]: some of them may be in force still.
    pub fn recheck(&self) -> Result<u32, Error> {
        let mut answer = Rechecked::new_zeroed();
        run(&self.recheck, &mut answer)?;
        Ok(answer.flows)
    }

    /// Nobody has changed; to be called once no network's row says that someone has.
    ///
    /// # Errors
    /// [`Error::Table`].
    pub fn forget_changed(&self) -> Result<(), Error> {
        let keys: Vec<Vec<u8>> = self.changed.keys().collect();
        keys.iter().try_for_each(|key| remove(&self.changed, "changed", key))
    }
}

/// Runs a program of the daemon's on a frame that has `value` in it, and reads it back. The programs know a frame of no
/// protocol that the kernel would look into by its first 14 bytes.
pub(crate) fn run<T: FromBytes + IntoBytes + Immutable + Copy>(
    program: &OwnedFd,
    value: &mut T,
) -> Result<(), Error> {
    let question = *value;
    let mut options = libbpf_sys::bpf_test_run_opts {
        sz: size_of::<libbpf_sys::bpf_test_run_opts>() as _,
        data_in: ptr::from_ref(&question).cast(),
        data_size_in: size_of::<T>() as _,
        data_out: ptr::from_mut(value).cast(),
        data_size_out: size_of::<T>() as _,
        ..Default::default()
    };
    // SAFETY: both buffers outlive the call and are as long as it is told; `T` is plain bytes.
    let done = unsafe { libbpf_sys::bpf_prog_test_run_opts(program.as_raw_fd(), &raw mut options) };
    if done != 0 {
        return Err(Error::Trial(libbpf_rs::Error::from_raw_os_error(-done)));
    }
    // TC_ACT_OK; the programs have no other answer to a frame that is what they expect.
    if options.retval != 0 {
        return Err(Error::Trial(libbpf_rs::Error::from_raw_os_error(libc::EPROTO)));
    }
    Ok(())
}
