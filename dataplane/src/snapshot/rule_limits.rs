//! What the rules of a network grant each source, by their numbers.
//!
//! A rule that is kept from one snapshot to the next goes on counting in the same place, whichever snapshot a worker has in hand,
//! also when it grants more or less than before.

use std::{collections::BTreeMap, sync::Arc};

use eastgate_conntrack::flow::SourceCounts;

use super::rules::RuleTable;

/// The counts of a network's rules that have limits.
#[derive(Debug, Default)]
pub struct RuleLimits(BTreeMap<u32, Arc<SourceCounts>>);

impl RuleLimits {
    /// Of the rules in a table. Those that had these numbers `before` go on.
    pub(super) fn following(rules: &RuleTable, before: Option<&Self>) -> Self {
        let counts = rules.limits().iter().map(|(number, limits)| {
            let known = before.and_then(|before| before.0.get(number)).inspect(|it| it.set_limits(*limits));
            (*number, known.cloned().unwrap_or_else(|| Arc::new(SourceCounts::new(*limits))))
        });
        Self(counts.collect())
    }

    /// Those of a rule, where it has limits.
    #[must_use]
    pub fn get(&self, rule: u32) -> Option<&Arc<SourceCounts>> {
        self.0.get(&rule)
    }
}
