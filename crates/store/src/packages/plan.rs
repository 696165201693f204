//! What a zip says it holds, checked as a whole before anything is written.

use super::path::{EntryPath, entry_path, parent};
use super::refusal::{PackageError, shown};
use model::Limits;
use std::collections::BTreeMap;
use std::io::Cursor;
use zip::read::{Config, ZipFileEntry};
use zip::unstable::read::ZipIterable;
use zip::{CompressionMethod, System};

/// The type bits of a Unix mode and their values (`stat(2)`).
const S_IFMT: u32 = 0o170_000;
const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;
const S_IFLNK: u32 = 0o120_000;

/// The bytes that each entry takes in a zip besides its name and content: a local header and a directory entry
/// (PKWARE's APPNOTE.TXT, 4.3.7 and 4.3.12).
const HEADER_BYTES: u64 = 30 + 46;

/// What a name in the package stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Folder,
    File,
    Link,
}

/// A file or link to unpack.
pub(super) struct Item {
    /// Relative path.
    pub path: String,
    /// Has an execute bit; always false for links.
    pub executable: bool,
    /// Where its bytes are.
    pub entry: ZipFileEntry<'static>,
}

/// A checked zip: names cannot clash or leave the package, and what the directory declares is within the
/// limits. The entries' bytes are still unread.
pub(super) struct Plan {
    tree: BTreeMap<String, Kind>,
    /// Regular files.
    pub files: Vec<Item>,
    /// Symbolic links, their targets unread.
    pub links: Vec<Item>,
}

impl Plan {
    /// Reads the zip's directory. Local headers do not count, as in all common unpackers.
    pub(super) fn read(zip: &[u8], limits: &Limits) -> Result<Plan, PackageError> {
        if zip.is_empty() {
            return Err(PackageError::Empty);
        }
        let not_a_zip = |source| PackageError::NotAZip { source };
        let mut archive = ZipIterable::try_new(Cursor::new(zip), Config::default()).map_err(not_a_zip)?;
        if archive.is_empty() {
            return Err(PackageError::Empty);
        }
        if archive.len() as u64 > limits.zip_entries {
            return Err(PackageError::TooManyEntries { limit: limits.zip_entries });
        }
        let mut plan = Plan { tree: BTreeMap::new(), files: Vec::new(), links: Vec::new() };
        plan.tree.insert(String::new(), Kind::Folder);
        let (mut packed_bytes, mut unpacked_bytes) = (0_u64, 0_u64);
        for entry in archive.files().map_err(not_a_zip)? {
            let entry = entry.map_err(not_a_zip)?;
            packed_bytes = packed_bytes.saturating_add(HEADER_BYTES).saturating_add(entry.compressed_size());
            unpacked_bytes = unpacked_bytes.saturating_add(entry.size());
            plan.add(entry, limits)?;
        }
        // Without this bound, 65,536 entries could all point at the same 50 MB of input that unpacks to nothing.
        if packed_bytes > zip.len() as u64 {
            return Err(PackageError::Overlapping);
        }
        // Only what an honest zip declares; the bytes are counted again while they are unpacked.
        if unpacked_bytes > limits.unzipped_bytes {
            return Err(PackageError::TooLarge { limit_bytes: limits.unzipped_bytes });
        }
        Ok(plan)
    }

    /// The folders, each after the one that holds it, without the package's own.
    pub(super) fn folders(&self) -> impl Iterator<Item = &str> {
        let folders = self.tree.iter().filter(|(path, kind)| **kind == Kind::Folder && !path.is_empty());
        folders.map(|(path, _)| path.as_str())
    }

    /// Is this path a real folder of the package?
    pub(super) fn is_folder(&self, path: &str) -> bool {
        self.tree.get(path) == Some(&Kind::Folder)
    }

    fn add(&mut self, entry: ZipFileEntry<'static>, limits: &Limits) -> Result<(), PackageError> {
        let path = entry_path(entry.name_raw())?;
        let (kind, executable) = kind_of(&entry, &path)?;
        let EntryPath { text: path, .. } = path;
        if entry.encrypted() {
            return Err(PackageError::Encrypted { entry: shown(&path) });
        }
        if !matches!(entry.compression(), CompressionMethod::Stored | CompressionMethod::Deflated) {
            return Err(PackageError::Compression { entry: shown(&path) });
        }
        self.claim(&path, kind, limits)?;
        match kind {
            Kind::Folder => {}
            Kind::File => self.files.push(Item { path, executable, entry }),
            Kind::Link => self.links.push(Item { path, executable: false, entry }),
        }
        Ok(())
    }

    /// Enters a path, and the folders that its name implies, into the tree.
    fn claim(&mut self, path: &str, kind: Kind, limits: &Limits) -> Result<(), PackageError> {
        let mut missing = Vec::new();
        let mut above = parent(path);
        while let Some(folder) = above {
            match self.tree.get(folder) {
                // Whatever is in the tree has its folders there too.
                Some(Kind::Folder) => break,
                Some(Kind::File) => return Err(PackageError::FileAndFolder { entry: shown(folder) }),
                Some(Kind::Link) => return Err(PackageError::BehindLink { entry: shown(path) }),
                None => missing.push(folder.to_owned()),
            }
            above = parent(folder);
        }
        match self.tree.get(path) {
            None => {}
            Some(Kind::Folder) if kind == Kind::Folder => return Ok(()),
            Some(earlier) if *earlier == Kind::Folder || kind == Kind::Folder => {
                return Err(PackageError::FileAndFolder { entry: shown(path) });
            }
            Some(_) => return Err(PackageError::Duplicate { entry: shown(path) }),
        }
        // The package's own folder is in the tree and does not count.
        if (self.tree.len() + missing.len()) as u64 > limits.zip_entries {
            return Err(PackageError::TooManyEntries { limit: limits.zip_entries });
        }
        self.tree.extend(missing.into_iter().map(|folder| (folder, Kind::Folder)));
        self.tree.insert(path.to_owned(), kind);
        Ok(())
    }
}

/// What an entry is, and whether it may be executed. Only Unix zippers record modes; a file from any other
/// is not executable, as on Lambda.
fn kind_of(entry: &ZipFileEntry<'_>, path: &EntryPath) -> Result<(Kind, bool), PackageError> {
    let mode = match entry.system() {
        System::Unix | System::OsDarwin => entry.external_attributes() >> 16,
        _ => 0,
    };
    let executable = mode & 0o111 != 0;
    let name = || shown(&String::from_utf8_lossy(entry.name_raw()));
    let kind = match mode & S_IFMT {
        S_IFDIR => Kind::Folder,
        0 | S_IFREG if path.folder => Kind::Folder,
        0 | S_IFREG => Kind::File,
        S_IFLNK if !path.folder => Kind::Link,
        _ => return Err(PackageError::Special { entry: name() }),
    };
    if path.text.is_empty() && kind != Kind::Folder {
        return Err(PackageError::NoName { entry: name() });
    }
    Ok((kind, executable))
}
