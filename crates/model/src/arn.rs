//! Function references as users write them: a name, a partial ARN or a full ARN, each with an optional
//! qualifier. The accepted shape is that of the Lambda service model.

use crate::name::{AccountId, FunctionName, NameError, Qualifier, Region, Version};
use std::fmt;

/// The ARN of a function, without or with a qualifier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionArn {
    /// The region.
    pub region: Region,
    /// The owner.
    pub account: AccountId,
    /// The function.
    pub name: FunctionName,
    /// The version or alias; `None` is the unqualified ARN.
    pub qualifier: Option<Qualifier>,
}

impl FunctionArn {
    /// The same function with another qualifier.
    pub fn with(&self, qualifier: Qualifier) -> FunctionArn {
        FunctionArn { qualifier: Some(qualifier), ..self.clone() }
    }

    /// The same function, qualified by a version.
    pub fn with_version(&self, version: Version) -> FunctionArn {
        self.with(Qualifier::Version(version))
    }
}

impl fmt::Display for FunctionArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (region, account, name) = (self.region.as_str(), self.account.as_str(), self.name.as_str());
        for part in ["arn:aws:lambda:", region, ":", account, ":function:", name] {
            f.write_str(part)?;
        }
        match &self.qualifier {
            Some(qualifier) => write!(f, ":{qualifier}"),
            None => Ok(()),
        }
    }
}

/// A reference to a function, as far as its text says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionReference {
    /// The region, when a full ARN named one.
    pub region: Option<Region>,
    /// The account, when an ARN named one.
    pub account: Option<AccountId>,
    /// The function.
    pub name: FunctionName,
    /// The qualifier behind the name, if any.
    pub qualifier: Option<Qualifier>,
}

/// Why a text is not a function reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// The whole text is longer than [`FunctionReference::MAX_CHARS`].
    #[error("a function reference is at most 140 characters long")]
    TooLong,
    /// The name part alone is longer than [`FunctionName::MAX_CHARS`].
    #[error("a function name is at most 64 characters long")]
    NameTooLong {
        /// The name part.
        name: String,
    },
    /// Not of the shape name, partial ARN or full ARN.
    #[error("not a function name, partial ARN or full ARN")]
    Shape,
}

impl FunctionReference {
    /// The most characters in a reference, ARN included (Lambda service model).
    pub const MAX_CHARS: usize = 140;

    /// Reads `name`, `name:qualifier`, `account:function:name[:qualifier]`, `function:name[:qualifier]`
    /// or `arn:aws:lambda:region:account:function:name[:qualifier]`.
    pub fn parse(text: &str) -> Result<FunctionReference, ReferenceError> {
        if text.chars().count() > Self::MAX_CHARS {
            return Err(ReferenceError::TooLong);
        }
        let mut parts: Vec<&str> = text.split(':').collect();
        parts.reverse();
        let take_if = |test: &dyn Fn(&str) -> bool, parts: &mut Vec<&str>| {
            let matches = parts.len() > 1 && parts.last().is_some_and(|p| test(p));
            if matches { parts.pop().map(str::to_owned) } else { None }
        };
        if parts.last() == Some(&"arn") {
            let partition_ok =
                parts.len() > 3 && is_partition(parts[parts.len() - 2]) && parts[parts.len() - 3] == "lambda";
            if !partition_ok {
                return Err(ReferenceError::Shape);
            }
            parts.truncate(parts.len() - 3);
        }
        let region = take_if(&|p| Region::parse(p).is_ok(), &mut parts);
        let account = take_if(&|p| AccountId::parse(p).is_ok(), &mut parts);
        take_if(&|p| p == "function", &mut parts);
        let (name, qualifier) = match parts.as_slice() {
            [name] => (*name, None),
            [qualifier, name] => (*name, Some(*qualifier)),
            _ => return Err(ReferenceError::Shape),
        };
        let name = match FunctionName::parse(name) {
            Ok(name) => name,
            Err(NameError::TooLong { .. }) => {
                return Err(ReferenceError::NameTooLong { name: name.to_owned() });
            }
            Err(NameError::Empty { .. } | NameError::Character { .. }) => return Err(ReferenceError::Shape),
        };
        let qualifier = match qualifier {
            None => None,
            Some(text) if text != "$LATEST" && text.contains('$') => return Err(ReferenceError::Shape),
            Some(text) => Some(Qualifier::parse(text).map_err(|_| ReferenceError::Shape)?),
        };
        Ok(FunctionReference {
            region: region.and_then(|r| Region::parse(&r).ok()),
            account: account.and_then(|a| AccountId::parse(&a).ok()),
            name,
            qualifier,
        })
    }
}

fn is_partition(text: &str) -> bool {
    text.strip_prefix("aws").is_some_and(|rest| rest.chars().all(|c| c.is_ascii_alphabetic() || c == '-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, want: &str) {
        let got = match FunctionReference::parse(text) {
            Ok(r) => format!(
                "{}|{}|{}|{}",
                r.region.map(|r| r.to_string()).unwrap_or_default(),
                r.account.map(|a| a.to_string()).unwrap_or_default(),
                r.name,
                r.qualifier.map(|q| q.to_string()).unwrap_or_default()
            ),
            Err(error) => format!("{error:?}"),
        };
        assert_eq!(got, want, "{text}");
    }

    #[test]
    fn accepted_shapes() {
        check("f", "||f|");
        check("f:live", "||f|live");
        check("f:$LATEST", "||f|$LATEST");
        check("function:f", "||f|");
        check("000000000000:function:f", "|000000000000|f|");
        check("000000000000:function:f:3", "|000000000000|f|3");
        check("arn:aws:lambda:us-east-1:000000000000:function:f", "us-east-1|000000000000|f|");
        check("arn:aws-cn:lambda:us-east-1:000000000000:function:f:a", "us-east-1|000000000000|f|a");
        check("function", "||function|");
        check("000000000000", "||000000000000|");
    }

    #[test]
    fn refused_shapes() {
        for text in
            ["", ":", "f:", "a:b:c", "invalid:function:name", "arn:aws:s3:::x", "f:$latest", "arn:aws:lambda", "f/g"]
        {
            check(text, "Shape");
        }
        check(&"a".repeat(141), "TooLong");
        check(&"a".repeat(65), &format!("NameTooLong {{ name: {:?} }}", "a".repeat(65)));
    }

    #[test]
    fn prints_what_it_reads() {
        let text = "arn:aws:lambda:eu-west-1:123456789012:function:f:live";
        let r = FunctionReference::parse(text).unwrap();
        let arn = FunctionArn {
            region: r.region.unwrap(),
            account: r.account.unwrap(),
            name: r.name,
            qualifier: r.qualifier,
        };
        assert_eq!(arn.to_string(), text);
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in ".{0,150}") {
            let _ = FunctionReference::parse(&text);
        }
    }
}
