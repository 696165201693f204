//! Why a management operation was refused or failed, by cause. What the public sees of it is decided in
//! `gateway/src/errors.rs` alone.

use crate::windows::WindowFault;
use model::{Digest, FunctionName};
use scheduler::provisioned::NotProvisioned;
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
    /// The function has no version of this number.
    #[error("the function {name} has no version {number}")]
    VersionMissing {
        /// The function.
        name: FunctionName,
        /// The version.
        number: u64,
    },
    /// The function has no alias of this name.
    #[error("the function {name} has no alias {alias}")]
    AliasMissing {
        /// The function.
        name: FunctionName,
        /// The alias.
        alias: String,
    },
    /// The function has an alias of this name.
    #[error("the function {name} has an alias {alias} already")]
    AliasExists {
        /// The function.
        name: FunctionName,
        /// The alias.
        alias: String,
    },
    /// The alias cannot divide its invocations so.
    #[error("the weights of an alias are refused")]
    Weights(#[source] WeightFault),
    /// The version cannot go while aliases point to it.
    #[error("aliases point to the version")]
    PointedTo {
        /// Their names, in order.
        aliases: Vec<String>,
    },
    /// `$LATEST`'s code is not what the caller believes.
    #[error("the function {name} has other code")]
    CodeMismatch {
        /// The function.
        name: FunctionName,
        /// What the caller sent.
        given: String,
        /// What the code is.
        current: Digest,
    },
    /// Nothing is provisioned for this version or alias.
    #[error("nothing is provisioned for this version or alias of the function {name}")]
    NothingProvisioned {
        /// The function.
        name: FunctionName,
    },
    /// So much cannot be provisioned.
    #[error("the provisioned concurrency is refused: {0:?}")]
    NotProvisioned(NotProvisioned),
    /// A window of a scaling cannot be.
    #[error("a window is refused")]
    Window(#[source] WindowFault),
    /// The alias points to a version that has provisioned concurrency itself.
    #[error("the alias points to a version that has provisioned concurrency")]
    OnProvisionedVersion,
    /// An alias that points to the version has provisioned concurrency.
    #[error("an alias of the version has provisioned concurrency")]
    UnderProvisionedAlias,
    /// The function takes no invocations now.
    #[error("the function {name} is in the state {state}")]
    NotReady {
        /// The function.
        name: FunctionName,
        /// `Pending`, `Failed` or `Inactive`.
        state: &'static str,
    },
    /// The function, or its newest update, has failed, so that there is nothing to publish.
    #[error("the function {name} is in the state Failed")]
    NothingToPublish {
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

/// Why an alias cannot divide its invocations as it is told to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WeightFault {
    /// More than one additional version.
    #[error("an alias has at most one additional version")]
    TooMany,
    /// The additional version is the main one.
    #[error("version {number} is named twice")]
    Twice {
        /// The version.
        number: u64,
    },
    /// `$LATEST` shares with no other version.
    #[error("$LATEST cannot share an alias")]
    Latest,
    /// The two versions have different execution roles.
    #[error("the versions have different execution roles")]
    Roles,
    /// The two versions have different dead-letter queues.
    #[error("the versions have different dead-letter queues")]
    DeadLetters,
}
