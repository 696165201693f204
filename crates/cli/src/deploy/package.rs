//! A folder as a zip file: the same bytes for the same files, whatever their order and times.

use super::pattern::Patterns;
use crate::error::Error;
use std::collections::BTreeMap;
use std::fs;
use std::io::{Cursor, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path, PathBuf};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

/// How deep folders may be nested, ours.
const DEPTH_MAX: usize = 64;

/// A package, ready to be sent.
#[derive(Debug)]
pub struct Package {
    /// The zip file.
    pub zip: Vec<u8>,
    /// How many files and links are in it.
    pub files: usize,
}

/// What becomes an entry.
enum Entry {
    File { executable: bool, bytes: u64 },
    Link { target: String },
    EmptyFolder,
}

/// Packages `folder` without what `patterns` excludes. Symbolic links are kept as links and must stay inside.
pub fn build(folder: &Path, patterns: &Patterns, limits: &model::Limits) -> Result<Package, Error> {
    let mut entries = BTreeMap::new();
    collect(folder, "", 0, patterns, limits, &mut entries)?;
    let files = entries.values().filter(|entry| !matches!(entry, Entry::EmptyFolder)).count();
    if files == 0 {
        let what = format!("{} has no files to deploy", folder.display());
        return Err(Error::usage(what, "name the folder that holds the function's code"));
    }
    check_size(&entries, limits)?;
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (path, entry) in &entries {
        add(&mut writer, folder, path, entry)?;
    }
    let zip = writer.finish().map_err(|source| Error::Package { path: folder.to_owned(), source })?.into_inner();
    if zip.len() as u64 > limits.zip_bytes {
        return Err(Error::usage(
            format!("the package has {} bytes; {} is the most that fits a request", zip.len(), limits.zip_bytes),
            "leave out what the function does not need with `exclude` in tidegate.toml",
        ));
    }
    Ok(Package { zip, files })
}

fn collect(
    root: &Path,
    below: &str,
    depth: usize,
    patterns: &Patterns,
    limits: &model::Limits,
    entries: &mut BTreeMap<String, Entry>,
) -> Result<(), Error> {
    let folder = root.join(below);
    let failed = |path: &Path, source| Error::Read { path: path.to_owned(), source };
    if depth > DEPTH_MAX {
        let what = format!("{} is nested deeper than {DEPTH_MAX} folders", folder.display());
        return Err(Error::usage(what, "leave it out with `exclude` in tidegate.toml"));
    }
    let mut is_empty = true;
    for item in fs::read_dir(&folder).map_err(|source| failed(&folder, source))? {
        let item = item.map_err(|source| failed(&folder, source))?;
        let Some(name) = item.file_name().to_str().map(str::to_owned) else {
            return Err(unfit(&item.path(), "its name is not UTF-8"));
        };
        let path = if below.is_empty() { name } else { format!("{below}/{name}") };
        if patterns.exclude(&path) {
            continue;
        }
        is_empty = false;
        let metadata = fs::symlink_metadata(item.path()).map_err(|source| failed(&item.path(), source))?;
        if metadata.is_dir() {
            collect(root, &path, depth + 1, patterns, limits, entries)?;
            continue;
        }
        let entry = entry(&item.path(), &path, &metadata)?;
        entries.insert(path, entry);
        if entries.len() as u64 > limits.zip_entries {
            let what = format!("the folder holds more than {} files", limits.zip_entries);
            return Err(Error::usage(what, "leave some out with `exclude` in tidegate.toml"));
        }
    }
    if is_empty && !below.is_empty() {
        entries.insert(below.to_owned(), Entry::EmptyFolder);
    }
    Ok(())
}

fn entry(file: &Path, path: &str, metadata: &fs::Metadata) -> Result<Entry, Error> {
    if path.contains('\\') {
        return Err(unfit(file, "its name has a backslash"));
    }
    if metadata.is_file() {
        return Ok(Entry::File { executable: metadata.permissions().mode() & 0o111 != 0, bytes: metadata.len() });
    }
    if !metadata.is_symlink() {
        return Err(unfit(file, "it is neither a file nor a folder nor a link"));
    }
    let target = fs::read_link(file).map_err(|source| Error::Read { path: file.to_owned(), source })?;
    match target.to_str() {
        Some(text) if stays_inside(path, &target) => Ok(Entry::Link { target: text.to_owned() }),
        _ => Err(unfit(file, &format!("it is a link that leads out of the folder, to {}", target.display()))),
    }
}

/// Follows the target by name alone from the folder of the link at `path`.
fn stays_inside(path: &str, target: &Path) -> bool {
    let mut depth = path.matches('/').count();
    for component in target.components() {
        match component {
            Component::CurDir => {}
            Component::Normal(_) => depth += 1,
            Component::ParentDir if depth > 0 => depth -= 1,
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return false,
        }
    }
    true
}

fn check_size(entries: &BTreeMap<String, Entry>, limits: &model::Limits) -> Result<(), Error> {
    let bytes = entries.values().fold(0_u64, |sum, entry| match entry {
        Entry::File { bytes, .. } => sum.saturating_add(*bytes),
        Entry::Link { .. } | Entry::EmptyFolder => sum,
    });
    if bytes <= limits.unzipped_bytes {
        return Ok(());
    }
    Err(Error::usage(
        format!("the folder holds {bytes} bytes; {} is the most that a function may have", limits.unzipped_bytes),
        "leave out what the function does not need with `exclude` in tidegate.toml",
    ))
}

fn add(writer: &mut ZipWriter<Cursor<Vec<u8>>>, root: &Path, path: &str, entry: &Entry) -> Result<(), Error> {
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Deflated)
        .last_modified_time(DateTime::default());
    let failed = |source| Error::Package { path: PathBuf::from(path), source };
    match entry {
        Entry::EmptyFolder => writer.add_directory(path, options.unix_permissions(0o755)).map_err(failed),
        Entry::Link { target } => writer.add_symlink(path, target, options).map_err(failed),
        Entry::File { executable, .. } => {
            let file = root.join(path);
            let bytes = fs::read(&file).map_err(|source| Error::Read { path: file, source })?;
            let mode = if *executable { 0o755 } else { 0o644 };
            writer.start_file(path, options.unix_permissions(mode)).map_err(failed)?;
            writer.write_all(&bytes).map_err(|source| failed(source.into()))
        }
    }
}

fn unfit(file: &Path, why: &str) -> Error {
    Error::usage(
        format!("{} cannot be deployed: {why}", file.display()),
        "leave it out with `exclude` in tidegate.toml",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use std::os::unix::fs::symlink;

    fn tree(paths: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for path in paths {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, path.file_name().unwrap().as_encoded_bytes()).unwrap();
        }
        folder
    }

    fn build_all(folder: &Path) -> Result<Package, Error> {
        build(folder, &Patterns::new(&[]), &model::Limits::default())
    }

    fn names(zip: &[u8]) -> Vec<String> {
        let mut archive = zip::ZipArchive::new(Cursor::new(zip)).unwrap();
        (0..archive.len())
            .map(|index| {
                let mut file = archive.by_index(index).unwrap();
                let mut text = String::new();
                file.read_to_string(&mut text).unwrap();
                format!("{} {:o} {text}", file.name().unwrap(), file.unix_mode().unwrap())
            })
            .collect()
    }

    #[test]
    fn the_same_files_make_the_same_bytes() {
        let (first, second) = (tree(&["b.py", "a/c.py", "bootstrap"]), tree(&["bootstrap", "a/c.py", "b.py"]));
        for folder in [&first, &second] {
            let path = folder.path().join("bootstrap");
            fs::set_permissions(path, fs::Permissions::from_mode(0o700)).unwrap();
            fs::create_dir(folder.path().join("empty")).unwrap();
            symlink("../b.py", folder.path().join("a/link")).unwrap();
        }
        let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
        fs::File::open(second.path().join("b.py")).unwrap().set_modified(old).unwrap();
        let (first, second) = (build_all(first.path()).unwrap(), build_all(second.path()).unwrap());
        assert_eq!(first.zip, second.zip);
        assert_eq!(first.files, 4);
        let want = [
            "a/c.py 100644 c.py",
            "a/link 120777 ../b.py",
            "b.py 100644 b.py",
            "bootstrap 100755 bootstrap",
            "empty/ 40755 ",
        ];
        assert_eq!(names(&first.zip), want);
    }

    #[test]
    fn exclusions() {
        let folder = tree(&["a.py", ".git/x", "p/__pycache__/y.pyc", "notes.md", "tidegate.toml"]);
        let package = build(folder.path(), &Patterns::new(&["*.md".to_owned()]), &model::Limits::default()).unwrap();
        assert_eq!(names(&package.zip).len(), 3, "a.py, the empty folder p, tidegate.toml");
    }

    #[test]
    fn refusals() {
        let check = |folder: &Path, limits: &model::Limits, want: &str| {
            let error = build(folder, &Patterns::new(&[]), limits).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        };
        let limits = model::Limits::default();
        check(tree(&[".git/x"]).path(), &limits, "has no files");
        check(Path::new("/nonexistent"), &limits, "cannot read");
        check(tree(&["a\\b"]).path(), &limits, "backslash");
        for target in ["/etc/passwd", "../x", "a/../../x"] {
            let folder = tree(&["a/b"]);
            symlink(target, folder.path().join("link")).unwrap();
            check(folder.path(), &limits, "leads out of the folder");
        }
        let folder = tree(&["a", "b", "c"]);
        check(folder.path(), &model::Limits { zip_entries: 2, ..limits.clone() }, "more than 2 files");
        check(folder.path(), &model::Limits { unzipped_bytes: 2, ..limits.clone() }, "holds 3 bytes");
        check(folder.path(), &model::Limits { zip_bytes: 20, ..limits }, "fits a request");
    }
}
