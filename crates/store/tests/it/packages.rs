use crate::crafted_zip::{Crafted, DOS, crc32, deflated, file, folder, link, zip};
use model::{Digest, Limits};
use proptest::prelude::*;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use store::{PackageError, Packages, Store};

/// Small enough that tests can cross every limit.
fn limits() -> Limits {
    Limits { unzipped_bytes: 100_000, zip_entries: 100, ..Limits::default() }
}

/// A folder's content, one line per entry, sorted: `mode path size`, or `-> target` for links.
fn tree(folder: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut left = vec![folder.to_owned()];
    while let Some(at) = left.pop() {
        for entry in fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            let found = fs::symlink_metadata(&path).unwrap();
            let shown = path.strip_prefix(folder).unwrap().display().to_string();
            lines.push(if found.is_symlink() {
                format!("{shown} -> {}", fs::read_link(&path).unwrap().display())
            } else if found.is_dir() {
                left.push(path);
                format!("{:o} {shown}/", found.permissions().mode() & 0o7777)
            } else {
                format!("{:o} {shown} {}", found.permissions().mode() & 0o7777, found.len())
            });
        }
    }
    lines.sort();
    lines
}

fn left_behind(packages: &Packages) -> Vec<String> {
    tree(packages.folder(&Digest([0; 32])).parent().unwrap())
}

fn variant(error: &PackageError) -> String {
    format!("{error:?}").split([' ', '{']).next().unwrap_or_default().to_owned()
}

/// Adds a zip to an empty store; `want` is the tree, or the refusal's variant with nothing left behind.
fn check(zip: &[u8], want: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    match store.packages().add(zip, &limits()) {
        Ok(code) => {
            assert_eq!(code.size_bytes, zip.len() as u64);
            assert_eq!(tree(&store.packages().folder(&code.digest)), want);
        }
        Err(error) => {
            assert!(error.is_refusal(), "{error:?}");
            assert_eq!([variant(&error)], want, "{error:?}");
            assert_eq!(left_behind(store.packages()), [""; 0], "{error:?}");
        }
    }
}

#[test]
fn modes_folders_and_links() {
    let executable = Crafted { mode: 0o100_700, ..file("bin/run", b"x") };
    let bare_mode = Crafted { mode: 0o600, ..file("python_writestr", b"12") };
    let setuid = Crafted { mode: 0o106_755, ..file("setuid", b"") };
    let windows = Crafted { system: DOS, mode: 0o100_777, ..file("windows", b"123") };
    let entries = [
        folder("empty/"),
        Crafted { mode: 0, ..file("dos/", b"") },
        folder("unix_folder"),
        executable,
        bare_mode,
        setuid,
        windows,
        file("./deep//er/./f", b"1234"),
        deflated("zeros", &[0; 5_000]),
        link("bin/again", "./run"),
        link("up", "deep/../bin"),
        folder("./"),
        folder("bin/"),
    ];
    let want = [
        "644 deep/er/f 4",
        "644 python_writestr 2",
        "644 windows 3",
        "644 zeros 5000",
        "755 bin/",
        "755 bin/run 1",
        "755 deep/",
        "755 deep/er/",
        "755 dos/",
        "755 empty/",
        "755 setuid 0",
        "755 unix_folder/",
        "bin/again -> ./run",
        "up -> deep/../bin",
    ];
    check(&zip(&entries), &want);
}

#[test]
fn not_a_zip() {
    let good = zip(&[file("a", b"content"), deflated("b", b"more content, more content")]);
    check(b"", &["Empty"]);
    check(&zip(&[]), &["Empty"]);
    check(b"PK", &["NotAZip"]);
    check(&[0; 10_000], &["NotAZip"]);
    check(&good[..good.len() - 1], &["NotAZip"]);
    check(&good[..good.len() / 2], &["NotAZip"]);
    check(&good[good.len() - 22..], &["NotAZip"]);
    let mut multi_disk = good.clone();
    let end = multi_disk.len() - 22;
    multi_disk[end + 4] = 1;
    check(&multi_disk, &["NotAZip"]);
}

#[test]
fn names_that_lead_elsewhere() {
    let one = |name: &[u8], want| check(&zip(&[file("first", b"x"), file(name, b"x")]), &[want]);
    one(b"../evil", "ParentFolder");
    one(b"a/../../evil", "ParentFolder");
    one(b"/etc/cron.d/evil", "Absolute");
    one(b"..\\evil", "Backslash");
    one(b"C:/evil", "DriveLetter");
    one(b"a\0b", "Nul");
    one(b"a\xff", "NotUtf8");
    one(b"", "NoName");
    one(b".", "NoName");
    one(&[b'n'; 300], "NameTooLong");
    one("d/".repeat(80).as_bytes(), "TooDeep");
}

#[test]
fn clashes() {
    let two = |a: Crafted, b: Crafted, want| check(&zip(&[a, b]), &[want]);
    two(file("a", b"1"), file("a", b"2"), "Duplicate");
    two(file("a", b"1"), file("./a", b"2"), "Duplicate");
    two(file("a", b"1"), link("a", "b"), "Duplicate");
    two(link("a", "b"), link("a", "c"), "Duplicate");
    two(file("a", b"1"), folder("a/"), "FileAndFolder");
    two(folder("a/"), file("a", b"1"), "FileAndFolder");
    two(file("a", b"1"), file("a/b", b"2"), "FileAndFolder");
    two(file("a/b", b"1"), file("a", b"2"), "FileAndFolder");
    two(file("a/b", b"1"), link("a", "c"), "FileAndFolder");
    two(link("a", "b"), file("a/x", b"1"), "BehindLink");
    two(link("a", "."), file("a/x/y", b"1"), "BehindLink");
    two(link("a", "b"), folder("a/"), "FileAndFolder");
    check(&zip(&[file("a", b""), file("A", b"")]), &["644 A 0", "644 a 0"]);
}

#[test]
fn links_that_lead_elsewhere() {
    let one = |target: &[u8], want| check(&zip(&[file("d/f", b""), link("d/l", target)]), &[want]);
    one(b"/etc/passwd", "LinkEscapes");
    one(b"../..", "LinkEscapes");
    one(b"../../x", "LinkEscapes");
    one(b"missing/../../../x", "LinkEscapes");
    one(b"", "LinkTarget");
    one(b"a\0b", "LinkTarget");
    one(b"\xff", "LinkTarget");
    one(&[b'x'; 1_025], "LinkTarget");
    // By its text alone `through` stays in `d/e`; but `top` is the package itself, so it would lead out.
    check(&zip(&[folder("d/e/"), link("d/e/top", "../.."), link("d/e/through", "top/../..")]), &["LinkEscapes"]);
}

#[test]
fn entries_of_a_kind_we_do_not_take() {
    let with_mode = |mode| zip(&[Crafted { mode, ..file("x", b"") }]);
    for special in [0o020_644, 0o060_644, 0o010_644, 0o140_644, 0o170_644] {
        check(&with_mode(special), &["Special"]);
    }
    check(&zip(&[Crafted { mode: 0o120_777, ..file("x/", b"y") }]), &["Special"]);
    check(&zip(&[Crafted { flags: 1, ..file("x", b"") }]), &["Encrypted"]);
    check(&zip(&[Crafted { method: 99, ..file("x", b"") }]), &["Compression"]);
    check(&zip(&[Crafted { method: 12, ..file("x", b"") }]), &["Compression"]);
}

#[test]
fn damaged_entries() {
    let one = |entry: Crafted, want| check(&zip(&[file("first", b"x"), entry]), &[want]);
    one(Crafted { crc: 1, ..file("x", b"y") }, "Damaged");
    one(Crafted { crc: 1, ..deflated("x", b"yyyyyyyyy") }, "Damaged");
    one(Crafted { crc: 1, ..link("x", b"y") }, "Damaged");
    one(Crafted { packed: vec![0xff; 9], packed_bytes: 9, ..deflated("x", b"yyyyyyyyy") }, "Damaged");
    let whole = deflated("x", &[7; 2_000]);
    let half = whole.packed.len() / 2;
    one(Crafted { packed: whole.packed[..half].to_vec(), packed_bytes: half as u32, ..whole }, "Damaged");
    let far = zip(&[file("x", b"y")]);
    let at = far.len() - 22 - 5;
    let mut lost_header = far.clone();
    lost_header[at] = 7;
    check(&lost_header, &["Damaged"]);
}

#[test]
fn bombs() {
    let limit = limits().unzipped_bytes as usize;
    let small: Vec<Crafted> = (0..100).map(|n| file(format!("f{n}"), b"")).collect();
    assert!(store_takes(&zip(&small)));
    check(&zip(&[small, vec![file("one more", b"")]].concat()), &["TooManyEntries"]);
    let implied: Vec<Crafted> = (0..60).map(|n| file(format!("d{n}/f"), b"")).collect();
    check(&zip(&implied), &["TooManyEntries"]);
    check(
        &zip(&[file(format!("{}f", "d/".repeat(50)), b""), file(format!("{}f", "e/".repeat(50)), b"")]),
        &["TooManyEntries"],
    );

    assert!(store_takes(&zip(&[deflated("x", &vec![0; limit])])));
    check(&zip(&[deflated("x", &vec![0; limit + 1])]), &["TooLarge"]);
    check(&zip(&[deflated("x", &vec![0; limit]), file("y", b"1")]), &["TooLarge"]);
    check(&zip(&[Crafted { size_bytes: u32::MAX - 1, ..file("x", b"y") }]), &["TooLarge"]);
    // The directory says 10 bytes, the deflate stream knows better.
    check(&zip(&[Crafted { size_bytes: 10, ..deflated("x", &vec![0; limit * 5]) }]), &["Damaged"]);

    // Many entries over one kernel of bytes.
    let kernel = deflated("k", &[0; 500]);
    let overlapping: Vec<Crafted> = (0..90)
        .map(|n| Crafted { name: format!("k{n}").into_bytes(), shares: (n > 0).then_some(0), ..kernel.clone() })
        .collect();
    check(&zip(&overlapping), &["Overlapping"]);
    // Empty deflate blocks: much input, no output, over and over.
    let nothing = Crafted {
        packed: [[0, 0, 0, 0xff, 0xff]; 1_000].concat(),
        packed_bytes: 5_000,
        method: 8,
        crc: crc32(b""),
        ..file("n", b"")
    };
    let again = Crafted { name: b"m".to_vec(), shares: Some(0), ..nothing.clone() };
    check(&zip(&[nothing, again]), &["Overlapping"]);
}

fn store_takes(zip: &[u8]) -> bool {
    let dir = tempfile::tempdir().unwrap();
    Store::open(dir.path()).unwrap().packages().add(zip, &limits()).is_ok()
}

#[test]
fn the_default_byte_limit_stops_a_real_bomb() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let ten_mb = deflated("0", &vec![0; 10_000_000]);
    // Together 270 MB, of which the directory admits to almost nothing.
    let entries: Vec<Crafted> =
        (0..27).map(|n| Crafted { name: n.to_string().into(), size_bytes: 9_000_000, ..ten_mb.clone() }).collect();
    let error = store.packages().add(&zip(&entries), &Limits::default()).unwrap_err();
    assert_eq!(variant(&error), "Damaged");
    assert_eq!(left_behind(store.packages()), [""; 0]);
}

#[test]
fn same_bytes_are_one_package() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let packages = store.packages();
    let bytes = zip(&[file("a", b"x"), file("b/c", b"y")]);
    let codes: Vec<_> = std::thread::scope(|scope| {
        let adders: Vec<_> = (0..8).map(|_| scope.spawn(|| packages.add(&bytes, &limits()).unwrap())).collect();
        adders.into_iter().map(|adder| adder.join().unwrap()).collect()
    });
    let code = codes[0].clone();
    assert!(codes.iter().all(|other| *other == code));
    assert_eq!(packages.list().unwrap(), [code.digest]);
    assert_eq!(packages.bytes_total().unwrap(), bytes.len() as u64);
    assert_eq!(left_behind(packages).iter().filter(|line| line.contains("tmp")).count(), 0);
    let mut kept = Vec::new();
    let mut stored = packages.zip(&code.digest).unwrap().unwrap();
    stored.file.read_to_end(&mut kept).unwrap();
    assert_eq!((kept, stored.size_bytes), (bytes.clone(), bytes.len() as u64));

    assert!(packages.remove(&code.digest).unwrap());
    assert!(!packages.remove(&code.digest).unwrap());
    assert!(!packages.contains(&code.digest));
    assert!(packages.zip(&code.digest).unwrap().is_none());
    assert_eq!(left_behind(packages), [""; 0]);
    assert_eq!(packages.add(&bytes, &limits()).unwrap(), code);
    assert!(packages.contains(&code.digest));
}

#[test]
fn a_start_removes_what_is_half_done() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("packages");
    let code = Store::open(dir.path()).unwrap().packages().add(&zip(&[file("a", b"x")]), &limits()).unwrap();
    fs::create_dir_all(folder.join("tmp-0/unpacked/a")).unwrap();
    fs::write(folder.join("tmp-0/package.zip"), "half").unwrap();
    fs::write(folder.join(format!("{}.zip", "ab".repeat(32))), "no folder").unwrap();
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.packages().list().unwrap(), [code.digest]);
    assert_eq!(left_behind(store.packages()).len(), 3, "{:?}", left_behind(store.packages()));
}

/// No link of an unpacked package leads out of it, as the kernel follows it.
fn assert_links_stay_inside(folder: &Path) {
    let root = folder.canonicalize().unwrap();
    let mut left = vec![folder.to_owned()];
    while let Some(at) = left.pop() {
        for entry in fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            let found = fs::symlink_metadata(&path).unwrap();
            if found.is_dir() {
                left.push(path);
            } else if found.is_symlink()
                && let Ok(end) = path.canonicalize()
            {
                assert!(end.starts_with(&root), "{} leads to {}", path.display(), end.display());
            }
        }
    }
}

fn small_entries() -> impl Strategy<Value = Vec<Crafted>> {
    let entry = ("[ab](/[ab]){0,2}", 0..4_u8, "[ab.](/(\\.\\.|[ab.])){0,4}|\\.\\.(/(\\.\\.|[ab])){0,3}");
    let entry = entry.prop_map(|(name, kind, target)| match kind {
        0 => file(name, b"x"),
        1 => folder(name + "/"),
        _ => link(name, target),
    });
    proptest::collection::vec(entry, 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn links_stay_inside_or_are_refused(entries in small_entries()) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        match store.packages().add(&zip(&entries), &limits()) {
            Ok(code) => assert_links_stay_inside(&store.packages().folder(&code.digest)),
            Err(error) => prop_assert!(error.is_refusal() && left_behind(store.packages()).is_empty(), "{:?}", error),
        }
    }

    #[test]
    fn a_damaged_zip_is_taken_whole_or_leaves_nothing(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let entries = [file("a", b"x"), deflated("b/c", b"yyyyyyyyyyyyyyyyyy"), link("b/l", "c"), folder("d/")];
        let mut bytes = zip(&entries);
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Err(error) = store.packages().add(&bytes, &limits()) {
            prop_assert!(error.is_refusal() && left_behind(store.packages()).is_empty(), "{:?}", error);
        }
    }

    #[test]
    fn random_bytes_leave_nothing(head in prop_oneof![Just(&b"PK\x03\x04"[..]), Just(&b"PK\x05\x06"[..]), Just(&b""[..])],
        bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        if let Err(error) = store.packages().add(&[head, &bytes].concat(), &limits()) {
            prop_assert!(error.is_refusal() && left_behind(store.packages()).is_empty(), "{:?}", error);
        }
    }
}
