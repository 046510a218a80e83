mod frames;
mod machine;
mod noise;

use eastgate_wire::{Instant, MacAddr, VlanId};

use super::{
    ecp::{EcpHeader, Operation, Sequence},
    tlv::{self, Hints, Status},
    *,
};

const BRIDGE: MacAddr = MacAddr([2, 0, 0, 0, 0x0b, 1]);
/// The station of the captured frames
const STATION: MacAddr = MacAddr([2, 0, 0, 0, 0x0a, 1]);
const OTHER: MacAddr = MacAddr([2, 0, 0, 0, 0x0a, 2]);
const VM: MacAddr = MacAddr([0x52, 0x54, 0, 0x11, 0x22, 0x33]);
const UUID: [u8; 16] =
    [0x11, 0x11, 0x11, 0x11, 0x22, 0x22, 0x33, 0x33, 0x44, 0x44, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55];

/// Frames that lldpad 1.1 of Debian 12 has sent on a veth, as an EVB station that was told what to do by
/// vdptool: captured, not made.
mod lldpad {
    /// Before it has heard a bridge
    pub(super) const FIRST: &str = "\
        0180c2000000020000000a0188cc020704020000000a01040703020000000a0106020078fe090080c20d060c6eb4\
        3400000000000000000000000000";
    /// Reflective relay is on
    pub(super) const RELAY: &str = "\
        0180c2000000020000000a0188cc020704020000000a01040703020000000a0106020078fe090080c20d070d6eb4\
        3400000000000000000000000000";
    /// It is ended
    pub(super) const SHUTDOWN: &str = "\
        0180c2000000020000000a0188cc020704020000000a01040703020000000a010602000000000000000000000000\
        00000000000000000000000000";
    /// `mode=preassoc filter=100-52:54:00:11:22:33`
    pub(super) const PRE_ASSOCIATE: &str = "\
        0180c2000000020000000a018940100100010a106d67720000000000000000000000000002210000000504051111\
        11112222333344445555555555550200015254001122330064";
    /// `mode=preassoc-rr`
    pub(super) const RESERVE: &str = "\
        0180c2000000020000000a018940100100020a106d67720000000000000000000000000004210000000504051111\
        11112222333344445555555555550200015254001122330064";
    /// `mode=assoc`
    pub(super) const ASSOCIATE: &str = "\
        0180c2000000020000000a018940100100030a106d67720000000000000000000000000006210000000504051111\
        11112222333344445555555555550200015254001122330064";
    /// It is still there.
    pub(super) const KEEP_ALIVE: &str = "\
        0180c2000000020000000a018940100100040a106d67720000000000000000000000000006210000000504051111\
        11112222333344445555555555550200015254001122330064";
    /// `mode=deassoc`
    pub(super) const DE_ASSOCIATE: &str = "\
        0180c2000000020000000a018940100100050a106d67720000000000000000000000000008210000000504051111\
        11112222333344445555555555550200015254001122330064";
    /// `filter=0-52:54:00:11:22:33`
    pub(super) const NULL_VID: &str = "\
        0180c2000000020000000a018940100100080a106d67720000000000000000000000000006210000000504051111\
        11112222333344445555555555550200015254001122330000";
    /// `filter=7`
    pub(super) const VID: &str = "\
        0180c2000000020000000a0189401001000a0a106d677200000000000000000000000000061b0000000504051111\
        11112222333344445555555555550100010007";
    /// `filter=9--77`
    pub(super) const GROUP_VID: &str = "\
        0180c2000000020000000a0189401001000c0a106d677200000000000000000000000000061f0000000504051111\
        11112222333344445555555555550300010000004d0009";
    /// `filter=9-52:54:00:11:22:33-77`
    pub(super) const GROUP_MAC_VID: &str = "\
        0180c2000000020000000a0189401001000d0a106d67720000000000000000000000000006250000000504051111\
        11112222333344445555555555550400010000004d5254001122330009";
    /// `filter=100-52:54:00:11:22:33 filter=101-52:54:00:11:22:34`
    pub(super) const TWO: &str = "\
        0180c2000000020000000a0189401001000f0a106d67720000000000000000000000000006290000000504051111\
        111122223333444455555555555502000252540011223300645254001122340065";
    /// `hints=to`
    pub(super) const TO_HERE: &str = "\
        0180c2000000020000000a018940100100110a106d67720000000000000000000000000006211000000504051111\
        11112222333344445555555555550200015254001122330064";
    /// `hints=from`
    pub(super) const FROM_HERE: &str = "\
        0180c2000000020000000a018940100100130a106d67720000000000000000000000000006212000000504051111\
        11112222333344445555555555550200015254001122330064";
    /// `typeid=16777215 filter=4094-52:54:00:11:22:33`
    pub(super) const LARGEST: &str = "\
        0180c2000000020000000a0189401001001a0a106d677200000000000000000000000000062100ffffff04051111\
        11112222333344445555555555550200015254001122330ffe";
    /// What acknowledges the PDU 0x4f
    pub(super) const ACK: &str = "0180c2000000020000000a0189401401004f";

    pub(super) const REQUESTS: [&str; 14] = [
        PRE_ASSOCIATE,
        RESERVE,
        ASSOCIATE,
        KEEP_ALIVE,
        DE_ASSOCIATE,
        NULL_VID,
        VID,
        GROUP_VID,
        GROUP_MAC_VID,
        TWO,
        TO_HERE,
        FROM_HERE,
        LARGEST,
        ACK,
    ];
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u32> = hex.chars().map(|digit| digit.to_digit(16).unwrap()).collect();
    digits.chunks(2).map(|pair| u8::try_from(pair[0] << 4 | pair[1]).unwrap()).collect()
}

fn at(secs: u64) -> Instant {
    Instant::from_secs(100 + secs)
}

fn vlan(vid: u16) -> Option<VlanId> {
    Some(VlanId::new_checked(vid).unwrap())
}

fn manager(text: &str) -> ManagerId {
    let mut id = [0; 16];
    id[..text.len()].copy_from_slice(text.as_bytes());
    ManagerId(id)
}

/// The VSI of the captured frames, or with another last octet others
fn vsi(last: u8) -> Vsi {
    let mut value = UUID;
    value[15] = last;
    let profile = Profile {
        manager: manager("mgr"),
        kind: VsiTypeId::new_checked(5).unwrap(),
        version: TypeVersion(4),
    };
    Vsi { profile, id: VsiId { format: VsiIdFormat::Uuid, value }, format: FilterFormat::MacVid }
}

fn entry(mac: MacAddr, vid: u16) -> FilterEntry {
    FilterEntry { group: None, mac: Some(mac), vid: VlanId::new_checked(vid), priority: None }
}

/// What the configuration allows
#[derive(Clone, Copy, Default)]
struct Site {
    no_profile: Option<Refusal>,
    not_mac: Option<MacAddr>,
    null: Option<VlanId>,
}

impl Profiles for Site {
    fn profile(&self, _: &Profile) -> Result<(), Refusal> {
        self.no_profile.map_or(Ok(()), Err)
    }

    fn may(&self, _: &Vsi, entry: &FilterEntry) -> Result<Option<VlanId>, Refusal> {
        let is_refused = self.not_mac.is_some() && entry.mac == self.not_mac;
        if is_refused { Err(Refusal::NotAllowed) } else { Ok(entry.vid.or(self.null)) }
    }
}

/// A bridge that has announced itself for the first four times
fn bridge() -> Bridge {
    with(Limits::default())
}

fn with(limits: Limits) -> Bridge {
    let config =
        Config { mac: BRIDGE, offer: Offer::default(), limits, stations: None, first: Sequence(0x4d) };
    let mut bridge = Bridge::new(config, at(0));
    (0..4).for_each(|second| bridge.expire(at(second)));
    assert_eq!(bridge.take_frames().len(), 4);
    bridge
}

/// A station's PDU
fn pdu(station: MacAddr, sequence: u16, payload: &[u8]) -> Vec<u8> {
    let header = EcpHeader { operation: Operation::Request, subtype: ecp::VDP, sequence: Sequence(sequence) };
    let mut frame = frame(station, ECP, &[&header.octets()[..], payload].concat());
    frame.truncate(18 + payload.len());
    frame
}

/// A station's PDU that asks for one thing
fn asks(station: MacAddr, sequence: u16, mode: Mode, vsi: &Vsi, entries: &[FilterEntry]) -> Vec<u8> {
    let mut payload = Vec::new();
    tlv::put_manager(vsi.profile.manager, &mut payload);
    vsi.put_request(mode, Hints::default(), entries, &mut payload);
    pdu(station, sequence, &payload)
}

fn acks(station: MacAddr, sequence: u16) -> Vec<u8> {
    let header = EcpHeader { operation: Operation::Ack, subtype: ecp::VDP, sequence: Sequence(sequence) };
    frame(station, ECP, &header.octets())
}

/// What a frame of the bridge says: an acknowledgement, or a PDU with its TLVs' types and status octets.
#[derive(PartialEq, Eq, Debug)]
enum Said {
    Ack(u16),
    Lldp(Evb),
    Vdp(u16, Vec<(u8, u8)>),
}

fn said(bridge: &mut Bridge) -> Vec<Said> {
    bridge.take_frames().iter().map(|frame| say(frame)).collect()
}

fn say(frame: &[u8]) -> Said {
    let (destination, source, ethertype, payload) = split(frame).unwrap();
    assert_eq!((destination, source), (NEAREST_CUSTOMER_BRIDGE, BRIDGE));
    assert!(frame.len() >= SHORTEST);
    if ethertype == LLDP {
        return Said::Lldp(lldp::Lldpdu::parse(payload).unwrap().evb.unwrap());
    }
    let (header, payload) = EcpHeader::parse(payload).unwrap();
    if header.operation == Operation::Ack {
        return Said::Ack(header.sequence.0);
    }
    let tlvs: Vec<_> = Tlvs { rest: payload }.map(Result::unwrap).collect();
    assert_eq!(tlvs[0].0, 5, "the manager comes first");
    Said::Vdp(header.sequence.0, tlvs[1..].iter().map(|(kind, value)| (*kind, value[0])).collect())
}

/// An answer in a mode, with a status
fn answer(mode: Mode, status: Status) -> (u8, u8) {
    (mode as u8, 0x40 | status as u8)
}

/// The request of the bridge to end a VSI
const ENDS: (u8, u8) = (Mode::DeAssociate as u8, 0);
