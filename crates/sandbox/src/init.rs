//! Process 1 of a sandbox: waits for the sandbox's function, starts the guest's main process or lets a zygote do so, reaps
//! orphans, passes SIGTERM on, and says how the main process ended.

use crate::guest::{self, Order};
use crate::inside::{self, Assignment, Failure, Kept, Note, Plan, at};
use crate::shape::Guest;
use crate::sys::{self, Fork, Process, Signals};
use crate::wire::{self, Wait};
use crate::zygote;
use api::launcher::ExitStatus;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Resource, Rlimit, Signal};
use rustix::thread::{CapabilitySet, CapabilitySets};
use serde::{Deserialize, Serialize};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Why the guest's program does not run, in the words of its own process.
#[derive(Debug, Serialize, Deserialize)]
pub struct Obstacle {
    /// The step.
    pub stage: String,
    /// For people.
    pub message: String,
}

/// The guest's main process where it is a child of this one.
struct Main {
    process: Process,
    /// To the process before it executes a program, and from it if it cannot; closed by a successful exec.
    orders: OwnedFd,
}

/// Waits for the function, starts the guest and stays until it ends. Returns only when it could not be started.
pub fn run(plan: &Plan<'_>, kept: &Kept) -> Failure {
    match start(plan, kept) {
        // Or each idle instance would keep a copy of the launcher's memory for a process that only reaps.
        Ok(None) => sys::reap_for_ever(),
        Ok(Some(main)) => {
            let status = watch(&main);
            let _ = wire::send(kept.setup.as_fd(), &Note::Ended(status), &[], Wait::Poll);
            // The kernel ends every other process of the sandbox with its process 1.
            sys::exit_now(0)
        }
        Err(failure) => failure,
    }
}

fn start(plan: &Plan<'_>, kept: &Kept) -> Result<Option<Process>, Failure> {
    let stage = "guest";
    let watched = Signals::of(&[libc::SIGCHLD, libc::SIGTERM]);
    watched.block_only().map_err(at(stage, "block signals"))?;
    let main = match plan.shape.guest {
        Guest::Forked { .. } => None,
        Guest::Exec { .. } | Guest::Running { .. } => Some(fork_guest(plan, kept)?),
    };
    // The rest goes when the package has been mounted.
    drop_bounds().map_err(at(stage, "drop capabilities"))?;
    say_blank(plan, kept)?;
    let (assignment, package) = wait_for_assignment(plan, kept, main.as_ref())?;
    inside::mount_package(package.as_fd())?;
    drop(package);
    if let Some(main) = &main {
        limit(main, &assignment).map_err(at("limits", "limit the guest"))?;
    }
    drop_held().map_err(at(stage, "drop capabilities"))?;
    if let (Guest::Exec { .. }, Some(main)) = (&plan.shape.guest, &main) {
        let Assignment { interpreter, environment, .. } = assignment;
        wire::send(main.orders.as_fd(), &Order { interpreter, environment }, &[], Wait::Block)
            .map_err(at(stage, "hand the environment over"))?;
        wait_for_exec(main, kept)?;
    }
    wire::send(kept.setup.as_fd(), &Note::Ready, &[], Wait::Block).map_err(at(stage, "report"))?;
    let main = main.map(|main| {
        std::mem::forget(main.orders);
        main.process
    });
    let mut keep = vec![0, 1, 2, kept.setup.as_raw_fd()];
    keep.extend(main.iter().map(|main| main.pidfd.as_raw_fd()));
    sys::close_all_but(&keep).map_err(at(stage, "close descriptors"))?;
    Ok(main)
}

/// Forks the guest's main process, which locks itself; an interpreter that is to run ahead is executed at once.
fn fork_guest(plan: &Plan<'_>, kept: &Kept) -> Result<Main, Failure> {
    let stage = "guest";
    let (orders, orders_guest) = wire::pair().map_err(at(stage, "make a socket pair"))?;
    let process = match sys::fork(0, None).map_err(at(stage, "fork"))? {
        Fork::Parent(process) => process,
        Fork::Child => guest::run(plan, kept, orders_guest.as_fd()),
    };
    drop(orders_guest);
    let main = Main { process, orders };
    if let Guest::Running { .. } = plan.shape.guest {
        wait_for_exec(&main, kept)?;
    }
    Ok(main)
}

/// The guest's end of the socket is closed by a successful exec.
fn wait_for_exec(main: &Main, kept: &Kept) -> Result<(), Failure> {
    let mut buffer = wire::Buffer::short();
    match wire::receive::<Obstacle>(main.orders.as_fd(), &mut buffer, Wait::Block) {
        Err(wire::Error::Closed) => Ok(()),
        Ok(got) => {
            let failed = Note::Failed { stage: got.message.stage, message: got.message.message };
            let _ = wire::send(kept.setup.as_fd(), &failed, &[], Wait::Block);
            sys::exit_now(1)
        }
        Err(error) => Err(at("guest", "wait for exec")(error)),
    }
}

fn say_blank(plan: &Plan<'_>, kept: &Kept) -> Result<(), Failure> {
    let entry = match plan.shape.guest {
        Guest::Forked { .. } => zygote::entry()?,
        Guest::Exec { .. } | Guest::Running { .. } => Vec::new(),
    };
    let files: Vec<BorrowedFd<'_>> = entry.iter().map(AsFd::as_fd).collect();
    wire::send(kept.setup.as_fd(), &Note::Blank, &files, Wait::Block).map_err(at("guest", "report"))
}

/// A guest that ends while it waits ends the sandbox.
fn wait_for_assignment(plan: &Plan<'_>, kept: &Kept, main: Option<&Main>) -> Result<(Assignment, OwnedFd), Failure> {
    let stage = "assignment";
    loop {
        let mut watched = vec![PollFd::new(&kept.setup, PollFlags::IN)];
        watched.extend(main.map(|main| PollFd::new(&main.process.pidfd, PollFlags::IN)));
        rustix::io::retry_on_intr(|| poll(&mut watched, None)).map_err(at(stage, "wait"))?;
        if watched.get(1).is_some_and(|main| !main.revents().is_empty()) {
            return Err(Failure { stage, message: "the guest ended before it had a function".to_owned() });
        }
        if !watched[0].revents().is_empty() {
            break;
        }
    }
    // A guest that is ahead has its environment by another way.
    let mut buffer = if plan.shape.is_ahead() { wire::Buffer::short() } else { wire::Buffer::default() };
    let got = wire::receive::<Assignment>(kept.setup.as_fd(), &mut buffer, Wait::Block)
        .map_err(at(stage, "wait for the launcher"))?;
    let package = got.files.into_iter().next();
    let package = package.ok_or_else(|| Failure { stage, message: "no package came with it".to_owned() })?;
    Ok((got.message, package))
}

/// The limits of one function, set from outside: the guest may have run for long.
fn limit(main: &Main, assignment: &Assignment) -> rustix::io::Result<()> {
    let pid = Some(main.process.pid);
    let set = |resource, value: u64| {
        let limit = Rlimit { current: Some(value), maximum: Some(value) };
        rustix::process::prlimit(pid, resource, limit).map(drop)
    };
    set(Resource::Nofile, assignment.open_files.into())?;
    // Counted per user namespace, thus per instance, with the first process.
    set(Resource::Nproc, u64::from(assignment.processes) + 1)?;
    assignment.private_bytes_max.map_or(Ok(()), |bytes| set(Resource::Data, bytes))
}

/// All capabilities go, for ever.
pub fn drop_privilege() -> rustix::io::Result<()> {
    drop_bounds()?;
    drop_held()
}

/// No exec brings a capability.
fn drop_bounds() -> rustix::io::Result<()> {
    for capability in CapabilitySet::all().iter() {
        // Numbers that this kernel does not know are refused.
        let _ = rustix::thread::remove_capability_from_bounding_set(capability);
    }
    rustix::thread::clear_ambient_capability_set()
}

fn drop_held() -> rustix::io::Result<()> {
    use rustix::thread::{set_capabilities, set_no_new_privs};
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    set_no_new_privs(true)
}

/// Reaps until the main process ends. Each turn handles one signal, so the loop is as bounded as the guest's life.
fn watch(main: &Process) -> ExitStatus {
    use rustix::process::{WaitOptions, wait};
    let watched = Signals::of(&[libc::SIGCHLD, libc::SIGTERM]);
    loop {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if main.pid == pid {
                let signal = ExitStatus::Signal(status.terminating_signal().unwrap_or(libc::SIGKILL));
                return status.exit_status().map_or(signal, ExitStatus::Code);
            }
        }
        if let Ok(libc::SIGTERM) = watched.wait() {
            main.signal(Signal::TERM);
        }
    }
}
