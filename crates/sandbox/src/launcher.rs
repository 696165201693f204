//! The launcher's loop: one thread, one closed set of events, every wait bounded by the next thing that is due.

use crate::abilities::{self, Facts};
use crate::config::Config;
use crate::inside::Failure;
use crate::instance::{DESTROY_MS_MAX, Files, Instance, Machine, Step};
use crate::interpreters::{self, Found};
use crate::netpool::{Namespace, Pool, ReadError};
use crate::network::Network;
use crate::prepare::{Prepared, chain};
use crate::scratch::Scratch;
use crate::seccomp;
use crate::sys::{self, Fork, Process, Signals};
use crate::wire::{self, Buffer, Wait};
use api::launcher::{Ability, Event, ExitStatus, GRACE_MS_MAX, Hello, Mode, Program, Request, STAGE_FULL, Start};
use rustix::event::{Timespec, epoll};
use rustix::process::Signal;
use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Kernel events taken in one turn.
const EVENTS_PER_TURN: usize = 64;
/// Requests taken in one turn.
const REQUESTS_PER_TURN: usize = 32;
/// Messages that wait for a slow daemon, per instance; beyond that it is taken for broken and ended.
const WAITING_PER_INSTANCE: usize = 4;
/// How long the daemon may live on after it has closed its end of the socket.
const DAEMON_LINGER_MS: u64 = 10_000;
/// How long all instances together may take to end when the launcher does.
const CLEAN_MS_MAX: u64 = 5_000;

/// The size of `/tmp` that most functions have: the least that the Lambda API allows.
const SCRATCH_LIKELY_MB: u32 = 512;

/// A launcher whose daemon runs.
pub struct Launcher {
    prepared: Prepared,
    daemon: Process,
    socket: OwnedFd,
}

/// What a kernel event belongs to, with the slot where it is an instance's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Daemon,
    DaemonEnd,
    Signals,
    Probe,
    Setup(u32),
    End(u32),
    Memory(u32),
    Network,
}

impl Source {
    fn to_data(self) -> epoll::EventData {
        let (kind, slot) = match self {
            Source::Daemon => (0, 0),
            Source::DaemonEnd => (1, 0),
            Source::Signals => (2, 0),
            Source::Probe => (3, 0),
            Source::Setup(slot) => (4, slot),
            Source::End(slot) => (5, slot),
            Source::Memory(slot) => (6, slot),
            Source::Network => (7, 0),
        };
        epoll::EventData::new_u64(kind << 32 | u64::from(slot))
    }

    fn from_data(data: u64) -> Option<Source> {
        let slot = data as u32;
        Some(match data >> 32 {
            0 => Source::Daemon,
            1 => Source::DaemonEnd,
            2 => Source::Signals,
            3 => Source::Probe,
            4 => Source::Setup(slot),
            5 => Source::End(slot),
            6 => Source::Memory(slot),
            7 => Source::Network,
            _ => return None,
        })
    }
}

/// The process that asks interpreters for their versions.
struct Probe {
    process: Process,
    socket: OwnedFd,
}

/// Guests' way out, and the starts that wait for a namespace of it.
struct Outside {
    network: Network,
    /// `None` once its maker has ended.
    pool: Option<Pool>,
    waiting: VecDeque<(Start, Files)>,
}

struct Loop {
    machine: Machine,
    outside: Option<Outside>,
    epoll: OwnedFd,
    signals: OwnedFd,
    daemon: Process,
    /// `None` once the daemon has closed its end.
    socket: Option<OwnedFd>,
    daemon_kill_at: Option<Instant>,
    terminated: bool,
    probe: Option<Probe>,
    outgoing: VecDeque<(Event, Vec<OwnedFd>)>,
    buffer: Buffer,
    /// By slot; a slot is a user id, a link and a place here.
    instances: Vec<Option<Instance>>,
    slots: HashMap<u64, u32>,
    free: Vec<u32>,
}

impl Launcher {
    pub(crate) fn new(prepared: Prepared, daemon: Process, socket: OwnedFd) -> Launcher {
        Launcher { prepared, daemon, socket }
    }

    /// Serves the daemon until it ends, then takes everything away. The code is the daemon's, 1 if a signal ended it.
    pub fn run(self) -> ExitCode {
        let mut launcher = match Loop::new(self) {
            Ok(launcher) => launcher,
            Err(error) => {
                eprintln!("tidegate launcher: cannot start: {error}");
                return ExitCode::FAILURE;
            }
        };
        let status = loop {
            match launcher.turn() {
                Ok(None) => {}
                Ok(Some(status)) => break status,
                Err(error) => {
                    eprintln!("tidegate launcher: {error}");
                    launcher.daemon.signal(Signal::KILL);
                    let _ = launcher.daemon.wait(true);
                    break ExitStatus::Code(1);
                }
            }
        };
        launcher.clean();
        match status {
            ExitStatus::Code(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
            ExitStatus::Signal(_) => ExitCode::FAILURE,
        }
    }
}

/// What takes longer than the daemon should wait for: while this runs, the daemon starts.
fn machine(prepared: Prepared) -> io::Result<(Machine, Option<Outside>, Vec<Ability>)> {
    let Prepared { config, mode, key, staging, cgroups, interpreters, scratch_folder, .. } = prepared;
    let home_network = File::open("/proc/self/ns/net")?.into();
    let outside = match mode {
        Mode::UserNamespace => Err("only root can connect network namespaces".to_owned()),
        Mode::Root => open_outside(&config, &key),
    };
    let open = |folder| Scratch::open(folder, config.find_program("mke2fs"), SCRATCH_LIKELY_MB);
    let scratch = scratch_folder.and_then(|folder| open(folder).map_err(|error| chain(&error)));
    let facts = Facts {
        mode,
        controllers: cgroups.controllers(),
        network: outside.as_ref().map(|outside| outside.network.resolver).map_err(String::as_str),
        scratch: scratch.as_ref().map(drop).map_err(String::as_str),
    };
    let abilities = abilities::of_machine(&facts);
    let (filter, scratch) = (seccomp::program(), scratch.ok());
    let machine = Machine { config, mode, staging, cgroups, interpreters, filter, scratch, home_network };
    Ok((machine, outside.ok(), abilities))
}

fn open_outside(config: &Config, key: &str) -> Result<Outside, String> {
    let network = Network::open(config, key).map_err(|error| chain(&error))?;
    // The first four addresses of the subnet are for the name server.
    let indices = config.subnet.addresses() / 4 - 1;
    let pool = Pool::start(&network, indices).map_err(|error| error.to_string())?;
    Ok(Outside { network, pool: Some(pool), waiting: VecDeque::new() })
}

impl Loop {
    fn new(launcher: Launcher) -> io::Result<Loop> {
        let Launcher { prepared, daemon, socket } = launcher;
        let signals = Signals::of(&[libc::SIGTERM, libc::SIGINT, libc::SIGHUP]);
        signals.block_only()?;
        let instances_max = prepared.config.instances_max;
        let (machine, outside, abilities) = machine(prepared)?;
        let mut new = Loop {
            machine,
            outside,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            signals: signals.descriptor()?,
            daemon,
            socket: Some(socket),
            daemon_kill_at: None,
            terminated: false,
            probe: None,
            outgoing: VecDeque::new(),
            buffer: Buffer::default(),
            instances: (0..instances_max).map(|_| None).collect(),
            slots: HashMap::new(),
            free: (0..instances_max).rev().collect(),
        };
        new.watch_own()?;
        new.greet(abilities);
        new.start_probe();
        Ok(new)
    }

    fn watch_own(&self) -> io::Result<()> {
        if let Some(socket) = &self.socket {
            self.watch(socket.as_fd(), Source::Daemon, epoll::EventFlags::IN)?;
        }
        if let Some(pool) = self.outside.as_ref().and_then(|outside| outside.pool.as_ref()) {
            self.watch(pool.socket.as_fd(), Source::Network, epoll::EventFlags::IN)?;
        }
        self.watch(self.signals.as_fd(), Source::Signals, epoll::EventFlags::IN)?;
        self.watch(self.daemon.pidfd.as_fd(), Source::DaemonEnd, epoll::EventFlags::IN)
    }

    fn watch(&self, file: BorrowedFd<'_>, source: Source, flags: epoll::EventFlags) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, file, source.to_data(), flags)?)
    }

    fn greet(&mut self, abilities: Vec<Ability>) {
        let hello = Hello {
            mode: self.machine.mode,
            abilities,
            interpreters: self.machine.interpreters.list(),
            network: self.outside.is_some(),
        };
        self.tell(Event::Hello(hello), Vec::new());
    }

    fn start_probe(&mut self) {
        let started = wire::pair().map_err(io::Error::other).and_then(|(ours, theirs)| match sys::fork(0, None)? {
            Fork::Parent(process) => Ok(Probe { process, socket: ours }),
            Fork::Child => {
                drop(ours);
                let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
                let _ = Signals::of(&[]).block_only();
                interpreters::probe_for(&self.machine.config, theirs.as_fd());
                sys::exit_now(0)
            }
        });
        match started {
            Ok(probe) if self.watch(probe.socket.as_fd(), Source::Probe, epoll::EventFlags::IN).is_ok() => {
                self.probe = Some(probe);
            }
            Ok(_) | Err(_) => eprintln!("tidegate launcher: cannot look for interpreters"),
        }
    }

    /// Waits for events and handles them. `Some`: the daemon has ended.
    fn turn(&mut self) -> io::Result<Option<ExitStatus>> {
        let mut events = Vec::with_capacity(EVENTS_PER_TURN);
        let timeout = self.next_due().map(|at| {
            let wait = at.saturating_duration_since(Instant::now()) + Duration::from_micros(500);
            Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() }
        });
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        for event in events {
            match Source::from_data(event.data.u64()) {
                Some(Source::DaemonEnd) => {
                    if let Some(status) = self.daemon.wait(false)? {
                        return Ok(Some(status));
                    }
                }
                Some(source) => self.handle(source),
                None => {}
            }
        }
        self.tick();
        Ok(None)
    }

    fn next_due(&self) -> Option<Instant> {
        self.slots
            .values()
            .filter_map(|slot| self.instances[*slot as usize].as_ref()?.due())
            .chain(self.daemon_kill_at)
            .min()
    }

    fn handle(&mut self, source: Source) {
        match source {
            Source::Daemon => {
                self.flush();
                self.read_requests();
            }
            Source::Signals => self.forward_signals(),
            Source::Probe => self.read_probe(),
            Source::Network => self.read_pool(),
            Source::Setup(slot) => self.with_instance(slot, |instance, buffer| instance.read_notes(buffer)),
            Source::End(slot) => self.with_instance(slot, |instance, buffer| instance.ended(buffer)),
            Source::Memory(slot) => self.with_instance(slot, |instance, _| {
                instance.memory_exhausted();
                Step::Stay
            }),
            // Handled by `turn`.
            Source::DaemonEnd => {}
        }
    }

    fn tick(&mut self) {
        let now = Instant::now();
        if self.daemon_kill_at.is_some_and(|at| at <= now) {
            self.daemon_kill_at = None;
            self.daemon.signal(Signal::KILL);
        }
        let due =
            |slot: &u32| self.instances[*slot as usize].as_ref().is_some_and(|i| i.due().is_some_and(|at| at <= now));
        let due: Vec<u32> = self.slots.values().copied().filter(due).collect();
        for slot in due {
            self.with_instance(slot, |instance, _| instance.tick(now));
        }
    }

    /// Lets `look` look at an instance and does what follows. Events may be late: the slot may be free.
    fn with_instance(&mut self, slot: u32, look: impl FnOnce(&mut Instance, &mut Buffer) -> Step) {
        let Some(Some(instance)) = self.instances.get_mut(slot as usize) else { return };
        match look(instance, &mut self.buffer) {
            Step::Stay => self.forget_closed_setup(slot),
            Step::Started => {
                instance.started = true;
                let (memory, files) = instance.started_files();
                let event = Event::Started { instance: instance.id, pid: instance.guest_pid(), memory };
                self.tell(event, files);
            }
            Step::Gone => self.gone(slot),
        }
    }

    /// A setup socket whose other end is closed would be ready for ever; the end of the process says the rest.
    fn forget_closed_setup(&mut self, slot: u32) {
        if let Some(Some(instance)) = self.instances.get(slot as usize)
            && (instance.status.is_some() || instance.failure.is_some())
        {
            let _ = epoll::delete(&self.epoll, &instance.setup);
        }
    }

    fn gone(&mut self, slot: u32) {
        let Some(mut instance) = self.instances.get_mut(slot as usize).and_then(Option::take) else { return };
        if let Some(namespace) = instance.take_namespace() {
            self.free_index(namespace.index);
        }
        self.slots.remove(&instance.id);
        self.free.push(slot);
        let event = if instance.started {
            Event::Exited {
                instance: instance.id,
                status: instance.status.unwrap_or(ExitStatus::Signal(libc::SIGKILL)),
                out_of_memory: instance.out_of_memory(),
                memory_peak_bytes: instance.memory_peak_bytes(),
            }
        } else {
            let unknown = || ("setup".to_owned(), "the sandbox ended while it was being made".to_owned());
            let (stage, message) = instance.failure.clone().unwrap_or_else(unknown);
            Event::StartFailed { instance: instance.id, stage, message }
        };
        self.tell(event, Vec::new());
    }

    fn read_requests(&mut self) {
        for _ in 0..REQUESTS_PER_TURN {
            let Some(socket) = &self.socket else { return };
            match wire::receive::<Request>(socket.as_fd(), &mut self.buffer, Wait::Poll) {
                Ok(got) => self.serve(got.message, got.files),
                Err(error) if error.would_block() => return,
                Err(wire::Error::Closed) => return self.lose_daemon(),
                Err(error) => {
                    eprintln!("tidegate launcher: the daemon is broken: {error}");
                    self.daemon.signal(Signal::KILL);
                    return self.lose_daemon();
                }
            }
        }
    }

    fn lose_daemon(&mut self) {
        if let Some(socket) = self.socket.take() {
            let _ = epoll::delete(&self.epoll, &socket);
        }
        self.outgoing.clear();
        self.outside.iter_mut().for_each(|outside| outside.waiting.clear());
        self.daemon_kill_at = Some(Instant::now() + Duration::from_millis(DAEMON_LINGER_MS));
        self.instances.iter_mut().flatten().for_each(Instance::kill);
    }

    fn serve(&mut self, request: Request, files: Vec<OwnedFd>) {
        match request {
            Request::Start(start) => {
                let instance = start.instance;
                if let Err(failure) = self.start(start, files) {
                    self.refuse(instance, failure);
                }
            }
            Request::Stop { instance, grace_ms } => {
                self.stop_waiting(instance);
                if let Some(instance) = self.find(instance) {
                    instance.stop(grace_ms.min(GRACE_MS_MAX));
                }
            }
            Request::Settle { instance } => {
                if let Some(instance) = self.find(instance) {
                    instance.settle();
                }
            }
            Request::Freeze { instance } => {
                if let Some(instance) = self.find(instance) {
                    instance.set_frozen(true);
                }
            }
            Request::Thaw { instance } => {
                if let Some(instance) = self.find(instance) {
                    instance.set_frozen(false);
                }
            }
        }
    }

    fn find(&mut self, id: u64) -> Option<&mut Instance> {
        let slot = *self.slots.get(&id)?;
        self.instances.get_mut(slot as usize)?.as_mut()
    }

    fn refuse(&mut self, instance: u64, failure: Failure) {
        let Failure { stage, message } = failure;
        self.tell(Event::StartFailed { instance, stage: stage.into(), message }, Vec::new());
    }

    fn start(&mut self, start: Start, files: Vec<OwnedFd>) -> Result<(), Failure> {
        let refuse = |message: String| Failure { stage: "request", message };
        start.check().map_err(|error| refuse(error.to_string()))?;
        let wants_channel = matches!(start.program, Program::Managed { .. });
        let mut files = files.into_iter();
        let files = match (files.next(), files.next(), files.next()) {
            (Some(log), Some(channel), None) if wants_channel => Files { log, channel: Some(channel) },
            (Some(log), None, None) if !wants_channel => Files { log, channel: None },
            _ => return Err(refuse("the wrong number of files".into())),
        };
        let waiting = self.outside.as_ref().map(|outside| &outside.waiting);
        let waits = waiting.is_some_and(|waiting| waiting.iter().any(|(other, _)| other.instance == start.instance));
        if waits || self.slots.contains_key(&start.instance) {
            return Err(refuse("the instance exists".into()));
        }
        if self.free.len() <= waiting.map_or(0, VecDeque::len) {
            return Err(Failure { stage: STAGE_FULL, message: "the machine has no room for another instance".into() });
        }
        match &mut self.outside {
            Some(outside) if start.network == api::launcher::Network::Nat => outside.waiting.push_back((start, files)),
            _ => return self.launch(&start, files, None),
        }
        self.launch_waiting();
        Ok(())
    }

    /// Starts those for which there is a network namespace in hand.
    fn launch_waiting(&mut self) {
        while let Some(outside) = &mut self.outside {
            let Some((start, files)) = outside.waiting.pop_front() else { return };
            let Some(pool) = &mut outside.pool else {
                let message = "network namespaces can no longer be made".to_owned();
                self.refuse(start.instance, Failure { stage: "network", message });
                continue;
            };
            let Some(namespace) = pool.take(outside.waiting.len() + 1) else {
                outside.waiting.push_front((start, files));
                return;
            };
            if let Err(failure) = self.launch(&start, files, Some(namespace)) {
                self.refuse(start.instance, failure);
            }
        }
    }

    fn launch(&mut self, start: &Start, files: Files, namespace: Option<Namespace>) -> Result<(), Failure> {
        let index = namespace.as_ref().map(|namespace| namespace.index);
        let Some(slot) = self.free.pop() else {
            return Err(Failure { stage: STAGE_FULL, message: "the machine has no room for another instance".into() });
        };
        let made = self.machine.spawn(slot, start, files, namespace);
        match made.and_then(|instance| self.watch_instance(slot, instance)) {
            Ok(instance) => {
                self.instances[slot as usize] = Some(instance);
                self.slots.insert(start.instance, slot);
                Ok(())
            }
            Err(failure) => {
                self.free.push(slot);
                index.into_iter().for_each(|index| self.free_index(index));
                Err(failure)
            }
        }
    }

    /// A start that still waits for its network is stopped before it has begun.
    fn stop_waiting(&mut self, instance: u64) {
        let Some(outside) = &mut self.outside else { return };
        let before = outside.waiting.len();
        outside.waiting.retain(|(start, _)| start.instance != instance);
        if outside.waiting.len() < before {
            self.refuse(instance, Failure { stage: "stopped", message: "stopped before it had begun".into() });
        }
    }

    fn free_index(&mut self, index: u32) {
        if let Some(pool) = self.outside.as_mut().and_then(|outside| outside.pool.as_mut()) {
            pool.free(index);
        }
    }

    fn read_pool(&mut self) {
        let Some(outside) = &mut self.outside else { return };
        let Some(pool) = &mut outside.pool else { return };
        match pool.read(&mut self.buffer) {
            Ok(()) => {}
            Err(ReadError::Make(message)) => {
                eprintln!("tidegate launcher: make a network namespace: {message}");
                // Whoever waits longest pays; with nobody waiting the next start asks again.
                if let Some((start, _)) = outside.waiting.pop_front() {
                    self.refuse(start.instance, Failure { stage: "network", message });
                }
            }
            Err(ReadError::Ended) => {
                if let Some(pool) = outside.pool.take() {
                    let _ = epoll::delete(&self.epoll, &pool.socket);
                    pool.end();
                }
            }
        }
        self.launch_waiting();
    }

    fn watch_instance(&self, slot: u32, mut instance: Instance) -> Result<Instance, Failure> {
        let watch = || -> io::Result<()> {
            self.watch(instance.setup.as_fd(), Source::Setup(slot), epoll::EventFlags::IN)?;
            self.watch(instance.process.pidfd.as_fd(), Source::End(slot), epoll::EventFlags::IN)?;
            let Some(memory) = &instance.memory_watch else { return Ok(()) };
            let flag = match self.machine.cgroups.controllers().version {
                1 => epoll::EventFlags::IN,
                _ => epoll::EventFlags::PRI,
            };
            self.watch(memory.as_fd(), Source::Memory(slot), flag)
        };
        match watch() {
            Ok(()) => Ok(instance),
            Err(error) => {
                instance.destroy(Instant::now() + Duration::from_millis(DESTROY_MS_MAX));
                Err(Failure { stage: "watch", message: error.to_string() })
            }
        }
    }

    fn read_probe(&mut self) {
        for _ in 0..EVENTS_PER_TURN {
            let Some(probe) = &self.probe else { return };
            match wire::receive::<Found>(probe.socket.as_fd(), &mut self.buffer, Wait::Poll) {
                Ok(got) => {
                    if let Err(error) = self.machine.interpreters.add(got.message, &self.machine.staging) {
                        eprintln!("tidegate launcher: an interpreter cannot be used: {error}");
                    }
                    self.tell_interpreters(false);
                }
                Err(error) if error.would_block() => return,
                Err(_) => {
                    // The probing process ends with its socket.
                    if let Some(probe) = self.probe.take() {
                        let _ = epoll::delete(&self.epoll, &probe.socket);
                        probe.process.signal(Signal::KILL);
                        let _ = probe.process.wait(true);
                    }
                    return self.tell_interpreters(true);
                }
            }
        }
    }

    fn tell_interpreters(&mut self, complete: bool) {
        let interpreters = self.machine.interpreters.list();
        self.tell(Event::Interpreters { interpreters, complete }, Vec::new());
    }

    fn forward_signals(&mut self) {
        while sys::read_signal(self.signals.as_fd()).is_some() {
            // The first asks the daemon to drain; a later one, to leave at once. The daemon tells them apart.
            self.terminated = true;
            self.daemon.signal(Signal::TERM);
        }
    }

    /// Sends an event, or keeps it until the daemon reads again.
    fn tell(&mut self, event: Event, files: Vec<OwnedFd>) {
        if self.socket.is_none() {
            return;
        }
        self.outgoing.push_back((event, files));
        if self.outgoing.len() > WAITING_PER_INSTANCE * (self.instances.len() + 16) {
            eprintln!("tidegate launcher: the daemon does not read");
            self.daemon.signal(Signal::KILL);
            return self.lose_daemon();
        }
        self.flush();
    }

    fn flush(&mut self) {
        let Some(socket) = &self.socket else { return };
        while let Some((event, files)) = self.outgoing.front() {
            let borrowed: Vec<BorrowedFd<'_>> = files.iter().map(AsFd::as_fd).collect();
            match wire::send(socket.as_fd(), event, &borrowed, Wait::Poll) {
                Err(error) if error.would_block() => break,
                // A closed socket is noticed when it is read.
                Ok(()) | Err(_) => drop(self.outgoing.pop_front()),
            }
        }
        let mut flags = epoll::EventFlags::IN;
        flags.set(epoll::EventFlags::OUT, !self.outgoing.is_empty());
        let _ = epoll::modify(&self.epoll, socket, Source::Daemon.to_data(), flags);
    }

    /// Takes everything away.
    fn clean(mut self) {
        if let Some(probe) = self.probe.take() {
            probe.process.signal(Signal::KILL);
            let _ = probe.process.wait(true);
        }
        self.instances.iter_mut().flatten().for_each(Instance::kill);
        let until = Instant::now() + Duration::from_millis(CLEAN_MS_MAX);
        self.instances.iter_mut().flatten().for_each(|instance| instance.destroy(until));
        self.instances.clear();
        if let Some(mut outside) = self.outside.take() {
            outside.pool.take().into_iter().for_each(Pool::end);
            outside.network.remove();
        }
        self.machine.cgroups.remove();
        self.machine.staging.remove();
    }
}
