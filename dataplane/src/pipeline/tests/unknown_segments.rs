//! TCP segments that are of no connection, where a network says that their senders are told.

use super::{frames::*, net::Net, scene::*};

fn sql(a: u8, b: u8, sport: u16) -> Talk {
    Talk { a, b, sport, dport: 5432 }
}

/// Segments that are of no connection are answered where the network says so, and the rules hide nothing from the sender.
#[test]
fn a_segment_of_no_connection_is_answered_where_its_sender_could_connect() {
    let reset = |net: &mut Net, endpoint: &str, frame: Vec<u8>| {
        let fate = net.send(endpoint, &frame);
        assert_eq!(fate.drops.len(), 1, "{fate}");
        assert_eq!(fate.drops[0].1.name(), "not-syn");
        fate.reached(endpoint)
    };
    let mut net = Net::new(&scene("tcp_unknown = \"reset\""));
    let talk = sql(WEB1, DB1, 1);
    assert!(reset(&mut net, "web1", talk.data(b"late")));
    assert!(reset(&mut net, "web1", talk.fin(0)));
    assert!(reset(&mut net, "web1", sql(WEB1, DB2, 1).data(b"late")));
    // What the sender's rules or the receiver's do not allow, on whichever host those are; a reset; what answers somebody.
    assert!(!reset(&mut net, "web1", Talk { dport: 22, ..talk }.data(b"late")));
    assert!(!reset(&mut net, "web1", sql(WEB1, WEB2, 1).data(b"late")));
    assert!(!reset(&mut net, "db1", talk.answer(b"late")));
    let mut own = talk.data(b"");
    own[47] = eastgate_wire::view::tcp_flags::RST;
    mend(&mut own);
    assert!(!reset(&mut net, "web1", own));
    // Out of the same allowance as rejections
    let told = (0..150).filter(|_| net.send("web1", talk.data(b"late")).reached("web1")).count();
    assert_eq!(told, 97);
    let mut net = Net::new(&scene(""));
    assert!(!reset(&mut net, "web1", talk.data(b"late")));
}

/// A rule that asks for the first packet's flags asks for those of a SYN.
#[test]
fn a_policy_that_hides_a_service_hides_it_from_late_segments() {
    let deny = "[tenant.acme.policy.hide]\napplies_to = \"endpoint:db1\"\n\
                ingress = [{ action = \"deny\", proto = \"tcp\", tcp_flags = \"syn/syn,ack\", from = \"10.1.0.11\" }]\n";
    let mut net = Net::new(&[&scene("tcp_unknown = \"reset\""), deny].concat());
    assert_eq!(net.send("web1", sql(WEB1, DB1, 1).data(b"late")), "not-syn at alpha");
    assert_eq!(net.send("web2", sql(WEB2, DB1, 1).data(b"late")), "web2, not-syn at beta");
}
