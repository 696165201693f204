//! Names and bodies of the Runtime API that custom runtimes speak (version 2018-06-01; see
//! `lambda-semantics.md` section 5 for the source of each). Headers are spelled as Lambda sends them: scripts compare them
//! by their letters.

use serde::Serialize;

/// The path prefix of every call.
pub const PREFIX: &str = "/2018-06-01/runtime/";

/// Response header of `next`: the request id.
pub const REQUEST_ID: &str = "Lambda-Runtime-Aws-Request-Id";
/// Response header of `next`: when the invocation times out, milliseconds since the Unix epoch.
pub const DEADLINE_MS: &str = "Lambda-Runtime-Deadline-Ms";
/// Response header of `next`: the function's ARN as the caller qualified it.
pub const INVOKED_ARN: &str = "Lambda-Runtime-Invoked-Function-Arn";
/// Response header of `next`: the trace header.
pub const TRACE_ID: &str = "Lambda-Runtime-Trace-Id";
/// Response header of `next`: the caller's client context.
pub const CLIENT_CONTEXT: &str = "Lambda-Runtime-Client-Context";
/// Request header of the error calls: the error's type.
pub const ERROR_TYPE: &str = "Lambda-Runtime-Function-Error-Type";

/// The body of a refused call.
#[derive(Debug, Serialize)]
pub struct ErrorBody<'a> {
    /// For programs, `InvalidRequestID` for example.
    #[serde(rename = "errorType")]
    pub error_type: &'a str,
    /// For people.
    #[serde(rename = "errorMessage")]
    pub error_message: &'a str,
}

/// The body of an accepted call.
pub const ACCEPTED: &str = "{\"status\":\"OK\"}\n";

/// An error's type as the platform passes it on: kept if it is `Runtime.Xyz` or `Function.Xyz` with letters only,
/// else replaced (Runtime Interface Emulator's rule).
pub fn error_type(given: &str) -> &str {
    for (prefix, unknown) in [("Runtime.", "Runtime.Unknown"), ("Function.", "Function.Unknown")] {
        if let Some(rest) = given.strip_prefix(prefix) {
            let mut letters = rest.chars();
            let capital = letters.next().is_some_and(|c| c.is_ascii_uppercase());
            let more = rest.len() > 1 && letters.all(|c| c.is_ascii_alphabetic());
            return if capital && more { given } else { unknown };
        }
    }
    "Runtime.Unknown"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_types() {
        for (given, want) in [
            ("Runtime.ExitError", "Runtime.ExitError"),
            ("Function.MyError", "Function.MyError"),
            ("Runtime.lower", "Runtime.Unknown"),
            ("Function.X1", "Function.Unknown"),
            ("ValueError", "Runtime.Unknown"),
            ("", "Runtime.Unknown"),
            ("Runtime.", "Runtime.Unknown"),
        ] {
            assert_eq!(error_type(given), want, "{given}");
        }
    }
}
