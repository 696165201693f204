//! `cargo xtask test`: the crates' own tests, then the suites that drive a real server by real clients.

use crate::needs::{self, CURL, IP, MKE2FS, NFT, PYTHON};
use crate::steps::{Failure, cargo, follow, run};
use crate::tally::{Summary, Tally};
use crate::workspace::root;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What to run.
#[derive(Debug, PartialEq, Eq)]
pub struct Selection {
    unit: bool,
    e2e: bool,
    /// Passed on to pytest; `-k EXPRESSION` for example.
    pytest: Vec<String>,
}

impl Selection {
    /// Everything.
    pub fn all() -> Self {
        Selection { unit: true, e2e: true, pytest: Vec::new() }
    }

    /// From the command line; neither `--unit` nor `--e2e` means both, and arguments for pytest mean `--e2e`.
    pub fn parse(arguments: &[String]) -> Result<Self, Failure> {
        let split = arguments.iter().position(|a| a == "--").unwrap_or(arguments.len());
        let pytest: Vec<String> = arguments.iter().skip(split + 1).cloned().collect();
        let mut selection = Selection { unit: false, e2e: !pytest.is_empty(), pytest };
        for argument in &arguments[..split] {
            match argument.as_str() {
                "--unit" => selection.unit = true,
                "--e2e" => selection.e2e = true,
                other => return Err(Failure(format!("unknown option {other}; arguments for pytest come after --"))),
            }
        }
        if !selection.unit && !selection.e2e {
            (selection.unit, selection.e2e) = (true, true);
        }
        Ok(selection)
    }
}

/// Runs the selection and prints a summary.
pub fn test(selection: &Selection) -> Result<(), Failure> {
    let mut summary = Summary::default();
    add_steps(selection, &mut summary);
    summary.finish()
}

/// The steps of the selection, each into the summary.
pub fn add_steps(selection: &Selection, summary: &mut Summary) {
    // Unit tests of the sandbox need the same programs as the suites.
    needs::install(&[NFT, IP, MKE2FS, CURL, PYTHON]);
    if selection.unit {
        summary.step("unit tests", |tally| counted(cargo().args(["test", "--workspace", "--no-fail-fast"]), tally));
    }
    if selection.e2e {
        summary.step("suites by real clients", |tally| end_to_end(&selection.pytest, tally));
    }
}

fn end_to_end(pytest: &[String], tally: &mut Tally) -> Result<(), Failure> {
    let binary = release_binary()?;
    let root = root();
    let python = needs::python_environment(&root.join("target/venv"), &root.join("tests/requirements.txt"))?;
    let mut command = Command::new(python);
    command.args(["-m", "pytest", "tests"]).args(pytest).current_dir(&root).env("TIDEGATE_BIN", binary);
    counted(&mut command, tally)
}

/// `cargo xtask soak`: the arguments go to the program that drives the load.
pub fn soak(arguments: &[String]) -> Result<(), Failure> {
    needs::install(&[NFT, IP, MKE2FS, PYTHON]);
    let binary = release_binary()?;
    run(cargo().args(["build", "--release", "--package", "bench", "--bin", "native_bootstrap"]))?;
    let root = root();
    let python = needs::python_environment(&root.join("target/venv"), &root.join("tests/requirements.txt"))?;
    let output = target_folder(&root).join("bench/soak.json");
    let mut command = Command::new(python);
    command.args(["-m", "support.soak", "--output"]).arg(output).args(arguments);
    run(command.current_dir(root.join("tests")).env("TIDEGATE_BIN", binary))
}

/// Builds `tidegate` as it ships and returns its path.
pub fn release_binary() -> Result<PathBuf, Failure> {
    run(cargo().args(["build", "--release", "--package", "tidegate"]))?;
    Ok(target_folder(&root()).join("release/tidegate"))
}

/// Where cargo builds to.
pub fn target_folder(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |folder| root.join(folder))
}

fn counted(command: &mut Command, tally: &mut Tally) -> Result<(), Failure> {
    follow(command, |line| {
        println!("{line}");
        tally.read(line);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, expected: Option<(bool, bool, &[&str])>) {
        let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let parsed = Selection::parse(&arguments).ok();
        let expected = expected.map(|(unit, e2e, pytest)| Selection {
            unit,
            e2e,
            pytest: pytest.iter().map(|&a| a.to_owned()).collect(),
        });
        assert_eq!(parsed, expected, "{line}");
    }

    #[test]
    fn selections() {
        check("", Some((true, true, &[])));
        check("--unit", Some((true, false, &[])));
        check("--e2e", Some((false, true, &[])));
        check("--unit --e2e", Some((true, true, &[])));
        check("-- -k auth", Some((false, true, &["-k", "auth"])));
        check("--unit -- -x", Some((true, true, &["-x"])));
        check("--", Some((true, true, &[])));
        check("-k auth", None);
    }
}
