//! One sandbox from the launcher's side: what is known of it, and how it is taken away.

use crate::cgroup::Group;
use crate::imagepool::Tmp;
use crate::inside::Note;
use crate::netpool::Namespace;
use crate::shape::Shape;
use crate::sys::Process;
use crate::wire::{self, Wait};
use api::launcher::{ExitStatus, MemorySource, Start};
use rustix::process::Signal;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long a sandbox may take to be made, and again to be given to a function.
pub const SETUP_MS_MAX: u64 = 10_000;
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

/// How far a sandbox has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Its first process puts it together.
    Making,
    /// Its first process is done; a zygote makes its guest.
    Entering,
    /// It waits for a function.
    Blank,
    /// It has a function, the daemon's instance of this id, whose program does not run yet.
    Assigned(u64),
    /// The guest's program runs for this instance, and `Started` has been said.
    Started(u64),
}

/// What a sandbox is born with.
pub struct Parts {
    /// The connection to its first process.
    pub setup: OwnedFd,
    /// The daemon's end of the log.
    pub log: OwnedFd,
    /// The daemon's end of the channel.
    pub channel: Option<OwnedFd>,
    /// The guest's ends of both, until a zygote has them.
    pub for_zygote: Option<(OwnedFd, OwnedFd)>,
}

/// A sandbox between its clone and its last trace.
pub struct Instance {
    /// The launcher's own name for it, never used twice.
    pub serial: u64,
    /// What it is.
    pub shape: Shape,
    /// How far it has come.
    pub phase: Phase,
    /// Its first process.
    pub process: Process,
    /// The connection to its first process.
    pub setup: OwnedFd,
    /// The daemon's end of the log, until the daemon has it.
    pub log: Option<OwnedFd>,
    /// The daemon's end of the channel, until the daemon has it.
    pub channel: Option<OwnedFd>,
    /// The guest's ends of both, until a zygote has them.
    pub for_zygote: Option<(OwnedFd, OwnedFd)>,
    /// The guest's main process where that is a zygote's child.
    pub guest: Option<OwnedFd>,
    /// Becomes ready when memory is exhausted, and whether that is a priority event.
    pub memory_watch: Option<OwnedFd>,
    /// How the guest's main process ended, once that is known.
    pub status: Option<ExitStatus>,
    /// Why it could not be made.
    pub failure: Option<(String, String)>,
    /// Its control groups.
    pub group: Group,
    /// Its `/tmp`.
    pub tmp: Option<Tmp>,
    /// Whether the first process has closed its end of the connection.
    pub is_silent: bool,
    pub(crate) namespace: Option<Namespace>,
    pub(crate) listener: Option<OwnedFd>,
    pub(crate) guest_pid: Option<i32>,
    pub(crate) out_of_memory: bool,
    pub(crate) memory_limit_bytes: u64,
    pub(crate) memory_peak_bytes: Option<u64>,
    pub(crate) kill_at: Option<Instant>,
    pub(crate) kill_again: Option<(Instant, u32)>,
    pub(crate) oom_look: Option<(Instant, u32)>,
    pub(crate) remove_again: Option<(Instant, u32)>,
}

/// What the loop has to do after a sandbox has been looked at.
#[derive(Debug)]
pub enum Step {
    /// Nothing.
    Stay,
    /// The sandbox is made; beside it, what a zygote's child needs to enter it.
    Made(Vec<OwnedFd>),
    /// The guest runs: say `Started`.
    Started(u64),
    /// Everything is gone: say `Exited` or `StartFailed` and forget it.
    Gone,
}

impl Instance {
    /// It has been given to a function; its first process does the rest.
    pub fn assigned(&mut self, start: &Start) {
        self.phase = Phase::Assigned(start.instance);
        self.memory_limit_bytes = u64::from(start.memory_mb) << 20;
        self.kill_at = Some(Instant::now() + Duration::from_millis(SETUP_MS_MAX));
    }

    /// It waits for a function from now on, for as long as it takes.
    pub fn is_blank(&mut self) {
        self.phase = Phase::Blank;
        self.kill_at = None;
    }

    /// The daemon's name for it, if it has a function.
    pub fn owner(&self) -> Option<u64> {
        match self.phase {
            Phase::Making | Phase::Entering | Phase::Blank => None,
            Phase::Assigned(owner) | Phase::Started(owner) => Some(owner),
        }
    }

    /// Whether `Started` has been said.
    pub fn has_started(&self) -> bool {
        matches!(self.phase, Phase::Started(_))
    }

    /// Whether its end has been ordered or has come.
    pub fn is_ending(&self) -> bool {
        self.failure.is_some() || self.status.is_some() || self.kill_again.is_some() || self.remove_again.is_some()
    }

    /// Reads what the first process says.
    pub fn read_notes(&mut self, buffer: &mut wire::Buffer) -> Step {
        let mut step = Step::Stay;
        // The first process says four things at most.
        for _ in 0..8 {
            let got = match wire::receive::<Note>(self.setup.as_fd(), buffer, Wait::Poll) {
                Ok(got) => got,
                Err(error) => {
                    self.is_silent |= !error.would_block();
                    break;
                }
            };
            match (got.message, self.phase) {
                (Note::Listener, _) => self.listener = got.files.into_iter().next(),
                (Note::Guest, _) => self.guest_pid = got.sender,
                (Note::Blank, Phase::Making) => step = Step::Made(got.files),
                (Note::Ready, Phase::Assigned(owner)) => {
                    self.kill_at = None;
                    self.phase = Phase::Started(owner);
                    step = Step::Started(owner);
                }
                (Note::Blank | Note::Ready, _) => {}
                (Note::Failed { stage, message }, _) => self.failure = Some((stage, message)),
                (Note::Ended(status), _) => self.status = Some(status),
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
        let ends = [self.log.take(), self.channel.take(), self.listener.take()];
        let mut files: Vec<OwnedFd> = ends.into_iter().flatten().collect();
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
        if grace_ms == 0 || !self.has_started() {
            return self.kill();
        }
        match &self.guest {
            Some(guest) => drop(rustix::process::pidfd_send_signal(guest, Signal::TERM)),
            None => self.process.signal(Signal::TERM),
        }
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
            eprintln!("tidegate launcher: the processes of sandbox {} do not end", self.serial);
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
            if !self.has_started() && self.failure.is_none() {
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
        if let Step::Started(owner) = late {
            // The guest ended before its start was noticed: both are said, in order.
            self.remove_again = Some((Instant::now(), REMOVE_ATTEMPTS));
            return Step::Started(owner);
        }
        self.remove(REMOVE_ATTEMPTS)
    }

    /// The network namespace, whose last process has ended; the kernel takes it and its link away when it is dropped.
    pub fn take_namespace(&mut self) -> Option<Namespace> {
        self.namespace.take()
    }

    fn remove(&mut self, attempts_left: u32) -> Step {
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
                eprintln!("tidegate launcher: sandbox {} is left behind: its processes do not end", self.serial);
                return;
            }
            if !self.process.has_ended_within(wait_ms) {
                self.group.kill_all();
                wait_ms = KILL_TICK_MS;
            }
        }
        while !self.group.remove() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(REMOVE_TICK_MS));
        }
    }
}
