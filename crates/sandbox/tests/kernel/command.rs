//! The process of one scenario: who runs it, what it sees, and how it has to end.

use crate::SKIPPED;
use sandbox::Config;
use std::path::Path;
use std::process::{Command, ExitCode};

/// An ordinary user.
const NOBODY: u32 = 65_534;

/// The scenarios that also run where only the unified hierarchy of control groups is seen (here without controllers).
pub const UNIFIED: [&str; 7] = [
    "exit_codes_and_signals",
    "freeze",
    "orphans_end",
    "fork_bomb_ends",
    "many_at_once",
    "daemon_dies",
    "launcher_dies",
];
/// Hides every other hierarchy from the command that follows.
const HIDE_V1: &str =
    "for d in /sys/fs/cgroup/*/; do [ $d = /sys/fs/cgroup/unified/ ] || umount $d 2>/dev/null; done; exec \"$@\"";

/// The command that runs a scenario as the user, and with the control groups, that its name says; or why it cannot.
pub fn prepare(name: &str, dir: &Path) -> Result<Command, &'static str> {
    let exe = std::env::current_exe().expect("the test's own path");
    let is_root = rustix::process::geteuid().is_root();
    let mut command = if name.starts_with("user::") && is_root {
        std::os::unix::fs::chown(dir, Some(NOBODY), Some(NOBODY)).expect("give the data folder away");
        let id = NOBODY.to_string();
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &id, "--regid", &id, "--clear-groups"]).arg(exe);
        command
    } else if name.starts_with("user::") {
        Command::new(exe)
    } else if !is_root {
        return Err("needs root");
    } else if name.starts_with("unified::") {
        if !Path::new("/sys/fs/cgroup/unified").is_dir() {
            return Err("needs a hybrid of cgroup hierarchies");
        }
        let mut command = Command::new("unshare");
        command.args(["-m", "--propagation", "private", "sh", "-c", HIDE_V1, "sh"]).arg(exe);
        command
    } else {
        Command::new(exe)
    };
    if name.ends_with("::doctor") {
        command.arg("--doctor");
    } else {
        command.args(["--scenario", name]).arg(dir);
    }
    Ok(command)
}

/// Runs a scenario's command. Whether it passed, and what is to be said of it.
pub fn run(name: &str, mut command: Command, dir: &Path) -> (bool, String) {
    if name.ends_with("::launcher_dies") {
        return kill_launcher(command, dir);
    }
    if name.ends_with("::launcher_is_terminated") {
        return terminate_launcher(command, dir);
    }
    let status = command.status().expect("run the scenario");
    let want = i32::from(name.ends_with("::daemon_dies") || name.ends_with("::broken_daemon"));
    let skipped = status.code() == Some(SKIPPED.into());
    (skipped || status.code() == Some(want), if skipped { "skipped".to_owned() } else { status.to_string() })
}

/// SIGTERM goes on to the daemon, which here does nothing about it and dies; the launcher follows, and nothing is left.
fn terminate_launcher(mut command: Command, dir: &Path) -> (bool, String) {
    let mut launcher = command.spawn().expect("run the scenario");
    let guest = wait_for(|| std::fs::read_to_string(dir.join("guest")).ok());
    let pid = i32::try_from(launcher.id()).ok().and_then(rustix::process::Pid::from_raw).expect("a process id");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signal the launcher");
    let status = launcher.wait().expect("wait for the launcher");
    let lives = guest.is_some_and(|guest| Path::new("/proc").join(guest).exists());
    (status.code() == Some(1) && !lives, status.to_string())
}

/// Kills the launcher of a running guest: the guest dies, and the next launcher for the same folder cleans up.
fn kill_launcher(mut command: Command, dir: &Path) -> (bool, String) {
    let mut launcher = command.spawn().expect("run the scenario");
    let guest = wait_for(|| std::fs::read_to_string(dir.join("guest")).ok());
    launcher.kill().expect("kill the launcher");
    launcher.wait().expect("wait for the launcher");
    let Some(guest) = guest else { return (false, "the guest does not start".into()) };
    let proc = Path::new("/proc").join(guest);
    if wait_for(|| (!proc.exists()).then_some(())).is_none() {
        return (false, "the guest lives on".into());
    }
    // The daemon holds the folder's lock until it is gone, too.
    let arguments = command.get_args().map(|argument| argument.to_string_lossy().replace("launcher_dies", "mode"));
    let mut next = Command::new(command.get_program());
    next.args(arguments);
    let passed = wait_for(|| next.status().is_ok_and(|status| status.success()).then_some(()));
    (passed.is_some(), "cleaned by the next".into())
}

/// Asks again and again, for twenty seconds at most.
fn wait_for<T>(mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while std::time::Instant::now() < end {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    None
}

/// Prints the examination, for people who look at it.
pub fn doctor() -> ExitCode {
    match sandbox::doctor(&Config::new(&std::env::temp_dir().join("tidegate"))) {
        Ok(abilities) => {
            for a in &abilities {
                println!("     {:<14} {:<8} {} [{}]", a.name, format!("{:?}", a.grade), a.detail, a.remedy);
            }
            let works = abilities.iter().any(|a| a.name == "sandbox" && a.grade == api::launcher::Grade::Full);
            if works { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}
