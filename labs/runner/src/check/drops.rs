//! Drop counters of the daemons, before and after.

use std::collections::BTreeMap;

use eastgate_testkit::wait::{SLOW_POLL, until_every};
use serde_json::Value;

use super::job::Job;
use crate::{Options, daemon, error::LabError, record::Record};

/// How long a counter may lag behind the frame that it counts.
const COUNTER_BOUND: std::time::Duration = std::time::Duration::from_secs(30);

/// What the daemons have dropped so far.
#[derive(Debug, Default)]
pub(super) struct Drops(BTreeMap<Key, u64>);

/// How much the counters that the jobs of one wave name have grown.
#[derive(Debug, Default)]
pub(super) struct Growth(BTreeMap<Wanted, Found>);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    host: String,
    vni: Option<u64>,
    reason: String,
    rule: Option<String>,
}

/// A counter, or a sum of them, that an expectation names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Wanted {
    pub(super) at: Option<String>,
    pub(super) vni: u64,
    pub(super) reason: String,
    pub(super) rule: Option<String>,
}

/// What became of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    /// How many jobs of the wave name it: each has sent one frame at least
    jobs: u64,
    /// How many frames it counted during the wave
    frames: u64,
    /// The rules that counted them
    rules: Vec<String>,
}

impl Drops {
    /// Asks every daemon that runs.
    pub(super) fn read(record: &Record, options: &Options) -> Result<Self, LabError> {
        let missing = daemon::missing(record);
        let mut drops = Self::default();
        for host in record.hosts().filter(|host| !missing.iter().any(|gone| gone == host)) {
            let answer = daemon::ask(record, host, &["show", "drops"], options)?;
            for entry in answer["drops"].as_array().into_iter().flatten() {
                let key = Key::new(host, entry);
                *drops.0.entry(key).or_default() += entry["frames"].as_u64().unwrap_or(0);
            }
        }
        Ok(drops)
    }

    /// Waits until every counter that `jobs` name has grown by as many frames as there are jobs that name it, or
    /// the time is over.
    pub(super) fn growth(
        &self,
        record: &Record,
        jobs: &[&Job],
        options: &Options,
    ) -> Result<Growth, LabError> {
        let mut wanted: BTreeMap<Wanted, Found> = BTreeMap::new();
        for key in jobs.iter().filter_map(|job| job.wanted()) {
            wanted.entry(key).or_default().jobs += 1;
        }
        if wanted.is_empty() {
            return Ok(Growth::default());
        }
        let mut failure = None;
        until_every(SLOW_POLL, COUNTER_BOUND, || match Self::read(record, options) {
            Ok(now) => {
                wanted.iter_mut().for_each(|(wanted, found)| self.compare(&now, wanted, found));
                wanted.values().all(Found::is_enough)
            }
            Err(error) => {
                failure = Some(error);
                true
            }
        });
        failure.map_or(Ok(Growth(wanted)), Err)
    }

    /// What has been dropped since, by reason and host, for whoever looks for why something did not arrive.
    pub(super) fn since(&self, before: &Self) -> String {
        let mut dropped: BTreeMap<(&str, &str), u64> = BTreeMap::new();
        for (key, frames) in &self.0 {
            let more = frames.saturating_sub(before.0.get(key).copied().unwrap_or(0));
            if more > 0 {
                *dropped.entry((&key.host, &key.reason)).or_default() += more;
            }
        }
        let each = dropped.iter().map(|((host, reason), frames)| format!("{reason} at {host} +{frames}"));
        each.collect::<Vec<_>>().join(", ")
    }

    fn compare(&self, now: &Self, wanted: &Wanted, found: &mut Found) {
        (found.frames, found.rules) = (0, vec![]);
        for (key, frames) in now.0.iter().filter(|(key, _)| wanted.covers(key)) {
            let more = frames.saturating_sub(self.0.get(key).copied().unwrap_or(0));
            found.frames += more;
            found.rules.extend(key.rule.clone().filter(|_| more > 0));
        }
    }
}

impl Growth {
    /// What became of the counter that a job names: whether it grew enough, and a text for the table.
    pub(super) fn judge(&self, wanted: &Wanted) -> (bool, String) {
        let found = self.0.get(wanted).cloned().unwrap_or_default();
        let by = match found.rules.as_slice() {
            [rule] => format!(" by {rule}"),
            // Which of several checks each rule was for is not known here.
            _ => String::new(),
        };
        let of = if found.jobs > 1 { format!(" for {} checks", found.jobs) } else { String::new() };
        (found.is_enough(), format!("{} +{}{of}{by}", wanted.reason, found.frames))
    }
}

impl Found {
    fn is_enough(&self) -> bool {
        self.jobs > 0 && self.frames >= self.jobs
    }
}

impl Wanted {
    fn covers(&self, key: &Key) -> bool {
        key.reason == self.reason
            // What is dropped before its VNI is known counts under none.
            && key.vni.is_none_or(|vni| vni == self.vni)
            && self.at.as_ref().is_none_or(|at| *at == key.host)
            && self.rule.as_ref().is_none_or(|rule| key.rule.as_ref().is_some_and(|named| named.contains(rule.as_str())))
    }
}

impl Key {
    fn new(host: &str, entry: &Value) -> Self {
        let text = |field: &str| entry[field].as_str().map(str::to_owned);
        Self {
            host: host.into(),
            vni: entry["vni"].as_u64(),
            reason: text("reason").unwrap_or_default(),
            rule: text("rule"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn drops(frames: u64) -> Drops {
        let entry = |vni, rule: Value| json!({"vni": vni, "reason": "ingress-denied", "rule": rule, "port": "p", "new": 1});
        let mut drops = Drops::default();
        drops.0.insert(Key::new("alpha", &entry(5001, json!("acme/web ingress #2"))), frames);
        drops.0.insert(Key::new("alpha", &entry(5002, Value::Null)), 100);
        drops
    }

    fn wanted(rule: Option<&str>) -> Wanted {
        Wanted {
            at: Some("alpha".into()),
            vni: 5001,
            reason: "ingress-denied".into(),
            rule: rule.map(str::to_owned),
        }
    }

    #[test]
    fn each_job_needs_a_frame_of_its_own() {
        let mut found = Found { jobs: 2, ..Found::default() };
        drops(5).compare(&drops(6), &wanted(None), &mut found);
        assert!(!found.is_enough());
        drops(5).compare(&drops(7), &wanted(None), &mut found);
        assert!(found.is_enough());
        assert_eq!((found.frames, found.rules), (2, vec!["acme/web ingress #2".to_owned()]));
    }

    #[test]
    fn another_rule_another_network_and_a_restarted_daemon_do_not_count() {
        let mut found = Found { jobs: 1, ..Found::default() };
        drops(5).compare(&drops(6), &wanted(Some("#3")), &mut found);
        assert_eq!(found.frames, 0);
        assert_eq!(drops(6).since(&drops(5)), "ingress-denied at alpha +1");
        drops(5).compare(&drops(1), &wanted(None), &mut found);
        assert_eq!(found.frames, 0);
        drops(5).compare(&drops(6), &Wanted { vni: 5002, ..wanted(None) }, &mut found);
        assert_eq!(found.frames, 0);
    }
}
