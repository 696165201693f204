//! What guests can and cannot do.

use crate::As;
use crate::client::Client;
use api::launcher::{ExitStatus, MemorySource, Mode, Program, STAGE_ENTRYPOINT};
use sandbox::Config;
use std::io::{Read, Write};

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
    both("runtime_api", runtime_api),
    both("tmp_is_limited", tmp_is_limited),
    both("pids_are_limited", pids_are_limited),
    both("memory_is_limited", memory_is_limited),
    both("refused_calls", refused_calls),
    both("freeze", freeze),
    both("many_at_once", many_at_once),
];

fn mode(client: &mut Client) {
    let want = if client.user == As::Root { Mode::Root } else { Mode::UserNamespace };
    assert_eq!(client.hello.mode, want);
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
    let log = client.shell_log("id -u; id -g; grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status; ls /proc/self/fd; hostname; umask; pwd");
    for want in ["993\n993\n", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "CapPrm:\t0000000000000000"] {
        assert!(log.contains(want), "{want} in {log}");
    }
    for want in ["NoNewPrivs:\t1", "Seccomp:\t2", "\n0\n1\n2\n", "sandbox\n", "0022\n/var/task\n"] {
        assert!(log.contains(want), "{want} in {log}");
    }
    let log = client.shell_log("tr '\\0' '\\n' < /proc/self/environ");
    assert!(log.starts_with("PATH=") && log.lines().count() == 1, "{log}");
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
    let log = client.shell_log("ls -d /proc/[0-9]* | wc -l; kill -9 -1; echo still; ls /proc/1/fd 2>&1; cat /proc/1/environ 2>&1 | wc -c");
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

fn node(client: &mut Client) {
    let found = client.wait_for_interpreters();
    for runtime in found.iter().map(|i| i.runtime.0.as_str()).filter(|runtime| runtime.starts_with("nodejs")) {
        let start = client.managed(runtime);
        let mut guest = client.start(start);
        let answer = guest.read_channel();
        let outcome = client.finish(guest);
        assert!(answer.starts_with('v'), "{answer}: {}", outcome.log);
        assert_eq!(outcome.status, ExitStatus::Code(0));
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
        let child = client.shell("/usr/bin/python3.11 -c 'x = bytearray(400 << 20)'; sleep 60");
        let outcome = client.run(child);
        assert!(outcome.out_of_memory, "a killed child ends the sandbox: {outcome:?}");
    } else {
        assert!(outcome.log.contains("MemoryError"), "{outcome:?}");
    }
}

fn refused_calls(client: &mut Client) {
    let log = client.shell_log(
        "unshare -r true 2>&1; unshare -n true 2>&1; mount -t tmpfs x /tmp 2>&1; umount /tmp 2>&1; chroot / true 2>&1; \
         nsenter -t 1 -m true 2>&1; setpriv --reuid 0 true 2>&1; echo end",
    );
    for word in ["unshare: unshare failed", "mount:", "umount", "chroot", "end"] {
        assert!(log.contains(word), "{word} in {log}");
    }
    for line in log.lines().filter(|line| *line != "end" && !line.trim().starts_with("dmesg")) {
        assert!(line.contains("not permitted") || line.contains("denied") || line.contains("must be"), "{line}");
    }
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
