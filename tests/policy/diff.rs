//! What two versions of a configuration treat differently.

use serde_json::{Value, json};

use super::{Folder, SITE, changed};

#[test]
fn a_difference_is_told_with_an_example_and_both_rules() {
    let folder = Folder::new("diff");
    folder.file("old.toml", SITE);
    // Another order, and the same in other words: nothing is treated differently.
    let other_words = changed(&[
        ("{ proto = \"icmp\", from = \"10.1.0.0/24\" },\n", ""),
        (
            "ingress = [\n",
            "ingress = [\n  { proto = \"icmp\", from = [\"10.1.0.0/25\", \"10.1.0.128/25\"] },\n",
        ),
    ]);
    folder.file("same.toml", &other_words);
    let (code, text, _) = folder.run(&["policy", "diff", "old.toml", "same.toml"]);
    assert_eq!((code, text.as_str()), (0, "no difference\n"));

    let new = changed(&[
        ("ports = 443", "ports = [443, 80]"),
        ("  { proto = \"tcp\", ports = 5432, from = \"group:web\" },\n", ""),
        ("mac = \"02:00:00:00:02:01\"", "port_security = false\nmac = \"02:00:00:00:02:01\""),
        ("tenant.acme.endpoint.web2", "tenant.acme.endpoint.web3"),
    ]);
    folder.file("new.toml", &new);
    let (code, found) = folder.json(&["policy", "diff", "old.toml", "new.toml"]);
    assert_eq!(code, 1);
    let row = |direction: &str, service: &str| {
        let all = found["traffic"].as_array().unwrap();
        all.iter()
            .find(|row| row["direction"] == direction && row["services"] == json!([service]))
            .unwrap_or_else(|| panic!("no row of {direction} {service}: {found:#}"))
    };
    let closed = row("ingress", "tcp 5432");
    assert_eq!(closed["endpoints"], json!(["acme/db1"]));
    assert_eq!(closed["before"]["rule"], "acme/db ingress #1");
    assert_eq!((&closed["after"]["action"], &closed["after"]["rule"]), (&json!("deny"), &Value::Null));
    let peers = closed["peers"].as_array().unwrap();
    assert!(peers.contains(&json!("10.1.0.11 (acme/web1)")), "{peers:?}");
    assert_eq!(closed["example"], "tcp 10.1.0.11:40000 -> 10.1.0.21:5432");
    let open = row("ingress", "tcp 80");
    assert_eq!((&open["endpoints"], &open["peers"]), (&json!(["acme/web1"]), &json!(["any"])));
    assert_eq!(open["after"]["at"], "new.toml:11:12");
    let settings: Vec<(&str, &str)> = found["settings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| (it["of"].as_str().unwrap(), it["key"].as_str().unwrap()))
        .collect();
    assert_eq!(
        settings,
        [("acme/db1", "port_security"), ("acme/web2", "endpoint"), ("acme/web3", "endpoint")],
        "{found:#}"
    );
    // web2 went, and web3 came: what either is let in is a difference.
    let of = |name: &str, key: &str| {
        found["traffic"]
            .as_array()
            .unwrap()
            .iter()
            .any(|row| row["endpoints"] == json!([name]) && row[key].is_null())
    };
    assert!(of("acme/web2", "after") && of("acme/web3", "before"), "{found:#}");
    let (code, text, _) = folder.run(&["policy", "diff", "old.toml", "new.toml"]);
    assert!(code == 1 && text.contains("  before   allow by acme/db ingress #1 (old.toml:16:3)\n"), "{text}");
    assert!(text.contains("acme/db1 port_security: true -> false\n"), "{text}");

    folder.file("broken.toml", "[host.alpha]\n");
    let (code, _, error) = folder.run(&["policy", "diff", "old.toml", "broken.toml"]);
    assert!(code == 3 && error.contains("broken.toml:1:7"), "{code} {error}");
}

/// What a rule grants each source, in numbers.
#[test]
fn limits_of_rules_are_compared_and_told() {
    let folder = Folder::new("diff-limits");
    let limited = |limits: &str| {
        let rule = "{ proto = \"tcp\", ports = 5432, from = \"group:web\"";
        changed(&[(&format!("{rule} }}"), &format!("{rule}, {limits} }}"))])
    };
    let old = limited(
        "connections = 20, new_connections = { per_second = 10, burst = 30 }, per_prefix = { ipv4 = 24 }",
    );
    folder.file("old.toml", &old);
    folder.file("none.toml", SITE);
    for (file, limits, after) in [
        (
            "fewer.toml",
            "connections = 2, new_connections = { per_second = 10, burst = 30 }, per_prefix = { ipv4 = 24 }",
            "each /24 or IPv6 /128: 2 connections, 10 new a second, 30 at once",
        ),
        (
            "slower.toml",
            "connections = 20, new_connections = { per_second = 9, burst = 30 }, per_prefix = { ipv4 = 24 }",
            "each /24 or IPv6 /128: 20 connections, 9 new a second, 30 at once",
        ),
        (
            "finer.toml",
            "connections = 20, new_connections = { per_second = 10, burst = 30 }",
            "each source: 20 connections, 10 new a second, 30 at once",
        ),
        (
            "alone.toml",
            "connections = 20, per_prefix = { ipv4 = 24 }",
            "each /24 or IPv6 /128: 20 connections",
        ),
    ] {
        folder.file(file, &limited(limits));
        let (code, found) = folder.json(&["policy", "diff", "old.toml", file]);
        let rows = found["traffic"].as_array().unwrap();
        assert_eq!((code, rows.len()), (1, 1), "{file}: {found:#}");
        assert_eq!(rows[0]["services"], json!(["tcp 5432"]), "{file}");
        assert_eq!(
            rows[0]["before"]["limits"],
            "each /24 or IPv6 /128: 20 connections, 10 new a second, 30 at once"
        );
        assert_eq!(rows[0]["after"]["limits"], after, "{file}");
        assert_eq!(rows[0]["before"]["action"], rows[0]["after"]["action"]);
    }
    let (_, text, _) = folder.run(&["policy", "diff", "old.toml", "alone.toml"]);
    assert!(
        text.contains("after    allow (each /24 or IPv6 /128: 20 connections) by acme/db ingress #1"),
        "{text}"
    );
    // Another rule that grants the same is no difference; none at all is one.
    folder.file(
        "moved.toml",
        &old.replace("ingress = [\n", "ingress = [\n  { proto = \"icmp\", from = \"10.1.0.0/24\" },\n"),
    );
    let (code, text, _) = folder.run(&["policy", "diff", "old.toml", "moved.toml"]);
    assert_eq!((code, text.as_str()), (0, "no difference\n"));
    let (code, found) = folder.json(&["policy", "diff", "old.toml", "none.toml"]);
    assert_eq!((code, &found["traffic"][0]["after"]["limits"]), (1, &Value::Null), "{found:#}");
}

/// Whatever is said of the site, a host, a network or an endpoint and decides what passes, and is no rule.
#[test]
fn settings_beside_the_rules_are_compared() {
    let folder = Folder::new("diff-settings");
    let site = format!("{SITE}[host.beta]\nvtep = \"172.31.0.2\"\ndevice = \"eth0\"\n");
    folder.file("old.toml", &site);
    let network = "vni = 5001\n";
    let endpoint = "mac = \"02:00:00:00:02:01\"\n";
    let host = "vtep = \"172.31.0.1\"\n";
    let top = "\n[host.alpha]";
    let cases = [
        (top, "underlay_access = [\"acme/web1\"]", "site", "underlay_access", "", "acme/web1"),
        (top, "limits.flows = 1000", "site", "limits", "", ""),
        (top, "overlay.port = 4790", "overlay", "port", "4789", "4790"),
        (host, "management = [\"192.0.2.0/24\"]", "host alpha", "management", "[]", "[192.0.2.0/24]"),
        (network, "learning = true", "acme/app", "learning", "false", "true"),
        (network, "mss_clamp = true", "acme/app", "mss_clamp", "false", "true"),
        (network, "mac_limit = 7", "acme/app", "mac_limit", "", "7"),
        (network, "bum_limit = 7", "acme/app", "bum_limit", "", "7"),
        (network, "slow_path_limit = 7", "acme/app", "slow_path_limit", "", "7"),
        (network, "hosts = [\"beta\"]", "acme/app", "hosts", "alpha", "alpha, beta"),
        (network, "mtu = 1400", "acme/app", "mtu", "none", "1400"),
        (network, "topology = \"hub\"\nhub = \"alpha\"", "acme/app", "hub", "none", "alpha"),
        (network, "timeouts.tcp_syn = 7", "acme/app", "timeouts", "", ""),
        (network, "tcp = \"loose\"", "acme/app", "tcp", "strict", "loose"),
        (endpoint, "routes = [\"10.9.0.0/16\"]", "acme/db1", "routes", "[]", "[10.9.0.0/16]"),
        (endpoint, "ethertypes = [\"ptp\", 0x88b5]", "acme/db1", "ethertypes", "[]", "[0x88b5, ptp]"),
        (endpoint, "limits.flows = 1000", "acme/db1", "limits", "", ""),
    ];
    for (beside, line, of, key, before, after) in cases {
        let new = match beside {
            "\n[host.alpha]" => format!("{line}\n{site}"),
            beside => site.replacen(beside, &format!("{beside}{line}\n"), 1),
        };
        folder.file("new.toml", &new);
        let (code, found) = folder.json(&["policy", "diff", "old.toml", "new.toml"]);
        assert_eq!(code, 1, "{line}: {found:#}");
        let all = found["settings"].as_array().unwrap();
        let told = all.iter().find(|it| it["of"] == of && it["key"] == key);
        let told = told.unwrap_or_else(|| panic!("{line}: {found:#}"));
        for (side, text) in [("before", before), ("after", after)] {
            let said = told[side].as_str().unwrap();
            assert!(text.is_empty() || said == text, "{line}: {side} {said}");
        }
        assert_eq!(found["traffic"], json!([]), "{line}: {found:#}");
    }
    let moved = site
        .replace("host = \"alpha\"\nport = \"veth-db1\"", "host = \"beta\"\nport = \"veth-db9\"")
        .replace("addresses = [\"10.1.0.12\"]", "learn = \"nd\"");
    folder.file("new.toml", &moved);
    let (_, text, _) = folder.run(&["policy", "diff", "old.toml", "new.toml"]);
    for line in [
        "acme/db1 host: alpha -> beta\n",
        "acme/db1 port: veth-db1 -> veth-db9\n",
        "acme/web2 learn: none -> nd, 10 at most, for 86400s, in [10.1.0.0/24, fd00:1::/64]\n",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
}
