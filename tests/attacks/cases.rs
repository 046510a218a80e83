//! What is tried against eastgate, what becomes of it, and the test that shows it: the table of docs/attacks.md.

/// Frames that a guest sends, which nobody receives.
pub(crate) struct Case {
    /// What tests/scapy/attacks.py calls it
    pub(crate) name: &'static str,
    /// What it is
    pub(crate) sent: &'static str,
    /// What each of its frames is dropped for
    pub(crate) reason: &'static str,
    /// How many of its frames pass all the same, to each of two receivers: what is refused comes behind them
    pub(crate) passes: usize,
}

/// What more than a few frames are needed for: what is tried, what becomes of it, and the test.
pub(crate) type Elsewhere = (&'static str, &'static str, &'static str);

/// A part of the table.
pub(crate) struct Section {
    pub(crate) title: &'static str,
    pub(crate) cases: &'static [Case],
    pub(crate) elsewhere: &'static [Elsewhere],
}

const fn case(name: &'static str, sent: &'static str, reason: &'static str) -> Case {
    Case { name, sent, reason, passes: 0 }
}

pub(crate) const SECTIONS: &[Section] = &[
    Section {
        title: "The underlay",
        cases: &[
            case("to-the-underlay", "A packet to a VTEP's address", "reserved-destination"),
            case(
                "tunnel-to-a-vtep",
                "A guest's own VXLAN to a VTEP, with a frame for another endpoint in it",
                "reserved-destination",
            ),
        ],
        elsewhere: &[
            (
                "VXLAN to a VTEP from an endpoint that the operator lets send there (`underlay_access`)",
                "`vxlan-in-vxlan`",
                "tests/routers.rs::addresses_of_the_underlay_are_reached_by_whom_the_operator_names",
            ),
            (
                "A VTEP that this network does not have, a VNI that this host does not serve, a header without its I flag, \
                 reserved bits, datagrams cut at each byte, wrong checksums and lengths, fragments, tunnels in tunnels, \
                 MACs and addresses of others",
                "each by its reason, before anything is learned",
                "tests/interop.rs::headers_are_read_as_the_rfc_says_over_ipv4",
            ),
            (
                "The same over IPv6",
                "the same",
                "tests/interop.rs::headers_are_read_as_the_rfc_says_over_ipv6",
            ),
            (
                "Datagrams with bytes changed, cut off and made up",
                "counted, and nothing ends",
                "tests/interop.rs::noise_is_counted_and_survived",
            ),
            (
                "A storm of broadcasts",
                "`bum-limit`, of its network alone",
                "dataplane/src/pipeline/tests/limits.rs::frames_to_many_are_limited_by_the_second",
            ),
            (
                "ICMP that says a path is narrow, which quotes nothing that was sent",
                "ignored; none goes below the floor",
                "vtep/src/mtu/path.rs::forged_messages_change_nothing",
            ),
            (
                "A learned MAC that moves onto a configured one, or too often",
                "`mac-move-refused`, `mac-frozen`",
                "vtep/src/fdb/tests.rs::five_moves_are_a_migration_and_the_sixth_is_a_fight",
            ),
            (
                "A million MACs",
                "`mac-limit`; who is known stays",
                "vtep/src/fdb/tests.rs::a_million_random_macs_are_capped_and_existing_ones_untouched",
            ),
        ],
    },
    Section {
        title: "ARP and neighbour discovery",
        cases: &[
            case("arp-request-of-others", "An ARP request in another endpoint's name", "arp-spoofed"),
            case("arp-reply-of-others", "An ARP reply for another endpoint's address", "arp-spoofed"),
            case("arp-announcement-of-others", "A gratuitous ARP for it", "arp-spoofed"),
            case("arp-mac-unlike-the-frames", "ARP whose sender MAC is not the frame's", "arp-malformed"),
            case("arp-as-somebody-else", "ARP in a frame from another endpoint's MAC", "mac-spoofed"),
            case(
                "arp-of-other-lengths",
                "ARP with other lengths of addresses, other types, an unknown operation",
                "arp-malformed",
            ),
            case("arp-behind-a-priority-tag", "Untrue ARP behind a tag of VLAN 0", "arp-spoofed"),
            case(
                "arp-behind-tags",
                "Untrue ARP behind one tag, behind two, and behind one of a provider",
                "vlan-tagged",
            ),
            case("arp-behind-snap", "Untrue ARP behind LLC and SNAP (802.2)", "ethertype-refused"),
            case(
                "arp-behind-a-wrong-length",
                "The same with a length that is not the frame's",
                "ethertype-refused",
            ),
            case(
                "nd-advertisement-of-others",
                "A neighbour advertisement for another endpoint's address",
                "nd-spoofed",
            ),
            case("nd-solicitation-of-others", "A solicitation in its name", "ip-spoofed"),
            case("nd-mac-of-others", "An advertisement that leads to another endpoint's MAC", "nd-spoofed"),
            case("nd-from-afar", "An advertisement with a hop limit below 255", "nd-malformed"),
            case(
                "nd-behind-an-extension-header",
                "An advertisement behind a hop-by-hop header",
                "nd-malformed",
            ),
            case("nd-in-a-fragment", "An advertisement in fragments, of which the first", "nd-malformed"),
            case("router-advertisement", "A router advertisement, to all and to one", "ra-guard"),
            case("redirect", "A redirect", "ra-guard"),
            case("dhcp-server", "A DHCP offer", "dhcp-server-guard"),
            case("dhcpv6-server", "A DHCPv6 advertisement", "dhcp-server-guard"),
        ],
        elsewhere: &[
            (
                "The host's own kernel, asked for its addresses on a tenant's port",
                "says nothing",
                "tests/life.rs::the_kernel_of_the_appliance_is_silent_on_a_tenant_port",
            ),
            (
                "More questions than an endpoint may ask",
                "`neighbor-limit`, of that endpoint",
                "dataplane/src/pipeline/tests/limits.rs::answers_to_neighbour_requests_are_limited_for_each_endpoint",
            ),
            (
                "Leases of a server that is none, more addresses than an endpoint may learn",
                "not learned",
                "tests/learning.rs::who_is_no_server_teaches_nothing",
            ),
            (
                "The same routers and servers, in a network of IPv4 alone",
                "each refused",
                "tests/attacks.rs::a_network_of_ipv4_alone_takes_no_routers_or_servers",
            ),
            (
                "A segment that two ports of the appliance lead to (ARP flux)",
                "answered once, by the port of who asks; the copy at the other port is `mac-spoofed`",
                "tests/attacks.rs::a_segment_with_two_ports_is_answered_once",
            ),
        ],
    },
    Section {
        title: "Frames",
        cases: &[
            case("mac-of-others", "A packet from another MAC", "mac-spoofed"),
            case("mac-of-nobody", "A packet from MAC zero, and from a multicast one", "bad-source-mac"),
            case("address-of-others", "A packet from another address, IPv4 and IPv6", "ip-spoofed"),
            case("address-of-others-behind-a-priority-tag", "The same behind a tag of VLAN 0", "ip-spoofed"),
            case("lldp", "LLDP", "link-protocol"),
            case("stp", "A BPDU of the spanning tree", "link-protocol"),
            case("pause", "A pause frame", "link-protocol"),
            case("eapol", "802.1X", "link-protocol"),
            case("mpls", "IPv4 behind an MPLS label", "ethertype-refused"),
            case("other-ethertypes", "Other ethertypes", "ethertype-refused"),
        ],
        elsewhere: &[(
            "Bytes at random, and noise in any byte of a frame",
            "nothing gets past the rules",
            "dataplane/src/pipeline/tests/noise.rs::noise_in_any_byte_of_a_tenants_frame_gets_nothing_past_the_rules",
        )],
    },
    Section {
        title: "Headers",
        cases: &[
            case("ip-length-too-long", "IPv4 that tells more bytes than the frame has", "frame-truncated"),
            case("ip-length-too-short", "IPv4 that is shorter than its own header", "bad-ip-header"),
            case("ip-header-length", "An IPv4 header of 16 bytes", "bad-ip-header"),
            case("ip-version", "Version 5", "bad-ip-header"),
            case("ip-checksum", "A wrong checksum of the IPv4 header", "bad-ip-header"),
            case("tcp-checksum", "A SYN with a wrong checksum", "bad-checksum"),
            case("udp-length", "UDP that is shorter than its own header", "bad-l4-header"),
            case("tcp-header-length", "A TCP header of 12 bytes", "bad-l4-header"),
            case("source-route", "Source routes: loose, strict, and IPv6's type 0", "source-route"),
            case("options-past-their-end", "An IPv4 option that ends behind the header", "ip-options"),
            case("land", "A packet from an address to itself", "martian"),
            case("loopback", "127.0.0.0/8 and ::1 as source or destination", "martian"),
            case("impossible-sources", "A group, broadcast, and class E as source", "martian"),
            case("mapped-addresses", "A v4-mapped address in an IPv6 header", "mapped-address"),
        ],
        elsewhere: &[],
    },
    Section {
        title: "State and policy",
        cases: &[
            case("closed-port", "What no rule allows: IPv4, IPv6, TCP", "ingress-denied"),
            case("empty-datagram", "UDP without a payload", "ingress-denied"),
            case(
                "protocols-without-ports",
                "Protocols that have no ports (0, 2, 47, 50, 51, 103, 253, 255), with the bytes of a datagram to an open one",
                "ingress-denied",
            ),
            case("gre", "GRE with such a datagram in it", "ingress-denied"),
            case("never-opened", "A segment and a reset of no connection", "not-syn"),
            case(
                "flags-of-nobody",
                "No flags, SYN with FIN, SYN with RST, FIN with PSH and URG, all",
                "tcp-flags",
            ),
            case("icmp-error-about-nothing", "ICMP and ICMPv6 errors that quote no flow", "icmp-unrelated"),
            case("icmp-reply-to-nothing", "An echo reply that nobody asked for", "icmp-unsolicited"),
        ],
        elsewhere: &[
            (
                "A SYN outside the window",
                "carried, as Linux does: the end that it is for tells the other what it has, and the connection goes on",
                "tests/attacks.rs::a_connection_takes_nothing_from_outside_its_window",
            ),
            (
                "Data, FIN and RST outside the window; an acknowledgement of what was never sent",
                "`tcp-window`; the connection goes on",
                "tests/attacks.rs::a_connection_takes_nothing_from_outside_its_window",
            ),
            (
                "A segment of another tenant's connection, with equal addresses and ports",
                "`not-syn`: each tenant's flows are its own",
                "tests/attacks.rs::a_connection_takes_nothing_from_outside_its_window",
            ),
            (
                "A SYN flood of one endpoint",
                "its own and its network's limits; who is connected goes on",
                "tests/floods.rs::a_syn_flood_of_one_endpoint_harms_nobody_else_in_the_kernel",
            ),
            (
                "The same without eBPF",
                "the same",
                "tests/floods.rs::a_syn_flood_of_one_endpoint_harms_nobody_else_in_userspace",
            ),
            (
                "A flood of datagrams of one endpoint, each another flow",
                "the same",
                "tests/floods.rs::a_udp_flood_of_one_endpoint_harms_nobody_else_in_the_kernel",
            ),
            (
                "The same without eBPF",
                "the same",
                "tests/floods.rs::a_udp_flood_of_one_endpoint_harms_nobody_else_in_userspace",
            ),
            (
                "A flood of one tenant",
                "`slow-path-limit`, of that tenant",
                "tests/fastpath_tables.rs::a_flood_of_one_tenant_does_not_keep_others_from_the_pipeline",
            ),
            (
                "A half-open connection whose opener goes on trying",
                "ends at its time",
                "tests/timeouts.rs::a_half_open_connection_ends_at_its_time_whatever_is_sent_again",
            ),
            (
                "Flows made up to meet in one place of a table",
                "hashes are keyed",
                "conntrack/src/flow/sharding.rs::the_key_decides_where_a_flow_lives",
            ),
            (
                "The same against the programs' tables",
                "the kernel keys each of them",
                "tests/fastpath_tables.rs::the_kernel_keys_the_hash_of_every_table",
            ),
            (
                "Addresses and ports made up to make rules dear to look up",
                "a look-up takes as many steps as prefixes lie in each other, whatever comes",
                "policy/src/compile/tests.rs::tables_grow_with_the_rules_not_with_their_product",
            ),
            (
                "Resets that a server does not believe, to make room under a limit",
                "make none",
                "tests/limits.rs::a_reset_that_the_server_does_not_believe_makes_no_room",
            ),
        ],
    },
    Section {
        title: "Fragments",
        cases: &[
            case(
                "fragment-too-small-for-its-header",
                "A first fragment without the whole TCP header",
                "fragment-tiny",
            ),
            case("fragment-over-a-header", "A fragment at offset 1, over a header", "fragment-tiny"),
            Case { passes: 1, ..case("fragment-over-another", "One over another", "fragment-overlap") },
            Case { passes: 1, ..case("fragment-twice", "The same one again", "fragment-duplicate") },
            Case {
                passes: 1,
                ..case("fragment-past-the-end", "One that ends past 65,535", "fragment-bad-size")
            },
            case(
                "fragment-of-odd-size",
                "One that is no multiple of 8 and not the last",
                "fragment-bad-size",
            ),
            case("fragment-without-its-first", "One whose first never comes", "fragment-first-missing"),
            case("two-fragment-headers", "Two IPv6 fragment headers", "fragment-headers"),
            case("first-fragment-to-a-closed-port", "A first one to a closed port", "ingress-denied"),
        ],
        elsewhere: &[(
            "More of them than a network may have",
            "`fragment-limit`, of that network",
            "tests/packets.rs::datagrams_in_fragments_are_limited_by_network",
        )],
    },
    Section {
        title: "Round the appliance",
        cases: &[
            case("to-the-real-mac", "To the peer's own MAC instead of the appliance's", "ingress-denied"),
            case("to-a-mac-of-nobody", "To a MAC that nobody has", "unknown-destination"),
            case("to-a-group", "To groups and to broadcast, IPv4 and IPv6", "multicast-refused"),
        ],
        elsewhere: &[
            (
                "A trunk: other tags, none, two, of a VLAN that is nobody's, frames straight to the other machine",
                "each refused",
                "tests/trunk.rs::nothing_gets_round_it",
            ),
            (
                "The kernel routes (`neighbors = \"kernel\"`): the peer's own MAC, static neighbours, lies by ARP, announcements, redirects, \
                 router advertisements, source routes, addresses and MACs of others",
                "each refused, and the kernel hears none of it",
                "tests/kernel_steering.rs::nothing_gets_round_it",
            ),
            (
                "Routes, rules, neighbours, devices and settings of the kernel's routing that someone takes away or changes",
                "put right within a second; in between nothing is routed elsewhere",
                "tests/kernel_steering.rs::what_someone_else_changes_is_put_right_and_opens_nothing",
            ),
            (
                "A TTL of one where the kernel routes",
                "`ttl-exceeded`, told of without an address of the host's",
                "tests/kernel_steering.rs::a_ttl_that_runs_out_is_told_of_without_an_address_of_the_host",
            ),
            (
                "A start, a stop, a kill, a reload, a device plugged before its policy",
                "nothing passes without the policy",
                "tests/life.rs::a_killed_daemon_lets_nothing_pass_and_the_next_one_takes_over",
            ),
            (
                "A setting of the kernel that someone changes",
                "put right within a second",
                "tests/life.rs::settings_that_someone_changes_are_put_right",
            ),
            (
                "Another program that takes the hooks of a port",
                "the port is closed, and put back",
                "tests/attach.rs::what_another_agent_takes_off_a_port_is_put_back",
            ),
        ],
    },
    Section {
        title: "The daemon",
        cases: &[],
        elsewhere: &[
            (
                "A configuration with one bad rule",
                "refused with its place; the old one stays",
                "tests/life.rs::a_broken_file_is_refused_with_its_place_and_changes_nothing",
            ),
            (
                "Noise on the control socket; conversations that say nothing",
                "closed; others are answered",
                "tests/life.rs::noise_on_the_control_socket_harms_nobody",
            ),
            (
                "The API without credentials, with a token in the query, with one that is nobody's",
                "401; nothing is answered or done",
                "tests/api/attacks.rs::without_credentials_nothing_is_answered_or_done",
            ),
            (
                "Tokens that are guessed",
                "429 after a few; counted",
                "tests/api/attacks.rs::tokens_are_not_guessed",
            ),
            (
                "A token of one tenant for rows, names and flows of another",
                "as if there were none",
                "tests/api.rs::a_token_of_a_tenant_sees_nothing_of_others",
            ),
            ("A token for more than its role", "403", "tests/api.rs::a_role_is_good_for_what_it_says"),
            (
                "Requests that are too long, too deep, malformed, of other types and methods",
                "4xx with what is wrong; nothing is done",
                "tests/api/attacks.rs::what_is_oversized_or_malformed_is_refused",
            ),
            (
                "A browser's page of another origin, its preflight, a name of its own led here",
                "403, and no CORS header",
                "tests/api/attacks.rs::a_page_of_another_origin_gets_nothing",
            ),
            (
                "The API without TLS, by an old version or without a cipher",
                "no answer",
                "tests/api/attacks.rs::without_tls_nobody_is_answered",
            ),
            (
                "Tokens, their hashes and the key in logs, `status`, the support archive, the command line",
                "not there",
                "tests/api/attacks.rs::secrets_are_in_no_log_and_no_dump",
            ),
            (
                "A thousand clients of the API that are silent, half-open, slow, without end, or read nothing",
                "no datagram is lost; the control socket answers, and so does the API to whoever has a token, from addresses where one was shown before and from new ones",
                "tests/api/hostile.rs::a_thousand_hostile_clients_harm_neither_traffic_nor_control",
            ),
            (
                "Changed bytes for each thing that reads bytes",
                "an error, and no panic",
                "tests/fuzz.rs::no_entry_panics",
            ),
        ],
    },
];
