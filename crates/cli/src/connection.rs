//! Which server, and as whom: flags first, then the variables that the AWS tools know.

use crate::error::Error;
use clap::Args;
use model::Region;
use std::fmt;
use std::path::PathBuf;
use ureq::http::Uri;

/// Where `tidegate serve` listens unless told otherwise.
const DEFAULT_ENDPOINT: &str = "http://127.0.0.1:9000";
/// The server's default region.
const DEFAULT_REGION: &str = "us-east-1";

/// Options that say which server is meant and who asks.
#[derive(Args)]
pub struct Connection {
    /// The server's URL [default: AWS_ENDPOINT_URL_LAMBDA, AWS_ENDPOINT_URL or http://127.0.0.1:9000]
    #[arg(long, value_name = "URL", help_heading = "Connection")]
    pub endpoint_url: Option<String>,
    /// The server's region [default: AWS_REGION, AWS_DEFAULT_REGION or us-east-1]
    #[arg(long, value_name = "REGION", help_heading = "Connection")]
    pub region: Option<String>,
    /// The access key [default: AWS_ACCESS_KEY_ID]; without one, requests are not signed
    #[arg(long, value_name = "ID", requires = "secret_access_key", help_heading = "Connection")]
    pub access_key_id: Option<String>,
    /// The secret key [default: AWS_SECRET_ACCESS_KEY]; other users of this machine can see it in the process list
    #[arg(long, value_name = "SECRET", requires = "access_key_id", help_heading = "Connection")]
    pub secret_access_key: Option<String>,
    /// The session token [default: AWS_SESSION_TOKEN]
    #[arg(long, value_name = "TOKEN", requires = "access_key_id", help_heading = "Connection")]
    pub session_token: Option<String>,
    /// Certificates to trust instead of the usual ones, a PEM file [default: AWS_CA_BUNDLE]
    #[arg(long, value_name = "FILE", help_heading = "Connection")]
    pub ca_bundle: Option<PathBuf>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("endpoint_url", &self.endpoint_url).finish_non_exhaustive()
    }
}

/// A server and an identity.
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    /// Scheme, host, port and perhaps a path, without a slash at the end.
    pub endpoint: String,
    /// Host and port for the `Host` header.
    pub host: String,
    /// The server runs on this machine.
    pub is_loopback: bool,
    /// For the credential scope.
    pub region: String,
    /// `None`: requests go unsigned.
    pub credentials: Option<Credentials>,
    /// Certificates to trust; `None`: the usual ones.
    pub ca_bundle: Option<PathBuf>,
}

/// An access key.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The public part.
    pub access_key_id: String,
    /// The secret part.
    pub secret_access_key: String,
    /// For temporary keys.
    pub session_token: Option<String>,
}

impl Connection {
    /// Fills in what the flags leave open from `variable`, the environment, and then from the defaults.
    pub fn resolve(&self, variable: &dyn Fn(&str) -> Option<String>) -> Result<Target, Error> {
        let first = |names: &[&str]| names.iter().find_map(|name| variable(name).filter(|value| !value.is_empty()));
        let endpoint = self
            .endpoint_url
            .clone()
            .or_else(|| first(&["AWS_ENDPOINT_URL_LAMBDA", "AWS_ENDPOINT_URL"]))
            .unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned());
        let region = self
            .region
            .clone()
            .or_else(|| first(&["AWS_REGION", "AWS_DEFAULT_REGION"]))
            .unwrap_or_else(|| DEFAULT_REGION.to_owned());
        Region::parse(&region)
            .map_err(|error| Error::usage(format!("'{region}' is not a region: {error}"), "try --region us-east-1"))?;
        let (endpoint, host, is_loopback) = parse_endpoint(&endpoint)?;
        let ca_bundle = self.ca_bundle.clone().or_else(|| first(&["AWS_CA_BUNDLE"]).map(PathBuf::from));
        Ok(Target { endpoint, host, is_loopback, region, credentials: self.credentials(&first)?, ca_bundle })
    }

    fn credentials(&self, first: &dyn Fn(&[&str]) -> Option<String>) -> Result<Option<Credentials>, Error> {
        if let (Some(id), Some(secret)) = (&self.access_key_id, &self.secret_access_key) {
            return Ok(Some(Credentials {
                access_key_id: id.clone(),
                secret_access_key: secret.clone(),
                session_token: self.session_token.clone(),
            }));
        }
        match (first(&["AWS_ACCESS_KEY_ID"]), first(&["AWS_SECRET_ACCESS_KEY"])) {
            (Some(access_key_id), Some(secret_access_key)) => {
                let session_token = first(&["AWS_SESSION_TOKEN"]);
                Ok(Some(Credentials { access_key_id, secret_access_key, session_token }))
            }
            (None, None) => Ok(None),
            (Some(_), None) | (None, Some(_)) => Err(Error::usage(
                "only one of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY is set",
                "set both, or neither for a server that runs with --no-auth",
            )),
        }
    }
}

/// Endpoint without a slash at the end, `Host` header, whether it is this machine.
fn parse_endpoint(text: &str) -> Result<(String, String, bool), Error> {
    let refuse = || {
        Error::usage(format!("'{text}' is not an endpoint"), format!("an endpoint is a URL such as {DEFAULT_ENDPOINT}"))
    };
    let uri: Uri = text.parse().map_err(|_| refuse())?;
    let scheme = uri.scheme_str().filter(|s| matches!(*s, "http" | "https")).ok_or_else(refuse)?;
    let authority = uri.authority().filter(|a| !a.as_str().contains('@')).ok_or_else(refuse)?;
    if uri.query().is_some() {
        return Err(refuse());
    }
    let default_port = if scheme == "http" { 80 } else { 443 };
    let host = match authority.port_u16() {
        Some(port) if port == default_port => authority.host(),
        _ => authority.as_str(),
    };
    let bare = authority.host().trim_start_matches('[').trim_end_matches(']');
    let is_loopback =
        bare == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    let path = uri.path().trim_end_matches('/');
    Ok((format!("{scheme}://{authority}{path}"), host.to_owned(), is_loopback))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection() -> Connection {
        Connection {
            endpoint_url: None,
            region: None,
            access_key_id: None,
            secret_access_key: None,
            session_token: None,
            ca_bundle: None,
        }
    }

    fn resolve(connection: &Connection, variables: &[(&str, &str)]) -> Result<Target, Error> {
        let lookup = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
        connection.resolve(&lookup)
    }

    #[test]
    fn defaults_variables_and_flags() {
        let target = resolve(&connection(), &[]).ok().unwrap();
        assert_eq!((target.endpoint.as_str(), target.region.as_str()), ("http://127.0.0.1:9000", "us-east-1"));
        assert!(target.is_loopback && target.credentials.is_none());

        let variables = [
            ("AWS_ENDPOINT_URL", "http://other:1/"),
            ("AWS_ENDPOINT_URL_LAMBDA", "https://[::1]:443/base/"),
            ("AWS_REGION", ""),
            ("AWS_DEFAULT_REGION", "eu-west-1"),
            ("AWS_ACCESS_KEY_ID", "id"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("AWS_SESSION_TOKEN", "token"),
        ];
        let target = resolve(&connection(), &variables).ok().unwrap();
        assert_eq!(target.endpoint, "https://[::1]:443/base");
        assert_eq!(target.host, "[::1]");
        assert_eq!(target.region, "eu-west-1");
        assert!(target.is_loopback);
        assert_eq!(target.credentials.unwrap().session_token.as_deref(), Some("token"));

        let flags = Connection {
            endpoint_url: Some("http://h:9".to_owned()),
            access_key_id: Some("a".to_owned()),
            secret_access_key: Some("b".to_owned()),
            ..connection()
        };
        let target = resolve(&flags, &variables).ok().unwrap();
        assert_eq!((target.host.as_str(), target.is_loopback), ("h:9", false));
        let credentials = target.credentials.unwrap();
        assert_eq!((credentials.access_key_id.as_str(), credentials.session_token), ("a", None));
    }

    #[test]
    fn refusals() {
        for bad in ["", "127.0.0.1:9000", "ftp://x", "http://", "http://a@b/", "http://a/?q=1"] {
            let bad = Connection { endpoint_url: Some(bad.to_owned()), ..connection() };
            assert!(resolve(&bad, &[]).is_err(), "{:?}", bad.endpoint_url);
        }
        assert!(resolve(&connection(), &[("AWS_REGION", "nowhere")]).is_err());
        assert!(resolve(&connection(), &[("AWS_ACCESS_KEY_ID", "id")]).is_err());
    }
}
