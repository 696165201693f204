//! What a request claims about its signature: read from the `Authorization` header or from the query.

use super::canonical::parameters;
use super::{ALGORITHM, AuthError, EXPIRES_S_MAX, Request, SIGNED_HEADERS_MAX, iso_basic, parse_iso_basic};
use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, DATE, HeaderName};
use sha2::{Digest as _, Sha256};
use std::fmt;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

/// A signature and what came with it; nothing of it is proven yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Where it stood.
    pub place: Place,
    /// The key that is said to have signed.
    pub access_key_id: String,
    /// The rest of the credential.
    pub scope: Scope,
    /// The signing time, `20150830T123600Z`.
    pub date_time: String,
    /// The same, seconds since the Unix epoch.
    pub signed_at_s: u64,
    /// The signing time came from the `Date` header, for want of `X-Amz-Date`.
    pub dated_by_date_header: bool,
    /// Names in lower case, in the order given.
    pub signed_headers: Vec<String>,
    /// The signature, hexadecimal.
    pub signature: String,
    /// The session token, if one was sent.
    pub session_token: Option<String>,
    /// `x-amz-content-sha256`, if it was sent.
    pub content_sha256: Option<String>,
}

/// Where a signature stood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the `Authorization` header.
    Header,
    /// In the query.
    Query {
        /// `X-Amz-Expires`.
        expires_s: Option<u64>,
    },
}

/// The credential scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// `20150830`.
    pub day: String,
    /// `us-east-1`.
    pub region: String,
    /// `lambda`.
    pub service: String,
    /// `aws4_request`.
    pub terminator: String,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/{}", self.day, self.region, self.service, self.terminator)
    }
}

impl Claim {
    /// Reads the header if there is one, else the query.
    pub fn read(request: &Request<'_>) -> Result<Claim, AuthError> {
        if let Some(value) = request.headers.get(AUTHORIZATION) {
            return from_header(&String::from_utf8_lossy(value.as_bytes()), request.headers);
        }
        let query = Query::read(request.query);
        match query.is_presigned() {
            true => from_query(query, request.headers),
            false => Err(AuthError::Missing),
        }
    }
}

fn from_header(value: &str, headers: &HeaderMap) -> Result<Claim, AuthError> {
    let (algorithm, rest) = value.split_once(' ').unwrap_or((value, ""));
    if algorithm != ALGORITHM && algorithm.starts_with("AWS4") {
        return Err(AuthError::Incomplete(format!("Unsupported AWS 'algorithm': '{}'.", shorten(algorithm))));
    }
    let parts: Vec<&str> = rest.split(',').map(str::trim).collect();
    let part =
        |name: &str| parts.iter().find_map(|p| p.strip_prefix(name)?.strip_prefix('=')).filter(|v| !v.is_empty());
    let found = (part("Credential"), part("Signature"), part("SignedHeaders"), signing_time(headers));
    let (Some(credential), Some(signature), Some(signed_headers), Some(time)) = &found else {
        let missing = [
            (found.0.is_none(), "Authorization header requires 'Credential' parameter."),
            (found.1.is_none(), "Authorization header requires 'Signature' parameter."),
            (found.2.is_none(), "Authorization header requires 'SignedHeaders' parameter."),
            (found.3.is_none(), "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header."),
        ];
        return Err(AuthError::Incomplete(format!("{} {}", sentences(&missing), hidden(value))));
    };
    let (signed_at_s, dated_by_date_header) = *time;
    let (access_key_id, scope) = credential_parts(credential)?;
    Ok(Claim {
        place: Place::Header,
        access_key_id,
        scope,
        date_time: iso_basic(signed_at_s),
        signed_at_s,
        dated_by_date_header,
        signed_headers: header_names(signed_headers)?,
        signature: (*signature).to_owned(),
        session_token: header_text(headers, "x-amz-security-token"),
        content_sha256: header_text(headers, "x-amz-content-sha256"),
    })
}

fn from_query(query: Query, headers: &HeaderMap) -> Result<Claim, AuthError> {
    let missing = [
        (query.algorithm.is_none(), "AWS query-string parameters must include 'X-Amz-Algorithm'."),
        (query.credential.is_none(), "AWS query-string parameters must include 'X-Amz-Credential'."),
        (query.signature.is_none(), "AWS query-string parameters must include 'X-Amz-Signature'."),
        (query.signed_headers.is_none(), "AWS query-string parameters must include 'X-Amz-SignedHeaders'."),
        (query.date.is_none(), "AWS query-string parameters must include 'X-Amz-Date'."),
    ];
    let (Some(algorithm), Some(credential), Some(signature), Some(signed_headers), Some(date)) =
        (query.algorithm, query.credential, query.signature, query.signed_headers, query.date)
    else {
        let text = format!("{} Re-examine the query-string parameters.", sentences(&missing));
        return Err(AuthError::Incomplete(text));
    };
    if algorithm != ALGORITHM {
        return Err(AuthError::Incomplete(format!("Unsupported AWS 'algorithm': '{}'.", shorten(&algorithm))));
    }
    let Some(signed_at_s) = parse_iso_basic(&date) else {
        return Err(AuthError::Incomplete(
            "Date must be in ISO-8601 'basic format'. Re-examine the query-string parameters.".to_owned(),
        ));
    };
    let expires_s = query.expires.as_deref().map(expiry).transpose()?;
    let (access_key_id, scope) = credential_parts(&credential)?;
    Ok(Claim {
        place: Place::Query { expires_s },
        access_key_id,
        scope,
        date_time: iso_basic(signed_at_s),
        signed_at_s,
        dated_by_date_header: false,
        signed_headers: header_names(&signed_headers)?,
        signature,
        session_token: query.security_token,
        content_sha256: query.content_sha256.or_else(|| header_text(headers, "x-amz-content-sha256")),
    })
}

/// The parameters of a presigned query; of repeated ones the first.
#[derive(Default)]
struct Query {
    algorithm: Option<String>,
    credential: Option<String>,
    signature: Option<String>,
    signed_headers: Option<String>,
    date: Option<String>,
    expires: Option<String>,
    security_token: Option<String>,
    content_sha256: Option<String>,
}

impl Query {
    fn read(raw: &str) -> Query {
        let mut query = Query::default();
        if !raw.contains("X-Amz-") {
            return query;
        }
        for (name, value) in parameters(raw) {
            let field = match name.as_slice() {
                b"X-Amz-Algorithm" => &mut query.algorithm,
                b"X-Amz-Credential" => &mut query.credential,
                b"X-Amz-Signature" => &mut query.signature,
                b"X-Amz-SignedHeaders" => &mut query.signed_headers,
                b"X-Amz-Date" => &mut query.date,
                b"X-Amz-Expires" => &mut query.expires,
                b"X-Amz-Security-Token" => &mut query.security_token,
                b"X-Amz-Content-Sha256" | b"X-Amz-Content-SHA256" => &mut query.content_sha256,
                _ => continue,
            };
            field.get_or_insert_with(|| String::from_utf8_lossy(&value).into_owned());
        }
        query
    }

    fn is_presigned(&self) -> bool {
        self.algorithm.is_some() || self.credential.is_some() || self.signature.is_some()
    }
}

fn expiry(text: &str) -> Result<u64, AuthError> {
    match text.parse::<u64>() {
        Ok(seconds @ 1..=EXPIRES_S_MAX) => Ok(seconds),
        _ => {
            Err(AuthError::Incomplete(format!("X-Amz-Expires must be a number of seconds from 1 to {EXPIRES_S_MAX}.")))
        }
    }
}

fn credential_parts(credential: &str) -> Result<(String, Scope), AuthError> {
    match credential.split('/').collect::<Vec<&str>>().as_slice() {
        [key, day, region, service, terminator] => Ok((
            (*key).to_owned(),
            Scope {
                day: (*day).to_owned(),
                region: shorten(region),
                service: shorten(service),
                terminator: shorten(terminator),
            },
        )),
        _ => Err(AuthError::Incomplete(format!(
            "Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term, got '{}'",
            shorten(credential)
        ))),
    }
}

fn header_names(list: &str) -> Result<Vec<String>, AuthError> {
    let names: Vec<String> = list.split(';').map(str::to_ascii_lowercase).collect();
    if names.len() > SIGNED_HEADERS_MAX {
        return Err(AuthError::Incomplete(format!("SignedHeaders may name at most {SIGNED_HEADERS_MAX} headers.")));
    }
    // A query may hold line ends, percent-encoded; they must not get into the canonical request.
    if names.iter().any(|name| HeaderName::from_bytes(name.as_bytes()).is_err()) {
        return Err(AuthError::Incomplete("SignedHeaders must be header names, separated by ';'.".to_owned()));
    }
    Ok(names)
}

/// The signing time in epoch seconds, and whether it came from `Date`.
fn signing_time(headers: &HeaderMap) -> Option<(u64, bool)> {
    if let Some(text) = header_text(headers, "x-amz-date") {
        return Some((parse_iso_basic(&text)?, false));
    }
    let text = header_text(headers, DATE.as_str())?;
    let signed_at_s = match parse_iso_basic(&text) {
        Some(seconds) => seconds,
        None => u64::try_from(OffsetDateTime::parse(&text, &Rfc2822).ok()?.unix_timestamp()).ok()?,
    };
    Some((signed_at_s, true))
}

fn header_text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).trim().to_owned())
}

/// The sentences whose condition holds.
fn sentences(list: &[(bool, &str)]) -> String {
    list.iter().filter(|(holds, _)| *holds).map(|(_, text)| *text).collect::<Vec<_>>().join(" ")
}

/// The header as AWS shows it today: only its hash, since it may hold a password.
fn hidden(value: &str) -> String {
    use base64::Engine as _;
    let hash = base64::engine::general_purpose::STANDARD.encode(Sha256::digest(value.as_bytes()));
    format!("(Hashed with SHA-256 and encoded with Base64) Authorization={hash}")
}

/// At most 128 characters of what the client sent, since it comes back in a message.
fn shorten(text: &str) -> String {
    text.chars().take(128).collect()
}
