//! Other processes: starting, waiting with a bound, ending, and what `/proc` says of them.

use crate::Failure;
use rustix::thread::CpuSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Clock ticks per second of `/proc/<pid>/stat`: the same on every Linux that we know.
const TICKS_PER_S: u64 = 100;
const POLL: Duration = Duration::from_millis(2);
const GROUP_LIMIT: Duration = Duration::from_secs(2);

/// Runs a command and returns what it wrote; fails unless it exits with 0.
pub fn capture(command: &mut Command) -> Result<String, Failure> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().map_err(Failure::during(format!("cannot start {program}")))?;
    if !output.status.success() {
        let (out, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        return Err(Failure(format!("{program}: {}\n{out}{errors}", output.status)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Waits for a child, at most `limit`; kills it then.
pub fn wait(child: &mut Child, limit: Duration) -> Result<ExitStatus, Failure> {
    let ended = poll_until(limit, || child.try_wait().ok().flatten());
    ended.ok_or_else(|| {
        let _ = child.kill();
        let _ = child.wait();
        Failure(format!("process {} did not end within {} s", child.id(), limit.as_secs()))
    })
}

/// Asks a process to end.
pub fn terminate(pid: u32) {
    let _ = Command::new("sh").args(["-c", "kill -TERM \"$1\"", "sh", &pid.to_string()]).status();
}

/// Asks again and again until there is an answer, at most for `limit`.
pub fn poll_until<T>(limit: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(POLL);
    }
}

/// A line of `/proc`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// The parent's.
    pub parent: u32,
    /// User and system time so far, microseconds, in steps of 10 ms.
    pub cpu_us: u64,
    /// The same of its children that have ended.
    pub reaped_us: u64,
}

impl Process {
    /// Is it in a pid namespace below ours, that is, in a sandbox?
    pub fn is_nested(&self) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        ids_in_namespaces(&status) > 1
    }
}

/// Counts the CPU time of a program and of all that it starts, also of what has ended unseen in a sandbox: in a group
/// of the kernel's own accounting where there is one to be had, else from `/proc`, which misses the latter.
pub struct Account {
    group: Option<PathBuf>,
}

impl Account {
    /// A new account; the name differs from that of any other.
    pub fn open(name: &str) -> Account {
        let group = Path::new("/sys/fs/cgroup/cpuacct").join(name);
        Account { group: fs::create_dir(&group).is_ok().then_some(group) }
    }

    /// A command that runs the program on this account.
    pub fn command(&self, program: &Path) -> Command {
        let Some(group) = &self.group else { return Command::new(program) };
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$ > \"$0\"; exec \"$@\""]).arg(group.join("cgroup.procs")).arg(program);
        command
    }

    /// What the program has used so far, microseconds; `root` is its process.
    pub fn cpu_us(&self, root: u32) -> u64 {
        let usage = |group: &PathBuf| fs::read_to_string(group.join("cpuacct.usage")).ok()?.trim().parse::<u64>().ok();
        self.group.as_ref().and_then(usage).map_or_else(|| cpu_us(root), |ns| ns / 1_000)
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        if let Some(group) = &self.group {
            // The kernel lets go of a group a moment after its last process.
            poll_until(GROUP_LIMIT, || fs::remove_dir(group).ok());
        }
    }
}

/// CPU time of a process, of all below it, and of those below it that have ended, microseconds.
pub fn cpu_us(root: u32) -> u64 {
    tree(root).iter().map(|process| process.cpu_us + process.reaped_us).sum()
}

/// CPU time of our own children that have ended, microseconds.
pub fn reaped_us() -> u64 {
    let text = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    stat(&text).map_or(0, |own| own.reaped_us)
}

/// Proportional memory of a process, bytes: each page divided by how many share it. 0 if it is gone.
pub fn pss_bytes(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kb: u64 = line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0);
    kb * 1_024
}

/// Memory that the kernel itself holds for structures of all kinds, bytes.
pub fn kernel_bytes() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let of = |name: &str| -> u64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0)
    };
    ["Slab:", "PageTables:", "KernelStack:", "Percpu:"].map(of).iter().sum::<u64>() * 1_024
}

/// Binds the calling thread, and what it starts, to one core, until the value is dropped. Does nothing on a machine
/// of one core.
pub struct Pinned {
    before: Option<CpuSet>,
}

impl Pinned {
    /// To the core with this number, counted among those that we may use.
    pub fn to(number: usize) -> Pinned {
        let Ok(before) = rustix::thread::sched_getaffinity(None) else { return Pinned { before: None } };
        let usable: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&core| before.is_set(core)).collect();
        let Some(&core) = usable.get(number).filter(|_| usable.len() > 1) else { return Pinned { before: None } };
        let mut set = CpuSet::new();
        set.set(core);
        let bound = rustix::thread::sched_setaffinity(None, &set).is_ok();
        Pinned { before: bound.then_some(before) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = rustix::thread::sched_setaffinity(None, before);
        }
    }
}

/// Lets us have as many open files as the machine permits; thousands of connections need it. Returns that number.
pub fn raise_open_files() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    maximum.unwrap_or(u64::MAX)
}

/// The number of pid namespaces, from ours downwards, in which a process has an id.
fn ids_in_namespaces(status: &str) -> usize {
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    line.map_or(0, |ids| ids.split_whitespace().count())
}

/// All processes below `root`, itself first.
pub fn tree(root: u32) -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let all: Vec<Process> =
        pids.filter_map(|pid| stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)).collect();
    let mut found: Vec<Process> = all.iter().filter(|process| process.pid == root).cloned().collect();
    let mut next = 0;
    while let Some(parent) = found.get(next).map(|process| process.pid) {
        found.extend(all.iter().filter(|process| process.parent == parent && process.pid != root).cloned());
        next += 1;
    }
    found
}

/// `/proc/<pid>/stat`, proc(5). The program's name may hold anything, so fields are counted from its last `)`.
fn stat(text: &str) -> Option<Process> {
    let pid = text.split(' ').next()?.parse().ok()?;
    let fields: Vec<&str> = text.rsplit_once(") ")?.1.split(' ').collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some(Process {
        pid,
        parent: u32::try_from(number(1)?).ok()?,
        cpu_us: (number(11)? + number(12)?) * (1_000_000 / TICKS_PER_S),
        reaped_us: (number(13)? + number(14)?) * (1_000_000 / TICKS_PER_S),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_stat_lines() {
        let line = "42 (a) b) c) S 7 42 42 0 -1 4194560 1 2 3 4 150 25 8 9 20 0 11 0 5555 1 2";
        let expected = Process { pid: 42, parent: 7, cpu_us: 1_750_000, reaped_us: 170_000 };
        assert_eq!(stat(line), Some(expected));
        for broken in ["", "42", "42 (a", "42 (a) S", "x (a) S 7 42"] {
            assert_eq!(stat(broken), None, "{broken}");
        }
    }

    #[test]
    fn counts_namespaces() {
        assert_eq!(ids_in_namespaces("Name:\tsh\nNSpid:\t42\n"), 1);
        assert_eq!(ids_in_namespaces("Name:\tsh\nNSpid:\t42\t1\n"), 2);
        assert_eq!(ids_in_namespaces(""), 0);
    }

    #[test]
    fn finds_ourselves() {
        let own = tree(std::process::id());
        assert_eq!(own.first().map(|process| process.pid), Some(std::process::id()));
    }
}
