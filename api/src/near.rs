//! What somebody meant who has written a name that there is not.

/// The name among `known` that is most like `word`, if one is.
#[must_use]
pub fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    // Of what is much longer than any name no distance is counted: that takes as long as both are.
    const LONGEST: usize = 64;
    if word.len() > LONGEST {
        return None;
    }
    let furthest = (word.chars().count() / 3).max(1);
    let far = |name: &str| strsim::damerau_levenshtein(word, name);
    // Of names that are as near the one that it is the beginning of.
    let rank = |name: &str| (far(name), !name.starts_with(word));
    let best = known.into_iter().map(|name| (rank(name), name)).min();
    best.filter(|((far, _), _)| *far <= furthest).map(|(_, name)| name)
}
