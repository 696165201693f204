//! The guest's main process between its fork and its exec: it gives up everything that it does not need.

use crate::init::{Obstacle, drop_privilege};
use crate::inside::{Failure, Kept, Note, Plan, at};
use crate::sys::{self, Signals};
use crate::wire::{self, Wait};
use api::launcher::{STAGE_ENTRYPOINT, USUAL};
use landlock::{
    ABI, Access, AccessFs, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError,
    Scope,
};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Resource, Rlimit, setrlimit};
use serde::{Deserialize, Serialize};
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The kernel ends the guest rather than the sandbox's own first process, whose score is 0.
const OOM_SCORE: &str = "500";
/// The newest Landlock that the rules below are written for; older kernels enforce what they know.
const LANDLOCK: ABI = ABI::V6;
/// What a guest may write to below its read-only root.
const WRITABLE_DIRS: [&str; 2] = ["/tmp", "/dev/shm"];
/// The programs of a custom runtime, in the order in which they are tried.
const BOOTSTRAPS: [&CStr; 2] = [c"/var/task/bootstrap", c"/opt/bootstrap"];
/// Tells our shims that they run before their function is known.
const WAITS: &str = "TIDEGATE_WAITS";
/// Descriptors below this number are given to the guest; ours are moved out of the way.
const OWN_FIRST: i32 = 10;

/// What a guest that is about to execute a program is told.
#[derive(Debug, Serialize, Deserialize)]
pub struct Order {
    /// The interpreter and its arguments; `None`: a bootstrap.
    pub interpreter: Option<(PathBuf, Vec<String>)>,
    /// The whole environment.
    pub environment: Vec<(String, String)>,
}

/// Becomes the guest, or says over `orders` why not.
pub fn run(plan: &Plan<'_>, kept: &Kept, orders: BorrowedFd<'_>) -> ! {
    let (failure, orders) = match rustix::io::fcntl_dupfd_cloexec(orders, OWN_FIRST) {
        Ok(moved) => (become_guest(plan, kept, moved.as_fd()), moved),
        Err(_) => sys::exit_now(1),
    };
    let obstacle = Obstacle { stage: failure.stage.to_owned(), message: failure.message };
    let _ = wire::send(orders.as_fd(), &obstacle, &[], Wait::Block);
    sys::exit_now(1)
}

/// Returns only on failure.
fn become_guest(plan: &Plan<'_>, kept: &Kept, orders: BorrowedFd<'_>) -> Failure {
    if let Err(failure) = lock(plan, kept) {
        return failure;
    }
    let order = match &plan.interpreter {
        Some(interpreter) => Order { interpreter: Some(interpreter.clone()), environment: waiting_environment() },
        None => match wire::receive::<Order>(orders, &mut wire::Buffer::default(), Wait::Block) {
            Ok(got) => got.message,
            Err(error) => return at("guest", "wait for the function")(error),
        },
    };
    // Again: the package was not there when this process entered the folder.
    match rustix::process::chdir("/var/task") {
        Ok(()) => start_program(&order),
        Err(errno) => at("guest", "enter /var/task")(errno),
    }
}

/// The environment of an interpreter that waits for its function.
pub fn waiting_environment() -> Vec<(String, String)> {
    let usual = USUAL.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    usual.chain([(WAITS.to_owned(), "1".to_owned())]).collect()
}

fn lock(plan: &Plan<'_>, kept: &Kept) -> Result<(), Failure> {
    wire::send(kept.setup.as_fd(), &Note::Guest, &[], Wait::Block).map_err(at("guest", "report"))?;
    if let Some(door) = &kept.guest_door {
        rustix::io::write(door, b"0").map_err(at("cgroup", "enter the guest's control group"))?;
    }
    rustix::process::setsid().map_err(at("guest", "setsid"))?;
    prefer_for_oom().map_err(at("guest", "raise the OOM score"))?;
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    setrlimit(Resource::Core, none).map_err(at("limits", "setrlimit"))?;
    place_descriptors(kept).map_err(at("guest", "place descriptors"))?;
    sys::reset_signal_actions();
    Signals::of(&[]).block_only().map_err(at("guest", "unblock signals"))?;
    drop_privilege().map_err(at("guest", "drop capabilities"))?;
    restrict_paths().map_err(at("landlock", "restrict paths"))?;
    seccompiler::apply_filter(plan.filter).map_err(at("seccomp", "install the filter"))
}

/// A process that hides its memory cannot write its own score; nothing that could look is running yet, and exec
/// replaces the memory.
fn prefer_for_oom() -> std::io::Result<()> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable)?;
    std::fs::write("/proc/self/oom_score_adj", OOM_SCORE)
}

/// 0: nothing; 1 and 2: the log; 3: the channel, if there is one. All others end with exec.
fn place_descriptors(kept: &Kept) -> Result<(), Errno> {
    let log = kept.log.as_ref().ok_or(Errno::BADF)?;
    let log = rustix::io::fcntl_dupfd_cloexec(log, OWN_FIRST)?;
    let channel = kept.channel.as_ref().map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, OWN_FIRST)).transpose()?;
    let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    place(null.as_fd(), 0)?;
    place(log.as_fd(), 1)?;
    place(log.as_fd(), 2)?;
    if let Some(channel) = &channel {
        place(channel.as_fd(), 3)?;
    }
    // Numbers 0 to 3 may be `null` itself; dropping it would close what was just placed.
    std::mem::forget(null);
    sys::close_on_exec_from(if channel.is_some() { 4 } else { 3 })
}

/// Gives a descriptor this number, across exec.
pub fn place(from: BorrowedFd<'_>, number: i32) -> Result<(), Errno> {
    if from.as_raw_fd() == number {
        return rustix::io::fcntl_setfd(from, rustix::io::FdFlags::empty());
    }
    // SAFETY: this freshly forked process owns no value for this number that is used after this call, and the value
    // made here is given up again below without closing.
    let mut target = unsafe { OwnedFd::from_raw_fd(number) };
    let done = rustix::io::dup2(from, &mut target);
    let _ = target.into_raw_fd();
    done
}

fn restrict_paths() -> Result<(), RulesetError> {
    paths()?.restrict_self().map(drop)
}

/// What a guest may do to paths, and to processes and sockets outside of it. For a sandbox whose root is complete but
/// for the package, which is mounted below the root and thus read-only.
pub fn paths() -> Result<RulesetCreated, RulesetError> {
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(LANDLOCK))?
        .scope(Scope::Signal | Scope::AbstractUnixSocket)?
        .create()?;
    let open = |path: &str| PathFd::new(path).ok();
    if let Some(root) = open("/") {
        rules = rules.add_rule(PathBeneath::new(root, AccessFs::from_read(LANDLOCK)))?;
    }
    for dir in WRITABLE_DIRS.into_iter().filter_map(open) {
        rules = rules.add_rule(PathBeneath::new(dir, AccessFs::from_all(LANDLOCK)))?;
    }
    for device in crate::staging::DEVICES.iter().filter_map(|name| open(&format!("/dev/{name}"))) {
        rules = rules.add_rule(PathBeneath::new(device, AccessFs::from_file(LANDLOCK)))?;
    }
    Ok(rules)
}

fn start_program(order: &Order) -> Failure {
    let pairs = order.environment.iter().map(|(name, value)| CString::new(format!("{name}={value}")));
    let environment: Vec<CString> = match pairs.collect() {
        Ok(environment) => environment,
        Err(error) => return at("environment", "hold a NUL")(error),
    };
    let Some((program, arguments)) = &order.interpreter else { return start_bootstrap(&environment) };
    execute(program, arguments, &environment)
}

/// Executes an interpreter. Returns only on failure.
pub fn execute(program: &Path, arguments: &[String], environment: &[CString]) -> Failure {
    let texts = std::iter::once(program.as_os_str().as_bytes().to_vec())
        .chain(arguments.iter().map(|argument| argument.clone().into_bytes()));
    let arguments: Vec<CString> = match texts.map(CString::new).collect() {
        Ok(arguments) => arguments,
        Err(error) => return at("interpreter", "hold a NUL")(error),
    };
    let errno = sys::exec(&arguments[0], &arguments, environment);
    at("interpreter", &format!("execute {}", program.display()))(errno)
}

fn start_bootstrap(environment: &[CString]) -> Failure {
    let mut errno = Errno::NOENT;
    for path in BOOTSTRAPS {
        errno = sys::exec(path, &[path.to_owned()], environment);
        if errno != Errno::NOENT {
            break;
        }
    }
    at(STAGE_ENTRYPOINT, "neither /var/task/bootstrap nor /opt/bootstrap can be executed")(errno)
}
