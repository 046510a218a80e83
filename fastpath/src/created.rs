//! Flows that begin in the kernel, and flows whose place is kept there: who has which, and how they change hands.

#![allow(unsafe_code, reason = "libbpf has no safe form of these calls, and shared memory is shared")]

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
    ptr::{self, NonNull},
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
};

use eastgate_wire::Cursor;
use libbpf_rs::{MapCore, MapFlags, MapHandle, libbpf_sys};
use zerocopy::{FromZeros, IntoBytes};

use crate::{
    Error, Fastpath, Flow, Key,
    layout::{
        self, CachedPolicy, ClosedFlow, Entropy, FLOW_RESERVED, PolicyCacheKey, STATES, TAKE_ABSENT,
        TAKE_DELETE, TAKE_IF_OVER, TAKE_IF_RANK, TAKE_RANK_AT, TAKE_RESERVED, TAKE_TAKEN, Take,
    },
    remove, write,
};

/// What there was where a flow was to be taken.
#[allow(clippy::large_enum_variant, reason = "it is looked at once and never kept")]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TakeResult {
    /// Nothing
    Absent,
    /// Its place was kept already.
    Reserved,
    /// The flow, which does not pass any more: this is where it has got to.
    Taken(Flow),
    /// The flow, whose time is not over.
    Alive,
}

/// Flows that are read at once; more than there ever are in one slot of the kernel's table.
const PAGE: usize = 1024;

impl Fastpath {
    /// Keeps a flow's place, so that it does not begin in the kernel. False when there is an entry already.
    ///
    /// # Errors
    /// [`Error::Table`]; when the table is full among it.
    pub fn hold(&self, key: &Key) -> Result<bool, Error> {
        let flow = Flow { marks: FLOW_RESERVED, ..Flow::default() };
        match self.flows.update(key.as_bytes(), flow.as_bytes(), MapFlags::NO_EXIST) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == libbpf_rs::ErrorKind::AlreadyExists => Ok(false),
            Err(source) => Err(Error::Table { table: "flows", source }),
        }
    }

    /// Stops a flow from passing, says where it has got to, and keeps its place.
    ///
    /// # Errors
    /// [`Error::Trial`].
    pub fn take(&self, key: &Key) -> Result<TakeResult, Error> {
        self.run_take(key, 0)
    }

    /// Stops a flow from passing, says where it has got to, and gives its place up.
    ///
    /// # Errors
    /// [`Error::Trial`].
    pub fn end(&self, key: &Key) -> Result<TakeResult, Error> {
        self.run_take(key, TAKE_DELETE)
    }

    /// [`Fastpath::end`] for a flow that was created in the kernel and whose time is over; others stay as they are.
    ///
    /// # Errors
    /// [`Error::Trial`].
    pub fn end_if_over(&self, key: &Key) -> Result<TakeResult, Error> {
        self.run_take(key, TAKE_DELETE | TAKE_IF_OVER)
    }

    /// [`Fastpath::end`] for a flow that was created in the kernel and is of this rank, by its number; others
    /// stay as they are.
    ///
    /// # Errors
    /// [`Error::Trial`].
    pub fn end_if_of_rank(&self, key: &Key, rank: u8) -> Result<TakeResult, Error> {
        self.run_take(key, TAKE_DELETE | TAKE_IF_RANK | rank << TAKE_RANK_AT)
    }

    fn run_take(&self, key: &Key, how: u8) -> Result<TakeResult, Error> {
        let mut take = Take::new_zeroed();
        // A frame of no protocol that the kernel would look into.
        (take.ethernet[12], take.ethernet[13]) = (0x88, 0xb5);
        (take.how, take.key) = (how, *key);
        crate::recheck::run(&self.take, &mut take)?;
        Ok(match take.result {
            TAKE_ABSENT => TakeResult::Absent,
            TAKE_RESERVED => TakeResult::Reserved,
            TAKE_TAKEN => TakeResult::Taken(take.flow),
            _ => TakeResult::Alive,
        })
    }

    /// Lets flows of a pair and service begin in the kernel.
    ///
    /// # Errors
    /// [`Error::Table`].
    pub fn set_cached_policy(&self, key: &PolicyCacheKey, cached: &CachedPolicy) -> Result<(), Error> {
        write(&self.policy_cache, "policy_cache", key, cached)
    }

    /// Has the first packet of such a flow punted that the policy would refuse.
    ///
    /// # Errors
    /// [`Error::Table`].
    pub fn expect(&self, key: &PolicyCacheKey) -> Result<(), Error> {
        write(&self.expected, "expected", key, &1u8)
    }

    /// Has it refused again.
    ///
    /// # Errors
    /// [`Error::Table`].
    pub fn unexpect(&self, key: &PolicyCacheKey) -> Result<(), Error> {
        remove(&self.expected, "expected", key.as_bytes())
    }

    /// Says how flows that are created come to their outer source port.
    ///
    /// # Errors
    /// [`Error::Table`].
    pub fn set_entropy(&self, entropy: &Entropy) -> Result<(), Error> {
        write(&self.entropy, "entropy", &0u32, entropy)
    }

    /// How flows live, by place of the network.
    #[must_use]
    pub const fn ct_settings(&self) -> &CtSettings {
        &self.ct_settings
    }

    /// How many flows there are.
    #[must_use]
    pub const fn accounts(&self) -> &Arc<Accounts> {
        &self.accounts
    }

    /// Reads some flows, each as of one moment, and moves the cursor on. False when these were the last.
    ///
    /// # Errors
    /// [`Error::Table`].
    pub fn page(&self, cursor: &mut Cursor, out: &mut Vec<(Key, Flow)>) -> Result<bool, Error> {
        let mut keys = vec![Key::new_zeroed(); PAGE];
        let mut flows = vec![Flow::new_zeroed(); PAGE];
        let mut count = PAGE as u32;
        let mut next = [0u8; Cursor::LEN];
        let options = libbpf_sys::bpf_map_batch_opts {
            sz: size_of::<libbpf_sys::bpf_map_batch_opts>() as _,
            elem_flags: MapFlags::LOCK.bits(),
            ..Default::default()
        };
        let from = cursor.0.as_mut().map_or(ptr::null_mut(), |from| from.as_mut_ptr());
        // SAFETY: the kernel writes up to `count` keys and values, for which there is room, and a place in the table.
        let done = unsafe {
            libbpf_sys::bpf_map_lookup_batch(
                self.flows.as_fd().as_raw_fd(),
                from.cast(),
                next.as_mut_ptr().cast(),
                keys.as_mut_ptr().cast(),
                flows.as_mut_ptr().cast(),
                &raw mut count,
                &raw const options,
            )
        };
        if done != 0 && -done != libc::ENOENT {
            let source = libbpf_rs::Error::from_raw_os_error(-done);
            return Err(Error::Table { table: "flows", source });
        }
        out.extend(keys.into_iter().zip(flows).take(count as usize));
        let more = done == 0;
        cursor.0 = more.then_some(next);
        Ok(more)
    }

    /// A flow that another one of its key took the place of, and that nobody has counted yet.
    pub fn pop_ended(&self) -> Option<ClosedFlow> {
        let mut ended = ClosedFlow::new_zeroed();
        // SAFETY: a queue has no key, and its values are as large as this one.
        let done = unsafe {
            libbpf_sys::bpf_map_lookup_and_delete_elem(
                self.closed_flows.as_fd().as_raw_fd(),
                ptr::null(),
                ptr::from_mut(&mut ended).cast(),
            )
        };
        (done == 0).then_some(ended)
    }
}

/// An array of the kernel's that the programs have in their hands too.
#[derive(Debug)]
struct Shared<T> {
    at: NonNull<T>,
    places: u32,
}

// SAFETY: all that is read or written there is read and written by atomic steps.
unsafe impl<T> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Shared<T> {}

impl<T> Shared<T> {
    fn of(map: &MapHandle) -> Result<Self, Error> {
        let places = map.max_entries();
        // SAFETY: a new mapping, as long as the kernel's table is.
        let at = unsafe {
            libc::mmap(
                ptr::null_mut(),
                Self::bytes(places),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_fd().as_raw_fd(),
                0,
            )
        };
        let at = NonNull::new(at.cast()).filter(|_| at != libc::MAP_FAILED);
        at.map(|at| Self { at, places }).ok_or_else(|| Error::Descriptor(io::Error::last_os_error()))
    }

    const fn bytes(places: u32) -> usize {
        places as usize * size_of::<T>()
    }

    fn at(&self, place: u32) -> Option<*mut T> {
        // SAFETY: within the mapping.
        (place < self.places).then(|| unsafe { self.at.as_ptr().add(place as usize) })
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: mapped in `of`, with this length, and nothing borrowed from it is left.
        unsafe { libc::munmap(self.at.as_ptr().cast(), Self::bytes(self.places)) };
    }
}

/// How many flows there are: of the host, of its networks and of their endpoints.
#[derive(Debug)]
pub struct Accounts(Shared<layout::Account>);

impl Accounts {
    pub(crate) fn of(map: &MapHandle) -> Result<Self, Error> {
        Shared::of(map).map(Self)
    }

    /// The word of a population (0 unreplied, 1 answered) at a place: the limit in its upper half, and in its lower one
    /// how many flows there are.
    #[must_use]
    pub fn word(&self, place: u32, of: usize) -> Option<&AtomicU64> {
        let at = self.0.at(place)?;
        // SAFETY: aligned, within the mapping, which lives as long as `self`; nobody changes it but by atomic steps.
        (of < 2).then(|| unsafe { AtomicU64::from_ptr(&raw mut (*at).flows[of]) })
    }
}

impl Accounts {
    /// The words at a place that say how often flows may begin: by when the next one would keep the pace, and the pace.
    #[must_use]
    pub fn pace(&self, place: u32) -> Option<[&AtomicU64; 2]> {
        let at = self.0.at(place)?;
        // SAFETY: as in `Accounts::word`.
        Some(unsafe { [AtomicU64::from_ptr(&raw mut (*at).next), AtomicU64::from_ptr(&raw mut (*at).pace)] })
    }
}

/// How flows live in each network.
#[derive(Debug)]
pub struct CtSettings(Shared<layout::CtSettings>);

impl CtSettings {
    pub(crate) fn of(map: &MapHandle) -> Result<Self, Error> {
        Shared::of(map).map(Self)
    }

    /// Where the flows of a network are counted, by its place; nothing while none begins.
    #[must_use]
    pub fn account(&self, place: u32) -> Option<u32> {
        let at = self.0.at(place)?;
        // SAFETY: as in `Accounts::word`.
        let account = unsafe { AtomicU32::from_ptr(&raw mut (*at).account) }.load(Relaxed);
        (account != 0).then_some(account)
    }

    /// Where its flows are counted; none begins while that is 0.
    pub fn count_at(&self, place: u32, account: u32) {
        if let Some(at) = self.0.at(place) {
            // SAFETY: as in `Accounts::word`.
            unsafe { AtomicU32::from_ptr(&raw mut (*at).account) }.store(account, Relaxed);
        }
    }

    /// How long flows last in each state, in milliseconds, and how large a packet the MSS of a SYN may stand for; 0
    /// where any will do.
    pub fn set(&self, place: u32, timeouts_ms: &[u32; STATES], mss_mtu: u32) {
        let Some(at) = self.0.at(place) else { return };
        for (number, timeout) in timeouts_ms.iter().enumerate() {
            // SAFETY: as in `Accounts::word`.
            unsafe { AtomicU32::from_ptr(&raw mut (*at).timeouts[number]) }.store(*timeout, Relaxed);
        }
        // SAFETY: as in `Accounts::word`.
        unsafe { AtomicU32::from_ptr(&raw mut (*at).mss_mtu) }.store(mss_mtu, Relaxed);
    }
}
