//! What is read in parts says what it says as a whole.

use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;
use crate::{
    check::{self, FileContent},
    loader::load_str,
    problem::Severity,
};

fn endpoint(tenant: &str, name: &str, number: usize) -> String {
    let pair = if number.is_multiple_of(3) {
        format!(
            "[[tenant.{tenant}.endpoint.{name}.allowed_pairs]]\naddress = \"10.1.9.{}/32\"\n",
            number % 250
        )
    } else {
        String::new()
    };
    let (web, values) = match number % 5 {
        0 => (", \"web\"", "variables = { PORTS = [81, 82] }\n"),
        1 => (", \"web\"", ""),
        _ => ("", ""),
    };
    format!(
        "[tenant.{tenant}.endpoint.{name}]\nnetwork = \"lan\"\nhost = \"a\"\nport = \"{tenant}-{name}\"\n\
         mac = \"02:00:00:00:{:02x}:{:02x}\"\naddresses = [\n  \"10.1.{}.{}\", # ü\n]\ngroups = [\"all\"{web}]\n{values}{pair}",
        number / 256,
        number % 256,
        1 + number / 200,
        1 + number % 200
    )
}

fn group(tenant: &str, name: &str) -> String {
    format!("[[tenant.{tenant}.group.{name}.ingress]]\nfrom = \"any\"\n\n").replacen(
        "[[",
        &format!("[tenant.{tenant}.group.{name}]\n[["),
        1,
    )
}

fn policy(action: &str) -> String {
    format!(
        "[tenant.acme.policy.p]\napplies_to = \"tenant\"\n[[tenant.acme.policy.p.ingress]]\naction = \"{action}\"\n\
         from = {{ prefix = \"10.0.0.0/8\", except = [\"10.1.0.0/16\"] }}\n"
    )
}

fn base() -> String {
    let mut text = "[host.a]\nvtep = \"192.0.2.1\"\ndevice = \"e\"\n".to_owned();
    for (vni, tenant) in (1..).zip(["acme", "beta"]) {
        let _ = write!(text, "[tenant.{tenant}.network.lan]\nvni = {vni}\nsubnets = [\"10.1.0.0/16\"]\n");
        text += &group(tenant, "all");
        let _ = write!(
            text,
            "[tenant.{tenant}.group.web]\nvariables = {{ PORTS = [80] }}\ninclude = [\"all\"]\n\
             [[tenant.{tenant}.group.web.ingress]]\nproto = \"tcp\"\nports = \"$PORTS\"\nfrom = \"any\"\n"
        );
        (0..120).for_each(|number| text += &endpoint(tenant, &format!("vm{number:03}"), number));
    }
    // Apart from what they are of, before it and behind it
    let limits = |tenant: &str| format!("[tenant.{tenant}.network.lan.limits]\nflows = 5000\n");
    text = format!("{}{text}{}", limits("acme"), limits("beta"));
    assert!(text.len() > WORTH_IT);
    text
}

fn read(text: &str, known: Option<&FileContent>) -> FileContent {
    check::file(Source::new("a.toml", text), false, known)
}

/// The new text, whether it was read in parts, and whether a table is the one that was read before. It says what it says without
/// anything known, and what it says as a whole.
fn is_read_in_parts(old: &str, new: &str) -> bool {
    let known = read(old, None);
    let source = Source::new("a.toml", new);
    let [again, first] = [Some(&known), None].map(|known| read(new, known));
    let whole = check::whole_file(source.clone(), false, None);
    let [again, first, whole] = [again, first, whole].map(|content| said(&content));
    similar(&again, &first);
    similar(&first, &whole);
    Parts::read(&source, false, None).is_some()
}

#[track_caller]
fn similar(a: &str, b: &str) {
    let same = a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
    let shown = |text: &str| text.chars().skip(same.saturating_sub(200)).take(400).collect::<String>();
    assert!(a == b, "one is\n{}\nthe other is\n{}", shown(a), shown(b));
}

/// Everything that a file says and where, and nothing of how it was read.
fn said(content: &FileContent) -> String {
    let FileContent { source: _, include, overlay, limits, kernel_tables, site, .. } = content;
    let FileContent { site_names, quotas, hosts, tenants, found, whole, .. } = content;
    format!(
        "{include:?} {overlay:?} {limits:?} {kernel_tables:?} {site:?} {site_names:?} {quotas:?} {hosts:?} {tenants:?} {found:?} \
         {whole:?}"
    )
}

#[test]
fn what_is_usual_is_read_in_parts() {
    let base = base();
    let one = endpoint("acme", "vm050", 50);
    let all = group("acme", "all");
    let pair = "[[tenant.acme.endpoint.vm001.allowed_pairs]]\naddress = \"10.1.9.9/32\"\n";
    for (what, new) in [
        ("one comes at the end", format!("{base}{}", endpoint("acme", "new", 130))),
        ("one comes between", base.replace(&one, &format!("{one}{}", endpoint("acme", "new", 130)))),
        ("one goes", base.replace(&one, "")),
        ("the last goes", base.replace(&endpoint("beta", "vm119", 119), "")),
        (
            "one moves",
            base.replace(&one, "")
                .replace(&endpoint("acme", "vm060", 60), &format!("{}{one}", endpoint("acme", "vm060", 60))),
        ),
        ("a name", base.replace(&one, &one.replace("vm050", "vm50"))),
        ("a rule", base.replace(&all, &all.replace("\"any\"", "\"10.1.0.0/16\""))),
        ("a rule comes", base.replace(&all, &all.replace("\n\n", "\nproto = \"tcp\"\n"))),
        ("a group comes", base.replace(&all, &format!("{all}{}", group("acme", "db")))),
        ("a variable's value", base.replacen("PORTS = [81, 82]", "PORTS = [83]", 1)),
        ("values of a group", base.replace("PORTS = [80]", "PORTS = [81]")),
        ("a policy comes", base.replace(&one, &format!("{one}{}", policy("pass")))),
        (
            "a set comes",
            base.replace(&one, &format!("{one}[tenant.acme.set.s]\naddresses = [\"10.9.0.0/16\"]\n")),
        ),
        ("a comment", base.replace(&one, &format!("# one\n{one}"))),
        ("nothing", base.clone()),
        ("another tenant's first", base.replace(&one, &endpoint("gamma", "vm1", 3))),
        (
            "a table of its own",
            base.replace(&one, &format!("{one}[host.b]\nvtep = \"192.0.2.2\"\ndevice = \"e\"\n")),
        ),
        (
            "a policy of the site",
            base.replace(
                &one,
                &format!(
                    "{one}{}",
                    policy("pass").replace("tenant.acme.", "").replace("\"tenant\"", "\"site\"")
                ),
            ),
        ),
        ("a part of another", base.replace(&one, &format!("{one}{pair}"))),
        (
            "a part of what nobody writes otherwise",
            base.replace(
                &one,
                &format!("{one}[[tenant.acme.policy.p.egress]]\naction = \"deny\"\nto = \"any\"\n"),
            ),
        ),
        ("a part of one before it", base.replace(&one, "").replacen("[host", &format!("{pair}[host"), 1)),
        ("everywhere", base.replace("ü", "u")),
        ("a host comes behind all", format!("{base}[host.b]\nvtep = \"192.0.2.2\"\ndevice = \"e\"\n")),
        ("a mode comes between", base.replace(&one, &format!("[tenant.acme]\nmode = \"audit\"\n{one}"))),
        ("a tenant comes first", format!("[tenant.acme]\n{base}")),
    ] {
        assert!(is_read_in_parts(&base, &new), "{what}");
    }
}

#[test]
fn what_only_the_whole_tells_is_read_whole() {
    let base = base();
    let one = endpoint("acme", "vm050", 50);
    for (what, change) in [
        ("there already", one.replace("vm050", "vm060")),
        ("no header", format!("x = 1\n{one}")),
        ("an open list", one.replace("]\ngroups", "groups")),
        ("an open string", one.replace("\"lan\"", "\"\"\"lan")),
        ("another spelling", one.replace("[tenant.acme.endpoint.vm050]", "[tenant.acme.endpoint.\"vm050\"]")),
        ("another table", format!("{one}[ tenant . acme ]\ndescription = \"x\"\n")),
        ("nothing of it", "[tenant.acme.endpoint.vm050]\n".to_owned()),
        ("an unknown key", one.replace("port =", "prot =")),
    ] {
        assert!(!is_read_in_parts(&base, &base.replace(&one, &change)), "{what}");
    }
}

/// What looks like a table in a string of the change is one when the string is closed before it.
#[test]
fn a_string_that_goes_on_behind_the_change_is_read_whole() {
    let base = base();
    let one = endpoint("acme", "vm050", 50);
    let string = |quotes: &str| {
        let policy = |name: &str| {
            format!(
                "[tenant.acme.policy.{name}]\napplies_to = \"tenant\"\ningress = [{{ action = \"deny\", from = \"any\" }}]\n"
            )
        };
        let text = format!("{}description = {quotes}\n{}# \"\"\"\n", policy("p"), policy("hidden"));
        base.replace(&one, &format!("{text}{one}"))
    };
    assert!(!is_read_in_parts(&string("\"\""), &string("\"\"\"")));
    assert!(is_read_in_parts(&string("\"\"\""), &string("\"\"")));
    // The same with a table that stands elsewhere than what it is of
    let apart = |inside: &str| {
        let group = |name: &str| format!("[tenant.acme.group.{name}]\ningress = [{{ from = \"any\" }}]\n");
        let text =
            format!("{}description = \"\"\"\n{inside}[[tenant.acme.group.g.egress]]\n# \"\"\"\n", group("g"));
        base.replace(&one, &format!("{}{one}", text.replace("H", &group("h"))))
    };
    assert!(!is_read_in_parts(&apart(""), &apart("H")));
}

/// Where only one part is another, no other one is cut out again; and only there.
#[test]
fn a_change_inside_one_part_is_seen_as_that() {
    let base = base();
    let known = Parts::read(&Source::new("a.toml", &base), false, None).unwrap();
    let (one, all) = (endpoint("acme", "vm050", 50), group("acme", "all"));
    for (is_inside, new) in [
        (true, base.replace(&one, &one.replace("10.1.1", "10.1.3"))),
        (true, base.replace(&one, &format!("{one}# one more line\n"))),
        (true, base.replace(&all, &all.replace("\"any\"", "\"10.1.0.0/16\""))),
        (true, base.replacen("# ü", "# u", 1)),
        (false, base.replace(&one, &one.replace("vm050", "vm50"))),
        (false, base.replace(&one, "")),
        (false, base.replace(&one, &format!("{one}{}", endpoint("acme", "new", 130)))),
        (false, base.replace(&one, &format!("{one}[tenant.acme]\nmode = \"audit\"\n"))),
        (false, base.replace("# ü", "# u")),
        // In one that is in two pieces
        (false, base.replacen("flows = 5000", "flows = 6000", 1)),
    ] {
        assert_ne!(new, base);
        let changed = known.with_change(&Source::new("a.toml", &new), false);
        assert_eq!(changed.is_some(), is_inside, "{new}");
        assert_eq!(said(&read(&new, Some(&read(&base, None)))), said(&read(&new, None)));
    }
}

/// Two groups name something of another tenant at the same place of their parts; one of them may not.
#[test]
fn what_each_part_names_elsewhere_is_asked_about() {
    let naming = |group: &str, of: &str| {
        format!(
            "[tenant.acme.group.{group}]\ningress = [{{ proto = \"tcp\", ports = 80, from = \"group:beta/{of}\" }}]\n"
        )
    };
    let shared = "[tenant.beta.group.one]\nshared_with = [\"acme\"]\n[tenant.beta.group.two]\n";
    let text = |of: &str| format!("{}{shared}{}{}", base(), naming("aa", "one"), naming("ab", of));
    assert!(load_str("a.toml", &text("one")).is_ok());
    for (of, code) in [("two", "not-shared"), ("six", "unknown-name")] {
        let found = load_str("a.toml", &text(of)).unwrap_err();
        let errors: Vec<_> = found.iter().filter(|it| it.problem.severity() == Severity::Error).collect();
        assert!(errors.len() == 1 && errors[0].problem.code() == code, "{found:?}");
        assert_eq!(errors[0].at.text(), format!("\"group:beta/{of}\""));
    }
}

/// Tables that belong to another are where they are, whichever way they stood before.
#[test]
fn a_part_that_is_cut_otherwise_is_where_it_is() {
    let base = base();
    // Rules say where they are.
    let rule = |port: u16| {
        format!("[[tenant.acme.group.web.egress]]\nproto = \"tcp\"\nports = {port}\nto = \"any\"\n")
    };
    let [first, second] = [rule(1), format!("{}# 1\n# 2\n", rule(2))];
    let network = "[tenant.beta.network.lan]\n";
    let behind = |what: &str| base.replace(network, &format!("{what}{network}"));
    let all = [
        behind(&format!("{first}{second}")),
        format!("{}{second}", behind(&first)),
        format!("{base}{first}{second}"),
        format!("{first}{base}{second}"),
        behind(&format!("{}{first}{second}", endpoint("acme", "new", 130))),
    ];
    for (old, new) in all.iter().flat_map(|old| all.iter().map(move |new| (old, new))) {
        assert!(is_read_in_parts(old, new));
    }
}

/// The rules of a group that is as it was are wrong once what they name has gone, and right once it is there.
#[test]
fn what_rules_name_may_come_and_go() {
    let set = "[tenant.acme.set.some]\naddresses = [\"10.9.0.1\"]\n";
    let last = group("acme", "zebra");
    let naming = "[tenant.acme.group.naming]\ningress = [{ from = \"group:zebra\" }, { from = \"set:some\" }]\n\
         [tenant.acme.group.twice]\ningress = [{ from = \"any\" }, { from = \"any\" }]\nadmit_members = true\n";
    let both = format!("{}{naming}{set}{last}", base());
    for (what, other) in [
        ("the set", both.replace(set, "")),
        ("the group", both.replace(&last, "")),
        ("both", both.replace(set, "").replace(&last, "")),
        ("neither, and another rule", both.replace("{ from = \"set:some\" }", "{ from = \"10.0.0.0/8\" }")),
    ] {
        let errors = |text: &str| read(text, Some(&read(&both, None))).found.count();
        assert_eq!(errors(&other) > errors(&both), !what.starts_with("neither"), "{what}");
        assert!(is_read_in_parts(&both, &other), "{what} goes");
        assert!(is_read_in_parts(&other, &both), "{what} comes");
    }
}

/// More is wrong than is told: what was not told is wrong all the same when the rest is mended.
#[test]
fn what_was_not_told_is_not_taken_for_right() {
    let base = base();
    let wrong = base.replace("groups = [\"all\"", "groups = [\"al\"");
    let half = wrong.replacen("groups = [\"al\"", "groups = [\"all\"", 101);
    let known = read(&wrong, None);
    let again = read(&half, Some(&known));
    assert!(again.found.has_errors());
    assert_eq!(said(&again), said(&read(&half, None)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Cut, doubled and broken anywhere, twice in a row.
    #[test]
    fn a_text_is_read_as_it_is_without_anything_known(edits in proptest::collection::vec(
        (0usize..42_000, 0usize..400, 0usize..8, 0usize..42_000), 1..4))
    {
        let mut known = read(&base(), None);
        for (at, len, what, from) in edits {
            let old = known.source.text().to_owned();
            let boundary = |at: usize| old.floor_char_boundary(at.min(old.len()));
            let line = |at: usize| old[..boundary(at)].rfind("\n[").map_or(0, |newline| newline + 1);
            let piece = &old[line(from)..line(from + len).max(line(from))];
            let (start, end, put) = match what {
                0 => (boundary(at), boundary(at + len % 20), ""),
                1 => (line(at), line(at + len), ""),
                2 => (line(at), line(at), piece),
                3 => (boundary(at), boundary(at), "\n[tenant.acme.endpoint.x]\n"),
                4 => (boundary(at), boundary(at), "\"\"\""),
                5 => (boundary(at), boundary(at), "[["),
                6 => (line(at), line(at + len), piece),
                _ => (boundary(at), boundary(at), "7"),
            };
            let new = format!("{}{put}{}", &old[..start], &old[end.max(start)..]);
            let [with, without] = [Some(&known), None].map(|known| read(&new, known));
            let whole = check::whole_file(Source::new("a.toml", &new), false, None);
            prop_assert!(said(&with) == said(&without), "{}", new);
            prop_assert!(said(&with) == said(&whole), "{}", new);
            known = with;
        }
    }
}
