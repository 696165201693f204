//! Code packages by digest: each is kept as the zip that came and as a folder, unpacked once and shared
//! read-only by all instances.
//!
//! `<hex>.zip` and `<hex>/` lie side by side; the folder's appearing is what makes a package exist. Work in
//! progress is in `tmp-<n>/`, which the next start removes.

mod path;
mod plan;
mod refusal;
mod unpack;

pub use refusal::PackageError;

use crate::Error;
use model::function::Code;
use model::{Digest, Limits};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

const SCRATCH_PREFIX: &str = "tmp-";

/// All code packages.
#[derive(Debug)]
pub struct Packages {
    folder: PathBuf,
    scratches: AtomicU64,
    /// Held while a package appears or disappears.
    turn: Mutex<()>,
}

/// A kept zip, opened.
#[derive(Debug)]
pub struct StoredZip {
    /// At its start.
    pub file: File,
    /// Its length.
    pub size_bytes: u64,
}

impl Packages {
    /// Lists `folder` and removes what an earlier run left half done.
    pub(crate) fn open(folder: PathBuf) -> Result<Packages, Error> {
        let failed = |source| Error::Prepare { path: folder.clone(), source };
        let names = names_in(&folder).map_err(failed)?;
        for name in &names {
            let path = folder.join(name);
            let orphan = name.strip_suffix(".zip").is_some_and(|hex| !names.contains(hex));
            if name.starts_with(SCRATCH_PREFIX) {
                fs::remove_dir_all(&path).map_err(|source| Error::Prepare { path, source })?;
            } else if orphan {
                fs::remove_file(&path).map_err(|source| Error::Prepare { path, source })?;
            }
        }
        Ok(Packages { folder, scratches: AtomicU64::new(0), turn: Mutex::new(()) })
    }

    /// Takes a package. One that is there already is not unpacked again. When this returns, the package is on
    /// the disk; after a refusal or an error nothing of it is left (if only the very last sync failed, a whole
    /// package is, to which nothing refers). The zip's own size is not judged here.
    pub fn add(&self, zip: &[u8], limits: &Limits) -> Result<Code, PackageError> {
        let digest = Digest(Sha256::digest(zip).into());
        let code = Code { digest, size_bytes: zip.len() as u64 };
        let known = {
            let _turn = self.take_turn();
            self.contains(&digest)
        };
        if !known {
            let scratch = self.unpack(zip, limits)?;
            self.publish(&scratch, &digest)?;
        }
        Ok(code)
    }

    /// Checks a package just as [`Packages::add`] does, by unpacking it, and keeps nothing of it.
    pub fn check(&self, zip: &[u8], limits: &Limits) -> Result<Code, PackageError> {
        let code = Code { digest: Digest(Sha256::digest(zip).into()), size_bytes: zip.len() as u64 };
        if !self.contains(&code.digest) {
            self.unpack(zip, limits)?;
        }
        Ok(code)
    }

    fn unpack(&self, zip: &[u8], limits: &Limits) -> Result<Scratch, PackageError> {
        let plan = plan::Plan::read(zip, limits)?;
        let scratch = self.scratch().map_err(PackageError::write(&self.folder))?;
        write_zip(zip, &scratch.zip())?;
        unpack::unpack(zip, plan, limits, &scratch.folder())?;
        Ok(scratch)
    }

    /// Is the package there?
    pub fn contains(&self, digest: &Digest) -> bool {
        self.folder(digest).is_dir() && self.zip_path(digest).is_file()
    }

    /// Where the unpacked package lies, or would lie.
    pub fn folder(&self, digest: &Digest) -> PathBuf {
        self.folder.join(digest.to_string())
    }

    /// The zip as it came; `None` if there is no such package.
    pub fn zip(&self, digest: &Digest) -> Result<Option<StoredZip>, Error> {
        let path = self.zip_path(digest);
        let open = || {
            let file = File::open(&path)?;
            let size_bytes = file.metadata()?.len();
            Ok(StoredZip { file, size_bytes })
        };
        absent_is_none(open()).map_err(|source| Error::ReadPackage { path, source })
    }

    /// All packages, in the order of their digests.
    pub fn list(&self) -> Result<Vec<Digest>, Error> {
        let names =
            names_in(&self.folder).map_err(|source| Error::ReadPackage { path: self.folder.clone(), source })?;
        Ok(names.iter().filter_map(|name| Digest::parse(name).ok()).collect())
    }

    /// Removes a package, and says whether there was one. The caller sees to it that nothing refers to it:
    /// neither a record, nor an instance, nor an [`Packages::add`] of the same bytes under way.
    pub fn remove(&self, digest: &Digest) -> Result<bool, Error> {
        let path = self.folder(digest);
        let failed = |source| Error::RemovePackage { path: path.clone(), source };
        let scratch = self.scratch().map_err(failed)?;
        let existed = {
            let _turn = self.take_turn();
            let folder = absent_is_none(fs::rename(&path, scratch.folder())).map_err(failed)?;
            let zip = absent_is_none(fs::remove_file(self.zip_path(digest))).map_err(failed)?;
            folder.is_some() || zip.is_some()
        };
        scratch.remove().map_err(failed)?;
        Ok(existed)
    }

    /// Bytes of all kept zips.
    pub fn bytes_total(&self) -> Result<u64, Error> {
        let mut total = 0;
        for digest in self.list()? {
            let path = self.zip_path(&digest);
            let size = absent_is_none(fs::metadata(&path));
            total += size.map_err(|source| Error::ReadPackage { path, source })?.map_or(0, |found| found.len());
        }
        Ok(total)
    }

    fn zip_path(&self, digest: &Digest) -> PathBuf {
        self.folder.join(format!("{digest}.zip"))
    }

    fn take_turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn scratch(&self) -> io::Result<Scratch> {
        let number = self.scratches.fetch_add(1, Ordering::Relaxed);
        let path = self.folder.join(format!("{SCRATCH_PREFIX}{number}"));
        fs::create_dir(&path)?;
        Ok(Scratch { path })
    }

    /// Moves a finished package into place, the zip first: where the folder is, the zip is. If another
    /// [`Packages::add`] of the same bytes was faster, its package stays.
    fn publish(&self, scratch: &Scratch, digest: &Digest) -> Result<(), PackageError> {
        let _turn = self.take_turn();
        let (zip, folder) = (self.zip_path(digest), self.folder(digest));
        fs::rename(scratch.zip(), &zip).map_err(PackageError::write(zip))?;
        if !folder.is_dir() {
            fs::rename(scratch.folder(), &folder).map_err(PackageError::write(folder))?;
        }
        unpack::sync_folder(&self.folder).map_err(PackageError::write(&self.folder))
    }
}

/// A folder for work in progress, removed when dropped.
struct Scratch {
    path: PathBuf,
}

impl Scratch {
    fn zip(&self) -> PathBuf {
        self.path.join("package.zip")
    }

    fn folder(&self) -> PathBuf {
        self.path.join("unpacked")
    }

    fn remove(self) -> io::Result<()> {
        fs::remove_dir_all(&self.path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed now, the next start removes.
        let _ = fs::remove_dir_all(&self.path);
    }
}

fn write_zip(zip: &[u8], path: &Path) -> Result<(), PackageError> {
    let write = || {
        let mut file = File::create_new(path)?;
        file.write_all(zip)?;
        file.sync_all()
    };
    write().map_err(PackageError::write(path))
}

/// The names in a folder; those that are not UTF-8 are not ours and are left out.
fn names_in(folder: &Path) -> io::Result<BTreeSet<String>> {
    fs::read_dir(folder)?.filter_map(|entry| entry.map(|e| e.file_name().into_string().ok()).transpose()).collect()
}

fn absent_is_none<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
