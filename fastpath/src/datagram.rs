//! Datagrams in fragments whose first has passed in the kernel, as the pipeline takes them over.

use eastgate_wire::Addr;
use libbpf_rs::{MapCore, MapFlags};
use zerocopy::{FromZeros, IntoBytes};

use crate::{
    Error, Fastpath,
    layout::{DATAGRAM_FREE, DATAGRAM_PLACES, DATAGRAM_PUNTED, Datagram, DatagramId, DatagramKey},
    remove,
};

const TABLE: &str = "datagrams";

/// For so long a place lies idle before it is cleared, in nanoseconds: a program may be about to write there.
const IDLE: u64 = 1_000_000_000;

/// As `DATAGRAM_LASTS` and `DATAGRAM_WAITS` of bpf/fragment.h together: the pipeline remembers no datagram for longer.
const HELD: u64 = 35_000_000_000;

/// Which datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DatagramOf {
    /// Its network
    pub vni: u32,
    /// Source address
    pub src: Addr,
    /// Destination address
    pub dst: Addr,
    /// Identification
    pub id: u32,
    /// 0 in IPv6
    pub proto: u8,
}

/// What has passed of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Passed {
    /// Source port; of an echo the identifier, as the other one
    pub sport: u16,
    /// Destination port
    pub dport: u16,
    /// Its protocol
    pub proto: u8,
    /// Of an echo: whether it asks
    pub asks: bool,
    /// Start and end of each piece, in no order
    pub pieces: Vec<(u16, u16)>,
    /// Where it ends, once that is known
    pub end: Option<u16>,
    /// When it is forgotten, in nanoseconds of the monotonic clock
    pub until: u64,
}

impl Fastpath {
    /// Takes over a datagram of which a fragment has been punted: with what has passed of it, when its first has passed here.
    /// From now on all of its fragments are punted, also where the programs could not read this one: a tagged frame, a
    /// GSO packet, one with outer headers that are the pipeline's. `now` is of the monotonic clock, in nanoseconds.
    ///
    /// # Errors
    /// [`Error::Table`].
    pub fn take_datagram(&self, of: &DatagramOf, now: u64) -> Result<Option<Passed>, Error> {
        let Some((key, found)) = self.note_of(of)?.filter(|(_, found)| found.until > now) else {
            return self.hold_datagram(of, now).map(|()| None);
        };
        let up = Datagram { state: DATAGRAM_PUNTED, until: now.saturating_add(HELD), count: 0, ..found };
        let written = self.datagrams.update(key.as_bytes(), up.as_bytes(), MapFlags::LOCK | MapFlags::EXIST);
        written.map_err(|source| Error::Table { table: TABLE, source })?;
        Ok((found.count > 0).then(|| passed(&found)))
    }

    /// Leaves a note of a datagram that the programs know nothing about, where there is room for one.
    fn hold_datagram(&self, of: &DatagramOf, now: u64) -> Result<(), Error> {
        let id = id_of(of);
        let mut up = Datagram::new_zeroed();
        (up.state, up.until, up.id) = (DATAGRAM_PUNTED, now.saturating_add(HELD), id);
        for key in self.places_of(of)? {
            let flags = match self.datagram(&key)? {
                None => MapFlags::NO_EXIST,
                Some(found) if found.state == DATAGRAM_FREE || found.until <= now => {
                    MapFlags::LOCK | MapFlags::EXIST
                }
                Some(_) => continue,
            };
            // A program may have been faster, or the table is full: then the other place.
            if self.datagrams.update(key.as_bytes(), up.as_bytes(), flags).is_ok() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// A datagram that was punted is over: its place is there for another one.
    ///
    /// # Errors
    /// [`Error::Table`].
    pub fn forget_datagram(&self, of: &DatagramOf) -> Result<(), Error> {
        match self.note_of(of)? {
            Some((key, found)) if found.state == DATAGRAM_PUNTED => {
                remove(&self.datagrams, TABLE, key.as_bytes())
            }
            _ => Ok(()),
        }
    }

    /// What is noted of a datagram, and where.
    fn note_of(&self, of: &DatagramOf) -> Result<Option<(DatagramKey, Datagram)>, Error> {
        let id = id_of(of);
        for key in self.places_of(of)? {
            let found = self.datagram(&key)?.filter(|found| found.id == id && found.state != DATAGRAM_FREE);
            if let Some(found) = found {
                return Ok(Some((key, found)));
            }
        }
        Ok(None)
    }

    /// The places that it may be in
    fn places_of(&self, of: &DatagramOf) -> Result<impl Iterator<Item = DatagramKey>, Error> {
        let (places, hash, vni) = (self.datagrams_of(of.vni)?, id_of(of).hash(), of.vni);
        Ok((0..DATAGRAM_PLACES).filter_map(move |which| {
            let slot = hash.wrapping_add(which).checked_rem(places)?;
            Some(DatagramKey { vni, slot })
        }))
    }

    /// Clears places whose datagrams are over, so that the places of networks that have none in fragments any more are
    /// there for others. `now` is of the monotonic clock, in nanoseconds.
    ///
    /// # Errors
    /// [`Error::Table`].
    pub fn clear_datagrams(&self, now: u64) -> Result<(), Error> {
        let keys: Vec<Vec<u8>> = self.datagrams.keys().collect();
        for key in keys {
            let mut found = Datagram::new_zeroed();
            let read = self.datagrams.lookup_into(&key, found.as_mut_bytes(), MapFlags::LOCK);
            let there = read.map_err(|source| Error::Table { table: TABLE, source })?;
            if there && found.until.saturating_add(IDLE) < now {
                remove(&self.datagrams, TABLE, &key)?;
            }
        }
        Ok(())
    }

    fn datagram(&self, key: &DatagramKey) -> Result<Option<Datagram>, Error> {
        let mut found = Datagram::new_zeroed();
        let read = self.datagrams.lookup_into(key.as_bytes(), found.as_mut_bytes(), MapFlags::LOCK);
        read.map(|there| there.then_some(found)).map_err(|source| Error::Table { table: TABLE, source })
    }
}

fn id_of(of: &DatagramOf) -> DatagramId {
    DatagramId {
        src: of.src.bits().to_be_bytes(),
        dst: of.dst.bits().to_be_bytes(),
        id: of.id,
        proto: of.proto.into(),
    }
}

fn passed(datagram: &Datagram) -> Passed {
    /// As `enum echo` of bpf/packet.h
    const ASKS: u8 = 1;
    let pieces = datagram.pieces.iter().take(datagram.count.into()).map(|[start, end]| (*start, *end));
    Passed {
        sport: datagram.sport,
        dport: datagram.dport,
        proto: datagram.proto,
        asks: datagram.echo == ASKS,
        pieces: pieces.collect(),
        end: u16::try_from(datagram.end).ok().filter(|end| *end > 0),
        until: datagram.until,
    }
}
