//! What is bounded, in the sections of the page.

/// What is bounded, by what, and what happens at it
pub(super) type Row = (&'static str, &'static str, &'static str);

pub(super) const SECTIONS: &[(&str, &str, &[Row])] = &[
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
                "the cheapest makes room; connections and streams in use are never put out, then `flow-limit`: the flow stays among the unreplied, and its ends may try again",
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
                "the network's own that has waited longest goes; for one source as often a second as there may be such flows, at least 1,000 times, where its endpoint has half of what it may have: then `flow-limit`",
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
                "of those that the programs carry",
                "{fastpath/src/layout/datagram.rs DATAGRAM_PIECES}",
                "further ones go by the pipeline",
            ),
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
                "What is read of LLDP and ECP of a device",
                "6,400 frames a second",
                "the rest is lost in the socket",
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
                "Addresses of a network that are asked for on behalf of packets: each once, others within that time",
                "{dataplane/src/snapshot/sought.rs EVERY}; {dataplane/src/snapshot/sought.rs MOST}",
                "the packet counts as `unresolved`, beyond the number as `bum-limit`",
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
                "Addresses to be announced after a reload",
                "{dataplane/src/snapshot/succession.rs REMEMBERED}, 64 each half second",
                "what comes on top is found out by asking",
            ),
            ("Requests of a token, over the network", "{src/control/door.rs OF_A_TOKEN}", "`limited`"),
            (
                "of a source without a token",
                "{src/control/door.rs OF_A_SOURCE}",
                "`limited`; connections that have shown a good token go on",
            ),
            ("unknown tokens of a source", "{src/control/door.rs FAILED}", "`limited`"),
            (
                "Connections to the API over the network that begin, in all, of a source",
                "{src/control/network.rs OF_ALL} / {src/control/network.rs OF_A_SOURCE}",
                "refused, and counted (`eastgate_api_refusals_total`). Sources that showed a good token within an hour have their own rate alone",
            ),
            (
                "first connections of sources, beyond what all may begin",
                "{src/control/network.rs FIRST}",
                "the same",
            ),
            (
                "sources that are remembered for a good token",
                "{src/control/places.rs REMEMBERED}",
                "the one that has shown none for longest is forgotten",
            ),
            ("Frames of probes, of all together", "{dataplane/src/pipeline/probe.rs FRAMES}", "they wait"),
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
                "Events of a worker that are not fetched yet",
                "{src/daemon/events.rs WAITING}; of dropped frames, no network takes more of them than it leaves",
                "counted where they are missing",
            ),
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
                "The head of a request, its headers",
                "{src/control/server.rs MAX_HEAD KiB} / {src/control/server.rs MAX_HEADERS}",
                "refused",
            ),
            (
                "Connections to the API over the network",
                "{src/control/network.rs CONNECTIONS}, {src/control/network.rs OF_ONE} of a source, silent for {src/control/network.rs PATIENCE}",
                "whoever has shown no token ends first, then those of the source that has most, and of these whoever is silent for longest",
            ),
            (
                "of them, without a token and not the first to end",
                "{src/control/network.rs NEWCOMERS}",
                "they end first",
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
                "An answer; what nobody has read yet of all",
                "{src/control/answer.rs MAX_ANSWER MiB} / 256 MiB at the control socket, 128 MiB over the network",
                "`too-large`; the asker who takes longest to read is cut off",
            ),
            (
                "Pairs of kinds of endpoints for a row, for an answer of the matrix",
                "{src/daemon/show/matrix.rs IN_ROW} / 8,192",
                "the row says how many it does not tell; the rest comes with the next answer",
            ),
            (
                "Passages, and rules that refused, of a row of the matrix",
                "{src/daemon/show/matrix.rs PASSAGES} / {src/daemon/show/matrix.rs RULES}",
                "how many are left out is told",
            ),
            (
                "Probes at a time, for the socket and for the network each",
                "{src/control/queries.rs PROBES}, of a minute at most",
                "`busy`",
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
