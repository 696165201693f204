//! The daemon's side of the launcher's socket, as small as the scenarios need it.

use crate::As;
use api::channel::{Assign, write_assign};
use api::launcher::{Event, ExitStatus, Hello, Interpreter, MemorySource, Network, Program, Request, Start};
use model::{Digest, Runtime};
use sandbox::wire::{self, Buffer, Wait};
use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// Shims that answer one line over the channel.
pub const SHIMS: &[(&str, &[u8])] = &[
    ("python/bootstrap.py", b"import os,sys; os.write(3, ('%d.%d\\n' % sys.version_info[:2]).encode())\n"),
    ("nodejs/bootstrap.mjs", NODE_SHIM),
];

/// Makes far more garbage than it has memory, then says its version and the most that its heap may take, bytes.
const NODE_SHIM: &[u8] = b"import fs from 'fs'; import v8 from 'v8'; let kept = [];
if (process.env.TIDEGATE_WAITS) fs.readSync(3, Buffer.alloc(65536));
for (let i = 0; i < 400; i++) { kept = [new Array(250000).fill(i)]; if (i % 4) kept = []; }
fs.writeSync(3, `${process.version} ${v8.getHeapStatistics().heap_size_limit}\n`);
";

/// The panic of a scenario that this machine cannot run.
pub struct Skip;

/// Ends the scenario as skipped.
pub fn skip(reason: &str) -> ! {
    println!("     skipped: {reason}");
    std::panic::panic_any(Skip)
}

pub struct Client {
    pub socket: OwnedFd,
    pub dir: PathBuf,
    pub user: As,
    pub hello: Hello,
    pub interpreters: Option<Vec<Interpreter>>,
    buffer: Buffer,
    next: u64,
    exited: Vec<(u64, ExitStatus, bool, Option<u64>)>,
}

/// A guest that runs.
pub struct Guest {
    pub id: u64,
    pub pid: i32,
    pub log: fs::File,
    pub channel: Option<UnixStream>,
    pub memory: MemorySource,
    /// Whether it was up before its function was known.
    pub waits: bool,
    pub files: Vec<OwnedFd>,
}

#[derive(Debug)]
pub struct Outcome {
    pub log: String,
    pub status: ExitStatus,
    pub out_of_memory: bool,
    pub memory_peak_bytes: Option<u64>,
}

impl Client {
    pub fn connect(socket: OwnedFd, dir: PathBuf, user: As) -> Client {
        let mut buffer = Buffer::default();
        let first = wire::receive::<Event>(socket.as_fd(), &mut buffer, Wait::Block).expect("a first message");
        let Event::Hello(hello) = first.message else { panic!("not a hello: {first:?}") };
        Client { socket, dir, user, hello, interpreters: None, buffer, next: 1, exited: Vec::new() }
    }

    pub fn send(&self, request: &Request, files: &[BorrowedFd<'_>]) {
        wire::send(self.socket.as_fd(), request, files, Wait::Block).expect("send a request");
    }

    fn receive(&mut self) -> (Event, Vec<OwnedFd>) {
        let got = wire::receive::<Event>(self.socket.as_fd(), &mut self.buffer, Wait::Block).expect("an event");
        match &got.message {
            Event::Interpreters { interpreters, complete } => {
                if *complete {
                    self.interpreters = Some(interpreters.clone());
                }
            }
            Event::Exited { instance, status, out_of_memory, memory_peak_bytes } => {
                self.exited.push((*instance, *status, *out_of_memory, *memory_peak_bytes));
            }
            Event::Hello(_) | Event::Started { .. } | Event::StartFailed { .. } => {}
        }
        (got.message, got.files)
    }

    pub fn wait_for_interpreters(&mut self) -> Vec<Interpreter> {
        loop {
            if let Some(all) = &self.interpreters {
                return all.clone();
            }
            self.receive();
        }
    }

    /// A request with moderate limits for a package that does not exist yet.
    pub fn request(&mut self, program: Program) -> Start {
        let instance = self.next;
        self.next += 1;
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&instance.to_le_bytes());
        Start {
            instance,
            program,
            package: Digest(digest),
            environment: vec![
                ("PATH".into(), "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin".into()),
                ("LD_LIBRARY_PATH".into(), "/var/lang/lib".into()),
            ],
            memory_mb: 128,
            cpu_millis: 1_000,
            tmp_mb: 16,
            processes: 32,
            open_files: 256,
            network: Network::None,
            runtime_api: false,
        }
    }

    /// A request for a package whose bootstrap is a shell script.
    pub fn shell(&mut self, script: &str) -> Start {
        let start = self.request(Program::Bootstrap);
        self.write_package(&start, &[("bootstrap", &format!("#!/bin/sh\n{script}\n"))]);
        start
    }

    /// A request for a managed runtime; skips the scenario when the machine lacks it.
    pub fn managed(&mut self, runtime: &str) -> Start {
        if !self.wait_for_interpreters().iter().any(|found| found.runtime.0 == runtime) {
            skip(&format!("no {runtime}"));
        }
        let start = self.request(Program::Managed { runtime: Runtime(runtime.into()) });
        self.write_package(&start, &[]);
        start
    }

    pub fn write_package(&self, start: &Start, files: &[(&str, &str)]) {
        let dir = self.dir.join("packages").join(start.package.to_string());
        fs::create_dir_all(&dir).expect("make the package");
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).expect("open the package");
        for (name, contents) in files {
            let path = dir.join(name);
            // Closed before the start: a file open for writing cannot be executed.
            fs::write(&path, contents).expect("write the package");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("make executable");
        }
    }

    pub fn try_start(&mut self, start: Start) -> Result<Guest, (String, String)> {
        let managed = matches!(start.program, Program::Managed { .. });
        let (id, open_files, processes) = (start.instance, start.open_files, start.processes);
        let environment = start.environment.clone();
        self.send(&Request::Start(start), &[]);
        loop {
            match self.receive() {
                (Event::Started { instance, pid, memory, waits }, files) if instance == id => {
                    let mut files = files.into_iter();
                    let log = fs::File::from(files.next().expect("a log"));
                    let mut channel = managed.then(|| UnixStream::from(files.next().expect("a channel")));
                    if let (Some(channel), true) = (&mut channel, waits) {
                        let environment = environment.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
                        let assign = write_assign(&Assign { environment, open_files, processes, snapshot: false });
                        channel.write_all(&assign).expect("assign the guest");
                    }
                    return Ok(Guest { id, pid, log, channel, memory, waits, files: files.collect() });
                }
                (Event::StartFailed { instance, stage, message }, _) if instance == id => return Err((stage, message)),
                _ => {}
            }
        }
    }

    pub fn start(&mut self, start: Start) -> Guest {
        self.try_start(start).unwrap_or_else(|(stage, message)| panic!("start failed at {stage}: {message}"))
    }

    /// Waits for the end and reads the whole log.
    pub fn finish(&mut self, mut guest: Guest) -> Outcome {
        let mut log = Vec::new();
        guest.log.read_to_end(&mut log).expect("read the log");
        loop {
            if let Some(at) = self.exited.iter().position(|(id, ..)| *id == guest.id) {
                let (_, status, out_of_memory, memory_peak_bytes) = self.exited.remove(at);
                let log = String::from_utf8_lossy(&log).into_owned();
                return Outcome { log, status, out_of_memory, memory_peak_bytes };
            }
            self.receive();
        }
    }

    pub fn run(&mut self, start: Start) -> Outcome {
        let guest = self.start(start);
        self.finish(guest)
    }

    /// Runs a script to its end; it must end well.
    pub fn shell_log(&mut self, script: &str) -> String {
        let start = self.shell(script);
        let outcome = self.run(start);
        assert_eq!(outcome.status, ExitStatus::Code(0), "{}", outcome.log);
        outcome.log
    }

    pub fn stop(&self, guest: &Guest, grace_ms: u64) {
        self.send(&Request::Stop { instance: guest.id, grace_ms }, &[]);
    }
}

impl Guest {
    /// Reads the log until a line, which is not returned.
    pub fn read_until(&mut self, line: &str) -> String {
        let (mut text, mut byte) = (String::new(), [0]);
        while self.log.read(&mut byte).expect("read the log") == 1 {
            text.push(byte[0] as char);
            if text.ends_with(&format!("{line}\n")) {
                text.truncate(text.len() - line.len() - 1);
                return text;
            }
        }
        panic!("the log ends without {line:?}: {text}")
    }

    /// Reads the log up to and with a line that begins so.
    pub fn read_until_starting(&mut self, start: &str) -> String {
        let (mut text, mut byte) = (String::new(), [0]);
        while self.log.read(&mut byte).expect("read the log") == 1 {
            text.push(byte[0] as char);
            if byte[0] == b'\n' && text.lines().last().is_some_and(|line| line.starts_with(start)) {
                return text;
            }
        }
        panic!("the log ends without a line that begins with {start:?}: {text}")
    }

    pub fn read_channel(&mut self) -> String {
        let mut text = String::new();
        self.channel.as_mut().expect("a channel").read_to_string(&mut text).expect("read the channel");
        text
    }
}

/// Says something to a guest that reads its channel.
#[expect(dead_code, reason = "for scenarios that speak")]
pub fn say(guest: &mut Guest, text: &str) {
    guest.channel.as_mut().expect("a channel").write_all(text.as_bytes()).expect("write to the channel");
}

/// What a launcher for this data folder has left on the machine: control groups, links, mounts.
pub fn leftovers(dir: &Path) -> Vec<String> {
    let key = key_of(dir);
    let mut left = Vec::new();
    for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        let group = hierarchy.path().join("tidegate").join(&key);
        if group.exists() {
            left.push(group.display().to_string());
        }
    }
    for link in fs::read_dir("/sys/class/net").into_iter().flatten().flatten() {
        if link.file_name().to_string_lossy().starts_with(&format!("tg{}-", &key[..4])) {
            left.push(link.path().display().to_string());
        }
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    left.extend(mounts.lines().filter(|line| line.contains(&key)).map(str::to_owned));
    for device in fs::read_dir("/sys/block").into_iter().flatten().flatten() {
        let backing = fs::read_to_string(device.path().join("loop/backing_file")).unwrap_or_default();
        if Path::new(&backing).starts_with(dir) {
            left.push(format!("{}: {backing}", device.path().display()));
        }
    }
    let run = Path::new("/run/tidegate").join(&key);
    if run.exists() {
        left.push(run.display().to_string());
    }
    left
}

/// The launcher's key for a data folder, computed here once more: FNV-1a, folded to 32 bits.
pub fn key_of(dir: &Path) -> String {
    let canonical = fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
    let hash = canonical
        .as_os_str()
        .as_encoded_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{:08x}", (hash ^ (hash >> 32)) as u32)
}
