//! What is in force beside what the files say: addresses that were learned of endpoints, and machines that stations have associated.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use eastgate_wire::Addr;

use super::model::{Config, Endpoint, Name, Network, Tenant};

/// Learned addresses, by tenant and endpoint.
pub type LearnedAddresses = BTreeMap<Name, BTreeMap<Name, Vec<Addr>>>;

/// Machines that stations have associated, each by a profile of its tenant: by tenant and network, sorted by name. Nobody else in the network has
/// the name or the MAC of one.
pub type AssociatedMachines = BTreeMap<Name, BTreeMap<Name, Vec<Arc<Endpoint>>>>;

/// A configuration as it is written, and as it is in force with what was learned and associated.
#[derive(Clone, Debug)]
pub struct Effective {
    written: Arc<Config>,
    learned: LearnedAddresses,
    machines: AssociatedMachines,
    config: Arc<Config>,
}

impl Effective {
    /// What is written, with machines that are associated, and what was learned of endpoints and of these. A tenant that is as it was in the one `before` is the same `Arc` again, so that its
    /// networks are not compiled anew.
    ///
    /// Nothing is added to an endpoint of which nothing is learned, nor an address that the files name for somebody.
    #[must_use]
    pub fn new(
        written: Arc<Config>,
        learned: LearnedAddresses,
        machines: AssociatedMachines,
        before: Option<&Self>,
    ) -> Self {
        if learned.is_empty() && machines.is_empty() {
            return Self { config: written.clone(), written, learned, machines };
        }
        let mut config = (*written).clone();
        let names: BTreeSet<&Name> = learned.keys().chain(machines.keys()).collect();
        for name in names {
            let Some(tenant) = config.tenants.get_mut(name) else { continue };
            let same = before.filter(|before| {
                before.written.tenants.get(name).is_some_and(|was| Arc::ptr_eq(was, tenant))
                    && before.learned.get(name) == learned.get(name)
                    && before.machines.get(name) == machines.get(name)
            });
            match same.and_then(|before| before.config.tenants.get(name)) {
                Some(known) => *tenant = known.clone(),
                None => {
                    let mut with = (**tenant).clone();
                    machines
                        .get(name)
                        .into_iter()
                        .flatten()
                        .for_each(|(network, all)| add(&mut with, network, all));
                    learned.get(name).into_iter().for_each(|learned| add_learned(&mut with, learned));
                    *tenant = Arc::new(with);
                }
            }
        }
        Self { written, learned, machines, config: Arc::new(config) }
    }

    /// What the files say
    #[must_use]
    pub const fn written(&self) -> &Arc<Config> {
        &self.written
    }

    /// What is in force
    #[must_use]
    pub const fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// The addresses that were added
    #[must_use]
    pub const fn learned(&self) -> &LearnedAddresses {
        &self.learned
    }

    /// The machines that were added
    #[must_use]
    pub const fn machines(&self) -> &AssociatedMachines {
        &self.machines
    }
}

/// Adds machines to a network.
fn add(tenant: &mut Tenant, network: &Name, machines: &[Arc<Endpoint>]) {
    let Some(network) = tenant.networks.get_mut(network) else { return };
    let endpoints = Arc::make_mut(&mut network.endpoints);
    endpoints.extend_from_slice(machines);
    endpoints.sort_by(|a, b| a.name.cmp(&b.name));
}

fn add_learned(tenant: &mut Tenant, learned: &BTreeMap<Name, Vec<Addr>>) {
    for network in tenant.networks.values_mut() {
        let mut taken = named(network);
        let endpoints = Arc::make_mut(&mut network.endpoints);
        for endpoint in endpoints.iter_mut().filter(|endpoint| endpoint.learning.is_some()) {
            let news = learned.get(&endpoint.name).into_iter().flatten().filter(|it| taken.insert(**it));
            let news: Vec<Addr> = news.copied().collect();
            if news.is_empty() {
                continue;
            }
            let endpoint = Arc::make_mut(endpoint);
            endpoint.addresses.extend(&news);
            endpoint.learned = news;
        }
    }
}

/// The addresses that are in somebody's name.
fn named(network: &Network) -> HashSet<Addr> {
    let single = |net: &ipnet::IpNet| net.prefix_len() == net.max_prefix_len();
    let endpoints = network.endpoints.iter();
    endpoints
        .flat_map(|endpoint| {
            let pairs = endpoint.allowed_pairs.iter().map(|pair| pair.address).filter(single);
            endpoint.addresses.iter().copied().chain(pairs.map(|net| Addr::from(net.addr())))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::loader::load_str;

    const TEXT: &str = r#"
[host.a]
vtep = "192.0.2.1"
device = "e"
[tenant.x.network.n]
vni = 1
subnets = ["10.1.0.0/24"]
learn = "dhcp"
[tenant.x.group.all]
ingress = [{ from = "any" }]
[tenant.x.endpoint.one]
network = "n"
host = "a"
port = "p1"
mac = "02:00:00:00:00:01"
groups = ["all"]
[tenant.x.endpoint.two]
network = "n"
host = "a"
port = "p2"
mac = "02:00:00:00:00:02"
addresses = ["10.1.0.2"]
groups = ["all"]
[tenant.y.network.n]
vni = 2
hosts = ["a"]
"#;

    fn learned(endpoint: &str, addresses: &[&str]) -> LearnedAddresses {
        let addr = |text: &&str| Addr::from(text.parse::<IpAddr>().unwrap());
        let of_tenant = BTreeMap::from([(endpoint.into(), addresses.iter().map(addr).collect())]);
        BTreeMap::from([("x".into(), of_tenant)])
    }

    #[test]
    fn what_was_learned_is_added_where_it_may_be() {
        let written = load_str("any", TEXT).unwrap();
        let before = Effective::new(written.clone(), BTreeMap::new(), BTreeMap::new(), None);
        assert!(Arc::ptr_eq(before.config(), &written));
        let effective = Effective::new(
            written.clone(),
            learned("one", &["10.1.0.7", "10.1.0.2"]),
            BTreeMap::new(),
            Some(&before),
        );
        let one = effective.config().tenants["x"].endpoint("one").unwrap().1;
        assert_eq!((one.addresses.len(), one.learned.len()), (1, 1), "the other one is somebody's");
        assert!(Arc::ptr_eq(&effective.config().tenants["y"], &written.tenants["y"]));
        let again = Effective::new(
            written.clone(),
            learned("one", &["10.1.0.7", "10.1.0.2"]),
            BTreeMap::new(),
            Some(&effective),
        );
        assert!(Arc::ptr_eq(&again.config().tenants["x"], &effective.config().tenants["x"]));
        let none = Effective::new(written, learned("two", &["10.1.0.7"]), BTreeMap::new(), None);
        assert_eq!(
            none.config().tenants["x"].endpoint("two").unwrap().1.addresses.len(),
            1,
            "it learns none"
        );
    }

    #[test]
    fn a_machine_that_is_associated_is_an_endpoint_and_learns() {
        let profile = "[tenant.x.profile.web]\nnetwork = \"n\"\nvsi_manager = \"m\"\nvsi_type = 5\ngroups = [\"all\"]\n";
        let text = TEXT.replace("learn = ", "neighbors = \"proxy\"\nlearn = ");
        let written = load_str("any", &format!("{text}{profile}")).unwrap();
        let template = &written.tenants["x"].profiles["web"];
        assert_eq!((template.vsi.to_string(), template.machines), ("type 5 of manager m".to_owned(), 256));
        let machine = Endpoint { name: "web.1".into(), ..(*template.machine).clone() };
        let machines: AssociatedMachines =
            BTreeMap::from([("x".into(), BTreeMap::from([("n".into(), vec![Arc::new(machine)])]))]);
        let effective =
            Effective::new(written.clone(), learned("web.1", &["10.1.0.9"]), machines.clone(), None);
        let network = &effective.config().tenants["x"].networks["n"];
        assert_eq!(network.endpoints.len(), 3);
        let web = network.endpoint("web.1").unwrap();
        assert_eq!((web.learned.len(), web.groups.len()), (1, 1));
        let again =
            Effective::new(written.clone(), learned("web.1", &["10.1.0.9"]), machines, Some(&effective));
        assert!(Arc::ptr_eq(&again.config().tenants["x"], &effective.config().tenants["x"]));
        let gone = Effective::new(written.clone(), BTreeMap::new(), BTreeMap::new(), Some(&again));
        assert!(Arc::ptr_eq(gone.config(), &written));
    }
}
