//! A frame that was given to be walked, as a capture has it: what stands in it.

use eastgate_api::TraceRequest;
use eastgate_vtep::offload::{note_uncut, note_unfinished_checksum};
use eastgate_wire::{
    Addr, DropReason, FlowKey, Frame, Leg, MacAddr, Offload, OuterTag, View, VlanId, Vni, names,
    view::{IcmpRole, Net, Quoted, Transport, proto},
};
use etherparse::ArpPacketSlice;

use super::packet::NUMBERS;

/// Bytes of the two MACs in front of a frame
const MACS: usize = 12;

/// A frame, and what it is.
#[derive(Clone, Debug)]
pub(super) struct Given {
    bytes: Vec<u8>,
    /// Or why it is dropped whoever sends it
    view: Result<View, DropReason>,
}

impl Given {
    /// # Errors
    /// When it is too short to be a frame
    pub(super) fn read(frame: &[u8]) -> Result<Self, String> {
        if frame.len() < MACS + 2 {
            return Err(format!(
                "a frame has an Ethernet header of 14 bytes, and this is {}",
                names::count(frame.len(), "byte")
            ));
        }
        Ok(Self { bytes: frame.to_vec(), view: View::parse(frame) })
    }

    /// What was asked, with what stands in the frame
    pub(super) fn request(&self, asked: &TraceRequest) -> TraceRequest {
        let nobody = Addr::v4([0; 4]);
        let mut request = TraceRequest {
            proto: 0,
            src: nobody,
            dst: nobody,
            sport: 0,
            dport: 0,
            icmp: None,
            ..asked.clone()
        };
        if let Some(ip) = self.view.ok().as_ref().and_then(View::ip) {
            (request.proto, request.src, request.dst) = (ip.proto, ip.src, ip.dst);
            (request.sport, request.dport) = ip.ports();
            if let Transport::Icmp(icmp) = ip.transport {
                request.icmp = Some((icmp.kind, icmp.code));
            }
        } else if let Some([src, dst]) = self.arp() {
            (request.src, request.dst) = (src, dst);
        }
        request
    }

    /// The addresses that an ARP message is about: of who sends it, and whom it means
    fn arp(&self) -> Option<[Addr; 2]> {
        let view = self.view.ok().filter(|view| view.net == Net::Arp)?;
        let arp = ArpPacketSlice::from_slice(self.bytes.get(usize::from(view.l3)..)?).ok()?;
        let address = |bytes: &[u8]| bytes.try_into().ok().map(Addr::v4);
        Some([address(arp.sender_protocol_addr())?, address(arp.target_protocol_addr())?])
    }

    /// The MACs that it is for and from
    pub(super) fn macs(&self) -> [MacAddr; 2] {
        let mac = |at: usize| {
            self.bytes
                .get(at..)
                .and_then(|bytes| bytes.first_chunk())
                .map_or(MacAddr::ZERO, |mac| MacAddr(*mac))
        };
        [mac(0), mac(6)]
    }

    /// Whether rules are asked about it
    pub(super) fn is_ip(&self) -> bool {
        self.view.is_ok_and(|view| view.ip().is_some())
    }

    /// As its sender's port has it: where that is a VLAN of a trunk, without the tag. What captures at a machine's own port show to be
    /// left to its device is said to be: the checksum, and of a large TCP packet the cutting.
    pub(super) fn at_port(&self, vlan: Option<VlanId>) -> (Vec<u8>, Offload) {
        let mut bytes = self.bytes.clone();
        let end = bytes.len();
        let mut frame = Frame::new(&mut bytes, 0, end, Offload::default());
        if vlan.is_some_and(|vlan| self.tag() == OuterTag::Vlan(vlan)) {
            let _ = frame.strip_vlan();
        }
        if let Ok(view) = View::parse(frame.bytes()) {
            note_unfinished_checksum(&mut frame, &view);
            note_uncut(&mut frame, &view, u16::MAX);
        }
        (frame.bytes().to_vec(), frame.offload)
    }

    /// Whose it is on a trunk
    fn tag(&self) -> OuterTag {
        let tag = self.view.ok().filter(|view| view.tags > 0).and_then(|view| {
            let kind = self.bytes.get(MACS..)?.first_chunk()?;
            Some((u16::from_be_bytes(*kind), view.tci))
        });
        OuterTag::of(tag)
    }

    /// The flow that it is of, by its own header or by that which an ICMP error quotes
    pub(super) fn flow(&self, vni: Vni) -> Option<FlowKey> {
        let ip = *self.view.ok()?.ip()?;
        let key =
            |src, dst, proto, sport, dport| FlowKey { src, dst, vni, sport, dport, proto, leg: Leg::DIRECT };
        Some(match self.quoted() {
            Some(quoted) => key(quoted.src, quoted.dst, quoted.proto, quoted.sport, quoted.dport),
            None => {
                let (sport, dport) = ip.ports();
                key(ip.src, ip.dst, ip.proto, sport, dport)
            }
        })
    }

    /// What an ICMP error is about
    fn quoted(&self) -> Option<Quoted> {
        let ip = *self.view.ok()?.ip()?;
        let is_error =
            matches!(ip.transport, Transport::Icmp(icmp) if icmp.role(ip.src.is_v4()) == IcmpRole::Error);
        ip.quoted(&self.bytes).filter(|_| is_error)
    }

    /// Numbers of a connection's two sides that it would be in the window of, or has the tag of; none where it is of none
    pub(super) fn numbers(&self, flow: &FlowKey) -> Option<[u32; 2]> {
        let ip = *self.view.ok()?.ip()?;
        let is_opener = |src: Addr, sport: u16| (flow.src, flow.sport) == (src, sport);
        let tcp = |opener: bool, seq, ack| if opener { [seq, ack] } else { [ack, seq] };
        // Who sends with a tag was told it by the other.
        let sctp = |opener: bool, tag| if opener { [NUMBERS[0], tag] } else { [tag, NUMBERS[1]] };
        match (ip.transport, self.quoted()) {
            (Transport::Tcp(it), _) => Some(tcp(is_opener(ip.src, it.sport), it.seq, it.ack)),
            (Transport::Sctp(it), _) => Some(sctp(is_opener(ip.src, it.sport), it.tag)),
            (_, Some(Quoted { src, sport, proto: proto::TCP, seq: Some(seq), .. })) => {
                Some(tcp(is_opener(src, sport), seq, NUMBERS[1]))
            }
            (_, Some(Quoted { src, sport, proto: proto::SCTP, seq: Some(tag), .. })) => {
                Some(sctp(is_opener(src, sport), tag))
            }
            _ => None,
        }
    }

    /// In a few words
    pub(super) fn text(&self, key: &FlowKey) -> String {
        let [to, from] = self.macs();
        match self.view {
            Err(_) => format!("{} from {from} to {to}", names::count(self.bytes.len(), "byte")),
            Ok(view) => match view.net {
                Net::Ip(ip) if ip.fragment.is_some() => format!("{}, a fragment", names::packet(key)),
                Net::Ip(_) => names::packet(key),
                Net::Arp => format!("arp {} -> {}", key.src, key.dst),
                Net::Other => format!("ethertype {:#06x} from {from} to {to}", view.ethertype),
            },
        }
    }
}
