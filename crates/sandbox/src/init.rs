//! Process 1 of a sandbox: starts the guest's main process, reaps orphans, passes SIGTERM on, and says how it ended.

use crate::guest;
use crate::inside::{Failure, Kept, Note, Plan, at};
use crate::sys::{self, Fork, Process, Signals};
use crate::wire::{self, Wait};
use api::launcher::ExitStatus;
use rustix::process::Signal;
use rustix::thread::{CapabilitySet, CapabilitySets};
use serde::{Deserialize, Serialize};
use std::os::fd::{AsFd, AsRawFd};

/// Why the guest's program does not run, in the words of its own process.
#[derive(Debug, Serialize, Deserialize)]
pub struct Obstacle {
    /// The step.
    pub stage: String,
    /// For people.
    pub message: String,
}

/// Starts the guest and stays until it ends. Returns only when it could not be started.
pub fn run(plan: &Plan<'_>, kept: &Kept) -> Failure {
    match start(plan, kept) {
        Ok(main) => {
            let status = watch(&main);
            let _ = wire::send(kept.setup.as_fd(), &Note::Ended(status), &[], Wait::Poll);
            // The kernel ends every other process of the sandbox with its process 1.
            sys::exit_now(0)
        }
        Err(failure) => failure,
    }
}

fn start(plan: &Plan<'_>, kept: &Kept) -> Result<Process, Failure> {
    let stage = "guest";
    let watched = Signals::of(&[libc::SIGCHLD, libc::SIGTERM]);
    watched.block_only().map_err(at(stage, "block signals"))?;
    let (obstacles, obstacles_guest) = wire::pair().map_err(at(stage, "make a socket pair"))?;
    let main = match sys::fork(0, None).map_err(at(stage, "fork"))? {
        Fork::Parent(main) => main,
        Fork::Child => guest::run(plan, kept, obstacles_guest.as_fd()),
    };
    drop(obstacles_guest);
    drop_privilege().map_err(at(stage, "drop capabilities"))?;
    let mut buffer = wire::Buffer::default();
    // The guest's end is closed by a successful exec.
    match wire::receive::<Obstacle>(obstacles.as_fd(), &mut buffer, Wait::Block) {
        Err(wire::Error::Closed) => {}
        Ok(got) => {
            let failed = Note::Failed { stage: got.message.stage, message: got.message.message };
            let _ = wire::send(kept.setup.as_fd(), &failed, &[], Wait::Block);
            sys::exit_now(1)
        }
        Err(error) => return Err(at(stage, "wait for exec")(error)),
    }
    wire::send(kept.setup.as_fd(), &Note::Ready, &[], Wait::Block).map_err(at(stage, "report"))?;
    std::mem::forget(obstacles);
    let keep = [0, 1, 2, kept.setup.as_raw_fd(), main.pidfd.as_raw_fd()];
    sys::close_all_but(&keep).map_err(at(stage, "close descriptors"))?;
    Ok(main)
}

/// All capabilities go, for ever.
pub fn drop_privilege() -> rustix::io::Result<()> {
    use rustix::thread::{clear_ambient_capability_set, set_capabilities, set_no_new_privs};
    for capability in CapabilitySet::all().iter() {
        // Numbers that this kernel does not know are refused.
        let _ = rustix::thread::remove_capability_from_bounding_set(capability);
    }
    clear_ambient_capability_set()?;
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
            if pid == main.pid {
                let signal = ExitStatus::Signal(status.terminating_signal().unwrap_or(libc::SIGKILL));
                return status.exit_status().map_or(signal, ExitStatus::Code);
            }
        }
        if let Ok(libc::SIGTERM) = watched.wait() {
            main.signal(Signal::TERM);
        }
    }
}
