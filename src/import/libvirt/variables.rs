//! Variables of rules: a rule is there once for each of the values that its variables have together.
//!
//! `$NAME` is `$NAME[@0]`: all values, one after the other. Variables of one iterator go in step and have equally many values; those of
//! different iterators make all pairs. `$NAME[1]` is the second value (libvirt's documentation of the filter format, "Usage of variables in
//! filters" and "Element access").

use std::collections::{BTreeMap, BTreeSet};

use super::filter::{Rule, Variables};

/// More copies of one rule than this are refused.
const MOST: usize = 4_096;

/// How a rule takes a variable's values
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Access {
    /// All of them, in step with the others of this number
    Iterator(u32),
    /// This one, counted from 0
    Element(usize),
}

/// What a rule asks for, once for each combination of values, in which no variable is left but its own addresses (`$IP`, `$IPV6`) in
/// `own`: whose those are is checked otherwise.
pub(super) fn expanded(
    rule: &Rule,
    variables: &Variables,
    own: &str,
) -> Result<Vec<BTreeMap<String, String>>, String> {
    let mut copies = vec![rule.asks.clone()];
    let mut iterators: BTreeMap<u32, Vec<(&str, &[String])>> = BTreeMap::new();
    let mut own_of: BTreeMap<u32, usize> = BTreeMap::new();
    for (key, value) in rule.asks.iter().filter(|(key, value)| *key != "comment" && value.starts_with('$')) {
        let (name, access) = parsed(value)?;
        let is_own = key == own && matches!(name, "IP" | "IPV6");
        let values = match variables.get(name) {
            Some(values) => &values[..],
            None if is_own => &[],
            None => return Err(format!("the variable {name} has no value")),
        };
        match access {
            Access::Iterator(number) if is_own => {
                own_of.insert(number, values.len().max(1));
                let plain = format!("${name}");
                copies.iter_mut().for_each(|copy| drop(copy.insert(key.clone(), plain.clone())));
            }
            Access::Iterator(number) => iterators.entry(number).or_default().push((key, values)),
            Access::Element(at) => {
                let Some(one) = values.get(at) else {
                    return Err(format!("the variable {name} has no value {at}: it has {}", values.len()));
                };
                copies.iter_mut().for_each(|copy| drop(copy.insert(key.clone(), one.clone())));
            }
        }
    }
    for (number, in_step) in &iterators {
        let count = in_step.first().map_or(0, |(_, values)| values.len());
        let own = own_of.get(number).copied().unwrap_or(count);
        if in_step.iter().any(|(_, values)| values.len() != count) || own != count {
            return Err("lists of different lengths that go in step: `$NAME[@1]` goes by itself".into());
        }
        if own_of.contains_key(number) && count > 1 {
            return Err("its own addresses in step with other values".into());
        }
        if copies.len().saturating_mul(count) > MOST {
            return Err(format!("values that make more than {MOST} rules of one"));
        }
        let step = |copy: &BTreeMap<String, String>, at: usize| {
            let values = in_step
                .iter()
                .filter_map(|(key, values)| values.get(at).map(|value| ((*key).to_owned(), value.clone())));
            let mut copy = copy.clone();
            copy.extend(values);
            copy
        };
        copies = (0..count).flat_map(|at| copies.iter().map(move |copy| step(copy, at))).collect();
    }
    let mut seen = BTreeSet::new();
    copies.retain(|copy| seen.insert(copy.clone()));
    Ok(copies)
}

/// `$NAME`, `$NAME[@1]` or `$NAME[1]`
fn parsed(value: &str) -> Result<(&str, Access), String> {
    let wrong = || format!("`{value}` is no variable");
    let text = value.strip_prefix('$').ok_or_else(wrong)?;
    let (name, access) = match text.split_once('[') {
        None => (text, Access::Iterator(0)),
        Some((name, index)) => {
            let index = index.strip_suffix(']').ok_or_else(wrong)?.trim();
            let access = match index.strip_prefix('@') {
                Some(number) => Access::Iterator(number.parse().map_err(|_| wrong())?),
                None => Access::Element(index.parse().map_err(|_| wrong())?),
            };
            (name, access)
        }
    };
    let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if is_name { Ok((name, access)) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(asks: &[(&str, &str)]) -> Result<Vec<String>, String> {
        let list = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect::<Vec<_>>();
        let variables = Variables::from([
            ("A".to_owned(), list(&["1", "2"])),
            ("B".to_owned(), list(&["7", "8"])),
            ("C".to_owned(), list(&["3"])),
            ("D".to_owned(), list(&["1", "1"])),
            ("IP".to_owned(), list(&["10.0.0.1", "10.0.0.2"])),
        ]);
        let rule = Rule::asking(asks);
        let copies = expanded(&rule, &variables, "srcipaddr")?;
        let text = |copy: BTreeMap<String, String>| copy.into_values().collect::<Vec<_>>().join(" ");
        Ok(copies.into_iter().map(text).collect())
    }

    #[test]
    fn lists_go_in_step_or_make_all_pairs() {
        let all = |asks: &[(&str, &str)]| values(asks).unwrap().join(", ");
        assert_eq!(all(&[("x", "$A")]), "1, 2");
        assert_eq!(all(&[("x", "$A"), ("y", "$B")]), "1 7, 2 8", "one iterator if nothing is said");
        assert_eq!(all(&[("x", "$A[@1]"), ("y", "$B[@1]")]), "1 7, 2 8");
        assert_eq!(all(&[("x", "$A[@1]"), ("y", "$B[@2]")]), "1 7, 2 7, 1 8, 2 8");
        assert_eq!(all(&[("x", "$A"), ("y", "$B[1]")]), "1 8, 2 8");
        assert_eq!(all(&[("x", "$D"), ("y", "5")]), "1 5", "what comes twice is one rule");
        assert_eq!(all(&[("srcipaddr", "$IP"), ("y", "$B[@1]")]), "$IP 7, $IP 8");
        assert_eq!(all(&[("srcipaddr", "$IPV6"), ("y", "$C")]), "$IPV6 3");
        assert_eq!(all(&[("dstipaddr", "$IP")]), "10.0.0.1, 10.0.0.2");
        assert_eq!(all(&[("comment", "$money")]), "$money");
    }

    #[test]
    fn what_has_no_meaning_is_told() {
        for (asks, why) in [
            (vec![("x", "$A"), ("y", "$C")], "lists of different lengths"),
            (vec![("srcipaddr", "$IP"), ("y", "$C")], "lists of different lengths"),
            (vec![("srcipaddr", "$IP"), ("y", "$B")], "its own addresses in step"),
            (vec![("x", "$E")], "the variable E has no value"),
            (vec![("x", "$A[2]")], "the variable A has no value 2: it has 2"),
            (vec![("x", "$A[@x]")], "`$A[@x]` is no variable"),
            (vec![("x", "$A[1")], "`$A[1` is no variable"),
            (vec![("x", "$")], "`$` is no variable"),
        ] {
            let told = values(&asks).unwrap_err();
            assert!(told.contains(why), "{asks:?}: {told}");
        }
    }
}
