//! Zygotes: an interpreter per managed runtime that is up, with common modules imported, and forks a guest for each
//! sandbox. It runs no code of users, reads only the launcher's orders, and is caged itself: its own root without the
//! host's files, no network, a user id of its own, one capability, and the guests' filter of system calls with the one
//! exception of `setns`, by which its children enter their sandboxes.
//!
//! A child gives up everything before it looks at the channel, over which its function comes; the order of that is in
//! `runtimes/python/_tidegate/zygote.py`. Its parent is the zygote, which reports its end.

use crate::guest::{self, execute};
use crate::inside::{Failure, at, attach};
use crate::interpreters::Installed;
use crate::making::Machine;
use crate::netpool;
use crate::seccomp;
use crate::sys::{self, Fork, Process, Signals};
use crate::wire::{self, Wait};
use api::launcher::{ExitStatus, Mode, USUAL};
use landlock::RulesetError;
use rustix::fs::{CWD, OFlags};
use rustix::mount::{self, MountFlags, UnmountFlags};
use rustix::process::{Gid, Signal, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a zygote may take to come up.
const UP_MS_MAX: u64 = 20_000;
/// Zygotes of one runtime that may fail in a row before it is given up until the launcher ends.
pub const FAILURES_MAX: u32 = 3;
/// The namespaces that a child enters, as they are named in `/proc/<pid>/ns`, in the order in which they are sent.
const NAMESPACES: [&str; 7] = ["net", "user", "mnt", "ipc", "uts", "cgroup", "pid"];

/// What the launcher orders: one more guest. Beside it: log, channel, what [`entry`] gives, and the doors of the
/// control groups.
#[derive(Debug, Serialize, Deserialize)]
struct Order {
    serial: u64,
    /// Whether the last file of the entry is a Landlock ruleset.
    landlock: bool,
    /// Whether there is time for a rehearsal: nobody waits for this guest.
    rehearse: bool,
}

/// What a zygote says.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Word {
    /// It takes orders.
    Up,
    /// The guest is there, with this process id; beside it, a descriptor of the process.
    Forked(u64, i32),
    /// The guest could not be made.
    Failed(u64, String),
    /// The guest has ended; the status is that of wait(2).
    Ended(u64, i32),
}

/// A zygote that runs or comes up.
pub struct Zygote {
    process: Process,
    /// Readable when it has said something, or is gone.
    pub socket: OwnedFd,
    /// Whether it takes orders.
    pub up: bool,
    /// When it must have come up.
    pub due: Instant,
    /// The slots of its living guests, by serial.
    pub guests: HashMap<u64, u32>,
}

/// The files that a guest from a zygote needs to enter this sandbox. For its first process, once everything is made.
pub fn entry() -> Result<Vec<OwnedFd>, Failure> {
    let open = |name: &&str| File::open(format!("/proc/self/ns/{name}")).map(OwnedFd::from);
    let mut files: Vec<OwnedFd> =
        NAMESPACES.iter().map(open).collect::<io::Result<_>>().map_err(at("namespaces", "open a namespace"))?;
    let rules: Result<Option<OwnedFd>, RulesetError> = guest::paths().map(Option::from);
    files.extend(rules.map_err(at("landlock", "make the rules"))?);
    Ok(files)
}

impl Zygote {
    /// Starts the zygote of a runtime.
    pub fn start(machine: &Machine, installed: &Installed) -> Result<Zygote, Failure> {
        let stage = "zygote";
        let (ours, theirs) = wire::pair().map_err(at(stage, "make a socket pair"))?;
        let isolated = libc::CLONE_NEWNS | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
        match sys::fork(isolated, None).map_err(at(stage, "fork"))? {
            Fork::Parent(process) => {
                let due = Instant::now() + Duration::from_millis(UP_MS_MAX);
                Ok(Zygote { process, socket: ours, up: false, due, guests: HashMap::new() })
            }
            Fork::Child => {
                let failure = match become_zygote(machine, installed, theirs.as_fd()) {
                    Ok(()) => run(installed),
                    Err(failure) => failure,
                };
                eprintln!("tidegate launcher: a zygote: {}: {}", failure.stage, failure.message);
                sys::exit_now(1)
            }
        }
    }

    /// Orders a guest, with a rehearsal if nobody waits for it. `entry` is what the sandbox's first process sent, `doors` the control groups' files.
    pub fn fork(
        &mut self,
        (serial, slot): (u64, u32),
        (log, channel): (BorrowedFd<'_>, BorrowedFd<'_>),
        entry: &[OwnedFd],
        doors: &[OwnedFd],
        rehearse: bool,
    ) -> Result<(), wire::Error> {
        let mut files = vec![log, channel];
        files.extend(entry.iter().chain(doors).map(AsFd::as_fd));
        let order = Order { serial, landlock: entry.len() > NAMESPACES.len(), rehearse };
        wire::send(self.socket.as_fd(), &order, &files, Wait::Poll)?;
        self.guests.insert(serial, slot);
        Ok(())
    }

    /// Ends it; its guests live on, but how they end will not be known.
    pub fn end(self) {
        self.process.signal(Signal::KILL);
        let _ = self.process.wait(true);
    }
}

/// The status of wait(2) in our words.
pub fn status(raw: i32) -> ExitStatus {
    match raw & 0x7f {
        0 => ExitStatus::Code((raw >> 8) & 0xff),
        signal => ExitStatus::Signal(signal),
    }
}

fn become_zygote(machine: &Machine, installed: &Installed, socket: BorrowedFd<'_>) -> Result<(), Failure> {
    let stage = "zygote";
    sys::forget_command_line(c"zygote").map_err(at(stage, "forget the launcher's command line"))?;
    sys::close_all_but(&[2, socket.as_raw_fd()]).map_err(at(stage, "close descriptors"))?;
    netpool::prepare_own().map_err(at(stage, "prepare the network"))?;
    // Python's `platform` remembers the name of the machine from its first look on.
    rustix::system::sethostname(b"sandbox").map_err(at(stage, "set the host name"))?;
    make_root(machine, installed)?;
    place(socket).map_err(at(stage, "place descriptors"))?;
    sys::reset_signal_actions();
    Signals::of(&[]).block_only().map_err(at(stage, "unblock signals"))?;
    rustix::process::setsid().map_err(at(stage, "setsid"))?;
    give_up_privilege(machine).map_err(at(stage, "give up privilege"))?;
    seccompiler::apply_filter(&seccomp::program_of_zygote()).map_err(at(stage, "install the filter"))
}

/// The programs of the runtime, read-only, and nothing else.
fn make_root(machine: &Machine, installed: &Installed) -> Result<(), Failure> {
    let stage = "zygote";
    let staging = &machine.staging;
    let new = staging.path("new");
    attach(CWD, &staging.path("root").join(&installed.root), &new, true).map_err(at(stage, "clone the root"))?;
    if let Some(lang) = &installed.lang {
        attach(CWD, &staging.path("lang").join(lang), &new.join("var/lang"), true)
            .map_err(at(stage, "mount /var/lang"))?;
    }
    if machine.mode == Mode::Root {
        // Its own entries only. Without root the processes around us are not ours to show.
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount::mount("proc", new.join("proc"), "proc", flags, c"hidepid=2").map_err(at(stage, "mount /proc"))?;
    }
    rustix::process::chdir(&new).map_err(at(stage, "enter the new root"))?;
    rustix::process::pivot_root(".", ".").map_err(at(stage, "pivot_root"))?;
    mount::unmount(".", UnmountFlags::DETACH).map_err(at(stage, "detach the old root"))?;
    rustix::process::chdir("/").map_err(at(stage, "enter the root"))
}

/// 0 and 1: nothing; 2: the launcher's own, for complaints; 3: the socket.
fn place(socket: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let socket = rustix::io::fcntl_dupfd_cloexec(socket, 10)?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, rustix::fs::Mode::empty())?;
    guest::place(null.as_fd(), 0)?;
    guest::place(null.as_fd(), 1)?;
    guest::place(socket.as_fd(), 3)?;
    std::mem::forget(null);
    sys::close_on_exec_from(4)
}

/// The one capability that is needed to enter namespaces below our own, and the one that entering a mount namespace asks
/// for besides.
const NEEDED: CapabilitySet = CapabilitySet::SYS_ADMIN.union(CapabilitySet::SYS_CHROOT);

fn give_up_privilege(machine: &Machine) -> rustix::io::Result<()> {
    use rustix::thread as t;
    for capability in CapabilitySet::all().difference(NEEDED).iter() {
        // Numbers that this kernel does not know are refused.
        let _ = t::remove_capability_from_bounding_set(capability);
    }
    if machine.mode == Mode::Root {
        t::set_keep_capabilities(true)?;
        let id = machine.config.zygote_uid();
        let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
        t::set_thread_groups(&[])?;
        t::set_thread_res_gid(gid, gid, gid)?;
        t::set_thread_res_uid(uid, uid, uid)?;
    }
    t::set_capabilities(None, CapabilitySets { effective: NEEDED, permitted: NEEDED, inheritable: NEEDED })?;
    for capability in NEEDED.iter() {
        t::configure_capability_in_ambient_set(capability, true)?;
    }
    t::set_no_new_privs(true)?;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
}

/// Executes the interpreter. Returns only on failure.
fn run(installed: &Installed) -> Failure {
    let texts = USUAL.iter().map(|(name, value)| CString::new(format!("{name}={value}")));
    let environment: Vec<CString> = texts.filter_map(Result::ok).collect();
    let script = Path::new("/var/runtime/python/zygote.py").display().to_string();
    execute(&installed.program, &[script], &environment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses() {
        assert_eq!(status(0), ExitStatus::Code(0));
        assert_eq!(status(7 << 8), ExitStatus::Code(7));
        assert_eq!(status(9), ExitStatus::Signal(9));
        assert_eq!(status(0x80 | 6), ExitStatus::Signal(6));
    }

    #[test]
    fn words_as_the_zygote_writes_them() {
        for (text, word) in [
            ("\"Up\"", Word::Up),
            ("{\"Forked\":[7,4242]}", Word::Forked(7, 4242)),
            ("{\"Failed\":[7,\"no\"]}", Word::Failed(7, "no".into())),
            ("{\"Ended\":[7,256]}", Word::Ended(7, 256)),
        ] {
            assert_eq!(serde_json::from_str::<Word>(text).unwrap(), word);
        }
    }
}
