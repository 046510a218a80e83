//! The TLVs of VDP (IEEE 802.1Q clause 41): the VSI manager of a PDU (41.1), and what a station asks for, or
//! is answered (41.2).

use std::fmt;

use eastgate_wire::{MacAddr, VlanId};

use super::{Overrun, Tlvs, put_tlv};

/// Type of the VSI manager ID TLV (41.1)
const MANAGER: u8 = 5;
/// Status, type, version, format and value of the instance's name: the part of an association TLV that has
/// its place (41.2)
const FIXED: usize = 22;
/// Filter info format and number of entries, which stand before these
const FILTER: usize = 3;

/// Status of an answer (41.2): it is one,
const ACK: u8 = 0x40;
/// and the VSI stays as it was.
const KEEP: u8 = 0x20;
/// Status of a request: the station says that the VSI comes from elsewhere,
const TO_HERE: u8 = 0x10;
/// or is about to leave.
const FROM_HERE: u8 = 0x20;

/// Which manager of VSIs a profile is known to (41.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ManagerId(pub [u8; 16]);

/// A kind of VSI (VSI Type ID), by its number at its manager: 24 bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct VsiTypeId(u32);

/// Version of a [`VsiTypeId`]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TypeVersion(pub u8);

/// What a VSI is to have: all that names it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Profile {
    /// Who knows it
    pub manager: ManagerId,
    /// Which it is
    pub kind: VsiTypeId,
    /// In which version
    pub version: TypeVersion,
}

/// By what a VSI is named (VSIID format).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum VsiIdFormat {
    /// An IPv4 address, in the last four octets
    Ipv4 = 1,
    /// An IPv6 address
    Ipv6,
    /// A MAC, in the last six octets
    Mac,
    /// Anything that the site has agreed on
    Local,
    /// A UUID (RFC 9562)
    Uuid,
}

/// The name of a VSI (VSIID). One number in two formats is two names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VsiId {
    /// By what it is named
    pub format: VsiIdFormat,
    /// The name, as it was received
    pub value: [u8; 16],
}

/// What the entries of a filter consist of (filter info format).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum FilterFormat {
    /// A VID
    Vid = 1,
    /// A MAC and a VID
    MacVid,
    /// A GroupID and a VID
    GroupVid,
    /// A GroupID, a MAC and a VID
    GroupMacVid,
}

/// A network, by a number of the site; the bridge finds the VID for it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct GroupId(pub u32);

/// A priority (PCP, IEEE 802.1Q 6.9.3), 3 bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Priority(u8);

/// One entry of a filter: which frames are the VSI's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FilterEntry {
    /// Of the formats with a GroupID
    pub group: Option<GroupId>,
    /// Of the formats with a MAC
    pub mac: Option<MacAddr>,
    /// None in a request asks the bridge for one (the null VID); none in an answer is no VLAN.
    pub vid: Option<VlanId>,
    /// The priority of its frames, where one is named (PS and PCP)
    pub priority: Option<Priority>,
}

/// What an association TLV is about (41.2, its type).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Mode {
    /// Pre-Associate: would it do?
    PreAssociate = 1,
    /// Pre-Associate with resource reservation
    PreAssociateReserve,
    /// Associate
    Associate,
    /// De-Associate
    DeAssociate,
}

/// One VSI with one format of filter. Stations keep those alive one by one that differ in the format alone.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Vsi {
    /// What it is to have
    pub profile: Profile,
    /// Its name
    pub id: VsiId,
    /// What its filter consists of
    pub format: FilterFormat,
}

/// What a station says of migration in a request (41.2: the M-bit and the S-bit).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Hints {
    /// The VSI migrates to this station.
    pub to_here: bool,
    /// It is suspended here, and may migrate to another.
    pub from_here: bool,
}

/// Why something is refused, as it stands in an answer (41.2, error type).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    /// It is not.
    Success = 0,
    /// The TLV is not what it should be.
    InvalidFormat,
    /// There is no room.
    InsufficientResources,
    /// The manager cannot be asked.
    ManagerUnreachable,
    /// Something else
    Other,
    /// A VID, GroupID or MAC that cannot be, or may not be here
    InvalidFilter,
}

/// A request that can be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// What is asked for
    pub mode: Mode,
    /// What is said of migration
    pub hints: Hints,
    /// Of what
    pub vsi: Vsi,
    /// Its filter
    pub entries: Vec<FilterEntry>,
}

/// An association TLV that cannot be read as a whole; its answer is the same octets with a status.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unread {
    value: Vec<u8>,
    /// The status of the answer
    pub status: Status,
}

/// What a VDP PDU has in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pdu {
    /// Whose profiles it speaks of
    pub manager: ManagerId,
    /// What it asks for, one by one
    pub requests: Vec<Result<Request, Unread>>,
    /// TLVs that are answers, or so short that they cannot be answered
    pub dropped: u64,
    /// TLVs of other types, the organizationally defined ones among them (41.3)
    pub unknown: u64,
}

/// Why a VDP PDU is dropped as a whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum VdpError {
    /// The first TLV names no manager (41.1).
    #[error("the VDP PDU does not begin with a VSI manager ID of 16 octets")]
    NoManager,
    /// So does another one.
    #[error("the VDP PDU names its VSI manager twice")]
    TwoManagers,
    /// A TLV is longer than the PDU.
    #[error(transparent)]
    Overrun(#[from] Overrun),
}

impl VsiTypeId {
    /// Legal values: 0 to 2^24 - 1.
    #[must_use]
    pub const fn new_checked(id: u32) -> Option<Self> {
        if id < 1 << 24 { Some(Self(id)) } else { None }
    }

    /// Its number
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl Priority {
    /// Legal values: 0 to 7.
    #[must_use]
    pub const fn new_checked(priority: u8) -> Option<Self> {
        if priority < 8 { Some(Self(priority)) } else { None }
    }

    /// Its value
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }
}

impl VsiIdFormat {
    const fn read(octet: u8) -> Option<Self> {
        match octet {
            1 => Some(Self::Ipv4),
            2 => Some(Self::Ipv6),
            3 => Some(Self::Mac),
            4 => Some(Self::Local),
            5 => Some(Self::Uuid),
            _ => None,
        }
    }
}

impl FilterFormat {
    const fn read(octet: u8) -> Option<Self> {
        match octet {
            1 => Some(Self::Vid),
            2 => Some(Self::MacVid),
            3 => Some(Self::GroupVid),
            4 => Some(Self::GroupMacVid),
            _ => None,
        }
    }

    const fn has_group(self) -> bool {
        matches!(self, Self::GroupVid | Self::GroupMacVid)
    }

    const fn has_mac(self) -> bool {
        matches!(self, Self::MacVid | Self::GroupMacVid)
    }

    /// Octets of an entry
    const fn size(self) -> usize {
        2 + if self.has_group() { 4 } else { 0 } + if self.has_mac() { 6 } else { 0 }
    }
}

impl Mode {
    const fn read(kind: u8) -> Option<Self> {
        match kind {
            1 => Some(Self::PreAssociate),
            2 => Some(Self::PreAssociateReserve),
            3 => Some(Self::Associate),
            4 => Some(Self::DeAssociate),
            _ => None,
        }
    }
}

impl FilterEntry {
    /// An entry, of as many octets as the format has.
    fn read(format: FilterFormat, octets: &[u8]) -> Option<Self> {
        let mut this = Self { group: None, mac: None, vid: None, priority: None };
        let mut rest = octets;
        if format.has_group() {
            let (group, left) = rest.split_first_chunk()?;
            (this.group, rest) = (Some(GroupId(u32::from_be_bytes(*group))), left);
        }
        if format.has_mac() {
            let (mac, left) = rest.split_first_chunk()?;
            let mac = MacAddr(*mac);
            (this.mac, rest) = (Some(mac.is_station().then_some(mac)?), left);
        }
        let tag = u16::from_be_bytes(*rest.first_chunk()?);
        if tag & 0xfff != 0 {
            this.vid = Some(VlanId::new_checked(tag & 0xfff)?);
        }
        if tag & 0x8000 != 0 {
            this.priority = Some(Priority((tag >> 12 & 7).to_be_bytes()[1]));
        }
        Some(this)
    }

    fn put(&self, out: &mut Vec<u8>) {
        self.group.iter().for_each(|group| out.extend(group.0.to_be_bytes()));
        self.mac.iter().for_each(|mac| out.extend(mac.0));
        let priority = self.priority.map_or(0, |priority| 0x8000 | u16::from(priority.0) << 12);
        out.extend((self.vid.map_or(0, VlanId::get) | priority).to_be_bytes());
    }
}

impl Pdu {
    /// Reads what an ECPDU carries.
    ///
    /// # Errors
    /// When nothing of it can be answered.
    pub fn parse(payload: &[u8]) -> Result<Self, VdpError> {
        let mut tlvs = Tlvs { rest: payload };
        let manager = match tlvs.next().ok_or(VdpError::NoManager)?? {
            (MANAGER, value) => <[u8; 16]>::try_from(value).map_err(|_| VdpError::NoManager)?,
            _ => return Err(VdpError::NoManager),
        };
        let mut this = Self { manager: ManagerId(manager), requests: Vec::new(), dropped: 0, unknown: 0 };
        for tlv in tlvs {
            let (kind, value) = tlv?;
            match Mode::read(kind) {
                Some(mode) => match request(this.manager, mode, value) {
                    Some(request) => this.requests.push(request),
                    None => this.dropped += 1,
                },
                None if kind == MANAGER => return Err(VdpError::TwoManagers),
                None => this.unknown += 1,
            }
        }
        Ok(this)
    }
}

/// A request. Nothing when it cannot be answered: it is an answer itself, or too short to say of which VSI it
/// is.
fn request(manager: ManagerId, mode: Mode, value: &[u8]) -> Option<Result<Request, Unread>> {
    let (fixed, filter) = value.split_first_chunk::<FIXED>()?;
    let [status, a, b, c, version, format, id @ ..] = *fixed;
    if status & ACK != 0 {
        return None;
    }
    let unread = |status| Some(Err(Unread { value: value.to_vec(), status }));
    let Some(format) = VsiIdFormat::read(format) else { return unread(Status::InvalidFormat) };
    let kind = VsiTypeId(u32::from_be_bytes([0, a, b, c]));
    let Some((format_of_filter, entries)) = entries(filter) else { return unread(Status::InvalidFormat) };
    if entries.is_empty() && mode != Mode::DeAssociate {
        return unread(Status::InvalidFormat);
    }
    let Some(entries) = entries.into_iter().collect::<Option<Vec<_>>>() else {
        return unread(Status::InvalidFilter);
    };
    if !are_apart(format_of_filter, &entries) {
        return unread(Status::InvalidFilter);
    }
    let profile = Profile { manager, kind, version: TypeVersion(version) };
    let hints = Hints { to_here: status & TO_HERE != 0, from_here: status & FROM_HERE != 0 };
    let vsi = Vsi { profile, id: VsiId { format, value: id }, format: format_of_filter };
    Some(Ok(Request { mode, hints, vsi, entries }))
}

/// Format and entries of a filter, none for an entry that cannot be. Nothing when the octets do not fit what
/// they say.
fn entries(filter: &[u8]) -> Option<(FilterFormat, Vec<Option<FilterEntry>>)> {
    let ([format, high, low], octets) = filter.split_first_chunk::<FILTER>()?;
    let format = FilterFormat::read(*format)?;
    let count = usize::from(u16::from_be_bytes([*high, *low]));
    if octets.len() != count * format.size() {
        return None;
    }
    let entries = octets.chunks_exact(format.size()).map(|entry| FilterEntry::read(format, entry));
    Some((format, entries.collect()))
}

/// No entry stands twice, and where entries are VIDs alone, the null VID is the only one: answers name
/// entries by their order.
fn are_apart(format: FilterFormat, entries: &[FilterEntry]) -> bool {
    let mut sorted = entries.to_vec();
    sorted.sort_unstable();
    let twice = sorted.windows(2).any(|pair| matches!(pair, [one, other] if one == other));
    let null = format == FilterFormat::Vid && entries.iter().any(|entry| entry.vid.is_none());
    !twice && (!null || entries.len() == 1)
}

impl Vsi {
    fn put(&self, mode: Mode, status: u8, entries: &[FilterEntry], out: &mut Vec<u8>) {
        let [_, a, b, c] = self.profile.kind.0.to_be_bytes();
        let mut value = vec![status, a, b, c, self.profile.version.0, self.id.format as u8];
        value.extend(self.id.value);
        value.push(self.format as u8);
        value.extend(u16::try_from(entries.len()).unwrap_or(u16::MAX).to_be_bytes());
        entries.iter().for_each(|entry| entry.put(&mut value));
        put_tlv(out, mode as u8, &value);
    }

    /// The TLV that asks for something: a station's, or with [`Mode::DeAssociate`] a bridge's.
    pub fn put_request(&self, mode: Mode, hints: Hints, entries: &[FilterEntry], out: &mut Vec<u8>) {
        let to = if hints.to_here { TO_HERE } else { 0 };
        let from = if hints.from_here { FROM_HERE } else { 0 };
        self.put(mode, to | from, entries, out);
    }

    /// The TLV that answers a request: in which mode the VSI is now.
    pub fn put_answer(&self, mode: Mode, status: Status, entries: &[FilterEntry], out: &mut Vec<u8>) {
        self.put(mode, ACK | status as u8, entries, out);
    }

    /// The TLV that refuses a request, and leaves the VSI in the mode in which it is.
    pub fn put_kept(&self, mode: Mode, status: Status, entries: &[FilterEntry], out: &mut Vec<u8>) {
        self.put(mode, ACK | KEEP | status as u8, entries, out);
    }
}

impl Unread {
    /// The TLV that answers it.
    pub fn put_answer(&self, out: &mut Vec<u8>) {
        let mut value = self.value.clone();
        if let Some(status) = value.first_mut() {
            *status = ACK | self.status as u8;
        }
        put_tlv(out, Mode::DeAssociate as u8, &value);
    }
}

/// The TLV that each PDU begins with.
pub fn put_manager(manager: ManagerId, out: &mut Vec<u8>) {
    put_tlv(out, MANAGER, &manager.0);
}

/// The End TLV.
pub fn put_end(out: &mut Vec<u8>) {
    put_tlv(out, 0, &[]);
}

impl fmt::Display for ManagerId {
    /// As vdptool takes it: text where it is some, or else 32 hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let length = self.0.iter().rposition(|octet| *octet != 0).map_or(0, |last| last + 1);
        let text =
            self.0.get(..length).filter(|text| !text.is_empty() && text.iter().all(u8::is_ascii_graphic));
        match text.map(std::str::from_utf8) {
            Some(Ok(text)) => f.write_str(text),
            _ => self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}")),
        }
    }
}

impl fmt::Debug for ManagerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for VsiId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [.., a, b, c, d] = self.value;
        let [.., m0, m1, _, _, _, _] = self.value;
        let hex = |f: &mut fmt::Formatter<'_>, dashes: &[usize]| {
            self.value.iter().enumerate().try_for_each(|(at, octet)| {
                write!(f, "{}{octet:02x}", if dashes.contains(&at) { "-" } else { "" })
            })
        };
        match self.format {
            VsiIdFormat::Ipv4 => std::net::Ipv4Addr::new(a, b, c, d).fmt(f),
            VsiIdFormat::Ipv6 => std::net::Ipv6Addr::from(self.value).fmt(f),
            VsiIdFormat::Mac => MacAddr([m0, m1, a, b, c, d]).fmt(f),
            VsiIdFormat::Local => hex(f, &[]),
            VsiIdFormat::Uuid => hex(f, &[4, 6, 8, 10]),
        }
    }
}

impl fmt::Debug for VsiId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {self}", self.format)
    }
}
