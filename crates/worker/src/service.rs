//! The worker's doors, and the loop that listens to the launcher.

use crate::budget::Budget;
use crate::guest::{Exit, Instance};
use crate::launches::{Launches, Started};
use crate::metrics::Metrics;
use crate::snapstart::{Snapshots, Turns};
use crate::versions::Versioned;
use api::launcher::{EXPECTED_MAX, Event, Hello, InstanceKind, Interpreter, Request};
use arc_swap::ArcSwap;
use model::function::Generation;
use model::log::LogLine;
use model::{Digest, FunctionName, Limits, Spec};
use sandbox::wire::{self, Buffer, Wait};
use scheduler::instance::Event as Move;
use scheduler::keep_alive::Policy;
use scheduler::pool;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

/// Takes log lines towards the disk. Must not block: what cannot be taken is dropped and counted there.
pub type LogSink = Arc<dyn Fn(Vec<LogLine>) + Send + Sync>;

/// What a worker is made of.
pub struct Config {
    /// All limits.
    pub limits: Limits,
    /// The server's region, for the guests' environment.
    pub region: String,
    /// What the machine has, MB.
    pub memory_mb_machine: u64,
    /// What decides how long idle instances are kept.
    pub keep_alive: Policy,
    /// The socket to the launcher.
    pub launcher: OwnedFd,
    /// Where log lines go.
    pub logs: LogSink,
}

/// Why the worker ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket could not be used.
    #[error("attach to the launcher's socket")]
    Attach(#[source] std::io::Error),
    /// The launcher is gone; without it nothing can run.
    #[error("the launcher is gone")]
    LauncherGone(#[source] wire::Error),
}

/// The managed runtimes that the launcher has found, by name; `None` until it has looked.
pub type Interpreters = Option<BTreeMap<String, Interpreter>>;

/// The loop.
pub struct Service {
    shared: Arc<Shared>,
    socket: Arc<UnixStream>,
    outgoing: mpsc::UnboundedReceiver<Request>,
    hello: watch::Sender<Option<Hello>>,
    interpreters: watch::Sender<Interpreters>,
}

/// The cheap, cloneable way to the worker.
#[derive(Clone)]
pub struct Handle {
    pub(crate) shared: Arc<Shared>,
    hello: watch::Receiver<Option<Hello>>,
    interpreters: watch::Receiver<Interpreters>,
}

/// What all parts of the worker hold.
pub(crate) struct Shared {
    pub limits: Limits,
    pub region: String,
    pub keep_alive: Policy,
    pub logs: LogSink,
    pub budget: Budget,
    pub versions: ArcSwap<HashMap<Generation, Arc<Versioned>>>,
    pub launches: Launches,
    /// Images of initialised guests, by version.
    pub snapshots: Snapshots,
    pub metrics: Metrics,
    /// The right to read large bodies from guests.
    pub large_bodies: Arc<Semaphore>,
    /// What the launcher has found; managed runtimes start only after it has looked.
    pub interpreters: watch::Receiver<Interpreters>,
    /// What the launcher has said of the machine.
    pub hello: watch::Receiver<Option<Hello>>,
    /// The right to take a snapshot.
    pub turns: Turns,
    /// Starts under way by the pool's name, with the way to call each off.
    starting: Mutex<HashMap<pool::InstanceId, oneshot::Sender<()>>>,
    /// What may run, once it has been said; locked while a version's pool is made or all are looked through.
    current: Mutex<Option<HashSet<Generation>>>,
    /// What the launcher was last told to expect.
    expected: Mutex<BTreeSet<InstanceKind>>,
    next_id: AtomicU64,
    started: Instant,
}

impl Service {
    /// Builds a worker. Must be called inside the async runtime; nothing runs before [`Service::run`].
    pub fn new(config: Config) -> Result<(Service, Handle), Error> {
        let (sender, outgoing) = mpsc::unbounded_channel();
        let (hello, hello_seen) = watch::channel(None);
        let (interpreters, interpreters_seen) = watch::channel(None);
        let shared = Arc::new(Shared {
            budget: Budget::new(&config.limits, config.memory_mb_machine),
            snapshots: Snapshots::new(snapshot_bytes(&config)),
            limits: config.limits,
            region: config.region,
            keep_alive: config.keep_alive,
            logs: config.logs,
            versions: ArcSwap::default(),
            launches: Launches::new(sender),
            metrics: Metrics::default(),
            large_bodies: crate::runtime_api::large_bodies(),
            interpreters: interpreters_seen.clone(),
            hello: hello_seen.clone(),
            turns: Turns::new(),
            starting: Mutex::default(),
            current: Mutex::default(),
            expected: Mutex::default(),
            next_id: AtomicU64::new(1),
            started: Instant::now(),
        });
        // Tokio's stream type lends its readiness to what is a SOCK_SEQPACKET socket; `sandbox::wire` does the I/O.
        let socket = std::os::unix::net::UnixStream::from(config.launcher);
        let attach = |socket: std::os::unix::net::UnixStream| {
            socket.set_nonblocking(true)?;
            UnixStream::from_std(socket)
        };
        let socket = Arc::new(attach(socket).map_err(Error::Attach)?);
        let handle = Handle { shared: shared.clone(), hello: hello_seen, interpreters: interpreters_seen };
        Ok((Service { shared, socket, outgoing, hello, interpreters }, handle))
    }

    /// Listens to the launcher until it is gone, which is always an error: the launcher outlives the daemon.
    pub async fn run(self) -> Result<(), Error> {
        let Service { shared, socket, outgoing, hello, interpreters } = self;
        let sender = tokio::spawn(send_all(socket.clone(), outgoing));
        let mut buffer = Buffer::default();
        let error = loop {
            match receive(&socket, &mut buffer).await {
                Ok(received) => take(&shared, &hello, &interpreters, received),
                Err(error) => break error,
            }
        };
        sender.abort();
        shared.launches.all_gone();
        Err(Error::LauncherGone(error))
    }
}

/// Snapshots have a tenth of the machine at most: instances are promised four fifths.
fn snapshot_bytes(config: &Config) -> u64 {
    config.limits.snapshot_bytes.min((config.memory_mb_machine << 20) / 10)
}

async fn receive(socket: &UnixStream, buffer: &mut Buffer) -> Result<wire::Received<Event>, wire::Error> {
    loop {
        socket.readable().await.map_err(wire::Error::Receive)?;
        match attempt(socket, Interest::READABLE, || wire::receive(socket.as_fd(), buffer, Wait::Poll)) {
            None => {}
            Some(result) => return result,
        }
    }
}

/// Tries an operation whose readiness tokio believes in; `None` if it would have to wait after all.
fn attempt<T>(
    socket: &UnixStream,
    interest: Interest,
    operation: impl FnOnce() -> Result<T, wire::Error>,
) -> Option<Result<T, wire::Error>> {
    let mut result = None;
    // The closure's own `WouldBlock` is what makes tokio forget the readiness.
    let _ = socket.try_io(interest, || match operation() {
        Err(error) if error.would_block() => Err(std::io::ErrorKind::WouldBlock.into()),
        other => {
            result = Some(other);
            Ok(())
        }
    });
    result
}

fn take(
    shared: &Shared,
    hello: &watch::Sender<Option<Hello>>,
    interpreters: &watch::Sender<Interpreters>,
    received: wire::Received<Event>,
) {
    match received.message {
        Event::Hello(said) => {
            hello.send_replace(Some(said));
        }
        Event::Interpreters { interpreters: found, complete } => {
            if complete {
                interpreters.send_replace(Some(found.into_iter().map(|i| (i.runtime.0.clone(), i)).collect()));
            }
        }
        Event::Started { instance, pid: _, memory, waits } => {
            shared.launches.started(instance, Started { memory, files: received.files, waits });
        }
        Event::StartFailed { instance, stage, message } => shared.launches.start_failed(instance, stage, message),
        Event::Exited { instance, status, out_of_memory, memory_peak_bytes } => {
            let exit = Exit { status: Some(status), out_of_memory, memory_peak_bytes };
            shared.launches.exited(instance, exit);
        }
    }
}

async fn send_all(socket: Arc<UnixStream>, mut outgoing: mpsc::UnboundedReceiver<Request>) {
    // The queue holds at most a start, a settling, a freeze or thaw and two stops per instance, and the budget bounds
    // the instances.
    while let Some(request) = outgoing.recv().await {
        let sent = loop {
            if socket.writable().await.is_err() {
                return;
            }
            let send = || wire::send(socket.as_fd(), &request, &[], Wait::Poll);
            if let Some(sent) = attempt(&socket, Interest::WRITABLE, send) {
                break sent;
            }
        };
        match sent {
            Ok(()) => {}
            // The receiving loop sees the end as well and reports it.
            Err(wire::Error::Closed) => return,
            Err(error) => tracing::error!(%error, "a request to the launcher could not be sent"),
        }
    }
}

impl Shared {
    /// A number never used before in this run.
    pub fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// The clock of the pools.
    pub fn clock_us(&self) -> u64 {
        self.started.elapsed().as_micros() as u64
    }

    /// The pool of a version, made if it is new; `None` if the version was replaced meanwhile.
    pub fn version(&self, spec: &Arc<Spec>) -> Option<Arc<Versioned>> {
        if let Some(version) = self.versions.load().get(&spec.generation) {
            return Some(version.clone());
        }
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(version) = self.versions.load().get(&spec.generation) {
            return Some(version.clone());
        }
        if current.as_ref().is_some_and(|current| !current.contains(&spec.generation)) {
            return None;
        }
        let config = pool::Config {
            slots_per_instance: spec.instance_concurrency,
            waiting_max: self.limits.waiting_per_version,
            idle_ms: self.limits.idle_ms,
            keep_alive: self.keep_alive,
            freeze_after_ms: self.limits.freeze_after_ms,
            instances_max: self.limits.instances as usize,
        };
        let version = Arc::new(Versioned::new(spec.clone(), config));
        let mut versions = HashMap::clone(&self.versions.load());
        versions.insert(spec.generation, version.clone());
        self.versions.store(Arc::new(versions));
        Some(version)
    }

    /// Drops a version's pool if it drains and is empty.
    pub fn forget_if_over(&self, version: &Versioned) {
        if !version.is_over() {
            return;
        }
        let _current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let mut versions = HashMap::clone(&self.versions.load());
        let generation = version.spec.generation;
        if versions.get(&generation).is_some_and(|there| std::ptr::eq(Arc::as_ptr(there), version)) {
            versions.remove(&generation);
            self.versions.store(Arc::new(versions));
        }
    }

    /// Ends an instance that has nothing to do.
    pub fn stop(&self, instance: &Instance) {
        instance.life.advance(Move::StopOrdered);
        self.launches.kill(instance.id);
    }

    /// Notes a start under way; the receiver fires when nobody wants it any more.
    pub fn starting(&self, instance: pool::InstanceId) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        self.starting.lock().unwrap_or_else(PoisonError::into_inner).insert(instance, sender);
        receiver
    }

    /// The start has come to an end.
    pub fn start_over(&self, instance: pool::InstanceId) {
        self.starting.lock().unwrap_or_else(PoisonError::into_inner).remove(&instance);
    }

    /// Calls a start off.
    pub fn call_off(&self, instance: pool::InstanceId) {
        let sender = self.starting.lock().unwrap_or_else(PoisonError::into_inner).remove(&instance);
        if let Some(sender) = sender {
            // The receiver is gone if the start has just ended: then `Ready` or `Gone` is on its way.
            let _ = sender.send(());
        }
    }
}

impl Handle {
    /// The launcher's view of the machine, once it has said hello.
    pub fn hello(&self) -> watch::Receiver<Option<Hello>> {
        self.hello.clone()
    }

    /// The managed runtimes of this machine.
    pub fn interpreters(&self) -> watch::Receiver<Interpreters> {
        self.interpreters.clone()
    }

    /// Winds up every version that is not among `current`: who waits is served, idle instances stop.
    pub fn retain(&self, current: HashSet<Generation>) {
        self.shared.snapshots.retain(&current);
        let replaced: Vec<Arc<Versioned>> = {
            let mut known = self.shared.current.lock().unwrap_or_else(PoisonError::into_inner);
            let versions = self.shared.versions.load();
            let replaced = versions.values().filter(|v| !current.contains(&v.spec.generation)).cloned().collect();
            *known = Some(current);
            replaced
        };
        for version in &replaced {
            version.drain(&self.shared);
            self.shared.forget_if_over(version);
        }
    }

    /// Says which versions may be invoked, so that sandboxes for them are kept in stock.
    pub fn expect<'a>(&self, specs: impl Iterator<Item = &'a Spec>) {
        let kinds: BTreeSet<InstanceKind> = specs.map(crate::start::kind).collect();
        let mut last = self.shared.expected.lock().unwrap_or_else(PoisonError::into_inner);
        if *last != kinds {
            self.shared.launches.expect(kinds.iter().take(EXPECTED_MAX).cloned().collect());
            *last = kinds;
        }
    }

    /// Whether an instance may still read this package.
    pub fn in_use(&self, package: &Digest) -> bool {
        self.shared.versions.load().values().any(|v| v.spec.package == *package && !v.is_empty())
    }

    /// When a function was last invoked, milliseconds since the Unix epoch, as far as this worker remembers.
    pub fn last_invoked(&self, name: &FunctionName) -> Option<u64> {
        let versions = self.shared.versions.load();
        let of_function = versions.values().filter(|v| v.spec.name() == name);
        of_function.map(|v| v.invoked_ms.load(Ordering::Relaxed)).max().filter(|at| *at > 0)
    }
}
