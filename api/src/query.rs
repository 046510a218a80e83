//! Filters as the query of a URL (RFC 3986 section 3.4), and read from one again.

use std::fmt::Write as _;

use eastgate_wire::names;
use serde_json::{Map, Value};

use crate::{Criterion, ErrorCode, Failure, Filter, nearest};

/// A filter as a query: nothing where it asks for everything.
pub(super) fn write(filter: &Filter) -> String {
    let fields = serde_json::to_value(filter).unwrap_or_default();
    let mut query = String::new();
    for criterion in Criterion::ALL {
        let text = match fields.get(criterion.name()) {
            None | Some(Value::Null) => continue,
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        };
        if !query.is_empty() {
            query.push('&');
        }
        query.push_str(criterion.name());
        query.push('=');
        escape(&text, &mut query);
    }
    query
}

/// What only the characters that mean nothing in a query (RFC 3986 section 2.3) stand for themselves in.
fn escape(text: &str, to: &mut String) {
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => to.push(byte.into()),
            // Writing to a string does not fail.
            _ => _ = write!(to, "%{byte:02X}"),
        }
    }
}

/// Names and values of a query. A plus is a blank, as forms write it.
///
/// # Errors
/// Where it is not well formed, or not UTF-8.
pub(super) fn pairs(query: &str) -> Result<Vec<(String, String)>, Failure> {
    let parts = query.split('&').filter(|part| !part.is_empty());
    let pair = |part: &str| {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        Ok((unescape(name)?, unescape(value)?))
    };
    parts.map(pair).collect()
}

fn unescape(text: &str) -> Result<String, Failure> {
    let malformed = || {
        let text = format!("`{text}` is no text of a query: % stands before two hexadecimal digits of UTF-8");
        Failure::new(ErrorCode::Malformed, text)
    };
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
                let (Some(high), Some(low)) = (digit(), digit()) else { return Err(malformed()) };
                (high << 4 | low) as u8
            }
            other => other,
        });
    }
    String::from_utf8(bytes).map_err(|_| malformed())
}

/// The filter of a query that may have these criteria; `others` are names that the route takes beside them.
///
/// # Errors
/// A name that there is not, or twice, and a value that its criterion does not have.
pub(super) fn read(
    route: &str,
    pairs: &[(String, String)],
    known: &[Criterion],
    others: &[&str],
) -> Result<Filter, Failure> {
    let mut fields = Map::new();
    for (name, value) in pairs.iter().filter(|(name, _)| !others.contains(&name.as_str())) {
        let Some(criterion) = known.iter().find(|criterion| criterion.name() == name) else {
            return Err(unknown(route, name, known, others));
        };
        let value = typed(*criterion, value)?;
        // Alone, so that what is wrong is told of the one that is.
        let alone = Map::from_iter([(name.clone(), value.clone())]);
        serde_json::from_value::<Filter>(alone.into()).map_err(|error| bad(*criterion, &error))?;
        if fields.insert(name.clone(), value).is_some() {
            let text = format!("`{name}` is given twice: {route} takes it once");
            return Err(Failure::new(ErrorCode::Malformed, text));
        }
    }
    serde_json::from_value(fields.into())
        .map_err(|error| Failure::new(ErrorCode::Malformed, error.to_string()))
}

fn bad(criterion: Criterion, error: &dyn std::fmt::Display) -> Failure {
    Failure::new(ErrorCode::Malformed, format!("`{}`: {error}", criterion.name()))
}

/// That `route` has no parameter of this name.
pub(super) fn unknown(route: &str, name: &str, known: &[Criterion], others: &[&str]) -> Failure {
    let names: Vec<&str> =
        known.iter().map(|criterion| criterion.name()).chain(others.iter().copied()).collect();
    let shown: String = name.chars().take(64).collect();
    let mut text = format!("`{route}` has no parameter `{shown}`; ");
    match nearest(name, names.iter().copied()) {
        Some(near) => text += &format!("did you mean `{near}`? It has {}", names.join(", ")),
        None if names.is_empty() => text += "it takes none",
        None => text += &format!("it has {}", names.join(", ")),
    }
    Failure::new(ErrorCode::NotApplicable, text)
}

/// A value of the JSON type that the criterion has.
fn typed(criterion: Criterion, text: &str) -> Result<Value, Failure> {
    let number = || {
        let not = |_| bad(criterion, &format!("`{text}` is not a number"));
        text.parse::<u64>().map(Value::from).map_err(not)
    };
    Ok(match criterion {
        Criterion::Vni | Criterion::Port | Criterion::Sport | Criterion::Dport | Criterion::Limit => {
            number()?
        }
        Criterion::Proto => names::protocol_number(text).map_or_else(number, |proto| Ok(proto.into()))?,
        Criterion::All | Criterion::Audit => boolean(criterion.name(), text)?.into(),
        _ => text.into(),
    })
}

/// Yes or no. A name without a value says yes.
///
/// # Errors
/// Anything else.
pub(super) fn boolean(name: &str, text: &str) -> Result<bool, Failure> {
    match text {
        "" | "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(Failure::new(ErrorCode::Malformed, format!("`{name}` is true or false, not `{text}`"))),
    }
}
