//! `docs/limits.md`: every bound with its number, which is read from the code, and what happens at it.
//!
//! A number stands in braces: `{limits.flows}` is the default of a configuration key, `{limits.flows max}` the most that it may
//! be, `{conntrack/src/expect.rs MOST}` a constant (or `#define`, or a field that is given a number) of that file.

use std::fmt::Write as _;

use eastgate_config::schema;
use serde_json::Value;

use super::{NOTE, hold, read};

/// What is bounded, by what, and what happens at it
type Row = (&'static str, &'static str, &'static str);

const SECTIONS: &[(&str, &str, &[Row])] = &[
    (
        "What a configuration may say",
        "More than this is refused by `eastgate check`, with file, line and column, and changes nothing.",
        &[
            ("VNI", "0 to {tenant.T.network.N.vni max}", "refused"),
            ("VLAN of an endpoint on a trunk", "1 to {tenant.T.endpoint.E.vlan max}", "refused"),
            ("MTU of a network", "{tenant.T.network.N.mtu min} to {tenant.T.network.N.mtu max}", "refused"),
            ("Letters of a name", "{config/src/values.rs name.len()}", "refused"),
            (
                "Places that a packet is asked at: policies before, groups, policies after (tiers)",
                "{policy/src/rule.rs MAX_TIERS} an end and direction",
                "there are no more places",
            ),
            (
                "Groups inside each other by `include`",
                "{config/src/check/includes.rs DEEPEST}",
                "`include-deep`",
            ),
            (
                "Groups, each with its values, that one comes to by what it includes",
                "{config/src/check/variables.rs MOST}",
                "`include-deep`",
            ),
            ("Compiled entries of a network", "{policy/src/compile.rs DEFAULT_ENTRY_LIMIT}", "refused"),
            ("A file", "{config/src/loader.rs LARGEST MiB}", "refused"),
            (
                "Networks, endpoints, groups, policies, rules, sets and their addresses of a tenant",
                "`[quota]`; none unless set",
                "`quota-exceeded`",
            ),
            (
                "Errors, and warnings, that are printed",
                "{config/src/diagnostics.rs KEPT} each",
                "the others are counted",
            ),
        ],
    ),
    (
        "Flows",
        "Whose limit it is says `eastgate show drops`; how many flows there are, `eastgate status`. [Who makes room](architecture.md#who-makes-room) tells who is put out.",
        &[
            (
                "Replied flows of a host",
                "`limits.flows`: {limits.flows}",
                "the cheapest makes room; connections and streams in use are never put out, then `flow-limit`",
            ),
            (
                "of a network on a host",
                "its `limits.flows`: {tenant.T.network.N.limits.flows}",
                "the same, among its own",
            ),
            (
                "that one endpoint has opened",
                "`limits.endpoint_flows`: three quarters of its network's",
                "the same, among its own",
            ),
            (
                "Unreplied flows of a host, half-open connections among them",
                "`limits.unreplied`: {limits.unreplied}",
                "the one that has waited longest goes",
            ),
            (
                "of a network on a host",
                "its `limits.unreplied`: {tenant.T.network.N.limits.unreplied}",
                "the network's own that has waited longest goes; above a rate, `flow-limit`",
            ),
            (
                "that one endpoint has opened",
                "`limits.endpoint_unreplied`: three quarters of its network's",
                "the same, among its own",
            ),
            (
                "New flows a second of a network, of an endpoint",
                "`limits.new_flows`, `limits.endpoint_new_flows`: none unless set",
                "`new-flow-limit`",
            ),
            (
                "Flows of a source by a rule",
                "`connections`, `new_connections` of the rule: none unless set",
                "`rule-limit`",
            ),
            (
                "Sources that a rule tells apart in a network",
                "{conntrack/src/flow/source.rs MOST}",
                "a further one is denied, `rule-limit`",
            ),
            (
                "Flows that helpers expect, of an endpoint, a network, a host",
                "{conntrack/src/expect.rs MOST_OF_ENDPOINT} / {conntrack/src/expect.rs MOST_OF_NETWORK} / {conntrack/src/expect.rs MOST}",
                "the endpoint's oldest makes room; else not expected",
            ),
            ("How long one is expected", "{conntrack/src/expect.rs LASTS}", "forgotten"),
            (
                "Connections of an endpoint that has moved, picked up in mid-stream",
                "`tcp_pickup`: {tenant.T.network.N.tcp_pickup} s after it was heard at its new place",
                "`not-syn`, until it is opened again",
            ),
            (
                "Resets to the ends of connections that a reload cuts (`on_change = \"reset\"`)",
                "{dataplane/src/pipeline/torn.rs AT_ONCE} each half second; {dataplane/src/pipeline/torn.rs WAITING} wait",
                "they come later; beyond that nobody is told",
            ),
        ],
    ),
    (
        "Fragments",
        "Nothing is reassembled: fragments pass when their first one was let in.",
        &[
            (
                "Datagrams in fragments of a host",
                "`limits.fragments`: {limits.fragments}",
                "the network's that waits longest for its first goes (`fragment-first-missing`); else `fragment-limit`",
            ),
            (
                "of a network on a host",
                "its `limits.fragments`: {tenant.T.network.N.limits.fragments}",
                "the same",
            ),
            ("Pieces of one datagram", "{conntrack/src/fragment.rs PIECES}", "`fragment-limit`"),
            (
                "What waits for a first fragment, of a network, of all",
                "{conntrack/src/fragment.rs waiting_bytes MiB} / {conntrack/src/fragment/waiting.rs WAITING_BYTES MiB}",
                "the network's datagram that has waited longest goes",
            ),
            ("How long it waits", "{conntrack/src/fragment.rs wait}", "`fragment-first-missing`"),
            ("How long a datagram is remembered", "{conntrack/src/fragment.rs timeout}", "forgotten"),
        ],
    ),
    (
        "What is learned",
        "What is known stays; the newcomer is refused, unless it says otherwise.",
        &[
            (
                "Learned MACs of a network on a host",
                "`mac_limit`: {tenant.T.network.N.mac_limit}",
                "`mac-limit`, with its frame",
            ),
            ("How long a silent one is kept", "`mac_age`: {tenant.T.network.N.mac_age} s", "forgotten"),
            (
                "Moves of a learned MAC",
                "{vtep/src/fdb/mod.rs MOVES} in 180 s",
                "frozen for 180 s, `mac-frozen`",
            ),
            (
                "Learned neighbours of a network, at one place",
                "{steering/src/bindings.rs total} / {steering/src/bindings.rs per_location}",
                "not learned",
            ),
            ("How long a silent one is kept", "{steering/src/bindings.rs age}", "forgotten"),
            (
                "Moves of a learned address",
                "{steering/src/bindings.rs MOVES} in {steering/src/bindings.rs WINDOW}",
                "frozen for as long",
            ),
            (
                "Learned addresses of an endpoint",
                "`learn_limit`: {tenant.T.network.N.learn_limit}",
                "`unlearned`",
            ),
            ("of a network", "{steering/src/snooping.rs MOST}", "`unlearned`"),
            (
                "Moving addresses in a pair's prefix, of an endpoint",
                "{steering/src/holders.rs in_prefixes}",
                "the endpoint's heard least recently goes",
            ),
            ("Link-local addresses of a guest's own choice", "{steering/src/holders.rs chosen}", "the same"),
            ("both of a network", "{steering/src/holders.rs total}", "the same"),
            (
                "Narrow paths (path MTU)",
                "{vtep/src/mtu/path.rs limit} VTEPs, not below {vtep/src/mtu/path.rs floor} bytes, {vtep/src/mtu/path.rs age}",
                "the one idle longest is forgotten",
            ),
            (
                "Machines at a device by VDP",
                "`machines` of the device: {host.H.vdp.D.machines}",
                "refused as \"insufficient resources\"",
            ),
            (
                "Machines of a profile on a host",
                "`machines` of the profile: {tenant.T.profile.P.machines}",
                "the same",
            ),
            (
                "Stations at a device, where `stations` names none; VSIs of one; entries of its filters",
                "{steering/src/vdp/bridge.rs stations} / {steering/src/vdp/bridge.rs vsis} / {steering/src/vdp/bridge.rs entries}",
                "one without a machine makes room, else not heard; the others refused",
            ),
            (
                "Machines by VDP, each another device, VLAN or MAC, while a daemon runs",
                "{src/daemon/vdp/book.rs NUMBERS}",
                "refused; those known stay",
            ),
            (
                "Leases of machines that are not associated",
                "{src/daemon/learning.rs PARTED}",
                "the oldest is forgotten",
            ),
            (
                "DHCP questions of an endpoint that may be answered, and how long",
                "{steering/src/snooping.rs ASKED} / {steering/src/snooping.rs PATIENCE}",
                "the oldest goes: an answer to it teaches nothing",
            ),
            (
                "Words of an endpoint, of a network, that wait to be learned from",
                "{steering/src/snooping.rs WAITING} / {steering/src/snooping.rs WAITING_IN_ALL}",
                "not heard; may be said again",
            ),
        ],
    ),
    (
        "Rates",
        "Each is a token bucket of what is named: nobody else's is touched.",
        &[
            (
                "Broadcast, unknown unicast and multicast of a network on a host",
                "`bum_limit`: {tenant.T.network.N.bum_limit} a second",
                "`bum-limit`",
            ),
            (
                "Packets that the programs hand to the pipeline, of a network on a host",
                "`slow_path_limit`: {tenant.T.network.N.slow_path_limit} a second",
                "`slow-path-limit`",
            ),
            (
                "the same of networks that the host does not serve, together",
                "{src/io/fastpath.rs OF_UNSERVED} a second",
                "`slow-path-limit`",
            ),
            (
                "ARP and ND answers, and questions passed on, of an endpoint",
                "{dataplane/src/snapshot/state.rs ANSWERS}",
                "`neighbor-limit`",
            ),
            (
                "Announcements that say what is known, of an endpoint",
                "{dataplane/src/snapshot/state.rs ANNOUNCEMENTS}",
                "`neighbor-own`",
            ),
            (
                "Moves of an address that several may have",
                "1 a second, {steering/src/holders.rs BURST} at once",
                "it stays where it is",
            ),
            (
                "Resets and ICMP to whom a rule rejects, of an endpoint; \"too big\", of a network",
                "{dataplane/src/snapshot/state.rs ERRORS}",
                "not sent; the packet is dropped and counted all the same",
            ),
            ("VDP requests of a station", "{steering/src/vdp/mod.rs PACE}", "not acknowledged"),
            (
                "Log lines of a rule with `log`, in a network",
                "{src/daemon/log.rs LINES}",
                "left out, and counted in the next line",
            ),
        ],
    ),
    (
        "The kernel's tables",
        "Sizes of the fast path, for one host. What does not fit is left to the pipeline where nothing else is said: slower, by the same rules.",
        &[
            (
                "Networks",
                "`fastpath.networks`: {fastpath.networks}",
                "flows of others stay with the pipeline",
            ),
            ("VTEPs", "`fastpath.vteps`: {fastpath.vteps}", "the same"),
            (
                "Addresses of endpoints",
                "`fastpath.endpoints`: {fastpath.endpoints}",
                "flows of others are decided by the pipeline",
            ),
            (
                "Attachments",
                "`fastpath.attachments`: {fastpath.attachments}",
                "one more is **not served**, and tried again; `eastgate status` names it",
            ),
            (
                "Compiled policies",
                "`fastpath.policy_mib`: {fastpath.policy_mib} MiB",
                "a network more is decided by the pipeline",
            ),
            (
                "Prefixes of rules that lie in each other",
                "{fastpath/bpf/decide.h POLICY_DEPTH}",
                "deeper ones are decided by the pipeline",
            ),
            (
                "Policy cache",
                "`fastpath.policy_cache`: {fastpath.policy_cache}",
                "the one not used for longest goes",
            ),
            ("ARP and ND answers", "`fastpath.neighbor_cache`: {fastpath.neighbor_cache}", "the same"),
            (
                "Kinds of refused packets that are told apart",
                "`fastpath.policy_drops`: {fastpath.policy_drops}",
                "others are refused by the pipeline",
            ),
            (
                "Connections replaced on their ports within a second",
                "`fastpath.closed_flows`: {fastpath.closed_flows}",
                "their last packets are not counted for endpoints and rules",
            ),
            (
                "Programs at one place of a device, others' included",
                "{fastpath/src/tcx.rs MOST}, the kernel's limit",
                "the port is `failed`, and tried again",
            ),
        ],
    ),
    (
        "What is told",
        "Nothing that is asked holds packets up. What was not told is counted.",
        &[
            (
                "Rows of drop counters of a worker",
                "{dataplane/src/pipeline/counters.rs DROP_ROWS}",
                "counted under network and reason alone",
            ),
            (
                "Different frames of a row, of a worker",
                "{dataplane/src/pipeline/counters/recent.rs OF_A_ROW} / {dataplane/src/pipeline/counters/recent.rs OF_A_WORKER}",
                "counted in the row",
            ),
            ("Events that are kept", "{src/daemon/events.rs KEPT}", "the oldest go; how many is told"),
            (
                "Kinds of flows that a staged version would refuse",
                "{src/daemon/staged.rs KINDS}",
                "counted together",
            ),
            (
                "Conversations at the control socket",
                "{src/control/server.rs CONVERSATIONS}, silent for {src/control/server.rs PATIENCE}",
                "the one that was silent for longest ends",
            ),
            ("The body of a request", "{api/src/route.rs MAX_BODY KiB}", "refused"),
            (
                "Connections to the API over the network",
                "{src/control/network.rs CONNECTIONS}, {src/control/network.rs OF_ONE} of a source, silent for {src/control/network.rs PATIENCE}",
                "whoever has shown no token ends first",
            ),
            (
                "Streams of events",
                "{src/control/server.rs STREAMS} at the control socket; {src/control/network.rs STREAMS} over the network, {src/control/service.rs STREAMS_OF_A_TOKEN} of a token",
                "`busy`",
            ),
            ("Queries of a kind that wait", "{src/control/queries.rs WAITING}", "`busy`, to be asked again"),
            (
                "Rows of an answer",
                "{api/src/reply.rs MAX_ROWS}, about {src/daemon/show/part.rs ROOM MiB}",
                "the answer says where it goes on",
            ),
            (
                "Clients of `--metrics`",
                "{src/http.rs CONNECTIONS}",
                "the oldest that has not asked makes room",
            ),
            (
                "Endpoints, and rules, told one by one in the metrics",
                "{src/daemon/metrics.rs SERIES_OF_A_KIND} each",
                "left out, and counted (`eastgate_series_left_out`)",
            ),
        ],
    ),
];

#[test]
fn limits() {
    let schema = schema().to_value();
    let mut page = format!(
        "# Limits\n\n{NOTE}\n\n\
         Every table is bounded, and what happens at the bound is chosen so that whoever fills it pays. Numbers are defaults where a \
         key of the [configuration](configuration.md) is named, and fixed elsewhere. They are read from the code. [architecture.md](architecture.md#limits-and-what-happens-at-them) has the same bounds as the \
         design sees them; [drop reasons](drop-reasons.md) explains the words. How much of everything fits into one site has been measured: \
         [from configuration to tables](architecture.md#from-configuration-to-tables). What eastgate does not do at all is in [the README](../README.md#what-it-cannot-do-yet).\n"
    );
    for (title, about, rows) in SECTIONS {
        write!(page, "\n## {title}\n\n{about}\n\n| bound | number | at it |\n| --- | --- | --- |\n").unwrap();
        for (what, number, at) in *rows {
            writeln!(page, "| {what} | {} | {at} |", filled(number, &schema)).unwrap();
        }
    }
    hold("docs/limits.md", &page);
}

/// Each key of a `limits` or `fastpath` table is in it: a bound that is added is told.
#[test]
fn each_key_that_bounds_is_among_the_limits() {
    let schema = schema().to_value();
    let told: String =
        SECTIONS.iter().flat_map(|(_, _, rows)| rows.iter()).map(|(_, number, _)| *number).collect();
    for table in ["limits", "fastpath", "tenant.T.network.N.limits"] {
        let table = key(&schema, table);
        for name in table["properties"].as_object().unwrap().keys() {
            assert!(told.contains(&format!(".{name}`")), "docs/limits.md says nothing of `{name}`");
        }
    }
}

fn filled(text: &str, schema: &Value) -> String {
    let mut filled = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        let (asked, after) = after.split_once('}').expect("a brace is closed");
        filled += before;
        filled += &number(asked, schema);
        rest = after;
    }
    filled + rest
}

fn number(asked: &str, schema: &Value) -> String {
    let mut words = asked.split_whitespace();
    let (place, what) = (words.next().unwrap(), words.next());
    let Some(name) = what.filter(|_| place.contains('/')) else {
        let key = key(schema, place);
        let field = match what {
            Some("max") => "maximum",
            Some("min") => "minimum",
            _ => "default",
        };
        let choices = key["oneOf"].as_array().or_else(|| key["anyOf"].as_array());
        let found = choices.into_iter().flatten().map(|choice| &choice[field]).find(|value| value.is_u64());
        let found = found.unwrap_or(&key[field]).as_u64();
        return grouped(found.unwrap_or_else(|| panic!("{place} has no {field}: {key}")));
    };
    let text = read(place);
    let value = given(&text, name).unwrap_or_else(|| panic!("{place} gives {name} no number"));
    match (words.next(), &value) {
        (Some(unit), Given::Number(number)) => format!("{} {unit}", number / scale(unit)),
        (_, value) => value.to_string(),
    }
}

fn scale(unit: &str) -> u64 {
    match unit {
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        other => panic!("{other} is no unit"),
    }
}

/// The part of the schema for `a.NAME.b`, in which tables by name have any name.
fn key<'a>(schema: &'a Value, path: &str) -> &'a Value {
    path.split('.').fold(schema, |table, name| {
        let named = &table["properties"][name];
        if named.is_null() { &table["additionalProperties"] } else { named }
    })
}

/// What a file gives a name.
enum Given {
    Number(u64),
    Seconds(u64),
    Rate { per_second: u64, burst: u64 },
}

impl std::fmt::Display for Given {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{}", grouped(*number)),
            Self::Seconds(seconds) if seconds % 60 == 0 && *seconds >= 600 => {
                write!(f, "{} minutes", seconds / 60)
            }
            Self::Seconds(seconds) => write!(f, "{} s", grouped(*seconds)),
            Self::Rate { per_second, burst } => {
                write!(f, "{} a second, {} at once", grouped(*per_second), grouped(*burst))
            }
        }
    }
}

/// `const NAME: T = 1 << 20;`, `#define NAME 32`, `name: 1024,`, `name <= 63`
fn given(text: &str, name: &str) -> Option<Given> {
    let places = [
        (format!("const {name}: "), Some("= ")),
        (format!("#define {name} "), None),
        (format!(" {name}: "), None),
        (format!(" {name} <= "), None),
    ];
    let rest = places.iter().find_map(|(begin, then)| {
        text.match_indices(begin.as_str()).find_map(|(at, _)| {
            let rest = text[at..].strip_prefix(begin.as_str())?;
            let rest = then.map_or(Some(rest), |then| rest.split_once(then).map(|(_, rest)| rest))?;
            let is_number = rest.starts_with(|c: char| c.is_ascii_digit());
            let is_value =
                is_number || rest.starts_with("Duration::from_secs(") || rest.starts_with("Rate {");
            is_value.then_some(rest)
        })
    })?;
    let inside =
        |rest: &str, begin: &str, end: char| rest.strip_prefix(begin)?.split(end).next().map(str::to_owned);
    if let Some(seconds) = inside(rest, "Duration::from_secs(", ')') {
        return Some(Given::Seconds(product(&seconds)?));
    }
    if let Some(fields) = inside(rest, "Rate {", '}') {
        let field = |name: &str| {
            let (_, value) = fields
                .split(',')
                .find_map(|field| field.trim().split_once(": ").filter(|(n, _)| *n == name))?;
            product(value)
        };
        return Some(Given::Rate { per_second: field("per_second")?, burst: field("burst")? });
    }
    let end = rest.find([';', ',', '\n', '}']).unwrap_or(rest.len());
    product(&rest[..end]).map(Given::Number)
}

/// A number as it is written: `4_096`, `160 * 1024`, `1 << 20`.
fn product(text: &str) -> Option<u64> {
    let plain = |text: &str| text.trim().replace('_', "").parse::<u64>().ok();
    if let Some((number, bits)) = text.split_once("<<") {
        return Some(plain(number)? << plain(bits)?);
    }
    text.split('*').map(plain).try_fold(1, |product, factor| Some(product * factor?))
}

/// With a comma between thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[test]
fn numbers_are_read_as_they_are_written() {
    let text = "pub const A: usize = 4_096;\nconst B: u32 = 8 << 20;\n#define C 32\n x { d: 1024, e: Duration::from_secs(1200) }\n\
                const F: Rate = Rate { per_second: 100, burst: 200 };\nconst G: usize = 160 * 1024;\n";
    let told = |name| given(text, name).map(|value| value.to_string());
    let expected = [
        ("A", "4,096"),
        ("B", "8,388,608"),
        ("C", "32"),
        ("d", "1,024"),
        ("e", "20 minutes"),
        ("G", "163,840"),
    ];
    for (name, expected) in expected {
        assert_eq!(told(name).as_deref(), Some(expected), "{name}");
    }
    assert_eq!(told("F").as_deref(), Some("100 a second, 200 at once"));
    assert_eq!(told("H"), None);
}
