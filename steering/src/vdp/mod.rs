//! The bridge's side of edge virtual bridging (IEEE 802.1Qbg-2012, since 2014 clauses 40 to 43 and D.2.12 of
//! IEEE 802.1Q): stations say by LLDP that they are some ([`lldp`], [`evb`]), and by VDP ([`tlv`]) over ECP
//! ([`ecp`]) which virtual machine's interface, a VSI, is to have which profile. [`Bridge`] is all of it for
//! one device.
//!
//! What this promises:
//! - It decides nothing: whether a profile exists, and what may be associated with it, is asked of
//!   [`Profiles`] with each request of a station, keep-alives included, and again by [`Bridge::recheck`]. One
//!   entry that may not be refuses the whole request.
//! - A VSI that is not heard of for as long as [`Timing::keep_alive`] says is at an end, and its station is
//!   told.
//! - What the configuration no longer allows is ended by the bridge, with a DeAssociate to the station.
//! - A request that is refused while the VSI has something else that it still may have leaves that as it is
//!   (the Keep bit).
//! - Limits cost nobody else anything: what is beyond [`Limits::vsis`] or [`Limits::entries`] of a station is
//!   refused as "insufficient resources". Beyond [`Limits::stations`], one that has no VSI makes room; where
//!   each has some, a further one is not heard, nor acknowledged. A request above [`PACE`] is not
//!   acknowledged either, so that its station repeats it.
//! - Whatever cannot be read is counted and dropped, except for a VDP association TLV of which the part with
//!   a fixed place can be read: that one is answered, as it came, with "invalid format".
//!
//! Stations are told apart by the source MAC of their frames. **Nothing here proves who a station is**: a
//! virtual machine that can send to 01:80:c2:00:00:00 through its hypervisor can say whatever a station can.
//! [`Config::stations`] names those that are heard; the hypervisor has to see to it that its machines cannot
//! send from their MACs.
//!
//! A station that ceases to be heard by LLDP, or says that it does (TTL 0), loses nothing by that: its VSIs
//! last as long as they are kept alive. lldpad says so whenever it is restarted, with the machines running
//! on. For the same reason ECP is heard before the station's LLDP is: this side may have been restarted, and
//! a VSI is not to end with it.
//!
//! Frames in, frames and events out; time is handed in.

pub mod bridge;
pub mod ecp;
pub mod evb;
pub mod lldp;
mod station;
#[cfg(test)]
mod tests;
pub mod tlv;

pub use bridge::{Bridge, Config, Counters, Limits, Offer, concerns};
pub use ecp::Sequence;
pub use evb::{Evb, Exponent, Retries};
pub use station::{Association, Event, Profiles, Refusal, Stage, Timing, Why};
pub use tlv::{
    FilterEntry, FilterFormat, GroupId, Hints, ManagerId, Mode, Priority, Profile, Status, TypeVersion, Vsi,
    VsiId, VsiIdFormat, VsiTypeId,
};

use eastgate_wire::{MacAddr, Rate};

/// The Nearest Customer Bridge group address (IEEE 802.1Q table 8-1): EVB TLVs and ECP go to it and to no
/// other.
pub const NEAREST_CUSTOMER_BRIDGE: MacAddr = MacAddr([0x01, 0x80, 0xc2, 0, 0, 0]);
/// The Nearest non-TPMR Bridge group address: another agent's LLDP
pub const NEAREST_NON_TPMR_BRIDGE: MacAddr = MacAddr([0x01, 0x80, 0xc2, 0, 0, 0x03]);
/// The Nearest Bridge group address: another agent's LLDP
pub const NEAREST_BRIDGE: MacAddr = MacAddr([0x01, 0x80, 0xc2, 0, 0, 0x0e]);

/// EtherType of LLDP (IEEE 802.1AB 7.4)
pub const LLDP: u16 = 0x88cc;
/// EtherType of ECP (IEEE 802.1Q clause 43)
pub const ECP: u16 = 0x8940;

/// ECP requests of one station. One that keeps a thousand VSIs alive every ten seconds stays below it.
pub const PACE: Rate = Rate { per_second: 200, burst: 1000 };

/// Header of an Ethernet frame without a tag
const HEADER: usize = 14;
/// The shortest frame, without its check sequence
const SHORTEST: usize = 60;

/// A frame to the nearest customer bridge, as long as Ethernet wants it.
fn frame(source: MacAddr, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(SHORTEST.max(HEADER + payload.len()));
    frame.extend(NEAREST_CUSTOMER_BRIDGE.0);
    frame.extend(source.0);
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame.resize(SHORTEST.max(frame.len()), 0);
    frame
}

/// Destination, source, EtherType and the rest.
fn split(frame: &[u8]) -> Option<(MacAddr, MacAddr, u16, &[u8])> {
    let (destination, rest) = frame.split_first_chunk::<6>()?;
    let (source, rest) = rest.split_first_chunk::<6>()?;
    let (ethertype, rest) = rest.split_first_chunk::<2>()?;
    Some((MacAddr(*destination), MacAddr(*source), u16::from_be_bytes(*ethertype), rest))
}

/// The TLVs of LLDP, and of VDP in the same shape (IEEE 802.1AB 8.4): 7 bits of type, 9 bits of length, and
/// the value.
#[derive(Clone)]
struct Tlvs<'a> {
    rest: &'a [u8],
}

/// A TLV says that it is longer than what there is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a TLV of type {kind} has {length} octets, and {left} are left")]
pub struct Overrun {
    /// Its type
    pub kind: u8,
    /// How long it says it is
    pub length: usize,
    /// What is left of the PDU
    pub left: usize,
}

impl<'a> Iterator for Tlvs<'a> {
    type Item = Result<(u8, &'a [u8]), Overrun>;

    /// Ends with the End TLV. lldpad's ECPDUs have none and end with the frame, so that this is no error
    /// either.
    fn next(&mut self) -> Option<Self::Item> {
        let (head, rest) = self.rest.split_first_chunk::<2>()?;
        let head = u16::from_be_bytes(*head);
        let (kind, length) = ((head >> 9).to_be_bytes()[1], usize::from(head & 0x1ff));
        if kind == 0 {
            self.rest = &[];
            return None;
        }
        let Some((value, rest)) = rest.split_at_checked(length) else {
            self.rest = &[];
            return Some(Err(Overrun { kind, length, left: rest.len() }));
        };
        self.rest = rest;
        Some(Ok((kind, value)))
    }
}

/// Appends a TLV. What does not fit its 9 bits of length is cut off.
fn put_tlv(out: &mut Vec<u8>, kind: u8, value: &[u8]) {
    let value = value.get(..0x1ff).unwrap_or(value);
    let length = u16::try_from(value.len()).unwrap_or(0x1ff);
    out.extend((u16::from(kind & 0x7f) << 9 | length).to_be_bytes());
    out.extend(value);
}
