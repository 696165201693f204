//! Touching disk: the registry, code packages and function logs, all in one data folder.
//!
//! The wall: nobody else writes there, and nothing in here thinks. What is applied is deterministic: no clock,
//! no randomness; times and ids come in with the values. All functions block; a caller on an async thread
//! moves them to a blocking one.
#![forbid(unsafe_code)]

pub mod error;
mod functions;
mod log_line;
pub mod logs;
pub mod packages;
mod provisioned;
mod published;
pub mod registry;
pub mod remote;

pub use error::Error;
pub use logs::{Cursor, Logs};
pub use packages::{PackageError, Packages, StoredZip};
pub use registry::{Change, Entry, Expect, Registry};

use std::fs::{self, DirBuilder, File, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

/// A data folder, opened by this process alone. Cheap to clone; the folder is free again when the last clone
/// is dropped.
#[derive(Debug, Clone)]
pub struct Store {
    parts: Arc<Parts>,
}

#[derive(Debug)]
struct Parts {
    registry: Registry,
    packages: Packages,
    logs: Logs,
    /// Its lock is held as long as it is open. Fields are dropped in order, so it goes last.
    _lock: File,
}

impl Store {
    /// Opens a data folder, making what is missing and removing what an earlier run left half done.
    ///
    /// [`Error::InUse`] if another process has it open, [`Error::RegistryFormat`] if a newer program wrote it.
    pub fn open(dir: &Path) -> Result<Store, Error> {
        fs::create_dir_all(dir).map_err(|source| Error::Prepare { path: dir.to_owned(), source })?;
        let lock = lock(dir)?;
        let (packages, logs) = (dir.join("packages"), dir.join("logs"));
        // Sandboxes read packages as other users; logs are for the operator.
        make_folder(&packages, 0o755)?;
        make_folder(&logs, 0o700)?;
        let parts = Parts {
            registry: Registry::open(&dir.join("registry.db"))?,
            packages: Packages::open(packages)?,
            logs: Logs::open(logs),
            _lock: lock,
        };
        Ok(Store { parts: Arc::new(parts) })
    }

    /// Keys and values: functions and counters.
    pub fn registry(&self) -> &Registry {
        &self.parts.registry
    }

    /// Code packages.
    pub fn packages(&self) -> &Packages {
        &self.parts.packages
    }

    /// Function logs.
    pub fn logs(&self) -> &Logs {
        &self.parts.logs
    }
}

fn lock(dir: &Path) -> Result<File, Error> {
    let path = dir.join("lock");
    let failed = |source| Error::Prepare { path: path.clone(), source };
    let file = File::options().write(true).create(true).truncate(false).open(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::InUse { path: dir.to_owned() }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

fn make_folder(path: &Path, mode: u32) -> Result<(), Error> {
    let made = match DirBuilder::new().mode(mode).create(path) {
        // The umask may have taken bits away.
        Ok(()) => fs::set_permissions(path, Permissions::from_mode(mode)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    };
    made.map_err(|source| Error::Prepare { path: path.to_owned(), source })
}
