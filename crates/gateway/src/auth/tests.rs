use super::canonical::{EMPTY_SHA256_HEX, Payload, path, query, request_sha256_hex};
use super::*;
use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign};
use aws_sigv4::sign::v4;
use hyper::header::{HeaderName, HeaderValue};
use model::Digest;
use proptest::prelude::*;
use sha2::Digest as _;
use std::time::{Duration, UNIX_EPOCH};

const NOW_S: u64 = 1_440_938_160; // 2015-08-30T12:36:00Z
const REGION: &str = "us-east-1";

fn key() -> Key {
    Key {
        access_key_id: "AKIDEXAMPLE".to_owned(),
        secret_access_key: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned(),
        session_token: None,
        expires_at_s: None,
    }
}

/// A request as it arrives.
#[derive(Clone)]
struct Sent {
    method: &'static str,
    path: String,
    query: String,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Sent {
    fn get(path: &str, query: &str) -> Sent {
        let mut headers = HeaderMap::new();
        headers.insert("host", HeaderValue::from_static("127.0.0.1:9000"));
        Sent { method: "GET", path: path.to_owned(), query: query.to_owned(), headers, body: Vec::new() }
    }

    fn with(mut self, name: &'static str, value: &str) -> Sent {
        self.headers.append(name, HeaderValue::from_str(value).unwrap());
        self
    }

    fn set(mut self, name: &'static str, value: &str) -> Sent {
        self.headers.insert(name, HeaderValue::from_str(value).unwrap());
        self
    }

    /// Signs with the SDK's own signer.
    fn signed(mut self, key: &Key, service: &str, region: &str, now_s: u64, expires_s: Option<u64>) -> Sent {
        let mut settings = SigningSettings::default();
        if let Some(seconds) = expires_s {
            settings.signature_location = SignatureLocation::QueryParams;
            settings.expires_in = Some(Duration::from_secs(seconds));
        }
        let identity =
            Credentials::new(&key.access_key_id, &key.secret_access_key, key.session_token.clone(), None, "test")
                .into();
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(region)
            .name(service)
            .time(UNIX_EPOCH + Duration::from_secs(now_s))
            .settings(settings)
            .build()
            .unwrap()
            .into();
        let host = self.headers.get("host").unwrap().to_str().unwrap().to_owned();
        let url = format!("http://{host}{}?{}", self.path, self.query);
        let headers: Vec<(String, String)> =
            self.headers.iter().map(|(n, v)| (n.to_string(), v.to_str().unwrap().to_owned())).collect();
        let headers = headers.iter().map(|(n, v)| (n.as_str(), v.as_str()));
        let request = SignableRequest::new(self.method, url, headers, SignableBody::Bytes(&self.body)).unwrap();
        let (instructions, _) = sign(request, &params).unwrap().into_parts();
        for (name, value) in instructions.headers() {
            self.headers.insert(HeaderName::try_from(name).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        for (name, value) in instructions.params() {
            let value = canonical::encode_parameter(value.as_bytes());
            self.query.push_str(&format!("&{name}={value}"));
        }
        self
    }

    fn signed_now(self) -> Sent {
        self.signed(&key(), SERVICE, REGION, NOW_S, None)
    }

    fn verify_at(&self, keys: &Keys, now_s: u64) -> Result<Identity, AuthError> {
        let hash = Digest(sha2::Sha256::digest(&self.body).into()).to_string();
        let request = Request {
            method: self.method,
            path: &self.path,
            query: &self.query,
            headers: &self.headers,
            authority: None,
            body_sha256_hex: Some(&hash),
        };
        let screened = screen(keys, &request, now_s, REGION, Mode::Required);
        let verified = verify(keys, &request, now_s, REGION, Mode::Required);
        // Whatever the screening refuses, the verification refuses alike.
        if let Err(error) = screened {
            assert_eq!(verified, Err(error));
        }
        verified
    }

    fn verify(&self) -> Result<Identity, AuthError> {
        self.verify_at(&Keys(vec![key()]), NOW_S)
    }
}

fn refused(sent: &Sent, kind: &str, message: &str) {
    let error = sent.verify().unwrap_err();
    assert_eq!((error.error_type(), error.to_string().as_str()), (kind, message));
}

#[test]
fn canonical_request_of_the_aws_documentation() {
    // The ListUsers example of "Create a signed AWS API request", IAM user guide.
    let sent = Sent::get("/", "Action=ListUsers&Version=2010-05-08")
        .set("host", "iam.amazonaws.com")
        .set("content-type", "application/x-www-form-urlencoded; charset=utf-8")
        .set("x-amz-date", "20150830T123600Z");
    let request = Request {
        method: "GET",
        path: &sent.path,
        query: &sent.query,
        headers: &sent.headers,
        authority: None,
        body_sha256_hex: None,
    };
    let names = ["content-type", "host", "x-amz-date"].map(str::to_owned);
    let hash = request_sha256_hex(&request, &names, &Payload::Sha256Hex(EMPTY_SHA256_HEX.to_owned()));
    assert_eq!(hash, "f536975d06c0309214f805bb90ccff089219ecd68b2577efef23edd43b7e1a59");
}

#[test]
fn canonical_paths() {
    let check = |raw: &str, want: &str| assert_eq!(path(raw), want, "{raw}");
    check("", "/");
    check("/", "/");
    check("/a/./b/../c//d/", "/a/c/d/");
    check("/a/b/..", "/a/");
    check("/..", "/");
    check("/functions/arn%3Aaws%3Alambda", "/functions/arn%253Aaws%253Alambda");
    check("/functions/arn:aws", "/functions/arn%3Aaws");
    check("/~a-b_c.d/%24LATEST", "/~a-b_c.d/%2524LATEST");
}

#[test]
fn canonical_queries() {
    let check = |raw: &str, want: &str| assert_eq!(query(raw), want, "{raw}");
    check("", "");
    check("b=2&a=1&&a=0", "a=0&a=1&b=2");
    check("Qualifier=", "Qualifier=");
    check("Qualifier", "Qualifier=");
    check("a=b+c&d=%2B&e=%20", "a=b%20c&d=%2B&e=%20");
    check("k=%c3%a4:~", "k=%C3%A4%3A~");
    check("X-Amz-Signature=00&a=1", "a=1");
    check("a=b=c&%=%zz", "%25=%25zz&a=b%3Dc");
}

#[test]
fn good_signatures_are_accepted() {
    let path = "/2015-03-31/functions/arn%3Aaws%3Alambda%3Aus-east-1%3A000000000000%3Afunction%3Af/invocations";
    let sent =
        Sent { method: "POST", body: b"{\"a\": 1}".to_vec(), ..Sent::get(path, "Qualifier=%24LATEST&x=%C3%A4+b") }
            .with("x-amz-log-type", "Tail")
            .with("x-amz-client-context", "  a   b ")
            .signed_now();
    assert_eq!(sent.verify(), Ok(Identity { access_key_id: Some("AKIDEXAMPLE".to_owned()), presigned: false }));
}

#[test]
fn presigned_queries_are_accepted_until_they_end() {
    let sent = Sent::get("/2015-03-31/functions/f", "Qualifier=1").signed(&key(), SERVICE, REGION, NOW_S, Some(600));
    let keys = Keys(vec![key()]);
    assert!(sent.verify_at(&keys, NOW_S).unwrap().presigned);
    assert!(sent.verify_at(&keys, NOW_S + 600).is_ok());
    let error = sent.verify_at(&keys, NOW_S + 601).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Signature expired: 20150830T123600Z is now earlier than 20150830T123601Z (20150830T124601Z - 10 min.)"
    );
    assert!(matches!(sent.verify_at(&keys, NOW_S - 301), Err(AuthError::NotYetCurrent { .. })));
}

#[test]
fn our_own_presigned_urls_are_accepted() {
    for token in [None, Some("a+b/c= d".to_owned())] {
        let key = Key { session_token: token, ..key() };
        let target =
            Target { scheme: "http", host: "127.0.0.1:9000", path: "/tidegate/v1/packages/00", query: "b=2&a=%20" };
        let url = presign(&key, REGION, &target, 600, NOW_S);
        let (path, query) = url.strip_prefix("http://127.0.0.1:9000").unwrap().split_once('?').unwrap();
        let keys = Keys(vec![key]);
        let sent = Sent::get(path, query);
        assert!(sent.verify_at(&keys, NOW_S + 599).unwrap().presigned);
        assert!(matches!(sent.verify_at(&keys, NOW_S + 601), Err(AuthError::Expired { .. })));
        let other = Sent::get("/tidegate/v1/packages/01", query);
        assert_eq!(other.verify_at(&keys, NOW_S), Err(AuthError::Mismatch));
        let longer = Sent::get(path, &query.replace("X-Amz-Expires=600", "X-Amz-Expires=6000"));
        assert_eq!(longer.verify_at(&keys, NOW_S), Err(AuthError::Mismatch));
    }
}

#[test]
fn authority_stands_in_for_host() {
    let mut sent = Sent::get("/", "").signed_now();
    sent.headers.remove("host");
    let request = Request {
        method: "GET",
        path: "/",
        query: "",
        headers: &sent.headers,
        authority: Some("127.0.0.1:9000"),
        body_sha256_hex: None,
    };
    assert!(verify(&Keys(vec![key()]), &request, NOW_S, REGION, Mode::Required).is_ok());
}

#[test]
fn a_signed_date_header_stands_in_for_x_amz_date() {
    let sent_with = |names: &str| {
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/lambda/aws4_request,SignedHeaders={names},\
             Signature=00"
        );
        let sent = Sent::get("/", "").set("date", "Sun, 30 Aug 2015 12:36:00 GMT").set("authorization", &authorization);
        let request = Request {
            method: "GET",
            path: "/",
            query: "",
            headers: &sent.headers,
            authority: None,
            body_sha256_hex: None,
        };
        let claim = Claim::read(&request).unwrap();
        let payload = Payload::Sha256Hex(EMPTY_SHA256_HEX.to_owned());
        let good = canonical::signature(&key().secret_access_key, &request, &claim, &payload);
        sent.clone().set("authorization", &authorization.replace("Signature=00", &format!("Signature={good}")))
    };
    assert!(sent_with("date;host").verify().is_ok());
    assert_eq!(sent_with("host").verify(), Err(AuthError::HeaderNotSigned("'Date'".to_owned())));
}

#[test]
fn requests_without_a_signature() {
    let missing = "MissingAuthenticationTokenException";
    refused(&Sent::get("/", ""), missing, "Missing Authentication Token");
    refused(&Sent::get("/", "X-Amz-Date=20150830T123600Z"), missing, "Missing Authentication Token");
}

#[test]
fn incomplete_signatures() {
    let incomplete = "IncompleteSignatureException";
    refused(
        &Sent::get("/", "").set("authorization", "Bearer x"),
        incomplete,
        "Authorization header requires 'Credential' parameter. Authorization header requires 'Signature' parameter. \
         Authorization header requires 'SignedHeaders' parameter. Authorization header requires existence of either a \
         'X-Amz-Date' or a 'Date' header. (Hashed with SHA-256 and encoded with Base64) \
         Authorization=uTem/WB082UJMN2ajD6lH6UChGpTAddMJSx2iu923No=",
    );
    refused(
        &Sent::get("/", "X-Amz-Signature=0&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Date=20150830T123600Z"),
        incomplete,
        "AWS query-string parameters must include 'X-Amz-Credential'. AWS query-string parameters must include \
         'X-Amz-SignedHeaders'. Re-examine the query-string parameters.",
    );
    let with_credential = |credential: &str| {
        let value = format!("AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders=host, Signature=00");
        Sent::get("/", "").set("x-amz-date", "20150830T123600Z").set("authorization", &value)
    };
    refused(
        &with_credential("a/b"),
        incomplete,
        "Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term, got 'a/b'",
    );
    refused(
        &Sent::get("/", "").set("authorization", "AWS4-ECDSA-P256-SHA256 Credential=x"),
        incomplete,
        "Unsupported AWS 'algorithm': 'AWS4-ECDSA-P256-SHA256'.",
    );
    let expires = |text: &str| {
        let sent = Sent::get("/", "").signed(&key(), SERVICE, REGION, NOW_S, Some(600));
        let query = sent.query.replace("X-Amz-Expires=600", &format!("X-Amz-Expires={text}"));
        Sent { query, ..sent }
    };
    for bad in ["0", "604801", "-1", "x", ""] {
        let text = "X-Amz-Expires must be a number of seconds from 1 to 604800.";
        refused(&expires(bad), incomplete, text);
    }
}

#[test]
fn keys_and_tokens() {
    let unknown = Key { access_key_id: "AKIDOTHER".to_owned(), ..key() };
    let sent = Sent::get("/", "").signed(&unknown, SERVICE, REGION, NOW_S, None);
    refused(&sent, "UnrecognizedClientException", "The security token included in the request is invalid.");

    let temporary = Key { session_token: Some("tok".to_owned()), expires_at_s: Some(NOW_S + 10), ..key() };
    let sent = Sent::get("/", "").signed(&temporary, SERVICE, REGION, NOW_S, None);
    let keys = Keys(vec![unknown, temporary]);
    assert!(sent.verify_at(&keys, NOW_S).is_ok());
    assert_eq!(sent.verify_at(&keys, NOW_S + 10), Err(AuthError::TokenExpired));
    assert_eq!(sent.clone().set("x-amz-security-token", "tak").verify_at(&keys, NOW_S), Err(AuthError::UnknownKey));
    assert_eq!(Sent::get("/", "").signed_now().verify_at(&keys, NOW_S), Err(AuthError::UnknownKey));
    assert_eq!(sent.verify(), Err(AuthError::UnknownKey), "a token for a key that has none");
}

#[test]
fn scopes() {
    let invalid = "InvalidSignatureException";
    let sent = Sent::get("/", "").signed(&key(), SERVICE, "eu-west-1", NOW_S, None);
    refused(&sent, invalid, "Credential should be scoped to a valid region, not 'eu-west-1'. ");
    let sent = Sent::get("/", "").signed(&key(), "s3", REGION, NOW_S, None);
    refused(&sent, invalid, "Credential should be scoped to correct service: 'lambda'. ");
    let sent = Sent::get("/", "").signed_now().set("x-amz-date", "20150829T123600Z");
    refused(
        &sent,
        invalid,
        "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: \
         '20150830' != '20150829', from '20150829T123600Z'.",
    );
}

#[test]
fn clocks() {
    let sent = Sent::get("/", "").signed_now();
    let keys = Keys(vec![key()]);
    for now_s in [NOW_S - 300, NOW_S + 300] {
        assert!(sent.verify_at(&keys, now_s).is_ok());
    }
    assert_eq!(
        sent.verify_at(&keys, NOW_S + 840).unwrap_err().to_string(),
        "Signature expired: 20150830T123600Z is now earlier than 20150830T124500Z (20150830T125000Z - 5 min.)"
    );
    assert_eq!(
        sent.verify_at(&keys, NOW_S - 360).unwrap_err().to_string(),
        "Signature not yet current: 20150830T123600Z is still later than 20150830T123500Z (20150830T123000Z + 5 min.)"
    );
}

#[test]
fn what_must_be_signed() {
    let sent = Sent::get("/", "").signed_now().set("x-amz-invocation-type", "DryRun");
    refused(
        &sent,
        "InvalidSignatureException",
        "'x-amz-invocation-type' must be a 'SignedHeader' in the AWS Authorization.",
    );
    let mut sent = Sent::get("/", "").signed_now();
    let value = sent.headers["authorization"].to_str().unwrap().replace("host;", "");
    sent = sent.set("authorization", &value);
    refused(
        &sent,
        "InvalidSignatureException",
        "'Host' or ':authority' must be a 'SignedHeader' in the AWS Authorization.",
    );
    assert!(Sent::get("/", "").signed_now().set("x-amz-user-agent", "x").verify().is_ok());
}

#[test]
fn every_part_of_the_request_counts() {
    let sent =
        Sent { method: "PUT", body: b"{}".to_vec(), ..Sent::get("/a/b", "q=1") }.with("x-amz-a", "1").signed_now();
    assert!(sent.verify().is_ok());
    let changed = [
        Sent { method: "GET", ..sent.clone() },
        Sent { path: "/a/c".to_owned(), ..sent.clone() },
        Sent { query: "q=2".to_owned(), ..sent.clone() },
        Sent { query: "q=1&r".to_owned(), ..sent.clone() },
        Sent { body: b"[]".to_vec(), ..sent.clone() },
        sent.clone().set("x-amz-a", "2"),
        sent.clone().with("x-amz-a", "2"),
        sent.clone().set("host", "localhost:9000"),
        sent.clone().set("x-amz-content-sha256", EMPTY_SHA256_HEX),
    ];
    for (index, sent) in changed.iter().enumerate() {
        assert!(sent.verify().is_err(), "change {index}");
    }
}

#[test]
fn declared_body_hashes() {
    let hash = Digest(sha2::Sha256::digest(b"{}").into()).to_string();
    let with = |declared: &str, body: &[u8], expires_s: Option<u64>| {
        let sent = Sent { method: "POST", body: body.to_vec(), ..Sent::get("/", "") };
        sent.with("x-amz-content-sha256", declared).signed(&key(), SERVICE, REGION, NOW_S, expires_s)
    };
    assert!(with(&hash, b"{}", None).verify().is_ok());
    assert_eq!(with(&hash, b"[]", None).verify(), Err(AuthError::Mismatch));
    for kind in ["UNSIGNED-PAYLOAD", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD", ""] {
        assert_eq!(with(kind, b"{}", None).verify(), Err(AuthError::PayloadKind), "{kind}");
    }
}

#[test]
fn open_mode_refuses_nothing() {
    for sent in
        [Sent::get("/", ""), Sent::get("/", "").set("authorization", "Basic x"), Sent::get("/", "").signed_now()]
    {
        let request = Request {
            method: "GET",
            path: "/",
            query: "",
            headers: &sent.headers,
            authority: None,
            body_sha256_hex: None,
        };
        assert!(screen(&Keys::default(), &request, 0, REGION, Mode::Open).is_ok());
        assert!(verify(&Keys::default(), &request, 0, REGION, Mode::Open).is_ok());
    }
}

#[test]
fn secrets_are_not_printed() {
    assert!(!format!("{:?}", Keys(vec![key()])).contains("wJalr"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn what_the_sdk_signs_we_accept(
        segments in prop::collection::vec("[a-zA-Z0-9._~:$-]{1,8}|%[0-9A-F]{2}", 0..5),
        pairs in prop::collection::vec(("[a-zA-Z0-9äß -]{1,6}", "[ -~äß€]{0,8}"), 0..5),
        header in "[!-~]([ -~]{0,20}[!-~])?",
        body in prop::collection::vec(any::<u8>(), 0..64),
        presigned in any::<bool>(),
    ) {
        let encode = |text: &str| canonical::encode_parameter(text.as_bytes());
        let query: Vec<String> = pairs.iter().map(|(n, v)| format!("{}={}", encode(n), encode(v))).collect();
        let sent = Sent { method: "POST", body, ..Sent::get(&format!("/{}", segments.join("/")), &query.join("&")) }
            .with("x-amz-client-context", &header)
            .signed(&key(), SERVICE, REGION, NOW_S, presigned.then_some(60));
        prop_assert!(sent.verify().is_ok(), "{:?}", sent.verify());
    }

    #[test]
    fn nothing_the_client_sends_makes_us_panic(
        path in ".{0,40}",
        query in "(X-Amz-(Algorithm|Credential|Date|Signature|SignedHeaders|Expires)=[ -~]{0,20}&?){0,6}",
        authorization in "(AWS4-HMAC-SHA256 )?((Credential|SignedHeaders|Signature)=[ -~]{0,30},? ?){0,4}",
        date in "[0-9T]{0,17}Z?",
        now_s in any::<u64>(),
    ) {
        let sent = Sent::get(&path, &query);
        prop_assert!(sent.verify_at(&Keys(vec![key()]), now_s).is_err());
        if let Ok(value) = HeaderValue::from_str(authorization.trim()) {
            let mut sent = sent.with("x-amz-date", &date);
            sent.headers.insert("authorization", value);
            prop_assert!(sent.verify_at(&Keys(vec![key()]), now_s).is_err());
        }
    }
}
