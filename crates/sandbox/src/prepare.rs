//! From a configuration to a launcher that is ready to run: namespaces, clean-up of an earlier run, staging, daemon.

use crate::cgroup::Cgroups;
use crate::config::{Config, Subnet, key_of};
use crate::interpreters::{HOST_ROOT, Interpreters};
use crate::launcher::Launcher;
use crate::staging::{Staging, make_dir};
use crate::sys::{self, Fork};
use crate::wire;
use api::launcher::Mode;
use rustix::fs::{AtFlags, FlockOperation, OFlags};
use rustix::process::{Gid, Signal, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Entries of the data folder whose owner is changed at the first start, at most.
const CHOWN_MAX: u32 = 10_000_000;
/// The folder of all launchers of root: what they stage, and who has which subnet.
const RUN_DIR: &str = "/run/tidegate";
/// Depth of folders in the data folder, at most.
const DEPTH_MAX: u32 = 64;

/// Why the launcher cannot be prepared.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The data folder cannot be made or opened.
    #[error("open the data folder {}", .path.display())]
    DataDir {
        /// The folder.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Another launcher uses the data folder.
    #[error("the data folder {} is in use by another tidegate", .path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// This machine lets this user make no namespaces.
    #[error(
        "make a user namespace; run as root, or allow unprivileged user namespaces \
         (sysctl kernel.unprivileged_userns_clone=1, user.max_user_namespaces, \
         kernel.apparmor_restrict_unprivileged_userns=0)"
    )]
    UserNamespace(#[source] io::Error),
    /// The launcher's own mount namespace could not be made.
    #[error("make a mount namespace")]
    MountNamespace(#[source] io::Error),
    /// The data folder could not be given to the daemon's user.
    #[error("give the data folder {} to the daemon's user", .path.display())]
    Chown {
        /// The folder.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The staging folder could not be made.
    #[error("make the staging folder {}", .path.display())]
    Staging {
        /// The folder.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The daemon could not be started.
    #[error("start the daemon")]
    Daemon(#[source] io::Error),
    /// The subnet has too few addresses, or the user ids do not fit 32 bits.
    #[error("{instances} instances need more addresses or user ids than the configuration gives")]
    TooMany {
        /// As configured.
        instances: u32,
    },
}

/// Everything that is made before the daemon starts.
pub struct Prepared {
    pub(crate) config: Config,
    pub(crate) mode: Mode,
    pub(crate) staging: Staging,
    pub(crate) cgroups: Cgroups,
    pub(crate) interpreters: Interpreters,
    pub(crate) key: String,
    /// The folder for scratch images, or why there is none.
    pub(crate) scratch_folder: Result<OwnedFd, String>,
    daemon_data_dir: PathBuf,
    /// The open data folder, locked while the launcher or the daemon lives.
    lock: OwnedFd,
    subnet_lock: Option<OwnedFd>,
}

/// Makes everything that the daemon needs before it starts. The caller has one thread only: this moves it into new
/// namespaces.
pub fn prepare(mut config: Config) -> Result<Prepared, Error> {
    check_counts(&config)?;
    raise_open_files();
    let (path, lock) = open_data_dir(&config.data_dir)?;
    let mode = choose_mode(&config);
    enter_namespaces(mode)?;
    let data = reopen(&path)?;
    let key = key_of(&path);
    let cgroups = Cgroups::detect(mode, &key);
    if mode == Mode::Root {
        let (uid, gid) = daemon_ids(&config);
        give(data.as_fd(), uid, gid).map_err(|source| Error::Chown { path: path.clone(), source })?;
    }
    let subnet_lock = if mode == Mode::Root { take_subnet(&mut config) } else { None };
    let packages = open_packages(data.as_fd(), &config, mode)
        .map_err(|source| Error::DataDir { path: path.join("packages"), source })?;
    let dir = match mode {
        Mode::Root => Path::new(RUN_DIR).join(&key),
        Mode::UserNamespace => path.join("stage"),
    };
    let staged = stage(&dir, data.as_fd(), packages.as_fd(), mode, &config);
    let (staging, interpreters) = staged.map_err(|source| Error::Staging { path: dir, source })?;
    let daemon_data_dir = match mode {
        Mode::Root => staging.path("data"),
        Mode::UserNamespace => path,
    };
    let scratch_folder = open_scratch_folder(data.as_fd(), mode);
    Ok(Prepared {
        config,
        mode,
        key,
        staging,
        cgroups,
        interpreters,
        scratch_folder,
        daemon_data_dir,
        lock,
        subnet_lock,
    })
}

/// Takes a subnet that no other server of this machine has, where the configuration leaves that to us: the first whose
/// lock is free. Without any, the one of the data folder will have to do. One that is configured is locked as well, so
/// that nobody else chooses it.
fn take_subnet(config: &mut Config) -> Option<OwnedFd> {
    let folder = Path::new(RUN_DIR).join("subnets");
    make_dir(&folder).ok()?;
    let flags = OFlags::RDONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let lock = |subnet: Subnet| {
        let name = folder.join(subnet.address.to_string());
        let lock = rustix::fs::open(name, flags, rustix::fs::Mode::from_raw_mode(0o600)).ok()?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).ok()?;
        Some((subnet, lock))
    };
    let taken = if config.subnet_is_any { config.subnet.others().find_map(lock) } else { lock(config.subnet) };
    let (subnet, lock) = taken?;
    config.subnet = subnet;
    Some(lock)
}

/// Each instance costs a handful of descriptors here and in the daemon; shells often allow only 1,024 at first.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    // Refused only if the limit is there already.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

fn check_counts(config: &Config) -> Result<(), Error> {
    // The first four addresses are for the name server.
    let addresses = config.subnet.addresses() / 4 - 1;
    let last_id = config.uid_base.checked_add(config.slots()).and_then(|id| id.checked_add(1));
    if config.slots() > addresses || last_id.is_none_or(|id| id == u32::MAX) {
        return Err(Error::TooMany { instances: config.instances_max });
    }
    Ok(())
}

fn open_data_dir(path: &Path) -> Result<(PathBuf, OwnedFd), Error> {
    let fail = |source: io::Error| Error::DataDir { path: path.to_owned(), source };
    make_dir(path).map_err(fail)?;
    let path = fs::canonicalize(path).map_err(fail)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let lock = rustix::fs::open(&path, flags, rustix::fs::Mode::empty()).map_err(|errno| fail(errno.into()))?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok((path, lock)),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::InUse { path }),
        Err(errno) => Err(fail(errno.into())),
    }
}

/// The folder for scratch images is root's own inside the daemon's; it is opened once, and never by name again.
fn open_scratch_folder(data: BorrowedFd<'_>, mode: Mode) -> Result<OwnedFd, String> {
    if mode == Mode::UserNamespace {
        return Err("only root can attach loop devices".into());
    }
    let folder = || -> io::Result<OwnedFd> {
        use rustix::fs::{Mode as Bits, ResolveFlags, mkdirat, openat2};
        let made = mkdirat(data, "scratch", Bits::from_raw_mode(0o700));
        if made.is_err_and(|errno| errno != rustix::io::Errno::EXIST) {
            made?;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = openat2(data, "scratch", flags, Bits::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)?;
        rustix::fs::fchown(&folder, Some(Uid::ROOT), Some(Gid::ROOT))?;
        rustix::fs::fchmod(&folder, Bits::from_raw_mode(0o700))?;
        Ok(folder)
    };
    folder().map_err(|error| error.to_string())
}

/// An error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// The folder as the new mount namespace has it: only what is opened there can be mounted elsewhere.
fn reopen(path: &Path) -> Result<OwnedFd, Error> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, rustix::fs::Mode::empty())
        .map_err(|errno| Error::DataDir { path: path.to_owned(), source: errno.into() })
}

/// Root needs the capability to make namespaces and mounts, and user ids to give away.
pub(crate) fn choose_mode(config: &Config) -> Mode {
    let capable = rustix::thread::capabilities(None)
        .is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN | CapabilitySet::SETUID));
    let last = config.zygote_uid();
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let covered = map.lines().any(|line| {
        let numbers: Vec<u64> = line.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        matches!(numbers[..], [first, _, count] if first <= config.uid_base.into() && first + count > last.into())
    });
    if rustix::process::geteuid().is_root() && capable && covered { Mode::Root } else { Mode::UserNamespace }
}

fn enter_namespaces(mode: Mode) -> Result<(), Error> {
    if mode == Mode::UserNamespace {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        enter_user_namespace(uid, gid).map_err(Error::UserNamespace)?;
    }
    let make = || -> io::Result<()> {
        sys::unshare(libc::CLONE_NEWNS)?;
        use rustix::mount::MountPropagationFlags as Propagation;
        Ok(rustix::mount::mount_change("/", Propagation::PRIVATE | Propagation::REC)?)
    };
    make().map_err(Error::MountNamespace)
}

/// Becomes "root" of a new user namespace that knows only the caller's own ids.
pub(crate) fn enter_user_namespace(uid: u32, gid: u32) -> io::Result<()> {
    sys::unshare(libc::CLONE_NEWUSER)?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
}

fn daemon_ids(config: &Config) -> (Uid, Gid) {
    (Uid::from_raw(config.uid_base), Gid::from_raw(config.uid_base))
}

/// Gives the folder and all in it to the daemon, once: the folder itself last, so that an interrupted walk is done
/// again.
fn give(dir: BorrowedFd<'_>, uid: Uid, gid: Gid) -> io::Result<()> {
    let stat = rustix::fs::fstat(dir)?;
    if stat.st_uid == uid.as_raw() && stat.st_gid == gid.as_raw() {
        return Ok(());
    }
    let mut left = CHOWN_MAX;
    give_entries(dir, uid, gid, &mut left, DEPTH_MAX)?;
    Ok(rustix::fs::fchown(dir, Some(uid), Some(gid))?)
}

/// Links are not followed; a file with several names may belong to somebody else and is left alone.
fn give_entries(dir: BorrowedFd<'_>, uid: Uid, gid: Gid, left: &mut u32, depth: u32) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        *left = left.checked_sub(1).ok_or_else(|| io::Error::other("too many files"))?;
        let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
        if kind.is_dir() {
            let depth = depth.checked_sub(1).ok_or_else(|| io::Error::other("folders too deep"))?;
            let child = rustix::fs::openat(dir, name, flags, rustix::fs::Mode::empty())?;
            give_entries(child.as_fd(), uid, gid, left, depth)?;
            rustix::fs::fchown(&child, Some(uid), Some(gid))?;
        } else if stat.st_nlink == 1 {
            rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        }
    }
    Ok(())
}

/// The folder of packages, which guests must be able to pass through, but not to list.
fn open_packages(data: BorrowedFd<'_>, config: &Config, mode: Mode) -> io::Result<OwnedFd> {
    use rustix::fs::{Mode as Bits, ResolveFlags, mkdirat, openat2};
    let made = mkdirat(data, "packages", Bits::from_raw_mode(0o711));
    if made.is_err_and(|errno| errno != rustix::io::Errno::EXIST) {
        made?;
    }
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let packages = openat2(data, "packages", flags, Bits::empty(), resolve)?;
    if mode == Mode::Root {
        let (uid, gid) = daemon_ids(config);
        rustix::fs::fchown(&packages, Some(uid), Some(gid))?;
    }
    let bits = rustix::fs::fstat(&packages)?.st_mode;
    rustix::fs::fchmod(&packages, Bits::from_raw_mode((bits & 0o777) | 0o711))?;
    Ok(packages)
}

fn stage(
    dir: &Path,
    data: BorrowedFd<'_>,
    packages: BorrowedFd<'_>,
    mode: Mode,
    config: &Config,
) -> io::Result<(Staging, Interpreters)> {
    let staging = Staging::create(dir)?;
    if mode == Mode::Root {
        staging.bind_open(data, "data", false)?;
    }
    staging.bind_open(packages, "packages", true)?;
    staging.make_root(HOST_ROOT, None, config)?;
    let interpreters = Interpreters::from_config(config, &staging)?;
    Ok((staging, interpreters))
}

impl Prepared {
    /// How sandboxes will be made.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The path at which the daemon finds the data folder.
    pub fn daemon_data_dir(&self) -> &Path {
        &self.daemon_data_dir
    }

    /// Forks the daemon: without privilege, it runs `daemon` with its end of the socket and the path of the data
    /// folder, and exits with the code that this returns.
    pub fn spawn_daemon(self, daemon: impl FnOnce(OwnedFd, PathBuf) -> i32) -> Result<Launcher, Error> {
        let (ours, theirs) = wire::pair().map_err(|error| Error::Daemon(io::Error::other(error)))?;
        match sys::fork(0, None).map_err(|errno| Error::Daemon(errno.into()))? {
            Fork::Parent(process) => {
                drop(theirs);
                Ok(Launcher::new(self, process, ours))
            }
            Fork::Child => {
                drop(ours);
                let Prepared { config, mode, daemon_data_dir, lock, subnet_lock, .. } = self;
                // The locks' open files stay with the daemon: nobody else may use folder and subnet while it lives.
                std::mem::forget((lock, subnet_lock));
                if let Err(errno) = become_daemon(&config, mode) {
                    eprintln!("tidegate: give up privilege for the daemon: {errno}");
                    sys::exit_now(1);
                }
                let code = daemon(theirs, daemon_data_dir);
                std::process::exit(code)
            }
        }
    }
}

/// Gives up all privilege for ever. In user mode the daemon stays "root" of the launcher's user namespace, without any
/// capability.
fn become_daemon(config: &Config, mode: Mode) -> rustix::io::Result<()> {
    use rustix::process::{set_parent_process_death_signal, setpgid};
    use rustix::thread::{self, CapabilitiesSecureBits as Bits};
    // A terminal's Ctrl-C is for the launcher, which passes it on once.
    let _ = setpgid(None, None);
    for capability in CapabilitySet::all().iter() {
        let _ = thread::remove_capability_from_bounding_set(capability);
    }
    // Without this, exec by "root" of a user namespace would bring capabilities back.
    thread::set_capabilities_secure_bits(Bits::NO_ROOT | Bits::NO_ROOT_LOCKED)?;
    if mode == Mode::Root {
        let (uid, gid) = daemon_ids(config);
        thread::set_thread_groups(&[])?;
        thread::set_thread_res_gid(gid, gid, gid)?;
        thread::set_thread_res_uid(uid, uid, uid)?;
    }
    thread::clear_ambient_capability_set()?;
    let none = CapabilitySet::empty();
    thread::set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    thread::set_no_new_privs(true)?;
    set_parent_process_death_signal(Some(Signal::KILL))
}
