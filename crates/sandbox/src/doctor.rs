//! The launcher's examination of a machine: a whole launcher runs for a moment on a folder of its own, makes one
//! sandbox, and takes everything away again.

use crate::abilities;
use crate::config::Config;
use crate::prepare::{chain, prepare};
use crate::sys::{self, Fork};
use crate::wire::{self, Buffer, Wait};
use api::launcher::{Ability, Event, ExitStatus, Interpreter, Network, Program, Request, Start};
use model::Digest;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The trial instance's package has this digest; its folder is the launcher's own.
const TRIAL: Digest = Digest([0; 32]);
/// Events that the examination reads, at most: a greeting, one per interpreter, and the trial's.
const EVENTS_MAX: usize = 256;

/// Why a machine could not be examined.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No folder for the examination could be made.
    #[error("make a folder in {}", .path.display())]
    Folder {
        /// Where it was tried.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// No process for the examination could be made.
    #[error("start a process for the examination")]
    Process(#[source] io::Error),
}

/// What this machine gives to sandboxes, line by line. The caller has one thread only. The folder of the configuration
/// is neither used nor locked: a server may be running on it.
pub fn doctor(config: &Config) -> Result<Vec<Ability>, Error> {
    let folder = make_folder(&config.data_dir)?;
    let forwarding = fs::read_to_string(FORWARDING).unwrap_or_default();
    let mut config = Config { data_dir: folder.clone(), ..config.clone() };
    config.instances_max = config.instances_max.min(4);
    let examined = examine(config);
    if forwarding.trim() == "0" {
        let _ = fs::write(FORWARDING, "0");
    }
    let _ = fs::remove_dir_all(&folder);
    examined
}

const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";
/// Where the examination has its folder when the disk of the data folder cannot be written.
const TEMPORARY: &str = "/tmp";

/// On the same disk as the data folder if that may be written, for the disk matters.
fn make_folder(data_dir: &Path) -> Result<PathBuf, Error> {
    let near = data_dir.ancestors().skip(1).find(|dir| dir.is_dir()).map(Path::to_owned);
    let name = format!("tidegate-doctor-{}", std::process::id());
    let mut last = None;
    for dir in near.into_iter().chain([PathBuf::from(TEMPORARY)]) {
        let path = dir.join(&name);
        match fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            Err(source) => last = Some(Error::Folder { path: dir, source }),
        }
    }
    Err(last.unwrap_or(Error::Process(io::ErrorKind::NotFound.into())))
}

/// In a process of its own, as a launcher changes the process that it runs in.
fn examine(config: Config) -> Result<Vec<Ability>, Error> {
    let (ours, theirs) = wire::pair().map_err(|error| Error::Process(io::Error::other(error)))?;
    match sys::fork(0, None).map_err(|errno| Error::Process(errno.into()))? {
        Fork::Child => {
            drop(ours);
            run_launcher(config, theirs);
            sys::exit_now(0)
        }
        Fork::Parent(process) => {
            drop(theirs);
            let got = wire::receive::<Vec<Ability>>(ours.as_fd(), &mut Buffer::default(), Wait::Block);
            let _ = process.wait(true);
            let unclear = |error| vec![abilities::of_trial(Err(format!("the examination ended early: {error}")))];
            Ok(got.map_or_else(unclear, |got| got.message))
        }
    }
}

fn run_launcher(config: Config, report: OwnedFd) {
    let prepared = match prepare(config) {
        Ok(prepared) => prepared,
        Err(error) => return tell(report.as_fd(), &[abilities::of_trial(Err(chain(&error)))]),
    };
    let launcher = prepared.spawn_daemon(|socket, data_dir| {
        tell(report.as_fd(), &daemon(socket.as_fd(), &data_dir));
        0
    });
    match launcher {
        Ok(launcher) => drop(launcher.run()),
        Err(error) => tell(report.as_fd(), &[abilities::of_trial(Err(chain(&error)))]),
    }
}

fn tell(report: BorrowedFd<'_>, abilities: &[Ability]) {
    let _ = wire::send(report, &abilities, &[], Wait::Block);
}

/// The daemon's part: one start, and listening.
fn daemon(socket: BorrowedFd<'_>, data_dir: &Path) -> Vec<Ability> {
    let mut all = Vec::new();
    let mut runtimes: Vec<Interpreter> = Vec::new();
    let mut trial = start_trial(socket, data_dir).err().map(|error| Err(error.to_string()));
    let mut probed = false;
    let mut buffer = Buffer::default();
    for _ in 0..EVENTS_MAX {
        if probed && trial.is_some() {
            break;
        }
        match wire::receive::<Event>(socket, &mut buffer, Wait::Block).map(|got| got.message) {
            Ok(Event::Hello(hello)) => all = hello.abilities,
            Ok(Event::Interpreters { interpreters, complete }) => (runtimes, probed) = (interpreters, complete),
            Ok(Event::Started { .. }) => {}
            Ok(Event::StartFailed { stage, message, .. }) => trial = Some(Err(format!("{stage}: {message}"))),
            Ok(Event::Exited { status: ExitStatus::Code(0), .. }) => trial = Some(Ok(())),
            Ok(Event::Exited { status, .. }) => trial = Some(Err(format!("it ended with {status:?}"))),
            Err(error) => {
                trial.get_or_insert(Err(error.to_string()));
                break;
            }
        }
    }
    all.insert(0, abilities::of_trial(trial.unwrap_or(Err("no answer".into()))));
    all.extend(abilities::of_runtimes(&runtimes));
    all
}

fn start_trial(socket: BorrowedFd<'_>, data_dir: &Path) -> io::Result<()> {
    let package = data_dir.join("packages").join(TRIAL.to_string());
    fs::create_dir_all(&package)?;
    fs::set_permissions(&package, fs::Permissions::from_mode(0o755))?;
    let bootstrap = package.join("bootstrap");
    fs::write(&bootstrap, "#!/bin/sh\nexit 0\n")?;
    fs::set_permissions(&bootstrap, fs::Permissions::from_mode(0o755))?;
    let (_, log_pipe) = io::pipe()?;
    let start = Start {
        instance: 1,
        program: Program::Bootstrap,
        package: TRIAL,
        environment: Vec::new(),
        memory_mb: 64,
        cpu_millis: 1_000,
        tmp_mb: 1,
        processes: 16,
        open_files: 64,
        network: Network::Nat,
        runtime_api: false,
    };
    wire::send(socket, &Request::Start(start), &[log_pipe.as_fd()], Wait::Block).map_err(io::Error::other)
}
