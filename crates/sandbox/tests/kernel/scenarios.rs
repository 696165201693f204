//! What guests can and cannot do.

use crate::As;
use crate::client::Client;
use crate::internet;
use api::launcher::{ExitStatus, MemorySource, Mode, Network, Program, STAGE_ENTRYPOINT};
use sandbox::Config;
use std::io::{Read, Write};
use std::os::fd::AsFd;

pub struct Scenario {
    pub name: &'static str,
    /// Whether it also runs for an ordinary user.
    pub user: bool,
    pub before: Option<fn(&mut Config)>,
    pub run: fn(&mut Client),
}

const fn both(name: &'static str, run: fn(&mut Client)) -> Scenario {
    Scenario { name, user: true, before: None, run }
}

pub const ALL: &[Scenario] = &[
    both("mode", mode),
    both("exit_codes_and_signals", exit_codes_and_signals),
    both("entrypoint", entrypoint),
    both("identity", identity),
    both("root_file_system", root_file_system),
    both("processes_are_private", processes_are_private),
    both("stop", stop),
    both("orphans_end", orphans_end),
    both("python", python),
    both("node", node),
    Scenario { name: "zygote", user: false, before: Some(take_own_shims), run: zygote },
    Scenario { name: "configured_root", user: true, before: Some(take_whole_root), run: configured },
    Scenario { name: "configured_interpreter", user: true, before: Some(take_interpreter), run: configured },
    both("runtime_api", runtime_api),
    both("tmp_is_limited", tmp_is_limited),
    Scenario { name: "tmp_is_not_memory", user: false, before: None, run: tmp_is_not_memory },
    both("pids_are_limited", pids_are_limited),
    both("fork_bomb_ends", fork_bomb_ends),
    both("fork_bombs_end_with_the_launcher", leave_fork_bombs),
    both("command_line", command_line),
    Scenario { name: "daemon_has_no_power", user: false, before: None, run: daemon_has_no_power },
    both("memory_is_limited", memory_is_limited),
    both("refused_calls", refused_calls),
    both("freeze", freeze),
    both("many_at_once", many_at_once),
    Scenario { name: "network", user: false, before: Some(ask_outside_server), run: network },
    both("no_network", no_network),
    both("launcher_is_terminated", wait_to_be_killed),
    both("broken_daemon", broken_daemon),
    both("hostile_daemon", hostile_daemon),
    both("latency", latency),
    both("daemon_dies", die_with_guests),
    both("launcher_dies", wait_to_be_killed),
];

fn mode(client: &mut Client) {
    let want = if client.user == As::Root { Mode::Root } else { Mode::UserNamespace };
    assert_eq!(client.hello.mode, want);
    println!(
        "     {}",
        client.hello.abilities.iter().map(|a| format!("{}: {:?}", a.name, a.grade)).collect::<Vec<_>>().join(", ")
    );
}

fn exit_codes_and_signals(client: &mut Client) {
    for (script, status) in [
        ("exit 0", ExitStatus::Code(0)),
        ("exit 7", ExitStatus::Code(7)),
        ("kill -ABRT $$", ExitStatus::Signal(6)),
        ("kill -KILL $$", ExitStatus::Signal(9)),
    ] {
        let start = client.shell(script);
        let outcome = client.run(start);
        assert_eq!((outcome.status, outcome.out_of_memory), (status, false), "{script}: {}", outcome.log);
    }
}

fn entrypoint(client: &mut Client) {
    let missing = client.request(Program::Bootstrap);
    client.write_package(&missing, &[]);
    let broken = client.request(Program::Bootstrap);
    client.write_package(&broken, &[("bootstrap", "neither a script nor a program")]);
    for start in [missing, broken] {
        let (stage, message) = client.try_start(start).err().expect("no start");
        assert_eq!(stage, STAGE_ENTRYPOINT);
        assert!(message.contains("/var/task/bootstrap") && message.contains("/opt/bootstrap"), "{message}");
    }
    let unknown = client.request(Program::Bootstrap);
    assert_eq!(client.try_start(unknown).err().expect("no start").0, "package");
}

fn identity(client: &mut Client) {
    let log = client.shell_log(
        "id -u; id -g; grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status; ls /proc/self/fd; hostname; umask; pwd",
    );
    for want in ["993\n993\n", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "CapPrm:\t0000000000000000"] {
        assert!(log.contains(want), "{want} in {log}");
    }
    for want in ["NoNewPrivs:\t1", "Seccomp:\t2", "\n0\n1\n2\n", "sandbox\n", "0022\n/var/task\n"] {
        assert!(log.contains(want), "{want} in {log}");
    }
    let log = client.shell_log("tr '\\0' '\\n' < /proc/self/environ");
    assert!(log.starts_with("PATH=") && log.lines().count() == 2, "{log}");
}

fn root_file_system(client: &mut Client) {
    let log = client.shell_log("ls /; ls /root /home /etc /dev");
    for hidden in ["boot\n", "run\n", "srv\n", "sys\n", "shadow", "vda", "kvm", "pyenv"] {
        assert!(!log.contains(hidden), "{hidden} in {log}");
    }
    let script = "for f in / /usr /usr/bin /etc /dev /var/task /var/runtime /opt /proc/sys /proc; do \
                  touch $f/x 2>/dev/null && echo wrote $f; done; \
                  echo a > /tmp/a && echo b > /dev/shm/b && cat /tmp/a /dev/shm/b; \
                  head -c 4 /dev/zero | wc -c; echo x > /dev/null; echo out > /dev/stdout; echo err > /dev/stderr; \
                  cat /proc/keys /proc/timer_list /proc/kcore 2>/dev/null | wc -c; \
                  for d in ext4 tmpfs; do grep -c \"^x $d\" /proc/mounts; done; cat /etc/passwd | wc -l";
    let log = client.shell_log(script);
    assert!(!log.contains("wrote"), "{log}");
    assert!(log.contains("a\nb\n4\nout\nerr\n0\n"), "{log}");
}

fn processes_are_private(client: &mut Client) {
    let first = client.shell("echo up; exec sleep 60");
    let mut first = client.start(first);
    first.read_until("up");
    let log = client.shell_log(
        "ls -d /proc/[0-9]* | wc -l; kill -9 -1; echo still; ls /proc/1/fd 2>&1; cat /proc/1/environ 2>&1 | wc -c",
    );
    // Process 1, the shell, ls and wc.
    assert!(log.starts_with("4\n") || log.starts_with("3\n"), "{log}");
    client.stop(&first, 0);
    assert_eq!(client.finish(first).status, ExitStatus::Signal(9));
}

fn stop(client: &mut Client) {
    let polite = client.shell("trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.05; done");
    let mut polite = client.start(polite);
    polite.read_until("up");
    client.stop(&polite, 10_000);
    let outcome = client.finish(polite);
    assert_eq!((outcome.status, outcome.log.as_str()), (ExitStatus::Code(3), "bye\n"));
    let deaf = client.shell("trap '' TERM; echo up; while :; do sleep 0.05; done");
    let mut deaf = client.start(deaf);
    deaf.read_until("up");
    client.stop(&deaf, 100);
    assert_eq!(client.finish(deaf).status, ExitStatus::Signal(9));
}

fn orphans_end(client: &mut Client) {
    let start = client.shell("(setsid sh -c 'trap \"\" TERM HUP; sleep 600' &) ; (sleep 0 &); echo up; exit 5");
    let guest = client.start(start);
    // The log's end is reached only when every process that holds it has gone.
    assert_eq!(client.finish(guest).status, ExitStatus::Code(5));
}

fn python(client: &mut Client) {
    let found: Vec<String> = client.wait_for_interpreters().into_iter().map(|i| i.runtime.0).collect();
    println!("     interpreters: {found:?}");
    for runtime in found.iter().filter(|runtime| runtime.starts_with("python")) {
        let start = client.managed(runtime);
        let mut guest = client.start(start);
        let answer = guest.read_channel();
        let outcome = client.finish(guest);
        assert_eq!(format!("python{}", answer.trim()), *runtime, "{}", outcome.log);
        assert_eq!(outcome.status, ExitStatus::Code(0));
    }
}

fn take_own_shims(config: &mut Config) {
    config.shims = crate::shims::FILES;
}

/// What a guest of a zygote is, and that nothing of one is in the next.
const FORKED: &str = r#"
import os, random, resource, sys
status = dict(line.split(":\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\t" in line)
wanted = ("CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Uid")
print("STATUS", {name: " ".join(status[name].split()) for name in wanted})
print("FDS", sorted(int(fd) for fd in os.listdir("/proc/self/fd"))[:-1])
print("PLACE", os.getcwd(), os.uname().nodename, sorted(p for p in os.listdir("/proc") if p.isdigit() and int(p) > 1) == [str(os.getpid())])
print("LIMITS", resource.getrlimit(resource.RLIMIT_NOFILE), resource.getrlimit(resource.RLIMIT_NPROC), resource.getrlimit(resource.RLIMIT_CORE))
print("FOUND", os.environ.get("SECRET"), os.listdir("/tmp"), os.listdir("/dev/shm"))
try:
    import ctypes
    print("SETNS", ctypes.CDLL(None, use_errno=True).setns(3, 0), ctypes.get_errno())
except ImportError:
    print("SETNS -1 1")
print("RANDOM", random.random(), flush=True)
open("/tmp/left", "w").write("x"); open("/dev/shm/left", "w").write("x")
def handler(event, context): return 1
"#;

fn zygote(client: &mut Client) {
    use api::launcher::{InstanceKind, Request};
    let mut start = client.managed("python3.11");
    let kind = |start: &api::launcher::Start| InstanceKind {
        program: start.program.clone(),
        memory_mb: start.memory_mb,
        tmp_mb: start.tmp_mb,
        network: start.network,
    };
    client.send(&Request::Expect { kinds: vec![kind(&start)] }, &[]);
    let mut seen = Vec::new();
    // Until the zygote is up, guests are made by an interpreter of their own.
    for attempt in 0..200 {
        client.write_package(&start, &[("app.py", FORKED)]);
        start.environment =
            [("_HANDLER", "app.handler"), ("LAMBDA_TASK_ROOT", "/var/task"), ("SECRET", "of the first")]
                .into_iter()
                .filter(|(name, _)| *name != "SECRET" || seen.is_empty())
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect();
        let mut guest = client.start(start);
        let log = guest.read_until_starting("RANDOM");
        if guest.waits {
            seen.push(log);
        }
        client.stop(&guest, 0);
        assert_eq!(client.finish(guest).status, ExitStatus::Signal(9));
        if seen.len() == 3 {
            break;
        }
        assert!(attempt < 199, "no guest came from a zygote");
        start = client.managed("python3.11");
    }
    for (index, log) in seen.iter().enumerate() {
        let secret = if index == 0 { "of the first" } else { "None" };
        for want in [
            "'CapPrm': '0000000000000000'",
            "'CapEff': '0000000000000000'",
            "'CapBnd': '0000000000000000'",
            "'NoNewPrivs': '1'",
            "'Seccomp': '2'",
            "'Uid': '993 993 993 993'",
            "FDS [0, 1, 2, 3]\n",
            "PLACE /var/task sandbox True\n",
            "LIMITS (256, 256) (33, 33) (0, 0)\n",
            &format!("FOUND {secret} [] []\n"),
            "SETNS -1 1\n",
        ] {
            assert!(log.contains(want), "{want} in {log}");
        }
    }
    let last = |log: &String| log.lines().last().map(str::to_owned);
    assert!(last(&seen[0]) != last(&seen[1]) && last(&seen[1]) != last(&seen[2]), "{seen:?}");
}

fn node(client: &mut Client) {
    let found = client.wait_for_interpreters();
    for runtime in found.iter().map(|i| i.runtime.0.as_str()).filter(|runtime| runtime.starts_with("nodejs")) {
        let start = client.managed(runtime);
        let mut guest = client.start(start);
        let answer = guest.read_channel();
        let outcome = client.finish(guest);
        assert!(answer.starts_with('v'), "{answer}: {outcome:?}");
        assert_eq!((outcome.status, outcome.out_of_memory), (ExitStatus::Code(0), false));
        let heap_mb = answer.trim().rsplit(' ').next().and_then(|bytes| bytes.parse::<u64>().ok()).map(|b| b >> 20);
        println!("     {}: heap {heap_mb:?} MB, peak {:?} bytes", answer.trim(), outcome.memory_peak_bytes);
        // The old generation's 80 MB of 128 MB, and what V8 adds for the young one.
        assert!(heap_mb.is_some_and(|mb| (80..=128).contains(&mb)), "{answer}");
    }
}

fn runtime_api(client: &mut Client) {
    if !client.wait_for_interpreters().iter().any(|i| i.runtime.0 == "python3.11") {
        crate::client::skip("no python3.11 for the guest's side");
    }
    let mut start = client.request(Program::Bootstrap);
    start.runtime_api = true;
    let script = "#!/bin/sh\nexec /usr/bin/python3.11 -c '\nimport socket\n\
                  s = socket.create_connection((\"127.0.0.1\", 9001))\ns.sendall(b\"hello\")\nprint(s.recv(5))'\n";
    client.write_package(&start, &[("bootstrap", script)]);
    let mut guest = client.start(start);
    let listener = std::net::TcpListener::from(guest.files.remove(0));
    let (mut stream, _) = listener.accept().expect("the guest connects");
    let mut hello = [0; 5];
    stream.read_exact(&mut hello).expect("the guest speaks");
    stream.write_all(&hello).expect("answer");
    let outcome = client.finish(guest);
    assert_eq!((outcome.log.as_str(), outcome.status), ("b'hello'\n", ExitStatus::Code(0)));
}

fn tmp_is_limited(client: &mut Client) {
    let script = "head -c 4000000 /dev/zero > /tmp/a && echo small; head -c 40000000 /dev/zero > /tmp/b; \
                  echo $?; rm /tmp/b; head -c 4000000 /dev/zero > /tmp/c && echo again; df -k /tmp | tail -1";
    let log = client.shell_log(script);
    assert!(log.contains("small\n") && log.contains("No space left") && log.contains("\n1\nagain"), "{log}");
}

fn tmp_is_not_memory(client: &mut Client) {
    let mut start =
        client.shell("head -c 200000000 /dev/zero > /tmp/a && ls -ld /tmp && ls -a /tmp | wc -l; df -m /tmp | tail -1");
    (start.memory_mb, start.tmp_mb) = (64, 256);
    let outcome = client.run(start);
    assert_eq!((outcome.status, outcome.out_of_memory), (ExitStatus::Code(0), false), "{}", outcome.log);
    assert!(outcome.log.starts_with("drwxrwxrwt") && outcome.log.contains("\n3\n"), "{}", outcome.log);
}

fn pids_are_limited(client: &mut Client) {
    let mut start = client.shell("for i in $(seq 100); do sleep 5 & done; echo unreachable; exit 0");
    start.processes = 16;
    let outcome = client.run(start);
    assert!(outcome.log.to_lowercase().contains("fork"), "{outcome:?}");
    let bomb = client.shell("b() { b | b & }; b; sleep 0.3; exit 0");
    let bomb = client.start(bomb);
    client.stop(&bomb, 0);
    client.finish(bomb);
    client.shell_log("true");
}

/// Every process of it forks for ever, and ignores what can be ignored.
const FORK_BOMB: &str = "/usr/bin/python3.11 -c '
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(\"up\", flush=True)
while True:
    try: os.fork()
    except OSError: pass
'; :";

/// A bomb that has gone off: all its processes are there.
fn fork_bomb(client: &mut Client) -> crate::client::Guest {
    if !std::path::Path::new("/usr/bin/python3.11").exists() {
        crate::client::skip("no python3.11 to fork without end");
    }
    let mut start = client.shell(FORK_BOMB);
    (start.processes, start.cpu_millis, start.memory_mb) = (400, 100, 512);
    let mut bomb = client.start(start);
    bomb.read_until("up");
    // What each process writes on its way is of no interest; what matters is that they are many.
    std::thread::sleep(std::time::Duration::from_secs(2));
    bomb
}

fn fork_bomb_ends(client: &mut Client) {
    let mut neighbour = client.shell("while :; do echo here; sleep 0.01; done");
    neighbour.cpu_millis = 500;
    let mut neighbour = client.start(neighbour);
    let bomb = fork_bomb(client);
    let begun = std::time::Instant::now();
    client.stop(&bomb, 0);
    // The launcher serves others meanwhile.
    let other = client.shell("echo up; exec sleep 60");
    let mut other = client.start(other);
    other.read_until("up");
    let beside_ms = begun.elapsed().as_millis();
    assert_eq!(client.finish(bomb).status, ExitStatus::Signal(9));
    println!("     gone after {} ms, another start meanwhile took {beside_ms} ms", begun.elapsed().as_millis());
    assert!(begun.elapsed().as_secs() < 10, "{:?}", begun.elapsed());
    neighbour.read_until("here");
    for guest in [neighbour, other] {
        client.stop(&guest, 0);
        client.finish(guest);
    }
}

/// The scenario's end is the daemon's: the launcher ends what is left, in bounded time, and leaves nothing.
fn leave_fork_bombs(client: &mut Client) {
    let _bombs = [fork_bomb(client), fork_bomb(client)];
}

/// The launcher's command line and environment are not those of the guest's first process.
fn command_line(client: &mut Client) {
    let log = client.shell_log(
        "tr '\\0' ' ' < /proc/1/cmdline; echo; cat /proc/1/comm; tr '\\0' '\\n' < /proc/$$/cmdline; \
         cat /proc/1/environ 2>/dev/null | wc -c",
    );
    let mut lines = log.lines();
    assert_eq!((lines.next().map(str::trim), lines.next()), (Some(""), Some("init")), "{log}");
    assert!(log.contains("/var/task/bootstrap") && log.ends_with("\n0\n"), "{log}");
}

/// The daemon has a user id of its own and no capability, and no guest's user namespace is its own: root made them.
fn daemon_has_no_power(client: &mut Client) {
    use rustix::process::{Pid, Signal, kill_process};
    let start = client.shell("echo up; exec sleep 600");
    let mut guest = client.start(start);
    guest.read_until("up");
    let main = Pid::from_raw(guest.pid).expect("a process id");
    let status = std::fs::read_to_string(format!("/proc/{}/status", guest.pid)).expect("the guest's status");
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:\t")?.parse().ok()).and_then(Pid::from_raw);
    for pid in [main, parent.expect("the guest's first process")] {
        for signal in [Signal::KILL, Signal::STOP, Signal::CONT] {
            assert_eq!(kill_process(pid, signal), Err(rustix::io::Errno::PERM));
        }
        // Read and write of memory, and the rest of these, are what ptrace would be asked for.
        for name in ["mem", "environ", "maps", "ns/user", "root", "fd"] {
            let path = format!("/proc/{}/{name}", pid.as_raw_nonzero());
            let read = std::fs::read(&path).map(drop).or_else(|_| std::fs::read_link(&path).map(drop));
            assert!(read.is_err() && std::fs::read_dir(&path).is_err(), "{path}");
        }
    }
    client.stop(&guest, 0);
    assert_eq!(client.finish(guest).status, ExitStatus::Signal(9));
}

fn memory_is_limited(client: &mut Client) {
    if !client.wait_for_interpreters().iter().any(|i| i.runtime.0 == "python3.11") {
        crate::client::skip("no python3.11 to fill memory with");
    }
    let start = client.request(Program::Bootstrap);
    let script = "#!/bin/sh\nexec /usr/bin/python3.11 -c 'x = bytearray(400 << 20); print(len(x))'\n";
    client.write_package(&start, &[("bootstrap", script)]);
    let guest = client.start(start);
    let memory = guest.memory;
    let outcome = client.finish(guest);
    assert!(!outcome.log.contains(&(400 << 20).to_string()), "{outcome:?}");
    if memory == MemorySource::CgroupPeak {
        assert!(outcome.out_of_memory, "{outcome:?}");
        assert!(outcome.memory_peak_bytes.is_some_and(|peak| peak >= 128 << 20), "{outcome:?}");
        let child = client.shell("/usr/bin/python3.11 -c 'x = bytearray(400 << 20)'; sleep 60");
        let outcome = client.run(child);
        assert!(outcome.out_of_memory, "a killed child ends the sandbox: {outcome:?}");
    } else {
        assert!(outcome.log.contains("MemoryError"), "{outcome:?}");
    }
}

/// System calls by number (x86_64) that must fail with EPERM, through ctypes: no tool stands between.
const REFUSED: &str = r#"
import ctypes, errno, sys
libc = ctypes.CDLL(None, use_errno=True)
refused = {'mount': 165, 'umount2': 166, 'pivot_root': 155, 'chroot': 161, 'unshare': 272, 'setns': 308,
    'ptrace': 101, 'process_vm_readv': 310, 'bpf': 321, 'perf_event_open': 298, 'userfaultfd': 323,
    'io_uring_setup': 425, 'keyctl': 250, 'add_key': 248, 'request_key': 249, 'kexec_load': 246, 'init_module': 175,
    'reboot': 169, 'swapon': 167, 'acct': 163, 'quotactl': 179, 'open_by_handle_at': 304, 'name_to_handle_at': 303,
    'fanotify_init': 300, 'open_tree': 428, 'move_mount': 429, 'fsopen': 430, 'mount_setattr': 442}
for name, number in refused.items():
    ctypes.set_errno(0)
    if libc.syscall(number, 0, 0, 0, 0, 0, 0) != -1 or ctypes.get_errno() != errno.EPERM:
        print(name, errno.errorcode.get(ctypes.get_errno()))
libc.syscall(435, 0, 0)
assert ctypes.get_errno() == errno.ENOSYS, 'clone3'
libc.syscall(600)
assert ctypes.get_errno() == errno.ENOSYS, 'unknown'
for flag in (0x10000000, 0x20000, 0x40000000, 0x02000000):
    if libc.syscall(56, flag | 17, 0, 0, 0, 0) != -1:
        print('clone', hex(flag))
import socket
for family, kind, protocol in ((17, 3, 0), (16, 3, 15), (40, 1, 0), (38, 5, 0)):
    try:
        socket.socket(family, kind, protocol); print('socket', family)
    except OSError as error:
        assert error.errno in (errno.EPERM, errno.EAFNOSUPPORT), error
socket.socket(16, 3, 0)
print('end')
"#;

fn refused_calls(client: &mut Client) {
    if !client.wait_for_interpreters().iter().any(|i| i.runtime.0 == "python3.11") {
        crate::client::skip("no python3.11 to make system calls with");
    }
    if cfg!(not(target_arch = "x86_64")) {
        crate::client::skip("the numbers are those of x86_64");
    }
    let start = client.request(Program::Bootstrap);
    let script = "#!/bin/sh\nexec /usr/bin/python3.11 /var/task/calls.py\n";
    client.write_package(&start, &[("bootstrap", script), ("calls.py", REFUSED)]);
    let outcome = client.run(start);
    assert_eq!((outcome.log.as_str(), outcome.status), ("end\n", ExitStatus::Code(0)));
}

fn freeze(client: &mut Client) {
    use api::launcher::Request;
    let start = client.shell("i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done");
    let mut guest = client.start(start);
    guest.read_until("3");
    client.send(&Request::Freeze { instance: guest.id }, &[]);
    client.send(&Request::Thaw { instance: guest.id }, &[]);
    guest.read_until("20");
    client.send(&Request::Freeze { instance: guest.id }, &[]);
    client.stop(&guest, 0);
    assert_eq!(client.finish(guest).status, ExitStatus::Signal(9));
}

fn many_at_once(client: &mut Client) {
    let mut guests = Vec::new();
    for _ in 0..40 {
        let start = client.shell("echo up; exec sleep 600");
        guests.push(client.start(start));
    }
    for guest in &guests {
        client.stop(guest, 0);
    }
    for guest in guests {
        assert_eq!(client.finish(guest).status, ExitStatus::Signal(9));
    }
}

fn ask_outside_server(config: &mut Config) {
    config.nameservers = internet::SERVER.parse().ok().map(|address| vec![address]);
}

const CONNECT: &str = r#"
import socket, sys
def reach(host, port):
    try:
        with socket.create_connection((host, port), timeout=0.7) as s:
            return s.recv(100).decode() or 'open'
    except OSError as error:
        return 'no'
def own():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.connect(('198.51.100.2', 9)); return s.getsockname()[0]
"#;

fn network(client: &mut Client) {
    if !client.hello.network {
        crate::client::skip("no network for guests: is nft installed?");
    }
    let port = std::env::var("HOST_PORT").expect("the host's port");
    let mut listening = network_guest(
        client,
        "s = socket.create_server((own(), 9999)); print(own(), flush=True); print('up', flush=True); s.accept()",
    );
    let other = listening.read_until("up");
    let script = format!(
        "print('web', reach('{SERVER}', 80)); print('name', reach('outside.example', 80))\n\
         gateway = '.'.join(own().split('.')[:3] + [str(int(own().split('.')[3]) - 1)])\n\
         names = '.'.join(own().split('.')[:2] + ['0', '1'])\n\
         for host in ('{HOST}', gateway, '127.0.0.1', names): print('host', reach(host, {port}))\n\
         print('guest', reach('{}', 9999)); print('link', reach('169.254.169.254', 80))\n\
         print(open('/proc/net/if_inet6').read() or 'no IPv6')",
        other.trim(),
        SERVER = internet::SERVER,
        HOST = internet::HOST,
    );
    let guest = network_guest(client, &script);
    let outcome = client.finish(guest);
    let host = internet::HOST;
    let want = format!("web {host}\nname {host}\nhost no\nhost no\nhost no\nhost no\nguest no\nlink no\nno IPv6\n");
    assert_eq!(outcome.log, want);
    client.stop(&listening, 0);
    client.finish(listening);
}

fn network_guest(client: &mut Client, script: &str) -> crate::client::Guest {
    let mut start = client.request(Program::Bootstrap);
    start.network = Network::Nat;
    let bootstrap = "#!/bin/sh\nexec /usr/bin/python3.11 /var/task/main.py\n";
    client.write_package(&start, &[("bootstrap", bootstrap), ("main.py", &format!("{CONNECT}\n{script}\n"))]);
    client.start(start)
}

fn no_network(client: &mut Client) {
    let log = client.shell_log("cat /proc/net/dev /proc/net/route");
    let links: Vec<&str> = log.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim()).collect();
    assert_eq!(links, ["lo"], "{log}");
    assert_eq!(log.lines().filter(|line| line.contains("eth0")).count(), 0, "{log}");
}

/// Guests of every kind, and the daemon is killed: the launcher takes everything away.
fn die_with_guests(client: &mut Client) {
    for network in [Network::None, Network::Nat, Network::Nat] {
        let mut start = client.shell("(setsid sleep 600 &) ; echo up; exec sleep 600");
        start.network = network;
        client.start(start).read_until("up");
    }
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
}

/// Says which process the guest is, and waits.
fn wait_to_be_killed(client: &mut Client) {
    let mut start = client.shell("(setsid sleep 600 &) ; echo up; exec sleep 600");
    start.network = Network::Nat;
    let mut guest = client.start(start);
    guest.read_until("up");
    let path = client.dir.join("guest");
    std::fs::write(client.dir.join("guest.new"), guest.pid.to_string()).expect("write the guest's id");
    std::fs::rename(client.dir.join("guest.new"), path).expect("show the guest's id");
    client.finish(guest);
}

/// No promise, but a figure to look at: from the request to `Started`, and from `Stop` to `Exited`.
fn latency(client: &mut Client) {
    client.wait_for_interpreters();
    for network in [Network::None, Network::Nat] {
        let (mut start_us, mut stop_us) = (Vec::new(), Vec::new());
        for _ in 0..40 {
            let mut start = client.shell("exec sleep 600");
            (start.network, start.tmp_mb) = (network, 512);
            let begun = std::time::Instant::now();
            let guest = client.start(start);
            start_us.push(begun.elapsed().as_micros());
            let begun = std::time::Instant::now();
            client.stop(&guest, 0);
            client.finish(guest);
            stop_us.push(begun.elapsed().as_micros());
        }
        start_us.sort_unstable();
        stop_us.sort_unstable();
        let figures = |all: &[u128]| format!("p50 {} us, p95 {} us", all[all.len() / 2], all[all.len() * 19 / 20]);
        println!("     {network:?}: start {}; stop {}", figures(&start_us), figures(&stop_us));
    }
}

/// A daemon that speaks nonsense is ended, and its guests with it.
fn broken_daemon(client: &mut Client) {
    let start = client.shell("echo up; exec sleep 600");
    client.start(start).read_until("up");
    sandbox::wire::send(client.socket.as_fd(), &"nonsense", &[], sandbox::wire::Wait::Block).expect("send nonsense");
    loop {
        std::thread::park();
    }
}

/// A daemon that tries to reach what is not its own.
fn hostile_daemon(client: &mut Client) {
    let start = client.request(Program::Bootstrap);
    let package = client.dir.join("packages").join(start.package.to_string());
    std::os::unix::fs::symlink("/etc", &package).expect("make a link");
    assert_eq!(client.try_start(start).err().expect("no start").0, "package");
    type Change = fn(&mut api::launcher::Start);
    let changes: [Change; 4] = [
        |start| start.memory_mb = 0,
        |start| start.processes = 0,
        |start| start.environment.push(("A=B".into(), "c".into())),
        |start| start.program = Program::Managed { runtime: model::Runtime("../../etc".into()) },
    ];
    for change in changes {
        let mut start = client.shell("true");
        change(&mut start);
        assert_eq!(client.try_start(start).err().expect("no start").0, "request");
    }
    let unknown = client.request(Program::Managed { runtime: model::Runtime("python3.99".into()) });
    assert_eq!(client.try_start(unknown).err().expect("no start").0, "interpreter");
    let first = client.shell("exec sleep 600");
    let again = first.clone();
    let guest = client.start(first);
    assert_eq!(client.try_start(again).err().expect("no second start").0, "request");
    client.stop(&guest, 0);
    client.finish(guest);
    if client.user == As::Root {
        for forbidden in ["/etc/shadow", "/root/.bashrc", "/proc/1/environ"] {
            assert!(std::fs::read(forbidden).is_err(), "{forbidden}");
        }
    }
    let status = std::fs::read_to_string("/proc/self/status").expect("read the own status");
    for line in ["CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1"] {
        assert!(status.contains(line), "{line} in {status}");
    }
}

fn take_whole_root(config: &mut Config) {
    config.runtimes.insert("python3.11".into(), sandbox::RuntimeSource::Root("/".into()));
}

fn take_interpreter(config: &mut Config) {
    config.runtimes.insert("python3.11".into(), sandbox::RuntimeSource::Interpreter("/usr/bin/python3.11".into()));
}

/// The interpreter that the configuration names, as a program or in a root folder.
fn configured(client: &mut Client) {
    let start = client.managed("python3.11");
    let mut guest = client.start(start);
    assert_eq!(guest.read_channel(), "3.11\n");
    assert_eq!(client.finish(guest).status, ExitStatus::Code(0));
    let found = client.wait_for_interpreters();
    let path = found.iter().find(|found| found.runtime.0 == "python3.11").map(|found| found.path.clone());
    assert_eq!(path.as_deref(), Some(std::path::Path::new("/usr/bin/python3.11")));
}
