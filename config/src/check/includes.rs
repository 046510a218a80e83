//! Groups that include others of their tenant: which ones, none of them itself, and not too deep.

use super::known_name;
use crate::{
    problem::Problem,
    read::{At, Named, Reader, Span},
    tables::GroupTable,
    values::NameText,
};

/// Groups inside each other, beside the outermost: as many as libvirt's filters may be.
const DEEPEST: usize = 16;

/// Of each group of a tenant, by its place among them: the places of those that it includes, none of them itself by whatever detour.
pub(super) struct Includes(Vec<Vec<Include>>);

#[derive(Clone, Copy)]
struct Include {
    group: usize,
    at: Span,
}

impl Includes {
    /// Those of a tenant. What cannot be is reported and left out.
    pub(super) fn of(groups: &Named<GroupTable>, reader: &mut Reader) -> Self {
        let written = groups.iter().map(|(_, table)| written(&table.include.value.items, groups, reader));
        let mut includes = Self(written.collect());
        includes.settle(groups, reader);
        includes
    }

    /// The groups that one includes, in the order written.
    pub(super) fn of_group(&self, group: usize) -> impl Iterator<Item = usize> {
        self.0.get(group).into_iter().flatten().map(|include| include.group)
    }

    /// Follows the includes of each group to their ends, without recursion: a file may have chains of any length.
    fn settle(&mut self, groups: &Named<GroupTable>, reader: &mut Reader) {
        // Of those that were followed to their ends, how many are inside each other in them
        let mut heights: Vec<Option<usize>> = vec![None; self.0.len()];
        let mut open = vec![false; self.0.len()];
        let mut set_open = |group: usize, is| open.get_mut(group).map(|it| std::mem::replace(it, is));
        for root in 0..self.0.len() {
            if heights.get(root).is_some_and(Option::is_some) {
                continue;
            }
            let mut path = vec![(root, 0)];
            set_open(root, true);
            while let Some((group, next)) = path.last_mut() {
                let (group, at) = (*group, *next);
                *next += 1;
                let Some(include) = self.0.get(group).and_then(|all| all.get(at)).copied() else {
                    let height = self.height(group, &heights, reader);
                    if let Some(known) = heights.get_mut(group) {
                        *known = Some(height);
                    }
                    path.pop();
                    set_open(group, false);
                    continue;
                };
                if heights.get(include.group).is_some_and(Option::is_some) {
                    continue;
                }
                if set_open(include.group, true) == Some(true) {
                    let around = path.iter().skip_while(|(group, _)| *group != include.group);
                    report_cycle(around.map(|(group, _)| *group).collect(), include.at, groups, reader);
                    if let Some(all) = self.0.get_mut(group) {
                        all.remove(at);
                    }
                    if let Some((_, next)) = path.last_mut() {
                        *next -= 1;
                    }
                } else {
                    path.push((include.group, 0));
                }
            }
        }
    }

    /// How many are inside each other in a group whose includes are settled; those that would be too many are reported and left out.
    fn height(&mut self, group: usize, heights: &[Option<usize>], reader: &mut Reader) -> usize {
        let inside = |include: &Include| heights.get(include.group).copied().flatten().unwrap_or(0) + 1;
        let Some(all) = self.0.get_mut(group) else { return 0 };
        all.retain(|include| {
            let fits = inside(include) <= DEEPEST;
            if !fits {
                let what = format!("more than {DEEPEST} groups include each other from here on");
                reader.report(Problem::IncludeDeep { what }, include.at);
            }
            fits
        });
        all.iter().map(inside).max().unwrap_or(0)
    }
}

/// Those of one group that there are, each once.
fn written(items: &[At<NameText>], groups: &Named<GroupTable>, reader: &mut Reader) -> Vec<Include> {
    let mut found: Vec<Include> = Vec::with_capacity(items.len());
    for item in items {
        if !known_name("group", item, groups, reader) {
            continue;
        }
        let at = groups.binary_search_by(|(known, _)| (*known.value).cmp(&*item.value.0));
        let Some((group, (_, table))) = at.ok().and_then(|at| Some((at, groups.get(at)?))) else { continue };
        if found.iter().any(|before| before.group == group) {
            reader.report(Problem::NameRepeated { name: item.value.0.to_string() }, item.span);
        } else if table.admit_members.value {
            let problem = Problem::IncludeAdmits { name: item.value.0.to_string() };
            reader.report_also(problem, item.span, table.admit_members.span, "where it says so");
        } else {
            found.push(Include { group, at: item.span });
        }
    }
    found
}

/// Of a long way around, this much is told.
const TOLD: usize = 8;

fn report_cycle(around: Vec<usize>, at: Span, groups: &Named<GroupTable>, reader: &mut Reader) {
    let name = |group: &usize| groups.get(*group).map(|(name, _)| &*name.value).unwrap_or_default();
    let mut names: Vec<&str> = around.iter().map(name).take(TOLD).collect();
    if around.len() > TOLD {
        names.push("...");
    }
    names.extend(around.first().map(name));
    reader.report(Problem::IncludeCycle { chain: names.join(" -> ") }, at);
}
