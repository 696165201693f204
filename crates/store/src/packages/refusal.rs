//! Why a package was not taken.

use std::io;
use std::path::PathBuf;
use zip::result::ZipError;

/// The most characters of an entry's name in a message.
const SHOWN_CHARS: usize = 200;

/// Why a package was not added. Nothing of it is left behind. All but the last two variants are refusals:
/// the package is at fault, and adding it again cannot help.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// No bytes, or a zip without entries. The text is AWS's.
    #[error("Uploaded file must be a non-empty zip")]
    Empty,
    /// No zip, a truncated one, or one whose directory cannot be read.
    #[error("the file is not a zip, or it is damaged")]
    NotAZip {
        /// Why.
        #[source]
        source: ZipError,
    },
    /// More entries, folders that only names imply included, than the limit.
    #[error("the zip has more than {limit} entries")]
    TooManyEntries {
        /// `Limits::zip_entries`.
        limit: u64,
    },
    /// More bytes when unpacked than the limit.
    #[error("the zip unpacks to more than {limit_bytes} bytes")]
    TooLarge {
        /// `Limits::unzipped_bytes`.
        limit_bytes: u64,
    },
    /// The entries together claim more packed bytes than the file has, so they must share some.
    #[error("entries of the zip overlap")]
    Overlapping,
    /// The name has no characters that count: empty, `/` or `.` for a file.
    #[error("the entry {entry:?} has no name")]
    NoName {
        /// The entry.
        entry: String,
    },
    /// The name starts with `/`.
    #[error("the entry {entry:?} has an absolute name")]
    Absolute {
        /// The entry.
        entry: String,
    },
    /// The name holds `..`.
    #[error("the entry {entry:?} leads out of its folder with '..'")]
    ParentFolder {
        /// The entry.
        entry: String,
    },
    /// The name starts with a drive letter, `C:` for example.
    #[error("the entry {entry:?} starts with a drive letter")]
    DriveLetter {
        /// The entry.
        entry: String,
    },
    /// The name holds a backslash.
    #[error("the entry {entry:?} has a backslash in its name")]
    Backslash {
        /// The entry.
        entry: String,
    },
    /// The name holds a NUL.
    #[error("the entry {entry:?} has a NUL in its name")]
    Nul {
        /// The entry.
        entry: String,
    },
    /// The name is not UTF-8.
    #[error("the name of the entry {entry:?} is not UTF-8")]
    NotUtf8 {
        /// The entry, invalid bytes replaced.
        entry: String,
    },
    /// The name, or one part of it, is too long for a file system.
    #[error("the name of the entry {entry:?} is too long")]
    NameTooLong {
        /// The entry.
        entry: String,
    },
    /// Too many folders one inside another.
    #[error("the entry {entry:?} lies more than {limit} folders deep")]
    TooDeep {
        /// The entry.
        entry: String,
        /// The most parts of a name.
        limit: usize,
    },
    /// Two entries of the same name, neither a folder.
    #[error("the zip has more than one entry {entry:?}")]
    Duplicate {
        /// The entry.
        entry: String,
    },
    /// The name is used for a folder and for something else.
    #[error("the name {entry:?} is both a folder and a file or link")]
    FileAndFolder {
        /// The name.
        entry: String,
    },
    /// A folder of the name is a symbolic link.
    #[error("the entry {entry:?} lies behind a symbolic link")]
    BehindLink {
        /// The entry.
        entry: String,
    },
    /// A symbolic link leads out of the package, or could.
    #[error("the symbolic link {entry:?} leads out of the package")]
    LinkEscapes {
        /// The link.
        entry: String,
    },
    /// A symbolic link's target is empty, too long, not UTF-8, or has a NUL.
    #[error("the symbolic link {entry:?} has no usable target")]
    LinkTarget {
        /// The link.
        entry: String,
    },
    /// A device, pipe or socket.
    #[error("the entry {entry:?} is neither file, folder nor symbolic link")]
    Special {
        /// The entry.
        entry: String,
    },
    /// The entry is encrypted.
    #[error("the entry {entry:?} is encrypted")]
    Encrypted {
        /// The entry.
        entry: String,
    },
    /// Neither stored nor deflated.
    #[error("the entry {entry:?} is compressed by a method other than deflate")]
    Compression {
        /// The entry.
        entry: String,
    },
    /// The bytes of an entry are truncated, damaged, or not what the directory says of them.
    #[error("the entry {entry:?} is damaged")]
    Damaged {
        /// The entry.
        entry: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The disk has no room for the package.
    #[error("the disk is full")]
    DiskFull {
        /// As the system said it.
        #[source]
        source: io::Error,
    },
    /// The package could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl PackageError {
    /// Is the package at fault, rather than the platform?
    pub fn is_refusal(&self) -> bool {
        !matches!(self, PackageError::DiskFull { .. } | PackageError::Write { .. })
    }

    pub(super) fn write(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> PackageError {
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => PackageError::DiskFull { source },
            _ => PackageError::Write { path: path.into(), source },
        }
    }
}

/// An entry's name as far as a message needs it.
pub(super) fn shown(name: &str) -> String {
    name.chars().take(SHOWN_CHARS).collect()
}
