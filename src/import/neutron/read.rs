//! Which of the client's answers a document is, and what it says.

use eastgate_config::Place;

use super::{AddressGroup, Cloud, GroupIn, NetworkIn, Port, RuleIn};
use crate::{
    faults::Faults,
    import::{
        File,
        json::{Node, Object},
    },
};

pub(super) fn read(files: &[File], faults: &mut Faults) -> Cloud {
    let mut cloud = Cloud::default();
    for file in files {
        for document in file.documents(faults) {
            match document.list() {
                Some(rows) => rows.into_iter().for_each(|row| thing(&mut cloud, row, faults)),
                None => thing(&mut cloud, document, faults),
            }
        }
    }
    cloud
}

/// One row of a list, or what a `show` prints.
fn thing(cloud: &mut Cloud, node: Node<'_>, faults: &mut Faults) {
    let Some(object) = Object::of(node) else {
        return unknown(node.at(), faults);
    };
    if super::firewall::noted(cloud, &object) {
        return;
    }
    let has = |keys: &[&str]| keys.iter().all(|key| object.has(key));
    if has(&["id", "rules"]) || has(&["id", "security_group_rules"]) {
        group_shown(cloud, &object, faults);
    } else if has(&["id", "mac_address", "network_id"]) {
        cloud.ports.insert(object.text("id"), Port::shown(&object));
    } else if has(&["id", "cidr", "network_id"]) {
        cloud.subnets.entry(object.text("network_id")).or_default().push(object.text("cidr"));
    } else if has(&["id", "addresses"]) {
        let addresses = object.list("addresses").into_iter().filter_map(Node::text).collect();
        let group = AddressGroup { name: object.text("name"), addresses };
        cloud.address_groups.insert(object.text("id"), group);
    } else if has(&["id", "subnets"]) {
        cloud.networks.insert(object.text("id"), network_shown(&object));
    } else if has(&["ID", "Ethertype"]) || has(&["ID", "Port Range"]) {
        rule_listed(cloud, &object, faults);
    } else if has(&["ID", "MAC Address"]) {
        cloud.ports.entry(object.text("ID")).or_insert_with(|| Port::listed(&object));
    } else if has(&["ID", "Network", "Subnet"]) {
        cloud.subnets.entry(object.text("Network")).or_default().push(object.text("Subnet"));
    } else if has(&["ID", "Addresses"]) {
        let addresses = object.list("Addresses").into_iter().filter_map(Node::text).collect();
        let group = AddressGroup { name: object.text("Name"), addresses };
        cloud.address_groups.entry(object.text("ID")).or_insert(group);
    } else if has(&["ID", "Subnets"]) {
        let network = NetworkIn { name: object.text("Name"), vni: None };
        cloud.networks.entry(object.text("ID")).or_insert(network);
    } else if has(&["ID", "Name", "Description"]) {
        let group = GroupIn {
            name: object.text("Name"),
            description: object.text("Description"),
            project: object.text("Project"),
            stateful: object.get("Stateful").and_then(Node::truth).unwrap_or(true),
        };
        cloud.groups.entry(object.text("ID")).or_insert(group);
    } else {
        unknown(node.at(), faults);
    }
}

fn unknown(at: Place, faults: &mut Faults) {
    faults.add(
        at,
        "this is none of the answers that are understood",
        "give what `openstack security group show|list`, `security group rule list`, `address group show|list`, `network show|list`, \
         `subnet show|list`, `port show|list`, `firewall group show|list`, `firewall group policy show|list` and `firewall group rule \
         show|list` print with `-f json`",
    );
}

fn network_shown(object: &Object<'_>) -> NetworkIn {
    let is_vxlan = object.text("provider:network_type") == "vxlan";
    let segment = object.get("provider:segmentation_id").and_then(Node::number);
    let vni = segment.filter(|_| is_vxlan).and_then(|segment| u32::try_from(segment).ok());
    NetworkIn { name: object.text("name"), vni }
}

/// A group with its rules, whole.
fn group_shown(cloud: &mut Cloud, object: &Object<'_>, faults: &mut Faults) {
    let id = object.text("id");
    let group = GroupIn {
        name: object.text("name"),
        description: object.text("description"),
        project: object.word("project_id").unwrap_or_else(|| object.text("tenant_id")),
        stateful: object.get("stateful").and_then(Node::truth).unwrap_or(true),
    };
    cloud.groups.insert(id.clone(), group);
    let key = if object.has("rules") { "rules" } else { "security_group_rules" };
    let Some(rules) = object.get(key).and_then(Node::list) else {
        faults.add(
            object.at(key),
            "this client prints rules as text, not as JSON",
            "use a newer `python-openstackclient`, or give `openstack security group rule list --long -f json` too",
        );
        return;
    };
    for node in rules {
        let Some(rule) = Object::of(node).filter(|rule| rule.has("id") && rule.has("direction")) else {
            faults.add(
                node.at(),
                "this is no rule: it has no `id` or no `direction`",
                "print the group anew",
            );
            continue;
        };
        let number = |key: &str| rule.get(key).and_then(Node::number);
        let read = RuleIn {
            at: node.at(),
            ingress: rule.text("direction") == "ingress",
            ethertype: rule.word("ethertype").unwrap_or_else(|| rule.text("ether_type")),
            protocol: rule.word("protocol"),
            range: (number("port_range_min"), number("port_range_max")),
            prefix: rule.word("remote_ip_prefix"),
            group: rule.word("remote_group_id"),
            address_group: rule.word("remote_address_group_id"),
            description: rule.text("description"),
        };
        // It knows more than a list does.
        cloud.rules.insert(rule.text("id"), (id.clone(), read));
    }
}

/// A row of `security group rule list`.
fn rule_listed(cloud: &mut Cloud, object: &Object<'_>, faults: &mut Faults) {
    let id = object.text("ID");
    let missing = ["Direction", "Ethertype", "Security Group"].into_iter().find(|column| !object.has(column));
    if let Some(column) = missing {
        faults.add(
            object.node.at(),
            format!("this list of rules has no column `{column}`"),
            "print it with `openstack security group rule list --long -f json`, without the name of a group",
        );
        return;
    }
    let range = object.text("Port Range");
    let parsed = listed_range(&range);
    let protocol = object.word("IP Protocol").filter(|protocol| protocol != "any");
    let is_icmp = protocol.as_deref().is_some_and(super::rules::is_icmp);
    let read = RuleIn {
        at: object.at("Port Range"),
        ingress: object.text("Direction") == "ingress",
        ethertype: object.text("Ethertype"),
        protocol,
        range: parsed.unwrap_or((None, None)),
        // Beside a remote group the list names all addresses of the family.
        prefix: object.word("IP Range"),
        group: object.word("Remote Security Group"),
        address_group: object.word("Remote Address Group"),
        description: object.text("Description"),
    };
    let prefix = read.prefix.clone().filter(|_| read.group.is_none() && read.address_group.is_none());
    let known = cloud.rules.contains_key(&id);
    let exact = parsed.is_some() && (!is_icmp || matches!(parsed, Some((Some(_), Some(_)))));
    if !known && !exact {
        let lacks = if is_icmp {
            "a list of rules does not tell ICMP type 0 and code 0 from any"
        } else {
            "this is no range of ports"
        };
        faults.add(
            object.at("Port Range"),
            lacks,
            "give `openstack security group show GROUP -f json` of this rule's group too",
        );
        return;
    }
    let group = object.text("Security Group");
    cloud.rules.entry(id).or_insert((group, RuleIn { prefix, ..read }));
}

/// `22:22`, `type=3:code=4`, or nothing
fn listed_range(text: &str) -> Option<(Option<i64>, Option<i64>)> {
    if text.is_empty() {
        return Some((None, None));
    }
    let (first, last) = match text.split_once(':') {
        Some((first, last)) => (first, Some(last)),
        None => (text, None),
    };
    let number = |part: &str, name: &str| part.strip_prefix(name).unwrap_or(part).parse().ok();
    let first: Option<i64> = number(first, "type=");
    match last {
        Some(last) => Some((Some(first?), Some(number(last, "code=")?))),
        None => Some((Some(first?), None)),
    }
}
