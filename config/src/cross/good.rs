//! What is kept of a configuration that was good, so that the next one is only looked at where it differs.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use ahash::RandomState;
use eastgate_wire::Vni;

use super::{
    Owner, Whole, attachment_claims,
    shares::{Share, Shares},
    vni_claims,
};
use crate::{
    check::{Claims, EndpointClaim, FileContent},
    diagnostics::Found,
    model::{Config, Name, Tenant},
};

/// The last configuration that was good, and who has what in it.
#[derive(Debug)]
pub(crate) struct Good {
    pub(super) config: Arc<Config>,
    pub(super) contents: Vec<Arc<FileContent>>,
    /// By tenant: the file and the place in its list.
    pub(super) tenants: HashMap<Name, (Arc<FileContent>, usize)>,
    pub(super) vnis: HashMap<Vni, Owner>,
    /// By host and device.
    pub(super) attachments: HashMap<Name, HashMap<Arc<str>, Shares, RandomState>>,
    /// By tenant: warnings of addresses that are hosts'.
    pub(super) of_hosts: BTreeMap<Name, Found>,
}

impl Good {
    pub(super) fn empty(config: Arc<Config>) -> Self {
        Self {
            config,
            contents: Vec::new(),
            tenants: HashMap::new(),
            vnis: HashMap::new(),
            attachments: HashMap::new(),
            of_hosts: BTreeMap::new(),
        }
    }

    pub(crate) fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// Whether everything beside tenants is the same.
    pub(super) fn has_heads_of(&self, contents: &[Arc<FileContent>]) -> bool {
        heads(&self.contents).map(Head).eq(heads(contents).map(Head))
    }

    /// By name
    pub(super) fn endpoints_of(&self, tenant: &Name) -> &[Arc<EndpointClaim>] {
        let known = self.tenants.get(tenant).and_then(|(content, index)| content.tenants.get(*index));
        known.map_or(&[], |(_, claims)| &claims.endpoints)
    }

    pub(super) fn remember(&mut self, tenant: &Tenant, claims: &Claims, endpoints: &[&Arc<EndpointClaim>]) {
        self.vnis.extend(vni_claims(tenant, claims));
        for (host, attachment, owner) in attachment_claims(tenant, endpoints) {
            let devices = self.attachments.entry(host.clone()).or_default();
            devices.entry(attachment.device.clone()).or_default().insert(Share::of(attachment), owner);
        }
    }

    /// Takes out what is not as it was.
    pub(super) fn forget(&mut self, whole: &Whole<'_>) {
        let gone = self.tenants.extract_if(|name, _| !whole.same.contains(name));
        for (name, (content, index)) in gone {
            let Some((tenant, claims)) = content.tenants.get(index) else { continue };
            for (vni, _) in vni_claims(tenant, claims) {
                self.vnis.remove(&vni);
            }
            let now = whole.changed_tenant(&name);
            let now = now.map_or(&[][..], |changed| &changed.claims.endpoints[..]);
            for (host, attachment, _) in attachment_claims(tenant, &others_than(now, &claims.endpoints)) {
                let devices = self.attachments.get_mut(host);
                if let Some(shares) = devices.and_then(|devices| devices.get_mut(&attachment.device)) {
                    shares.remove(Share::of(attachment));
                }
            }
        }
    }
}

/// The files that say something beside tenants.
pub(super) fn heads(contents: &[Arc<FileContent>]) -> impl Iterator<Item = &Arc<FileContent>> {
    let heads =
        contents.iter().enumerate().filter(|(index, content)| *index == 0 || !content.hosts.is_empty());
    heads.map(|(_, content)| content)
}

/// What a file says beside tenants.
struct Head<'f>(&'f Arc<FileContent>);

impl PartialEq for Head<'_> {
    fn eq(&self, Self(other): &Self) -> bool {
        let Self(this) = self;
        Arc::ptr_eq(this, other)
            || (this.overlay == other.overlay && this.limits == other.limits)
                && (this.kernel_tables == other.kernel_tables && this.hosts == other.hosts)
                && (this.site == other.site && this.site_names == other.site_names)
                && (this.quotas == other.quotas && this.include == other.include)
    }
}

/// Those of `now` that are not in `before`; both are sorted by name.
pub(super) fn others_than<'n>(
    before: &[Arc<EndpointClaim>],
    now: &'n [Arc<EndpointClaim>],
) -> Vec<&'n Arc<EndpointClaim>> {
    if std::ptr::eq(before, now) {
        return Vec::new();
    }
    let mut before = before.iter().peekable();
    let is_other = |claim: &&Arc<EndpointClaim>| {
        let is_it = |known: &&Arc<EndpointClaim>| Arc::ptr_eq(known, claim);
        if before.next_if(is_it).is_some() {
            return false;
        }
        while before.next_if(|known| known.name < claim.name).is_some() {}
        before.next_if(is_it).is_none()
    };
    now.iter().filter(is_other).collect()
}
