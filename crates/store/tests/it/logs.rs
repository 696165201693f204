use crate::name;
use model::log::LogLine;
use model::{Limits, Version};
use std::fs;
use std::io::Write;
use std::path::Path;
use store::{Cursor, Store};

fn line(function: &str, number: u64) -> LogLine {
    let text = format!("line {number}\twith\n\\odd\r bytes");
    LogLine { function: name(function), version: Version::Latest, stream: "s".into(), time_ms: number, text }
}

fn lines(function: &str, numbers: std::ops::Range<u64>) -> Vec<LogLine> {
    numbers.map(|number| line(function, number)).collect()
}

/// About 80 bytes per line: three lines fit into a file.
fn limits(log_files: u32) -> Limits {
    Limits { log_file_bytes: 250, log_files, ..Limits::default() }
}

fn numbers(lines: &[LogLine]) -> Vec<u64> {
    lines.iter().map(|line| line.time_ms).collect()
}

fn files(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_is_appended_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let logs = store.logs();
    assert_eq!(logs.read(&name("f"), None, 10).unwrap(), (Vec::new(), Cursor::START));
    let mixed = [line("f", 1), line("g", 2), line("f", 3)];
    logs.append(&mixed, &Limits::default()).unwrap();
    let (read, cursor) = logs.read(&name("f"), None, 10).unwrap();
    assert_eq!(read, [line("f", 1), line("f", 3)]);
    assert_eq!(logs.read(&name("f"), None, 1).unwrap().0, [line("f", 3)]);
    assert_eq!(logs.read(&name("f"), Some(&Cursor::START), 10).unwrap(), (read, cursor));
    assert_eq!(logs.read(&name("f"), Some(&cursor), 10).unwrap(), (Vec::new(), cursor));
    logs.append(&lines("f", 4..9), &Limits::default()).unwrap();
    let (read, cursor) = logs.read(&name("f"), Some(&cursor), 3).unwrap();
    assert_eq!(numbers(&read), [4, 5, 6]);
    let cursor: Cursor = cursor.to_string().parse().unwrap();
    assert_eq!(numbers(&logs.read(&name("f"), Some(&cursor), 3).unwrap().0), [7, 8]);
    logs.remove(&name("f")).unwrap();
    logs.remove(&name("f")).unwrap();
    assert_eq!(logs.read(&name("f"), Some(&cursor), 10).unwrap().0, []);
    logs.append(&lines("f", 9..10), &Limits::default()).unwrap();
    assert_eq!(numbers(&logs.read(&name("f"), Some(&cursor), 10).unwrap().0), [9]);
    assert_eq!(numbers(&logs.read(&name("g"), None, 10).unwrap().0), [2]);
}

#[test]
fn rotation_keeps_so_many_files() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let folder = dir.path().join("logs/f");
    store.logs().append(&lines("f", 0..30), &limits(3)).unwrap();
    // A gap, as a kill during a rotation leaves it, closes by itself; what is not ours stays.
    fs::remove_file(folder.join("2.log")).unwrap();
    fs::create_dir(folder.join("01.log")).unwrap();
    store.logs().append(&lines("f", 0..30), &limits(3)).unwrap();
    fs::remove_dir(folder.join("01.log")).unwrap();
    assert_eq!(files(&folder), ["1.log", "2.log", "3.log", "current.log"]);
    assert!(files(&folder).iter().all(|file| fs::metadata(folder.join(file)).unwrap().len() <= 250));
    let kept = numbers(&store.logs().read(&name("f"), None, 100).unwrap().0);
    assert_eq!(kept.last(), Some(&29));
    assert_eq!(kept, (30 - kept.len() as u64..30).collect::<Vec<_>>());
    assert_eq!(numbers(&store.logs().read(&name("f"), None, 5).unwrap().0), [25, 26, 27, 28, 29]);
    store.logs().append(&lines("f", 30..36), &limits(1)).unwrap();
    assert_eq!(files(&folder), ["1.log", "current.log"]);
    store.logs().append(&lines("f", 36..42), &limits(0)).unwrap();
    assert_eq!(files(&folder), ["current.log"]);
}

#[test]
fn a_cursor_survives_rotation() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let logs = store.logs();
    let (mut seen, mut cursor) = (Vec::new(), Cursor::START);
    for batch in 0..40 {
        logs.append(&lines("f", batch * 2..batch * 2 + 2), &limits(4)).unwrap();
        let (read, next) = logs.read(&name("f"), Some(&cursor), 1 + (batch as usize % 4)).unwrap();
        seen.extend(numbers(&read));
        cursor = next;
    }
    seen.extend(numbers(&logs.read(&name("f"), Some(&cursor), 100).unwrap().0));
    assert_eq!(seen, (0..80).collect::<Vec<_>>());
    // Rotated away: on with the oldest that is kept.
    let old = logs.read(&name("f"), Some(&Cursor::START), 1).unwrap().1;
    logs.append(&lines("f", 80..200), &limits(4)).unwrap();
    let rest = numbers(&logs.read(&name("f"), Some(&old), 1_000).unwrap().0);
    assert_eq!(rest, (200 - rest.len() as u64..200).collect::<Vec<_>>());
    assert!(rest.len() > 8);
}

#[test]
fn torn_and_foreign_lines_are_stepped_over() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("logs/f/current.log");
    let cursor = {
        let store = Store::open(dir.path()).unwrap();
        store.logs().append(&lines("f", 0..2), &Limits::default()).unwrap();
        let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"rubbish\n\n\xff\xfe\n1970-01-01T00:00:00.002Z\t$LATEST\ts\ttorn in the mid").unwrap();
        let (read, cursor) = store.logs().read(&name("f"), Some(&Cursor::START), 10).unwrap();
        assert_eq!(numbers(&read), [0, 1]);
        assert_eq!(store.logs().read(&name("f"), None, 10).unwrap(), (read, cursor));
        cursor
    };
    // The next run ends the torn line, which is then a line like any other.
    let store = Store::open(dir.path()).unwrap();
    store.logs().append(&lines("f", 3..5), &Limits::default()).unwrap();
    let read = store.logs().read(&name("f"), Some(&cursor), 10).unwrap().0;
    assert_eq!(numbers(&read), [2, 3, 4]);
    assert_eq!(read[0].text, "torn in the mid");
}

#[test]
fn a_line_without_end_does_not_stop_a_reader() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let path = dir.path().join("logs/f/current.log");
    fs::create_dir(path.parent().unwrap()).unwrap();
    fs::write(&path, vec![b'x'; 9_000_000]).unwrap();
    store.logs().append(&lines("f", 0..2), &Limits::default()).unwrap();
    let (mut seen, mut cursor) = (Vec::new(), Cursor::START);
    for _ in 0..5 {
        let (read, next) = store.logs().read(&name("f"), Some(&cursor), 10).unwrap();
        seen.extend(numbers(&read));
        cursor = next;
    }
    assert_eq!(seen, [0, 1]);
    assert_eq!(numbers(&store.logs().read(&name("f"), None, 10).unwrap().0), [0, 1]);
}

#[test]
fn many_functions_share_few_open_files() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let open_files = || fs::read_dir("/proc/self/fd").unwrap().count();
    for round in 0..3 {
        let batch: Vec<LogLine> = (0..300).map(|function| line(&format!("f{function}"), round)).collect();
        store.logs().append(&batch, &Limits::default()).unwrap();
    }
    // Other tests of this process have files open too, but not that many.
    assert!(open_files() < 250, "{}", open_files());
    for function in [0, 150, 299] {
        assert_eq!(numbers(&store.logs().read(&name(&format!("f{function}")), None, 10).unwrap().0), [0, 1, 2]);
    }
}

#[test]
fn a_failure_says_how_many_lines_were_lost() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    fs::write(dir.path().join("logs/f"), "in the way").unwrap();
    let batch = [lines("f", 0..3), lines("g", 0..2)].concat();
    let error = store.logs().append(&batch, &Limits::default()).unwrap_err();
    assert!(matches!(error, store::Error::AppendLog { lines: 3, .. }), "{error}");
    assert_eq!(numbers(&store.logs().read(&name("g"), None, 10).unwrap().0), [0, 1]);
}

#[test]
fn cursors_are_texts() {
    for bad in ["", "1", "1-2", "1-2-3-4", "x-1-1", "1--1", "11111111111111111-0-0"] {
        assert!(bad.parse::<Cursor>().is_err(), "{bad}");
    }
    for odd in ["0-0-0", "ffffffffffffffff-ffffffffffffffff-ffffffffffffffff"] {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.logs().append(&lines("f", 0..2), &Limits::default()).unwrap();
        let cursor: Cursor = odd.parse().unwrap();
        assert_eq!(numbers(&store.logs().read(&name("f"), Some(&cursor), 10).unwrap().0), [0, 1]);
        let own = store.logs().read(&name("f"), None, 1).unwrap().1.to_string();
        let beyond = format!("{}-ffffffffffffffff", own.rsplit_once('-').unwrap().0);
        assert!(store.logs().read(&name("f"), Some(&beyond.parse().unwrap()), 10).unwrap().0.is_empty());
    }
}
