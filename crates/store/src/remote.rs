//! Packages that lie in an S3-compatible store: one GetObject, signed, bounded in time and size.

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings, UriPathNormalizationMode,
    sign,
};
use aws_sigv4::sign::v4;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use std::fmt;
use std::time::{Duration, SystemTime};
use ureq::http::{Request, Response, Uri};

/// How long the connection may take to stand.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// How long the store may take to begin its answer.
const RESPONSE_MAX: Duration = Duration::from_secs(30);
/// How long the whole fetch may take.
const FETCH_MAX: Duration = Duration::from_secs(120);
/// The most bytes of an error's XML that are read.
const ERROR_BYTES_MAX: u64 = 64 * 1024;
/// The longest key (S3 API).
const KEY_BYTES_MAX: usize = 1_024;
/// The longest bucket name (S3 API).
const BUCKET_BYTES_MAX: usize = 63;

/// What is left as it is in queries.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
/// What is left as it is in keys.
const KEY: &AsciiSet = &UNRESERVED.remove(b'/');

/// Where the objects are and who may read them.
#[derive(Clone, PartialEq, Eq)]
pub struct S3Config {
    /// `http://` or `https://`, host, perhaps a port.
    pub endpoint: String,
    /// The region in the signature; many stores take any.
    pub region: String,
    /// The access key; empty for objects that anyone may read.
    pub access_key_id: String,
    /// The secret key.
    pub secret_access_key: String,
    /// The bucket stands in the path, not in front of the host.
    pub path_style: bool,
}

impl fmt::Debug for S3Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Config")
            .field("endpoint", &self.endpoint)
            .field("region", &self.region)
            .field("access_key_id", &self.access_key_id)
            .field("path_style", &self.path_style)
            .finish_non_exhaustive()
    }
}

/// Why an object was not fetched. Display of the S3 variants is the text that the Lambda API gives.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// The configured endpoint is not a URL of a host.
    #[error("'{endpoint}' is not an S3 endpoint such as https://s3.example.com")]
    Endpoint {
        /// As configured.
        endpoint: String,
    },
    /// No bucket can have this name.
    #[error(
        "Error occurred while GetObject. S3 Error Code: InvalidBucketName. S3 Error Message: The specified bucket is not valid."
    )]
    BucketName,
    /// No object can have this key, or it has `.` or `..` between slashes, which servers on the way may resolve.
    #[error(
        "Error occurred while GetObject. S3 Error Code: InvalidArgument. S3 Error Message: The specified key is not valid."
    )]
    Key,
    /// The request could not be signed.
    #[error("cannot sign the request for {url}")]
    Sign {
        /// What was to be fetched.
        url: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No answer, or none in time.
    #[error("cannot fetch {url}")]
    Reach {
        /// What was to be fetched.
        url: String,
        /// Why.
        #[source]
        source: Box<ureq::Error>,
    },
    /// `NoSuchBucket`
    #[error("{0}")]
    NoSuchBucket(S3Message),
    /// `NoSuchKey` or `NoSuchVersion`
    #[error("{0}")]
    NoSuchKey(S3Message),
    /// `AccessDenied`, or a key or signature that the store does not take.
    #[error("{0}")]
    AccessDenied(S3Message),
    /// Any other refusal, redirects to other regions among them.
    #[error("{0}")]
    Refused(S3Message),
    /// The object is larger than allowed.
    #[error("the object is larger than {bytes_max} bytes")]
    TooLarge {
        /// What was allowed.
        bytes_max: u64,
    },
}

/// A store's own words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Message {
    /// `NoSuchKey`, for example.
    pub code: String,
    /// For people.
    pub text: String,
}

impl fmt::Display for S3Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Error occurred while GetObject. S3 Error Code: {}. S3 Error Message: {}", self.code, self.text)
    }
}

/// Reads an object into memory. Blocks for at most two minutes; follows no redirects; takes no more than
/// `bytes_max` bytes.
pub fn fetch(
    config: &S3Config,
    bucket: &str,
    key: &str,
    version: Option<&str>,
    bytes_max: u64,
) -> Result<Vec<u8>, RemoteError> {
    let (url, host) = locate(config, bucket, key, version)?;
    let unreachable = |source: ureq::Error| RemoteError::Reach { url: url.clone(), source: Box::new(source) };
    let answer = request(config, &url, &host)?;
    let answer = agent().run(answer).map_err(unreachable)?;
    if answer.status() != 200 {
        return Err(refusal(answer));
    }
    if answer.body().content_length().is_some_and(|length| length > bytes_max) {
        return Err(RemoteError::TooLarge { bytes_max });
    }
    let body = answer.into_body().into_with_config().limit(bytes_max.saturating_add(1)).read_to_vec();
    match body {
        Ok(bytes) if bytes.len() as u64 <= bytes_max => Ok(bytes),
        Ok(_) | Err(ureq::Error::BodyExceedsLimit(_)) => Err(RemoteError::TooLarge { bytes_max }),
        Err(error) => Err(unreachable(error)),
    }
}

/// Fetches are rare, so that no connection is kept for the next.
fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(None)
        .max_idle_connections(0)
        .user_agent("tidegate")
        .timeout_connect(Some(CONNECT_MAX))
        .timeout_recv_response(Some(RESPONSE_MAX))
        .timeout_global(Some(FETCH_MAX))
        .build()
        .into()
}

/// The object's URL and the `Host` header for it.
fn locate(config: &S3Config, bucket: &str, key: &str, version: Option<&str>) -> Result<(String, String), RemoteError> {
    let bad_endpoint = || RemoteError::Endpoint { endpoint: config.endpoint.clone() };
    let endpoint: Uri = config.endpoint.parse().map_err(|_| bad_endpoint())?;
    let scheme = endpoint.scheme_str().filter(|s| matches!(*s, "http" | "https")).ok_or_else(bad_endpoint)?;
    let authority = endpoint.authority().filter(|a| !a.as_str().contains('@')).ok_or_else(bad_endpoint)?;
    if endpoint.path().len() > 1 || endpoint.query().is_some() {
        return Err(bad_endpoint());
    }
    // The name may become part of a host name: nothing but these characters may get there.
    let is_bucket = (1..=BUCKET_BYTES_MAX).contains(&bucket.len())
        && bucket.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
        && !bucket.starts_with(['.', '-'])
        && !bucket.ends_with('.');
    if !is_bucket {
        return Err(RemoteError::BucketName);
    }
    let has_dots = key.split('/').any(|part| part == "." || part == "..");
    if key.is_empty() || key.len() > KEY_BYTES_MAX || has_dots {
        return Err(RemoteError::Key);
    }
    let key = utf8_percent_encode(key, KEY);
    let version = version.map(|v| format!("?versionId={}", utf8_percent_encode(v, UNRESERVED))).unwrap_or_default();
    let default_port = if scheme == "http" { 80 } else { 443 };
    let server = match authority.port_u16() {
        Some(port) if port == default_port => authority.host(),
        _ => authority.as_str(),
    };
    Ok(if config.path_style {
        (format!("{scheme}://{server}/{bucket}/{key}{version}"), server.to_owned())
    } else {
        (format!("{scheme}://{bucket}.{server}/{key}{version}"), format!("{bucket}.{server}"))
    })
}

/// The GET, with the headers that S3 wants signed.
fn request(config: &S3Config, url: &str, host: &str) -> Result<Request<()>, RemoteError> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| RemoteError::Sign { url: url.to_owned(), source };
    let mut request = Request::get(url).header("host", host);
    if !config.access_key_id.is_empty() {
        let identity =
            Credentials::new(&config.access_key_id, &config.secret_access_key, None, None, "tidegate").into();
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(&config.region)
            .name("s3")
            .time(SystemTime::now())
            .settings(s3_settings())
            .build()
            .map_err(|error| failed(Box::new(error)))?
            .into();
        let signable = SignableRequest::new("GET", url, [("host", host)].into_iter(), SignableBody::empty())
            .map_err(|error| failed(Box::new(error)))?;
        let (instructions, _) = sign(signable, &params).map_err(|error| failed(Box::new(error)))?.into_parts();
        for (name, value) in instructions.headers() {
            request = request.header(name, value);
        }
    }
    request.body(()).map_err(|error| failed(Box::new(error)))
}

/// Unlike all other services, S3 signs the path as it is sent and wants the body's hash in a header.
fn s3_settings() -> SigningSettings {
    let mut settings = SigningSettings::default();
    settings.percent_encoding_mode = PercentEncodingMode::Single;
    settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
    settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
    settings
}

fn refusal(answer: Response<ureq::Body>) -> RemoteError {
    let status = answer.status();
    let body = answer.into_body().into_with_config().limit(ERROR_BYTES_MAX).lossy_utf8(true).read_to_string();
    message_to_error(status.as_u16(), &body.unwrap_or_default())
}

fn message_to_error(status: u16, body: &str) -> RemoteError {
    let code = element(body, "Code").unwrap_or_else(|| format!("Http{status}"));
    let text = element(body, "Message").unwrap_or_else(|| "The store gives no reason.".to_owned());
    let message = S3Message { code, text };
    match message.code.as_str() {
        "NoSuchBucket" => RemoteError::NoSuchBucket(message),
        "NoSuchKey" | "NoSuchVersion" => RemoteError::NoSuchKey(message),
        "AccessDenied" | "AllAccessDisabled" | "InvalidAccessKeyId" | "SignatureDoesNotMatch" => {
            RemoteError::AccessDenied(message)
        }
        _ => RemoteError::Refused(message),
    }
}

/// The text of the first element of this name: S3's errors are flat, so that a parser for all of XML is not needed.
/// At most 1,000 characters, control characters made spaces.
fn element(xml: &str, name: &str) -> Option<String> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    // `&amp;` comes last, or `&amp;lt;` would be decoded twice.
    let text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"");
    let text = text.replace("&apos;", "'").replace("&#39;", "'").replace("&#34;", "\"").replace("&amp;", "&");
    Some(text.chars().take(1_000).map(|c| if c.is_control() { ' ' } else { c }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::thread::JoinHandle;

    fn config(endpoint: &str, path_style: bool) -> S3Config {
        S3Config {
            endpoint: endpoint.to_owned(),
            region: "us-east-1".to_owned(),
            access_key_id: "AKID".to_owned(),
            secret_access_key: "secret".to_owned(),
            path_style,
        }
    }

    /// Answers one request with these bytes; gives the request's head back.
    fn answer_once(answer: Vec<u8>) -> (String, JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
                head.push(byte[0]);
            }
            // The client may hang up before it has read everything.
            let _ = stream.write_all(&answer);
            String::from_utf8(head).unwrap()
        });
        (endpoint, thread)
    }

    fn fetch_from(answer: &str, bytes_max: u64) -> (Result<Vec<u8>, String>, String) {
        let (endpoint, thread) = answer_once(answer.as_bytes().to_vec());
        let config = config(&endpoint, true);
        let got = fetch(&config, "bucket", "a b/ä+.zip", Some("v/1"), bytes_max).map_err(|error| error.to_string());
        (got, thread.join().unwrap())
    }

    #[test]
    fn an_object_comes_back_and_the_request_is_signed() {
        let (got, head) = fetch_from("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc", 3);
        assert_eq!(got.unwrap(), b"abc");
        assert!(head.starts_with("GET /bucket/a%20b/%C3%A4%2B.zip?versionId=v%2F1 HTTP/1.1\r\n"), "{head}");
        let head = head.to_ascii_lowercase();
        for header in
            ["x-amz-content-sha256: e3b0c442", "x-amz-date: 2", "authorization: aws4-hmac-sha256 credential=akid/"]
        {
            assert!(head.contains(&format!("\r\n{header}")), "{head}");
        }
        assert_eq!(head.matches("\r\nhost:").count(), 1, "{head}");
    }

    #[test]
    fn sizes_are_bounded() {
        let large = "the object is larger than 2 bytes".to_owned();
        let (got, _) = fetch_from("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc", 2);
        assert_eq!(got, Err(large.clone()));
        let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n3\r\nabc\r\n0\r\n\r\n";
        assert_eq!(fetch_from(chunked, 2).0, Err(large));
        assert_eq!(fetch_from(chunked, 6).0.unwrap(), b"abcabc");
        assert!(fetch_from("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc", 100).0.is_err(), "cut off");
    }

    #[test]
    fn refusals_keep_the_words_of_the_store() {
        let body = "<?xml version=\"1.0\"?><Error><Code>NoSuchKey</Code><Message>The specified key does not exist.\
                    </Message></Error>";
        let answer = format!("HTTP/1.1 404 Not Found\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        assert_eq!(
            fetch_from(&answer, 9).0.unwrap_err(),
            "Error occurred while GetObject. S3 Error Code: NoSuchKey. S3 Error Message: The specified key does not \
             exist."
        );
        let moved = "HTTP/1.1 301 Moved\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(
            fetch_from(moved, 9).0.unwrap_err(),
            "Error occurred while GetObject. S3 Error Code: Http301. S3 Error Message: The store gives no reason."
        );
    }

    #[test]
    fn codes_become_variants() {
        let error = |code: &str| message_to_error(400, &format!("<Error><Code>{code}</Code></Error>"));
        assert!(matches!(error("NoSuchBucket"), RemoteError::NoSuchBucket(_)));
        assert!(matches!(error("NoSuchVersion"), RemoteError::NoSuchKey(_)));
        assert!(matches!(error("SignatureDoesNotMatch"), RemoteError::AccessDenied(_)));
        assert!(matches!(error("SlowDown"), RemoteError::Refused(_)));
        assert_eq!(
            element("<Message>a &amp;lt; &quot;b&quot;\n</Message>", "Message").as_deref(),
            Some("a &lt; \"b\" ")
        );
        assert_eq!(element("<Code>x", "Code"), None);
    }

    #[test]
    fn locations() {
        let check = |endpoint: &str, path_style: bool, want: &str| {
            let (url, host) = locate(&config(endpoint, path_style), "b.c", "k", None).unwrap();
            assert_eq!(format!("{url} {host}"), want);
        };
        check("http://h:9000", true, "http://h:9000/b.c/k h:9000");
        check("https://s3.example.com:443/", false, "https://b.c.s3.example.com/k b.c.s3.example.com");
        for endpoint in ["", "h:9", "ftp://h", "http://u@h", "http://h/path", "http://h?q"] {
            let error = locate(&config(endpoint, true), "b", "k", None).unwrap_err();
            assert!(matches!(error, RemoteError::Endpoint { .. }), "{endpoint}");
        }
        for bucket in ["", "a/b", "evil.com#", "a@b", "..", "b.", &"b".repeat(64)] {
            assert!(matches!(locate(&config("http://h", false), bucket, "k", None), Err(RemoteError::BucketName)));
        }
        for key in ["", "a/../b", ".", &"k".repeat(1_025)] {
            assert!(matches!(locate(&config("http://h", true), "b", key, None), Err(RemoteError::Key)), "{key}");
        }
    }

    #[test]
    fn an_absent_store_is_an_error_and_secrets_stay_hidden() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let config = config(&endpoint, true);
        assert!(matches!(fetch(&config, "b", "k", None, 1), Err(RemoteError::Reach { .. })));
        assert!(!format!("{config:?}").contains("secret\""));
    }
}
