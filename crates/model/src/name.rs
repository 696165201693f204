//! Names that users choose, parsed once at the door and trusted afterwards.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// Why a text is not a name of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text is empty.
    #[error("{what} must not be empty")]
    Empty {
        /// The kind of name.
        what: &'static str,
    },
    /// The text is longer than the kind allows.
    #[error("{what} must be at most {max} characters long")]
    TooLong {
        /// The kind of name.
        what: &'static str,
        /// The most characters.
        max: usize,
    },
    /// A character that the kind does not allow.
    #[error("{what} may hold only {allowed}")]
    Character {
        /// The kind of name.
        what: &'static str,
        /// The allowed characters, for people.
        allowed: &'static str,
    },
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-' || c == '_'
}

/// A function's name: 1 to 64 characters of `[a-zA-Z0-9-_]`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FunctionName(Arc<str>);

impl FunctionName {
    /// The most characters in a name.
    pub const MAX_CHARS: usize = 64;

    /// Reads a name; it names no account, region or qualifier.
    pub fn parse(text: &str) -> Result<FunctionName, NameError> {
        let what = "function name";
        if text.is_empty() {
            return Err(NameError::Empty { what });
        }
        if !text.chars().all(is_word) {
            return Err(NameError::Character { what, allowed: "letters, digits, '-' and '_'" });
        }
        if text.len() > Self::MAX_CHARS {
            return Err(NameError::TooLong { what, max: Self::MAX_CHARS });
        }
        Ok(FunctionName(text.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for FunctionName {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        FunctionName::parse(&text)
    }
}

impl From<FunctionName> for String {
    fn from(name: FunctionName) -> String {
        name.0.to_string()
    }
}

impl fmt::Display for FunctionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for FunctionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A version of a function: the mutable `$LATEST`, or a published number from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Version {
    /// `$LATEST`.
    Latest,
    /// A published, immutable version.
    Number(u64),
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Version::Latest => f.write_str("$LATEST"),
            Version::Number(n) => write!(f, "{n}"),
        }
    }
}

/// The part of a reference that names a version or an alias.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Qualifier {
    /// A version, `$LATEST` included.
    Version(Version),
    /// An alias: not all digits, `[a-zA-Z0-9-_]`.
    Alias(String),
}

impl Qualifier {
    /// The most characters in a qualifier.
    pub const MAX_CHARS: usize = 128;

    /// Reads a qualifier: `$LATEST`, digits, or an alias name.
    pub fn parse(text: &str) -> Result<Qualifier, NameError> {
        let what = "qualifier";
        if text.is_empty() {
            return Err(NameError::Empty { what });
        }
        if text == "$LATEST" {
            return Ok(Qualifier::Version(Version::Latest));
        }
        if !text.chars().all(|c| is_word(c) || c == '$') {
            return Err(NameError::Character { what, allowed: "letters, digits, '-', '_' and '$'" });
        }
        if text.len() > Self::MAX_CHARS {
            return Err(NameError::TooLong { what, max: Self::MAX_CHARS });
        }
        match text.parse::<u64>() {
            Ok(n) => Ok(Qualifier::Version(Version::Number(n))),
            Err(_) => Ok(Qualifier::Alias(text.to_owned())),
        }
    }
}

impl fmt::Display for Qualifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Qualifier::Version(version) => version.fmt(f),
            Qualifier::Alias(name) => f.write_str(name),
        }
    }
}

/// A twelve-digit account number.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AccountId(String);

impl AccountId {
    /// Reads exactly twelve ASCII digits.
    pub fn parse(text: &str) -> Result<AccountId, NameError> {
        if text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit()) {
            Ok(AccountId(text.to_owned()))
        } else {
            Err(NameError::Character { what: "account id", allowed: "exactly twelve digits" })
        }
    }

    /// The account as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A region such as `us-east-1`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Region(String);

impl Region {
    /// Reads a region of the shape that the Lambda service model gives:
    /// `(eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d`.
    pub fn parse(text: &str) -> Result<Region, NameError> {
        let refuse = || NameError::Character { what: "region", allowed: "the shape us-east-1" };
        let rest = text.strip_prefix("eusc-").unwrap_or(text);
        let parts: Vec<&str> = rest.split('-').collect();
        let (land, middle, direction, number) = match parts.as_slice() {
            [land, direction, number] => (*land, None, *direction, *number),
            [land, middle, direction, number] => (*land, Some(*middle), *direction, *number),
            _ => return Err(refuse()),
        };
        let lower = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_lowercase());
        let middle_ok = middle.is_none_or(|m| {
            m == "gov" || m.strip_prefix("iso").is_some_and(|r| r.len() <= 1 && (r.is_empty() || lower(r)))
        });
        let digit = number.len() == 1 && number.as_bytes()[0].is_ascii_digit();
        if land.len() == 2 && lower(land) && middle_ok && lower(direction) && digit {
            Ok(Region(text.to_owned()))
        } else {
            Err(refuse())
        }
    }

    /// The region as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn function_names() {
        for ok in ["a", "A-b_9", &"x".repeat(64)] {
            assert!(FunctionName::parse(ok).is_ok(), "{ok}");
        }
        for bad in ["", "a b", "a:b", "ä", "a/b", &"x".repeat(65)] {
            assert!(FunctionName::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn qualifiers() {
        assert_eq!(Qualifier::parse("$LATEST"), Ok(Qualifier::Version(Version::Latest)));
        assert_eq!(Qualifier::parse("12"), Ok(Qualifier::Version(Version::Number(12))));
        assert_eq!(Qualifier::parse("live"), Ok(Qualifier::Alias("live".into())));
        assert!(Qualifier::parse("a?b").is_err());
        assert!(Qualifier::parse("").is_err());
    }

    #[test]
    fn regions() {
        for ok in ["us-east-1", "us-gov-west-1", "us-isob-east-1", "us-iso-east-1", "eusc-de-east-1"] {
            assert!(Region::parse(ok).is_ok(), "{ok}");
        }
        for bad in ["", "us", "us-east", "us-east-11", "US-east-1", "us-foo-east-1", "us--1"] {
            assert!(Region::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn accounts() {
        assert!(AccountId::parse("000000000000").is_ok());
        assert!(AccountId::parse("1").is_err());
        assert!(AccountId::parse("00000000000a").is_err());
    }
}
