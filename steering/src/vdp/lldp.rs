//! LLDP (IEEE 802.1AB) as far as edge virtual bridging needs it: who speaks, for how long it holds, and the
//! EVB TLV.

use eastgate_wire::MacAddr;

use super::{Overrun, Tlvs, evb, evb::Evb, put_tlv};

const CHASSIS: u8 = 1;
const PORT: u8 = 2;
const TTL: u8 = 3;
const ORGANIZATIONAL: u8 = 127;

/// Subtypes of a chassis and of a port that is named by its MAC (8.5.2.2, 8.5.3.2)
const CHASSIS_BY_MAC: u8 = 4;
const PORT_BY_MAC: u8 = 3;

/// What a chassis or a port is called (8.5.2, 8.5.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Id<'a> {
    /// In which way
    pub subtype: u8,
    /// The name, 1 to 255 octets
    pub name: &'a [u8],
}

/// What is read of an LLDPDU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lldpdu<'a> {
    /// The sender's chassis
    pub chassis: Id<'a>,
    /// The sender's port
    pub port: Id<'a>,
    /// For how many seconds this holds; 0: no longer (8.5.4)
    pub ttl: u16,
    /// What it says of edge virtual bridging
    pub evb: Option<Evb>,
    /// An EVB TLV that was too short to read, or stood twice
    pub bad_evb: bool,
}

/// Why an LLDPDU is not one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LldpError {
    /// It ends before all three that must be there.
    #[error("the LLDPDU ends before its TLV of type {0}")]
    Missing(u8),
    /// The three that must be there are the first, in order.
    #[error("the LLDPDU has a TLV of type {found} where type {wanted} has to be")]
    Order {
        /// What is there
        found: u8,
        /// What has to be
        wanted: u8,
    },
    /// A name has 1 to 255 octets behind its subtype, a TTL at least 2 octets.
    #[error("the LLDPDU's TLV of type {kind} has {length} octets")]
    Length {
        /// Which
        kind: u8,
        /// How many
        length: usize,
    },
    /// A TLV is longer than the LLDPDU.
    #[error(transparent)]
    Overrun(#[from] Overrun),
}

impl<'a> Lldpdu<'a> {
    /// Reads what follows the EtherType.
    ///
    /// # Errors
    /// When the LLDPDU is to be discarded as a whole.
    pub fn parse(payload: &'a [u8]) -> Result<Self, LldpError> {
        let mut tlvs = Tlvs { rest: payload };
        let chassis = id(CHASSIS, &mut tlvs)?;
        let port = id(PORT, &mut tlvs)?;
        let ttl = must(TTL, &mut tlvs)?;
        let ttl = ttl.first_chunk().ok_or(LldpError::Length { kind: TTL, length: ttl.len() })?;
        let mut this = Self { chassis, port, ttl: u16::from_be_bytes(*ttl), evb: None, bad_evb: false };
        for tlv in tlvs {
            let (kind, value) = tlv?;
            if kind != ORGANIZATIONAL {
                continue;
            }
            let Some(value) = value.strip_prefix(&evb::KIND) else { continue };
            match Evb::read(value) {
                Some(evb) if this.evb.is_none() => this.evb = Some(evb),
                _ => this.bad_evb = true,
            }
        }
        Ok(this)
    }
}

fn must<'a>(wanted: u8, tlvs: &mut Tlvs<'a>) -> Result<&'a [u8], LldpError> {
    let (found, value) = tlvs.next().ok_or(LldpError::Missing(wanted))??;
    if found == wanted { Ok(value) } else { Err(LldpError::Order { found, wanted }) }
}

fn id<'a>(kind: u8, tlvs: &mut Tlvs<'a>) -> Result<Id<'a>, LldpError> {
    let value = must(kind, tlvs)?;
    match value {
        [subtype, name @ ..] if (1..=255).contains(&name.len()) => Ok(Id { subtype: *subtype, name }),
        _ => Err(LldpError::Length { kind, length: value.len() }),
    }
}

/// The LLDPDU of a bridge whose chassis and port are called by one MAC.
#[must_use]
pub fn announcement(mac: MacAddr, ttl: u16, evb: &Evb) -> Vec<u8> {
    let by_mac = |subtype: u8| {
        let [a, b, c, d, e, f] = mac.0;
        [subtype, a, b, c, d, e, f]
    };
    let mut out = Vec::with_capacity(64);
    put_tlv(&mut out, CHASSIS, &by_mac(CHASSIS_BY_MAC));
    put_tlv(&mut out, PORT, &by_mac(PORT_BY_MAC));
    put_tlv(&mut out, TTL, &ttl.to_be_bytes());
    put_tlv(&mut out, ORGANIZATIONAL, &evb.octets());
    put_tlv(&mut out, 0, &[]);
    out
}
