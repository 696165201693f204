//! Writing a checked package to the disk.

use super::path::{LINK_BYTES_MAX, link_target};
use super::plan::{Item, Plan};
use super::refusal::{PackageError, shown};
use model::Limits;
use std::fs::{self, File, Permissions};
use std::io::{self, Cursor, Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use zip::ZipReadOptions;
use zip::read::ZipFile;
use zip::result::ZipError;

/// Bytes that are unpacked at a time.
const BUFFER_BYTES: usize = 65_536;
/// Up to so many files and folders are synced one by one; beyond it the whole file system is, in one go.
const SYNC_EACH_MAX: usize = 16;

/// Writes all of `plan` into `folder`, which must not exist, and onto the disk itself. On an error, what was
/// written so far is the caller's to remove.
pub(super) fn unpack(zip: &[u8], mut plan: Plan, limits: &Limits, folder: &Path) -> Result<(), PackageError> {
    let mut budget = Budget { limit_bytes: limits.unzipped_bytes, left_bytes: limits.unzipped_bytes };
    let links = read_links(zip, &mut plan, &mut budget)?;
    let mut folders = vec![folder.to_owned()];
    folders.extend(plan.folders().map(|path| folder.join(path)));
    for path in &folders {
        make_folder(path).map_err(PackageError::write(path))?;
    }
    let each = folders.len() + plan.files.len() <= SYNC_EACH_MAX;
    let mut buffer = vec![0; BUFFER_BYTES];
    for item in plan.files {
        let path = folder.join(&item.path);
        let file = write_file(zip, item, &path, &mut buffer, &mut budget)?;
        if each {
            file.sync_all().map_err(PackageError::write(path))?;
        }
    }
    // Last, so that no file can be written through a link whatever the checks above missed.
    for (path, target) in links {
        let path = folder.join(path);
        symlink(target, &path).map_err(PackageError::write(path))?;
    }
    if each {
        folders.iter().rev().try_for_each(|path| sync_folder(path).map_err(PackageError::write(path)))
    } else {
        sync_file_system(folder).map_err(PackageError::write(folder))
    }
}

/// Makes what a folder holds durable.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn sync_file_system(folder: &Path) -> io::Result<()> {
    Ok(rustix::fs::syncfs(File::open(folder)?)?)
}

/// How much may still be unpacked.
struct Budget {
    limit_bytes: u64,
    left_bytes: u64,
}

impl Budget {
    fn spend(&mut self, bytes: usize) -> Result<(), PackageError> {
        match self.left_bytes.checked_sub(bytes as u64) {
            Some(left) => {
                self.left_bytes = left;
                Ok(())
            }
            None => Err(PackageError::TooLarge { limit_bytes: self.limit_bytes }),
        }
    }
}

fn read_links(zip: &[u8], plan: &mut Plan, budget: &mut Budget) -> Result<Vec<(String, String)>, PackageError> {
    let mut links = Vec::with_capacity(plan.links.len());
    for item in std::mem::take(&mut plan.links) {
        let mut source = Cursor::new(zip);
        let reader = item.entry.with_reader(&mut source, ZipReadOptions::new());
        let reader = reader.map_err(|source| damaged(&item.path, source))?;
        let mut target = Vec::new();
        // One more than allowed, so that a longer target is seen to be longer.
        let read = reader.take(LINK_BYTES_MAX as u64 + 1).read_to_end(&mut target);
        read.map_err(|source| PackageError::Damaged { entry: shown(&item.path), source })?;
        budget.spend(target.len())?;
        let target = link_target(&item.path, target, |path| plan.is_folder(path))?;
        links.push((item.path, target));
    }
    Ok(links)
}

fn make_folder(path: &Path) -> io::Result<()> {
    fs::create_dir(path)?;
    // Set apart from the making of it, because the process's umask would take bits away there.
    fs::set_permissions(path, Permissions::from_mode(0o755))
}

fn write_file(
    zip: &[u8],
    item: Item,
    path: &Path,
    buffer: &mut [u8],
    budget: &mut Budget,
) -> Result<File, PackageError> {
    let mut source = Cursor::new(zip);
    let reader = item.entry.with_reader(&mut source, ZipReadOptions::new());
    let mut reader = reader.map_err(|source| damaged(&item.path, source))?;
    let mut file = File::create_new(path).map_err(PackageError::write(path))?;
    loop {
        let bytes = read_some(&mut reader, buffer)
            .map_err(|source| PackageError::Damaged { entry: shown(&item.path), source })?;
        if bytes == 0 {
            break;
        }
        budget.spend(bytes)?;
        file.write_all(&buffer[..bytes]).map_err(PackageError::write(path))?;
    }
    let mode = if item.executable { 0o755 } else { 0o644 };
    file.set_permissions(Permissions::from_mode(mode)).map_err(PackageError::write(path))?;
    Ok(file)
}

/// Reads some bytes; none are left at 0. The reader compares the CRC at the end and refuses bytes beyond the
/// declared size.
fn read_some(reader: &mut ZipFile<'_, Cursor<&[u8]>>, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match reader.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

fn damaged(path: &str, source: ZipError) -> PackageError {
    PackageError::Damaged { entry: shown(path), source: source.into() }
}
