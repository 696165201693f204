//! The comparators give the same answers as the functions that they stand beside.

use bench::load::{self, Target};
use bench::nginx::Nginx;
use bench::options::Options;
use bench::plain::Plain;
use bench::plan::{self, EVENT, GREETING, Subject};
use bench::runc::Bundle;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

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

#[test]
fn loads_of_all_kinds_get_their_answers() {
    let (options, _) = subjects("load");
    let server = Plain::start(&plan::native(&options).expect("a subject")).expect("a server");
    let target = Target::post(server.address(), "/", EVENT, GREETING);
    let closed = load::closed(&target, 4, Duration::from_millis(50)).expect("a closed loop");
    assert!(closed.latencies.len() >= 4);
    let open = load::open(&target, 100, Duration::from_millis(200), 3).expect("an open loop");
    assert_eq!(open.latencies.len(), 20);
    let (_, bodies) = load::at_once(&target, 50).expect("a burst");
    assert_eq!(bodies.len(), 50);
    let wrong = Target { expected: "something else", ..target };
    assert!(load::at_once(&wrong, 1).is_err(), "wrong answers are failures");
    assert!(load::parked(&wrong, 1, a_moment).is_err(), "it was answered");
}

#[test]
fn bare_hyper_parks_and_nginx_passes_on() {
    let (options, _) = subjects("hyper");
    let program = options.programs.join("parked_hyper").to_string_lossy().into_owned();
    let native = plan::native(&options).expect("a subject");
    let parking = Plain::start(&Subject { server: vec![program], ..native.clone() }).expect("a server");
    let target = Target::post(parking.address(), "/", EVENT, "");
    load::parked(&target, 100, a_moment).expect("nobody is answered");
    if !Command::new("nginx").arg("-v").output().is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: nginx is not on this machine");
        return;
    }
    let server = Plain::start(&native).expect("a server");
    let nginx = Nginx::start(&options.output, server.address()).expect("nginx");
    let target = Target::post(nginx.address(), "/", EVENT, GREETING);
    load::closed(&target, 2, Duration::from_millis(50)).expect("answers through nginx");
}

/// Long enough for an answer that should not come.
fn a_moment() -> Result<(), bench::Failure> {
    std::thread::sleep(Duration::from_millis(50));
    Ok(())
}
