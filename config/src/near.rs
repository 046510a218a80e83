//! What somebody meant who has written a name that there is not.

use std::fmt;

/// The names that could have been meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Near {
    best: Option<String>,
    known: Vec<String>,
}

impl Near {
    /// Looks for the name most like `word` among `known`.
    pub fn new<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        let mut known: Vec<&str> = known.into_iter().collect();
        known.sort_unstable();
        let lower = word.to_lowercase();
        let distance = |name: &str| strsim::damerau_levenshtein(&lower, &name.to_lowercase());
        let furthest = (word.chars().count() / 3).max(1);
        let best = known.iter().map(|name| (distance(name), *name)).min().filter(|(far, _)| *far <= furthest);
        let best = best.map(|(_, name)| name.to_owned());
        Self { best, known: known.into_iter().take(Self::SHOWN + 1).map(str::to_owned).collect() }
    }

    /// More names than this are not listed.
    const SHOWN: usize = 24;
}

impl fmt::Display for Near {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.best, self.known.as_slice()) {
            (Some(best), _) => write!(f, "did you mean `{best}`?"),
            (None, []) => f.write_str("there is none yet"),
            (None, known) => {
                let shown: Vec<String> =
                    known.iter().take(Self::SHOWN).map(|name| format!("`{name}`")).collect();
                let more = if known.len() > Self::SHOWN { ", ..." } else { "" };
                write!(f, "known: {}{more}", shown.join(", "))
            }
        }
    }
}
