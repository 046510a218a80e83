//! What the machine said, judged: every story must have said in its own line that it passed, on the kernel that was
//! asked for.

use std::collections::BTreeMap;

/// What begins a line that counts; the machine's script writes them.
const MARK: &str = "##### ";

/// What was heard so far.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    release: Option<String>,
    results: BTreeMap<String, Outcome>,
}

/// What came of a story.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Outcome {
    /// The exit code of `eastgate lab check`
    code: i32,
    /// By the machine's clock
    seconds: u64,
}

impl Verdict {
    /// Takes in a line of the machine.
    pub(super) fn hear(&mut self, line: &str) {
        let Some(told) = line.strip_prefix(MARK) else { return };
        match told.split(' ').collect::<Vec<_>>().as_slice() {
            ["kernel", release] => self.release = Some((*release).to_owned()),
            ["story", story, "exit", code, "seconds", seconds] => {
                if let (Ok(code), Ok(seconds)) = (code.parse(), seconds.parse()) {
                    self.results.insert((*story).to_owned(), Outcome { code, seconds });
                }
            }
            _ => {}
        }
    }

    /// Why it is not true that all of `stories` passed on a kernel of `version`; nothing where it is.
    pub(super) fn problems(&self, version: &str, stories: &[String]) -> Vec<String> {
        let mut problems = Vec::new();
        match &self.release {
            None => problems.push("the machine did not come up".to_owned()),
            Some(release) if release.starts_with(&format!("{version}.")) => {}
            Some(release) => problems.push(format!("the machine ran Linux {release}")),
        }
        for story in stories {
            match self.results.get(story) {
                Some(Outcome { code: 0, .. }) => {}
                Some(Outcome { code, seconds }) => {
                    problems.push(format!("{story}: FAILED with exit code {code} after {seconds} s"));
                }
                None => problems.push(format!("{story}: no result")),
            }
        }
        problems
    }

    /// What to say when there is no problem.
    pub(super) fn closing(&self) -> String {
        let release = self.release.as_deref().unwrap_or_default();
        let each = self.results.iter().map(|(story, outcome)| format!("{story} {} s", outcome.seconds));
        let each = each.collect::<Vec<_>>().join(", ");
        format!("{} stories passed on Linux {release}, by its clock: {each}.", self.results.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: [&str; 6] = [
        "##### kernel 6.1.0-56-cloud-amd64",
        "A title",
        "2 checked, 0 failed",
        "##### story 00-plain exit 0 seconds 9",
        "##### story 01-two exit 0 seconds 21",
        "the end",
    ];

    fn verdict(lines: &[&str]) -> Verdict {
        let mut verdict = Verdict::default();
        lines.iter().for_each(|line| verdict.hear(line));
        verdict
    }

    fn problems(lines: &[&str]) -> Vec<String> {
        verdict(lines).problems("6.1", &["00-plain".to_owned(), "01-two".to_owned()])
    }

    #[test]
    fn all_stories_on_the_right_kernel_is_a_pass() {
        assert!(problems(&GOOD).is_empty());
        assert_eq!(
            verdict(&GOOD).closing(),
            "2 stories passed on Linux 6.1.0-56-cloud-amd64, by its clock: 00-plain 9 s, 01-two 21 s."
        );
    }

    #[test]
    fn everything_else_is_not() {
        let without = |index: usize| {
            let mut lines = GOOD.to_vec();
            lines.remove(index);
            problems(&lines)
        };
        let with = |index: usize, line: &'static str| {
            let mut lines = GOOD;
            lines[index] = line;
            problems(&lines)
        };
        assert_eq!(without(0), ["the machine did not come up"]);
        assert_eq!(without(3), ["00-plain: no result"]);
        assert_eq!(with(0, "##### kernel 6.18.44"), ["the machine ran Linux 6.18.44"]);
        assert_eq!(with(0, "##### kernel 6.10.1"), ["the machine ran Linux 6.10.1"]);
        let failed = ["01-two: FAILED with exit code 1 after 180 s"];
        assert_eq!(with(4, "##### story 01-two exit 1 seconds 180"), failed);
        for torn in [
            "##### story 01-two exit 0",
            "##### story 01-two exit  seconds 5",
            "x##### story 01-two exit 0 seconds 5",
        ] {
            assert_eq!(with(4, torn), ["01-two: no result"], "{torn}");
        }
    }
}
