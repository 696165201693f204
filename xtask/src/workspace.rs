//! Where the checkout is, and which files belong to it.

use crate::steps::Failure;
use std::fs;
use std::path::{Path, PathBuf};

/// Folders that hold nothing of ours.
const SKIPPED_FOLDERS: &[&str] = &["target", ".git", "node_modules", "__pycache__", ".pytest_cache", ".venv"];
/// More files than this means that something foreign lies in the checkout.
const FILES_MAX: usize = 20_000;

/// The root folder of the checkout that cargo runs us from.
pub fn root() -> PathBuf {
    let manifest =
        std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    manifest.parent().map(Path::to_path_buf).unwrap_or(manifest)
}

/// A text file of the checkout.
pub struct File {
    /// The path below the root, with `/` between its parts.
    pub path: String,
    /// The contents.
    pub text: String,
}

impl File {
    /// The name's last extension, without the dot; empty if there is none.
    pub fn extension(&self) -> &str {
        Path::new(&self.path).extension().and_then(|e| e.to_str()).unwrap_or("")
    }

    /// `core` for `crates/core/src/lib.rs`; also `bench` and `xtask`.
    pub fn crate_name(&self) -> Option<&str> {
        let mut parts = self.path.split('/');
        match parts.next()? {
            "crates" => parts.next(),
            name @ ("bench" | "xtask") => Some(name),
            _ => None,
        }
    }

    /// Is this code that ships, not a test beside it?
    pub fn is_source(&self) -> bool {
        self.extension() == "rs" && self.path.contains("/src/")
    }
}

/// All text files of the checkout, sorted by path; files that are not UTF-8 are left out.
pub fn files(root: &Path) -> Result<Vec<File>, Failure> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).map_err(|e| Failure(format!("cannot list {}: {e}", folder.display())))?;
        for entry in entries.flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            let name = entry.file_name();
            if kind.is_dir() && !SKIPPED_FOLDERS.iter().any(|s| name == *s) {
                folders.push(entry.path());
            } else if kind.is_file() {
                found.extend(read(root, &entry.path()));
            }
        }
        if found.len() > FILES_MAX {
            return Err(Failure(format!("more than {FILES_MAX} files below {}", root.display())));
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn read(root: &Path, path: &Path) -> Option<File> {
    let below = path.strip_prefix(root).ok()?.to_str()?.to_owned();
    let text = fs::read_to_string(path).ok()?;
    Some(File { path: below, text })
}
