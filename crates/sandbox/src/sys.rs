//! System calls that no safe crate offers, each behind a safe function.

use rustix::io::Errno;
use rustix::process::Pid;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

type Result<T> = std::result::Result<T, Errno>;

fn check(value: libc::c_long) -> Result<libc::c_long> {
    if value >= 0 {
        return Ok(value);
    }
    Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL))
}

/// Which side of a fork this is.
pub enum Fork {
    /// The new process.
    Child,
    /// The old one.
    Parent(Process),
}

/// A child process that has not been waited for.
#[derive(Debug)]
pub struct Process {
    /// Its id, valid until it is waited for.
    pub pid: Pid,
    /// Readable when it has ended.
    pub pidfd: OwnedFd,
}

impl Process {
    /// Waits for the end, or looks whether it has come. `None`: not yet.
    pub fn wait(&self, block: bool) -> Result<Option<api::launcher::ExitStatus>> {
        use rustix::process::{WaitId, WaitIdOptions, waitid};
        let mut options = WaitIdOptions::EXITED;
        options.set(WaitIdOptions::NOHANG, !block);
        let status = rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(self.pidfd.as_fd()), options))?;
        Ok(status.map(|status| match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => api::launcher::ExitStatus::Code(code),
            (None, signal) => api::launcher::ExitStatus::Signal(signal.unwrap_or(libc::SIGKILL)),
        }))
    }

    /// Waits for the end, so long at most. The process remains to be waited for.
    pub fn has_ended_within(&self, wait_ms: u64) -> bool {
        is_readable_within(self.pidfd.as_fd(), wait_ms)
    }

    /// Sends a signal; a process that has ended is no error.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, signal);
    }
}

/// Waits until something can be read, so long at most.
pub fn is_readable_within(file: BorrowedFd<'_>, wait_ms: u64) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let nanos = (wait_ms % 1_000) * 1_000_000;
    let timeout = Timespec { tv_sec: (wait_ms / 1_000) as i64, tv_nsec: nanos as _ };
    let mut watched = [PollFd::new(&file, PollFlags::IN)];
    rustix::io::retry_on_intr(|| poll(&mut watched, Some(&timeout))).is_ok_and(|ready| ready > 0)
}

/// From `linux/sched.h`; libc's constant of this name is too narrow.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Forks with new namespaces, and on cgroup v2 directly into a cgroup. The caller is single-threaded: the child may
/// use everything.
pub fn fork(namespaces: libc::c_int, cgroup: Option<BorrowedFd<'_>>) -> Result<Fork> {
    fork_with(namespaces, libc::SIGCHLD, cgroup)
}

/// The same, but the parent of the new process is the caller's parent.
pub fn fork_for_parent(namespaces: libc::c_int, cgroup: Option<BorrowedFd<'_>>) -> Result<Fork> {
    // Its parent hears of its end as it would hear of ours (`copy_process` in kernel/fork.c).
    fork_with(namespaces | libc::CLONE_PARENT, 0, cgroup)
}

fn fork_with(flags: libc::c_int, exit_signal: libc::c_int, cgroup: Option<BorrowedFd<'_>>) -> Result<Fork> {
    // SAFETY: clone_args is plain integers, for which zero is valid.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    let mut pidfd: RawFd = -1;
    args.flags = (flags | libc::CLONE_PIDFD) as u64;
    args.pidfd = (&raw mut pidfd) as u64;
    args.exit_signal = exit_signal as u64;
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: without CLONE_VM this is a fork: the child runs on a copy of this memory and of this stack. There is no
    // other thread whose locks the child could inherit.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) })?;
    match Pid::from_raw(pid as i32) {
        None => Ok(Fork::Child),
        // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
        Some(pid) => Ok(Fork::Parent(Process { pid, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } })),
    }
}

/// Moves this process into new namespaces.
pub fn unshare(namespaces: libc::c_int) -> Result<()> {
    // SAFETY: only namespace flags are passed; no memory or descriptor table is unshared.
    check(unsafe { libc::unshare(namespaces) }.into()).map(drop)
}

/// Moves this process into a network namespace.
pub fn enter_network(namespace: BorrowedFd<'_>) -> Result<()> {
    rustix::thread::move_into_link_name_space(namespace, Some(rustix::thread::LinkNameSpaceType::Network))
}

/// Ends this process without running anything of Rust's or C's at exit.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: ends the process; never returns.
    unsafe { libc::_exit(code) }
}

/// Overwrites what `/proc/<pid>/cmdline` and `/proc/<pid>/environ` show of this process, and names it. For a freshly
/// forked child, which has copies of its own and uses neither.
pub fn forget_command_line(name: &CStr) -> std::io::Result<()> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The second field, a name in brackets, may hold anything; fields 48 to 51 are the bounds of both (proc(5)).
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let bound = |field: usize| fields.get(field - 3).and_then(|text| text.parse::<usize>().ok()).unwrap_or(0);
    for (start, end) in [(bound(48), bound(49)), (bound(50), bound(51))] {
        if start == 0 || end < start {
            return Err(std::io::ErrorKind::InvalidData.into());
        }
        // SAFETY: the kernel has put the process's initial arguments and environment between these bounds, on the
        // stack, where they stay mapped and writable. No reference to them exists: nothing that runs in this child
        // asks for arguments or environment. What C keeps are pointers, which now point to empty texts.
        unsafe { std::ptr::write_bytes(std::ptr::with_exposed_provenance_mut::<u8>(start), 0, end - start) };
    }
    Ok(rustix::thread::set_name(name)?)
}

/// Anonymous memory in one piece of at least so many bytes is an allocator's: what else a process of ours has, its stack
/// and what belongs to its thread, is far smaller.
const ARENA_BYTES_MIN: usize = 1 << 20;
/// Pieces of memory that allocators have, at most.
const ARENAS_MAX: usize = 8;

/// Where the allocators have their memory, the C library's and our own: first addresses, and how many bytes.
fn arenas() -> [Option<(usize, usize)>; ARENAS_MAX] {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let mut found = maps.lines().filter_map(|line| {
        let mut fields = line.split_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let (rights, name) = (fields.next()?, fields.nth(3));
        let start = usize::from_str_radix(start, 16).ok()?;
        let bytes = usize::from_str_radix(end, 16).ok()?.checked_sub(start)?;
        let is_arena = name == Some("[heap]") || (name.is_none() && bytes >= ARENA_BYTES_MIN);
        (rights == "rw-p" && is_arena).then_some((start, bytes))
    });
    std::array::from_fn(|_| found.next())
}

/// Reaps children, of which the kernel tells by a blocked SIGCHLD, until this process is ended from outside. That needs no
/// memory, so the heaps go back to the kernel; nothing is allocated, freed or looked at on them any more.
pub fn reap_for_ever() -> ! {
    use rustix::process::{WaitOptions, wait};
    let watched = Signals::of(&[libc::SIGCHLD]);
    for (start, bytes) in arenas().into_iter().flatten() {
        // SAFETY: the range is an allocator's own. This loop and the one below uses integers on the stack only, is never left, and
        // this process has one thread: nobody misses what was there.
        unsafe { libc::madvise(std::ptr::with_exposed_provenance_mut(start), bytes, libc::MADV_DONTNEED) };
    }
    loop {
        while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
        let _ = watched.wait();
    }
}

/// Closes every descriptor that is not in `keep`.
pub fn close_all_but(keep: &[RawFd]) -> Result<()> {
    let mut keep: Vec<u32> = keep.iter().map(|fd| *fd as u32).collect();
    keep.sort_unstable();
    let mut first = 0;
    for fd in keep {
        if fd > first {
            close_range(first, fd - 1, 0)?;
        }
        first = fd + 1;
    }
    close_range(first, u32::MAX, 0)
}

/// Marks every descriptor from `first` on to be closed by exec.
pub fn close_on_exec_from(first: u32) -> Result<()> {
    close_range(first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC)
}

fn close_range(first: u32, last: u32, flags: libc::c_uint) -> Result<()> {
    // SAFETY: takes integers only. The callers are freshly forked children that own no descriptor as a Rust value but
    // those they keep.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) }).map(drop)
}

/// A set of signals.
pub struct Signals(libc::sigset_t);

impl Signals {
    /// The given signals.
    pub fn of(signals: &[libc::c_int]) -> Signals {
        // SAFETY: sigset_t is plain integers; sigemptyset makes it a valid set.
        let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: the pointer is to a live set; sigaddset checks the number.
        unsafe { libc::sigemptyset(&raw mut set) };
        for signal in signals {
            // SAFETY: as above.
            unsafe { libc::sigaddset(&raw mut set, *signal) };
        }
        Signals(set)
    }

    /// Makes this the set of blocked signals.
    pub fn block_only(&self) -> Result<()> {
        // SAFETY: the pointer is to a live set; the old set is not asked for.
        check(unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const self.0, std::ptr::null_mut()) }.into()).map(drop)
    }

    /// A non-blocking descriptor from which the signals can be read.
    pub fn descriptor(&self) -> Result<OwnedFd> {
        let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
        // SAFETY: the pointer is to a live set.
        let fd = check(unsafe { libc::signalfd(-1, &raw const self.0, flags) }.into())?;
        // SAFETY: the kernel has just made this descriptor for us.
        Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
    }

    /// Waits for one of the signals, which must be blocked.
    pub fn wait(&self) -> Result<libc::c_int> {
        // SAFETY: the pointer is to a live set; no details are asked for.
        check(unsafe { libc::sigwaitinfo(&raw const self.0, std::ptr::null_mut()) }.into()).map(|s| s as libc::c_int)
    }
}

/// Reads one signal from a descriptor of [`Signals::descriptor`]; `None` when there is none.
pub fn read_signal(descriptor: BorrowedFd<'_>) -> Option<libc::c_int> {
    let mut bytes = [0u8; size_of::<libc::signalfd_siginfo>()];
    let read = rustix::io::retry_on_intr(|| rustix::io::read(descriptor, &mut bytes)).ok()?;
    // The signal's number is the first field, a 32-bit integer (signalfd(2)).
    (read >= 4).then(|| i32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

/// Gives every signal its default action.
pub fn reset_signal_actions() {
    for signal in 1..=64 {
        // SAFETY: SIG_DFL runs no code of ours; numbers that cannot be changed are refused by the kernel.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Replaces this process by a program. Returns only on failure.
pub fn exec(path: &CStr, arguments: &[CString], environment: &[CString]) -> Errno {
    let pointers = |texts: &[CString]| -> Vec<*const libc::c_char> {
        texts.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    // SAFETY: both arrays end with a null pointer and live, like their texts, until the call returns.
    unsafe { libc::execve(path.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL)
}

/// Sets attributes (`MOUNT_ATTR_*`) on the mount that `tree` is the root of, and with `recursive` on all below.
pub fn mount_set(tree: BorrowedFd<'_>, attributes: u64, recursive: bool) -> Result<()> {
    let attr = libc::mount_attr { attr_set: attributes, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    let size = size_of::<libc::mount_attr>();
    // SAFETY: the path is an empty C string, and the structure lives until the call returns.
    let done =
        unsafe { libc::syscall(libc::SYS_mount_setattr, tree.as_raw_fd(), c"".as_ptr(), flags, &raw const attr, size) };
    check(done).map(drop)
}

/// An event counter, non-blocking.
pub fn eventfd() -> Result<OwnedFd> {
    // SAFETY: takes integers only.
    let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) }.into())?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// The number of a loop device that is free at this moment.
pub fn loop_free_number(control: BorrowedFd<'_>) -> Result<u32> {
    // SAFETY: LOOP_CTL_GET_FREE takes no argument.
    let number = check(unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) }.into())?;
    Ok(number as u32)
}

/// Attaches a file to a loop device, which frees itself when its last user is gone. Past the page cache where the
/// file's system can do so: the guest's file system has its own.
pub fn loop_configure(device: BorrowedFd<'_>, file: BorrowedFd<'_>) -> Result<()> {
    let mut config = LoopConfig { fd: file.as_raw_fd() as u32, block_size: 0, info: [0; 58], reserved: [0; 8] };
    config.info[LOOP_INFO_FLAGS] = LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO;
    // SAFETY: the structure has the layout of the kernel's struct loop_config and lives until the call returns.
    check(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const config) }.into()).map(drop)
}

/// Lets an ext4 file system forget everything that is not on the disk, and fail whatever is asked of it from now on.
pub fn ext4_shut_down(top: BorrowedFd<'_>) -> Result<()> {
    let flags: u32 = EXT4_SHUTDOWN_NOLOGFLUSH;
    // SAFETY: the pointer is to a live integer of the type that the request asks for.
    check(unsafe { libc::ioctl(top.as_raw_fd(), EXT4_IOC_SHUTDOWN, &raw const flags) }.into()).map(drop)
}

// linux/loop.h
const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4c82;
const LOOP_CONFIGURE: libc::Ioctl = 0x4c0a;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_DIRECT_IO: u32 = 16;
/// Where struct loop_info64 has its flags, counted in 32-bit words: behind five 64-bit and three 32-bit fields.
const LOOP_INFO_FLAGS: usize = 13;
// fs/ext4/ext4.h: _IOR('X', 125, __u32)
const EXT4_IOC_SHUTDOWN: libc::Ioctl = 0x8004_587d;
const EXT4_SHUTDOWN_NOLOGFLUSH: u32 = 2;

/// struct loop_config of linux/loop.h; its struct loop_info64 as 58 words of 32 bits.
#[repr(C, align(8))]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: [u32; 58],
    reserved: [u64; 8],
}

/// The version of the kernel's Landlock, `None` if it has none or it is switched off.
pub fn landlock_version() -> Option<u32> {
    /// `LANDLOCK_CREATE_RULESET_VERSION` of linux/landlock.h.
    const VERSION: libc::c_uint = 1;
    let none = std::ptr::null::<libc::c_void>();
    // SAFETY: with this flag the call takes a null pointer and size zero, and returns a number.
    let version = check(unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0usize, VERSION) });
    version.ok().and_then(|version| u32::try_from(version).ok())
}
