//! HTTP/1 as far as the Runtime API needs it: heads of requests, bodies in chunks, and answers. No I/O.
//!
//! `httparse` reads the syntax; what a head means for this API is decided here.

use api::runtime_api::{ERROR_TYPE, PREFIX};
use bytes::{Buf, BytesMut};
use httparse::{EMPTY_HEADER, Header, Request, Status};
use std::borrow::Cow;
use std::mem::MaybeUninit;

/// A head of more bytes is refused.
pub const HEAD_BYTES_MAX: usize = 65_536;
/// A head of more headers is refused.
const HEADERS_MAX: usize = 100;
/// Heads up to this size are tried whenever more of them has come, so that nonsense is refused at once; longer ones
/// only when they seem to be whole, so that a head that comes byte by byte costs no more than its length.
const TRIED_BYTES: usize = 4_096;
/// The line that begins a chunk, and the trailers, may have so many bytes.
const CHUNK_LINE_BYTES_MAX: usize = 16_384;

/// The head of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// What is asked.
    pub call: Call,
    /// The body that follows.
    pub body: Coming,
    /// How to answer.
    pub manner: Manner,
    /// The guest sends its body only when it is told to go on.
    pub expects: bool,
    /// The error's type, as the guest says it.
    pub error_type: Option<String>,
}

/// What of a request's body is still to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coming {
    /// So many bytes.
    Exact(u64),
    /// Chunks.
    Chunks(Chunks),
}

impl Coming {
    /// No body, or all of it has come.
    pub const NOTHING: Coming = Coming::Exact(0);
}

/// How the answer must look, and whether the connection goes on behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Manner {
    /// HTTP/1.0 was spoken.
    pub old: bool,
    /// The connection stays.
    pub keep_alive: bool,
    /// Only the head of the answer is wanted.
    pub head_only: bool,
}

impl Manner {
    /// Behind what could not be understood.
    pub const LAST: Manner = Manner { old: false, keep_alive: false, head_only: false };
}

/// The calls of the Runtime API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// Is anybody there?
    Ping,
    /// The next event.
    Next,
    /// The result for a request id.
    Response(String),
    /// The error for a request id.
    Error(String),
    /// Init has failed.
    InitError,
    /// A path of the API, by a method that it does not have.
    WrongMethod,
    /// Anything else.
    Unknown,
}

/// Why a head or a body makes no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// It is too long.
    TooLong,
    /// It is no HTTP.
    Nonsense,
}

impl From<httparse::Error> for Malformed {
    fn from(error: httparse::Error) -> Malformed {
        if error == httparse::Error::TooManyHeaders { Malformed::TooLong } else { Malformed::Nonsense }
    }
}

/// Reads a head from the front of `bytes`, of which `seen` had come when this was last tried. Gives it with its length,
/// or nothing if there is more to come.
pub fn read_head(bytes: &[u8], seen: usize) -> Result<Option<(Head, usize)>, Malformed> {
    if bytes.len() > TRIED_BYTES && !has_blank_line(&bytes[seen.saturating_sub(3)..]) {
        return if bytes.len() > HEAD_BYTES_MAX { Err(Malformed::TooLong) } else { Ok(None) };
    }
    let mut room = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut request = Request::new(&mut []);
    match request.parse_with_uninit_headers(bytes, &mut room)? {
        Status::Complete(length) => Ok(Some((head(&request)?, length))),
        Status::Partial if bytes.len() > HEAD_BYTES_MAX => Err(Malformed::TooLong),
        Status::Partial => Ok(None),
    }
}

fn has_blank_line(bytes: &[u8]) -> bool {
    let mut lines = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
    lines.any(|(at, _)| matches!(&bytes[at + 1..], [b'\n', ..] | [b'\r', b'\n', ..]))
}

fn head(request: &Request<'_, '_>) -> Result<Head, Malformed> {
    let (method, target) = (request.method.unwrap_or_default(), request.path.unwrap_or_default());
    let old = request.version == Some(0);
    let (mut length, mut chunked) = (None, None);
    let (mut keep_alive, mut expects, mut error_type) = (!old, false, None);
    for Header { name, value } in request.headers.iter() {
        // By length first: most headers are none of these.
        match name.len() {
            6 if name.eq_ignore_ascii_case("expect") => expects = value.eq_ignore_ascii_case(b"100-continue"),
            10 if name.eq_ignore_ascii_case("connection") => keep_alive = kept_alive(value, keep_alive),
            14 if name.eq_ignore_ascii_case("content-length") => {
                let said = decimal(value).ok_or(Malformed::Nonsense)?;
                if length.is_some_and(|before| before != said) {
                    return Err(Malformed::Nonsense);
                }
                length = Some(said);
            }
            17 if name.eq_ignore_ascii_case("transfer-encoding") => chunked = Some(ends_in_chunks(value)),
            n if n == ERROR_TYPE.len() && error_type.is_none() && name.eq_ignore_ascii_case(ERROR_TYPE) => {
                error_type = std::str::from_utf8(value).ok().map(str::to_owned);
            }
            _ => {}
        }
    }
    let body = match chunked {
        None => Coming::Exact(length.unwrap_or(0)),
        Some(true) if !old => Coming::Chunks(Chunks::default()),
        Some(_) => return Err(Malformed::Nonsense),
    };
    // Who says both might mean either: nothing behind this body is believed.
    let keep_alive = keep_alive && !(chunked.is_some() && length.is_some());
    let manner = Manner { old, keep_alive, head_only: method == "HEAD" };
    Ok(Head { call: call(method, path(target)), body, manner, expects: expects && !old, error_type })
}

fn kept_alive(value: &[u8], mut keep_alive: bool) -> bool {
    for word in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
        if word.eq_ignore_ascii_case(b"close") {
            return false;
        }
        keep_alive |= word.eq_ignore_ascii_case(b"keep-alive");
    }
    keep_alive
}

fn ends_in_chunks(value: &[u8]) -> bool {
    let last = value.rsplit(|byte| *byte == b',').next().unwrap_or_default();
    last.trim_ascii().eq_ignore_ascii_case(b"chunked")
}

/// Digits and nothing else: not every reader takes a sign for the same.
fn decimal(value: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(value).ok()?.trim_ascii();
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// The path of a target, which may name the server, too.
fn path(target: &str) -> &str {
    let path = match target.strip_prefix("http://") {
        Some(rest) => rest.find('/').map_or("/", |at| &rest[at..]),
        None => target,
    };
    path.split(['?', '#']).next().unwrap_or_default()
}

fn call(method: &str, path: &str) -> Call {
    if path == "/ping" || path == "/2018-06-01/ping" {
        return Call::Ping;
    }
    let Some(rest) = path.strip_prefix(PREFIX) else { return Call::Unknown };
    let mut steps = rest.split('/');
    let four = [steps.next(), steps.next(), steps.next(), steps.next()];
    let (wanted, call) = match four {
        [Some("invocation"), Some("next"), None, None] => ("GET", Call::Next),
        [Some("invocation"), Some(id), Some("response"), None] => ("POST", Call::Response(id.to_owned())),
        [Some("invocation"), Some(id), Some("error"), None] => ("POST", Call::Error(id.to_owned())),
        [Some("init"), Some("error"), None, None] => ("POST", Call::InitError),
        _ => return Call::Unknown,
    };
    if method == wanted { call } else { Call::WrongMethod }
}

/// Where a body in chunks stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Chunks {
    /// Before the line that begins a chunk.
    #[default]
    Size,
    /// Inside a chunk, with so many bytes to come.
    Inside(u64),
    /// Before the end of a chunk's line.
    End,
    /// Behind the last chunk.
    Trailers,
}

impl Chunks {
    /// Takes what has come and gives the content to `content`. `true` when the body is over.
    pub fn take(&mut self, from: &mut BytesMut, mut content: impl FnMut(&[u8])) -> Result<bool, Malformed> {
        loop {
            match *self {
                Chunks::Size => match httparse::parse_chunk_size(from).map_err(|_| Malformed::Nonsense)? {
                    Status::Complete((length, size)) => {
                        from.advance(length);
                        *self = if size == 0 { Chunks::Trailers } else { Chunks::Inside(size) };
                    }
                    Status::Partial => return unfinished(from),
                },
                Chunks::Inside(left) => {
                    let now = left.min(from.len() as u64);
                    content(&from[..now as usize]);
                    from.advance(now as usize);
                    if now < left {
                        *self = Chunks::Inside(left - now);
                        return Ok(false);
                    }
                    *self = Chunks::End;
                }
                Chunks::End => match &from[..] {
                    [b'\r', b'\n', ..] => {
                        from.advance(2);
                        *self = Chunks::Size;
                    }
                    [] | [b'\r'] => return Ok(false),
                    _ => return Err(Malformed::Nonsense),
                },
                Chunks::Trailers => match httparse::parse_headers(from, &mut [EMPTY_HEADER; HEADERS_MAX])? {
                    Status::Complete((length, _)) => {
                        from.advance(length);
                        return Ok(true);
                    }
                    Status::Partial => return unfinished(from),
                },
            }
        }
    }
}

fn unfinished(line: &[u8]) -> Result<bool, Malformed> {
    if line.len() > CHUNK_LINE_BYTES_MAX { Err(Malformed::TooLong) } else { Ok(false) }
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Status code and reason.
    pub status: &'static str,
    /// `None` for plain text.
    pub content_type: Option<&'static str>,
    /// The body.
    pub body: Cow<'static, [u8]>,
}

impl Reply {
    /// Appends the answer as it goes over the wire.
    pub fn write(&self, out: &mut Vec<u8>, manner: Manner) {
        begin(out, self.status, manner);
        if let Some(content_type) = self.content_type {
            put(out, &["Content-Type: ", content_type, "\r\n"]);
        }
        put(out, &["Content-Length: ", &self.body.len().to_string(), "\r\n\r\n"]);
        if !manner.head_only {
            out.extend_from_slice(&self.body);
        }
    }
}

/// Appends the first line, and what must be said of the connection.
pub fn begin(out: &mut Vec<u8>, status: &str, manner: Manner) {
    put(out, &[if manner.old { "HTTP/1.0 " } else { "HTTP/1.1 " }, status, "\r\n"]);
    match (manner.keep_alive, manner.old) {
        (false, _) => put(out, &["Connection: close\r\n"]),
        (true, true) => put(out, &["Connection: keep-alive\r\n"]),
        (true, false) => {}
    }
}

/// Appends texts.
pub fn put(out: &mut Vec<u8>, texts: &[&str]) {
    texts.iter().for_each(|text| out.extend_from_slice(text.as_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<Option<(Head, usize)>, Malformed> {
        read_head(text.as_bytes(), 0)
    }

    fn whole(text: &str) -> Head {
        let (head, length) = read(text).unwrap().unwrap();
        assert_eq!(length, text.len(), "{text}");
        head
    }

    #[test]
    fn calls() {
        let at = |line: &str| whole(&format!("{line} HTTP/1.1\r\n\r\n")).call;
        let base = "/2018-06-01/runtime";
        assert_eq!(at("GET /ping"), Call::Ping);
        assert_eq!(at("POST /2018-06-01/ping?x"), Call::Ping);
        assert_eq!(at(&format!("GET {base}/invocation/next")), Call::Next);
        assert_eq!(at(&format!("GET http://127.0.0.1:9001{base}/invocation/next?a=b")), Call::Next);
        assert_eq!(at(&format!("POST {base}/invocation/7-a/response")), Call::Response("7-a".into()));
        assert_eq!(at(&format!("POST {base}/invocation/7-a/error")), Call::Error("7-a".into()));
        assert_eq!(at(&format!("POST {base}/init/error")), Call::InitError);
        for wrong in ["POST invocation/next", "GET invocation/7/response", "PUT invocation/7/error", "GET init/error"] {
            let (method, path) = wrong.split_once(' ').unwrap();
            assert_eq!(at(&format!("{method} {base}/{path}")), Call::WrongMethod, "{wrong}");
        }
        for unknown in ["/", "*", "http://127.0.0.1:9001", "/2018-06-01/runtime", "127.0.0.1:9001"] {
            assert_eq!(at(&format!("GET {unknown}")), Call::Unknown, "{unknown}");
        }
        for unknown in ["invocation/next/", "invocation//next", "invocation/7/response/more", "init", "init/error/x"] {
            assert_eq!(at(&format!("GET {base}/{unknown}")), Call::Unknown, "{unknown}");
        }
    }

    #[test]
    fn bodies_and_manners() {
        let post = |version: &str, fields: &str| read(&format!("POST / HTTP/{version}\r\n{fields}\r\n"));
        let head = |version: &str, fields: &str| post(version, fields).unwrap().unwrap().0;
        for (version, fields, body, keep_alive) in [
            ("1.1", "", Coming::NOTHING, true),
            ("1.1", "content-LENGTH: 12\r\n", Coming::Exact(12), true),
            ("1.1", "Content-Length: 7 \r\nContent-Length: 07\r\n", Coming::Exact(7), true),
            ("1.1", "Transfer-Encoding: gzip, Chunked\r\n", Coming::Chunks(Chunks::Size), true),
            ("1.1", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", Coming::Chunks(Chunks::Size), false),
            ("1.1", "Connection: x, Close\r\n", Coming::NOTHING, false),
            ("1.0", "", Coming::NOTHING, false),
            ("1.0", "Connection: Keep-Alive\r\nContent-Length: 1\r\n", Coming::Exact(1), true),
        ] {
            let head = head(version, fields);
            assert_eq!((head.body, head.manner.keep_alive), (body, keep_alive), "{version} {fields}");
            assert_eq!(head.manner.old, version == "1.0");
        }
        for nonsense in [
            "Content-Length: +5\r\n",
            "Content-Length: \r\n",
            "Content-Length: 5, 5\r\n",
            "Content-Length: 99999999999999999999\r\n",
            "Content-Length: 5\r\nContent-Length: 6\r\n",
            "Transfer-Encoding: gzip\r\n",
            "Transfer-Encoding: chunked, gzip\r\n",
        ] {
            assert_eq!(post("1.1", nonsense), Err(Malformed::Nonsense), "{nonsense}");
        }
        assert_eq!(post("1.0", "Transfer-Encoding: chunked\r\n"), Err(Malformed::Nonsense));
        assert!(head("1.1", "Expect: 100-Continue\r\n").expects && !head("1.0", "Expect: 100-continue\r\n").expects);
        let of_error = head("1.1", "LAMBDA-runtime-function-error-type: Runtime.X\r\n");
        assert_eq!(of_error.error_type.as_deref(), Some("Runtime.X"));
        assert!(whole("HEAD /ping HTTP/1.1\r\n\r\n").manner.head_only);
    }

    #[test]
    fn nonsense_and_what_is_too_long() {
        for nonsense in ["\0\x01\x02", "PRI * HTTP/2.0\r\n\r\n", "GET / HTTP/1.1\r\nno colon\r\n\r\n", "GET /\r\n\r\n"]
        {
            assert_eq!(read(nonsense), Err(Malformed::Nonsense), "{nonsense:?}");
        }
        let long = |length: usize| format!("GET /{}", "a".repeat(length));
        assert_eq!(read(&long(HEAD_BYTES_MAX - 5)), Ok(None));
        assert_eq!(read(&long(HEAD_BYTES_MAX)), Err(Malformed::TooLong));
        let many = "x: y\r\n".repeat(HEADERS_MAX + 1);
        assert_eq!(read(&format!("GET / HTTP/1.1\r\n{many}\r\n")), Err(Malformed::TooLong));
        assert!(read(&format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(60_000))).unwrap().is_some());
    }

    #[test]
    fn chunks_that_are_none() {
        for nonsense in ["zzz\r\n", "1\r\nab\r\n", "-1\r\n", "fffffffffffffffff\r\n", "0\r\nno colon\r\n\r\n"] {
            let taken = Chunks::default().take(&mut BytesMut::from(nonsense), |_| {});
            assert!(taken.is_err(), "{nonsense:?} {taken:?}");
        }
        let endless = format!("1;{}", "x".repeat(CHUNK_LINE_BYTES_MAX));
        assert_eq!(Chunks::default().take(&mut BytesMut::from(endless.as_str()), |_| {}), Err(Malformed::TooLong));
    }

    #[test]
    fn answers_on_the_wire() {
        let written = |reply: &Reply, manner| {
            let mut out = Vec::new();
            reply.write(&mut out, manner);
            String::from_utf8(out).unwrap()
        };
        let manner = |old, keep_alive, head_only| Manner { old, keep_alive, head_only };
        let reply = Reply { status: "200 OK", content_type: Some("text/x"), body: b"abc".into() };
        let fields = "Content-Type: text/x\r\nContent-Length: 3\r\n\r\n";
        assert_eq!(written(&reply, manner(false, true, false)), format!("HTTP/1.1 200 OK\r\n{fields}abc"));
        assert_eq!(
            written(&reply, manner(false, false, true)),
            format!("HTTP/1.1 200 OK\r\nConnection: close\r\n{fields}")
        );
        assert_eq!(
            written(&reply, manner(true, true, false)),
            format!("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n{fields}abc")
        );
    }

    proptest! {
        /// However a head is cut, it is read when its last byte has come, and not before.
        #[test]
        fn heads_in_pieces(cuts in proptest::collection::vec(1usize..40, 1..60), padding in 0usize..9_000) {
            let text = format!(
                "\r\nPOST /2018-06-01/runtime/init/error HTTP/1.1\r\nx: {}\r\nContent-Length: 3\r\n\r\nabc",
                "y".repeat(padding)
            );
            let length = text.len() - 3;
            let (mut seen, mut cut) = (0, cuts.iter().cycle());
            let mut end = (padding.saturating_sub(20)).max(1);
            loop {
                let got = read_head(&text.as_bytes()[..end.min(text.len())], seen).unwrap();
                prop_assert_eq!(got.is_some(), end >= length);
                if let Some((head, read)) = got {
                    prop_assert_eq!((head.call, head.body, read), (Call::InitError, Coming::Exact(3), length));
                    break;
                }
                seen = end;
                end += cut.next().unwrap();
            }
        }

        /// However a body in chunks is cut, the same content comes out, and what follows is left alone.
        #[test]
        fn chunks_in_pieces(
            parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..50), 0..6),
            cuts in proptest::collection::vec(1usize..30, 1..20),
        ) {
            let mut text = Vec::new();
            for part in &parts {
                text.extend(format!("{:x};a=b\r\n", part.len()).bytes());
                text.extend(part);
                text.extend(b"\r\n");
            }
            text.extend(b"0\r\nTrailer: x\r\n\r\n");
            let length = text.len();
            text.extend(b"GET /");
            let (mut chunks, mut from, mut content) = (Chunks::default(), BytesMut::new(), Vec::new());
            let (mut at, mut cut) = (0, cuts.iter().cycle());
            loop {
                let end = (at + cut.next().unwrap()).min(text.len());
                from.extend_from_slice(&text[at..end]);
                at = end;
                if chunks.take(&mut from, |bytes| content.extend_from_slice(bytes)).unwrap() {
                    break;
                }
                prop_assert!(at < length);
            }
            prop_assert_eq!(content, parts.concat());
            prop_assert_eq!(&from[..], &text[length..at]);
        }

        /// Whatever comes, nothing panics.
        #[test]
        fn anything(bytes in proptest::collection::vec(any::<u8>(), 0..300), seen in 0usize..300) {
            let _ = read_head(&bytes, seen.min(bytes.len()));
            let _ = Chunks::default().take(&mut BytesMut::from(&bytes[..]), |_| {});
        }
    }
}
