//! Why a request was not carried out: a sentence for a person, a code for a program.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What kind of failure it is. A code that a later version adds is read as [`ErrorCode::Unknown`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorCode {
    /// It is no request: not JSON, of no known kind, with an unknown field or a value out of range.
    Malformed,
    /// It is longer than a request may be.
    TooLong,
    /// Something in it does not apply to what is asked, or something that it needs is missing.
    NotApplicable,
    /// It names something that there is not, or that makes no sense as a whole.
    Invalid,
    /// The configuration is wrong; what is wrong with it comes along as diagnostics.
    Configuration,
    /// As many requests wait as may: the same request may be answered a moment later.
    Busy,
    /// The answer would be longer than an answer may be: ask for less.
    TooLarge,
    /// Nobody says who asks, or whoever does is not known.
    Unauthenticated,
    /// Whoever asks may not.
    Forbidden,
    /// There is nothing of that name to be asked.
    NotFound,
    /// It is there, and cannot be asked for by this method.
    NotAllowed,
    /// What comes along is not said to be JSON.
    MediaType,
    /// It was asked too often: a moment later it is answered.
    Limited,
    /// The daemon ends.
    Stopping,
    /// It went wrong.
    Failed,
    /// A code of another version, or none
    #[default]
    #[serde(other)]
    Unknown,
}

impl ErrorCode {
    /// The HTTP status that goes with it (RFC 9110 section 15).
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::Malformed | Self::NotApplicable => 400,
            Self::Unauthenticated => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::NotAllowed => 405,
            Self::TooLong => 413,
            Self::MediaType => 415,
            Self::Invalid | Self::Configuration | Self::TooLarge => 422,
            Self::Limited => 429,
            Self::Failed | Self::Unknown => 500,
            Self::Busy | Self::Stopping => 503,
        }
    }
}

/// Why a request was not carried out.
#[derive(Clone, PartialEq, Debug, thiserror::Error, JsonSchema, Serialize, Deserialize)]
#[error("{text}")]
pub struct Failure {
    /// For a person
    #[serde(rename = "error")]
    pub text: String,
    /// For a program
    #[serde(default)]
    pub code: ErrorCode,
    /// What is wrong with the configuration, when it is that: a list as of `eastgate check -o json`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diagnostics: Option<Value>,
}

impl Failure {
    /// One of this kind.
    #[must_use]
    pub fn new(code: ErrorCode, text: impl Into<String>) -> Self {
        Self { text: text.into(), code, diagnostics: None }
    }

    /// The daemon ends, and takes no request any more.
    #[must_use]
    pub fn stopping() -> Self {
        Self::new(ErrorCode::Stopping, "the daemon is stopping")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_words_and_those_of_other_versions_are_read() {
        let text = serde_json::to_string(&Failure::new(ErrorCode::TooLarge, "much")).unwrap();
        assert_eq!(text, r#"{"error":"much","code":"too-large"}"#);
        for (told, code) in [
            (r#"{"error":"x"}"#, ErrorCode::Unknown),
            (r#"{"error":"x","code":"some-day"}"#, ErrorCode::Unknown),
            (r#"{"error":"x","code":"busy"}"#, ErrorCode::Busy),
        ] {
            let read: Failure = serde_json::from_str(told).unwrap();
            assert_eq!((read.text.as_str(), read.code), ("x", code), "{told}");
        }
    }
}
