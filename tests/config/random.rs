//! Noise never panics, and what is generated to be good is taken.

use eastgate_config::load_str;
use proptest::prelude::*;

const GOOD: &str = include_str!("../../configs/two-tenants.toml");
const POLICIES: &str = include_str!("../../configs/policies.toml");

/// One change to a text.
#[derive(Clone, Debug)]
enum Noise {
    Byte(prop::sample::Index, char),
    Cut(prop::sample::Index, usize),
    Repeat(prop::sample::Index, usize),
    Word(prop::sample::Index, &'static str),
}

/// Words of the format, which get further than random characters do.
const WORDS: [&str; 30] = [
    "[",
    "]",
    "[[",
    "{",
    "}",
    "\"",
    "\"\"\"",
    "=",
    ",",
    ".",
    "\n",
    "#",
    "0x",
    "-1",
    "1e9",
    "18446744073709551616",
    "tenant.acme",
    "group:",
    "group:acme/",
    "set:",
    "tenant:",
    "policy.hardening",
    "except = [\"0.0.0.0/0\"]",
    "syn/",
    "vni = 5001\n",
    "\"10.1.0.0/33\"",
    "1979-05-27",
    "true",
    "\u{fffd}",
    "\u{0}",
];

fn noise() -> impl Strategy<Value = Noise> {
    let at = || any::<prop::sample::Index>();
    prop_oneof![
        (at(), any::<char>()).prop_map(|(at, c)| Noise::Byte(at, c)),
        (at(), 0usize..60).prop_map(|(at, len)| Noise::Cut(at, len)),
        (at(), 0usize..60).prop_map(|(at, len)| Noise::Repeat(at, len)),
        (at(), 0usize..WORDS.len()).prop_map(|(at, word)| Noise::Word(at, WORDS[word])),
    ]
}

fn spoil(text: &mut String, noise: &Noise) {
    let boundary = |text: &str, at: usize| text.floor_char_boundary(at);
    match noise {
        Noise::Byte(at, c) => {
            let at = boundary(text, at.index(text.len() + 1));
            text.insert(at, *c);
        }
        Noise::Word(at, word) => {
            let at = boundary(text, at.index(text.len() + 1));
            text.insert_str(at, word);
        }
        Noise::Cut(at, len) | Noise::Repeat(at, len) => {
            let start = boundary(text, at.index(text.len() + 1));
            let end = boundary(text, (start + len).min(text.len()));
            if matches!(noise, Noise::Cut(..)) {
                text.replace_range(start..end, "");
            } else {
                let part = text[start..end].to_owned();
                text.insert_str(start, &part);
            }
        }
    }
}

/// A good configuration: some hosts, and tenants with networks of `endpoints` stations each.
fn generated() -> impl Strategy<Value = (String, usize, usize)> {
    (1usize..5, 1usize..5, 1usize..4, 0usize..12, any::<bool>()).prop_map(|(hosts, tenants, networks, endpoints, v6)| {
        let mut text = String::new();
        for host in 0..hosts {
            let vtep = if v6 { format!("2001:db8::{}", host + 1) } else { format!("172.31.0.{}", host + 1) };
            text.push_str(&format!("[host.h{host}]\nvtep = \"{vtep}\"\ndevice = \"eth0\"\n"));
        }
        for tenant in 0..tenants {
            text.push_str(&format!("[tenant.t{tenant}.group.g]\negress = [{{ to = \"group:g\" }}]\n"));
            for network in 0..networks {
                let vni = tenant * networks + network;
                text.push_str(&format!(
                    "[tenant.t{tenant}.network.n{network}]\nvni = {vni}\nsubnets = [\"10.{network}.0.0/24\"]\nhosts = [\"h0\"]\n"
                ));
                for endpoint in 0..endpoints {
                    let host = endpoint % hosts;
                    text.push_str(&format!(
                        "[tenant.t{tenant}.endpoint.e{network}-{endpoint}]\nnetwork = \"n{network}\"\nhost = \"h{host}\"\n\
                         port = \"p{tenant}-{network}-{endpoint}\"\nmac = \"02:00:00:00:00:{endpoint:02x}\"\n\
                         addresses = [\"10.{network}.0.{}\"]\ngroups = [\"g\"]\n",
                        endpoint + 1
                    ));
                }
            }
        }
        (text, tenants * networks, tenants * networks * endpoints)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn noise_never_panics(changes in proptest::collection::vec(noise(), 1..12), policies in any::<bool>()) {
        let mut text = if policies { POLICIES } else { GOOD }.to_owned();
        for change in &changes {
            spoil(&mut text, change);
        }
        let outcome = load_str("noise.toml", &text);
        prop_assert!(outcome.is_err() || toml::from_str::<toml::Table>(&text).is_ok(), "taken, and not TOML");
        if let Err(found) = outcome {
            prop_assert!(found.has_errors());
            prop_assert!(!found.render(false).is_empty() && !found.render(true).is_empty());
            prop_assert!(serde_json::to_string(&found).is_ok());
        }
    }

    #[test]
    fn random_text_never_panics(text in "\\PC{0,200}") {
        let _ = load_str("noise.toml", &text).map_err(|found| found.render(false));
    }

    #[test]
    fn truncation_never_panics(at in any::<prop::sample::Index>()) {
        let at = GOOD.floor_char_boundary(at.index(GOOD.len()));
        let _ = load_str("noise.toml", &GOOD[..at]).map_err(|found| found.render(false));
    }

    #[test]
    fn what_is_generated_to_be_good_is_taken((text, networks, endpoints) in generated()) {
        let config = load_str("generated.toml", &text).map_err(|found| TestCaseError::fail(found.render(false)))?;
        prop_assert_eq!(config.networks().count(), networks);
        prop_assert_eq!(config.networks().map(|(_, network)| network.endpoints.len()).sum::<usize>(), endpoints);
        for (_, network) in config.networks() {
            for endpoint in network.endpoints.iter() {
                prop_assert_eq!(network.endpoint(&endpoint.name).unwrap().mac, endpoint.mac);
                prop_assert!(network.is_member(&endpoint.host.host));
                prop_assert!(network.subnet_of(endpoint.addresses[0]).is_some());
            }
        }
    }
}
