//! What stations may associate machines by, against all else.

use std::collections::{BTreeMap, btree_map::Entry};

use super::{Changed, Found, Whole, attachment_claims};
use crate::problem::{Diagnostic, Problem};

impl Whole<'_> {
    /// Where stations are, no endpoint has the device for itself. Those that did not change were held against the same hosts.
    pub(super) fn ports_of_stations(&self, found: &mut Found) {
        for Changed { tenant, endpoints, .. } in &self.changed {
            for (host, attachment, mine) in attachment_claims(tenant, endpoints) {
                let of_host = self.hosts.get(host).and_then(|host| host.host.as_ref());
                let Some(vdp) = of_host.and_then(|host| host.vdp.get(&attachment.device)) else { continue };
                if !attachment.is_by_tag() {
                    let (port, host) = (attachment.device.to_string(), host.to_string());
                    let found_here = Diagnostic::new(Problem::VdpPort { port, host }, mine.at);
                    found.push(found_here.and(vdp.at.clone(), "the stations"));
                }
            }
        }
    }

    /// What stations name means one profile, of whichever tenant.
    pub(super) fn profiles(&self, found: &mut Found) {
        let all = self.tenants.values().filter_map(|(content, index)| content.tenants.get(*index));
        let mut all: Vec<_> = all
            .flat_map(|(tenant, _)| tenant.profiles.values().map(move |profile| (tenant, profile)))
            .collect();
        all.sort_by(|(_, a), (_, b)| a.at.order().cmp(&b.at.order()));
        let mut owners = BTreeMap::new();
        for (tenant, profile) in all {
            match owners.entry(profile.vsi) {
                Entry::Vacant(place) => drop(place.insert((tenant, profile))),
                Entry::Occupied(known) => {
                    let (of, first) = known.get();
                    let other = format!("profile `{}` of tenant `{}`", first.name, of.name);
                    let problem = Problem::ProfileTwice { vsi: profile.vsi.to_string(), other };
                    found.push(
                        Diagnostic::new(problem, profile.at.clone()).and(first.at.clone(), "first here"),
                    );
                }
            }
        }
    }
}
