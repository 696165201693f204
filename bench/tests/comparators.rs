//! The comparators give the same answers as the functions that they stand beside.

use bench::options::Options;
use bench::plain::Plain;
use bench::plan::Subject;
use bench::runc::Bundle;
use std::path::{Path, PathBuf};

/// The subjects of this machine, with the programs as cargo has built them for this test.
fn subjects(name: &str) -> (Options, Vec<Subject>) {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR"));
    let programs = Path::new(env!("CARGO_BIN_EXE_native_bootstrap")).parent().expect("a folder");
    let output = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let paths =
        [("--tidegate", Path::new("none")), ("--programs", programs), ("--sources", sources), ("--output", &output)];
    let words = paths.iter().flat_map(|(flag, path)| [(*flag).to_owned(), path.to_string_lossy().into_owned()]);
    let options = Options::parse(words).expect("options");
    let subjects = Subject::present(&options).expect("subjects");
    (options, subjects)
}

#[test]
fn plain_servers_answer() {
    let (_, subjects) = subjects("plain");
    for subject in &subjects {
        let server = Plain::start(subject).expect(subject.name);
        let mut asker = server.connect().expect(subject.name);
        for _ in 0..3 {
            asker.ask().expect(subject.name);
        }
    }
}

#[test]
fn runc_runs_the_same_handlers() {
    if !Bundle::possible() {
        eprintln!("skipped: runc is not on this machine, or we are not root");
        return;
    }
    let (options, subjects) = subjects("runc");
    for subject in &subjects {
        let bundle = Bundle::make(&options.output, &options.sources, subject).expect(subject.name);
        let run = bundle.run().expect(subject.name);
        println!("{}: answered after {:?}, ended after {:?}", subject.name, run.answered, run.ended);
        assert!(run.answered <= run.ended);
    }
}
