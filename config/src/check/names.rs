//! What rules and policies name: groups and sets of their own tenant, of others, and of the site.

use super::{Elsewhere, Kind};
use crate::{
    model::{Name, Peer},
    problem::{Near, Problem},
    read::{Named, Reader, Span},
    values::is_name,
};

/// Whose rules are being read, and what they can name.
pub(super) struct Names<'t> {
    /// The tenant; none for what is the site's
    pub(super) tenant: Option<&'t Name>,
    groups: Vec<&'t str>,
    sets: Vec<&'t str>,
    /// What they name elsewhere: whether it is there, only all files together tell.
    pub(super) elsewhere: Vec<Elsewhere>,
}

impl<'t> Names<'t> {
    /// Of a tenant with these groups and sets.
    pub(super) fn of_tenant<G, S>(tenant: &'t Name, groups: &'t Named<G>, sets: &'t Named<S>) -> Self {
        Self { tenant: Some(tenant), groups: names_of(groups), sets: names_of(sets), elsewhere: Vec::new() }
    }

    /// Of the site, with these sets.
    pub(super) fn of_site<S>(sets: &'t Named<S>) -> Self {
        Self { tenant: None, groups: Vec::new(), sets: names_of(sets), elsewhere: Vec::new() }
    }

    /// The group with this name, of this tenant or as `TENANT/NAME`.
    pub(super) fn group(&mut self, name: &str, span: Span, reader: &mut Reader) -> Option<Peer> {
        match self.elsewhere(Kind::Group, name, span, reader) {
            Whose::Theirs(tenant, name) => Some(Peer::GroupOf(tenant, name)),
            Whose::Ours(name) if self.tenant.is_none() => {
                reader.report(Problem::Whose { kind: "group", name: name.to_string() }, span);
                None
            }
            Whose::Ours(name) => {
                is_known("group", name, &self.groups, span, reader).then(|| Peer::Group(name.into()))
            }
            Whose::Nobodys => None,
        }
    }

    /// The set with this name, of this tenant or the site, or as `TENANT/NAME`.
    pub(super) fn set(&mut self, name: &str, span: Span, reader: &mut Reader) -> Option<Peer> {
        match self.elsewhere(Kind::Set, name, span, reader) {
            Whose::Theirs(tenant, name) => Some(Peer::SetOf(tenant, name)),
            Whose::Ours(name) => {
                is_known("set", name, &self.sets, span, reader).then(|| Peer::Set(name.into()))
            }
            Whose::Nobodys => None,
        }
    }

    /// What was named elsewhere, each place once: rules are read once for each of their values.
    pub(super) fn named_elsewhere(mut self) -> Vec<Elsewhere> {
        fn key(named: &Elsewhere) -> (u32, Kind, &Name, &Name) {
            (named.at.order().1, named.kind, &named.tenant, &named.name)
        }
        self.elsewhere.sort_by(|a, b| key(a).cmp(&key(b)));
        self.elsewhere.dedup_by(|a, b| key(a) == key(b));
        self.elsewhere
    }

    /// Notes what is elsewhere.
    pub(super) fn elsewhere<'n>(
        &mut self,
        kind: Kind,
        name: &'n str,
        span: Span,
        reader: &mut Reader,
    ) -> Whose<'n> {
        let Some((tenant, of_it)) = name.split_once('/') else { return Whose::Ours(name) };
        if self.tenant.is_some_and(|own| **own == *tenant) {
            return Whose::Ours(of_it);
        }
        if let Some(bad) = [tenant, of_it].into_iter().find(|part| !is_name(part)) {
            reader.report(Problem::BadName { name: bad.to_owned() }, span);
            return Whose::Nobodys;
        }
        let (tenant, name): (Name, Name) = (tenant.into(), of_it.into());
        let at = reader.place(span);
        self.elsewhere.push(Elsewhere { kind, tenant: tenant.clone(), name: name.clone(), at });
        Whose::Theirs(tenant, name)
    }
}

/// Of whom a name is.
pub(super) enum Whose<'n> {
    /// Of the tenant that is being read, or of the site
    Ours(&'n str),
    /// Of another tenant, and noted
    Theirs(Name, Name),
    /// It is no name, and that was reported
    Nobodys,
}

fn names_of<T>(named: &Named<T>) -> Vec<&str> {
    named.iter().map(|(name, _)| &*name.value).collect()
}

/// Whether a name is among those that are known, which are sorted; or the report that it is not.
pub(super) fn is_known(
    kind: &'static str,
    name: &str,
    known: &[&str],
    span: Span,
    reader: &mut Reader,
) -> bool {
    let found = known.binary_search(&name).is_ok();
    if !found {
        let near = Near::new(name, known.iter().copied());
        reader.report(Problem::UnknownName { kind, name: name.to_owned(), near }, span);
    }
    found
}
