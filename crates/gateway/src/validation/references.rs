//! References to functions and taggable resources, from paths and queries.

use super::Violations;
use super::patterns::{self, FUNCTION_NAME, NAMESPACED_FUNCTION_NAME, QUALIFIER, TAGGABLE};
use crate::errors::{Exception, Refusal, not_found};
use model::{AccountId, FunctionArn, FunctionName, FunctionReference, Qualifier, ReferenceError, Region};

/// Who and where we are: references to others are refused.
#[derive(Debug, Clone)]
pub struct Place {
    /// The one account.
    pub account: AccountId,
    /// The one region.
    pub region: Region,
}

/// A function of ours, perhaps with a qualifier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The function.
    pub name: FunctionName,
    /// From the reference or from the query.
    pub qualifier: Option<Qualifier>,
}

/// Which pattern an operation's texts quote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Operations that create or change.
    Plain,
    /// Operations that read, invoke or delete.
    Namespaced,
}

impl Place {
    /// The ARN of a function of ours.
    pub fn arn(&self, name: &FunctionName, qualifier: Option<&Qualifier>) -> FunctionArn {
        FunctionArn {
            region: self.region.clone(),
            account: self.account.clone(),
            name: name.clone(),
            qualifier: qualifier.cloned(),
        }
    }

    /// Reads a reference, and the qualifier that came beside it.
    pub fn function(&self, operation: &str, kind: Kind, text: &str, qualifier: Option<&str>) -> Result<Named, Refusal> {
        let mut violations = Violations::default();
        let reference = check_name(&mut violations, kind, text);
        let qualifier = qualifier.map(|q| check_qualifier(&mut violations, q));
        violations.finish()?;
        let reference = match reference {
            Ok(reference) => reference,
            Err(refusal) => return Err(self.refine(kind, text, refusal)),
        };
        self.is_ours(operation, reference.region.as_ref(), reference.account.as_ref(), text)?;
        let qualifier = match qualifier {
            // `$` may stand anywhere in a qualifier, but no version or alias is called so.
            Some(None) => return Err(not_found(&self.arn(&reference.name, None))),
            Some(Some(qualifier)) => Some(qualifier),
            None => None,
        };
        match (reference.qualifier, qualifier) {
            (Some(derived), Some(given)) if derived != given => Err(Refusal::invalid(
                "The derived qualifier from the function name does not match the specified qualifier.",
            )),
            (derived, given) => Ok(Named { name: reference.name, qualifier: derived.or(given) }),
        }
    }

    /// Reads a reference of an operation that takes no qualifier but, perhaps, `$LATEST`.
    pub fn unqualified(&self, operation: &str, text: &str) -> Result<FunctionName, Refusal> {
        let named = self.function(operation, Kind::Plain, text, None)?;
        match named.qualifier {
            None | Some(Qualifier::Version(model::Version::Latest)) => Ok(named.name),
            Some(_) => Err(Refusal::invalid(
                "This operation is permitted on Lambda functions only. Aliases and versions do not support this \
                 operation. Please specify either a function name or an unqualified function ARN.",
            )),
        }
    }

    /// Reads the resource of a tag operation.
    pub fn taggable(&self, operation: &str, text: &str) -> Result<FunctionName, Refusal> {
        let mut violations = Violations::default();
        violations.length(text, "resource", 1, 10_000);
        violations.pattern(text, "resource", &TAGGABLE);
        violations.finish()?;
        let missing =
            || Refusal::new(Exception::ResourceNotFound, "The resource you requested does not exist.".to_owned());
        let (region, account, resource) = patterns::lambda_resource(text).ok_or_else(missing)?;
        self.is_ours(operation, Region::parse(region).ok().as_ref(), AccountId::parse(account).ok().as_ref(), text)?;
        let function = resource.strip_prefix("function:").ok_or_else(missing)?;
        if function.contains(':') {
            return Err(Refusal::invalid(
                "Tags on function aliases and versions are not supported. Please specify a function ARN.",
            ));
        }
        FunctionName::parse(function).map_err(|_| missing())
    }

    fn is_ours(
        &self,
        operation: &str,
        region: Option<&Region>,
        account: Option<&AccountId>,
        text: &str,
    ) -> Result<(), Refusal> {
        if let Some(theirs) = region.filter(|r| **r != self.region) {
            let text = format!("Functions from '{theirs}' are not reachable in this region ('{}')", self.region);
            return Err(Refusal::new(Exception::ResourceNotFound, text));
        }
        if account.is_some_and(|a| *a != self.account) {
            let text = format!(
                "User: arn:aws:iam::{}:root is not authorized to perform: lambda:{operation} on resource: {text} \
                 because no resource-based policy allows the lambda:{operation} action",
                self.account
            );
            return Err(Refusal::new(Exception::AccessDenied, text));
        }
        Ok(())
    }

    /// Dots are allowed by the pattern for reading, but no function has one in its name.
    fn refine(&self, kind: Kind, text: &str, refusal: Refusal) -> Refusal {
        if kind == Kind::Namespaced && FunctionReference::parse(&text.replace('.', "-")).is_ok() {
            let prefix = format!("arn:aws:lambda:{}:{}:function:", self.region, self.account);
            let name = text.rsplit_once(":function:").map_or(text, |(_, name)| name);
            return Refusal::new(Exception::ResourceNotFound, format!("Function not found: {prefix}{name}"));
        }
        refusal
    }
}

/// Adds what a reference breaks of the service model's constraints.
pub(super) fn check(violations: &mut Violations, kind: Kind, text: &str) {
    // What is refused without being a violation is found again when the reference is read.
    let _ = check_name(violations, kind, text);
}

/// Adds constraint violations; what they do not cover comes back as a refusal.
fn check_name(violations: &mut Violations, kind: Kind, text: &str) -> Result<FunctionReference, Refusal> {
    let refused = || Refusal::invalid("The function name is not valid.");
    let pattern = match kind {
        Kind::Plain => FUNCTION_NAME,
        Kind::Namespaced => NAMESPACED_FUNCTION_NAME,
    };
    match FunctionReference::parse(text) {
        Ok(reference) => Ok(reference),
        Err(ReferenceError::TooLong) => {
            violations.length(text, "functionName", 1, FunctionReference::MAX_CHARS);
            Err(refused())
        }
        Err(ReferenceError::NameTooLong { name }) => {
            // Recorded so: the same words, but the other exception.
            let max = FunctionName::MAX_CHARS;
            let text = format!(
                "1 validation error detected: Value '{name}' at 'functionName' failed to satisfy constraint: Member \
                 must have length less than or equal to {max}"
            );
            Err(Refusal::invalid(text))
        }
        Err(ReferenceError::Shape) => {
            let dotted = kind == Kind::Namespaced && FunctionReference::parse(&text.replace('.', "-")).is_ok();
            if !dotted {
                let constraint = format!("Member must satisfy regular expression pattern: {pattern}");
                violations.add(&text, "functionName", &constraint);
            }
            if text.is_empty() {
                violations.length(text, "functionName", 1, FunctionReference::MAX_CHARS);
            }
            Err(refused())
        }
    }
}

fn check_qualifier(violations: &mut Violations, text: &str) -> Option<Qualifier> {
    violations.length(text, "qualifier", 1, Qualifier::MAX_CHARS);
    violations.pattern(text, "qualifier", &QUALIFIER);
    Qualifier::parse(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place { account: AccountId::parse("000000000000").unwrap(), region: Region::parse("us-east-1").unwrap() }
    }

    fn check(kind: Kind, text: &str, qualifier: Option<&str>, want: &str) {
        let got = match place().function("Invoke", kind, text, qualifier) {
            Ok(named) => format!("{} {}", named.name, named.qualifier.map(|q| q.to_string()).unwrap_or_default()),
            Err(refusal) => format!("{} {} {}", refusal.status, refusal.error_type, refusal.message),
        };
        assert_eq!(got, want);
    }

    #[test]
    fn references() {
        use Kind::{Namespaced, Plain};
        check(Namespaced, "f", None, "f ");
        check(Namespaced, "f:live", Some("live"), "f live");
        check(Plain, "arn:aws:lambda:us-east-1:000000000000:function:f:1", None, "f 1");
        check(
            Namespaced,
            "f:1",
            Some("2"),
            "400 InvalidParameterValueException The derived qualifier from the function name does not match the specified qualifier.",
        );
        check(
            Namespaced,
            "arn:aws:lambda:ap-southeast-1:000000000000:function:f",
            None,
            "404 ResourceNotFoundException Functions from 'ap-southeast-1' are not reachable in this region ('us-east-1')",
        );
        check(
            Namespaced,
            "f",
            Some("invalid-qualifier-with-?-char"),
            r"400 ValidationException 1 validation error detected: Value 'invalid-qualifier-with-?-char' at 'qualifier' failed to satisfy constraint: Member must satisfy regular expression pattern: \$(LATEST(\.PUBLISHED)?)|[a-zA-Z0-9-_$]+",
        );
        check(
            Plain,
            "invalid:function:name",
            None,
            r"400 ValidationException 1 validation error detected: Value 'invalid:function:name' at 'functionName' failed to satisfy constraint: Member must satisfy regular expression pattern: (arn:(aws[a-zA-Z-]*)?:lambda:)?((eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:)?(\d{12}:)?(function:)?([a-zA-Z0-9-_]+)(:(\$LATEST|[a-zA-Z0-9-_]+))?",
        );
        check(
            Plain,
            &"a".repeat(65),
            None,
            &format!(
                "400 InvalidParameterValueException 1 validation error detected: Value '{}' at 'functionName' failed to satisfy constraint: Member must have length less than or equal to 64",
                "a".repeat(65)
            ),
        );
        check(
            Namespaced,
            "a.b",
            None,
            "404 ResourceNotFoundException Function not found: arn:aws:lambda:us-east-1:000000000000:function:a.b",
        );
    }

    #[test]
    fn two_violations_come_together() {
        let refusal = place().function("Invoke", Kind::Namespaced, "a b", Some("")).unwrap_err();
        assert!(refusal.message.starts_with("3 validation errors detected: Value 'a b' at 'functionName'"));
        assert!(refusal.message.contains("; Value '' at 'qualifier'"));
    }

    #[test]
    fn other_accounts() {
        let text = "arn:aws:lambda:us-east-1:111111111111:function:f";
        let refusal = place().function("GetFunction", Kind::Namespaced, text, None).unwrap_err();
        assert_eq!((refusal.status, refusal.error_type), (403, "AccessDeniedException"));
    }

    #[test]
    fn taggable_resources() {
        let check = |text: &str, want: &str| {
            let got = match place().taggable("ListTags", text) {
                Ok(name) => name.to_string(),
                Err(refusal) => format!("{} {}", refusal.error_type, refusal.message),
            };
            assert!(got.starts_with(want), "{got} does not start with {want}");
        };
        check("arn:aws:lambda:us-east-1:000000000000:function:f", "f");
        check(
            "arn:aws:lambda:us-east-1:000000000000:function:f:1",
            "InvalidParameterValueException Tags on function aliases",
        );
        check("arn:aws:lambda:us-east-1:000000000000:layer:l", "ResourceNotFoundException The resource you requested");
        check(
            "arn:aws:something",
            "ValidationException 1 validation error detected: Value 'arn:aws:something' at 'resource'",
        );
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in ".{0,200}", qualifier in proptest::option::of(".{0,140}")) {
            let _ = place().function("Invoke", Kind::Namespaced, &text, qualifier.as_deref());
            let _ = place().taggable("ListTags", &text);
        }
    }
}
