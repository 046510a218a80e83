//! `docs/limits.md`: every bound with its number, which is read from the code, and what happens at it.
//!
//! A number stands in braces: `{limits.flows}` is the default of a configuration key, `{limits.flows max}` the most that it may
//! be, `{conntrack/src/expect.rs MOST}` a constant (or `#define`, or a field that is given a number) of that file.

#[path = "limits/rows.rs"]
mod rows;

use std::fmt::Write as _;

use eastgate_config::schema;
use serde_json::Value;

use super::{NOTE, hold, read};
use rows::SECTIONS;

#[test]
fn limits() {
    let schema = schema().to_value();
    let mut page = format!(
        "# Limits\n\n{NOTE}\n\n\
         Every table is bounded, and what happens at the bound is chosen so that whoever fills it pays. Numbers are defaults where a \
         key of the [configuration](configuration.md) is named, and fixed elsewhere. They are read from the code. [architecture.md](architecture.md#limits-and-what-happens-at-them) has how they are kept; \
         [drop reasons](drop-reasons.md) explains the words. How much of everything fits into one site has been measured: \
         [from configuration to tables](architecture.md#from-configuration-to-tables). What eastgate does not do at all is in [the README](../README.md#what-it-cannot-do-yet).\n"
    );
    for (title, about, rows) in SECTIONS {
        write!(page, "\n## {title}\n\n{about}\n\n| bound | number | at it |\n| --- | --- | --- |\n").unwrap();
        for (what, number, at) in *rows {
            writeln!(page, "| {what} | {} | {at} |", filled(number, &schema)).unwrap();
        }
    }
    hold("docs/limits.md", &page);
}

/// Each key of a `limits` or `fastpath` table is in it: a bound that is added is told.
#[test]
fn each_key_that_bounds_is_among_the_limits() {
    let schema = schema().to_value();
    let told: String =
        SECTIONS.iter().flat_map(|(_, _, rows)| rows.iter()).map(|(_, number, _)| *number).collect();
    for table in ["limits", "fastpath", "tenant.T.network.N.limits"] {
        let table = key(&schema, table);
        for name in table["properties"].as_object().unwrap().keys() {
            assert!(told.contains(&format!(".{name}`")), "docs/limits.md says nothing of `{name}`");
        }
    }
}

fn filled(text: &str, schema: &Value) -> String {
    let mut filled = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        let (asked, after) = after.split_once('}').expect("a brace is closed");
        filled += before;
        filled += &number(asked, schema);
        rest = after;
    }
    filled + rest
}

fn number(asked: &str, schema: &Value) -> String {
    let mut words = asked.split_whitespace();
    let (place, what) = (words.next().unwrap(), words.next());
    let Some(name) = what.filter(|_| place.contains('/')) else {
        let key = key(schema, place);
        let field = match what {
            Some("max") => "maximum",
            Some("min") => "minimum",
            _ => "default",
        };
        let choices = key["oneOf"].as_array().or_else(|| key["anyOf"].as_array());
        let found = choices.into_iter().flatten().map(|choice| &choice[field]).find(|value| value.is_u64());
        let found = found.unwrap_or(&key[field]).as_u64();
        return grouped(found.unwrap_or_else(|| panic!("{place} has no {field}: {key}")));
    };
    let text = read(place);
    let value = given(&text, name).unwrap_or_else(|| panic!("{place} gives {name} no number"));
    match (words.next(), &value) {
        (Some(unit), Given::Number(number)) => format!("{} {unit}", number / scale(unit)),
        (_, value) => value.to_string(),
    }
}

fn scale(unit: &str) -> u64 {
    match unit {
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        other => panic!("{other} is no unit"),
    }
}

/// The part of the schema for `a.NAME.b`, in which tables by name have any name.
fn key<'a>(schema: &'a Value, path: &str) -> &'a Value {
    path.split('.').fold(schema, |table, name| {
        let named = &table["properties"][name];
        if named.is_null() { &table["additionalProperties"] } else { named }
    })
}

/// What a file gives a name.
enum Given {
    Number(u64),
    Seconds(u64),
    Rate { per_second: u64, burst: u64 },
}

impl std::fmt::Display for Given {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{}", grouped(*number)),
            Self::Seconds(seconds) if seconds % 60 == 0 && *seconds >= 600 => {
                write!(f, "{} minutes", seconds / 60)
            }
            Self::Seconds(seconds) => write!(f, "{} s", grouped(*seconds)),
            Self::Rate { per_second, burst } => {
                write!(f, "{} a second, {} at once", grouped(*per_second), grouped(*burst))
            }
        }
    }
}

/// `const NAME: T = 1 << 20;`, `#define NAME 32`, `name: 1024,`, `name <= 63`
fn given(text: &str, name: &str) -> Option<Given> {
    let places = [
        (format!("const {name}: "), Some("= ")),
        (format!("#define {name} "), None),
        (format!(" {name}: "), None),
        (format!(" {name} <= "), None),
    ];
    let rest = places.iter().find_map(|(begin, then)| {
        text.match_indices(begin.as_str()).find_map(|(at, _)| {
            let rest = text[at..].strip_prefix(begin.as_str())?;
            let rest = then.map_or(Some(rest), |then| rest.split_once(then).map(|(_, rest)| rest))?;
            let is_number = rest.starts_with(|c: char| c.is_ascii_digit());
            let is_value =
                is_number || rest.starts_with("Duration::from_secs(") || rest.starts_with("Rate {");
            is_value.then_some(rest)
        })
    })?;
    let inside =
        |rest: &str, begin: &str, end: char| rest.strip_prefix(begin)?.split(end).next().map(str::to_owned);
    if let Some(seconds) = inside(rest, "Duration::from_secs(", ')') {
        return Some(Given::Seconds(product(&seconds)?));
    }
    if let Some(fields) = inside(rest, "Rate {", '}') {
        let field = |name: &str| {
            let (_, value) = fields
                .split(',')
                .find_map(|field| field.trim().split_once(": ").filter(|(n, _)| *n == name))?;
            product(value)
        };
        return Some(Given::Rate { per_second: field("per_second")?, burst: field("burst")? });
    }
    let end = rest.find([';', ',', '\n', '}']).unwrap_or(rest.len());
    product(&rest[..end]).map(Given::Number)
}

/// A number as it is written: `4_096`, `160 * 1024`, `1 << 20`.
fn product(text: &str) -> Option<u64> {
    let plain = |text: &str| text.trim().replace('_', "").parse::<u64>().ok();
    if let Some((number, bits)) = text.split_once("<<") {
        return Some(plain(number)? << plain(bits)?);
    }
    text.split('*').map(plain).try_fold(1, |product, factor| Some(product * factor?))
}

/// With a comma between thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[test]
fn numbers_are_read_as_they_are_written() {
    let text = "pub const A: usize = 4_096;\nconst B: u32 = 8 << 20;\n#define C 32\n x { d: 1024, e: Duration::from_secs(1200) }\n\
                const F: Rate = Rate { per_second: 100, burst: 200 };\nconst G: usize = 160 * 1024;\n";
    let told = |name| given(text, name).map(|value| value.to_string());
    let expected = [
        ("A", "4,096"),
        ("B", "8,388,608"),
        ("C", "32"),
        ("d", "1,024"),
        ("e", "20 minutes"),
        ("G", "163,840"),
    ];
    for (name, expected) in expected {
        assert_eq!(told(name).as_deref(), Some(expected), "{name}");
    }
    assert_eq!(told("F").as_deref(), Some("100 a second, 200 at once"));
    assert_eq!(told("H"), None);
}
