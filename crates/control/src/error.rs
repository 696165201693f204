//! Why a management operation was refused or failed, by cause. What the public sees of it is decided in
//! `gateway/src/errors.rs` alone.

use model::FunctionName;
use store::PackageError;
use store::remote::RemoteError;

/// Why a management operation did not happen. All but the last two variants are the caller's to mend.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no function of this name.
    #[error("there is no function {name}")]
    NotFound {
        /// The function.
        name: FunctionName,
    },
    /// The name is taken.
    #[error("the function {name} is there already")]
    Exists {
        /// The function.
        name: FunctionName,
    },
    /// A creation or update of the function is under way.
    #[error("the function {name} is being changed")]
    Busy {
        /// The function.
        name: FunctionName,
    },
    /// The caller's revision id is not the record's.
    #[error("the function {name} has another revision by now")]
    RevisionMismatch {
        /// The function.
        name: FunctionName,
    },
    /// The function would have more tags than the limit.
    #[error("a function has at most {limit} tags")]
    TooManyTags {
        /// `Limits::tags`.
        limit: usize,
    },
    /// Too little of the account's concurrency would be left to functions that reserve none.
    #[error("at least {minimum} of the account's concurrency must be left unreserved")]
    UnreservedBelowMinimum {
        /// What must be left.
        minimum: u32,
    },
    /// The function's versions have more provisioned than it would have reserved.
    #[error("{provisioned} are provisioned, more than {wanted}")]
    BelowProvisioned {
        /// What was to be reserved.
        wanted: u32,
        /// What is provisioned.
        provisioned: u32,
    },
    /// The zip itself is larger than the limit.
    #[error("the zip has more than {limit_bytes} bytes")]
    ZipTooLarge {
        /// `Limits::zip_bytes`.
        limit_bytes: u64,
    },
    /// All packages together would be larger than the limit.
    #[error("all packages together would have more than {limit_bytes} bytes")]
    CodeStorageExceeded {
        /// `Limits::code_storage_bytes`.
        limit_bytes: u64,
    },
    /// The package was refused, or could not be kept.
    #[error("cannot take the package")]
    AddPackage(#[source] PackageError),
    /// The package could not be fetched from the object store.
    #[error("cannot fetch the package")]
    FetchPackage(#[source] RemoteError),
    /// No object store is configured.
    #[error("no object store is configured")]
    NoObjectStore,
    /// The data folder failed.
    #[error("cannot use the data folder")]
    Store(#[from] store::Error),
    /// The operation's task was cut off, at shutdown or by a defect.
    #[error("the operation was cut off")]
    Interrupted,
}
