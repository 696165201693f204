//! `cargo xtask demo`: from a checkout to an answered invocation, each step in a plain line.

use crate::needs::{self, IP, MKE2FS, NFT};
use crate::serving::Serving;
use crate::steps::{Failure, capture, run, say};
use crate::suites::release_binary;
use crate::workspace::root;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const FUNCTION: &str = "hello";
const PAYLOAD: &str = r#"{"name": "Ada"}"#;

/// Shows the whole way; fails if any step does, and stops the server either way.
pub fn demo() -> Result<(), Failure> {
    needs::install(&[NFT, IP, MKE2FS]);
    say("building tidegate (release)");
    let binary = release_binary()?;
    let (example, runtime) = example()?;
    say("starting `tidegate serve` with a temporary data folder");
    let serving = Serving::start(&binary)?;
    println!("    ready at {}", serving.endpoint());
    if let Err(failure) = show(&serving, &binary, &example, &runtime) {
        eprintln!("--- the server wrote:\n{}", serving.log());
        return Err(failure);
    }
    say("stopping the server with SIGTERM");
    serving.stop()?;
    println!("    it ended with 0; the temporary folder is removed");
    say("done");
    Ok(())
}

/// The example for an interpreter that this machine has, and the runtime that fits its version.
fn example() -> Result<(PathBuf, String), Failure> {
    let examples = root().join("examples/functions");
    let asked = |program: &str| capture(Command::new(program).arg("--version")).ok();
    // "Python 3.11.7"
    if let Some(runtime) = asked("python3").as_deref().and_then(python_runtime) {
        return Ok((examples.join("hello-python"), runtime));
    }
    // "v20.20.2"
    if let Some(runtime) = asked("node").as_deref().and_then(node_runtime) {
        return Ok((examples.join("hello-nodejs"), runtime));
    }
    Err(Failure("neither python3 nor node is on this machine; to change that: apt-get install python3".to_owned()))
}

fn python_runtime(version: &str) -> Option<String> {
    let mut parts = version.trim().strip_prefix("Python ")?.split('.');
    let (major, minor) = (parts.next()?, parts.next()?);
    Some(format!("python{major}.{minor}"))
}

fn node_runtime(version: &str) -> Option<String> {
    let (major, _) = version.trim().strip_prefix('v')?.split_once('.')?;
    Some(format!("nodejs{major}.x"))
}

fn show(serving: &Serving, binary: &Path, example: &Path, runtime: &str) -> Result<(), Failure> {
    let environment = serving.environment()?;
    let tidegate = |arguments: &[&str]| {
        let mut command = Command::new(binary);
        command.args(arguments).envs(environment.iter().map(|(k, v)| (k, v)));
        command
    };
    say(format_args!("deploying {} with `tidegate deploy`", example.display()));
    run(tidegate(&["deploy", "--name", FUNCTION, "--runtime", runtime]).arg(example))?;
    say("invoking it with `tidegate invoke --tail`: the first time is a cold start");
    invoke(tidegate(&["invoke", FUNCTION, "--tail", "--payload", PAYLOAD]))?;
    say("once more: the instance is warm now");
    invoke(tidegate(&["invoke", FUNCTION, "--tail", "--payload", PAYLOAD]))?;
    aws(serving, &environment)?;
    say("its log, from `tidegate logs`");
    run(&mut tidegate(&["logs", FUNCTION]))?;
    say("deleting it");
    run(&mut tidegate(&["delete", FUNCTION, "--yes"]))
}

fn invoke(mut command: Command) -> Result<(), Failure> {
    run(&mut command)?;
    // The answer is raw JSON without a line end.
    println!();
    Ok(())
}

/// The same by the AWS CLI, where a working one is there.
fn aws(serving: &Serving, environment: &[(String, String)]) -> Result<(), Failure> {
    let mut version = Command::new("aws");
    version.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if !version.status().is_ok_and(|status| status.success()) {
        println!("    (no AWS CLI on this machine; with one, `aws lambda invoke` shows the same)");
        return Ok(());
    }
    say("the same with the unmodified AWS CLI: `aws lambda invoke`");
    // A file: versions 1 and 2 of the CLI differ in how they read a payload on the command line.
    let payload = serving.write("payload.json", PAYLOAD)?;
    // Another file for the answer: the CLI would empty a log file behind /dev/stdout.
    let answer = serving.write("answer.json", "")?;
    let mut command = Command::new("aws");
    command.args(["lambda", "invoke", "--function-name", FUNCTION]).arg(&answer);
    command.arg("--payload").arg(format!("fileb://{}", payload.display()));
    run(command.envs(environment.iter().map(|(k, v)| (k, v))))?;
    let answer = fs::read_to_string(&answer).map_err(|e| Failure(format!("cannot read the answer: {e}")))?;
    println!("{answer}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runtimes_from_versions() {
        assert_eq!(python_runtime("Python 3.11.7\n").as_deref(), Some("python3.11"));
        assert_eq!(node_runtime("v20.20.2\n").as_deref(), Some("nodejs20.x"));
        for odd in ["", "v", "Python", "Python x", "3.11"] {
            assert_eq!((python_runtime(odd), node_runtime(odd)), (None, None), "{odd}");
        }
    }
}
