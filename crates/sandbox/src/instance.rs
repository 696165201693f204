//! One sandbox from the launcher's side: how it is made, what is known of it, how it is taken away.

use crate::cgroup::{Cgroups, Group};
use crate::config::Config;
use crate::inside::{self, Failure, Go, Kept, Note, Plan, at};
use crate::interpreters::{self, HOST_ROOT, Interpreters};
use crate::netpool::Namespace;
use crate::scratch::{Image, Scratch};
use crate::staging::{GUEST_ID, Staging};
use crate::sys::{self, Fork, Process};
use crate::wire::{self, Wait};
use api::launcher::{ExitStatus, MemorySource, Mode, Program, Start};
use rustix::process::Signal;
use seccompiler::BpfProgram;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long a sandbox may take to be made.
const SETUP_MS_MAX: u64 = 10_000;
/// Time between looks at the kernel's count of killed processes after memory was exhausted.
const OOM_TICK_MS: u64 = 10;
/// How often the count is looked at.
const OOM_LOOKS: u32 = 100;
/// How long a sandbox that has not begun may take to end.
pub const DESTROY_MS_MAX: u64 = 1_000;
/// Time between attempts to remove a control group that the kernel still counts a process in.
const REMOVE_TICK_MS: u64 = 2;
/// Attempts before the launcher gives up and leaves the group for the next start to remove.
const REMOVE_ATTEMPTS: u32 = 500;
/// How long the kernel has to end a sandbox whose first process was killed, before more is done.
const KILL_FIRST_MS: u64 = 20;
/// How long it has after each further attempt.
const KILL_TICK_MS: u64 = 100;
/// How often more is done; then the instance is left to end when it ends.
const KILL_ATTEMPTS: u32 = 100;
/// The mark of a memory allowance without a control group: what the interpreter itself maps privately.
const PRIVATE_SLACK_BYTES: u64 = 64 << 20;

const NAMESPACES: libc::c_int =
    libc::CLONE_NEWUSER | libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;

/// What all sandboxes of a launcher are made from.
pub struct Machine {
    /// The settings.
    pub config: Config,
    /// How sandboxes are made.
    pub mode: Mode,
    /// Where the parts are.
    pub staging: Staging,
    /// Limits.
    pub cgroups: Cgroups,
    /// Managed runtimes.
    pub interpreters: Interpreters,
    /// The filter for guests.
    pub filter: BpfProgram,
    /// Where their `/tmp` comes from, if not from memory.
    pub scratch: Option<Scratch>,
    /// The launcher's own network namespace, to which it returns.
    pub home_network: OwnedFd,
}

/// What a start brought: the log's write end, and the channel's guest end for a managed runtime.
pub struct Files {
    /// The guest's output.
    pub log: OwnedFd,
    /// The guest's end of the channel.
    pub channel: Option<OwnedFd>,
}

/// A sandbox between its clone and its last trace.
pub struct Instance {
    /// The daemon's name for it.
    pub id: u64,
    /// Its first process.
    pub process: Process,
    /// The connection to its first process.
    pub setup: OwnedFd,
    /// Becomes ready when memory is exhausted, and whether that is a priority event.
    pub memory_watch: Option<OwnedFd>,
    /// Whether `Started` has been said.
    pub started: bool,
    /// How the guest's main process ended, once that is known.
    pub status: Option<ExitStatus>,
    /// Why it could not be made.
    pub failure: Option<(String, String)>,
    group: Group,
    namespace: Option<Namespace>,
    tmp: Option<Image>,
    listener: Option<OwnedFd>,
    guest_pid: Option<i32>,
    out_of_memory: bool,
    memory_limit_bytes: u64,
    memory_peak_bytes: Option<u64>,
    kill_at: Option<Instant>,
    kill_again: Option<(Instant, u32)>,
    oom_look: Option<(Instant, u32)>,
    remove_again: Option<(Instant, u32)>,
}

/// What the loop has to do after an instance has been looked at.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Stay,
    /// The guest runs: say `Started`.
    Started,
    /// Everything is gone: say `Exited` or `StartFailed` and forget it.
    Gone,
}

impl Machine {
    /// Makes a sandbox; it answers later through its setup socket. Nothing is left behind on failure.
    /// With a namespace the guest has a network, otherwise its own loopback.
    pub fn spawn(
        &mut self,
        slot: u32,
        start: &Start,
        files: Files,
        namespace: Option<Namespace>,
    ) -> Result<Instance, Failure> {
        let tmp = match &mut self.scratch {
            Some(scratch) => Some(scratch.create(start.tmp_mb).map_err(at_chain("tmp"))?),
            None => None,
        };
        let plan = self.plan(start, namespace.is_some())?;
        let mut group = self.cgroups.create(start).map_err(at("cgroup", "make the control groups"))?;
        let made = self.clone_child(slot, &plan, &group, files, namespace.as_ref());
        let (process, setup) = match made {
            Ok(made) => made,
            Err(failure) => {
                group.remove();
                return Err(failure);
            }
        };
        let mut instance = Instance {
            id: start.instance,
            process,
            setup,
            memory_watch: group.watch_memory(),
            started: false,
            status: None,
            failure: None,
            group,
            namespace,
            tmp,
            listener: None,
            guest_pid: None,
            out_of_memory: false,
            memory_limit_bytes: u64::from(start.memory_mb) << 20,
            memory_peak_bytes: None,
            kill_at: Some(Instant::now() + Duration::from_millis(SETUP_MS_MAX)),
            kill_again: None,
            oom_look: None,
            remove_again: None,
        };
        if let Err(failure) = self.release(slot, &instance) {
            instance.destroy(Instant::now() + Duration::from_millis(DESTROY_MS_MAX));
            return Err(failure);
        }
        Ok(instance)
    }

    fn plan<'a>(&'a self, start: &'a Start, connected: bool) -> Result<Plan<'a>, Failure> {
        let mut plan = Plan {
            start,
            staging: &self.staging,
            root: HOST_ROOT,
            lang: None,
            interpreter: None,
            connected,
            filter: &self.filter,
            private_bytes_max: None,
        };
        if let Program::Managed { runtime } = &start.program {
            let Some(installed) = self.interpreters.get(&runtime.0) else {
                let message = format!("this machine has no interpreter for {}", runtime.0);
                return Err(Failure { stage: "interpreter", message });
            };
            plan.root = &installed.root;
            plan.lang = installed.lang.as_deref();
            plan.interpreter = Some((installed.program.clone(), interpreters::arguments(runtime, start.memory_mb)));
        }
        if !self.cgroups.controllers().memory {
            plan.private_bytes_max = Some((u64::from(start.memory_mb) << 20) + PRIVATE_SLACK_BYTES);
        }
        Ok(plan)
    }

    fn clone_child(
        &self,
        slot: u32,
        plan: &Plan<'_>,
        group: &Group,
        files: Files,
        namespace: Option<&Namespace>,
    ) -> Result<(Process, OwnedFd), Failure> {
        // A guest that opens /dev/stdout again is checked against the pipe's owner.
        let owner = self.guest_uid(slot);
        let (uid, gid) = (rustix::fs::Uid::from_raw(owner), rustix::fs::Gid::from_raw(owner));
        rustix::fs::fchown(&files.log, Some(uid), Some(gid)).map_err(at("log", "give the log to the guest"))?;
        let (ours, theirs) = wire::pair().map_err(at("clone", "make a socket pair"))?;
        rustix::net::sockopt::set_socket_passcred(&ours, true).map_err(at("clone", "ask for credentials"))?;
        let doors = group.doors().map_err(at("cgroup", "open the control groups"))?;
        let into = group.clone_into().map_err(at("cgroup", "open the control group"))?;
        let forked = match namespace {
            None => sys::fork(NAMESPACES | libc::CLONE_NEWNET, into.as_ref().map(AsFd::as_fd)),
            Some(namespace) => {
                sys::enter_network(namespace.file.as_fd()).map_err(at("network", "enter the namespace"))?;
                let forked = sys::fork(NAMESPACES, into.as_ref().map(AsFd::as_fd));
                if matches!(forked, Ok(Fork::Parent(_)) | Err(_)) {
                    self.come_home();
                }
                forked
            }
        };
        match forked.map_err(at("clone", "make namespaces"))? {
            Fork::Parent(process) => Ok((process, ours)),
            Fork::Child => {
                let kept = Kept { setup: theirs, log: files.log, channel: files.channel, guest_door: doors.guest };
                inside::run(plan, &doors.first, &kept)
            }
        }
    }

    /// A launcher that stayed in a guest's network could do nothing right.
    fn come_home(&self) {
        if let Err(errno) = sys::enter_network(self.home_network.as_fd()) {
            eprintln!("tidegate launcher: leave a guest's network: {errno}");
            sys::exit_now(1)
        }
    }

    /// The guest's user and group id as the launcher's user namespace has it.
    fn guest_uid(&self, slot: u32) -> u32 {
        match self.mode {
            Mode::Root => self.config.uid_base + 1 + slot,
            Mode::UserNamespace => 0,
        }
    }

    /// Sets what can only be set from outside, then lets the child begin.
    fn release(&self, slot: u32, instance: &Instance) -> Result<(), Failure> {
        let pid = instance.process.pid;
        let proc = format!("/proc/{}", pid.as_raw_nonzero());
        let map = format!("{GUEST_ID} {} 1", self.guest_uid(slot));
        fs::write(format!("{proc}/setgroups"), "deny").map_err(at("identity", "refuse setgroups"))?;
        fs::write(format!("{proc}/gid_map"), &map).map_err(at("identity", "map the group id"))?;
        fs::write(format!("{proc}/uid_map"), &map).map_err(at("identity", "map the user id"))?;
        let tmp: Vec<BorrowedFd<'_>> = instance.tmp.iter().map(|image| image.mount.as_fd()).collect();
        wire::send(instance.setup.as_fd(), &Go, &tmp, Wait::Poll).map_err(at("go", "let the sandbox begin"))
    }
}

/// Names the step in which an error happened, with the error's own cause.
fn at_chain<E: std::error::Error>(stage: &'static str) -> impl FnOnce(E) -> Failure {
    move |error| Failure { stage, message: crate::prepare::chain(&error) }
}

impl Instance {
    /// Reads what the first process says.
    pub fn read_notes(&mut self, buffer: &mut wire::Buffer) -> Step {
        let mut step = Step::Stay;
        // The first process says four things at most.
        for _ in 0..8 {
            let Ok(got) = wire::receive::<Note>(self.setup.as_fd(), buffer, Wait::Poll) else { break };
            match got.message {
                Note::Listener => self.listener = got.files.into_iter().next(),
                Note::Guest => self.guest_pid = got.sender,
                Note::Ready => {
                    self.kill_at = None;
                    step = Step::Started;
                }
                Note::Failed { stage, message } => self.failure = Some((stage, message)),
                Note::Ended(status) => self.status = Some(status),
            }
        }
        step
    }

    /// The guest's main process as the launcher sees it.
    pub fn guest_pid(&self) -> i32 {
        self.guest_pid.unwrap_or(self.process.pid.as_raw_nonzero().get())
    }

    /// How the peak of memory can be read, and the files that go with `Started`.
    pub fn started_files(&mut self) -> (MemorySource, Vec<OwnedFd>) {
        let mut files: Vec<OwnedFd> = self.listener.take().into_iter().collect();
        if let Some(peak) = self.group.peak() {
            files.push(peak);
            return (MemorySource::CgroupPeak, files);
        }
        match fs::File::open(format!("/proc/{}/status", self.guest_pid())) {
            Ok(file) => {
                files.push(file.into());
                (MemorySource::ProcStatus, files)
            }
            Err(_) => (MemorySource::None, files),
        }
    }

    /// Ends the guest: politely if there is a grace, else at once.
    pub fn stop(&mut self, grace_ms: u64) {
        self.group.set_frozen(false);
        if grace_ms == 0 || !self.started {
            return self.kill();
        }
        self.process.signal(Signal::TERM);
        let end = Instant::now() + Duration::from_millis(grace_ms);
        self.kill_at = Some(self.kill_at.map_or(end, |earlier| earlier.min(end)));
    }

    /// Ends every process of the sandbox.
    pub fn kill(&mut self) {
        self.group.set_frozen(false);
        self.process.signal(Signal::KILL);
        self.kill_at = None;
        if self.remove_again.is_none() && self.kill_again.is_none() {
            self.kill_again = Some((Instant::now() + Duration::from_millis(KILL_FIRST_MS), KILL_ATTEMPTS));
        }
    }

    /// The first process has been killed, but it or another has not had the time to end.
    fn kill_harder(&mut self, now: Instant, left: u32) {
        self.group.kill_all();
        self.kill_again = left.checked_sub(1).map(|left| (now + Duration::from_millis(KILL_TICK_MS), left));
        if left == 0 {
            eprintln!("tidegate launcher: the processes of instance {} do not end", self.id);
        }
    }

    /// Init is over.
    pub fn settle(&mut self) {
        self.group.settle();
    }

    /// Freezes or thaws.
    pub fn set_frozen(&self, frozen: bool) {
        self.group.set_frozen(frozen);
    }

    /// Memory is exhausted; whether a process was killed is known a moment later.
    pub fn memory_exhausted(&mut self) {
        if let Some(watch) = &self.memory_watch {
            // Either kind of descriptor stays ready until it is read.
            let mut bytes = [0u8; 512];
            if rustix::io::pread(watch, &mut bytes, 0).is_err() {
                let _ = rustix::io::read(watch, &mut bytes);
            }
        }
        self.oom_look = Some((Instant::now() + Duration::from_millis(1), OOM_LOOKS));
    }

    /// When something is due.
    pub fn due(&self) -> Option<Instant> {
        let repeated = [self.kill_again, self.oom_look, self.remove_again].map(|again| again.map(|(at, _)| at));
        let times = repeated.into_iter().chain([self.kill_at]);
        times.flatten().min()
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Instant) -> Step {
        if self.kill_at.is_some_and(|at| at <= now) {
            if !self.started && self.failure.is_none() {
                let message = format!("the sandbox was not ready within {SETUP_MS_MAX} ms");
                self.failure = Some(("timeout".into(), message));
            }
            self.kill();
        }
        if let Some((at, left)) = self.oom_look
            && at <= now
        {
            self.look_for_oom(now, left);
        }
        if let Some((at, left)) = self.kill_again
            && at <= now
        {
            self.kill_harder(now, left);
        }
        match self.remove_again {
            Some((at, left)) if at <= now => self.remove(left),
            _ => Step::Stay,
        }
    }

    /// A sandbox in which a process was killed for lack of memory ends as a whole.
    fn look_for_oom(&mut self, now: Instant, left: u32) {
        self.oom_look = None;
        if self.group.out_of_memory() {
            self.out_of_memory = true;
            self.kill();
        } else if left > 0 {
            self.oom_look = Some((now + Duration::from_millis(OOM_TICK_MS), left - 1));
        }
    }

    /// The first process may have ended: reaps it, and with it everything else has gone.
    pub fn ended(&mut self, buffer: &mut wire::Buffer) -> Step {
        if self.remove_again.is_some() {
            return Step::Stay;
        }
        let Ok(Some(status)) = self.process.wait(false) else { return Step::Stay };
        let late = self.read_notes(buffer);
        self.status.get_or_insert(status);
        (self.kill_at, self.kill_again, self.oom_look) = (None, None, None);
        self.out_of_memory |= self.group.out_of_memory();
        self.memory_peak_bytes = self.group.peak_bytes();
        if late == Step::Started {
            // The guest ended before its start was noticed: both are said, in order.
            self.remove_again = Some((Instant::now(), REMOVE_ATTEMPTS));
            return Step::Started;
        }
        self.remove(REMOVE_ATTEMPTS)
    }

    /// The network namespace, whose last process has ended; the kernel takes it and its link away when it is dropped.
    pub fn take_namespace(&mut self) -> Option<Namespace> {
        self.namespace.take()
    }

    /// Takes away what outlives the processes.
    fn remove_parts(&mut self) {
        if let Some(image) = self.tmp.take() {
            image.discard();
        }
    }

    fn remove(&mut self, attempts_left: u32) -> Step {
        self.remove_parts();
        if self.group.remove() || attempts_left == 0 {
            self.remove_again = None;
            return Step::Gone;
        }
        self.remove_again = Some((Instant::now() + Duration::from_millis(REMOVE_TICK_MS), attempts_left - 1));
        Step::Stay
    }

    /// Whether the kernel killed a process of it for lack of memory.
    pub fn out_of_memory(&self) -> bool {
        self.out_of_memory
    }

    /// The peak of its memory, once it has ended; at least the limit if that was hit: the kernel's count of pages may
    /// stop just below it.
    pub fn memory_peak_bytes(&self) -> Option<u64> {
        let least = if self.out_of_memory { self.memory_limit_bytes } else { 0 };
        self.memory_peak_bytes.map(|peak| peak.max(least))
    }

    /// Ends it and waits until it is gone, or until the given time.
    pub fn destroy(&mut self, until: Instant) {
        self.kill();
        let mut wait_ms = KILL_FIRST_MS;
        while self.remove_again.is_none() && !matches!(self.process.wait(false), Ok(Some(_)) | Err(_)) {
            if Instant::now() > until {
                eprintln!("tidegate launcher: instance {} is left behind: its processes do not end", self.id);
                return;
            }
            if !self.process.has_ended_within(wait_ms) {
                self.group.kill_all();
                wait_ms = KILL_TICK_MS;
            }
        }
        self.remove_parts();
        while !self.group.remove() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(REMOVE_TICK_MS));
        }
    }
}
