//! What the tasks need from the machine: installed if we may, said plainly if not.

use crate::steps::{Failure, capture, run, say};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Seconds that apt waits for another apt to finish.
const APT_LOCK_S: u32 = 120;

/// A program of the machine and the Debian package that holds it.
pub struct Need {
    /// The program's file name.
    pub program: &'static str,
    /// The package.
    pub package: &'static str,
    /// What does not work without it.
    pub purpose: &'static str,
}

/// Outbound network of functions.
pub const NFT: Need = Need { program: "nft", package: "nftables", purpose: "functions have no outbound network" };
/// Test networks.
pub const IP: Need = Need { program: "ip", package: "iproute2", purpose: "network tests are skipped" };
/// Exact sizes of `/tmp`.
pub const MKE2FS: Need =
    Need { program: "mke2fs", package: "e2fsprogs", purpose: "/tmp of functions is charged as memory" };
/// The example bootstrap.
pub const CURL: Need = Need { program: "curl", package: "curl", purpose: "the hello-bootstrap example cannot run" };
/// The suites by real clients.
pub const PYTHON: Need =
    Need { program: "python3", package: "python3", purpose: "the suites by real clients cannot run" };
/// The bench's comparator.
pub const RUNC: Need = Need { program: "runc", package: "runc", purpose: "cold starts have no comparator" };
/// The bench's comparator of the warm path.
pub const NGINX: Need = Need { program: "nginx", package: "nginx-light", purpose: "the warm path has no comparator" };
/// Comparators from npm.
pub const NPM: Need = Need { program: "npm", package: "npm", purpose: "warm handlers have no comparators from npm" };

/// Packages from npm in a folder; installed anew only when the list changes.
pub fn npm_packages(folder: &Path, packages: &[&str]) -> Result<(), Failure> {
    let (stamp, wanted) = (folder.join("made-for.txt"), packages.join("\n"));
    if fs::read_to_string(&stamp).is_ok_and(|made_for| made_for == wanted) {
        return Ok(());
    }
    say(format_args!("installing {} into {} (npm)", packages.join(" "), folder.display()));
    let written =
        fs::create_dir_all(folder).and_then(|()| fs::write(folder.join("package.json"), "{\"private\": true}\n"));
    written.map_err(|e| Failure(format!("cannot write into {}: {e}", folder.display())))?;
    let mut npm = Command::new("npm");
    npm.args(["install", "--no-audit", "--no-fund", "--silent"]).args(packages).current_dir(folder);
    // One of them would otherwise send figures to its makers.
    run(npm.env("SLS_TELEMETRY_DISABLED", "1"))?;
    fs::write(&stamp, wanted).map_err(|e| Failure(format!("cannot write {}: {e}", stamp.display())))
}

/// Installs the missing ones through apt where we are root; otherwise says what is missing and goes on.
pub fn install(needs: &[Need]) {
    let missing: Vec<&Need> = needs.iter().filter(|need| find(need.program).is_none()).collect();
    if missing.is_empty() {
        return;
    }
    let packages: Vec<&str> = missing.iter().map(|need| need.package).collect();
    if is_root() && find("apt-get").is_some() {
        say(format_args!("installing {} (apt-get)", packages.join(" ")));
        if let Err(failure) = apt_install(&packages) {
            eprintln!("note: {failure}");
        }
    }
    for need in missing.iter().filter(|need| find(need.program).is_none()) {
        eprintln!(
            "note: {} is missing, so {}; to change that: apt-get install {}",
            need.program, need.purpose, need.package
        );
    }
}

/// Installs packages; the package lists are fetched only when the first try fails.
fn apt_install(packages: &[&str]) -> Result<(), Failure> {
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").args(["-q", "-y", "-o"]);
        command.arg(format!("DPkg::Lock::Timeout={APT_LOCK_S}")).args(arguments);
        capture(&mut command)
    };
    let install: Vec<&str> = ["install", "--no-install-recommends"].iter().chain(packages).copied().collect();
    if apt(&install).is_ok() {
        return Ok(());
    }
    apt(&["update"])?;
    apt(&install).map(drop)
}

/// The full path of a program, looked for in PATH and in the folders for administrators.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let administrators = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(administrators).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// Is this process run by root?
pub fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective =
        status.lines().find_map(|line| line.strip_prefix("Uid:")).and_then(|ids| ids.split_whitespace().nth(1));
    effective == Some("0")
}

/// A Python environment with what `requirements` names; made anew only when that file or the interpreter changes.
/// Returns its `python`.
pub fn python_environment(folder: &Path, requirements: &Path) -> Result<PathBuf, Failure> {
    let python = folder.join("bin/python");
    let stamp = folder.join("made-for.txt");
    let wanted = fs::read_to_string(requirements)
        .map_err(|e| Failure(format!("cannot read {}: {e}", requirements.display())))?
        + &capture(Command::new("python3").arg("--version"))?;
    if python.is_file() && fs::read_to_string(&stamp).is_ok_and(|made_for| made_for == wanted) {
        return Ok(python);
    }
    say(format_args!("making a Python environment in {} (pip)", folder.display()));
    make_environment(folder)?;
    let mut pip = Command::new(&python);
    run(pip.args(["-m", "pip", "install", "--quiet", "--requirement"]).arg(requirements))?;
    // Written last: an environment that broke off half-way is made again.
    fs::write(&stamp, wanted).map_err(|e| Failure(format!("cannot write {}: {e}", stamp.display())))?;
    Ok(python)
}

/// `python3 -m venv`, and where Debian has split that off, once more after installing it.
fn make_environment(folder: &Path) -> Result<(), Failure> {
    let make = |program: &str| capture(Command::new(program).args(["-m", "venv", "--clear"]).arg(folder)).map(drop);
    let Err(first) = make("python3") else { return Ok(()) };
    if !is_root() || find("apt-get").is_none() {
        return Err(Failure(format!("{first}\nto change that: apt-get install python3-venv")));
    }
    say("installing python3-venv (apt-get)");
    apt_install(&["python3-venv"])?;
    make("/usr/bin/python3")
}
