//! What the underlay carries on the way to each VTEP, lowered by ICMP too-big messages that can be believed.
//!
//! Anyone can send ICMP. A message is believed when it quotes a tunnel packet that was really sent a moment
//! ago: from one of our source ports, on which something went to that VTEP within [`PathSettings::recent`],
//! larger than the MTU it claims, and, where the quotation reaches that far, for a VNI which that VTEP is a
//! member of. Even then the MTU never goes below a floor, and comes back up after a while (RFC 8201 section 4,
//! RFC 1191 section 6.3).
//!
//! The table holds the VTEPs most recently sent to. At the limit the one sent to longest ago is forgotten
//! with its MTU, which the underlay will report again.

use std::{net::IpAddr, time::Duration};

use ahash::RandomState;
use eastgate_wire::{Instant, Vni, VtepAddr};

use crate::{entropy::SourcePorts, header, table::AgeTable};

/// How far ICMP is trusted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PathSettings {
    /// No path is believed to be narrower than this, in bytes of the outer packet
    pub floor: u16,
    /// How long a lowered MTU holds
    pub age: Duration,
    /// How long ago a packet may have been sent for a message about it to be believed; up to twice this
    pub recent: Duration,
    /// How many VTEPs are kept in mind
    pub limit: usize,
    /// The UDP port of the overlay
    pub vxlan_port: u16,
}

impl Default for PathSettings {
    fn default() -> Self {
        Self {
            floor: 1280,
            age: Duration::from_secs(600),
            recent: Duration::from_secs(30),
            limit: 4096,
            vxlan_port: header::VXLAN_PORT,
        }
    }
}

/// The outer packet that an ICMP message quotes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quote {
    /// Where it was from
    pub from: IpAddr,
    /// Where it was going
    pub to: VtepAddr,
    /// Its length in bytes, as its header says
    pub len: u16,
    /// UDP source port
    pub source_port: u16,
    /// UDP destination port
    pub destination_port: u16,
    /// Its VNI, when the quotation reaches that far; the error is a VXLAN header that nobody here sends
    pub vni: Option<Result<Vni, NotOurs>>,
}

/// The quoted VXLAN header is not one we write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotOurs;

/// Why a too-big message changes nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ignored {
    /// It does not quote a tunnel packet of this overlay.
    NotTunnel,
    /// It quotes a VNI that the VTEP is not a member of, or a VXLAN header we do not write.
    NotMember,
    /// Nothing was sent lately to that VTEP from that port.
    NotSent,
    /// The quoted packet fits the MTU that it claims is too small.
    Fits,
    /// The path is known to be this narrow or narrower.
    NotLower,
}

/// The paths to all VTEPs.
#[derive(Debug)]
pub struct Paths {
    settings: PathSettings,
    ports: SourcePorts,
    table: AgeTable<VtepAddr, Path>,
}

#[derive(Debug)]
struct Path {
    lowered: Option<Lowered>,
    sent: Sent,
}

#[derive(Clone, Copy, Debug)]
struct Lowered {
    mtu: u16,
    until: Instant,
}

/// Which source ports were in use, in this stretch of time and in the one before it.
#[derive(Debug)]
struct Sent {
    now: [u64; 4],
    before: [u64; 4],
    turned: Instant,
}

impl Paths {
    /// Nothing sent yet. The hasher is keyed.
    #[must_use]
    pub fn new(settings: PathSettings, ports: SourcePorts, hasher: RandomState) -> Self {
        Self { settings, ports, table: AgeTable::new(hasher) }
    }

    /// Notes that something goes to `to` from the source port of `bucket`, and tells the MTU of the path in
    /// bytes of the outer packet; `link_mtu` is that of the interface. Once for a batch is enough.
    #[inline]
    pub fn send(&mut self, to: VtepAddr, bucket: u32, link_mtu: u16, now: Instant) -> u16 {
        let slot = match self.table.find(&to) {
            Some(slot) => {
                self.table.touch(slot);
                slot
            }
            None => self.admit(to, now),
        };
        let Some(path) = self.table.get_mut(slot) else { return link_mtu };
        path.sent.note(bucket, self.settings.recent, now);
        path.mtu(link_mtu, now)
    }

    /// The MTU of the path, in bytes of the outer packet.
    #[must_use]
    pub fn mtu(&self, to: VtepAddr, link_mtu: u16, now: Instant) -> u16 {
        let path = self.table.find(&to).and_then(|slot| self.table.get(slot));
        path.map_or(link_mtu, |path| path.mtu(link_mtu, now))
    }

    /// Takes an ICMP message (type 3 code 4, ICMPv6 type 2) that says `mtu` is all there is for the quoted
    /// packet; tells the new MTU. `member` says whether a VTEP is a peer in a VNI, `own` whether an address
    /// is ours. An MTU of 0, from routers older than RFC 1191, counts as the floor.
    ///
    /// # Errors
    /// Why it changes nothing.
    pub fn too_big(
        &mut self,
        quote: &Quote,
        mtu: u32,
        link_mtu: u16,
        now: Instant,
        own: impl FnOnce(IpAddr) -> bool,
        member: impl FnOnce(Vni, VtepAddr) -> bool,
    ) -> Result<u16, Ignored> {
        let bucket = self.ports.bucket_of(quote.source_port).ok_or(Ignored::NotTunnel)?;
        if quote.destination_port != self.settings.vxlan_port || !own(quote.from) {
            return Err(Ignored::NotTunnel);
        }
        match quote.vni {
            Some(Err(NotOurs)) => return Err(Ignored::NotMember),
            Some(Ok(vni)) if !member(vni, quote.to) => return Err(Ignored::NotMember),
            _ => {}
        }
        let slot = self.table.find(&quote.to).ok_or(Ignored::NotSent)?;
        let path = self.table.get_mut(slot).ok_or(Ignored::NotSent)?;
        if !path.sent.recently(bucket, self.settings.recent, now) {
            return Err(Ignored::NotSent);
        }
        if u32::from(quote.len) <= mtu {
            return Err(Ignored::Fits);
        }
        let mtu = u16::try_from(mtu).unwrap_or(u16::MAX).max(self.settings.floor);
        if mtu >= path.mtu(link_mtu, now) {
            return Err(Ignored::NotLower);
        }
        path.lowered = Some(Lowered { mtu, until: now + self.settings.age });
        Ok(mtu)
    }

    /// The paths that are narrower than their link, with their MTU and until when; by address.
    #[must_use]
    pub fn lowered(&self, now: Instant) -> Vec<(VtepAddr, u16, Instant)> {
        let all = self.table.iter().filter_map(|(_, to, path)| {
            let Lowered { mtu, until } = path.lowered?;
            (now < until).then_some((*to, mtu, until))
        });
        let mut lowered: Vec<_> = all.collect();
        lowered.sort_unstable();
        lowered
    }

    /// How many VTEPs are kept in mind.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// None at all?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.table.len() == 0
    }

    fn admit(&mut self, to: VtepAddr, now: Instant) -> crate::table::Slot {
        if self.table.len() >= self.settings.limit.max(1)
            && let Some((oldest, _)) = self.table.oldest()
        {
            self.table.remove(oldest);
        }
        let sent = Sent { now: [0; 4], before: [0; 4], turned: now };
        self.table.insert(to, Path { lowered: None, sent }, false)
    }
}

impl Path {
    fn mtu(&self, link_mtu: u16, now: Instant) -> u16 {
        match self.lowered {
            Some(lowered) if now < lowered.until => lowered.mtu.min(link_mtu),
            _ => link_mtu,
        }
    }
}

impl Sent {
    fn note(&mut self, bucket: u32, recent: Duration, now: Instant) {
        let elapsed = now.since(self.turned);
        if elapsed >= recent {
            self.before = if elapsed >= recent * 2 { [0; 4] } else { self.now };
            (self.now, self.turned) = ([0; 4], now);
        }
        let (word, bit) = place(bucket);
        self.now[word] |= bit;
    }

    fn recently(&self, bucket: u32, recent: Duration, now: Instant) -> bool {
        let (word, bit) = place(bucket);
        let elapsed = now.since(self.turned);
        (elapsed < recent * 2 && self.now[word] & bit != 0)
            || (elapsed < recent && self.before[word] & bit != 0)
    }
}

/// Buckets above 256 share a bit: that only widens what is believed a little.
const fn place(bucket: u32) -> (usize, u64) {
    ((bucket >> 6 & 3) as usize, 1 << (bucket & 63))
}

impl Quote {
    /// Reads the quotation of an ICMP or ICMPv6 error: the bytes after its eight-byte header. Nothing when it
    /// is no UDP packet, a later fragment, or too short to name the ports.
    #[must_use]
    pub fn parse(quoted: &[u8]) -> Option<Self> {
        let version = quoted.first()? >> 4;
        let (from, to, len, proto, l4): (IpAddr, IpAddr, u16, u8, usize) = if version == 4 {
            let h = quoted.first_chunk::<20>()?;
            let header_len = usize::from(h[0] & 0x0f) * 4;
            if header_len < 20 || u16::from_be_bytes([h[6], h[7]]) & 0x1fff != 0 {
                return None;
            }
            let [src, dst] = [12, 16].map(|at| [h[at], h[at + 1], h[at + 2], h[at + 3]]);
            (src.into(), dst.into(), u16::from_be_bytes([h[2], h[3]]), h[9], header_len)
        } else if version == 6 {
            let h = quoted.first_chunk::<40>()?;
            let (src, dst): ([u8; 16], [u8; 16]) = (h[8..24].try_into().ok()?, h[24..40].try_into().ok()?);
            (src.into(), dst.into(), u16::from_be_bytes([h[4], h[5]]).saturating_add(40), h[6], 40)
        } else {
            return None;
        };
        if proto != eastgate_wire::view::proto::UDP {
            return None;
        }
        let &[s0, s1, d0, d1, ..] = quoted.get(l4..)?.first_chunk::<8>()?;
        let vni = quoted.get(l4 + 8..).and_then(|rest| rest.first_chunk::<8>()).map(|vxlan| {
            let vni = Vni::from_wire([vxlan[4], vxlan[5], vxlan[6]]);
            if header::encode(vni) == *vxlan { Ok(vni) } else { Err(NotOurs) }
        });
        Some(Self {
            from,
            to: VtepAddr(to),
            len,
            source_port: u16::from_be_bytes([s0, s1]),
            destination_port: u16::from_be_bytes([d0, d1]),
            vni,
        })
    }
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    use super::*;
    use crate::test_frames::{hasher, vtep};

    const LINK: u16 = 1500;
    const T0: Instant = Instant::from_secs(1000);

    fn paths(limit: usize) -> Paths {
        Paths::new(PathSettings { limit, ..PathSettings::default() }, SourcePorts::default(), hasher())
    }

    fn own() -> IpAddr {
        vtep(200).0
    }

    fn quote(bucket: u32) -> Quote {
        Quote {
            from: own(),
            to: vtep(1),
            len: LINK,
            source_port: SourcePorts::default().port(bucket),
            destination_port: 4789,
            vni: Some(Ok(Vni::from_wire([0, 0, 5]))),
        }
    }

    fn hear(paths: &mut Paths, quote: &Quote, mtu: u32, now: Instant) -> Result<u16, Ignored> {
        let member = |vni: Vni, to| vni.get() == 5 && to == vtep(1);
        paths.too_big(quote, mtu, LINK, now, |from| from == own(), member)
    }

    #[test]
    fn a_true_message_lowers_the_path_and_ages() {
        let mut paths = paths(10);
        assert_eq!(paths.send(vtep(1), 7, LINK, T0), LINK);
        assert_eq!(hear(&mut paths, &quote(7), 1400, T0), Ok(1400));
        assert_eq!((paths.mtu(vtep(1), LINK, T0), paths.mtu(vtep(2), LINK, T0)), (1400, LINK));
        assert_eq!(paths.lowered(T0), [(vtep(1), 1400, T0 + Duration::from_secs(600))]);
        assert_eq!(paths.send(vtep(1), 7, LINK, T0 + Duration::from_secs(599)), 1400);
        let later = T0 + Duration::from_secs(600);
        assert_eq!(paths.send(vtep(1), 7, LINK, later), LINK);
        assert_eq!(paths.lowered(later), []);
        assert_eq!(paths.mtu(vtep(1), 1300, T0), 1300, "a narrower link counts");
    }

    #[test]
    fn forged_messages_change_nothing() {
        let mut paths = paths(10);
        paths.send(vtep(1), 7, LINK, T0);
        let not_ours = Vni::from_wire([0, 0, 6]);
        let forged = [
            (Quote { source_port: 49153, ..quote(7) }, Ignored::NotTunnel),
            (Quote { source_port: 53, ..quote(7) }, Ignored::NotTunnel),
            (Quote { destination_port: 53, ..quote(7) }, Ignored::NotTunnel),
            (Quote { from: vtep(1).0, ..quote(7) }, Ignored::NotTunnel),
            (Quote { vni: Some(Ok(not_ours)), ..quote(7) }, Ignored::NotMember),
            (Quote { vni: Some(Err(NotOurs)), ..quote(7) }, Ignored::NotMember),
            (quote(8), Ignored::NotSent),
            (Quote { to: vtep(2), vni: None, ..quote(7) }, Ignored::NotSent),
            (Quote { len: 1400, ..quote(7) }, Ignored::Fits),
        ];
        for (forged, why) in forged {
            assert_eq!(hear(&mut paths, &forged, 1400, T0), Err(why), "{forged:?}");
        }
        assert_eq!(hear(&mut paths, &quote(7), 1500, T0), Err(Ignored::Fits));
        assert_eq!(paths.mtu(vtep(1), LINK, T0), LINK);
        assert_eq!(
            hear(&mut paths, &Quote { vni: None, ..quote(7) }, 1400, T0),
            Ok(1400),
            "a short quotation"
        );
    }

    #[test]
    fn never_below_the_floor_and_never_up() {
        let mut paths = paths(10);
        paths.send(vtep(1), 7, LINK, T0);
        assert_eq!(hear(&mut paths, &quote(7), 1400, T0), Ok(1400));
        assert_eq!(hear(&mut paths, &quote(7), 1450, T0), Err(Ignored::NotLower));
        assert_eq!(hear(&mut paths, &quote(7), 1400, T0), Err(Ignored::NotLower));
        for tiny in [0, 68, 1279] {
            let _ = hear(&mut paths, &quote(7), tiny, T0);
            assert_eq!(paths.mtu(vtep(1), LINK, T0), 1280);
        }
    }

    #[test]
    fn what_was_sent_long_ago_is_not_quoted_now() {
        let mut paths = paths(10);
        let at = |secs| T0 + Duration::from_secs(secs);
        paths.send(vtep(1), 7, LINK, T0);
        paths.send(vtep(1), 8, LINK, at(30));
        assert_eq!(hear(&mut paths, &quote(7), 1450, at(59)), Ok(1450), "still in the stretch before");
        assert_eq!(hear(&mut paths, &quote(7), 1400, at(60)), Err(Ignored::NotSent));
        assert_eq!(hear(&mut paths, &quote(8), 1400, at(89)), Ok(1400));
        assert_eq!(hear(&mut paths, &quote(8), 1300, at(90)), Err(Ignored::NotSent));
        paths.send(vtep(1), 9, LINK, at(500));
        assert_eq!(hear(&mut paths, &quote(8), 1300, at(500)), Err(Ignored::NotSent));
    }

    #[test]
    fn the_limit_is_exact_and_the_idlest_goes() {
        let mut paths = paths(2);
        paths.send(vtep(1), 7, LINK, T0);
        paths.send(vtep(2), 7, LINK, T0);
        assert_eq!(hear(&mut paths, &quote(7), 1400, T0), Ok(1400));
        paths.send(vtep(1), 7, LINK, T0);
        paths.send(vtep(3), 7, LINK, T0);
        assert_eq!((paths.len(), paths.mtu(vtep(1), LINK, T0)), (2, 1400));
        paths.send(vtep(4), 7, LINK, T0);
        assert_eq!((paths.len(), paths.mtu(vtep(1), LINK, T0)), (2, LINK));
    }

    fn sent_packet(v6: bool) -> Vec<u8> {
        let payload = [&header::encode(Vni::from_wire([0, 0, 5]))[..], &[0; 30]].concat();
        let mut out = Vec::new();
        match v6 {
            false => PacketBuilder::ipv4([192, 0, 2, 200], [192, 0, 2, 1], 64)
                .udp(50000, 4789)
                .write(&mut out, &payload),
            true => PacketBuilder::ipv6([1; 16], [2; 16], 64).udp(50000, 4789).write(&mut out, &payload),
        }
        .unwrap();
        out
    }

    #[test]
    fn quotations_are_read_at_every_length() {
        for (v6, ports_end, to) in [(false, 28, vtep(1).0), (true, 48, IpAddr::from([2; 16]))] {
            let packet = sent_packet(v6);
            for len in 0..packet.len() {
                let quote = Quote::parse(&packet[..len]);
                assert_eq!(quote.is_some(), len >= ports_end, "{len} bytes");
                let Some(quote) = quote else { continue };
                assert_eq!((quote.to.0, quote.source_port, quote.destination_port), (to, 50000, 4789));
                assert_eq!(usize::from(quote.len), packet.len());
                let whole = len >= ports_end + 8;
                assert_eq!(quote.vni, whole.then_some(Ok(Vni::from_wire([0, 0, 5]))));
            }
            let mut marked = packet.clone();
            marked[ports_end + 1] = 1;
            assert_eq!(Quote::parse(&marked).unwrap().vni, Some(Err(NotOurs)));
        }
        let mut later = sent_packet(false);
        later[7] = 1;
        assert_eq!(Quote::parse(&later), None, "a later fragment names no ports");
    }

    proptest! {
        #[test]
        fn noise_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..100), six: bool) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() {
                *first = *first & 0x0f | if six { 0x60 } else { 0x40 };
            }
            let _ = Quote::parse(&bytes);
        }
    }
}
