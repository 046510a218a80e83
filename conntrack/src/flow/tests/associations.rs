//! Associations of SCTP: their states, whose packets pass by which tags, and that they end for the table when they end for both ends.

use eastgate_wire::view::{Chunks, Sctp, proto};
use proptest::sample::select;

use super::*;

/// Tags that the ends ask for
const OPENERS: u32 = 0xa;
const OTHERS: u32 = 0xb;

fn packet(key: FlowKey, tag: u32, chunks: Chunks) -> Segment {
    let Segment { header, .. } = udp(key);
    let sctp = Sctp { sport: key.sport, dport: key.dport, tag, chunks, initiate: 0, reflects: false };
    Segment { key, kind: SegmentKind::Sctp(sctp), packets: 1, bytes: 100, header }
}

fn asking(mut segment: Segment, initiate: u32) -> Segment {
    if let SegmentKind::Sctp(sctp) = &mut segment.kind {
        sctp.initiate = initiate;
    }
    segment
}

fn reflecting(mut segment: Segment) -> Segment {
    if let SegmentKind::Sctp(sctp) = &mut segment.kind {
        sctp.reflects = true;
    }
    segment
}

fn opener() -> FlowKey {
    key(5, proto::SCTP, 4000)
}

fn there(tag: u32, chunks: Chunks) -> Segment {
    packet(opener(), tag, chunks)
}

fn back(tag: u32, chunks: Chunks) -> Segment {
    packet(opener().reversed(), tag, chunks)
}

fn init() -> Segment {
    asking(there(0, Chunks::INIT), OPENERS)
}

fn init_ack(tag: u32, initiate: u32) -> Segment {
    asking(back(tag, Chunks::INIT_ACK), initiate)
}

const TAG: Fate = Fate::Dropped(DropReason::SctpTag);
const STATE: Fate = Fate::Dropped(DropReason::SctpState);
const NOT_INIT: Fate = Fate::Dropped(DropReason::NotInit);

fn passed(state: FlowState) -> Fate {
    Fate::Passed(state)
}

fn established() -> World {
    let mut world = World::new();
    assert_eq!(world.send(&init()), Fate::Opened);
    assert_eq!(world.send(&init_ack(OPENERS, OTHERS)), passed(FlowState::CookieWait));
    assert_eq!(world.send(&there(OTHERS, Chunks::COOKIE_ECHO)), passed(FlowState::CookieEchoed));
    assert!(!world.flows()[0].replied);
    assert_eq!(world.send(&back(OPENERS, Chunks::COOKIE_ACK)), passed(FlowState::Established));
    assert!(world.flows()[0].replied);
    world
}

#[test]
fn an_association_lives_through_its_states() {
    for by_opener in [true, false] {
        let mut world = established();
        let data = Chunks::DATA.and(Chunks::SACK);
        for _ in 0..3 {
            world.wait(209);
            assert_eq!(world.send(&there(OTHERS, data)), passed(FlowState::Established));
            assert_eq!(world.send(&back(OPENERS, Chunks::HEARTBEAT)), passed(FlowState::Established));
        }
        let [first, second]: [fn(u32, Chunks) -> Segment; 2] =
            if by_opener { [there, back] } else { [back, there] };
        let (to, from) = if by_opener { (OTHERS, OPENERS) } else { (OPENERS, OTHERS) };
        let after = if by_opener { FlowState::ShutdownSent } else { FlowState::ShutdownRecd };
        assert_eq!(world.send(&first(to, Chunks::SHUTDOWN)), passed(after));
        assert_eq!(world.send(&second(from, data)), passed(after), "what was under way");
        assert_eq!(world.send(&second(from, Chunks::SHUTDOWN_ACK)), passed(FlowState::ShutdownAckSent));
        assert_eq!(world.send(&first(to, Chunks::SHUTDOWN_COMPLETE)), passed(FlowState::Closed));
        // The answer was lost: it is asked for again, and given by whoever has forgotten it.
        assert_eq!(world.send(&second(from, Chunks::SHUTDOWN_ACK)), passed(FlowState::Closed));
        assert_eq!(
            world.send(&reflecting(first(from, Chunks::SHUTDOWN_COMPLETE))),
            passed(FlowState::Closed)
        );
        // What is over stays so, however often something comes.
        world.wait(9);
        assert_eq!(world.send(&first(to, Chunks::SACK)), passed(FlowState::Closed));
        world.wait(1);
        assert_eq!(world.send(&first(to, Chunks::SACK)), NOT_INIT);
        assert_eq!((world.table.counters().closed, world.table.len()), (1, 0));
    }
}

#[test]
fn each_state_has_its_time() {
    let timeouts = StateSettings::default().timeouts;
    let lasts = |world: &World| world.flows()[0].deadline.since(world.now);
    let mut world = World::new();
    let _ = world.send(&init());
    world.wait(29);
    assert_eq!(world.send(&init()), passed(FlowState::CookieWait));
    world.wait(1);
    assert_eq!(world.send(&init()), Fate::Opened, "asking again does not prolong it");
    let mut world = established();
    assert_eq!(lasts(&world), timeouts.sctp_established);
    let _ = world.send(&there(OTHERS, Chunks::SHUTDOWN));
    assert_eq!(lasts(&world), timeouts.sctp_shutdown_sent);
    let _ = world.send(&back(OPENERS, Chunks::SHUTDOWN_ACK));
    assert_eq!(lasts(&world), timeouts.sctp_shutdown_ack_sent);
    let _ = world.send(&there(OTHERS, Chunks::SHUTDOWN_COMPLETE));
    assert_eq!(lasts(&world), timeouts.sctp_closed);
}

#[test]
fn only_an_init_or_a_heartbeat_begins_one() {
    let others = [
        Chunks::DATA,
        Chunks::INIT_ACK,
        Chunks::SACK,
        Chunks::HEARTBEAT_ACK,
        Chunks::ABORT,
        Chunks::SHUTDOWN,
        Chunks::SHUTDOWN_ACK,
        Chunks::ERROR,
        Chunks::COOKIE_ECHO,
        Chunks::COOKIE_ACK,
        Chunks::SHUTDOWN_COMPLETE,
        Chunks::OTHER,
        Chunks::HEARTBEAT.and(Chunks::DATA),
    ];
    for chunks in others {
        assert_eq!(World::new().send(&there(OTHERS, chunks)), NOT_INIT, "{chunks:?}");
    }
    assert_eq!(World::new().send(&asking(there(1, Chunks::INIT), OPENERS)), TAG);
    assert_eq!(World::new().send(&there(0, Chunks::HEARTBEAT)), TAG);
    // In mid-stream, where that is let: by what an association in the middle sends.
    for chunks in others {
        let mut world = World::new();
        world.settings.loose = true;
        let begins =
            chunks.has(Chunks::DATA.and(Chunks::SACK).and(Chunks::HEARTBEAT_ACK).and(Chunks::SHUTDOWN));
        assert_eq!(world.send(&there(OTHERS, chunks)), if begins { Fate::Opened } else { NOT_INIT });
        if begins {
            assert_eq!(world.flows()[0].state, FlowState::PickedUp);
            assert_eq!(world.send(&there(OTHERS + 1, Chunks::DATA)), TAG);
            assert_eq!(world.send(&back(OPENERS, Chunks::SACK)), passed(FlowState::Established));
            assert_eq!(world.send(&back(OPENERS + 1, Chunks::SACK)), TAG);
        }
    }
}

#[test]
fn nothing_passes_before_the_handshake_but_itself() {
    let mut world = World::new();
    let _ = world.send(&init());
    for segment in [there(OTHERS, Chunks::DATA), back(OPENERS, Chunks::DATA), back(OPENERS, Chunks::SHUTDOWN)]
    {
        assert_eq!(world.send(&segment), STATE);
    }
    assert_eq!(world.send(&there(OTHERS, Chunks::COOKIE_ECHO)), TAG, "nobody has offered it");
    assert_eq!(world.send(&back(OPENERS, Chunks::COOKIE_ACK)), STATE);
    assert_eq!(world.send(&init_ack(OPENERS + 1, OTHERS)), TAG);
    // Each answer to an INIT offers a tag of its own, and the opener takes whichever came first to it.
    for offered in [OTHERS, OTHERS + 1, OTHERS + 2] {
        assert_eq!(world.send(&init_ack(OPENERS, offered)), passed(FlowState::CookieWait));
    }
    let echo = Chunks::COOKIE_ECHO.and(Chunks::DATA);
    assert_eq!(world.send(&there(OTHERS + 1, echo)), passed(FlowState::CookieEchoed));
    assert_eq!(world.send(&back(OPENERS, Chunks::DATA)), passed(FlowState::CookieEchoed), "it has overtaken");
    assert_eq!(world.send(&back(OPENERS, Chunks::COOKIE_ACK)), passed(FlowState::Established));
    assert_eq!(world.send(&there(OTHERS, Chunks::DATA)), TAG, "another tag that was offered");
    assert_eq!(world.send(&there(OTHERS + 1, Chunks::DATA)), passed(FlowState::Established));
    // Both ask at the same time (RFC 9260 section 5.2.1).
    let mut world = World::new();
    assert_eq!(world.send(&init()), Fate::Opened);
    assert_eq!(world.send(&asking(back(0, Chunks::INIT), OTHERS)), passed(FlowState::CookieWait));
    let answer = asking(there(OTHERS, Chunks::INIT_ACK), OPENERS);
    assert_eq!(world.send(&answer), passed(FlowState::CookieWait));
    assert_eq!(world.send(&init_ack(OPENERS, OTHERS)), passed(FlowState::CookieWait));
    assert_eq!(world.send(&back(OPENERS, Chunks::COOKIE_ECHO)), passed(FlowState::CookieEchoed));
    assert_eq!(world.send(&there(OTHERS, Chunks::COOKIE_ACK)), passed(FlowState::Established));
    assert_eq!(world.send(&there(OTHERS, Chunks::DATA)), passed(FlowState::Established));
}

#[test]
fn an_abort_ends_it_by_either_tag_and_by_no_other() {
    for segment in [
        there(OTHERS, Chunks::ABORT),
        back(OPENERS, Chunks::ABORT),
        reflecting(there(OPENERS, Chunks::ABORT)),
        reflecting(back(OTHERS, Chunks::ABORT)),
    ] {
        assert_eq!(established().send(&segment), passed(FlowState::Closed));
    }
    for segment in [
        there(OPENERS, Chunks::ABORT),
        back(OTHERS, Chunks::ABORT),
        reflecting(there(OTHERS, Chunks::ABORT)),
        reflecting(back(OPENERS, Chunks::ABORT)),
        there(0, Chunks::ABORT),
        there(OTHERS + 1, Chunks::SHUTDOWN_COMPLETE),
        there(OPENERS, Chunks::DATA),
        there(0, Chunks::DATA),
        there(OTHERS + 1, Chunks::COOKIE_ECHO),
        back(OPENERS + 1, Chunks::COOKIE_ACK),
        asking(there(OTHERS, Chunks::INIT), OPENERS),
        there(OTHERS + 1, Chunks::HEARTBEAT_ACK),
    ] {
        let mut world = established();
        assert_eq!(world.send(&segment), TAG, "{segment:?}");
        assert_eq!(world.send(&there(OTHERS, Chunks::DATA)), passed(FlowState::Established));
    }
    // A COMPLETE ends what the other end has said to be at its end, not what its own sender has.
    let mut world = established();
    let _ = world.send(&there(OTHERS, Chunks::SHUTDOWN));
    let _ = world.send(&there(OTHERS, Chunks::SHUTDOWN_ACK));
    assert_eq!(world.send(&there(OTHERS, Chunks::SHUTDOWN_COMPLETE)), passed(FlowState::ShutdownAckSent));
    // Nobody listens: the opener's INIT is refused, and it may ask again at once.
    let mut world = World::new();
    let _ = world.send(&init());
    assert_eq!(world.send(&back(OPENERS, Chunks::ABORT)), passed(FlowState::Closed));
    assert_eq!(world.send(&init()), Fate::Opened);
    // The cookie of an association that is over is none any more, though its end would take it.
    let mut world = established();
    let _ = world.send(&there(OTHERS, Chunks::ABORT));
    assert_eq!(world.send(&there(OTHERS, Chunks::COOKIE_ECHO)), STATE);
}

/// RFC 9260 section 5.2: an end that has come back on the same ports.
#[test]
fn who_comes_back_goes_on_with_the_tags_that_the_cookie_was_for() {
    let mut world = established();
    let again = asking(init(), OPENERS + 1);
    assert_eq!(world.send(&again), passed(FlowState::Established));
    assert_eq!(world.send(&init_ack(OPENERS + 1, OTHERS + 1)), passed(FlowState::Established));
    // Whoever sent that INIT may not be the end, and the association goes on.
    for segment in [there(OTHERS, Chunks::DATA), back(OPENERS, Chunks::SACK)] {
        assert_eq!(world.send(&segment), passed(FlowState::Established));
    }
    for segment in [there(OTHERS + 1, Chunks::DATA), back(OPENERS + 1, Chunks::DATA)] {
        assert_eq!(world.send(&segment), TAG, "not yet");
    }
    assert_eq!(world.send(&there(OTHERS + 1, Chunks::COOKIE_ECHO)), passed(FlowState::Established));
    assert_eq!(world.send(&back(OPENERS, Chunks::DATA)), passed(FlowState::Established), "not taken yet");
    assert_eq!(world.send(&back(OPENERS + 1, Chunks::COOKIE_ACK)), passed(FlowState::Established));
    for (segment, fate) in [
        (there(OTHERS + 1, Chunks::DATA), passed(FlowState::Established)),
        (back(OPENERS + 1, Chunks::DATA), passed(FlowState::Established)),
        (there(OTHERS, Chunks::DATA), TAG),
        (back(OPENERS, Chunks::DATA), TAG),
    ] {
        assert_eq!(world.send(&segment), fate);
    }
    // The end that was called comes back and calls: the rules are to say whether it may.
    let mut world = established();
    assert_eq!(world.send(&asking(back(0, Chunks::INIT), OTHERS + 1)), passed(FlowState::Established));
    assert_eq!(world.send(&asking(there(OTHERS + 1, Chunks::INIT_ACK), OPENERS + 1)), STATE);
    assert_eq!(world.table.len(), 0);
    assert_eq!(world.send(&asking(back(0, Chunks::INIT), OTHERS + 1)), Fate::Opened);
    assert_eq!(world.flows()[0].key, opener().reversed());
}

#[test]
fn another_path_is_a_flow_of_its_own() {
    let mut world = World::new();
    assert_eq!(world.send(&there(OTHERS, Chunks::HEARTBEAT)), Fate::Opened);
    assert_eq!(world.flows()[0].state, FlowState::HeartbeatSent);
    assert_eq!(world.send(&there(OTHERS + 1, Chunks::HEARTBEAT)), TAG);
    assert_eq!(world.send(&back(OPENERS, Chunks::DATA)), TAG, "not before it is answered");
    assert_eq!(world.send(&back(OPENERS, Chunks::HEARTBEAT_ACK)), passed(FlowState::Established));
    for segment in [there(OTHERS, Chunks::DATA), back(OPENERS, Chunks::DATA)] {
        assert_eq!(world.send(&segment), passed(FlowState::Established));
    }
    // The association begins anew by its other path.
    assert_eq!(world.send(&there(OTHERS + 1, Chunks::HEARTBEAT)), passed(FlowState::Established));
    assert_eq!(world.send(&there(OTHERS + 1, Chunks::DATA)), TAG);
    assert_eq!(world.send(&back(OPENERS + 1, Chunks::HEARTBEAT_ACK)), passed(FlowState::Established));
    for (segment, fate) in [
        (there(OTHERS + 1, Chunks::DATA), passed(FlowState::Established)),
        (back(OPENERS + 1, Chunks::DATA), passed(FlowState::Established)),
        (there(OTHERS, Chunks::DATA), TAG),
        (back(OPENERS, Chunks::DATA), TAG),
    ] {
        assert_eq!(world.send(&segment), fate);
    }
    // An end that does not know of it reflects the tag (section 8.4).
    let mut world = World::new();
    let _ = world.send(&there(OTHERS, Chunks::HEARTBEAT));
    assert_eq!(world.send(&back(OTHERS, Chunks::ABORT)), TAG);
    assert_eq!(world.send(&reflecting(back(OTHERS, Chunks::ABORT))), passed(FlowState::Closed));
}

#[test]
fn an_error_is_about_an_association_by_its_tag() {
    let mut world = established();
    let related = |world: &mut World, tag: Option<u32>| {
        let key = opener();
        let quoted = Quoted {
            src: key.src,
            dst: key.dst,
            proto: proto::SCTP,
            sport: key.sport,
            dport: key.dport,
            seq: tag,
            icmp: None,
        };
        let tracked = world.table.related(&key, &quoted, key.src, &world.settings, 1, world.now);
        matches!(tracked, Tracked::Pass(_))
    };
    assert!(related(&mut world, Some(OTHERS)));
    for tag in [Some(OPENERS), Some(0), None] {
        assert!(!related(&mut world, tag), "{tag:?}");
    }
    let mut world = World::new();
    let _ = world.send(&init());
    assert!(related(&mut world, Some(0)), "about its INIT");
}

/// A limit by source: an association counts until its other end takes it for over.
#[test]
fn a_source_keeps_what_its_other_end_may_still_have() {
    let counts =
        Arc::new(SourceCounts::new(SourceLimits { connections: Some(1), new: None, prefixes: [128; 2] }));
    let counted = || {
        let mut world = established();
        let tracked = world.table.track(&there(OTHERS, Chunks::SACK), &world.settings, 1, world.now);
        let Tracked::Pass(Hit { flow, .. }) = tracked else { panic!("{tracked:?}") };
        let grant = counts.take(eastgate_wire::EndpointId(1), opener().src, world.now);
        assert!(grant.is_some());
        world.table.hold(flow, [grant, None]);
        world
    };
    let held = || counts.sources() == 1;
    let mut world = counted();
    assert_eq!(world.send(&there(OTHERS, Chunks::ABORT)), passed(FlowState::Closed));
    assert!(!held());
    // It has echoed two cookies, and only one end knows which of them was good.
    let mut world = counted();
    for offered in [OTHERS + 1, OTHERS + 2] {
        let _ = world.send(&asking(init(), OPENERS + 1));
        let _ = world.send(&init_ack(OPENERS + 1, offered));
        assert_eq!(world.send(&there(offered, Chunks::COOKIE_ECHO)), passed(FlowState::Established));
    }
    assert_eq!(
        world.send(&there(OTHERS, Chunks::ABORT)),
        passed(FlowState::Established),
        "it may be gone over"
    );
    let _ = world.send(&back(OPENERS + 1, Chunks::COOKIE_ACK));
    for tag in [OTHERS + 1, OTHERS + 2] {
        assert_eq!(world.send(&there(tag, Chunks::DATA)), passed(FlowState::Established));
        assert_eq!(world.send(&there(tag, Chunks::ABORT)), passed(FlowState::Established));
        assert!(held());
    }
    assert_eq!(
        world.send(&back(OPENERS + 1, Chunks::ABORT)),
        passed(FlowState::Closed),
        "the other end says so"
    );
    assert!(!held());
}

/// Two ends as section 5 has them, and packets between them that are lost, doubled and overtaken before the table and behind it.
#[derive(Debug, Default)]
struct Ends {
    /// Tags of the opener: its own, and the one that it sends by once it knows that; its state
    opener: (u32, u32, Stage),
    /// Of the other end, where it has an association: its own and the one that it sends by
    other: Option<(u32, u32)>,
    /// What each cookie was made for, by the tag of the INIT ACK
    cookies: BTreeMap<u32, u32>,
    next_tag: u32,
    /// Tags of INIT ACKs that the table has let pass
    offered: Vec<u32>,
    before: Vec<Segment>,
    behind: Vec<Segment>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Stage {
    #[default]
    Closed,
    Waits,
    Echoed,
    Stands,
}

impl Ends {
    fn tag(&mut self) -> u32 {
        self.next_tag += 1;
        0x1000 + self.next_tag
    }

    /// What is due at the opener: it asks, echoes or sends.
    fn opener_acts(&mut self) {
        let (own, to, stage) = self.opener;
        let sent = match stage {
            Stage::Closed => {
                let own = self.tag();
                self.opener = (own, 0, Stage::Waits);
                asking(there(0, Chunks::INIT), own)
            }
            Stage::Waits => asking(there(0, Chunks::INIT), own),
            Stage::Echoed => there(to, Chunks::COOKIE_ECHO),
            Stage::Stands => there(to, Chunks::DATA),
        };
        self.before.push(sent);
    }

    fn other_acts(&mut self) {
        if let Some((_, to)) = self.other {
            self.before.push(back(to, Chunks::HEARTBEAT));
        }
    }

    /// Would its receiver take it?
    fn is_good(&self, segment: &Segment) -> bool {
        let SegmentKind::Sctp(Sctp { tag, chunks, .. }) = segment.kind else { return false };
        let (own, _, stage) = self.opener;
        match segment.key == opener() {
            true if chunks.has(Chunks::INIT) => true,
            // Who asks more often than any end does is not remembered to the first time.
            true if chunks.has(Chunks::COOKIE_ECHO) => {
                self.offered.iter().rev().take(association::OFFERED).any(|known| *known == tag)
            }
            true => self.other.is_some_and(|(own, _)| own == tag),
            false if chunks.has(Chunks::INIT_ACK) => stage == Stage::Waits && tag == own,
            false if chunks.has(Chunks::COOKIE_ACK) => stage == Stage::Echoed && tag == own,
            false => stage == Stage::Stands && tag == own,
        }
    }

    fn receive(&mut self, segment: &Segment) {
        let SegmentKind::Sctp(Sctp { tag, chunks, initiate, .. }) = segment.kind else { return };
        // A cookie is good by itself.
        if !chunks.has(Chunks::COOKIE_ECHO) && !self.is_good(segment) {
            return;
        }
        if chunks.has(Chunks::INIT) {
            let offered = self.tag();
            self.cookies.insert(offered, initiate);
            self.before.push(init_ack(initiate, offered));
        } else if chunks.has(Chunks::INIT_ACK) {
            (self.opener.1, self.opener.2) = (initiate, Stage::Echoed);
            self.opener_acts();
        } else if chunks.has(Chunks::COOKIE_ECHO) {
            let Some(&to) = self.cookies.get(&tag) else { return };
            self.other = Some((tag, to));
            self.before.push(back(to, Chunks::COOKIE_ACK));
        } else if chunks.has(Chunks::COOKIE_ACK) {
            self.opener.2 = Stage::Stands;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever was lost, doubled or overtaken, and however often the opener has come back: what a receiver would take passes.
    #[test]
    fn what_a_receiver_would_take_passes(acts in proptest::collection::vec((0u8..20, any::<u16>()), 1..300)) {
        let (mut world, mut ends) = (World::new(), Ends::default());
        for (act, which) in acts {
            let which = usize::from(which);
            match act {
                0..=3 => ends.opener_acts(),
                4 | 5 => ends.other_acts(),
                // The opener crashes, and has forgotten everything.
                6 if which % 8 == 0 => ends.opener = Default::default(),
                7 if !ends.before.is_empty() => drop(ends.before.swap_remove(which % ends.before.len())),
                8 if !ends.behind.is_empty() => drop(ends.behind.swap_remove(which % ends.behind.len())),
                9 if !ends.before.is_empty() => {
                    let again = ends.before[which % ends.before.len()];
                    ends.before.push(again);
                }
                10..=15 if !ends.before.is_empty() => {
                    // What overtakes is a neighbour.
                    let segment = ends.before.remove(which % ends.before.len().min(2));
                    let good = ends.is_good(&segment);
                    let fate = world.send(&segment);
                    if matches!(fate, Fate::Opened | Fate::Passed(_)) {
                        if let SegmentKind::Sctp(Sctp { chunks: Chunks::INIT_ACK, initiate, .. }) = segment.kind {
                            ends.offered.push(initiate);
                        }
                        ends.behind.push(segment);
                    } else {
                        prop_assert!(!good, "{segment:?}: {fate:?} in {ends:?}");
                    }
                }
                _ if !ends.behind.is_empty() => {
                    let segment = ends.behind.remove(which % ends.behind.len().min(2));
                    ends.receive(&segment);
                }
                _ => {}
            }
        }
    }

    /// What nobody sent does not move an association, by whichever chunks.
    #[test]
    fn a_tag_of_nobody_moves_nothing(
        sent in proptest::collection::vec((any::<bool>(), select((0..16).collect::<Vec<u8>>()), any::<bool>()), 1..20)
    ) {
        let mut world = established();
        for (forth, bit, reflects) in sent {
            let all = [
                Chunks::DATA, Chunks::INIT_ACK, Chunks::SACK, Chunks::HEARTBEAT_ACK, Chunks::ABORT, Chunks::SHUTDOWN,
                Chunks::SHUTDOWN_ACK, Chunks::ERROR, Chunks::COOKIE_ECHO, Chunks::COOKIE_ACK, Chunks::SHUTDOWN_COMPLETE,
                Chunks::OTHER,
            ];
            let chunks = all[usize::from(bit) % all.len()];
            let segment = if forth { there(0xdead, chunks) } else { back(0xdead, chunks) };
            let segment = if reflects { reflecting(segment) } else { segment };
            prop_assert!(matches!(world.send(&segment), Fate::Dropped(_)));
        }
        prop_assert_eq!(world.send(&there(OTHERS, Chunks::DATA)), passed(FlowState::Established));
        prop_assert_eq!(world.send(&back(OPENERS, Chunks::DATA)), passed(FlowState::Established));
    }
}
