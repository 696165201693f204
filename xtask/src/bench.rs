//! `cargo xtask bench`: builds what ships and the bench beside it, installs the comparators, then measures.

use crate::needs::{self, MKE2FS, NFT, NGINX, NPM, PYTHON, RUNC};
use crate::steps::{Failure, capture, cargo, run, say};
use crate::suites::{release_binary, target_folder};
use crate::workspace::root;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;

/// From npm: the last serverless-offline for the last Serverless Framework that needs no account.
const NPM_PACKAGES: &[&str] =
    &["serverless@3.40.0", "serverless-offline@13.9.0", "@google-cloud/functions-framework@5.0.5"];
/// From PyPI.
const PYTHON_PACKAGES: &str = "functions-framework==3.10.2\n";
/// The program that measures decisions with the real deciding code.
const DECISIONS: &str = "decisions";
/// The row that the packages are for.
const ROW_OF_PACKAGES: &str = "7";

/// Runs the bench program with these arguments.
pub fn bench(arguments: &[String]) -> Result<(), Failure> {
    let passed_on = match arguments.split_first() {
        Some((first, rest)) if first == "--" => rest,
        _ => arguments,
    };
    let target = target_folder(&root());
    let output = target.join("bench");
    needs::install(&[RUNC, NGINX, NFT, MKE2FS, PYTHON, NPM]);
    if wants(passed_on, ROW_OF_PACKAGES) {
        // Without them the bench says so in the rows that they are for.
        for failure in install_packages(&output) {
            eprintln!("note: {failure}");
        }
    }
    say("building tidegate, the bench and its native function (release)");
    let tidegate = release_binary()?;
    run(cargo().args(["build", "--release", "--package", "bench"]))?;
    // Linked statically, as a custom runtime's bootstrap usually is: it must run under any root file system.
    let native = ["rustc", "--release", "--package", "bench", "--bin", "native_bootstrap"];
    run(cargo().args(native).args(["--", "-C", "target-feature=+crt-static"]))?;
    match package_of_program(DECISIONS)? {
        Some(package) => run(cargo().args(["build", "--release", "--package", &package, "--bin", DECISIONS]))?,
        None => eprintln!("note: no crate has a program {DECISIONS}; row 10 will say so"),
    }
    let release = target.join("release");
    let mut command = Command::new(release.join("bench"));
    command.arg("--tidegate").arg(tidegate).arg("--programs").arg(&release);
    command.arg("--sources").arg(root().join("bench")).arg("--output").arg(&output);
    run(command.args(passed_on))
}

/// The crate that has a program of this name.
fn package_of_program(name: &str) -> Result<Option<String>, Failure> {
    let metadata = capture(cargo().args(["metadata", "--format-version", "1", "--no-deps"]))?;
    let metadata: Value = serde_json::from_str(&metadata).map_err(|e| Failure(format!("cargo metadata: {e}")))?;
    let is_it = |target: &Value| target["name"] == name && target["kind"][0] == "bin";
    let has_it = |package: &&Value| package["targets"].as_array().is_some_and(|targets| targets.iter().any(is_it));
    let package = metadata["packages"].as_array().into_iter().flatten().find(has_it);
    Ok(package.and_then(|package| package["name"].as_str()).map(str::to_owned))
}

/// Does the command line ask for this row? All rows, if it names none.
fn wants(arguments: &[String], row: &str) -> bool {
    let named = arguments.iter().zip(arguments.iter().skip(1)).filter(|(flag, _)| *flag == "--only");
    let mut rows = named.flat_map(|(_, rows)| rows.split(',')).peekable();
    rows.peek().is_none() || rows.any(|wanted| wanted == row)
}

/// Returns what went wrong.
fn install_packages(output: &Path) -> Vec<Failure> {
    let python = || {
        let requirements = output.join("requirements.txt");
        let written = fs::create_dir_all(output).and_then(|()| fs::write(&requirements, PYTHON_PACKAGES));
        written.map_err(|e| Failure(format!("cannot write {}: {e}", requirements.display())))?;
        needs::python_environment(&output.join("python"), &requirements).map(drop)
    };
    let npm = needs::npm_packages(&output.join("npm"), NPM_PACKAGES);
    [npm, python()].into_iter().filter_map(Result::err).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_of_crates() {
        assert_eq!(package_of_program("parked_hyper").expect("metadata"), Some("bench".to_owned()));
        assert_eq!(package_of_program("no-such-program").expect("metadata"), None);
    }

    #[test]
    fn rows_that_are_asked_for() {
        let check = |line: &str, expected| {
            let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            assert_eq!(wants(&arguments, "7"), expected, "{line}");
        };
        check("", true);
        check("--quick", true);
        check("--only 7", true);
        check("--quick --only 1,7 --rounds 3", true);
        check("--only 1 --only 7", true);
        check("--only 1", false);
        check("--rounds 7 --only 10", false);
    }
}
