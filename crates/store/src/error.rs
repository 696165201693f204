//! What can go wrong on the disk, by operation. Refusals of a user's package are in
//! [`crate::packages::PackageError`].

use crate::registry::Expect;
use model::FunctionName;
use std::io;
use std::path::PathBuf;

/// Why an operation on the data folder did not succeed. Only [`Error::Conflict`] is an ordinary answer;
/// everything else is the platform's fault and leaves the earlier state in place.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The data folder or one of its parts could not be made or listed.
    #[error("cannot prepare the data folder {}", path.display())]
    Prepare {
        /// The part.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another process holds the data folder.
    #[error("the data folder {} is in use by another server", path.display())]
    InUse {
        /// The data folder.
        path: PathBuf,
    },
    /// The registry's file could not be opened or set up.
    #[error("cannot open the registry {}", path.display())]
    OpenRegistry {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// The registry was written by a newer Tidegate.
    #[error("the registry {} has format {found}, this program knows up to {known}", path.display())]
    RegistryFormat {
        /// The file.
        path: PathBuf,
        /// What the file says.
        found: i64,
        /// What this program can read.
        known: i64,
    },
    /// A record could not be read.
    #[error("cannot read {key:?} from the registry")]
    ReadRegistry {
        /// The key, prefix or counter.
        key: String,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// A record could not be written; the earlier one stands.
    #[error("cannot write {key:?} to the registry")]
    WriteRegistry {
        /// The key or counter.
        key: String,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// The record is not what the writer expected; nothing was written.
    #[error("{key:?} was expected to be {expected}, its revision is {found:?}")]
    Conflict {
        /// The key.
        key: String,
        /// What the writer expected.
        expected: Expect,
        /// The record's revision; `None` if there is no record.
        found: Option<u64>,
    },
    /// A key is empty, too long, or holds a character outside `[a-zA-Z0-9-_./=]`.
    #[error("{key:?} cannot be a key of the registry")]
    Key {
        /// The key.
        key: String,
    },
    /// A value is longer than [`crate::registry::VALUE_BYTES_MAX`].
    #[error("the value of {key:?} has {bytes} bytes, more than the registry takes")]
    ValueTooLarge {
        /// The key.
        key: String,
        /// Its length.
        bytes: usize,
    },
    /// A function could not be turned into a record.
    #[error("cannot encode the function {name}")]
    EncodeFunction {
        /// The function.
        name: FunctionName,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A record is not a function.
    #[error("the record {key:?} is not a function")]
    DecodeFunction {
        /// The record's key.
        key: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A stored package could not be read.
    #[error("cannot read the package {}", path.display())]
    ReadPackage {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A stored package could not be removed.
    #[error("cannot remove the package {}", path.display())]
    RemovePackage {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Log lines were lost. `path` and `source` are those of the first failure.
    #[error("lost {lines} log lines, the first of them at {}", path.display())]
    AppendLog {
        /// The log file or folder.
        path: PathBuf,
        /// How many of the batch are not in the log.
        lines: usize,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A log could not be read.
    #[error("cannot read the log {}", path.display())]
    ReadLog {
        /// The log file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A log could not be removed.
    #[error("cannot remove the log {}", path.display())]
    RemoveLog {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}
