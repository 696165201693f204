//! Names inside a package: where an entry lies, and where a symbolic link leads.

use super::refusal::{PackageError, shown};

/// The most bytes in an entry's name; leaves room for `/var/task/` below Linux's 4,096.
pub(super) const PATH_BYTES_MAX: usize = 1_024;
/// The most bytes in one part of a name (Linux's NAME_MAX).
pub(super) const PART_BYTES_MAX: usize = 255;
/// The most parts in a name.
pub(super) const DEPTH_MAX: usize = 64;
/// The most bytes in a symbolic link's target.
pub(super) const LINK_BYTES_MAX: usize = 1_024;

/// Where an entry lies in the package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EntryPath {
    /// Parts joined by `/`: relative, no empty part, no `.` or `..`. Empty is the package's own folder.
    pub text: String,
    /// The name says that this is a folder.
    pub folder: bool,
}

/// Reads an entry's name. Empty parts and `.` are skipped; anything that could lead elsewhere is refused.
pub(super) fn entry_path(raw: &[u8]) -> Result<EntryPath, PackageError> {
    let Ok(name) = std::str::from_utf8(raw) else {
        return Err(PackageError::NotUtf8 { entry: shown(&String::from_utf8_lossy(raw)) });
    };
    let entry = || shown(name);
    if name.contains('\0') {
        return Err(PackageError::Nul { entry: entry() });
    }
    if name.contains('\\') {
        return Err(PackageError::Backslash { entry: entry() });
    }
    if name.starts_with('/') {
        return Err(PackageError::Absolute { entry: entry() });
    }
    if has_drive_letter(name) {
        return Err(PackageError::DriveLetter { entry: entry() });
    }
    if name.len() > PATH_BYTES_MAX {
        return Err(PackageError::NameTooLong { entry: entry() });
    }
    let parts = || name.split('/').filter(|part| !matches!(*part, "" | "."));
    if parts().any(|part| part == "..") {
        return Err(PackageError::ParentFolder { entry: entry() });
    }
    if parts().any(|part| part.len() > PART_BYTES_MAX) {
        return Err(PackageError::NameTooLong { entry: entry() });
    }
    if parts().count() > DEPTH_MAX {
        return Err(PackageError::TooDeep { entry: entry(), limit: DEPTH_MAX });
    }
    let text = parts().collect::<Vec<_>>().join("/");
    Ok(EntryPath { text, folder: name.ends_with('/') })
}

fn has_drive_letter(name: &str) -> bool {
    matches!(name.as_bytes(), [letter, b':', ..] if letter.is_ascii_alphabetic())
}

/// The folder that holds `path`; `None` for the package's own folder.
pub(super) fn parent(path: &str) -> Option<&str> {
    if path.is_empty() {
        return None;
    }
    Some(path.rfind('/').map_or("", |slash| &path[..slash]))
}

/// Reads a symbolic link's target and refuses it if it is absolute or leads out of the package.
///
/// `is_folder` says of a path whether it is a real folder of the package. A `..` is followed only from a real
/// folder: behind another link it would lead somewhere that the text does not show.
pub(super) fn link_target(
    link: &str,
    target: Vec<u8>,
    is_folder: impl Fn(&str) -> bool,
) -> Result<String, PackageError> {
    let entry = || shown(link);
    let Ok(target) = String::from_utf8(target) else { return Err(PackageError::LinkTarget { entry: entry() }) };
    if target.is_empty() || target.len() > LINK_BYTES_MAX || target.contains('\0') {
        return Err(PackageError::LinkTarget { entry: entry() });
    }
    if target.starts_with('/') {
        return Err(PackageError::LinkEscapes { entry: entry() });
    }
    let mut at = parent(link).unwrap_or("").to_owned();
    for part in target.split('/').filter(|part| !matches!(*part, "" | ".")) {
        if part == ".." {
            let up = if is_folder(&at) { parent(&at).map(str::to_owned) } else { None };
            at = up.ok_or_else(|| PackageError::LinkEscapes { entry: entry() })?;
        } else {
            if !at.is_empty() {
                at.push('/');
            }
            at.push_str(part);
        }
    }
    Ok(target)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::{Component, Path};

    fn check_name(name: &[u8], want: &str) {
        let got = match entry_path(name) {
            Ok(path) => format!("{}{}", path.text, if path.folder { "/" } else { "" }),
            Err(error) => format!("{error:?}").split([' ', '{']).next().unwrap_or_default().to_owned(),
        };
        assert_eq!(got, want, "{}", String::from_utf8_lossy(name));
    }

    #[test]
    fn names() {
        check_name(b"a", "a");
        check_name(b"./a//b/./c", "a/b/c");
        check_name(b"a/b/", "a/b/");
        check_name(b"./", "/");
        check_name(b"...", "...");
        check_name(b"..a/b..", "..a/b..");
        check_name("ü/ö".as_bytes(), "ü/ö");
        check_name(b"/etc/passwd", "Absolute");
        check_name(b"//a", "Absolute");
        check_name(b"..", "ParentFolder");
        check_name(b"a/../b", "ParentFolder");
        check_name(b"a/..", "ParentFolder");
        check_name(b"C:/a", "DriveLetter");
        check_name(b"c:a", "DriveLetter");
        check_name(b"a\\..\\b", "Backslash");
        check_name(b"a\0", "Nul");
        check_name(b"a\xff", "NotUtf8");
        check_name(&[b'a'; 256], "NameTooLong");
        check_name("a/".repeat(513).as_bytes(), "NameTooLong");
        check_name("a/".repeat(65).as_bytes(), "TooDeep");
        check_name("a/".repeat(64).as_bytes(), &"a/".repeat(64));
    }

    fn check_link(link: &str, target: &str, want: &str) {
        let folders = ["", "a", "a/b", "c"];
        let got = match link_target(link, target.into(), |path| folders.contains(&path)) {
            Ok(_) => "ok".to_owned(),
            Err(error) => format!("{error:?}").split([' ', '{']).next().unwrap_or_default().to_owned(),
        };
        assert_eq!(got, want, "{link} -> {target}");
    }

    #[test]
    fn links() {
        check_link("a/l", "x", "ok");
        check_link("a/l", "../c/x", "ok");
        check_link("a/b/l", "../..", "ok");
        check_link("a/b/l", "./../b/../../c", "ok");
        check_link("l", ".", "ok");
        check_link("l", "..", "LinkEscapes");
        check_link("a/b/l", "../../..", "LinkEscapes");
        check_link("a/b/l", "../../../task/x", "LinkEscapes");
        check_link("l", "/etc/passwd", "LinkEscapes");
        check_link("a/l", "other_link/../x", "LinkEscapes");
        check_link("a/l", "", "LinkTarget");
        check_link("a/l", "x\0", "LinkTarget");
        check_link("a/l", &"x".repeat(1_025), "LinkTarget");
    }

    proptest::proptest! {
        #[test]
        fn a_name_stays_inside(name in "[a./\\\\:\u{0}C]{0,40}") {
            if let Ok(path) = entry_path(name.as_bytes()) {
                let inside = Path::new(&path.text).components().all(|part| matches!(part, Component::Normal(_)));
                proptest::prop_assert!(inside, "{:?}", path);
            }
        }

        #[test]
        fn any_bytes_are_a_name_or_refused(name in proptest::collection::vec(proptest::num::u8::ANY, 0..2_000)) {
            let _ = entry_path(&name);
        }

        #[test]
        fn a_link_stays_inside(target in "[ab./]{1,40}") {
            let folders = ["", "a", "a/b"];
            if link_target("a/b/l", target.clone().into(), |path| folders.contains(&path)).is_ok() {
                let mut depth = 2;
                for part in target.split('/') {
                    match part {
                        ".." => depth -= 1,
                        "" | "." => {}
                        _ => depth += 1,
                    }
                    proptest::prop_assert!(depth >= 0);
                }
            }
        }
    }
}
