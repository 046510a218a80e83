//! What the rules of a network grant each source, by their numbers.
//!
//! A rule that is kept from one snapshot to the next goes on counting in the same place, whichever snapshot a worker has in hand,
//! also when it grants more or less than before.

use std::{collections::BTreeMap, sync::Arc};

use eastgate_conntrack::flow::{SourceCounts, SourceLimits};

use super::rules::RuleTable;

/// The counts of a network's rules that have limits.
#[derive(Debug, Default)]
pub struct RuleLimits(BTreeMap<u32, (Arc<SourceCounts>, SourceLimits)>);

impl RuleLimits {
    /// Of the rules in a table. Those that had these numbers `before` go on.
    pub(super) fn following(rules: &RuleTable, before: Option<&Self>) -> Self {
        let counts = rules.limits().iter().map(|(number, limits)| {
            let known = before.and_then(|before| before.get(*number)).cloned();
            (*number, (known.unwrap_or_else(|| Arc::new(SourceCounts::new(*limits))), *limits))
        });
        Self(counts.collect())
    }

    /// Rules that go on counting grant what they grant in this table from now on.
    pub(super) fn put_in_force(&self) {
        self.0.values().for_each(|(counts, limits)| counts.set_limits(*limits));
    }

    /// Those of a rule, where it has limits.
    #[must_use]
    pub fn get(&self, rule: u32) -> Option<&Arc<SourceCounts>> {
        self.0.get(&rule).map(|(counts, _)| counts)
    }
}
