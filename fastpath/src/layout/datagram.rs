//! What is remembered of datagrams in fragments, as in `bpf/layout/datagram.h`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A place for a datagram in fragments.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct DatagramKey {
    pub(crate) vni: u32,
    pub(crate) slot: u32,
}

/// The places that one datagram may be in
pub(crate) const DATAGRAM_PLACES: u32 = 2;
/// Pieces of one datagram
pub(crate) const DATAGRAM_PIECES: usize = 64;
/// The place is nobody's.
pub(crate) const DATAGRAM_FREE: u32 = 0;
/// All fragments of the datagram are punted.
pub(crate) const DATAGRAM_PUNTED: u32 = 2;

/// By what datagrams in fragments are told apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct DatagramId {
    pub(crate) src: [u8; 16],
    pub(crate) dst: [u8; 16],
    pub(crate) id: u32,
    pub(crate) proto: u32,
}

impl DatagramId {
    /// As the programs compute it
    pub(crate) fn hash(&self) -> u32 {
        let words = self
            .as_bytes()
            .chunks_exact(4)
            .map(|word| u32::from_ne_bytes(word.first_chunk().copied().unwrap_or_default()));
        words.fold(0, |hash: u32, word| {
            let mixed = (hash ^ word).wrapping_mul(0x9e37_79b1);
            mixed ^ mixed >> 15
        })
    }
}

/// What the programs remember of a datagram in fragments.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Datagram {
    pub(crate) lock: u32,
    pub(crate) state: u32,
    pub(crate) until: u64,
    pub(crate) id: DatagramId,
    pub(crate) sport: u16,
    pub(crate) dport: u16,
    pub(crate) proto: u8,
    pub(crate) echo: u8,
    pub(crate) count: u16,
    pub(crate) end: u32,
    pub(crate) furthest: u32,
    pub(crate) covered: u32,
    pub(crate) pieces: [[u16; 2]; DATAGRAM_PIECES],
    pub(crate) spare: u32,
}
