//! Apache CloudStack, by what CloudMonkey prints as JSON: `cmk list securitygroups`, `cmk list virtualmachines`, `cmk list networks`.
//!
//! Whether a machine may send whatever it likes depends on all its groups together: as long as none of them has an egress rule it
//! may (`egress_default = "open"`), and with the first such rule only what rules allow, and DNS, for which it gets a group.

use std::collections::{BTreeMap, BTreeSet};

use eastgate_config::Place;
use eastgate_wire::{Family, MacAddr, names};
use ipnet::IpNet;

use super::{
    File, Map,
    json::{Node, Object},
    map::PortMap,
    site::{DHCP_SERVER, Endpoint, Group, Names, Network, Rule, Site, near},
};
use crate::faults::Faults;

/// The group that stands for what CloudStack allows without a rule
const DNS: &str = "cloudstack-egress-dns";

#[derive(Default)]
struct Cloud<'f> {
    groups: BTreeMap<String, Object<'f>>,
    machines: BTreeMap<String, Object<'f>>,
    networks: BTreeMap<String, Object<'f>>,
}

pub(super) fn import(files: &[File], map: &Map, faults: &mut Faults) -> Site {
    let cloud = read(files, faults);
    let mut import = Import { map, names: BTreeMap::new(), by_name: BTreeMap::new(), site: Site::default() };
    for (id, group) in &cloud.groups {
        import.name_group(id, group);
    }
    for (id, group) in &cloud.groups {
        import.group(id, group, faults);
    }
    for (id, machine) in &cloud.machines {
        import.machine(&cloud, id, machine, faults);
    }
    import.site.share();
    import.site
}

fn read<'f>(files: &'f [File], faults: &mut Faults) -> Cloud<'f> {
    let mut cloud = Cloud::default();
    for document in files.iter().flat_map(|file| file.documents(faults)).collect::<Vec<_>>() {
        let answer = Object::of(document);
        let mut understood = false;
        for (key, things) in [
            ("securitygroup", &mut cloud.groups),
            ("virtualmachine", &mut cloud.machines),
            ("network", &mut cloud.networks),
        ] {
            let Some(list) =
                answer.as_ref().filter(|answer| answer.has(key)).map(|answer| answer.objects(key))
            else {
                continue;
            };
            understood = true;
            things.extend(list.into_iter().map(|thing| (thing.text("id"), thing)));
        }
        if !understood {
            faults.add(
                document.at(),
                "this is none of the answers that are understood",
                "give what `cmk list securitygroups`, `cmk list virtualmachines` and `cmk list networks` print as JSON",
            );
        }
    }
    cloud
}

struct Import<'m> {
    map: &'m Map,
    /// Names of groups, by tenant
    names: BTreeMap<String, Names>,
    /// Owner and name of a group -> its tenant and identifier
    by_name: BTreeMap<(String, String), (String, String)>,
    site: Site,
}

/// Who owns a thing: a project, or an account
fn owner(thing: &Object<'_>) -> String {
    thing.word("project").unwrap_or_else(|| thing.text("account"))
}

impl Import<'_> {
    fn tenant_of(&self, thing: &Object<'_>) -> String {
        let owner = owner(thing);
        let mapped = self.map.tenant(&[&thing.text("projectid"), &owner]).map(str::to_owned);
        mapped.or_else(|| near(&owner)).unwrap_or_else(|| "cloudstack".to_owned())
    }

    fn name_group(&mut self, id: &str, group: &Object<'_>) {
        let tenant = self.tenant_of(group);
        let name = self.names.entry(tenant.clone()).or_default().of(id, &group.text("name"));
        self.by_name.insert((owner(group), group.text("name")), (tenant.clone(), id.to_owned()));
        let notes =
            vec![format!("CloudStack security group {} ({id}) of {}", group.text("name"), owner(group))];
        let made = Group { notes, description: group.word("description"), ..Group::default() };
        self.site.tenants.entry(tenant).or_default().groups.insert(name, made);
    }

    fn group(&mut self, id: &str, group: &Object<'_>, faults: &mut Faults) {
        let tenant = self.tenant_of(group);
        let lists = ["ingressrule", "egressrule"].map(|key| {
            let rules = group.objects(key);
            rules.iter().filter_map(|rule| self.rule(rule, group, &tenant, faults)).collect::<Vec<_>>()
        });
        let name = self.names.get(&tenant).and_then(|names| names.known(id)).unwrap_or_default().to_owned();
        let own = self.site.tenants.get_mut(&tenant).and_then(|tenant| tenant.groups.get_mut(&name));
        if let Some(own) = own {
            [own.ingress, own.egress] = lists;
        }
    }

    fn rule(&self, rule: &Object<'_>, group: &Object<'_>, tenant: &str, faults: &mut Faults) -> Option<Rule> {
        let mut made = Rule { note: Some(format!("rule {}", rule.text("ruleid"))), ..Rule::default() };
        let tags = rule.objects("tags");
        let tags: Vec<String> =
            tags.iter().map(|tag| format!("{}={}", tag.text("key"), tag.text("value"))).collect();
        made.description = (!tags.is_empty()).then(|| tags.join(", "));
        self.peers(rule, group, tenant, &mut made, faults)?;
        let family = made.family.take();
        match service(rule, family, &mut made) {
            Ok(()) => Some(made),
            Err(message) => {
                faults.add(rule.at("protocol"), message, "correct the rule, or describe it by hand");
                None
            }
        }
    }

    /// Whom it is about; the family goes into the rule's, for what the protocol means.
    fn peers(
        &self,
        rule: &Object<'_>,
        group: &Object<'_>,
        tenant: &str,
        made: &mut Rule,
        faults: &mut Faults,
    ) -> Option<()> {
        if let Some(name) = rule.word("securitygroupname") {
            let account = rule.word("account").unwrap_or_else(|| owner(group));
            let Some((other, id)) = self.by_name.get(&(account.clone(), name.clone())) else {
                let message = format!("the security group `{name}` of {account} is in none of the files");
                faults.add(rule.at("securitygroupname"), message, "print the groups with `listall=true`");
                return None;
            };
            let name = self.names.get(other).and_then(|names| names.known(id))?;
            let of = if other == tenant { String::new() } else { format!("{other}/") };
            made.peers = vec![format!("group:{of}{name}")];
            return Some(());
        }
        let text = rule.text("cidr");
        match text.parse::<IpNet>() {
            Ok(net) => {
                let family = if net.addr().is_ipv4() { Family::V4 } else { Family::V6 };
                made.family = Some(family);
                made.peers = vec![net.trunc().to_string()];
                Some(())
            }
            Err(_) => {
                let message = format!("`{text}` is no prefix");
                faults.add(rule.at("cidr"), message, "print the groups anew");
                None
            }
        }
    }

    fn machine(&mut self, cloud: &Cloud<'_>, id: &str, machine: &Object<'_>, faults: &mut Faults) {
        let nics = machine.objects("nic");
        let tenant = self.tenant_of(machine);
        let wanted = machine.word("name").unwrap_or_else(|| machine.text("instancename"));
        let mut groups = BTreeSet::new();
        let mut has_egress = false;
        for group in machine.objects("securitygroup") {
            let known = cloud.groups.get(&group.text("id"));
            let name = self.names.get(&tenant).and_then(|names| names.known(&group.text("id")));
            let (Some(known), Some(name)) = (known, name) else {
                let message = format!(
                    "its security group `{}` is in none of the files, or of another account",
                    group.text("name")
                );
                faults.add(group.node.at(), message, "print the groups with `listall=true`; let accounts go into one tenant in the mapping file");
                return;
            };
            has_egress |= !known.list("egressrule").is_empty();
            groups.insert(name.to_owned());
        }
        if has_egress {
            groups.insert(DNS.to_owned());
        }
        for (number, nic) in nics.iter().enumerate() {
            let mac = nic.text("macaddress");
            let place = self.map.port(&[&nic.text("id"), &mac, id, &wanted]);
            if place.skip {
                continue;
            }
            let wanted = match (&place.name, number) {
                (Some(name), _) => name.clone(),
                (None, 0) => wanted.clone(),
                (None, number) => format!("{wanted}-{number}"),
            };
            let Some(network) = self.network(cloud, nic, &tenant, faults) else { continue };
            let Some(mut made) = endpoint(self.map, machine, nic, network, place, faults) else { continue };
            made.groups = groups.clone();
            made.notes = vec![format!(
                "CloudStack machine {} ({id}), {}",
                machine.text("displayname"),
                machine.text("instancename")
            )];
            let tenant = self.site.tenants.entry(tenant.clone()).or_default();
            if has_egress {
                tenant.groups.entry(DNS.to_owned()).or_insert_with(dns);
            }
            let taken = tenant.endpoints.len();
            let name = near(&wanted).unwrap_or_else(|| format!("machine-{taken}"));
            let name = if tenant.endpoints.contains_key(&name) { format!("{name}-{taken}") } else { name };
            tenant.endpoints.insert(name, made);
        }
    }

    /// The name of a network card's network, which is there afterwards.
    fn network(
        &mut self,
        cloud: &Cloud<'_>,
        nic: &Object<'_>,
        tenant: &str,
        faults: &mut Faults,
    ) -> Option<String> {
        let (id, told) = (nic.text("networkid"), nic.text("networkname"));
        let shown = cloud.networks.get(&id);
        let mapped = self.map.network(&[&id, &told]);
        let uri = nic.word("broadcasturi").or_else(|| shown.and_then(|network| network.word("broadcasturi")));
        let told_vni = uri.as_deref().and_then(|uri| uri.strip_prefix("vxlan://")?.parse::<u32>().ok());
        let Some(vni) = mapped.vni.or(told_vni.filter(|vni| *vni < 1 << 24)) else {
            let remedy = format!("write [network.\"{told}\"] vni = 5001 into the mapping file");
            faults.add(nic.at("networkname"), format!("the VNI of network `{told}` is not known"), remedy);
            return None;
        };
        let mut subnets: BTreeSet<IpNet> = mapped.subnets.into_iter().collect();
        let own = [(nic.word("ipaddress"), nic.word("netmask")), (nic.word("ip6address"), None)];
        let cidr6 = nic.word("ip6cidr").and_then(|cidr| cidr.parse::<IpNet>().ok());
        subnets.extend(cidr6);
        for (address, mask) in own {
            let net = address.zip(mask).and_then(|(address, mask)| {
                IpNet::with_netmask(address.parse().ok()?, mask.parse().ok()?).ok()
            });
            subnets.extend(net.map(|net| net.trunc()));
        }
        let name = mapped.name.or_else(|| near(&told)).or_else(|| near(&id))?;
        let networks = &mut self.site.tenants.entry(tenant.to_owned()).or_default().networks;
        let made = networks.entry(name.clone()).or_insert_with(|| Network {
            notes: vec![format!("CloudStack network {told} ({id})"), DHCP_SERVER.to_owned()],
            vni,
            egress_open: true,
            subnets: BTreeSet::new(),
        });
        if made.vni != vni {
            let message = format!("two networks would be `{name}`: of VNI {} and {vni}", made.vni);
            faults.add(nic.at("networkname"), message, "give them names in the mapping file");
            return None;
        }
        made.subnets.extend(subnets);
        Some(name)
    }
}

/// What goes out without a rule where other rules close the rest.
fn dns() -> Group {
    let rule = |protocol: &str| Rule {
        protocol: Some(protocol.into()),
        ports: Some((53, 53)),
        peers: vec!["any".into()],
        ..Rule::default()
    };
    let note = "Machines with an egress rule in one of their groups: beside what those allow, DNS goes out";
    Group { notes: vec![note.to_owned()], egress: vec![rule("udp"), rule("tcp")], ..Group::default() }
}

/// Protocol, ports and ICMP of a rule.
fn service(rule: &Object<'_>, family: Option<Family>, made: &mut Rule) -> Result<(), String> {
    let protocol = rule.text("protocol").to_ascii_lowercase();
    let number = |key: &str| rule.get(key).and_then(Node::number).filter(|number| *number != -1);
    if matches!(protocol.as_str(), "all" | "") {
        return Ok(());
    }
    let known =
        names::protocol_number(&protocol).ok_or_else(|| format!("there is no protocol `{protocol}`"))?;
    let is_icmp = matches!(known, 1 | 58);
    made.protocol = Some(match (is_icmp, family) {
        // In IPv6 it is ICMPv6 that is meant.
        (true, Some(Family::V6)) => "icmpv6".to_owned(),
        (true, _) if known == 58 => "icmpv6".to_owned(),
        _ => names::protocol_name(known),
    });
    if is_icmp {
        let byte = |key: &str| match number(key).map(u8::try_from) {
            None => Ok(None),
            Some(Ok(byte)) => Ok(Some(byte)),
            Some(Err(_)) => Err(format!("`{}` is no {key}", rule.text(key))),
        };
        made.icmp = match (byte("icmptype")?, byte("icmpcode")?) {
            (None, None) => None,
            (None, Some(_)) => return Err("an ICMP code without a type".into()),
            (Some(kind), code) => Some((kind, code)),
        };
        return Ok(());
    }
    let port = |key: &str| match number(key).map(u16::try_from) {
        None => Ok(None),
        Some(Ok(port)) => Ok(Some(port)),
        Some(Err(_)) => Err(format!("`{}` is no port", rule.text(key))),
    };
    made.ports = match (port("startport")?, port("endport")?) {
        (None, None) => None,
        (Some(first), Some(last)) if first <= last && names::has_ports(known) => Some((first, last)),
        (Some(0), Some(0)) => None,
        _ => return Err(format!("these are no ports of {protocol}")),
    };
    Ok(())
}

fn endpoint(
    map: &Map,
    machine: &Object<'_>,
    nic: &Object<'_>,
    network: String,
    place: PortMap,
    faults: &mut Faults,
) -> Option<Endpoint> {
    let mut wrong = |at: Place, message: String, remedy: &str| {
        faults.add(at, message, remedy);
        None
    };
    let text = nic.text("macaddress");
    let Ok(mac) = text.parse::<MacAddr>() else {
        return wrong(nic.at("macaddress"), format!("`{text}` is no MAC"), "print the machines anew");
    };
    let hypervisor = machine.text("hostname");
    let mapped = map.host(&[&machine.text("hostid"), &hypervisor]).map(str::to_owned);
    let Some(host) = place.host.or(mapped).or_else(|| near(&hypervisor)) else {
        let remedy = "write its host or `skip = true` into the mapping file: [port.\"MAC\"]";
        return wrong(machine.node.at(), "this machine is on no host".into(), remedy);
    };
    let Some(port) = place.port else {
        let remedy = format!(
            "write [port.\"{text}\"] port = \"vnet0\" into the mapping file; `virsh domiflist {}` tells it",
            machine.text("instancename")
        );
        return wrong(
            nic.node.at(),
            "CloudStack does not tell the device of this network card".into(),
            &remedy,
        );
    };
    let mut addresses = Vec::new();
    let secondary = nic.objects("secondaryip");
    let all = [nic.word("ipaddress"), nic.word("ip6address")].into_iter().flatten();
    for text in all.chain(secondary.iter().filter_map(|ip| ip.word("ipaddress"))) {
        match text.parse() {
            Ok(address) => addresses.push(address),
            Err(_) => {
                return wrong(nic.node.at(), format!("`{text}` is no address"), "print the machines anew");
            }
        }
    }
    Some(Endpoint {
        notes: Vec::new(),
        network,
        host,
        port,
        mac,
        addresses,
        learn: None,
        groups: BTreeSet::new(),
        pairs: Vec::new(),
        routes: Vec::new(),
        port_security: true,
        router: false,
        dhcp_server: false,
    })
}
