//! Machines that forward for others inside their network: each leg of the way is a flow of its own, wherever they run.

use eastgate_wire::DropReason;

use super::{frames::*, net::Net, scene::*};

const CLIENT: u8 = 11;
const SERVER: u8 = 21;
const ROUTER: u8 = 31;
const SECOND: u8 = 32;
const SQL: Talk = Talk { a: CLIENT, b: SERVER, sport: 40000, dport: 5432 };
const PLACES: [&str; 3] = ["alpha", "beta", "gamma"];

/// The client opens, the server takes, routers take and open: nobody may begin anything the other way.
const ROLES: &str = r#"
[tenant.acme.group.client]
egress = [{ proto = "tcp", ports = 5432, to = "any" }, { proto = "udp", ports = 53, to = "any" }, { proto = "icmp", to = "any" }]
[tenant.acme.group.router]
ingress = [{ proto = "tcp", ports = 5432, from = "any" }, { proto = "udp", ports = 53, from = "any" }, { proto = "icmp", from = "any" }]
egress = [{ proto = "tcp", ports = 5432, to = "any" }, { proto = "udp", ports = 53, to = "any" }, { proto = "icmp", to = "any" }]
[tenant.acme.group.server]
ingress = [{ proto = "tcp", ports = 5432, from = "any" }, { proto = "udp", ports = 53, from = "any" }, { proto = "icmp", from = "any" }]
"#;

/// A router names the addresses that it forwards for, since they are other endpoints'.
const FORWARDS: &str = r#"allowed_pairs = [{ address = "10.1.0.11" }, { address = "10.1.0.21" }]"#;

fn placed(keys: &str, [client, router, second, server]: [&str; 4]) -> Net {
    let endpoints = [
        endpoint("acme", "client", client, CLIENT, "client", ""),
        endpoint("acme", "router", router, ROUTER, "router", FORWARDS),
        endpoint("acme", "second", second, SECOND, "router", FORWARDS),
        endpoint("acme", "server", server, SERVER, "server", ""),
    ];
    Net::new(&[HOSTS, &app_network("acme", VNI, keys), ROLES, &endpoints.concat()].concat())
}

fn all_placements() -> impl Iterator<Item = [&'static str; 4]> {
    (0..81).map(|n| [1, 3, 9, 27].map(|place| PLACES[n / place % 3]))
}

/// The stations that a frame passes, by name and number.
type Stops<'s> = &'s [(&'s str, u8)];

/// Sends a frame along these stations, each of which sends on what it got.
fn pass_along(net: &mut Net, frame: &[u8], stops: Stops<'_>, why: &str) {
    for leg in stops.windows(2) {
        let [(sender, a), (receiver, b)] = leg else { unreachable!() };
        let sent = from(to(frame.to_vec(), mac(*b)), mac(*a));
        assert_eq!(net.send(sender, sent), *receiver, "from {sender} to {receiver}: {why}");
    }
}

fn talk_over(net: &mut Net, stops: Stops<'_>, why: &str) {
    let back: Vec<_> = stops.iter().rev().copied().collect();
    for _ in 0..12 {
        pass_along(net, &udp(CLIENT, SERVER, 4000, 53), stops, why);
        pass_along(net, &udp(SERVER, CLIENT, 53, 4000), &back, why);
    }
    pass_along(net, &ping(CLIENT, SERVER, 3), stops, why);
    pass_along(net, &pong(SERVER, CLIENT, 3), &back, why);
    pass_along(net, &SQL.syn(), stops, why);
    pass_along(net, &SQL.syn_ack(), &back, why);
    for _ in 0..9 {
        pass_along(net, &SQL.data(b"select 1"), stops, why);
        pass_along(net, &SQL.answer(b"1"), &back, why);
    }
    // The path is narrow behind the client: the error comes back over the same legs.
    let too_big = icmp_error(SERVER, CLIENT, 3, 4, &SQL.data(b"select 1"));
    pass_along(net, &too_big, &back, why);
}

#[test]
fn a_flow_through_a_router_passes_wherever_the_three_run() {
    for keys in ["", "neighbors = \"proxy\"", "topology = \"hub\"\nhub = \"beta\""] {
        for places in all_placements().filter(|places| places[2] == "alpha") {
            let mut net = placed(keys, places);
            let stops = [("client", CLIENT), ("router", ROUTER), ("server", SERVER)];
            talk_over(&mut net, &stops, &format!("{places:?} {keys}"));
        }
    }
}

#[test]
fn a_flow_through_two_routers_passes_wherever_the_four_run() {
    let stops = [("client", CLIENT), ("router", ROUTER), ("second", SECOND), ("server", SERVER)];
    for places in all_placements() {
        talk_over(&mut placed("", places), &stops, &format!("{places:?}"));
    }
}

#[test]
fn the_same_flow_passes_directly_and_through_a_router_at_once() {
    for places in all_placements().filter(|places| places[2] == "alpha") {
        let mut net = placed("", places);
        let direct = [("client", CLIENT), ("server", SERVER)];
        let routed = [("client", CLIENT), ("router", ROUTER), ("server", SERVER)];
        for stops in [&direct[..], &routed] {
            talk_over(&mut net, stops, &format!("{places:?}"));
        }
        for stops in [&direct[..], &routed] {
            pass_along(&mut net, &udp(CLIENT, SERVER, 4000, 53), stops, "again");
        }
    }
}

#[test]
fn each_leg_is_held_to_the_rules_of_its_own_ends() {
    let asks = udp(CLIENT, SERVER, 4000, 53);
    let answers = udp(SERVER, CLIENT, 53, 4000);
    for places in all_placements().filter(|places| places[2] == "alpha") {
        let mut net = placed("", places);
        let host = |name: &str| {
            let index = ["client", "router", "second", "server"].iter().position(|it| *it == name);
            places[index.unwrap()]
        };
        // What has passed on one leg opens nothing on the other one.
        pass_along(&mut net, &asks, &[("client", CLIENT), ("router", ROUTER)], "opened");
        let back = to(answers.clone(), mac(ROUTER));
        assert_eq!(net.send("server", &back), format!("egress-denied at {}", host("server")).as_str());
        // The server answers on the second leg; the client's leg takes the router's answer alone.
        pass_along(&mut net, &asks, &[("router", ROUTER), ("server", SERVER)], "on");
        pass_along(&mut net, &answers, &[("server", SERVER), ("router", ROUTER)], "answered");
        let direct = format!("egress-denied at {}", host("server"));
        assert_eq!(net.send("server", &answers), direct.as_str(), "past the router");
        pass_along(&mut net, &answers, &[("router", ROUTER), ("client", CLIENT)], "and back");
        // Nor does a second router get what the first one was asked.
        let stolen = from(to(answers.clone(), mac(CLIENT)), mac(SECOND));
        let refused = net.send("second", &stolen);
        assert!(refused.drops.iter().any(|(_, why)| *why == DropReason::EgressDenied), "{refused:?}");
    }
}
