//! The first process of a sandbox, from its birth until the guest runs: it puts the sandbox together around itself.
//!
//! It is cloned into new namespaces by the cloner, enters its limits, waits for the word that its user id is set, and
//! then has full capabilities inside its own user namespace and none outside.

use crate::init;
use crate::netpool;
use crate::shape::{Programs, Shape};
use crate::staging::{GUEST_ID, Staging};
use crate::sys;
use crate::wire::{self, Wait};
use api::launcher::ExitStatus;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{self, MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};
use rustix::process::{DumpableBehavior, Signal};
use seccompiler::BpfProgram;
use serde::{Deserialize, Serialize};
use std::fmt::Display;
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Where the Runtime API is served inside a sandbox.
pub const RUNTIME_API: (&str, u16) = ("127.0.0.1", 9001);
/// Size of `/dev/shm`.
const SHM_OPTIONS: &std::ffi::CStr = c"mode=1777,size=64m";
/// Files of `/proc` that no guest needs; shown empty.
const PROC_HIDDEN: [&str; 9] =
    ["kcore", "keys", "key-users", "kallsyms", "kmsg", "timer_list", "sysrq-trigger", "sched_debug", "latency_stats"];
/// Folders of `/proc` that no guest writes.
const PROC_READ_ONLY: [&str; 4] = ["sys", "irq", "bus", "fs"];

/// Everything that a new sandbox needs to know before its function is known; the child has it as a copy of the
/// cloner's memory.
pub struct Plan<'a> {
    /// What is made.
    pub shape: &'a Shape,
    /// Where the parts are.
    pub staging: &'a Staging,
    /// Where programs come from.
    pub programs: Programs<'a>,
    /// For [`Guest::Running`](crate::shape::Guest::Running): the interpreter's path inside the sandbox, its arguments.
    pub interpreter: Option<(PathBuf, Vec<String>)>,
    /// Whether the sandbox is born in a network namespace that is complete.
    pub connected: bool,
    /// The filter for the guest.
    pub filter: &'a BpfProgram,
}

/// The launcher's word that the child may begin. Beside it, if the launcher has one: the file system for `/tmp`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Go;

/// The launcher's word on what the sandbox is for. Beside it: the mount of the package.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Assignment {
    /// For a guest that is about to execute a managed runtime: program and arguments.
    pub interpreter: Option<(PathBuf, Vec<String>)>,
    /// For a guest that is about to execute a program: its whole environment.
    pub environment: Vec<(String, String)>,
    /// Processes and threads, at most.
    pub processes: u32,
    /// Open files per process, at most.
    pub open_files: u32,
    /// A limit for private memory where no control group limits it, bytes.
    pub private_bytes_max: Option<u64>,
}

/// What the first process tells the launcher.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Note {
    /// The file beside it is the Runtime API's listener.
    Listener,
    /// Sent by the guest's main process before it becomes the guest; its sender is what counts.
    Guest,
    /// The sandbox waits for its function. Beside it, if the guest is to come from a zygote: what the guest needs to
    /// enter, in the order of `zygote::Entry`.
    Blank,
    /// The guest's program runs.
    Ready,
    /// The sandbox could not be made.
    Failed {
        /// The step.
        stage: String,
        /// For people.
        message: String,
    },
    /// The guest's main process has ended.
    Ended(ExitStatus),
}

/// Why a sandbox could not be made.
#[derive(Debug)]
pub struct Failure {
    /// The step.
    pub stage: &'static str,
    /// For people.
    pub message: String,
}

/// Names the step in which an error happened.
pub fn at<E: Display>(stage: &'static str, what: &str) -> impl FnOnce(E) -> Failure {
    move |error| Failure { stage, message: format!("{what}: {error}") }
}

/// The descriptors that the child keeps.
pub struct Kept {
    /// The connection to the launcher.
    pub setup: OwnedFd,
    /// The guest's output; a zygote's child has it from the zygote.
    pub log: Option<OwnedFd>,
    /// The guest's end of the channel.
    pub channel: Option<OwnedFd>,
    /// Where the guest's main process enters a control group of its own.
    pub guest_door: Option<OwnedFd>,
}

/// The life of the child: makes the sandbox, starts the guest, and stays as its first process.
/// `doors`: where it enters its control groups before it does anything else.
pub fn run(plan: &Plan<'_>, doors: &[OwnedFd], kept: &Kept) -> ! {
    let failure = match build(plan, doors, kept) {
        Ok(()) => init::run(plan, kept),
        Err(failure) => failure,
    };
    report(kept.setup.as_fd(), &failure);
    sys::exit_now(1)
}

/// Tells the launcher of a failure; if even that fails, the launcher sees the end of this process.
pub fn report(setup: BorrowedFd<'_>, failure: &Failure) {
    let note = Note::Failed { stage: failure.stage.to_owned(), message: failure.message.clone() };
    let _ = wire::send(setup, &note, &[], Wait::Block);
}

fn build(plan: &Plan<'_>, doors: &[OwnedFd], kept: &Kept) -> Result<(), Failure> {
    sys::forget_command_line(c"init").map_err(at("identity", "forget the launcher's command line"))?;
    for door in doors {
        rustix::io::write(door, b"0").map_err(at("cgroup", "enter a control group"))?;
    }
    keep_only(kept).map_err(at("descriptors", "close the launcher's descriptors"))?;
    let tmp = wait_for_go(kept.setup.as_fd())?;
    become_guest_id()?;
    name_namespaces()?;
    make_network(plan, kept.setup.as_fd())?;
    make_root(plan, tmp)?;
    rustix::process::setsid().map_err(at("session", "setsid"))?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    Ok(())
}

fn keep_only(kept: &Kept) -> rustix::io::Result<()> {
    let mut keep = vec![kept.setup.as_raw_fd()];
    keep.extend([&kept.log, &kept.channel, &kept.guest_door].into_iter().flatten().map(AsRawFd::as_raw_fd));
    sys::close_all_but(&keep)?;
    // The lowest three numbers must not be reused: a panic would print into whatever has number 2.
    for _ in 0..3 {
        let null = rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty())?;
        if null.as_raw_fd() > 2 {
            break;
        }
        std::mem::forget(null);
    }
    Ok(())
}

fn wait_for_go(setup: BorrowedFd<'_>) -> Result<Option<OwnedFd>, Failure> {
    let mut buffer = wire::Buffer::short();
    let go = wire::receive::<Go>(setup, &mut buffer, Wait::Block).map_err(at("go", "wait for the launcher"))?;
    Ok(go.files.into_iter().next())
}

/// The user namespace knows only this one id. Capabilities survive the change, as there is no "root" in it.
fn become_guest_id() -> Result<(), Failure> {
    use rustix::process::{set_dumpable_behavior, set_parent_process_death_signal};
    use rustix::thread::{set_thread_res_gid, set_thread_res_uid};
    let (uid, gid) = (rustix::process::Uid::from_raw(GUEST_ID), rustix::process::Gid::from_raw(GUEST_ID));
    set_thread_res_gid(gid, gid, gid).map_err(at("identity", "set the group id"))?;
    set_thread_res_uid(uid, uid, uid).map_err(at("identity", "set the user id"))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(at("identity", "hide memory"))?;
    // After the change of ids, which clears it. The death of the launcher before this line is seen when the first
    // note cannot be sent.
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(at("identity", "die with the launcher"))
}

fn name_namespaces() -> Result<(), Failure> {
    // Only now are the process's control groups those that it shall see as the top.
    sys::unshare(libc::CLONE_NEWCGROUP).map_err(at("namespaces", "make a cgroup namespace"))?;
    rustix::system::sethostname(b"sandbox").map_err(at("namespaces", "set the host name"))
}

fn make_network(plan: &Plan<'_>, setup: BorrowedFd<'_>) -> Result<(), Failure> {
    let stage = "network";
    if !plan.connected {
        netpool::prepare_own().map_err(at(stage, "bring the loopback up"))?;
    }
    if plan.shape.runtime_api {
        let listener = TcpListener::bind(RUNTIME_API).map_err(at(stage, "listen for the Runtime API"))?;
        wire::send(setup, &Note::Listener, &[listener.as_fd()], Wait::Block).map_err(at(stage, "hand over"))?;
    }
    Ok(())
}

fn make_root(plan: &Plan<'_>, tmp: Option<OwnedFd>) -> Result<(), Failure> {
    let stage = "root";
    let new = plan.staging.path("new");
    let shared = plan.staging.path("root").join(plan.programs.root);
    attach(CWD, &shared, &new, true).map_err(at(stage, "clone the shared root"))?;
    if let Some(lang) = plan.programs.lang {
        let lang = plan.staging.path("lang").join(lang);
        attach(CWD, &lang, &new.join("var/lang"), true).map_err(at(stage, "mount /var/lang"))?;
    }
    mount_writable(plan, &new, tmp)?;
    mount_proc(&new)?;
    rustix::process::chdir(&new).map_err(at(stage, "enter the new root"))?;
    rustix::process::pivot_root(".", ".").map_err(at(stage, "pivot_root"))?;
    mount::unmount(".", UnmountFlags::DETACH).map_err(at(stage, "detach the old root"))?;
    rustix::process::chdir("/").map_err(at(stage, "enter the root"))
}

/// Shows the package where the guest looks for it. The sandbox's own root is `/` by now.
pub fn mount_package(package: BorrowedFd<'_>) -> Result<(), Failure> {
    mount::move_mount(package, "", CWD, "/var/task", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(at("package", "mount /var/task"))
}

/// Clones what is mounted at a path and shows it at another.
pub fn attach(from: BorrowedFd<'_>, path: &Path, target: &Path, recursive: bool) -> rustix::io::Result<()> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    let tree = mount::open_tree(from, path, flags)?;
    mount::move_mount(tree.as_fd(), "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

fn mount_writable(plan: &Plan<'_>, new: &Path, tmp: Option<OwnedFd>) -> Result<(), Failure> {
    let stage = "tmp";
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    let target = new.join("tmp");
    match tmp {
        Some(tree) => {
            mount::move_mount(tree.as_fd(), "", CWD, &target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
                .map_err(at(stage, "attach /tmp"))?;
        }
        None => {
            let options = format!("mode=1777,size={}m", plan.shape.tmp_mb);
            let options = std::ffi::CString::new(options).map_err(at(stage, "write options"))?;
            mount::mount("tmp", &target, "tmpfs", flags, options.as_c_str()).map_err(at(stage, "mount /tmp"))?;
        }
    }
    let shm_flags = flags | MountFlags::NOEXEC;
    mount::mount("shm", new.join("dev/shm"), "tmpfs", shm_flags, SHM_OPTIONS).map_err(at(stage, "mount /dev/shm"))
}

fn mount_proc(new: &Path) -> Result<(), Failure> {
    let stage = "proc";
    let proc = new.join("proc");
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount::mount("proc", &proc, "proc", flags, None).map_err(at(stage, "mount /proc"))?;
    let null = new.join("dev/null");
    for name in PROC_HIDDEN.iter().map(|name| proc.join(name)).filter(|path| path.exists()) {
        mount::mount_bind(&null, &name).map_err(at(stage, "hide a file of /proc"))?;
    }
    for name in PROC_READ_ONLY.iter().map(|name| proc.join(name)).filter(|path| path.exists()) {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let tree = mount::open_tree(CWD, &name, flags).map_err(at(stage, "clone a folder of /proc"))?;
        sys::mount_set(tree.as_fd(), libc::MOUNT_ATTR_RDONLY, false).map_err(at(stage, "protect /proc"))?;
        mount::move_mount(tree.as_fd(), "", CWD, &name, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .map_err(at(stage, "protect a folder of /proc"))?;
    }
    Ok(())
}
