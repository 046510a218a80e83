//! Bytes as people and programs write them: in hexadecimal digits.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes, shown in hexadecimal digits.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Hex(pub Vec<u8>);

/// What is no hexadecimal text.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NoHex {
    /// A word of another alphabet
    #[error("{0:?} is not in hexadecimal digits")]
    Word(String),
    /// Half of a byte
    #[error("{0:?} ends with half of a byte")]
    Odd(String),
}

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Blanks and colons may stand between bytes, and offsets as tcpdump's `-xx` prints them (`0x0010:`) at the beginning of lines.
impl FromStr for Hex {
    type Err = NoHex;

    fn from_str(text: &str) -> Result<Self, NoHex> {
        let mut bytes = Vec::new();
        for line in text.lines() {
            let line = line.trim();
            let line =
                line.split_once(": ").filter(|(at, _)| at.starts_with("0x")).map_or(line, |(_, rest)| rest);
            for word in line.split([' ', '\t', ':']).filter(|word| !word.is_empty()) {
                let digits = word.as_bytes().chunks(2);
                for pair in digits {
                    let value = |digit: &u8| char::from(*digit).to_digit(16).map(|value| value as u8);
                    let [high, low] = pair else { return Err(NoHex::Odd(word.to_owned())) };
                    let (Some(high), Some(low)) = (value(high), value(low)) else {
                        return Err(NoHex::Word(word.to_owned()));
                    };
                    bytes.push(high << 4 | low);
                }
            }
        }
        Ok(Self(bytes))
    }
}

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Hex {
    fn schema_name() -> Cow<'static, str> {
        "Hex".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "description": "bytes in hexadecimal digits" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_is_read() {
        let read = |text: &str| text.parse::<Hex>().map(|hex| hex.0);
        assert_eq!(read("ff:0A 1b2c\n\t3d"), Ok(vec![0xff, 0x0a, 0x1b, 0x2c, 0x3d]));
        assert_eq!(read("\t0x0000:  ffff 0800\n\t0x0010:  45"), Ok(vec![0xff, 0xff, 8, 0, 0x45]));
        assert_eq!(read(""), Ok(Vec::new()));
        assert_eq!(read("fff"), Err(NoHex::Odd("fff".to_owned())));
        assert_eq!(read("0g"), Err(NoHex::Word("0g".to_owned())));
        assert_eq!(read("é"), Err(NoHex::Word("é".to_owned())));
        let again = Hex(vec![0, 1, 0xfe]);
        assert_eq!(again.to_string().parse(), Ok(again));
    }
}
