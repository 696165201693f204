//! The process that clones the first processes of sandboxes. A fork costs what the forking process has in memory and in
//! open files, and the launcher of a thousand instances has plenty of both; so a small process of its own forks for it,
//! and the launcher is the parent of what comes.

use crate::inside::{self, Failure, Kept, Plan, at};
use crate::shape::{Programs, Shape};
use crate::staging::Staging;
use crate::sys::{self, Fork, Process};
use crate::wire::{self, Buffer, Wait};
use api::launcher::STAGE_LOST;
use rustix::process::{Pid, Signal};
use seccompiler::BpfProgram;
use serde::{Deserialize, Serialize};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

/// The kernel makes a process in a millisecond; a cloner that takes longer than this is broken.
const CLONE_MS_MAX: u64 = 5_000;
/// How often a cloner that has ended is replaced while one sandbox is made.
const ATTEMPTS: u32 = 2;

const NAMESPACES: libc::c_int =
    libc::CLONE_NEWUSER | libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;

/// What every sandbox is made from.
#[derive(Clone, Copy)]
pub struct Basis<'a> {
    /// Where the parts are.
    pub staging: &'a Staging,
    /// The filter for guests.
    pub filter: &'a BpfProgram,
    /// The launcher's own network namespace, to which the cloner returns.
    pub home_network: BorrowedFd<'a>,
}

/// What a sandbox is to be.
#[derive(Debug, Serialize, Deserialize)]
pub struct Order {
    /// What is made.
    pub shape: Shape,
    /// The name of the root below `root/`.
    pub root: String,
    /// The name below `lang/` of what becomes `/var/lang`.
    pub lang: Option<String>,
    /// For an interpreter that runs ahead: its path inside the sandbox, its arguments.
    pub interpreter: Option<(PathBuf, Vec<String>)>,
}

/// The files that go with an order.
pub struct Files<'a> {
    /// The sandbox's end of the connection to the launcher.
    pub setup: BorrowedFd<'a>,
    /// The guest's output, if the first process hands it on.
    pub log: Option<BorrowedFd<'a>>,
    /// The guest's end of the channel, likewise.
    pub channel: Option<BorrowedFd<'a>>,
    /// A control group of the guest's main process.
    pub guest_door: Option<BorrowedFd<'a>>,
    /// On cgroup v2, the folder into which the process is cloned.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// A network namespace that is complete.
    pub network: Option<BorrowedFd<'a>>,
    /// Where the first process enters its control groups.
    pub doors: Vec<BorrowedFd<'a>>,
}

/// An order as it is sent, and which of the files are beside it.
#[derive(Debug, Serialize, Deserialize)]
struct Sent {
    order: Order,
    log: bool,
    channel: bool,
    guest_door: bool,
    cgroup: bool,
    network: bool,
}

/// The answer; beside it, on success, a descriptor of the process.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    /// The id of the process.
    Born(i32),
    /// There is none; why, for people.
    Failed(String),
}

/// The cloner, as the launcher has it.
#[derive(Default)]
pub struct Cloner(Option<(Process, OwnedFd)>);

impl Cloner {
    /// Starts the process.
    pub fn start(basis: Basis<'_>) -> Result<Cloner, Failure> {
        let stage = "clone";
        let (ours, theirs) = wire::pair().map_err(at(stage, "make a socket pair"))?;
        match sys::fork(0, None).map_err(at(stage, "fork the cloner"))? {
            Fork::Parent(process) => Ok(Cloner(Some((process, ours)))),
            Fork::Child => {
                let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
                let _ = rustix::thread::set_name(c"cloner");
                let keep = [2, theirs.as_raw_fd(), basis.home_network.as_raw_fd()];
                if sys::close_all_but(&keep).is_ok() {
                    serve(basis, theirs.as_fd());
                }
                sys::exit_now(0)
            }
        }
    }

    /// Has a first process made, a child of this process.
    pub fn clone(&mut self, basis: Basis<'_>, order: Order, files: &Files<'_>) -> Result<Process, Failure> {
        let mut list = vec![files.setup];
        list.extend([files.log, files.channel, files.guest_door, files.cgroup, files.network].into_iter().flatten());
        list.extend(&files.doors);
        let sent = Sent {
            order,
            log: files.log.is_some(),
            channel: files.channel.is_some(),
            guest_door: files.guest_door.is_some(),
            cgroup: files.cgroup.is_some(),
            network: files.network.is_some(),
        };
        let mut last = Failure { stage: STAGE_LOST, message: "there is no cloner".to_owned() };
        for _ in 0..ATTEMPTS {
            if self.0.is_none() {
                *self = Cloner::start(basis)?;
            }
            let Some((_, socket)) = &self.0 else { break };
            match ask(socket.as_fd(), &sent, &list) {
                Ok(answer) => return answer,
                Err(error) => last = at(STAGE_LOST, "ask the cloner")(error),
            }
            eprintln!("tidegate launcher: the cloner is replaced: {}", last.message);
            std::mem::take(self).end();
        }
        Err(last)
    }

    /// Ends the process, and a child that it has made and nobody knows.
    pub fn end(self) {
        let Some((process, socket)) = self.0 else { return };
        process.signal(Signal::KILL);
        let _ = process.wait(true);
        if let Ok(got) = wire::receive::<Answer>(socket.as_fd(), &mut Buffer::short(), Wait::Poll)
            && let (Answer::Born(pid), Some(pidfd)) = (got.message, got.files.into_iter().next())
            && let Some(pid) = Pid::from_raw(pid)
        {
            let child = Process { pid, pidfd };
            child.signal(Signal::KILL);
            let _ = child.wait(true);
        }
    }
}

/// The inner result is the kernel's, the outer says whether the cloner works.
fn ask(socket: BorrowedFd<'_>, sent: &Sent, files: &[BorrowedFd<'_>]) -> Result<Result<Process, Failure>, wire::Error> {
    wire::send(socket, sent, files, Wait::Block)?;
    if !sys::is_readable_within(socket, CLONE_MS_MAX) {
        return Err(wire::Error::Closed);
    }
    let got = wire::receive::<Answer>(socket, &mut Buffer::short(), Wait::Poll)?;
    let pidfd = got.files.into_iter().next();
    Ok(match (got.message, pidfd) {
        (Answer::Born(pid), Some(pidfd)) => match Pid::from_raw(pid) {
            Some(pid) => Ok(Process { pid, pidfd }),
            None => Err(Failure { stage: "clone", message: "the cloner names no process".to_owned() }),
        },
        (Answer::Born(_), None) => Err(Failure { stage: "clone", message: "no descriptor of the process".to_owned() }),
        (Answer::Failed(message), _) => Err(Failure { stage: "clone", message }),
    })
}

/// The cloner: until the launcher closes its end.
fn serve(basis: Basis<'_>, socket: BorrowedFd<'_>) {
    let mut buffer = Buffer::short();
    while let Ok(got) = wire::receive::<Sent>(socket, &mut buffer, Wait::Block) {
        let sent = match clone(basis, got.message, got.files) {
            Ok(process) => {
                let born = Answer::Born(process.pid.as_raw_nonzero().get());
                wire::send(socket, &born, &[process.pidfd.as_fd()], Wait::Block)
            }
            Err(failure) => wire::send(socket, &Answer::Failed(failure.message), &[], Wait::Block),
        };
        if sent.is_err() {
            return;
        }
    }
}

fn clone(basis: Basis<'_>, sent: Sent, files: Vec<OwnedFd>) -> Result<Process, Failure> {
    let stage = "clone";
    let Sent { order, log, channel, guest_door, cgroup, network } = sent;
    let mut files = files.into_iter();
    let setup = files.next().ok_or_else(|| Failure { stage, message: "no files came with the order".to_owned() })?;
    let mut next = |present: bool| if present { files.next() } else { None };
    let (log, channel, guest_door) = (next(log), next(channel), next(guest_door));
    let (cgroup, network) = (next(cgroup), next(network));
    let doors: Vec<OwnedFd> = files.collect();
    let mut namespaces = NAMESPACES;
    match &network {
        Some(network) => sys::enter_network(network.as_fd()).map_err(at(stage, "enter the network"))?,
        None => namespaces |= libc::CLONE_NEWNET,
    }
    let forked = sys::fork_for_parent(namespaces, cgroup.as_ref().map(AsFd::as_fd));
    match forked {
        Ok(Fork::Child) => {
            let Order { shape, root, lang, interpreter } = order;
            let plan = Plan {
                shape: &shape,
                staging: basis.staging,
                programs: Programs { root: &root, lang: lang.as_deref() },
                interpreter,
                connected: network.is_some(),
                filter: basis.filter,
            };
            inside::run(&plan, &doors, &Kept { setup, log, channel, guest_door })
        }
        Ok(Fork::Parent(process)) => {
            come_home(basis, network.is_some());
            Ok(process)
        }
        Err(errno) => {
            come_home(basis, network.is_some());
            Err(at(stage, "make namespaces")(errno))
        }
    }
}

/// A cloner that stayed in a guest's network could do nothing right.
fn come_home(basis: Basis<'_>, away: bool) {
    if away && sys::enter_network(basis.home_network).is_err() {
        sys::exit_now(1)
    }
}
