//! A disk without room: a small tmpfs in a mount namespace of its own, where a child process runs.

use crate::crafted_zip::{file, zip};
use crate::{function, name};
use model::log::LogLine;
use model::{Digest, Limits, Version};
use std::fs;
use std::path::Path;
use std::process::Command;
use store::{Error, Expect, PackageError, Store};

const FOLDER: &str = "STORE_FULL_DISK_FOLDER";
/// Mounts the tmpfs and becomes the test below.
const SCRIPT: &str =
    r#"mount -t tmpfs -o size=2m tmpfs "$STORE_FULL_DISK_FOLDER" && exec "$0" full_disk::child --exact --nocapture"#;

#[test]
fn a_full_disk_is_an_error_and_nothing_more() {
    let dir = tempfile::tempdir().unwrap();
    let mut probe = Command::new("unshare");
    let allowed = probe.args(["--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "tmpfs"]);
    if !allowed.arg(dir.path()).output().is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: this machine has no user namespaces with mounts");
        return;
    }
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", SCRIPT]);
    command.arg(std::env::current_exe().unwrap()).env(FOLDER, dir.path());
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("the disk was full"), "{text}");
}

/// Not a test by itself: the child of the one above, and nothing at all without it.
#[test]
fn child() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let folder = Path::new(&folder);
    let store = Store::open(folder).unwrap();
    store.registry().put_function(&function("f", Digest([1; 32])), Expect::Any).unwrap();

    let big = zip(&(0..40).map(|n| file(format!("f{n}"), &[7; 50_000])).collect::<Vec<_>>());
    let error = store.packages().add(&big, &Limits::default()).unwrap_err();
    assert!(matches!(error, PackageError::DiskFull { .. }) && !error.is_refusal(), "{error:?}");
    assert_eq!(fs::read_dir(folder.join("packages")).unwrap().count(), 0);

    let line = |number| {
        let text = "x".repeat(1_000);
        LogLine { function: name("f"), version: Version::Latest, stream: "s".into(), time_ms: number, text }
    };
    store.logs().append(&[line(0)], &Limits::default()).unwrap();
    let filler = folder.join("filler");
    fs::write(&filler, vec![0; 4_000_000]).unwrap_err();
    let batch: Vec<LogLine> = (1..=100).map(line).collect();
    let error = store.logs().append(&batch, &Limits::default()).unwrap_err();
    assert!(matches!(error, Error::AppendLog { lines: 100, .. }), "{error}");
    let mut failures = 0;
    for number in 0..200 {
        let function = function(&format!("g{number}"), Digest([2; 32]));
        failures += u32::from(store.registry().put_function(&function, Expect::Absent).is_err());
    }
    assert!(failures > 0);

    fs::remove_file(&filler).unwrap();
    store.logs().append(&[line(101)], &Limits::default()).unwrap();
    let read = store.logs().read(&name("f"), None, 10).unwrap().0;
    assert_eq!(read.iter().map(|line| line.time_ms).collect::<Vec<_>>(), [0, 101]);
    store.registry().put_function(&function("h", Digest([3; 32])), Expect::Absent).unwrap();
    assert!(store.registry().function(&name("f")).unwrap().is_some());
    println!("the disk was full");
}
