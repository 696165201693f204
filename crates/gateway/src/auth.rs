//! Who sent a request: Signature Version 4 in headers and in presigned queries.
//!
//! The rules are AWS's ("AWS Signature Version 4 for API requests"), for the service name `lambda`. The gateway first
//! calls [`screen`], which needs no body, so that a stranger cannot make it read 70 MB, and then [`verify`].

mod canonical;
mod claim;
mod presign;
#[cfg(test)]
mod tests;

pub use presign::{Target, presign};

use canonical::{Payload, signature};
use claim::{Claim, Place};
use hyper::HeaderMap;
use std::fmt;
use subtle::ConstantTimeEq;
use time::macros::format_description;
use time::{OffsetDateTime, PrimitiveDateTime};

/// The service name in every credential scope.
const SERVICE: &str = "lambda";
/// The last part of every credential scope.
const TERMINATOR: &str = "aws4_request";
/// The one algorithm that is accepted.
const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// How far the client's clock may be off, either way, seconds; AWS's texts say 5 min.
pub const CLOCK_SKEW_S: u64 = 300;
/// The longest life of a presigned request, seconds: seven days, AWS's limit.
pub const EXPIRES_S_MAX: u64 = 604_800;
/// The most names in a `SignedHeaders` list, ours; longer lists are refused.
const SIGNED_HEADERS_MAX: usize = 100;
/// The headers of the `x-amz-` kind that clients are known to leave unsigned; none of them changes what is done.
const MAY_BE_UNSIGNED: [&str; 3] = ["x-amz-user-agent", "x-amz-checksum-mode", "x-amz-security-token"];

/// One access key.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    /// The public part.
    pub access_key_id: String,
    /// The secret part.
    pub secret_access_key: String,
    /// The token that must come along, if the key is a temporary one.
    pub session_token: Option<String>,
    /// When a temporary key ends, seconds since the Unix epoch.
    pub expires_at_s: Option<u64>,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("access_key_id", &self.access_key_id).finish_non_exhaustive()
    }
}

/// The keys that may sign; a few.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keys(pub Vec<Key>);

impl Keys {
    /// The key that signs our own presigned URLs.
    pub fn first(&self) -> Option<&Key> {
        self.0.first()
    }

    /// Looks at every key, so that the time does not tell which one matched.
    fn find(&self, access_key_id: &str) -> Option<&Key> {
        let mut found = None;
        for key in &self.0 {
            if bool::from(key.access_key_id.as_bytes().ct_eq(access_key_id.as_bytes())) {
                found = Some(key);
            }
        }
        found
    }
}

/// What of a request takes part in its signature.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// `GET`, `POST`, …
    pub method: &'a str,
    /// The path as it came over the wire, still percent-encoded.
    pub path: &'a str,
    /// The query as it came over the wire, without `?`; empty if there is none. A `+` means a space.
    pub query: &'a str,
    /// All headers.
    pub headers: &'a HeaderMap,
    /// The `:authority` of an HTTP/2 request; stands in for an absent `Host`.
    pub authority: Option<&'a str>,
    /// SHA-256 of the body, 64 lower-case hexadecimal digits; `None` means that the body is empty.
    pub body_sha256_hex: Option<&'a str>,
}

/// Whether signatures are demanded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Every request must be signed.
    Required,
    /// Any or no credentials will do (`--no-auth`).
    Open,
}

/// Who sent a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The key that signed; `None` only in [`Mode::Open`].
    pub access_key_id: Option<String>,
    /// The signature came in the query.
    pub presigned: bool,
}

/// Why a request was not let in. All are answered with 403; Display is the public message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// No signature at all.
    #[error("Missing Authentication Token")]
    Missing,
    /// A signature that lacks parts or is not of the right shape.
    #[error("{0}")]
    Incomplete(String),
    /// The access key or its session token is not known.
    #[error("The security token included in the request is invalid.")]
    UnknownKey,
    /// The session token's time is over.
    #[error("The security token included in the request is expired")]
    TokenExpired,
    /// The credential scope names another region, service, day or terminator.
    #[error("{0}")]
    Scope(String),
    /// Signed too long ago.
    #[error("Signature expired: {signed} is now earlier than {limit} ({now} - {allowed})")]
    Expired {
        /// When it was signed.
        signed: String,
        /// The earliest time that would still do.
        limit: String,
        /// Our clock.
        now: String,
        /// The allowance, `5 min.` for example.
        allowed: String,
    },
    /// Signed in the future.
    #[error("Signature not yet current: {signed} is still later than {limit} ({now} + {allowed})")]
    NotYetCurrent {
        /// When it was signed.
        signed: String,
        /// The latest time that would do.
        limit: String,
        /// Our clock.
        now: String,
        /// The allowance, `5 min.` for example.
        allowed: String,
    },
    /// A header that must be signed is not.
    #[error("{0} must be a 'SignedHeader' in the AWS Authorization.")]
    HeaderNotSigned(String),
    /// The declared hash of the body is of a kind that is not taken here.
    #[error("The value of x-amz-content-sha256 must be the SHA-256 of the request's body.")]
    PayloadKind,
    /// The signature is not the one that the key and the request give.
    #[error(
        "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access \
         Key and signing method. Consult the service documentation for details."
    )]
    Mismatch,
}

impl AuthError {
    /// The error's name for the `x-amzn-ErrorType` header. The body's member is `message`, lower case.
    pub fn error_type(&self) -> &'static str {
        match self {
            AuthError::Missing => "MissingAuthenticationTokenException",
            AuthError::Incomplete(_) => "IncompleteSignatureException",
            AuthError::UnknownKey => "UnrecognizedClientException",
            AuthError::TokenExpired => "ExpiredTokenException",
            AuthError::Scope(_)
            | AuthError::Expired { .. }
            | AuthError::NotYetCurrent { .. }
            | AuthError::HeaderNotSigned(_)
            | AuthError::PayloadKind
            | AuthError::Mismatch => "InvalidSignatureException",
        }
    }
}

/// Checks all that can be checked without the body: the signature's parts, key, scope, clock and signed headers.
/// `now_epoch_s` is our clock, seconds since the Unix epoch. Passing says nothing about the signature itself.
pub fn screen(keys: &Keys, request: &Request<'_>, now_epoch_s: u64, region: &str, mode: Mode) -> Result<(), AuthError> {
    match mode {
        Mode::Open => Ok(()),
        Mode::Required => admit(keys, request, now_epoch_s, region).map(|_| ()),
    }
}

/// Checks a whole request and tells who signed it. `now_epoch_s` is our clock, seconds since the Unix epoch;
/// `region` is the only region that a credential scope may name. In [`Mode::Open`] nothing is refused and the
/// identity is only a claim.
pub fn verify(
    keys: &Keys,
    request: &Request<'_>,
    now_epoch_s: u64,
    region: &str,
    mode: Mode,
) -> Result<Identity, AuthError> {
    if mode == Mode::Open {
        let claim = Claim::read(request).ok();
        let presigned = claim.as_ref().is_some_and(|c| matches!(c.place, Place::Query { .. }));
        return Ok(Identity { access_key_id: claim.map(|c| c.access_key_id), presigned });
    }
    let (claim, key) = admit(keys, request, now_epoch_s, region)?;
    let payload = payload(&claim, request)?;
    let wanted = signature(&key.secret_access_key, request, &claim, &payload);
    if !bool::from(wanted.as_bytes().ct_eq(claim.signature.as_bytes())) {
        return Err(AuthError::Mismatch);
    }
    let presigned = matches!(claim.place, Place::Query { .. });
    Ok(Identity { access_key_id: Some(claim.access_key_id), presigned })
}

/// Everything but body and signature.
fn admit<'k>(keys: &'k Keys, request: &Request<'_>, now_s: u64, region: &str) -> Result<(Claim, &'k Key), AuthError> {
    let claim = Claim::read(request)?;
    let key = keys.find(&claim.access_key_id).ok_or(AuthError::UnknownKey)?;
    check_token(&claim, key, now_s)?;
    check_scope(&claim, region)?;
    check_clock(&claim, now_s)?;
    check_signed_headers(&claim, request)?;
    Ok((claim, key))
}

fn check_token(claim: &Claim, key: &Key, now_s: u64) -> Result<(), AuthError> {
    let same = match (&key.session_token, &claim.session_token) {
        (None, None) => true,
        (Some(ours), Some(theirs)) => bool::from(ours.as_bytes().ct_eq(theirs.as_bytes())),
        (Some(_), None) | (None, Some(_)) => false,
    };
    if !same {
        return Err(AuthError::UnknownKey);
    }
    if key.expires_at_s.is_some_and(|end_s| end_s <= now_s) {
        return Err(AuthError::TokenExpired);
    }
    Ok(())
}

fn check_scope(claim: &Claim, region: &str) -> Result<(), AuthError> {
    let day = &claim.date_time[..8];
    let text = if claim.scope.region != region {
        format!("Credential should be scoped to a valid region, not '{}'. ", claim.scope.region)
    } else if claim.scope.service != SERVICE {
        format!("Credential should be scoped to correct service: '{SERVICE}'. ")
    } else if claim.scope.terminator != TERMINATOR {
        format!(
            "Credential should be scoped with a valid terminator: '{TERMINATOR}', not '{}'. ",
            claim.scope.terminator
        )
    } else if claim.scope.day != day {
        format!(
            "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: \
             '{}' != '{day}', from '{}'.",
            claim.scope.day, claim.date_time
        )
    } else {
        return Ok(());
    };
    Err(AuthError::Scope(text))
}

fn check_clock(claim: &Claim, now_s: u64) -> Result<(), AuthError> {
    let signed_s = claim.signed_at_s;
    if signed_s > now_s.saturating_add(CLOCK_SKEW_S) {
        return Err(AuthError::NotYetCurrent {
            signed: iso_basic(signed_s),
            limit: iso_basic(now_s.saturating_add(CLOCK_SKEW_S)),
            now: iso_basic(now_s),
            allowed: allowance(CLOCK_SKEW_S),
        });
    }
    let life_s = match claim.place {
        Place::Query { expires_s: Some(expires_s) } => expires_s,
        Place::Query { expires_s: None } | Place::Header => CLOCK_SKEW_S,
    };
    let limit_s = now_s.saturating_sub(life_s);
    if signed_s < limit_s {
        return Err(AuthError::Expired {
            signed: iso_basic(signed_s),
            limit: iso_basic(limit_s),
            now: iso_basic(now_s),
            allowed: allowance(life_s),
        });
    }
    Ok(())
}

/// `5 min.` for whole minutes, `90 sec.` otherwise.
fn allowance(seconds: u64) -> String {
    if seconds.is_multiple_of(60) { format!("{} min.", seconds / 60) } else { format!("{seconds} sec.") }
}

/// `host` and every `x-amz-` header must be signed, or someone on the way could change what the request does.
fn check_signed_headers(claim: &Claim, request: &Request<'_>) -> Result<(), AuthError> {
    let is_signed = |name: &str| claim.signed_headers.iter().any(|n| n == name);
    if !is_signed("host") {
        return Err(AuthError::HeaderNotSigned("'Host' or ':authority'".to_owned()));
    }
    let unsigned = request
        .headers
        .keys()
        .map(|name| name.as_str())
        .find(|name| name.starts_with("x-amz-") && !MAY_BE_UNSIGNED.contains(name) && !is_signed(name));
    if let Some(name) = unsigned {
        return Err(AuthError::HeaderNotSigned(format!("'{name}'")));
    }
    // A `Date` header that stands in for `X-Amz-Date` is as good as that one only if it is signed too.
    if claim.dated_by_date_header && !is_signed("date") {
        return Err(AuthError::HeaderNotSigned("'Date'".to_owned()));
    }
    Ok(())
}

/// Which text stands for the body in the canonical request.
fn payload(claim: &Claim, request: &Request<'_>) -> Result<Payload, AuthError> {
    let body = request.body_sha256_hex.unwrap_or(canonical::EMPTY_SHA256_HEX);
    match (claim.content_sha256.as_deref(), claim.place) {
        (None, _) => Ok(Payload::Sha256Hex(body.to_owned())),
        (Some("UNSIGNED-PAYLOAD"), Place::Query { .. }) => Ok(Payload::Unsigned),
        (Some(declared), _) if declared.len() != 64 => Err(AuthError::PayloadKind),
        (Some(declared), _) if bool::from(declared.as_bytes().ct_eq(body.as_bytes())) => {
            Ok(Payload::Sha256Hex(body.to_owned()))
        }
        (Some(_), _) => Err(AuthError::Mismatch),
    }
}

/// `20150830T123600Z`; times past the year 9999 are shown as the epoch's end of that year.
fn iso_basic(epoch_s: u64) -> String {
    const YEAR_9999_END_S: u64 = 253_402_300_799;
    let seconds = i64::try_from(epoch_s.min(YEAR_9999_END_S)).unwrap_or(0);
    let moment = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    moment.format(format_description!("[year][month][day]T[hour][minute][second]Z")).unwrap_or_default()
}

/// Reads `20150830T123600Z`; `None` for anything else and for years before 1970.
fn parse_iso_basic(text: &str) -> Option<u64> {
    let shape = format_description!("[year][month][day]T[hour][minute][second]Z");
    let moment = PrimitiveDateTime::parse(text, shape).ok()?.assume_utc();
    u64::try_from(moment.unix_timestamp()).ok()
}
