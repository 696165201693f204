//! What the public sees of a failure: one table from exceptions to status codes and letter cases, and one mapping from
//! each inner error to an exception.
//!
//! Source of the table: the Lambda service model (`lambda-operations.md`); of the texts: answers recorded on AWS
//! (`lambda-errors.md`).

use crate::auth::AuthError;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use control::{NotProvisioned, PackageError, RemoteError, WeightFault};
use model::invocation::ThrottleReason;
use model::snapshot::INITIALIZING;
use model::{FunctionArn, Qualifier};
use router::NoRoute;
use serde_json::{Map, Value};
use std::error::Error as StdError;

/// The exceptions that are answered here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exception {
    /// Not allowed.
    AccessDenied,
    /// A CodeSigningConfig that does not exist.
    CodeSigningConfigNotFound,
    /// Too many bytes of code in the account.
    CodeStorageExceeded,
    /// A business rule is broken.
    InvalidParameterValue,
    /// An invocation's payload is not JSON.
    InvalidRequestContent,
    /// The caller's revision id is old.
    PreconditionFailed,
    /// Nothing is provisioned for the version or alias.
    ProvisionedConcurrencyConfigNotFound,
    /// A management request is too large; outside the service model, but recorded.
    RequestEntityTooLarge,
    /// The client took too long; outside the service model.
    RequestTimeout,
    /// An invocation's payload is too large.
    RequestTooLarge,
    /// Exists already, or is being changed.
    ResourceConflict,
    /// Does not exist.
    ResourceNotFound,
    /// The body's JSON is of the wrong shape; outside the service model.
    Serialization,
    /// The platform failed.
    Service,
    /// The server is going down; outside the service model.
    ServiceUnavailable,
    /// A hook that runs after the restore of a snapshot failed.
    SnapStart,
    /// A snapshot is being taken.
    SnapStartNotReady,
    /// The restore of a snapshot took too long.
    SnapStartTimeout,
    /// Throttled.
    TooManyRequests,
    /// No such operation, or one that Tidegate does not offer; outside the service model.
    UnknownOperation,
    /// A constraint of the service model is broken; outside the service model, but recorded.
    Validation,
}

/// Which member of the body holds the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Member {
    Upper,
    Lower,
}

/// Who is to blame: the value of the body's `Type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    User,
    Service,
    /// No `Type` in the body.
    Unsaid,
}

impl Exception {
    /// Name without the suffix, status, message member, fault.
    const fn row(self) -> (&'static str, u16, Member, Fault) {
        use Exception as E;
        use Fault::{Service, Unsaid, User};
        use Member::{Lower, Upper};
        match self {
            E::AccessDenied => ("AccessDeniedException", 403, Upper, Unsaid),
            E::CodeSigningConfigNotFound => ("CodeSigningConfigNotFoundException", 404, Upper, User),
            E::CodeStorageExceeded => ("CodeStorageExceededException", 400, Lower, User),
            E::InvalidParameterValue => ("InvalidParameterValueException", 400, Lower, User),
            E::InvalidRequestContent => ("InvalidRequestContentException", 400, Lower, User),
            E::PreconditionFailed => ("PreconditionFailedException", 412, Lower, User),
            E::ProvisionedConcurrencyConfigNotFound => {
                ("ProvisionedConcurrencyConfigNotFoundException", 404, Lower, User)
            }
            E::RequestEntityTooLarge => ("RequestEntityTooLargeException", 413, Lower, Unsaid),
            E::RequestTimeout => ("RequestTimeoutException", 408, Lower, User),
            E::RequestTooLarge => ("RequestTooLargeException", 413, Lower, User),
            E::ResourceConflict => ("ResourceConflictException", 409, Lower, User),
            E::ResourceNotFound => ("ResourceNotFoundException", 404, Upper, User),
            E::Serialization => ("SerializationException", 400, Lower, User),
            E::Service => ("ServiceException", 500, Upper, Service),
            E::ServiceUnavailable => ("ServiceUnavailableException", 503, Upper, Service),
            E::SnapStart => ("SnapStartException", 400, Upper, User),
            E::SnapStartNotReady => ("SnapStartNotReadyException", 409, Upper, User),
            E::SnapStartTimeout => ("SnapStartTimeoutException", 408, Upper, User),
            E::TooManyRequests => ("TooManyRequestsException", 429, Lower, User),
            E::UnknownOperation => ("UnknownOperationException", 404, Upper, User),
            E::Validation => ("ValidationException", 400, Lower, Unsaid),
        }
    }
}

/// A failure as it goes over the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// The value of `x-amzn-ErrorType`.
    pub error_type: &'static str,
    /// The message alone.
    pub message: String,
    /// The value of `Retry-After`, seconds.
    pub retry_after_s: Option<u32>,
    member: Member,
    fault: Fault,
    reason: Option<ThrottleReason>,
}

impl Refusal {
    /// A failure of a kind, with its message.
    pub fn new(exception: Exception, message: impl Into<String>) -> Refusal {
        let (error_type, status, member, fault) = exception.row();
        let message = message.into();
        Refusal { status, error_type, message, retry_after_s: None, member, fault, reason: None }
    }

    /// Short for the most frequent kind.
    pub fn invalid(message: impl Into<String>) -> Refusal {
        Refusal::new(Exception::InvalidParameterValue, message)
    }

    /// The same for the texts that AWS sends without saying whose fault it was.
    fn untyped(message: String) -> Refusal {
        Refusal { fault: Fault::Unsaid, ..Refusal::invalid(message) }
    }

    /// The platform failed; what exactly is for the operator, so it is logged and not told.
    pub fn platform(cause: &(dyn StdError + 'static)) -> Refusal {
        tracing::error!(error = cause, "a request failed");
        Refusal::new(Exception::Service, PLATFORM_FAILED)
    }

    /// The body as JSON text.
    pub fn body(&self) -> String {
        let mut body = Map::new();
        if let Some(reason) = self.reason {
            body.insert("Reason".into(), reason.to_string().into());
        }
        match self.fault {
            Fault::User => body.insert("Type".into(), "User".into()),
            Fault::Service => body.insert("Type".into(), "Service".into()),
            Fault::Unsaid => None,
        };
        let member = match self.member {
            Member::Upper => "Message",
            Member::Lower => "message",
        };
        body.insert(member.into(), self.message.as_str().into());
        Value::Object(body).to_string()
    }
}

/// AWS's own words for a failure that is not the caller's.
const PLATFORM_FAILED: &str = "An error occurred and the request cannot be processed.";

impl From<AuthError> for Refusal {
    fn from(error: AuthError) -> Refusal {
        Refusal {
            error_type: error.error_type(),
            fault: Fault::Unsaid,
            member: Member::Lower,
            ..Refusal::new(Exception::AccessDenied, error.to_string())
        }
    }
}

/// AWS's words for provisioned concurrency on an alias and on its version.
const ON_PROVISIONED_VERSION: &str =
    "Alias can't be used for Provisioned Concurrency configuration on an already Provisioned version";
/// See above.
const UNDER_PROVISIONED_ALIAS: &str = "Version is pointed by a Provisioned Concurrency alias";

/// A management operation's failure; `arn` is the function it was about, qualified as the caller qualified it.
pub fn from_control(error: control::Error, arn: &FunctionArn) -> Refusal {
    use control::Error as E;
    match error {
        E::NotFound { .. } => not_found(arn),
        E::Exists { name } => Refusal::new(Exception::ResourceConflict, format!("Function already exist: {name}")),
        E::Busy { .. } => {
            let text = "The operation cannot be performed at this time. An update is in progress for resource:";
            let arn = FunctionArn { qualifier: None, ..arn.clone() };
            Refusal::new(Exception::ResourceConflict, format!("{text} {arn}"))
        }
        E::RevisionMismatch { .. } => Refusal::new(
            Exception::PreconditionFailed,
            "The Revision Id provided does not match the latest Revision Id. Call the GetFunction/GetAlias API to \
             retrieve the latest Revision Id",
        ),
        E::VersionMissing { number, .. } => not_found(&arn.with_version(model::Version::Number(number))),
        E::AliasMissing { alias, .. } => alias_not_found(&arn.with(Qualifier::Alias(alias))),
        E::AliasExists { alias, .. } => {
            let arn = arn.with(Qualifier::Alias(alias));
            Refusal::new(Exception::ResourceConflict, format!("Alias already exists: {arn}"))
        }
        E::Weights(fault) => from_weights(fault),
        E::PointedTo { aliases } => Refusal::new(
            Exception::ResourceConflict,
            format!("Unable to delete version because the following aliases reference it: [{}]", aliases.join(", ")),
        ),
        E::CodeMismatch { given, current, .. } => Refusal::invalid(format!(
            "CodeSHA256 ({given}) is different from current CodeSHA256 in $LATEST ({}). Please try again with the \
             CodeSHA256 in $LATEST.",
            STANDARD.encode(current.0)
        )),
        E::NothingToPublish { .. } => not_ready("Failed"),
        E::NotReady { state, .. } => not_ready(state),
        E::NothingProvisioned { .. } => Refusal::new(
            Exception::ProvisionedConcurrencyConfigNotFound,
            "No Provisioned Concurrency Config found for this function",
        ),
        E::NotProvisioned(refused) => from_provisioning(refused),
        E::OnProvisionedVersion => Refusal::new(Exception::ResourceConflict, ON_PROVISIONED_VERSION),
        E::UnderProvisionedAlias => Refusal::new(Exception::ResourceConflict, UNDER_PROVISIONED_ALIAS),
        E::Window(fault) => Refusal::invalid(fault.to_string()),
        E::TooManyTags { .. } => Refusal::invalid("Number of tags exceeds resource tag limit."),
        E::UnreservedBelowMinimum { minimum } => Refusal::untyped(format!(
            "Specified ReservedConcurrentExecutions for function decreases account's UnreservedConcurrentExecution below \
             its minimum value of [{minimum}]."
        )),
        // The spaces are AWS's.
        E::BelowProvisioned { wanted, provisioned } => Refusal::untyped(format!(
            " ReservedConcurrentExecutions  {wanted} should not be lower than function's total provisioned concurrency \
             [{provisioned}]."
        )),
        E::ZipTooLarge { limit_bytes } => Refusal::new(
            Exception::RequestEntityTooLarge,
            format!("Zipped size must be smaller than {limit_bytes} bytes"),
        ),
        E::CodeStorageExceeded { .. } => Refusal::new(Exception::CodeStorageExceeded, "Code storage limit exceeded."),
        E::AddPackage(error) => from_package(error),
        E::FetchPackage(error) => from_remote(error),
        E::NoObjectStore => Refusal::invalid(
            "This server has no object store configured, so S3Bucket and S3Key lead nowhere; add [s3] to its \
             configuration or send the code as ZipFile.",
        ),
        E::Store(_) | E::Interrupted => Refusal::platform(&error),
    }
}

fn from_provisioning(refused: NotProvisioned) -> Refusal {
    Refusal::invalid(match refused {
        NotProvisioned::MoreThanReserved => "Requested Provisioned Concurrency should not be greater than the \
                                             reservedConcurrentExecution for function"
            .to_owned(),
        NotProvisioned::MoreThanUnreserved { unreserved } => format!(
            "Specified ConcurrentExecutions for function is greater than account's unreserved concurrency \
             [{unreserved}]."
        ),
        NotProvisioned::UnreservedBelowMinimum { minimum } => format!(
            "Specified ConcurrentExecutions for function decreases account's UnreservedConcurrentExecution below its \
             minimum value of [{minimum}]."
        ),
    })
}

fn from_weights(fault: WeightFault) -> Refusal {
    Refusal::invalid(match fault {
        WeightFault::TooMany => "Number of items in AdditionalVersionWeights cannot be greater than 1".to_owned(),
        WeightFault::Twice { number } => format!(
            "Invalid function version {number}. Function version {number} is already included in routing configuration."
        ),
        WeightFault::Latest => "$LATEST is not supported for an alias pointing to more than 1 version".to_owned(),
        // AWS has these two rules; its words for them are not known.
        WeightFault::Roles => "The versions of an alias must have the same execution role.".to_owned(),
        WeightFault::DeadLetters => "The versions of an alias must have the same dead-letter queue.".to_owned(),
    })
}

/// A function that does not take what was asked of it now.
fn not_ready(state: &str) -> Refusal {
    if state == INITIALIZING {
        // The service model's description of the exception.
        let text = "Lambda is initializing your function. You can invoke the function when the function state becomes \
                    Active.";
        return Refusal::new(Exception::SnapStartNotReady, text);
    }
    let text = "The operation cannot be performed at this time. The function is currently in the following state:";
    Refusal::new(Exception::ResourceConflict, format!("{text} {state}"))
}

/// A function that is not there.
pub fn not_found(arn: &FunctionArn) -> Refusal {
    Refusal::new(Exception::ResourceNotFound, format!("Function not found: {arn}"))
}

/// An alias that is not there.
pub fn alias_not_found(arn: &FunctionArn) -> Refusal {
    Refusal::new(Exception::ResourceNotFound, format!("Cannot find alias arn: {arn}"))
}

fn from_package(error: PackageError) -> Refusal {
    match error {
        PackageError::Empty => Refusal::invalid(error.to_string()),
        PackageError::NotAZip { .. } => {
            Refusal::invalid("Could not unzip uploaded file. Please check your file, then try to upload again.")
        }
        PackageError::TooLarge { limit_bytes } => {
            Refusal::invalid(format!("Unzipped size must be smaller than {limit_bytes} bytes"))
        }
        // AWS has one text for all of these; the cause behind it helps whoever made the zip.
        refused if refused.is_refusal() => Refusal::invalid(format!(
            "Could not unzip uploaded file. Please check your file, then try to upload again. ({refused})"
        )),
        failed => Refusal::platform(&failed),
    }
}

fn from_remote(error: RemoteError) -> Refusal {
    match error {
        RemoteError::BucketName
        | RemoteError::Key
        | RemoteError::NoSuchBucket(_)
        | RemoteError::NoSuchKey(_)
        | RemoteError::Refused(_) => Refusal::invalid(error.to_string()),
        RemoteError::AccessDenied(_) => Refusal::new(Exception::AccessDenied, error.to_string()),
        RemoteError::TooLarge { bytes_max } => {
            Refusal::invalid(format!("Unzipped size must be smaller than {bytes_max} bytes"))
        }
        RemoteError::Endpoint { .. } | RemoteError::Sign { .. } | RemoteError::Reach { .. } => {
            Refusal::platform(&error)
        }
    }
}

/// An invocation that did not run; `arn` is the unqualified function, `qualifier` the caller's.
pub fn from_router(error: router::Error, arn: &FunctionArn, qualifier: Option<&Qualifier>) -> Refusal {
    use router::Error as E;
    let qualified = || match qualifier {
        Some(qualifier) => arn.with(qualifier.clone()),
        None => arn.with_version(model::Version::Latest),
    };
    match error {
        E::NoRoute(NoRoute::FunctionMissing | NoRoute::VersionMissing) => not_found(&qualified()),
        E::NoRoute(NoRoute::AliasMissing) => alias_not_found(&qualified()),
        E::NoRoute(NoRoute::NotReady { state }) => not_ready(state),
        E::Throttled { throttle, retry_after_s } => Refusal {
            reason: Some(throttle.reason),
            retry_after_s: Some(retry_after_s),
            ..Refusal::new(Exception::TooManyRequests, "Rate Exceeded.")
        },
        E::Draining => Refusal::new(Exception::ServiceUnavailable, "The server is shutting down."),
        // The service model describes these two; AWS's words for them are not known.
        E::RestoreHookFailed => Refusal::new(
            Exception::SnapStart,
            "A runtime hook after the restore of the snapshot failed. The function's log says more.",
        ),
        E::RestoreTimedOut => {
            Refusal::new(Exception::SnapStartTimeout, "The snapshot could not be restored within the time limit.")
        }
        E::Worker(_) => Refusal::platform(&error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(refusal: &Refusal, want: &str) {
        assert_eq!(format!("{} {} {}", refusal.status, refusal.error_type, refusal.body()), want);
    }

    fn arn() -> FunctionArn {
        FunctionArn {
            region: model::Region::parse("us-east-1").unwrap(),
            account: model::AccountId::parse("000000000000").unwrap(),
            name: model::FunctionName::parse("f").unwrap(),
            qualifier: None,
        }
    }

    #[test]
    fn wire_forms() {
        check(
            &not_found(&arn()),
            r#"404 ResourceNotFoundException {"Type":"User","Message":"Function not found: arn:aws:lambda:us-east-1:000000000000:function:f"}"#,
        );
        check(&Refusal::new(Exception::Validation, "x"), r#"400 ValidationException {"message":"x"}"#);
        for (reason, word) in [
            (
                ThrottleReason::ReservedFunctionConcurrentInvocationLimitExceeded,
                "ReservedFunctionConcurrentInvocationLimitExceeded",
            ),
            (ThrottleReason::ConcurrentInvocationLimitExceeded, "ConcurrentInvocationLimitExceeded"),
        ] {
            for cause in router::Cause::ALL {
                let throttle = router::Throttle { reason, cause };
                let refusal = from_router(router::Error::Throttled { throttle, retry_after_s: 1 }, &arn(), None);
                let body = format!(r#"{{"Reason":"{word}","Type":"User","message":"Rate Exceeded."}}"#);
                check(&refusal, &format!("429 TooManyRequestsException {body}"));
                assert_eq!(refusal.retry_after_s, Some(1));
            }
        }
        check(
            &AuthError::Missing.into(),
            r#"403 MissingAuthenticationTokenException {"message":"Missing Authentication Token"}"#,
        );
    }

    #[test]
    fn missing_functions_aliases_and_versions() {
        let check = |no_route, qualifier: Option<&str>, want: &str| {
            let qualifier = qualifier.map(|q| Qualifier::parse(q).unwrap());
            let refusal = from_router(router::Error::NoRoute(no_route), &arn(), qualifier.as_ref());
            assert!(refusal.message.ends_with(want), "{} does not end in {want}", refusal.message);
        };
        check(
            NoRoute::FunctionMissing,
            None,
            "Function not found: arn:aws:lambda:us-east-1:000000000000:function:f:$LATEST",
        );
        check(
            NoRoute::VersionMissing,
            Some("3"),
            "Function not found: arn:aws:lambda:us-east-1:000000000000:function:f:3",
        );
        check(
            NoRoute::AliasMissing,
            Some("a"),
            "Cannot find alias arn: arn:aws:lambda:us-east-1:000000000000:function:f:a",
        );
        check(NoRoute::NotReady { state: "Pending" }, None, "in the following state: Pending");
    }
}
