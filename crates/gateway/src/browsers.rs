//! Keeps web pages out of a server that asks for no signatures. A browser on this machine reaches the server for any
//! page it shows, and sends simple requests without asking first; a page may also give its own host name this
//! machine's address (DNS rebinding) and so pass for the server itself.
//!
//! A browser says whence a request comes, in `Origin` and `Sec-Fetch-Site` (Fetch standard; Fetch Metadata, W3C), and
//! which name it believes to talk to, in `Host`. Other clients send neither of the first two.

use crate::errors::{Exception, Refusal};
use hyper::header::{HOST, HeaderName, ORIGIN};
use hyper::http::request::Parts;
use std::net::IpAddr;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Refuses what a browser sends for a page of somebody else's and, unless `public`, a request that calls this server by
/// a name which is not this machine's own: 403.
pub fn refuse_pages(parts: &Parts, public: bool) -> Result<(), Refusal> {
    let denied = |text: String| Err(Refusal::new(Exception::AccessDenied, text));
    let hosts: Vec<&[u8]> = named_hosts(parts).collect();
    for origin in parts.headers.get_all(ORIGIN) {
        let own = |host: &&[u8]| is_origin_of(origin.as_bytes(), host);
        if hosts.is_empty() || !hosts.iter().all(own) {
            return denied(format!(
                "This server takes requests without signatures, but not from web pages: the Origin is {}.",
                shown(origin.as_bytes())
            ));
        }
    }
    for site in parts.headers.get_all(SEC_FETCH_SITE) {
        if !matches!(site.as_bytes(), b"same-origin" | b"none") {
            return denied(format!(
                "This server takes requests without signatures, but not from web pages: Sec-Fetch-Site is {}.",
                shown(site.as_bytes())
            ));
        }
    }
    match hosts.iter().find(|host| !public && !is_loopback(host)) {
        None => Ok(()),
        Some(host) => denied(format!(
            "This server takes requests without signatures, but only those for localhost or a loopback address, not \
             for {}; start it with --no-auth=public to take all.",
            shown(host)
        )),
    }
}

/// The names that the request calls this server by: `Host` and, of an HTTP/2 request, `:authority`.
fn named_hosts(parts: &Parts) -> impl Iterator<Item = &[u8]> {
    let headers = parts.headers.get_all(HOST).into_iter().map(|value| value.as_bytes());
    headers.chain(parts.uri.authority().map(|authority| authority.as_str().as_bytes()))
}

/// Is `origin`, `scheme://host[:port]`, the one that `host[:port]` is in? Schemes' own ports may be left out.
fn is_origin_of(origin: &[u8], host: &[u8]) -> bool {
    let (Ok(origin), Ok(host)) = (std::str::from_utf8(origin), std::str::from_utf8(host)) else { return false };
    let Some((scheme, authority)) = origin.split_once("://") else { return false };
    let port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => return false,
    };
    let bare = |text: &str| text.strip_suffix(port).unwrap_or(text).to_ascii_lowercase();
    bare(authority) == bare(host)
}

/// Does `host[:port]` name this machine's loopback?
fn is_loopback(host: &[u8]) -> bool {
    let Ok(host) = std::str::from_utf8(host) else { return false };
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(""),
        None => host.split(':').next().unwrap_or(""),
    };
    // As most clients say it.
    if matches!(name, "127.0.0.1" | "localhost") {
        return true;
    }
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    match name.parse::<IpAddr>() {
        Ok(address) => address.to_canonical().is_loopback(),
        Err(_) => name == "localhost" || name.ends_with(".localhost"),
    }
}

/// Bounded, since it came from outside.
fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().take(SHOWN_CHARS_MAX).collect()
}

/// As much of a header as is repeated in an answer.
const SHOWN_CHARS_MAX: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::Request;

    fn passes(public: bool, headers: &[(&str, &str)]) -> bool {
        let mut request = Request::builder().uri("/x");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        refuse_pages(&request.body(()).unwrap().into_parts().0, public).is_ok()
    }

    #[test]
    fn hosts_of_this_machine() {
        let own = ["localhost", "LOCALHOST:9000", "a.localhost:1", "localhost.", "127.0.0.1:9000", "127.9.9.9"];
        for host in own.into_iter().chain(["[::1]", "[::1]:9000", "[::ffff:127.0.0.1]:1"]) {
            assert!(passes(false, &[("host", host)]), "{host}");
        }
        for host in
            ["evil.example", "evil.example:9000", "10.0.0.1", "[::2]:1", "localhost.evil.example", "", "0.0.0.0"]
        {
            assert!(!passes(false, &[("host", host)]), "{host}");
            assert!(passes(true, &[("host", host)]), "{host}");
        }
        assert!(!passes(false, &[("host", "localhost"), ("host", "evil.example")]));
        // Clients of before HTTP/1.1; no browser is among them.
        assert!(passes(false, &[]));
        let http2 = |uri: &str| refuse_pages(&Request::builder().uri(uri).body(()).unwrap().into_parts().0, false);
        assert!(http2("http://localhost:9000/x").is_ok() && http2("http://evil.example/x").is_err());
    }

    #[test]
    fn pages_of_others() {
        for (origin, host, want) in [
            ("http://localhost:9000", "localhost:9000", true),
            ("http://LocalHost", "localhost:80", true),
            ("https://a.localhost", "a.localhost:443", true),
            ("http://localhost:3000", "localhost:9000", false),
            ("http://localhost", "127.0.0.1", false),
            ("http://evil.example", "localhost:9000", false),
            ("https://evil.example", "evil.example", true),
            ("null", "localhost", false),
            ("", "localhost", false),
            ("file://localhost", "localhost", false),
        ] {
            assert_eq!(passes(true, &[("host", host), ("origin", origin)]), want, "{origin} {host}");
        }
        assert!(!passes(true, &[("origin", "http://localhost")]));
        for (site, want) in
            [("none", true), ("same-origin", true), ("same-site", false), ("cross-site", false), ("x", false)]
        {
            assert_eq!(passes(true, &[("host", "localhost"), ("sec-fetch-site", site)]), want, "{site}");
        }
    }
}
