//! Datagrams in fragments whose first has passed in the kernel, as the pipeline takes them over.

use eastgate_wire::Addr;
use libbpf_rs::{MapCore, MapFlags};
use zerocopy::{FromZeros, IntoBytes};

use crate::{
    Error, Fastpath,
    layout::{DATAGRAM_FREE, DATAGRAM_PLACES, DATAGRAM_UP, Datagram, DatagramId, DatagramKey},
    remove,
};

const TABLE: &str = "datagrams";

/// For so long a place lies idle before it is cleared, in nanoseconds: a program may be about to write there.
const IDLE: u64 = 1_000_000_000;

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
    /// Takes over a datagram of which a fragment has come up, and whose first has passed here. From now on all of its
    /// fragments come up.
    ///
    /// # Errors
    /// [`Error::Table`].
    pub fn take_datagram(&self, of: &DatagramOf) -> Result<Option<Passed>, Error> {
        let Some((key, found)) = self.note_of(of)?.filter(|(_, found)| found.count > 0) else {
            return Ok(None);
        };
        let up = Datagram { state: DATAGRAM_UP, count: 0, ..found };
        let written = self.datagrams.update(key.as_bytes(), up.as_bytes(), MapFlags::LOCK | MapFlags::EXIST);
        written.map_err(|source| Error::Table { table: TABLE, source })?;
        Ok(Some(passed(&found)))
    }

    /// A datagram that came up is over: its place is there for another one.
    ///
    /// # Errors
    /// [`Error::Table`].
    pub fn forget_datagram(&self, of: &DatagramOf) -> Result<(), Error> {
        match self.note_of(of)? {
            Some((key, found)) if found.state == DATAGRAM_UP => {
                remove(&self.datagrams, TABLE, key.as_bytes())
            }
            _ => Ok(()),
        }
    }

    /// What is noted of a datagram, and where.
    fn note_of(&self, of: &DatagramOf) -> Result<Option<(DatagramKey, Datagram)>, Error> {
        let places = self.datagrams_of(of.vni)?;
        let id = DatagramId {
            src: of.src.bits().to_be_bytes(),
            dst: of.dst.bits().to_be_bytes(),
            id: of.id,
            proto: of.proto.into(),
        };
        for which in 0..DATAGRAM_PLACES {
            let Some(slot) = id.hash().wrapping_add(which).checked_rem(places) else { break };
            let key = DatagramKey { vni: of.vni, slot };
            let found = self.datagram(&key)?.filter(|found| found.id == id && found.state != DATAGRAM_FREE);
            if let Some(found) = found {
                return Ok(Some((key, found)));
            }
        }
        Ok(None)
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
