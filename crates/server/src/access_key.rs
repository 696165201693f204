//! The server's access key: made at the first start, kept in the data folder, printed by `tidegate credentials`.

use base64::Engine;
use model::{AccountId, Region};
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const FILE: &str = "credentials.json";

/// The key, and what a client needs beside it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AccessKey {
    /// `AWS_ACCESS_KEY_ID`.
    pub access_key_id: String,
    /// `AWS_SECRET_ACCESS_KEY`.
    pub secret_access_key: String,
    /// `AWS_DEFAULT_REGION`.
    pub region: String,
    /// `AWS_ENDPOINT_URL_LAMBDA`.
    pub endpoint: String,
}

/// Why the key cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("read {path}; a server makes it at its first start, and only its user and root may read it")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not what a server wrote.
    #[error("{path} is damaged; remove it, and the next start makes a new key")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The file cannot be written.
    #[error("write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// The account of the contract.
pub fn default_account() -> AccountId {
    // Twelve digits: it parses.
    AccountId::parse("000000000000").unwrap_or_else(|error| unreachable!("{error}"))
}

/// The region of the contract.
pub fn default_region() -> Region {
    Region::parse("us-east-1").unwrap_or_else(|error| unreachable!("{error}"))
}

/// Reads the key, or makes one at the first start; notes where this server is to be reached.
pub fn load_or_create(data_dir: &Path, region: &Region, endpoint: String) -> Result<AccessKey, Error> {
    let path = data_dir.join(FILE);
    let region = region.to_string();
    let earlier = if path.exists() { Some(read(&path)?) } else { None };
    let key = match earlier {
        Some(key) => AccessKey { region, endpoint, ..key },
        None => AccessKey { access_key_id: new_id(), secret_access_key: new_secret(), region, endpoint },
    };
    write(&path, &key).map_err(|source| Error::Write { path, source })?;
    Ok(key)
}

/// `tidegate credentials`: shell exports on stdout.
pub fn print(data_dir: &Path) -> ExitCode {
    match read(&data_dir.join(FILE)) {
        Ok(key) => {
            println!(
                "export AWS_ACCESS_KEY_ID={} AWS_SECRET_ACCESS_KEY={} AWS_DEFAULT_REGION={} AWS_ENDPOINT_URL_LAMBDA={}",
                key.access_key_id, key.secret_access_key, key.region, key.endpoint
            );
            ExitCode::SUCCESS
        }
        Err(error) => crate::report(&error),
    }
}

fn read(path: &Path) -> Result<AccessKey, Error> {
    let text = std::fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    serde_json::from_slice(&text).map_err(|source| Error::Damaged { path: path.to_owned(), source })
}

/// Whole or not at all: a crash in between leaves the earlier file.
fn write(path: &Path, key: &AccessKey) -> std::io::Result<()> {
    let new = path.with_extension("new");
    let mut file = std::fs::File::options().create(true).truncate(true).write(true).mode(0o600).open(&new)?;
    file.write_all(serde_json::to_string_pretty(key)?.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&new, path)
}

/// Twenty capitals and digits, as AWS's are.
fn new_id() -> String {
    let random = uuid::Uuid::new_v4().simple().to_string().to_uppercase();
    format!("AKTG{}", &random[..16])
}

/// Forty characters without any that a shell could read otherwise.
fn new_secret() -> String {
    let (a, b) = (uuid::Uuid::new_v4(), uuid::Uuid::new_v4());
    let bytes = [a.as_bytes().as_slice(), b.as_bytes()].concat();
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)[..40].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let first = load_or_create(dir.path(), &default_region(), "http://127.0.0.1:1".into()).unwrap();
        let second = load_or_create(dir.path(), &default_region(), "http://127.0.0.1:2".into()).unwrap();
        assert_eq!(first.access_key_id, second.access_key_id);
        assert_eq!(first.secret_access_key, second.secret_access_key);
        assert_eq!((first.access_key_id.len(), first.secret_access_key.len()), (20, 40));
        assert_eq!(read(&dir.path().join(FILE)).unwrap().endpoint, "http://127.0.0.1:2");
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(dir.path().join(FILE)).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_damaged_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), "{").unwrap();
        let error = load_or_create(dir.path(), &default_region(), String::new()).unwrap_err();
        assert!(error.to_string().contains("damaged"));
    }
}
