//! The canonical request and the signature over it.

use super::claim::{Claim, Scope};
use super::{ALGORITHM, Request};
use aws_sigv4::sign::v4::{calculate_signature, generate_signing_key};
use model::Digest;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode, percent_encode};
use sha2::{Digest as _, Sha256};
use std::cell::RefCell;
use std::time::{Duration, UNIX_EPOCH};

/// SHA-256 of nothing.
pub const EMPTY_SHA256_HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// What is left as it is in queries: RFC 3986's unreserved characters.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
/// What is left as it is in paths.
const PATH: &AsciiSet = &QUERY.remove(b'/');

/// What stands for the body in the canonical request.
pub enum Payload {
    /// The body's hash, lower-case hexadecimal.
    Sha256Hex(String),
    /// The signer did not look at the body.
    Unsigned,
}

impl Payload {
    fn text(&self) -> &str {
        match self {
            Payload::Sha256Hex(text) => text,
            Payload::Unsigned => "UNSIGNED-PAYLOAD",
        }
    }
}

/// The signature that a holder of `secret` gives to the request under the claim's scope, 64 hexadecimal digits.
pub fn signature(secret: &str, request: &Request<'_>, claim: &Claim, payload: &Payload) -> String {
    let hash = request_sha256_hex(request, &claim.signed_headers, payload);
    let scope = &claim.scope;
    let text = format!("{ALGORITHM}\n{}\n{scope}\n{hash}", claim.date_time);
    with_signing_key(secret, claim, |key| calculate_signature(key, text.as_bytes()))
}

/// Signing keys that one thread remembers. Only scopes of our own region and of a few days come this far.
const REMEMBERED_MAX: usize = 16;

/// A key that is good for a day, and what it was derived from.
struct Remembered {
    secret: String,
    scope: Scope,
    key: Vec<u8>,
}

/// Derives the key for the claim's scope, which takes four hashes, or takes it from those that were derived before.
fn with_signing_key<T>(secret: &str, claim: &Claim, work: impl FnOnce(&[u8]) -> T) -> T {
    thread_local! {
        static KEYS: RefCell<Vec<Remembered>> = const { RefCell::new(Vec::new()) };
    }
    let scope = &claim.scope;
    KEYS.with_borrow_mut(|keys| {
        if let Some(known) = keys.iter().find(|known| known.secret == secret && known.scope == *scope) {
            return work(&known.key);
        }
        let signed_at = UNIX_EPOCH + Duration::from_secs(claim.signed_at_s);
        let key = generate_signing_key(secret, signed_at, &scope.region, &scope.service).as_ref().to_vec();
        if keys.len() >= REMEMBERED_MAX {
            keys.remove(0);
        }
        let answer = work(&key);
        keys.push(Remembered { secret: secret.to_owned(), scope: scope.clone(), key });
        answer
    })
}

/// SHA-256 of the canonical request.
pub fn request_sha256_hex(request: &Request<'_>, signed_headers: &[String], payload: &Payload) -> String {
    let mut text = Vec::with_capacity(512);
    for line in [request.method, &path(request.path), &query(request.query)] {
        text.extend_from_slice(line.as_bytes());
        text.push(b'\n');
    }
    for name in signed_headers {
        text.extend_from_slice(name.as_bytes());
        text.push(b':');
        push_header_value(&mut text, request, name);
        text.push(b'\n');
    }
    text.push(b'\n');
    text.extend_from_slice(signed_headers.join(";").as_bytes());
    text.push(b'\n');
    text.extend_from_slice(payload.text().as_bytes());
    Digest(Sha256::digest(&text).into()).to_string()
}

/// All values of one header, comma-separated, each trimmed and with runs of spaces made one.
fn push_header_value(text: &mut Vec<u8>, request: &Request<'_>, name: &str) {
    let mut values: Vec<&[u8]> = request.headers.get_all(name).iter().map(|v| v.as_bytes()).collect();
    if let (true, "host", Some(authority)) = (values.is_empty(), name, request.authority) {
        values.push(authority.as_bytes());
    }
    for (index, value) in values.iter().enumerate() {
        if index > 0 {
            text.push(b',');
        }
        let words = value.split(|b| *b == b' ').filter(|word| !word.is_empty());
        for (index, word) in words.enumerate() {
            if index > 0 {
                text.push(b' ');
            }
            text.extend_from_slice(word);
        }
    }
}

/// The path without dot segments and empty segments, encoded once more: for every service but S3 the encoding of
/// what is already encoded is signed.
pub fn path(raw: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for segment in raw.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                kept.pop();
            }
            segment => kept.push(segment),
        }
    }
    let mut plain = format!("/{}", kept.join("/"));
    // A dot segment at the end leaves the slash before it.
    let ends_open = matches!(raw.rsplit('/').next(), Some("" | "." | ".."));
    if ends_open && !kept.is_empty() {
        plain.push('/');
    }
    percent_encode(plain.as_bytes(), PATH).to_string()
}

/// The parameters without the signature itself, encoded alike and sorted.
pub fn query(raw: &str) -> String {
    let mut pairs: Vec<(String, String)> = parameters(raw)
        .filter(|(name, _)| name != b"X-Amz-Signature")
        .map(|(name, value)| (encode_parameter(&name), encode_parameter(&value)))
        .collect();
    pairs.sort();
    let pairs: Vec<String> = pairs.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    pairs.join("&")
}

/// One name or value as it stands in a canonical query.
pub fn encode_parameter(text: &[u8]) -> String {
    percent_encode(text, QUERY).to_string()
}

/// The decoded parameters of a query, in order. A `+` is a space, as everywhere in forms.
pub fn parameters(raw: &str) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> + '_ {
    let decode = |text: &str| {
        let spaced = text.replace('+', " ");
        percent_decode(spaced.as_bytes()).collect::<Vec<u8>>()
    };
    raw.split('&').filter(|pair| !pair.is_empty()).map(move |pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(name), decode(value))
    })
}
