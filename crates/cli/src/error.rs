//! Why a command failed, what the exit code says, and what to do next.

use std::io;
use std::path::PathBuf;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line or `tidegate.toml` asks for something that cannot be.
    #[error("{what}")]
    Usage {
        /// What is wrong.
        what: String,
        /// What to do.
        help: String,
    },
    /// A file or folder of the user could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The package could not be built.
    #[error("cannot package {}", path.display())]
    Package {
        /// The entry that was being added.
        path: PathBuf,
        /// Why.
        #[source]
        source: zip::result::ZipError,
    },
    /// The request could not be signed with these credentials.
    #[error("cannot sign the request")]
    Sign(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// No answer.
    #[error("cannot reach the server at {endpoint}")]
    Reach {
        /// Where it should be.
        endpoint: String,
        /// Why.
        #[source]
        source: Box<ureq::Error>,
    },
    /// The server said no.
    #[error("{operation}: {message} ({code})")]
    Refused {
        /// The API operation.
        operation: &'static str,
        /// The HTTP status.
        status: u16,
        /// The error's name.
        code: String,
        /// The server's words.
        message: String,
    },
    /// An answer that is not of the API.
    #[error("the answer to {operation} is not one that a Tidegate server gives: {what}")]
    Answer {
        /// The API operation.
        operation: &'static str,
        /// What is odd about it.
        what: String,
    },
    /// The function was stored, but cannot run.
    #[error("{name} is not ready: {reason}")]
    NotReady {
        /// The function.
        name: String,
        /// The server's reason.
        reason: String,
    },
    /// The function was invoked and failed.
    #[error("{name} failed: {what}")]
    FunctionFailed {
        /// The function.
        name: String,
        /// Error type and message.
        what: String,
    },
    /// The output could not be written.
    #[error("cannot write the output")]
    Print(#[source] io::Error),
}

impl Error {
    /// A wrong use.
    pub fn usage(what: impl Into<String>, help: impl Into<String>) -> Error {
        Error::Usage { what: what.into(), help: help.into() }
    }

    /// What a script sees.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::FunctionFailed { .. } => 1,
            Error::Usage { .. } | Error::Read { .. } | Error::Package { .. } | Error::Sign(_) => 2,
            Error::Refused { .. } | Error::Answer { .. } | Error::NotReady { .. } | Error::Print(_) => 3,
            Error::Reach { .. } => 4,
        }
    }

    /// What to do next.
    pub fn help(&self) -> String {
        match self {
            Error::Usage { help, .. } => help.clone(),
            Error::Read { .. } => "check that the path is right and that you may read it".to_owned(),
            Error::Package { .. } => "leave the file out with `exclude` in tidegate.toml, or repair it".to_owned(),
            Error::Sign(_) => "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN".to_owned(),
            Error::Reach { .. } => "start a server with `tidegate serve`, or name another one with --endpoint-url or \
                 AWS_ENDPOINT_URL_LAMBDA"
                .to_owned(),
            Error::Refused { code, status, .. } => refusal_help(code, *status).to_owned(),
            Error::Answer { .. } => "check that --endpoint-url names a Tidegate server".to_owned(),
            Error::NotReady { .. } => "correct what the reason says and deploy again".to_owned(),
            Error::FunctionFailed { name, .. } => {
                format!("`tidegate logs {name}` shows its log; --tail shows the end of it with each invocation")
            }
            Error::Print(_) => "check the disk or the program that reads the output".to_owned(),
        }
    }
}

fn refusal_help(code: &str, status: u16) -> &'static str {
    match code {
        "MissingAuthenticationTokenException" => {
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; `tidegate credentials` prints the server's"
        }
        "UnrecognizedClientException" | "IncompleteSignatureException" | "ExpiredTokenException" => {
            "check AWS_ACCESS_KEY_ID and AWS_SESSION_TOKEN; `tidegate credentials` prints the server's keys"
        }
        "InvalidSignatureException" => {
            "check AWS_SECRET_ACCESS_KEY, the region and this machine's clock; `tidegate credentials` prints the \
             server's keys"
        }
        "ResourceNotFoundException" => "`tidegate list` shows the functions that there are",
        "ResourceConflictException" | "ResourceNotReadyException" => {
            "wait until the function's pending change is done, then try again"
        }
        "TooManyRequestsException" => "try again in a moment, or ask for fewer invocations at once",
        "RequestEntityTooLargeException" | "RequestTooLargeException" => "send less; `exclude` makes a package smaller",
        "CodeStorageExceededException" => "delete functions that are no longer needed",
        _ if status >= 500 => "look at the server's own log, then try again",
        _ => "change the request as the message says",
    }
}
