//! The sandbox against the real kernel, as root and as an ordinary user.
//!
//! Each scenario runs in a process of its own, because the launcher changes the namespaces of its process: the scenario
//! itself is the daemon's part. Run with `cargo test -p sandbox --test kernel [-- FILTER]`.
#![forbid(unsafe_code)]

mod client;
mod command;
mod internet;
mod scenarios;
/// The platform's own shims, as the server carries them.
#[path = "../../../server/src/shims.rs"]
mod shims;

use client::Client;
use sandbox::Config;
use std::path::Path;
use std::process::ExitCode;

/// The exit code of a scenario that this machine cannot run.
const SKIPPED: u8 = 77;

/// Who runs the launcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum As {
    Root,
    User,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|argument| argument == "--doctor") {
        return command::doctor();
    }
    if let [flag, name, dir] = arguments.as_slice()
        && flag == "--scenario"
    {
        return run_here(name, Path::new(dir));
    }
    let filters: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        for name in all_names() {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    let mut failed = Vec::new();
    for name in all_names() {
        if !filters.is_empty() && !filters.iter().any(|filter| name.contains(filter.as_str())) {
            continue;
        }
        if !run_in_process(&name) {
            failed.push(name);
        }
    }
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("failed: {failed:?}");
    ExitCode::FAILURE
}

fn all_names() -> Vec<String> {
    let name = |user: &str, scenario: &scenarios::Scenario| format!("{user}::{}", scenario.name);
    let root = scenarios::ALL.iter().map(|scenario| name("root", scenario));
    let user = scenarios::ALL.iter().filter(|s| s.user).map(|scenario| name("user", scenario));
    let unified = command::UNIFIED.iter().map(|name| format!("unified::{name}"));
    root.chain(user).chain(unified).chain(["root::doctor".into(), "user::doctor".into()]).collect()
}

/// Runs one scenario in a new process. `true`: it passed or was skipped.
fn run_in_process(name: &str) -> bool {
    let dir = tempfile::tempdir().expect("a data folder");
    let mut command = match command::prepare(name, dir.path()) {
        Ok(command) => command,
        Err(reason) => {
            println!("skip {name}: {reason}");
            return true;
        }
    };
    let internet = name.ends_with("::network").then(internet::Internet::create);
    match &internet {
        None => {}
        Some(Ok(internet)) => {
            command.env("HOST_PORT", internet.host_port().to_string());
        }
        Some(Err(error)) => {
            println!("skip {name}: no outside world: {error}");
            return true;
        }
    }
    let started = std::time::Instant::now();
    let (passed, note) = command::run(name, command, dir.path());
    let left = client::leftovers(dir.path());
    let passed = passed && left.is_empty();
    let verdict = if passed { "ok  " } else { "FAIL" };
    println!("{verdict} {name}: {note}, {} ms", started.elapsed().as_millis());
    if !left.is_empty() {
        println!("     left behind: {left:?}");
    }
    passed
}

fn run_here(name: &str, dir: &Path) -> ExitCode {
    let (user, short) = name.split_once("::").expect("a full name");
    let user = if user == "user" { As::User } else { As::Root };
    let scenario = scenarios::ALL.iter().find(|scenario| scenario.name == short).expect("a known scenario");
    let mut config = Config::new(dir);
    config.instances_max = 64;
    config.shims = client::SHIMS;
    config.home = std::env::var_os("HOME").map(Into::into);
    if let Some(before) = scenario.before {
        before(&mut config);
    }
    let prepared = match sandbox::prepare(config) {
        Ok(prepared) => prepared,
        Err(error) => {
            println!("prepare: {error}: {:?}", std::error::Error::source(&error).map(ToString::to_string));
            return ExitCode::FAILURE;
        }
    };
    let run = scenario.run;
    let launcher = prepared.spawn_daemon(move |socket, dir| {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            run(&mut Client::connect(socket, dir, user));
        }));
        match outcome {
            Ok(()) => 0,
            Err(reason) if reason.is::<client::Skip>() => i32::from(SKIPPED),
            Err(_) => 1,
        }
    });
    match launcher {
        Ok(launcher) => launcher.run(),
        Err(error) => {
            println!("spawn: {error}");
            ExitCode::FAILURE
        }
    }
}
