//! One request to the public API: signed, sent, its refusal turned into an [`Error`].

use crate::connection::Target;
use crate::error::Error;
use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, SystemTime};
use ureq::http::{HeaderMap, Method, Request};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};

/// What is left as it is in paths and queries: RFC 3986's unreserved characters.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
/// How long a connection may take to stand.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// How long most requests may take in all.
const CALL_MAX: Duration = Duration::from_secs(60);
/// The most bytes of an answer; the API's largest is a little over 6 MB.
const ANSWER_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// A server to ask.
pub struct Client {
    target: Target,
    agent: ureq::Agent,
}

/// One request.
pub struct Call {
    operation: &'static str,
    method: Method,
    path: String,
    query: Vec<(&'static str, String)>,
    headers: Vec<(&'static str, String)>,
    body: Option<Vec<u8>>,
    time_max: Duration,
}

/// An answer with a status under 400.
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Vec<u8>,
    operation: &'static str,
}

impl Call {
    /// `operation` is for messages; `path` is percent-encoded already (see [`segment`]).
    pub fn new(operation: &'static str, method: Method, path: String) -> Call {
        Call { operation, method, path, query: Vec::new(), headers: Vec::new(), body: None, time_max: CALL_MAX }
    }

    /// Adds a query parameter.
    pub fn query(mut self, name: &'static str, value: impl ToString) -> Call {
        self.query.push((name, value.to_string()));
        self
    }

    /// Adds a header; the name is in lower case.
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Call {
        self.headers.push((name, value.into()));
        self
    }

    /// Sends these bytes.
    pub fn body(mut self, body: Vec<u8>) -> Call {
        self.body = Some(body);
        self
    }

    /// Sends this value as JSON.
    pub fn json(self, value: &Value) -> Call {
        self.header("content-type", "application/json").body(value.to_string().into_bytes())
    }

    /// How long the request may take in all.
    pub fn time_max(mut self, time: Duration) -> Call {
        self.time_max = time;
        self
    }

    fn path_and_query(&self) -> String {
        let pairs: Vec<String> = self.query.iter().map(|(name, value)| format!("{name}={}", segment(value))).collect();
        let separator = if pairs.is_empty() { "" } else { "?" };
        format!("{}{separator}{}", self.path, pairs.join("&"))
    }
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Result<Value, Error> {
        serde_json::from_slice(&self.body)
            .map_err(|error| Error::Answer { operation: self.operation, what: error.to_string() })
    }

    /// A header's text, if it is there.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// One path segment or query value, percent-encoded.
pub fn segment(text: &str) -> String {
    utf8_percent_encode(text, UNRESERVED).to_string()
}

/// Trusts the certificates of a PEM file and no others.
fn trusting(path: &Path) -> Result<TlsConfig, Error> {
    let text = std::fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    let items: Result<Vec<_>, _> = parse_pem(&text).collect();
    let certificates = items.unwrap_or_default().into_iter().filter_map(|item| match item {
        PemItem::Certificate(certificate) => Some(certificate),
        _ => None,
    });
    let certificates: Vec<_> = certificates.collect();
    if certificates.is_empty() {
        let what = format!("{} holds no certificates in PEM form", path.display());
        return Err(Error::usage(what, "name a file of CA certificates with --ca-bundle"));
    }
    Ok(TlsConfig::builder().root_certs(RootCerts::from(certificates)).build())
}

impl Client {
    /// Connections are kept alive between calls; redirects are not followed.
    pub fn new(target: Target) -> Result<Client, Error> {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(CONNECT_MAX))
            .user_agent("tidegate-cli");
        // A proxy of the environment is no way to reach this machine itself.
        let config = if target.is_loopback { config.proxy(None) } else { config };
        let config = match &target.ca_bundle {
            Some(path) => config.tls_config(trusting(path)?),
            None => config,
        };
        Ok(Client { target, agent: config.build().into() })
    }

    /// The server runs on this machine.
    pub fn is_loopback(&self) -> bool {
        self.target.is_loopback
    }

    /// Sends the request and takes the answer, up to 16 MB. A status of 400 or more is an error.
    pub fn send(&self, call: Call) -> Result<Answer, Error> {
        let url = format!("{}{}", self.target.endpoint, call.path_and_query());
        let mut headers: Vec<(String, String)> = vec![("host".to_owned(), self.target.host.clone())];
        headers.extend(call.headers.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        let signed = self.signature(&call, &url, &headers)?;
        let mut request = Request::builder().method(call.method.clone()).uri(&url);
        for (name, value) in headers.iter().chain(&signed) {
            request = request.header(name, value);
        }
        let request = request.body(()).map_err(|error| Error::Sign(Box::new(error)))?;
        let (parts, ()) = request.into_parts();
        let unreachable =
            |source: ureq::Error| Error::Reach { endpoint: self.target.endpoint.clone(), source: Box::new(source) };
        let (operation, time_max) = (call.operation, Some(call.time_max));
        let answer = match call.body {
            Some(body) => {
                let request = self.agent.configure_request(Request::from_parts(parts, body));
                self.agent.run(request.timeout_global(time_max).build())
            }
            None => {
                let request = self.agent.configure_request(Request::from_parts(parts, ()));
                self.agent.run(request.timeout_global(time_max).build())
            }
        };
        let (parts, body) = answer.map_err(unreachable)?.into_parts();
        let body = match body.into_with_config().limit(ANSWER_BYTES_MAX).read_to_vec() {
            Ok(body) => body,
            Err(ureq::Error::BodyExceedsLimit(limit)) => {
                return Err(Error::Answer { operation, what: format!("it is longer than {limit} bytes") });
            }
            Err(error) => return Err(unreachable(error)),
        };
        let answer = Answer { status: parts.status.as_u16(), headers: parts.headers, body, operation };
        if answer.status < 300 { Ok(answer) } else { Err(refusal(&answer)) }
    }

    /// The headers that sign the request; none without credentials.
    fn signature(&self, call: &Call, url: &str, headers: &[(String, String)]) -> Result<Vec<(String, String)>, Error> {
        let Some(credentials) = &self.target.credentials else { return Ok(Vec::new()) };
        let identity = Credentials::new(
            &credentials.access_key_id,
            &credentials.secret_access_key,
            credentials.session_token.clone(),
            None,
            "tidegate-cli",
        )
        .into();
        let refuse = |error: Box<dyn std::error::Error + Send + Sync>| Error::Sign(error);
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.target.region)
            .name("lambda")
            .time(SystemTime::now())
            .settings(SigningSettings::default())
            .build()
            .map_err(|error| refuse(Box::new(error)))?
            .into();
        let pairs = headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let body = SignableBody::Bytes(call.body.as_deref().unwrap_or_default());
        let signable =
            SignableRequest::new(call.method.as_str(), url, pairs, body).map_err(|error| refuse(Box::new(error)))?;
        let (instructions, _) = sign(signable, &params).map_err(|error| refuse(Box::new(error)))?.into_parts();
        Ok(instructions.headers().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }
}

/// The API's error: its name in a header, its message in the body in one of two spellings.
fn refusal(answer: &Answer) -> Error {
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or(Value::Null);
    let code = answer.header("x-amzn-errortype").map(|text| text.split([':', '#']).next().unwrap_or(text));
    let message = body.get("message").or_else(|| body.get("Message")).and_then(Value::as_str);
    if code.is_none() && message.is_none() {
        return Error::Answer { operation: answer.operation, what: format!("status {}", answer.status) };
    }
    Error::Refused {
        operation: answer.operation,
        status: answer.status,
        code: crate::screen::harmless(code.unwrap_or("no error type")),
        message: crate::screen::harmless(message.unwrap_or("no message")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_queries_are_encoded() {
        let call = Call::new("Invoke", Method::POST, format!("/f/{}", segment("arn:aws:x/y")));
        assert_eq!(call.path_and_query(), "/f/arn%3Aaws%3Ax%2Fy");
        let call = call.query("Qualifier", "$LATEST").query("a", "b +ä");
        assert_eq!(call.path_and_query(), "/f/arn%3Aaws%3Ax%2Fy?Qualifier=%24LATEST&a=b%20%2B%C3%A4");
    }

    #[test]
    fn refusals_in_both_spellings() {
        let check = |kind: Option<&'static str>, body: &str, want: &str| {
            let mut headers = HeaderMap::new();
            if let Some(kind) = kind {
                headers.insert("x-amzn-errortype", ureq::http::HeaderValue::from_static(kind));
            }
            let answer = Answer { status: 400, headers, body: body.as_bytes().to_vec(), operation: "Invoke" };
            assert_eq!(refusal(&answer).to_string(), want);
        };
        check(Some("AnException:http://x"), r#"{"message":"m"}"#, "Invoke: m (AnException)");
        check(Some("AnException"), r#"{"Type":"User","Message":"M"}"#, "Invoke: M (AnException)");
        check(Some("AnException"), "<html>", "Invoke: no message (AnException)");
        check(None, "<html>", "the answer to Invoke is not one that a Tidegate server gives: status 400");
    }
}
