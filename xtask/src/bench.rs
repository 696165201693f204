//! `cargo xtask bench`: builds what ships and the bench beside it, then measures.

use crate::needs::{self, MKE2FS, NFT, PYTHON, RUNC};
use crate::steps::{Failure, cargo, run, say};
use crate::suites::{release_binary, target_folder};
use crate::workspace::root;
use std::process::Command;

/// Runs the bench program; arguments after `--` go to it.
pub fn bench(arguments: &[String]) -> Result<(), Failure> {
    let passed_on = match arguments.split_first() {
        None => &[],
        Some((first, rest)) if first == "--" => rest,
        Some((first, _)) => {
            return Err(Failure(format!("unknown option {first}; arguments for the bench come after --")));
        }
    };
    needs::install(&[RUNC, NFT, MKE2FS, PYTHON]);
    say("building tidegate, the bench and its native function (release)");
    let tidegate = release_binary()?;
    run(cargo().args(["build", "--release", "--package", "bench"]))?;
    // Linked statically, as a custom runtime's bootstrap usually is: it must run under any root file system.
    let native = ["rustc", "--release", "--package", "bench", "--bin", "native_bootstrap"];
    run(cargo().args(native).args(["--", "-C", "target-feature=+crt-static"]))?;
    let release = target_folder(&root()).join("release");
    let mut command = Command::new(release.join("bench"));
    command.arg("--tidegate").arg(tidegate).arg("--programs").arg(&release);
    command.arg("--sources").arg(root().join("bench")).arg("--output").arg(target_folder(&root()).join("bench"));
    run(command.args(passed_on))
}
