//! Starting other programs: one line per step, a bound on time, an error that names the command.

use crate::workspace;
use std::fmt;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

/// No single step may take longer; it is killed then.
pub const STEP_LIMIT: Duration = Duration::from_secs(60 * 60);
/// Lines that a command may be ahead of us before it has to wait.
const LINES_AHEAD: usize = 1_024;
const POLL: Duration = Duration::from_millis(20);

/// Why a task failed, in words for the developer.
#[derive(Debug)]
pub struct Failure(pub String);

impl Failure {
    /// For a task whose output has said everything: its last line stays the last.
    pub fn already_said() -> Self {
        Failure(String::new())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Says what happens next.
pub fn say(text: impl fmt::Display) {
    println!("==> {text}");
}

/// The cargo that started us, in the root folder.
pub fn cargo() -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.current_dir(workspace::root());
    command
}

/// Runs a command that writes to our own output; fails unless it exits with 0.
pub fn run(command: &mut Command) -> Result<(), Failure> {
    command.stdin(Stdio::null());
    let mut child = spawn(command)?;
    let status = wait(&mut child, STEP_LIMIT)?;
    check(command, status)
}

/// Runs a command and hands each line of its output to `line` while it appears. The command's errors go to ours.
pub fn follow(command: &mut Command, mut line: impl FnMut(&str)) -> Result<(), Failure> {
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let deadline = Instant::now() + STEP_LIMIT;
    let mut child = spawn(command)?;
    let lines = lines(child.stdout.take());
    // Ends when the other side has hung up, or when the time is up: then the wait below kills the command.
    while let Ok(text) = lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        line(&text);
    }
    let status = wait(&mut child, deadline.saturating_duration_since(Instant::now()))?;
    check(command, status)
}

/// Reads lines on a thread of its own, so that a command that hangs silently cannot hold us up.
fn lines(output: Option<ChildStdout>) -> Receiver<String> {
    let (sender, receiver) = sync_channel(LINES_AHEAD);
    std::thread::spawn(move || {
        // A line that is not UTF-8 is still shown: the rest of the output must not be lost with it.
        let split = output.into_iter().flat_map(|output| BufReader::new(output).split(b'\n').map_while(Result::ok));
        for bytes in split {
            if sender.send(String::from_utf8_lossy(&bytes).into_owned()).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Runs a command and returns what it wrote; fails unless it exits with 0.
pub fn capture(command: &mut Command) -> Result<String, Failure> {
    let output = command.stdin(Stdio::null()).output().map_err(|e| cannot_start(command, &e))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        return Err(Failure(format!("{}: {}\n{}", shown(command), output.status, errors.trim_end())));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Waits for a child, at most `limit`; then kills it.
pub fn wait(child: &mut Child, limit: Duration) -> Result<ExitStatus, Failure> {
    let deadline = Instant::now() + limit;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status),
            Ok(None) if Instant::now() < deadline => std::thread::sleep(POLL),
            Ok(None) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(Failure(format!(
                    "process {} took longer than {} s and was killed",
                    child.id(),
                    limit.as_secs()
                )));
            }
            Err(e) => return Err(Failure(format!("cannot wait for process {}: {e}", child.id()))),
        }
    }
}

fn spawn(command: &mut Command) -> Result<Child, Failure> {
    command.spawn().map_err(|e| cannot_start(command, &e))
}

fn check(command: &Command, status: ExitStatus) -> Result<(), Failure> {
    if status.success() { Ok(()) } else { Err(Failure(format!("{}: {status}", shown(command)))) }
}

fn cannot_start(command: &Command, error: &std::io::Error) -> Failure {
    Failure(format!("cannot start {}: {error}", shown(command)))
}

/// The command as one would type it.
fn shown(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn follows_lines_and_status() {
        let mut lines = Vec::new();
        let ended = follow(&mut shell("echo a; printf 'b\\377\\nc'; exit 3"), |line| lines.push(line.to_owned()));
        assert_eq!(lines, ["a", "b\u{fffd}", "c"]);
        assert!(ended.is_err_and(|failure| failure.0.contains("exit status: 3")));
    }

    #[test]
    fn captures_or_says_why_not() {
        assert_eq!(capture(&mut shell("echo out; echo err >&2")).expect("the output"), "out\n");
        let failure = capture(&mut shell("echo why >&2; exit 1")).expect_err("a failure");
        assert!(failure.0.contains("why"), "{failure}");
        assert!(run(&mut Command::new("/nonexistent/program")).is_err());
    }

    #[test]
    fn what_takes_too_long_is_killed() {
        let mut child = shell("exec sleep 60").spawn().expect("a shell");
        assert!(wait(&mut child, Duration::from_millis(50)).is_err());
        assert!(child.try_wait().is_ok_and(|status| status.is_some()));
    }
}
