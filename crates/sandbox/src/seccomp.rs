//! The filter of system calls that a guest may make.
//!
//! An allow-list: what is known and not named fails with EPERM, what is newer than this list with ENOSYS, so that
//! programs fall back to what they used before. Built once as a balanced search tree over ranges of numbers, because
//! the kernel's cost at installation grows with the length of the path to each number.

use seccompiler::{BpfProgram, sock_filter};
use std::collections::BTreeMap;

#[cfg(target_arch = "x86_64")]
const AUDIT_ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const AUDIT_ARCH: u32 = 0xc000_00b7;

/// The first number above those that this list knows (Linux 6.18); such calls fail with ENOSYS.
const FIRST_UNKNOWN: u32 = 470;

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Allow,
    /// Fails with this error number.
    Refuse(u16),
    /// Depends on an argument.
    Test(Test),
}

/// Conditions on one argument; the call is otherwise refused with EPERM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Test {
    /// Argument 0 holds none of the flags that make namespaces.
    CloneFlags,
    /// Argument 1 is not one of the requests that put characters into a terminal's input.
    IoctlRequest,
    /// Argument 0 asks for the personality or sets the ordinary one.
    Personality,
    /// Argument 0 is an allowed address family; NETLINK additionally only for routes (argument 2).
    SocketFamily,
}

const EPERM: u16 = libc::EPERM as u16;
const ENOSYS: u16 = libc::ENOSYS as u16;

// Offsets in struct seccomp_data (linux/seccomp.h); the low half of a little-endian argument comes first.
const DATA_NUMBER: u32 = 0;
const DATA_ARCH: u32 = 4;
const fn data_argument(index: u32) -> u32 {
    16 + 8 * index
}

const RET_ALLOW: u32 = 0x7fff_0000;
const RET_ERRNO: u32 = 0x0005_0000;
const RET_KILL_PROCESS: u32 = 0x8000_0000;
const LOAD: u16 = 0x20;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_AT_LEAST: u16 = 0x35;
const JUMP_ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;

fn op(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}

fn jump(code: u16, k: u32, jt: usize, jf: usize) -> sock_filter {
    // Distances are checked by `tree`, which is the only place where they can grow.
    sock_filter { code, jt: jt.min(255) as u8, jf: jf.min(255) as u8, k }
}

fn errno(code: u16) -> sock_filter {
    op(RETURN, RET_ERRNO | u32::from(code))
}

/// The program, to be installed with `seccompiler::apply_filter` as the last step before exec.
pub fn program() -> BpfProgram {
    program_with(&[])
}

/// The same for zygotes, which may enter namespaces; their children forbid themselves that.
pub fn program_of_zygote() -> BpfProgram {
    program_with(&[libc::SYS_setns])
}

fn program_with(more: &[libc::c_long]) -> BpfProgram {
    let mut verdicts: BTreeMap<u32, Verdict> = BTreeMap::new();
    for number in ALLOWED.iter().chain(ALLOWED_HERE).chain(more) {
        verdicts.insert(*number as u32, Verdict::Allow);
    }
    for (number, verdict) in [
        (libc::SYS_clone, Verdict::Test(Test::CloneFlags)),
        (libc::SYS_ioctl, Verdict::Test(Test::IoctlRequest)),
        (libc::SYS_personality, Verdict::Test(Test::Personality)),
        (libc::SYS_socket, Verdict::Test(Test::SocketFamily)),
        // clone3's flags are behind a pointer, out of a filter's sight; ENOSYS makes C libraries use clone.
        (libc::SYS_clone3, Verdict::Refuse(ENOSYS)),
    ] {
        verdicts.insert(number as u32, verdict);
    }
    let mut program = vec![
        op(LOAD, DATA_ARCH),
        jump(JUMP_EQUAL, AUDIT_ARCH, 1, 0),
        op(RETURN, RET_KILL_PROCESS),
        op(LOAD, DATA_NUMBER),
    ];
    program.extend(tree(&ranges(&verdicts)));
    program
}

/// Consecutive numbers with one verdict become one range: its first number and the verdict.
fn ranges(verdicts: &BTreeMap<u32, Verdict>) -> Vec<(u32, Verdict)> {
    let mut ranges: Vec<(u32, Verdict)> = Vec::new();
    for number in 0..=FIRST_UNKNOWN {
        let default = if number < FIRST_UNKNOWN { Verdict::Refuse(EPERM) } else { Verdict::Refuse(ENOSYS) };
        let verdict = verdicts.get(&number).copied().unwrap_or(default);
        if ranges.last().is_none_or(|(_, last)| *last != verdict) {
            ranges.push((number, verdict));
        }
    }
    ranges
}

/// Searches the number in the accumulator. `ranges` is not empty. A jump reaches 255 instructions: a longer left half
/// is passed by an unconditional jump.
fn tree(ranges: &[(u32, Verdict)]) -> Vec<sock_filter> {
    if let [(_, verdict)] = ranges {
        return leaf(*verdict);
    }
    let (left, right) = ranges.split_at(ranges.len() / 2);
    let pivot = right[0].0;
    let (left, right) = (tree(left), tree(right));
    let mut code = if left.len() <= 255 {
        vec![jump(JUMP_AT_LEAST, pivot, left.len(), 0)]
    } else {
        // BPF_JMP | BPF_JA takes its distance from the 32-bit operand.
        vec![jump(JUMP_AT_LEAST, pivot, 0, 1), op(0x05, left.len() as u32)]
    };
    code.extend(left);
    code.extend(right);
    code
}

fn leaf(verdict: Verdict) -> Vec<sock_filter> {
    match verdict {
        Verdict::Allow => vec![op(RETURN, RET_ALLOW)],
        Verdict::Refuse(code) => vec![errno(code)],
        Verdict::Test(Test::CloneFlags) => vec![
            op(LOAD, data_argument(0)),
            jump(JUMP_ANY_BIT, NAMESPACE_FLAGS, 1, 0),
            op(RETURN, RET_ALLOW),
            errno(EPERM),
        ],
        Verdict::Test(Test::IoctlRequest) => one_of(1, &[TIOCSTI, TIOCLINUX], errno(EPERM), op(RETURN, RET_ALLOW)),
        Verdict::Test(Test::Personality) => one_of(0, &[0, u32::MAX], op(RETURN, RET_ALLOW), errno(EPERM)),
        Verdict::Test(Test::SocketFamily) => {
            let families = [libc::AF_UNIX as u32, libc::AF_INET as u32, libc::AF_INET6 as u32];
            // The tail is reached when no ordinary family matches: NETLINK for routes, or refusal.
            let mut code = vec![
                op(LOAD, data_argument(0)),
                jump(JUMP_EQUAL, families[0], 6, 0),
                jump(JUMP_EQUAL, families[1], 5, 0),
                jump(JUMP_EQUAL, families[2], 4, 0),
                jump(JUMP_EQUAL, libc::AF_NETLINK as u32, 0, 2),
                op(LOAD, data_argument(2)),
                jump(JUMP_EQUAL, libc::NETLINK_ROUTE as u32, 1, 0),
            ];
            code.extend([errno(libc::EAFNOSUPPORT as u16), op(RETURN, RET_ALLOW)]);
            code
        }
    }
}

/// `hit` when the argument's low half is one of `values`, else `miss`.
fn one_of(argument: u32, values: &[u32], hit: sock_filter, miss: sock_filter) -> Vec<sock_filter> {
    let mut code = vec![op(LOAD, data_argument(argument))];
    for (index, value) in values.iter().enumerate() {
        code.push(jump(JUMP_EQUAL, *value, values.len() - index, 0));
    }
    code.extend([miss, hit]);
    code
}

const TIOCSTI: u32 = 0x5412;
const TIOCLINUX: u32 = 0x541c;
const NAMESPACE_FLAGS: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u32
    | 0x80; // CLONE_NEWTIME, which libc does not name

/// Calls on both architectures, by kind.
#[rustfmt::skip]
const ALLOWED: &[libc::c_long] = &[
    // memory
    libc::SYS_brk, libc::SYS_mmap, libc::SYS_munmap, libc::SYS_mprotect, libc::SYS_mremap, libc::SYS_msync,
    libc::SYS_madvise, libc::SYS_mincore, libc::SYS_mlock, libc::SYS_mlock2, libc::SYS_mlockall, libc::SYS_munlock,
    libc::SYS_munlockall, libc::SYS_membarrier, libc::SYS_memfd_create, libc::SYS_pkey_mprotect, libc::SYS_pkey_alloc,
    libc::SYS_pkey_free, libc::SYS_get_mempolicy, libc::SYS_remap_file_pages, 453, /* map_shadow_stack */ 462, /* mseal */
    // files
    libc::SYS_openat, libc::SYS_openat2, libc::SYS_close, libc::SYS_close_range, libc::SYS_read, libc::SYS_write,
    libc::SYS_readv, libc::SYS_writev, libc::SYS_pread64, libc::SYS_pwrite64, libc::SYS_preadv, libc::SYS_pwritev,
    libc::SYS_preadv2, libc::SYS_pwritev2, libc::SYS_lseek, libc::SYS_fstat, libc::SYS_newfstatat, libc::SYS_statx,
    libc::SYS_statfs, libc::SYS_fstatfs, libc::SYS_faccessat, libc::SYS_faccessat2, libc::SYS_readlinkat,
    libc::SYS_getdents64, libc::SYS_getcwd, libc::SYS_chdir, libc::SYS_fchdir, libc::SYS_mkdirat, libc::SYS_mknodat,
    libc::SYS_unlinkat, libc::SYS_renameat2, libc::SYS_linkat, libc::SYS_symlinkat, libc::SYS_truncate,
    libc::SYS_ftruncate, libc::SYS_fallocate, libc::SYS_fadvise64, libc::SYS_readahead, libc::SYS_fsync,
    libc::SYS_fdatasync, libc::SYS_sync, libc::SYS_syncfs, libc::SYS_sync_file_range, libc::SYS_fchmod,
    libc::SYS_fchmodat, 452, /* fchmodat2 */ libc::SYS_fchown, libc::SYS_fchownat, libc::SYS_utimensat, libc::SYS_flock,
    libc::SYS_fcntl, libc::SYS_dup, libc::SYS_dup3, libc::SYS_pipe2, libc::SYS_splice, libc::SYS_tee,
    libc::SYS_vmsplice, libc::SYS_sendfile, libc::SYS_copy_file_range, libc::SYS_umask, libc::SYS_getxattr,
    libc::SYS_lgetxattr, libc::SYS_fgetxattr, libc::SYS_setxattr, libc::SYS_lsetxattr, libc::SYS_fsetxattr,
    libc::SYS_listxattr, libc::SYS_llistxattr, libc::SYS_flistxattr, libc::SYS_removexattr, libc::SYS_lremovexattr,
    libc::SYS_fremovexattr, libc::SYS_inotify_init1, libc::SYS_inotify_add_watch, libc::SYS_inotify_rm_watch,
    451, /* cachestat */
    // waiting
    libc::SYS_epoll_create1, libc::SYS_epoll_ctl, libc::SYS_epoll_pwait, libc::SYS_epoll_pwait2, libc::SYS_ppoll,
    libc::SYS_pselect6, libc::SYS_eventfd2, libc::SYS_signalfd4, libc::SYS_timerfd_create, libc::SYS_timerfd_settime,
    libc::SYS_timerfd_gettime, libc::SYS_io_setup, libc::SYS_io_destroy, libc::SYS_io_submit, libc::SYS_io_cancel,
    libc::SYS_io_getevents, libc::SYS_futex, libc::SYS_futex_waitv, 454, /* futex_wake */
    455, /* futex_wait */ 456, /* futex_requeue */ libc::SYS_set_robust_list, libc::SYS_get_robust_list,
    // time
    libc::SYS_clock_gettime, libc::SYS_clock_getres, libc::SYS_clock_nanosleep, libc::SYS_nanosleep,
    libc::SYS_gettimeofday, libc::SYS_getitimer, libc::SYS_setitimer, libc::SYS_timer_create, libc::SYS_timer_settime,
    libc::SYS_timer_gettime, libc::SYS_timer_getoverrun, libc::SYS_timer_delete, libc::SYS_times,
    // processes and threads
    libc::SYS_execve, libc::SYS_execveat, libc::SYS_exit, libc::SYS_exit_group, libc::SYS_wait4, libc::SYS_waitid,
    libc::SYS_getpid, libc::SYS_getppid, libc::SYS_gettid, libc::SYS_getpgid, libc::SYS_setpgid, libc::SYS_getsid,
    libc::SYS_setsid, libc::SYS_getuid, libc::SYS_geteuid, libc::SYS_getgid, libc::SYS_getegid, libc::SYS_getresuid,
    libc::SYS_getresgid, libc::SYS_getgroups, libc::SYS_setuid, libc::SYS_setgid, libc::SYS_setreuid,
    libc::SYS_setregid, libc::SYS_setresuid, libc::SYS_setresgid, libc::SYS_setgroups, libc::SYS_setfsuid,
    libc::SYS_setfsgid, libc::SYS_capget, libc::SYS_capset, libc::SYS_prctl, libc::SYS_getrlimit, libc::SYS_setrlimit,
    libc::SYS_prlimit64, libc::SYS_getrusage, libc::SYS_sysinfo, libc::SYS_uname, libc::SYS_getrandom,
    libc::SYS_getcpu, libc::SYS_getpriority, libc::SYS_setpriority, libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity, libc::SYS_sched_setaffinity, libc::SYS_sched_getparam, libc::SYS_sched_setparam,
    libc::SYS_sched_getscheduler, libc::SYS_sched_setscheduler, libc::SYS_sched_getattr, libc::SYS_sched_setattr,
    libc::SYS_sched_get_priority_max, libc::SYS_sched_get_priority_min, libc::SYS_sched_rr_get_interval,
    libc::SYS_ioprio_get, libc::SYS_ioprio_set, libc::SYS_set_tid_address, libc::SYS_rseq, libc::SYS_seccomp,
    libc::SYS_restart_syscall, libc::SYS_pidfd_open, libc::SYS_pidfd_send_signal, libc::SYS_landlock_create_ruleset,
    libc::SYS_landlock_add_rule, libc::SYS_landlock_restrict_self,
    // signals
    libc::SYS_kill, libc::SYS_tkill, libc::SYS_tgkill, libc::SYS_rt_sigaction, libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn, libc::SYS_rt_sigpending, libc::SYS_rt_sigsuspend, libc::SYS_rt_sigtimedwait,
    libc::SYS_rt_sigqueueinfo, libc::SYS_rt_tgsigqueueinfo, libc::SYS_sigaltstack,
    // sockets
    libc::SYS_socketpair, libc::SYS_bind, libc::SYS_listen, libc::SYS_accept, libc::SYS_accept4, libc::SYS_connect,
    libc::SYS_getsockname, libc::SYS_getpeername, libc::SYS_sendto, libc::SYS_recvfrom, libc::SYS_sendmsg,
    libc::SYS_recvmsg, libc::SYS_sendmmsg, libc::SYS_recvmmsg, libc::SYS_setsockopt, libc::SYS_getsockopt,
    libc::SYS_shutdown,
    // System V and POSIX queues, inside the sandbox's own namespace
    libc::SYS_shmget, libc::SYS_shmat, libc::SYS_shmctl, libc::SYS_shmdt, libc::SYS_semget, libc::SYS_semop,
    libc::SYS_semctl, libc::SYS_semtimedop, libc::SYS_msgget, libc::SYS_msgsnd, libc::SYS_msgrcv, libc::SYS_msgctl,
    libc::SYS_mq_open, libc::SYS_mq_unlink, libc::SYS_mq_timedsend, libc::SYS_mq_timedreceive, libc::SYS_mq_notify,
    libc::SYS_mq_getsetattr,
];

/// Calls that only x86_64 has: older forms of the above.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const ALLOWED_HERE: &[libc::c_long] = &[
    libc::SYS_open, libc::SYS_creat, libc::SYS_stat, libc::SYS_lstat, libc::SYS_access, libc::SYS_readlink,
    libc::SYS_getdents, libc::SYS_mkdir, libc::SYS_rmdir, libc::SYS_unlink, libc::SYS_rename, libc::SYS_renameat,
    libc::SYS_link, libc::SYS_symlink, libc::SYS_mknod, libc::SYS_chmod, libc::SYS_chown, libc::SYS_lchown,
    libc::SYS_utime, libc::SYS_utimes, libc::SYS_futimesat, libc::SYS_dup2, libc::SYS_pipe, libc::SYS_poll,
    libc::SYS_select, libc::SYS_epoll_create, libc::SYS_epoll_wait, libc::SYS_epoll_ctl_old, libc::SYS_epoll_wait_old,
    libc::SYS_eventfd, libc::SYS_signalfd, libc::SYS_inotify_init, libc::SYS_fork, libc::SYS_vfork, libc::SYS_getpgrp,
    libc::SYS_pause, libc::SYS_alarm, libc::SYS_time, libc::SYS_arch_prctl,
];

/// Calls that only aarch64 has.
#[cfg(target_arch = "aarch64")]
const ALLOWED_HERE: &[libc::c_long] = &[libc::SYS_renameat];

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the program as the kernel would: number and the low halves of the arguments.
    fn run(program: &[sock_filter], number: u32, arguments: [u32; 6]) -> u32 {
        let (mut accumulator, mut at) = (0u32, 0usize);
        for _ in 0..program.len() {
            let o = &program[at];
            at += 1;
            let jump = |taken: bool| usize::from(if taken { o.jt } else { o.jf });
            match o.code {
                LOAD => {
                    accumulator = match o.k {
                        DATA_NUMBER => number,
                        DATA_ARCH => AUDIT_ARCH,
                        k => arguments[((k - 16) / 8) as usize],
                    }
                }
                JUMP_EQUAL => at += jump(accumulator == o.k),
                JUMP_AT_LEAST => at += jump(accumulator >= o.k),
                JUMP_ANY_BIT => at += jump(accumulator & o.k != 0),
                0x05 => at += o.k as usize,
                RETURN => return o.k,
                other => panic!("unknown instruction {other:#x}"),
            }
        }
        panic!("the program does not end")
    }

    #[test]
    fn verdicts() {
        let program = program();
        assert!(program.len() < 400, "{} instructions", program.len());
        let refused = |code: i32| RET_ERRNO | code as u32;
        let call = |number: libc::c_long, first: u32, second: u32, third: u32| {
            run(&program, number as u32, [first, second, third, 0, 0, 0])
        };
        for number in ALLOWED.iter().chain(ALLOWED_HERE) {
            assert_eq!(call(*number, 0, 0, 0), RET_ALLOW, "{number}");
        }
        for number in [libc::SYS_mount, libc::SYS_ptrace, libc::SYS_unshare, libc::SYS_bpf, libc::SYS_io_uring_setup] {
            assert_eq!(call(number, 0, 0, 0), refused(libc::EPERM), "{number}");
        }
        assert_eq!(call(libc::SYS_clone, libc::CLONE_VM as u32, 0, 0), RET_ALLOW);
        assert_eq!(call(libc::SYS_clone, libc::CLONE_NEWUSER as u32, 0, 0), refused(libc::EPERM));
        assert_eq!(call(libc::SYS_clone3, 0, 0, 0), refused(libc::ENOSYS));
        assert_eq!(call(470, 0, 0, 0), refused(libc::ENOSYS));
        assert_eq!(call(0x4000_0001, 0, 0, 0), refused(libc::ENOSYS));
        assert_eq!(call(libc::SYS_ioctl, 3, TIOCSTI, 0), refused(libc::EPERM));
        assert_eq!(call(libc::SYS_ioctl, 3, TIOCLINUX, 0), refused(libc::EPERM));
        assert_eq!(call(libc::SYS_ioctl, 3, 0x5401, 0), RET_ALLOW);
        assert_eq!(call(libc::SYS_personality, 0, 0, 0), RET_ALLOW);
        assert_eq!(call(libc::SYS_personality, u32::MAX, 0, 0), RET_ALLOW);
        assert_eq!(call(libc::SYS_personality, 0x0040_0000, 0, 0), refused(libc::EPERM));
    }

    #[test]
    fn socket_families() {
        let program = program();
        let socket = |family: i32, protocol: i32| {
            run(&program, libc::SYS_socket as u32, [family as u32, 1, protocol as u32, 0, 0, 0]) == RET_ALLOW
        };
        for (family, protocol, allowed) in [
            (libc::AF_UNIX, 0, true),
            (libc::AF_INET, 0, true),
            (libc::AF_INET6, 0, true),
            (libc::AF_NETLINK, libc::NETLINK_ROUTE, true),
            (libc::AF_NETLINK, libc::NETLINK_NETFILTER, false),
            (libc::AF_PACKET, 0, false),
            (libc::AF_VSOCK, 0, false),
            (libc::AF_ALG, 0, false),
        ] {
            assert_eq!(socket(family, protocol), allowed, "{family} {protocol}");
        }
    }
}
