//! URLs of our own that work for a while without a key.

use super::canonical::{self, EMPTY_SHA256_HEX, Payload, encode_parameter, signature};
use super::claim::{Claim, Place, Scope};
use super::{ALGORITHM, EXPIRES_S_MAX, Key, Request, SERVICE, TERMINATOR, iso_basic};
use hyper::HeaderMap;

/// What a presigned URL opens, with GET.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// `http` or `https`.
    pub scheme: &'a str,
    /// Host and port as the client will send them in `Host`.
    pub host: &'a str,
    /// The path, percent-encoded; starts with `/`.
    pub path: &'a str,
    /// The query, percent-encoded, without `?`; may be empty.
    pub query: &'a str,
}

/// A URL that [`super::verify`] accepts for `expires_s` seconds (at most [`EXPIRES_S_MAX`], at least one) from
/// `now_epoch_s`, signed with `key` for `region`.
pub fn presign(key: &Key, region: &str, target: &Target<'_>, expires_s: u64, now_epoch_s: u64) -> String {
    let date_time = iso_basic(now_epoch_s);
    let scope = Scope {
        day: date_time[..8].to_owned(),
        region: region.to_owned(),
        service: SERVICE.to_owned(),
        terminator: TERMINATOR.to_owned(),
    };
    let expires_s = expires_s.clamp(1, EXPIRES_S_MAX);
    let mut parameters = vec![
        ("X-Amz-Algorithm", ALGORITHM.to_owned()),
        ("X-Amz-Credential", format!("{}/{scope}", key.access_key_id)),
        ("X-Amz-Date", date_time.clone()),
        ("X-Amz-Expires", expires_s.to_string()),
        ("X-Amz-SignedHeaders", "host".to_owned()),
    ];
    if let Some(token) = &key.session_token {
        parameters.push(("X-Amz-Security-Token", token.clone()));
    }
    let added: Vec<String> =
        parameters.iter().map(|(name, value)| format!("{name}={}", encode_parameter(value.as_bytes()))).collect();
    let separator = if target.query.is_empty() { "" } else { "&" };
    let query = canonical::query(&format!("{}{separator}{}", target.query, added.join("&")));
    let claim = Claim {
        place: Place::Query { expires_s: Some(expires_s) },
        access_key_id: key.access_key_id.clone(),
        scope,
        date_time,
        signed_at_s: now_epoch_s,
        dated_by_date_header: false,
        signed_headers: vec!["host".to_owned()],
        signature: String::new(),
        session_token: key.session_token.clone(),
        content_sha256: None,
    };
    let headers = HeaderMap::new();
    let request = Request {
        method: "GET",
        path: target.path,
        query: &query,
        headers: &headers,
        authority: Some(target.host),
        body_sha256_hex: None,
    };
    let payload = Payload::Sha256Hex(EMPTY_SHA256_HEX.to_owned());
    let signature = signature(&key.secret_access_key, &request, &claim, &payload);
    format!("{}://{}{}?{query}&X-Amz-Signature={signature}", target.scheme, target.host, target.path)
}
