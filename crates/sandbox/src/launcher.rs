//! The launcher's loop: one thread, one closed set of events, every wait bounded by the next thing that is due.

mod starts;
mod stocking;
mod zygotes;

use self::stocking::Stock;
use self::zygotes::Zygotes;
use crate::abilities::{self, Facts};
use crate::cloner::Cloner;
use crate::config::Config;
use crate::imagepool::Images;
use crate::inside::Failure;
use crate::instance::{DESTROY_MS_MAX, Instance, Step};
use crate::interpreters::{self, Found};
use crate::making::Machine;
use crate::netpool::Pool;
use crate::network::Network;
use crate::prepare::{Prepared, chain};
use crate::scratch::Scratch;
use crate::seccomp;
use crate::sys::{self, Fork, Process, Signals};
use crate::wire::{self, Buffer, Wait};
use api::launcher::{Ability, Event, ExitStatus, GRACE_MS_MAX, Hello, Mode, Request, STAGE_LOST};
use rustix::event::{Timespec, epoll};
use rustix::process::Signal;
use std::collections::{BTreeSet, HashMap, VecDeque};
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
    Zygote(u32),
    Images,
    /// A guest whose zygote is gone.
    Guest(u32),
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
            Source::Zygote(runtime) => (8, runtime),
            Source::Guest(slot) => (9, slot),
            Source::Images => (10, 0),
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
            8 => Source::Zygote(slot),
            9 => Source::Guest(slot),
            10 => Source::Images,
            _ => return None,
        })
    }
}

/// The process that asks interpreters for their versions.
struct Probe {
    process: Process,
    socket: OwnedFd,
}

/// Guests' way out.
struct Outside {
    network: Network,
    /// `None` once its maker has ended.
    pool: Option<Pool>,
}

/// What this machine has, and what it lacks.
struct Survey {
    machine: Machine,
    outside: Option<Outside>,
    images: Option<Images>,
    abilities: Vec<Ability>,
}

struct Loop {
    machine: Machine,
    outside: Option<Outside>,
    /// Where `/tmp` of guests comes from, if not from memory.
    images: Option<Images>,
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
    /// The slots of sandboxes that have a function, by the daemon's name for them.
    slots: HashMap<u64, u32>,
    free: Vec<u32>,
    /// Slots of sandboxes for which something may become due.
    watched: BTreeSet<u32>,
    stock: Stock,
    zygotes: Zygotes,
    next_serial: u64,
    started: Instant,
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
fn survey(prepared: Prepared) -> io::Result<Survey> {
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
    let images = scratch.ok().map(Images::start).transpose()?;
    let filter = seccomp::program();
    let cloner = Cloner::default();
    let mut machine = Machine { config, mode, staging, cgroups, interpreters, filter, home_network, cloner };
    // Now, while this process is small; if that fails, the first sandbox tries again.
    if let Err(failure) = machine.start_cloner() {
        eprintln!("tidegate launcher: start the cloner: {}", failure.message);
    }
    Ok(Survey { machine, outside: outside.ok(), images, abilities })
}

fn open_outside(config: &Config, key: &str) -> Result<Outside, String> {
    let network = Network::open(config, key).map_err(|error| chain(&error))?;
    // The first four addresses of the subnet are for the name server.
    let indices = config.subnet.addresses() / 4 - 1;
    let pool = Pool::start(&network, indices).map_err(|error| error.to_string())?;
    Ok(Outside { network, pool: Some(pool) })
}

impl Loop {
    fn new(launcher: Launcher) -> io::Result<Loop> {
        let Launcher { prepared, daemon, socket } = launcher;
        let signals = Signals::of(&[libc::SIGTERM, libc::SIGINT, libc::SIGHUP]);
        signals.block_only()?;
        let slots = prepared.config.slots();
        let Survey { machine, outside, images, abilities } = survey(prepared)?;
        // The children of a zygote that has ended become ours, so that their end can be known.
        let me = rustix::process::getpid();
        rustix::process::set_child_subreaper(Some(me))?;
        let mut new = Loop {
            machine,
            outside,
            images,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            signals: signals.descriptor()?,
            daemon,
            socket: Some(socket),
            daemon_kill_at: None,
            terminated: false,
            probe: None,
            outgoing: VecDeque::new(),
            buffer: Buffer::default(),
            instances: (0..slots).map(|_| None).collect(),
            slots: HashMap::new(),
            free: (0..slots).rev().collect(),
            watched: BTreeSet::new(),
            stock: Stock::default(),
            zygotes: Zygotes::default(),
            next_serial: 1,
            started: Instant::now(),
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
        if let Some(images) = &self.images {
            self.watch(images.socket.as_fd(), Source::Images, epoll::EventFlags::IN)?;
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

    /// Sandboxes whose time has come are looked at by `tick`; most have none.
    fn next_due(&self) -> Option<Instant> {
        let instances = self.watched.iter().filter_map(|slot| self.instances[*slot as usize].as_ref()?.due());
        instances.chain(self.daemon_kill_at).chain(self.stock.due()).chain(self.zygotes.due()).min()
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
            Source::Zygote(runtime) => self.read_zygote(runtime),
            Source::Guest(slot) => self.guest_gone(slot),
            Source::Images => self.read_images(),
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
        let is_due =
            |slot: &u32| self.instances[*slot as usize].as_ref().is_some_and(|i| i.due().is_some_and(|at| at <= now));
        let due: Vec<u32> = self.watched.iter().copied().filter(is_due).collect();
        for slot in due {
            self.with_instance(slot, |instance, _| instance.tick(now));
        }
        self.tick_zygotes(now);
        self.tick_stock(now);
    }

    /// Lets `look` look at a sandbox and does what follows. Events may be late: the slot may be free.
    fn with_instance(&mut self, slot: u32, look: impl FnOnce(&mut Instance, &mut Buffer) -> Step) {
        let Some(Some(instance)) = self.instances.get_mut(slot as usize) else { return };
        match look(instance, &mut self.buffer) {
            Step::Stay => {}
            Step::Made(entry) => self.made(slot, entry),
            Step::Started(owner) => {
                let (memory, files) = instance.started_files();
                let (pid, waits) = (instance.guest_pid(), instance.shape.is_ahead());
                self.tell(Event::Started { instance: owner, pid, memory, waits }, files);
            }
            Step::Gone => return self.gone(slot),
        }
        self.forget_closed_setup(slot);
        self.note_due(slot);
    }

    /// Keeps in mind whether something may become due for a sandbox.
    fn note_due(&mut self, slot: u32) {
        let due = self.instances.get(slot as usize).and_then(Option::as_ref).and_then(Instance::due);
        if due.is_some() {
            self.watched.insert(slot)
        } else {
            self.watched.remove(&slot)
        };
    }

    /// A setup socket whose other end is closed would be ready for ever; the end of the process says the rest.
    fn forget_closed_setup(&mut self, slot: u32) {
        if let Some(Some(instance)) = self.instances.get(slot as usize)
            && instance.is_silent
        {
            let _ = epoll::delete(&self.epoll, &instance.setup);
        }
    }

    fn gone(&mut self, slot: u32) {
        let Some(mut instance) = self.instances.get_mut(slot as usize).and_then(Option::take) else { return };
        self.release_parts(&mut instance);
        self.watched.remove(&slot);
        self.free.push(slot);
        let unknown = || (STAGE_LOST.to_owned(), "the sandbox ended while it was being made".to_owned());
        match instance.owner() {
            None => self.never_used(slot, &instance, instance.failure.clone().unwrap_or_else(unknown)),
            Some(owner) => {
                self.slots.remove(&owner);
                let event = if instance.has_started() {
                    Event::Exited {
                        instance: owner,
                        status: instance.status.unwrap_or(ExitStatus::Signal(libc::SIGKILL)),
                        out_of_memory: instance.out_of_memory(),
                        memory_peak_bytes: instance.memory_peak_bytes(),
                    }
                } else {
                    let (stage, message) = instance.failure.clone().unwrap_or_else(unknown);
                    Event::StartFailed { instance: owner, stage, message }
                };
                self.tell(event, Vec::new());
            }
        }
        self.replenish();
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
        self.stock = Stock::default();
        self.daemon_kill_at = Some(Instant::now() + Duration::from_millis(DAEMON_LINGER_MS));
        self.instances.iter_mut().flatten().for_each(Instance::kill);
    }

    fn serve(&mut self, request: Request, files: Vec<OwnedFd>) {
        drop(files);
        match request {
            Request::Start(start) => self.start(start),
            Request::Expect { kinds } => self.expect(kinds),
            Request::Stop { instance, grace_ms } => {
                self.stop_waiting(instance);
                self.with_owned(instance, |instance| instance.stop(grace_ms.min(GRACE_MS_MAX)));
            }
            Request::Settle { instance } => self.with_owned(instance, Instance::settle),
            Request::Freeze { instance } => self.with_owned(instance, |instance| instance.set_frozen(true)),
            Request::Thaw { instance } => self.with_owned(instance, |instance| instance.set_frozen(false)),
        }
    }

    /// Does something to the sandbox of the daemon's instance; nothing if it has ended meanwhile.
    fn with_owned(&mut self, id: u64, act: impl FnOnce(&mut Instance)) {
        let Some(slot) = self.slots.get(&id).copied() else { return };
        if let Some(instance) = self.instances.get_mut(slot as usize).and_then(Option::as_mut) {
            act(instance);
        }
        self.note_due(slot);
    }

    fn watch_instance(&self, slot: u32, mut instance: Instance) -> Result<Instance, Failure> {
        let watch = || -> io::Result<()> {
            self.watch(instance.setup.as_fd(), Source::Setup(slot), epoll::EventFlags::IN)?;
            self.watch(instance.process.pidfd.as_fd(), Source::End(slot), epoll::EventFlags::IN)?;
            self.watch_memory(slot, &instance)
        };
        match watch() {
            Ok(()) => Ok(instance),
            Err(error) => {
                instance.destroy(Instant::now() + Duration::from_millis(DESTROY_MS_MAX));
                Err(Failure { stage: "watch", message: error.to_string() })
            }
        }
    }

    fn watch_memory(&self, slot: u32, instance: &Instance) -> io::Result<()> {
        let Some(memory) = &instance.memory_watch else { return Ok(()) };
        let flag = match self.machine.cgroups.controllers().version {
            1 => epoll::EventFlags::IN,
            _ => epoll::EventFlags::PRI,
        };
        self.watch(memory.as_fd(), Source::Memory(slot), flag)
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
                    self.tell_interpreters(true);
                    return self.look_at_expected();
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
        std::mem::take(&mut self.machine.cloner).end();
        // Every image that is left goes with its maker.
        self.images.take().into_iter().for_each(Images::end);
        // Only now: they are the parents of guests, and reap them.
        std::mem::take(&mut self.zygotes).end();
        if let Some(mut outside) = self.outside.take() {
            outside.pool.take().into_iter().for_each(Pool::end);
            outside.network.remove();
        }
        self.machine.cgroups.remove();
        self.machine.staging.remove();
    }
}
