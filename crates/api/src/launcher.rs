//! The closed set of messages between the unprivileged daemon and the privileged launcher.
//!
//! One message is one JSON object in one packet of a SOCK_SEQPACKET socket; open files travel beside it. Neither side
//! trusts the other: the launcher checks every request with [`Start::check`] before it touches the kernel.

use model::{Digest, Runtime};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::PathBuf;

/// Bytes of one message, at most; a longer one ends the connection.
pub const MESSAGE_BYTES_MAX: usize = 256 * 1024;
/// Open files beside one message, at most.
pub const MESSAGE_FILES_MAX: usize = 24;
/// Environment variables of one instance, at most.
pub const ENVIRONMENT_VARIABLES_MAX: usize = 512;
/// Bytes of all names and values of one environment, at most.
pub const ENVIRONMENT_BYTES_MAX: usize = 128 * 1024;
/// MB of memory and of `/tmp` that a request may ask for, at most; finer limits are the daemon's.
pub const SIZE_MB_MAX: u32 = 1024 * 1024;
/// Thousandths of a CPU that a request may ask for, at most.
pub const CPU_MILLIS_MAX: u32 = 1_024_000;
/// Processes or open files that a request may ask for, at most.
pub const COUNT_MAX: u32 = 1_048_576;
/// The longest time between SIGTERM and SIGKILL.
pub const GRACE_MS_MAX: u64 = 60_000;
/// Kinds of instances that are kept in stock, at most.
pub const EXPECTED_MAX: usize = 32;

/// What of a managed runtime's environment is read when its interpreter starts, as the platform always sets it: a guest
/// that was up before its function was known has been started with this.
pub const USUAL: [(&str, &str); 4] = [
    ("LANG", "en_US.UTF-8"),
    ("LD_LIBRARY_PATH", LIBRARY_PATH),
    ("PYTHONPATH", "/var/runtime"),
    ("PATH", "/var/lang/bin:/usr/local/bin:/usr/bin/:/bin:/opt/bin"),
];
/// Interpreters and the C library read these when they start: a guest that is up already would miss them.
const READ_AT_START: [&str; 10] =
    ["PYTHON", "LD_", "NODE_", "MALLOC_", "GLIBC_", "LC_", "LANG", "OPENSSL_", "SSL_", "UV_"];

/// Whether only a program that is started with this variable would heed it.
pub fn is_read_at_start(name: &str, value: &str) -> bool {
    READ_AT_START.iter().any(|prefix| name.starts_with(prefix))
        && name != "NODE_PATH"
        && !USUAL.contains(&(name, value))
}

/// Where guests find libraries.
pub const LIBRARY_PATH: &str =
    "/var/lang/lib:/lib64:/usr/lib64:/var/runtime:/var/runtime/lib:/var/task:/var/task/lib:/opt/lib";

/// What the daemon asks of the launcher.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Give a sandbox to a function, one that is in stock or a new one. Answered by `Started` or `StartFailed`.
    Start(Start),
    /// These kinds of instances are likely to be wanted: keep some of them in stock. Replaces what was said before.
    Expect {
        /// At most [`EXPECTED_MAX`]; what exceeds it is ignored.
        kinds: Vec<InstanceKind>,
    },
    /// SIGTERM to the guest's main process, SIGKILL to all after `grace_ms` (0: at once). Ends in `Exited`. An unknown
    /// instance is ignored: it has ended meanwhile.
    Stop {
        /// Which.
        instance: u64,
        /// Milliseconds, at most [`GRACE_MS_MAX`].
        grace_ms: u64,
    },
    /// Init is over: from now on the CPU limit is the one that was asked for. During Init it is one CPU at least.
    Settle {
        /// Which.
        instance: u64,
    },
    /// Let no process of the instance run, where the machine can do so.
    Freeze {
        /// Which.
        instance: u64,
    },
    /// Undo `Freeze`.
    Thaw {
        /// Which.
        instance: u64,
    },
}

/// What has to be known of an instance before its function is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstanceKind {
    /// What runs.
    pub program: Program,
    /// Memory limit, MB.
    pub memory_mb: u32,
    /// Size of `/tmp`, MB.
    pub tmp_mb: u32,
    /// What the guest may reach.
    pub network: Network,
}

/// One instance to start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Start {
    /// Chosen by the daemon, never used twice in one run.
    pub instance: u64,
    /// What runs.
    pub program: Program,
    /// The unpacked package that becomes `/var/task`.
    pub package: Digest,
    /// The whole environment of the guest.
    pub environment: Vec<(String, String)>,
    /// Memory limit, MB.
    pub memory_mb: u32,
    /// CPU limit in thousandths of one CPU.
    pub cpu_millis: u32,
    /// Size of `/tmp`, MB.
    pub tmp_mb: u32,
    /// Processes and threads, at most.
    pub processes: u32,
    /// Open files per process, at most.
    pub open_files: u32,
    /// What the guest may reach.
    pub network: Network,
    /// Whether a listener for the Runtime API is wanted on 127.0.0.1:9001 inside the sandbox.
    pub runtime_api: bool,
}

/// What runs in an instance.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Program {
    /// The interpreter of a managed runtime with our shim; the channel is its file descriptor 3.
    Managed {
        /// `python3.12` or `nodejs20.x` for example.
        runtime: Runtime,
    },
    /// `/var/task/bootstrap`, else `/opt/bootstrap`.
    Bootstrap,
}

/// What a guest may reach over the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// The outside world through address translation, with DNS.
    Nat,
    /// Its own loopback only.
    None,
}

/// Why the launcher refuses a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// A number is out of its range.
    #[error("{field} is {value}, allowed are {min} to {max}")]
    Range {
        /// The field.
        field: &'static str,
        /// What was sent.
        value: u64,
        /// The least.
        min: u64,
        /// The most.
        max: u64,
    },
    /// The environment has too many variables or bytes.
    #[error("the environment is too large")]
    EnvironmentSize,
    /// A variable's name is empty, is there twice, or holds '=' or NUL, or a value holds NUL.
    #[error("the environment variable {name:?} is malformed")]
    EnvironmentVariable {
        /// The name as sent.
        name: String,
    },
    /// A runtime's name has characters that no runtime has.
    #[error("malformed runtime name")]
    Runtime,
}

impl Start {
    /// Checks every field that the type does not. The package's digest is checked by its type.
    pub fn check(&self) -> Result<(), CheckError> {
        range("memory_mb", self.memory_mb, 1, SIZE_MB_MAX)?;
        range("cpu_millis", self.cpu_millis, 1, CPU_MILLIS_MAX)?;
        range("tmp_mb", self.tmp_mb, 1, SIZE_MB_MAX)?;
        range("processes", self.processes, 1, COUNT_MAX)?;
        range("open_files", self.open_files, 8, COUNT_MAX)?;
        check_program(&self.program)?;
        check_environment(&self.environment)
    }
}

impl InstanceKind {
    /// Checks every field that the type does not.
    pub fn check(&self) -> Result<(), CheckError> {
        range("memory_mb", self.memory_mb, 1, SIZE_MB_MAX)?;
        range("tmp_mb", self.tmp_mb, 1, SIZE_MB_MAX)?;
        check_program(&self.program)
    }
}

fn check_program(program: &Program) -> Result<(), CheckError> {
    let Program::Managed { runtime: Runtime(name) } = program else { return Ok(()) };
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'.';
    if name.is_empty() || name.len() > 64 || name.starts_with('.') || !name.bytes().all(allowed) {
        return Err(CheckError::Runtime);
    }
    Ok(())
}

fn range(field: &'static str, value: u32, min: u32, max: u32) -> Result<(), CheckError> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(CheckError::Range { field, value: value.into(), min: min.into(), max: max.into() })
}

fn check_environment(environment: &[(String, String)]) -> Result<(), CheckError> {
    let bytes: usize = environment.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
    if environment.len() > ENVIRONMENT_VARIABLES_MAX || bytes > ENVIRONMENT_BYTES_MAX {
        return Err(CheckError::EnvironmentSize);
    }
    let mut seen = BTreeSet::new();
    for (name, value) in environment {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') || !seen.insert(name) {
            return Err(CheckError::EnvironmentVariable { name: name.clone() });
        }
    }
    Ok(())
}

/// What the launcher tells the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Event {
    /// The first message.
    Hello(Hello),
    /// The managed runtimes that this machine has; each one replaces what was said before. Probing takes a while.
    Interpreters {
        /// All that are known now.
        interpreters: Vec<Interpreter>,
        /// No further message of this kind will come.
        complete: bool,
    },
    /// The guest's program is running. Files beside it, in this order: the read end of its log; for
    /// [`Program::Managed`] the daemon's end of the channel; the Runtime API's listener if asked for; the file that
    /// `memory` speaks of, if it speaks of one.
    Started {
        /// Which.
        instance: u64,
        /// The guest's main process, as the launcher sees it.
        pid: i32,
        /// How the peak of its memory can be read.
        memory: MemorySource,
        /// The guest ran before it had a function: it waits for the channel's `Assign` frame, which brings the
        /// environment.
        waits: bool,
    },
    /// Nothing runs and nothing is left behind; `Exited` does not follow.
    StartFailed {
        /// Which.
        instance: u64,
        /// The step that failed; [`STAGE_ENTRYPOINT`] is the user's own fault.
        stage: String,
        /// For people.
        message: String,
    },
    /// The guest's main process has ended, and everything of the instance is gone.
    Exited {
        /// Which.
        instance: u64,
        /// How the main process ended.
        status: ExitStatus,
        /// Whether the kernel killed a process of it for lack of memory.
        out_of_memory: bool,
        /// The peak of the memory of the whole instance, bytes, read just before its control group goes; `None` if no
        /// control group counted it. At least the limit when `out_of_memory` is true.
        memory_peak_bytes: Option<u64>,
    },
}

/// The stage of a `StartFailed` whose cause is that the package holds no program that can be executed.
pub const STAGE_ENTRYPOINT: &str = "entrypoint";
/// The stage of a `StartFailed` whose cause is that the sandbox ended before anything of the function ran: another may
/// do better.
pub const STAGE_LOST: &str = "setup";
/// The stage of a `StartFailed` whose cause is that the launcher has as many instances as it may.
pub const STAGE_FULL: &str = "full";

/// The launcher's view of the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hello {
    /// How sandboxes are made.
    pub mode: Mode,
    /// What isolation and limits this machine gives.
    pub abilities: Vec<Ability>,
    /// Managed runtimes known already: those of the configuration.
    pub interpreters: Vec<Interpreter>,
    /// Whether guests can have `Network::Nat`.
    pub network: bool,
}

/// How sandboxes are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// By root: each instance has a user id of its own.
    Root,
    /// By an ordinary user, as "root" of a user namespace.
    UserNamespace,
}

/// One thing that a machine gives to a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ability {
    /// Short and stable, `memory limit` for example.
    pub name: String,
    /// How good it is.
    pub grade: Grade,
    /// What was found.
    pub detail: String,
    /// What to do about it; empty when `grade` is `Full`.
    pub remedy: String,
}

/// How good an ability is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grade {
    /// As it should be.
    Full,
    /// There, with a weakness that `detail` names.
    Weak,
    /// Not there.
    Missing,
}

/// An interpreter that can serve a managed runtime.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interpreter {
    /// The runtime it serves.
    pub runtime: Runtime,
    /// Where it is on the host.
    pub path: PathBuf,
    /// Its own version, `3.11.7` for example; empty when it was not asked.
    pub version: String,
}

/// How the peak of an instance's memory can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemorySource {
    /// A file that holds one decimal number of bytes; read it from offset 0 each time.
    CgroupPeak,
    /// The main process's `/proc/<pid>/status`: its line `VmHWM`, kB; read it from offset 0 each time.
    ProcStatus,
    /// No file.
    None,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitStatus {
    /// It exited with this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> Start {
        Start {
            instance: 7,
            program: Program::Managed { runtime: Runtime("python3.12".into()) },
            package: Digest([3; 32]),
            environment: vec![("A".into(), "b=c".into())],
            memory_mb: 128,
            cpu_millis: 72,
            tmp_mb: 512,
            processes: 1024,
            open_files: 1024,
            network: Network::Nat,
            runtime_api: false,
        }
    }

    #[test]
    fn round_trip() {
        for request in [Request::Start(start()), Request::Stop { instance: 1, grace_ms: 2 }] {
            let text = serde_json::to_string(&request).unwrap();
            assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), request, "{text}");
        }
    }

    #[test]
    fn refusals() {
        type Change = fn(&mut Start);
        let cases: [(&str, Change); 8] = [
            ("memory", |s| s.memory_mb = 0),
            ("cpu", |s| s.cpu_millis = CPU_MILLIS_MAX + 1),
            ("tmp", |s| s.tmp_mb = SIZE_MB_MAX + 1),
            ("processes", |s| s.processes = 0),
            ("open files", |s| s.open_files = 7),
            ("name", |s| s.environment.push(("A=".into(), String::new()))),
            ("twice", |s| s.environment.push(("A".into(), String::new()))),
            ("runtime", |s| s.program = Program::Managed { runtime: Runtime("../x".into()) }),
        ];
        assert_eq!(start().check(), Ok(()));
        for (name, change) in cases {
            let mut start = start();
            change(&mut start);
            assert!(start.check().is_err(), "{name}");
        }
    }

    #[test]
    fn refusals_of_kinds() {
        let kind = |runtime: &str, memory_mb, tmp_mb| InstanceKind {
            program: Program::Managed { runtime: Runtime(runtime.into()) },
            memory_mb,
            tmp_mb,
            network: Network::Nat,
        };
        assert_eq!(kind("python3.12", 128, 512).check(), Ok(()));
        for refused in [kind("../x", 128, 512), kind("python3.12", 0, 512), kind("python3.12", 128, SIZE_MB_MAX + 1)] {
            assert!(refused.check().is_err(), "{refused:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn hostile_text_is_refused_without_panic(text in ".{0,300}") {
            let _ = serde_json::from_str::<Request>(&text);
        }
    }
}
