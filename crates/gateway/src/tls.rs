//! TLS of the front door: certificate and key from PEM files, taken anew when the files change.

use arc_swap::ArcSwap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);
/// HTTP/2 first: a client that speaks both takes what comes first here.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Where certificate and key are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// PEM: the server's certificate and those between it and a root, in this order.
    pub cert: PathBuf,
    /// PEM: the certificate's key.
    pub key: PathBuf,
}

/// Why certificate and key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{path} holds no {what} in PEM form")]
    NotPem {
        /// The file.
        path: PathBuf,
        /// `certificate` or `private key`.
        what: &'static str,
        /// Why.
        #[source]
        source: Option<pem::Error>,
    },
    /// The two do not fit one another or are of no use to us.
    #[error("use the certificate {path}")]
    Use {
        /// The certificate's file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
}

/// A certificate in use. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Tls {
    files: Files,
    config: Arc<ArcSwap<ServerConfig>>,
    /// Of the files when they were read.
    seen: Stamp,
}

/// When each file was written, and its size; `None` if it is not there.
type Stamp = [Option<(SystemTime, u64)>; 2];

impl Tls {
    /// Reads certificate and key. Blocks.
    pub fn load(files: Files) -> Result<Tls, Error> {
        let seen = stamp(&files);
        let config = read(&files)?;
        Ok(Tls { files, config: Arc::new(ArcSwap::from_pointee(config)), seen })
    }

    /// Shakes hands by the newest certificate.
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.config.load_full())
    }

    /// Follows the files for ever. Files that cannot be used leave the earlier certificate in force.
    pub async fn follow(mut self) {
        loop {
            tokio::time::sleep(LOOK).await;
            let (files, seen) = (self.files.clone(), self.seen);
            let look = move || {
                let now = stamp(&files);
                (now != seen).then(|| (now, read(&files)))
            };
            let Ok(Some((now, read))) = tokio::task::spawn_blocking(look).await else { continue };
            self.seen = now;
            match read {
                Ok(config) => {
                    self.config.store(Arc::new(config));
                    tracing::info!(cert = %self.files.cert.display(), "the certificate is renewed");
                }
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "the certificate has changed and cannot be used; the earlier one stays");
                }
            }
        }
    }
}

fn stamp(files: &Files) -> Stamp {
    let of = |path: &Path| {
        let meta = std::fs::metadata(path).ok()?;
        Some((meta.modified().ok()?, meta.len()))
    };
    [of(&files.cert), of(&files.key)]
}

fn read(files: &Files) -> Result<ServerConfig, Error> {
    let text = |path: &Path| std::fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source });
    let not_pem = |path: &Path, what, source| Error::NotPem { path: path.to_owned(), what, source };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text(&files.cert)?).collect();
    let chain = chain.map_err(|source| not_pem(&files.cert, "certificate", Some(source)))?;
    if chain.is_empty() {
        return Err(not_pem(&files.cert, "certificate", None));
    }
    let key = PrivateKeyDer::from_pem_slice(&text(&files.key)?)
        .map_err(|source| not_pem(&files.key, "private key", Some(source)))?;
    let refused = |source| Error::Use { path: files.cert.clone(), source };
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(refused)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(refused)?;
    config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_used_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            std::fs::write(dir.path().join(name), text).unwrap();
            dir.path().join(name)
        };
        let check = |cert: PathBuf, want: &str| {
            let files = Files { cert, key: dir.path().join("none") };
            let error = Tls::load(files).err().unwrap().to_string();
            assert!(error.ends_with(want), "{error} does not end in {want}");
        };
        check(dir.path().join("none"), "none");
        check(file("empty", ""), "empty holds no certificate in PEM form");
        let key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        check(file("key", key), "key holds no certificate in PEM form");
        let certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        check(file("cert", certificate), "none");
    }
}
