#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use eastgate_testkit::frames;
use serde_json::json;

use super::*;

const MAC: [MacAddr; 2] = [MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2])];

fn placed(name: &str, vlan: Option<u16>, is_shared: bool, mac: MacAddr) -> Placed {
    let row = json!({
        "vni": 5001, "endpoint": format!("acme/{name}"), "network": "acme/lan", "host": "alpha", "port": "eth1", "mac": mac,
        "addresses": ["10.1.0.1"], "groups": [], "userspace": null, "tx_frames": 0, "rx_frames": 0,
    });
    Placed { row: serde_json::from_value(row).unwrap(), vlan: vlan.and_then(VlanId::new_checked), is_shared }
}

/// From the first to the second, with a tag or none
fn frame(outgoing: bool, vlan: Option<u16>) -> Captured {
    let [from, to] = MAC.map(|mac| mac.0);
    let tag = vlan.map(|vlan| [[0x81, 0], vlan.to_be_bytes()].concat()).unwrap_or_default();
    let bytes = [&to[..], &from, &tag, &[0x08, 0x06], &[0; 46]].concat();
    Captured { at: Duration::ZERO, outgoing, bytes }
}

#[test]
fn a_frame_is_of_the_endpoint_that_its_tag_and_mac_say() {
    let name =
        |endpoints: &[Placed], frame: &Captured| of_port(endpoints, frame).map(|it| it.row.endpoint.clone());
    let access = [placed("one", None, false, MAC[1])];
    assert_eq!(name(&access, &frame(false, None)).as_deref(), Some("acme/one"), "whatever MAC it takes");
    assert_eq!(name(&access, &frame(false, Some(9))).as_deref(), Some("acme/one"), "whatever tag it takes");

    let trunk = [
        placed("one", Some(101), false, MAC[0]),
        placed("two", Some(102), false, MAC[1]),
        placed("bare", None, false, MAC[0]),
    ];
    assert_eq!(name(&trunk, &frame(false, Some(102))).as_deref(), Some("acme/two"));
    assert_eq!(
        name(&trunk, &frame(true, Some(0x2000 | 101))).as_deref(),
        Some("acme/one"),
        "of any priority"
    );
    assert_eq!(name(&trunk, &frame(false, None)).as_deref(), Some("acme/bare"));
    assert_eq!(name(&trunk, &frame(false, Some(103))), None);
    let mut of_provider = frame(false, Some(101));
    of_provider.bytes[12..14].copy_from_slice(&[0x88, 0xa8]);
    assert_eq!(name(&trunk, &of_provider), None);

    let shared = [placed("one", Some(7), true, MAC[0]), placed("two", Some(7), true, MAC[1])];
    assert_eq!(name(&shared, &frame(false, Some(7))).as_deref(), Some("acme/one"), "who sends");
    assert_eq!(name(&shared, &frame(true, Some(7))).as_deref(), Some("acme/two"), "who is to receive");
    assert_eq!(name(&shared, &frame(false, None)), None);
}

#[test]
fn what_is_wanted_is_in_the_frame() {
    let frame = frames::udp(1, 2, 4000, 53);
    let address = |last: u8| IpAddr::from([10, 1, 0, last]);
    let fits = |address, port, proto, mac| matches(&frame, address, port, proto, mac);
    assert!(fits(None, None, None, None) && fits(Some(address(2)), Some(53), Some(17), None));
    assert!(!fits(Some(address(3)), None, None, None) && !fits(None, Some(54), None, None));
    assert!(!fits(None, None, Some(6), None) && !fits(None, None, None, Some(MacAddr([9; 6]))));
    assert!(!matches(&[0; 9], None, Some(1), None, None));
    assert!(in_words(&frame).starts_with("udp 10.1.0.1:4000 -> 10.1.0.2:53"), "{}", in_words(&frame));
}

#[test]
fn only_vxlan_of_this_site_is_in_the_tunnel() {
    let inner = frames::udp(1, 2, 4000, 53);
    let vni = Vni::new_checked(5001).unwrap();
    let payload = [&header::encode(vni)[..], &inner].concat();
    let builder = etherparse::PacketBuilder::ethernet2(MAC[0].0, MAC[1].0);
    let bytes = frames::udp_of(builder.ipv4([192, 0, 2, 1], [192, 0, 2, 2], 64), 50_000, 4789, &payload);
    let captured = |bytes: &[u8], outgoing| Captured { at: Duration::ZERO, outgoing, bytes: bytes.to_vec() };
    let (here, other) = (IpAddr::from([192, 0, 2, 2]), IpAddr::from([192, 0, 2, 3]));
    let found = in_tunnel(&captured(&bytes, false), 4789, here).unwrap();
    assert_eq!((found.vni, &bytes[found.inner..]), (Some(vni), &inner[..]));
    assert_eq!(found.from, IpAddr::from([192, 0, 2, 1]));
    assert_eq!(in_tunnel(&captured(&bytes, false), 8472, here), None);
    assert_eq!(in_tunnel(&captured(&bytes, false), 4789, other), None, "it is for another host");
    assert!(in_tunnel(&captured(&bytes, true), 4789, other).is_some(), "this host sends it");
    assert_eq!(in_tunnel(&captured(&inner, true), 53, here), None, "too short for a header");
    for len in 0..bytes.len().min(60) {
        assert_eq!(in_tunnel(&captured(&bytes[..len], true), 4789, here), None);
    }
}
