//! `veth`: two tenants joined directly. There is no host in between, so same-host and cross-host are one.

use std::time::Duration;

use anyhow::Result;
use eastgate_testkit::netns;

use super::super::traffic::{Pair, Tenant};
use super::super::work::Reach;
use super::Candidate;
use super::topology::{TENANT_DEVICE, TENANT_MTU, neighbours, settle, tenant};

#[derive(Debug)]
pub(super) struct Veth {
    a: Tenant,
    b: Tenant,
}

impl Veth {
    pub(super) fn build() -> Result<Self> {
        let (a, b) = (tenant("veth", "a", 1)?, tenant("veth", "b", 2)?);
        netns::veth((&a.namespace, TENANT_DEVICE), (&b.namespace, TENANT_DEVICE), TENANT_MTU)?;
        settle(&a, TENANT_DEVICE)?;
        settle(&b, TENANT_DEVICE)?;
        neighbours::pin_all(&[&a, &b])?;
        Ok(Self { a, b })
    }
}

impl Candidate for Veth {
    fn pair(&self, reach: Reach) -> Option<Pair<'_>> {
        matches!(reach, Reach::CrossHost | Reach::SameHost)
            .then_some(Pair { client: &self.a, server: &self.b })
    }

    fn load_rules(&mut self, _count: usize) -> Result<Option<Duration>> {
        Ok(None)
    }
}
