//! What users of Neutron, FWaaS, CloudStack and libvirt rely on, what that is here, and the test that shows it: the table of
//! docs/migrating.md.

use std::fmt::Write as _;

/// What there is elsewhere, what it is here, and the test that shows it; none where there is nothing yet
type Row = (&'static str, &'static str, Option<&'static str>);

const IMPORT_NEUTRON: Option<&str> = Some("tests/import.rs::a_neutron_project");
const NEUTRON_AT_RANDOM: Option<&str> =
    Some("tests/import/random.rs::a_neutron_project_lets_pass_what_neutron_did");
const IMPORT_CLOUDSTACK: Option<&str> = Some("tests/import.rs::a_cloudstack_account");
const IMPORT_LIBVIRT: Option<&str> = Some("tests/import.rs::libvirt_domains_with_their_filters");
const SHIPPED: Option<&str> = Some("tests/import.rs::every_filter_that_is_shipped");
const AS_NEUTRON: Option<&str> = Some("tests/firewalls/main.rs::iptables_as_neutron_lays_them_say_the_same");

const NEUTRON: &[Row] = &[
    (
        "Stateful security groups; several an endpoint; union of allow rules; default deny",
        "`[tenant.T.group.G]`, `groups` of an endpoint",
        Some(
            "dataplane/src/pipeline/tests/decisions.rs::what_rules_of_both_ends_allow_passes_and_its_answers_pass",
        ),
    ),
    (
        "Stateless security groups",
        "`stateful = false` of a group",
        Some("tests/firewalls/main.rs::the_fast_path_without_state_says_the_same"),
    ),
    (
        "Default group that admits its own members",
        "`admit_members = true` of a group",
        Some("tests/groups.rs::what_is_said_beside_rules_holds"),
    ),
    (
        "Rules by direction, ethertype, protocol by name or number, port range",
        "`ingress`, `egress`, `family`, `proto`, `ports`",
        NEUTRON_AT_RANDOM,
    ),
    ("ICMP type and code", "`icmp_type`, `icmp_code`", NEUTRON_AT_RANDOM),
    ("Remote prefix, remote group", "`from`, `to`: a prefix, `group:NAME`", AS_NEUTRON),
    ("Remote address group", "`[tenant.T.set.NAME]`, `set:NAME`", NEUTRON_AT_RANDOM),
    (
        "Default rules of new groups (templates)",
        "`[template.NAME]`, `like` of a group",
        Some("tests/groups.rs::what_is_said_beside_rules_holds"),
    ),
    (
        "Groups shared between projects",
        "`shared_with`, `group:TENANT/NAME`",
        Some(
            "dataplane/src/pipeline/tests/policies.rs::a_group_that_a_tenant_shares_is_its_members_as_they_come_and_go",
        ),
    ),
    (
        "Quotas",
        "`[quota]`, `[quota.tenant.T]`",
        Some("tests/config/policies.rs::quotas_are_exact_and_a_tenants_own_counts_instead"),
    ),
    (
        "Trunk ports: a parent port and subports by VLAN",
        "endpoints with one `port` and each its `vlan`, \"untagged\" for the parent",
        Some("tests/trunk.rs::machines_of_a_trunk_reach_each_other_as_the_rules_say"),
    ),
    (
        "Port security: MAC and IP pairs, ARP and ND spoofing",
        "`port_security`, on by default",
        Some("tests/attacks.rs::what_is_tried_against_others_does_not_reach_them"),
    ),
    (
        "Allowed address pairs",
        "`allowed_pairs`",
        Some("dataplane/src/pipeline/tests/movable.rs::an_address_is_at_whoever_announced_it_last"),
    ),
    (
        "Prefixes of pairs count as members of the group",
        "`prefix_pairs = true` of a group",
        Some("tests/groups.rs::what_is_said_beside_rules_holds"),
    ),
    (
        "Port security off for one port: nothing is filtered there",
        "`port_security = false` and a group that allows everything",
        Some("tests/guests.rs::machines_behind_an_open_port"),
    ),
    (
        "DHCP and DHCPv6 client allowed, server role blocked",
        "`port_security`; `dhcp_server`",
        Some("policy/src/admission/tests.rs::only_a_dhcp_server_answers_dhcp"),
    ),
    (
        "Router advertisements from machines blocked",
        "`port_security`; `router`",
        Some("dataplane/src/pipeline/tests/control_traffic.rs::only_a_router_advertises_itself"),
    ),
    (
        "ND only for a machine's own addresses",
        "`port_security`",
        Some("dataplane/src/pipeline/tests/neighbors.rs::announcements_of_others_addresses_are_dropped"),
    ),
    (
        "One conntrack zone a network",
        "everything that is remembered is keyed by VNI",
        Some("dataplane/src/pipeline/tests/tenants.rs::equal_tuples_are_two_flows"),
    ),
    (
        "Cost of remote groups by the sum of members, not their product",
        "identities",
        Some("policy/src/compile/tests.rs::equal_peers_and_equal_services_are_stored_once"),
    ),
    (
        "Removing a rule cuts live flows",
        "`on_change = \"recheck\"`, the default",
        Some(
            "dataplane/src/pipeline/tests/reload.rs::a_flow_that_the_new_policy_refuses_ends_and_other_networks_do_not_notice",
        ),
    ),
    (
        "What cannot be enforced is refused",
        "diagnostics of `check` and `import`",
        Some("tests/import.rs::what_neutron_has_and_eastgate_has_not_is_refused_with_its_place"),
    ),
];

const FWAAS: &[Row] = &[
    (
        "Ordered ingress and egress policies",
        "`[tenant.T.policy.NAME]`, `[policy.NAME]`",
        Some("tests/firewalls/main.rs::nftables_say_the_same"),
    ),
    (
        "On sets of ports",
        "`applies_to`: site, tenant, network, group, endpoint",
        Some("dataplane/src/pipeline/tests/policies.rs::a_policy_is_asked_about_whom_it_applies_to"),
    ),
    ("Allow, deny", "`action`", Some("tests/policies.rs::who_is_asked_first_with_real_traffic")),
    ("Reject", "`action = \"reject\"`", Some("tests/verdicts.rs::who_is_rejected_is_told_at_once")),
    (
        "Source and destination address",
        "`from`, `to`, and `own` for the endpoint's side",
        Some("dataplane/src/pipeline/tests/policies.rs::own_means_some_endpoints_and_each_family_by_itself"),
    ),
    (
        "Source and destination ports",
        "`ports`, `source_ports`",
        Some("policy/src/compile/tests.rs::decides_as_the_ordered_rules_do"),
    ),
    (
        "Insert before or after another policy",
        "`position`, `order`",
        Some(
            "dataplane/src/pipeline/tests/policies.rs::in_one_place_order_decides_then_the_name_and_of_one_policy_the_first_rule",
        ),
    ),
    (
        "Implicit deny",
        "what no rule allows is denied; `end = \"deny\"`",
        Some("policy/src/naive/tests.rs::a_tier_acts_by_its_first_match_or_at_its_end"),
    ),
    (
        "Default policy for new ports",
        "a policy that applies to the tenant or the network",
        Some("dataplane/src/pipeline/tests/policies.rs::a_policy_is_asked_about_whom_it_applies_to"),
    ),
    (
        "A packet must pass group and policy",
        "tiers: policies before and after the groups",
        Some("tests/policies.rs::who_is_asked_first_with_real_traffic"),
    ),
    (
        "Conntrack helpers beside the rules: FTP, TFTP",
        "`helper` of the rule that allows the servers' port",
        Some("tests/helpers.rs::files_are_had_by_the_servers_port_alone"),
    ),
    (
        "Logging of what is accepted and dropped",
        "`log = true` of a policy's rule",
        Some("tests/verdicts.rs::what_is_logged_is_told_and_nothing_else"),
    ),
    (
        "Import of FWaaS policies",
        "`eastgate import neutron`: a group of the ports, and a policy before the security groups",
        Some("tests/import/firewall.rs::a_firewall_lets_pass_what_its_rules_say"),
    ),
];

const CLOUDSTACK: &[Row] = &[
    ("Default deny in", "what no rule allows is denied", IMPORT_CLOUDSTACK),
    (
        "Everything out until an egress rule exists",
        "`egress_default = \"open\"` of a network",
        IMPORT_CLOUDSTACK,
    ),
    ("Rules for tcp, udp, icmp, ah, esp, gre by prefix or group", "`proto`, `from`, `to`", IMPORT_CLOUDSTACK),
    (
        "Groups of other accounts",
        "`shared_with`, `group:TENANT/NAME`",
        Some(
            "dataplane/src/pipeline/tests/policies.rs::a_group_that_a_tenant_shares_is_its_members_as_they_come_and_go",
        ),
    ),
    (
        "Primary and secondary addresses, spoofed sources dropped",
        "`addresses`, `port_security`",
        Some("tests/attacks.rs::what_is_tried_against_others_does_not_reach_them"),
    ),
    (
        "ARP checked: sender's MAC and address, target",
        "`port_security`; requests are answered, not passed on",
        Some("steering/src/responder/tests/arp.rs::spoofed"),
    ),
    (
        "DHCP client only",
        "`port_security`; `dhcp_server`",
        Some(
            "dataplane/src/pipeline/tests/control_traffic.rs::a_dhcp_clients_broadcast_reaches_dhcp_servers_and_nobody_else",
        ),
    ),
    ("DNS out always", "the group `cloudstack-egress-dns` that the import writes", IMPORT_CLOUDSTACK),
    (
        "IPv6: RA and ND with hop limit 255, errors of RFC 4890",
        "always",
        Some(
            "dataplane/src/pipeline/tests/size.rs::icmpv6_errors_pass_only_for_live_flows_and_what_is_of_the_link_with_hop_limit_255",
        ),
    ),
    (
        "MLDv2 and DHCPv6 of machines",
        "DHCPv6 always; multicast where a rule names the group",
        Some("tests/learning.rs::what_a_server_leases_is_learned_on_both_hosts_and_kept"),
    ),
    ("System machines accepted", "endpoints in a group that allows everything", IMPORT_NEUTRON),
    (
        "Rules made anew after a machine's reboot",
        "they are of the port: one that comes back is served again",
        Some("tests/life.rs::a_port_that_comes_back_is_served_again"),
    ),
    (
        "Signature and sequence number to see drift",
        "`digest` of `status` and `reload`",
        Some("tests/operator.rs::a_reload_says_what_it_changed_and_hosts_can_be_compared"),
    ),
    (
        "Clean-up after machines that died",
        "flows end with their endpoint",
        Some("tests/operator.rs::flows_end_with_their_endpoint"),
    ),
];

const NWFILTER: &[Row] = &[
    (
        "Chains mac, arp, rarp, ipv4, ipv6 with priorities: spoofing checks",
        "`port_security`, `allowed_pairs`; the chains are played through on import",
        SHIPPED,
    ),
    (
        "Chains vlan and stp",
        "`vlan_aware`; `ethertypes = [\"stp\"]` of endpoints that may speak it",
        Some(
            "dataplane/src/pipeline/tests/encap.rs::what_both_ends_may_speak_beside_ip_goes_between_them_and_nowhere_else",
        ),
    ),
    (
        "Isolated ports of a bridge (`<port isolated='yes'/>` of an interface)",
        "`shared` of endpoints on one `port`, and `neighbors = \"proxy\"`: they meet by the appliance, where rules let them",
        Some("tests/shared.rs::machines_of_a_segment_reach_each_other_as_the_rules_say"),
    ),
    (
        "VLANs of a guest on a trunk (a domain's `<vlan trunk='yes'>`)",
        "`guest_vlans` of a network or an endpoint",
        Some("tests/packets.rs::guests_have_the_vlans_that_they_are_given"),
    ),
    (
        "Filters by their names",
        "`filters` of an endpoint or a network; `eastgate policy filters` says what each stands for",
        Some("tests/policies.rs::filters_by_libvirts_names_hold"),
    ),
    ("Actions accept, continue; return below IP", "group rules; played through on import", IMPORT_LIBVIRT),
    (
        "Actions drop, reject among others",
        "a policy before the group, in the filter's order",
        Some("tests/import.rs::rules_of_a_filter_keep_their_order"),
    ),
    ("in, out, inout", "`ingress`, `egress`", IMPORT_LIBVIRT),
    (
        "Negation (`match='no'`)",
        "`not` of a rule; `port_security` for what is not a machine's own",
        Some("tests/import/filters.rs::negation_and_lists_are_what_iptables_would_make_of_them"),
    ),
    (
        "Protocols tcp, udp, udplite, sctp, icmp, icmpv6, igmp, esp, ah",
        "`proto`",
        Some("tests/import/filters.rs::each_protocol_is_its_own"),
    ),
    ("Source ports", "`source_ports`", Some("tests/firewalls/main.rs::the_fast_path_says_the_same")),
    (
        "DSCP, TCP flags",
        "`dscp`, `tcp_flags` of a policy's rule",
        Some("tests/policies.rs::all_but_what_is_written_with_real_traffic"),
    ),
    (
        "connlimit",
        "`connections` of the rule that allows",
        Some("tests/limits.rs::sources_are_counted_as_iptables_counts_them"),
    ),
    (
        "State match",
        "rules follow connections; what accepts only answers is left out on import",
        IMPORT_LIBVIRT,
    ),
    ("Variables MAC, IP, IPV6", "an endpoint's own", Some("tests/import.rs::every_filter_that_is_shipped")),
    (
        "Variables of one's own, with parameters of each interface",
        "`\"$NAME\"` in a group's rule; `variables` of endpoints and groups",
        Some("tests/policies.rs::endpoints_have_the_rules_of_their_groups_with_their_own_values"),
    ),
    (
        "What an interface says counts before what a filter gives that it includes",
        "likewise: who is further out counts first",
        Some("tests/config/variables.rs::who_is_further_out_counts_first"),
    ),
    (
        "Lists of values, iterators, single elements",
        "lists in a rule, variables with lists, of which several make all pairs (`[@1]`, `[@2]`); on import one rule for each of the values that go together",
        Some("tests/import/filters.rs::negation_and_lists_are_what_iptables_would_make_of_them"),
    ),
    (
        "Variable DHCPSERVER",
        "`dhcp_server` of that endpoint",
        Some("dataplane/src/pipeline/tests/control_traffic.rs::only_a_dhcp_server_answers"),
    ),
    (
        "CTRL_IP_LEARNING any, dhcp, none",
        "`learn = \"any\"` with `learn_lock = true`, `learn = \"dhcp\"`, `addresses`; also \"nd\", IPv6, several addresses, kept in migration",
        Some("tests/import.rs::an_address_that_libvirt_learns_is_learned"),
    ),
    (
        "Filters include filters",
        "`include` of a group; resolved on import, with their parameters",
        Some("tests/import/filters.rs::filters_include_others_with_parameters"),
    ),
    (
        "Live update",
        "`eastgate reload`",
        Some("tests/policies.rs::a_reload_names_what_changed_and_takes_away_what_it_takes_away"),
    ),
    (
        "clean-traffic, clean-traffic-gateway",
        "`port_security` and a group; for the gateway, all addresses but those of the own subnets",
        SHIPPED,
    ),
    (
        "no-mac-spoofing, no-ip-spoofing, no-ipv6-spoofing",
        "`port_security`, with `allowed_pairs` for what is not checked",
        Some("dataplane/src/pipeline/tests/filters.rs::clean_traffic_is_ipv4_of_its_own_and_nothing_else"),
    ),
    (
        "no-arp-spoofing, no-arp-mac-spoofing, no-arp-ip-spoofing",
        "`port_security`",
        Some("dataplane/src/pipeline/tests/filters.rs::clean_traffic_is_ipv4_of_its_own_and_nothing_else"),
    ),
    (
        "no-ip-multicast, no-ipv6-multicast, no-mac-broadcast",
        "multicast and broadcast pass only where a network or a rule says so",
        Some(
            "dataplane/src/pipeline/tests/filters.rs::multicast_that_the_network_floods_is_denied_by_family",
        ),
    ),
    (
        "no-other-l2-traffic, no-other-rarp-traffic",
        "nothing but IPv4, IPv6, ARP, a machine's own RARP and its `ethertypes` passes",
        Some("dataplane/src/pipeline/tests/filters.rs::clean_traffic_is_ipv4_of_its_own_and_nothing_else"),
    ),
    (
        "allow-arp, allow-ipv4, allow-ipv6, allow-incoming-ipv4, allow-incoming-ipv6",
        "a group that allows the family",
        Some(
            "dataplane/src/pipeline/tests/filters.rs::what_no_filter_accepts_does_not_pass_and_each_family_is_one",
        ),
    ),
    (
        "allow-dhcp, allow-dhcp-server, allow-dhcpv6, allow-dhcpv6-server",
        "always; servers are named by `dhcp_server`",
        Some("policy/src/admission/tests.rs::only_a_dhcp_server_answers_dhcp"),
    ),
    (
        "qemu-announce-self, qemu-announce-self-rarp",
        "RARP of a machine's own MAC",
        Some("policy/src/admission/tests/protocols.rs::rarp_only_announces_the_sender"),
    ),
    (
        "Tagged frames evade rules there",
        "a tag hides nothing here",
        Some("policy/src/admission/tests.rs::tags_and_lengths_do_not_get_past_the_checks"),
    ),
];

/// Sections of the page, with their rows
const SECTIONS: [(&str, &[Row]); 4] =
    [("Neutron", NEUTRON), ("FWaaS v2", FWAAS), ("CloudStack", CLOUDSTACK), ("libvirt nwfilter", NWFILTER)];

/// All of them as the page has them.
fn table() -> String {
    let mut text = String::new();
    for (name, rows) in SECTIONS {
        let _ = write!(text, "\n### {name}\n\n| there | here | shown by |\n| --- | --- | --- |\n");
        for (there, here, test) in rows {
            let (here, test) = match test {
                Some(test) => (*here, format!("`{test}`")),
                None => ("not yet", String::new()),
            };
            let _ = writeln!(text, "| {there} | {here} | {test} |");
        }
    }
    text
}

#[test]
fn what_is_elsewhere_and_here() {
    let (begin, end) = ("<!-- rows: made by tests/docs/migrating.rs -->\n", "\n<!-- end of rows -->");
    let page = super::read("docs/migrating.md");
    let (before, rest) = page.split_once(begin).expect("docs/migrating.md has a place for the rows");
    let (_, after) = rest.split_once(end).expect("which ends");
    super::hold("docs/migrating.md", &format!("{before}{begin}{}{end}{after}", table()));
}
