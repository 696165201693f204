//! Starting an instance: room, sandbox, Init, and one more try as Lambda gives it.

use crate::budget::Room;
use crate::channel::{Broken, Channel, Frame};
use crate::environment::{Surroundings, compose};
use crate::guest::{Exit, Instance, Life, Memory, Talk, exited, gone};
use crate::launches::Launch;
use crate::link::Link;
use crate::logs::InstanceLog;
use crate::outcomes::Ending;
use crate::runtime_api::{Served, Session};
use crate::service::Shared;
use crate::snapstart::{self, Why};
use crate::versions::Versioned;
use api::channel::{Assign, Kind};
use api::launcher::{InstanceKind, Network, Program, STAGE_ENTRYPOINT, STAGE_FULL, STAGE_LOST, Start};
use model::{RuntimeFamily, Spec};
use sandbox::image::Image;
use scheduler::instance::{Event as Move, State};
use scheduler::lifetimes::{AfterFailedInit, InitLimits, Initialization, after_failed_init, init_limit_ms};
use scheduler::pool::{Event, Gone, InstanceId, Refusal};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use time::OffsetDateTime;
use tokio::net::{TcpListener, UnixStream};
use tokio::sync::{Mutex as AsyncMutex, watch};

/// Why no instance came of a start.
pub enum Failure {
    /// The function's own fault: an outcome.
    Function {
        /// What ended Init.
        ending: Ending,
        /// What the guest wrote.
        log: Arc<InstanceLog>,
        /// How long Init took.
        init_us: u64,
        /// Its peak.
        memory_mb: u32,
    },
    /// A hook that runs after the restore of a snapshot failed; its log says how.
    RestoreHook,
    /// The restore of a snapshot, with its hooks, took too long.
    RestoreTimedOut,
    /// The launcher has no place left.
    Full,
    /// Ours.
    Platform {
        /// For people.
        cause: String,
    },
}

impl Failure {
    /// Whether another try could end better: a package without a program stays without one.
    fn may_pass(&self) -> bool {
        match self {
            Failure::Function { ending, .. } => !matches!(ending, Ending::InvalidEntrypoint { .. }),
            Failure::RestoreHook | Failure::RestoreTimedOut | Failure::Full | Failure::Platform { .. } => false,
        }
    }

    /// For people.
    pub fn text(&self) -> &str {
        match self {
            Failure::Function { ending, .. } => ending.error_type(),
            Failure::RestoreHook => "a hook after the restore failed",
            Failure::RestoreTimedOut => "the restore took too long",
            Failure::Full => "no place left",
            Failure::Platform { cause } => cause,
        }
    }

    /// The pool's word for it.
    pub fn cause(&self) -> Gone {
        match self {
            Failure::Function { .. } | Failure::RestoreHook | Failure::RestoreTimedOut => Gone::InitFailed,
            Failure::Full | Failure::Platform { .. } => Gone::StartFailed,
        }
    }
}

/// How long the launcher may take to make a sandbox; far more than it ever needs.
const LAUNCH_MAX: Duration = Duration::from_secs(20);
/// Sandboxes that may be lost one after the other, before anything of the function has run, until a start has failed.
const SANDBOXES_MAX: u32 = 3;
/// Bytes that an answer may exceed the limit by before the channel counts as broken: the shim's own error is small.
const FRAME_SLACK_BYTES: usize = 65_536;

/// Starts one instance for a pool and tells the pool what came of it.
pub async fn start(shared: Arc<Shared>, version: Arc<Versioned>, pool_id: InstanceId, initialization: Initialization) {
    let called_off = shared.starting(pool_id);
    let ended = tokio::select! {
        ended = attempts_with_room(&shared, &version, initialization) => Some(ended),
        _ = called_off => None,
    };
    shared.start_over(pool_id);
    match ended {
        Some(Ok(instance)) => {
            shared.launches.settle(instance.id);
            let instance = Arc::new(instance);
            snapstart::take_later(&shared, &version.spec);
            tokio::spawn(watch(shared.clone(), version.clone(), pool_id, instance.clone()));
            version.ready(&shared, pool_id, instance);
        }
        Some(Err(NotStarted::NoRoom(reason))) => {
            version.step(&shared, Event::StartRefused { instance: pool_id, reason });
        }
        Some(Err(NotStarted::Failed(failure))) => {
            tracing::info!(function = %version.spec.name(), failure = failure.text(), "an instance did not start");
            version.failed(&shared, pool_id, failure);
        }
        None => version.gone(&shared, pool_id, Gone::Stopped),
    }
    shared.forget_if_over(&version);
}

enum NotStarted {
    NoRoom(Refusal),
    Failed(Failure),
}

async fn attempts_with_room(
    shared: &Arc<Shared>,
    version: &Versioned,
    initialization: Initialization,
) -> Result<Instance, NotStarted> {
    let ordered = Instant::now();
    let (room, evicted) = shared.budget.take(shared, &version.spec).await.map_err(NotStarted::NoRoom)?;
    // Each launch holds the room until the launcher says that its sandbox is gone.
    let mut instance =
        attempts(shared, version, initialization, &Arc::new(room)).await.map_err(|failure| match failure {
            Failure::Full => NotStarted::NoRoom(Refusal::Instances),
            failure => NotStarted::Failed(failure),
        })?;
    instance.sandbox_us = (ordered.elapsed().as_micros() as u64).saturating_sub(instance.init_us);
    instance.evicted = evicted;
    Ok(instance)
}

/// Follows an instance to its end.
async fn watch(shared: Arc<Shared>, version: Arc<Versioned>, pool_id: InstanceId, instance: Arc<Instance>) {
    gone(instance.exit.clone()).await;
    let cause = if instance.life.state() == State::Stopping { Gone::Stopped } else { Gone::Crashed };
    instance.life.advance(Move::ProcessEnded);
    version.gone(&shared, pool_id, cause);
    shared.forget_if_over(&version);
}

async fn attempts(
    shared: &Arc<Shared>,
    version: &Versioned,
    initialization: Initialization,
    room: &Arc<Room>,
) -> Result<Instance, Failure> {
    let limits = InitLimits::of(initialization, shared.limits.init_ms, version.spec.timeout_ms);
    let mut attempt = 1;
    let mut limit_ms = init_limit_ms(attempt, limits);
    let restored = version.spec.snap_start && initialization == Initialization::OnDemand;
    let mut snapshot = restored.then(|| shared.snapshots.image(version.spec.generation));
    loop {
        let time = Duration::from_millis(limit_ms);
        let wish = match &snapshot {
            Some(Ok(image)) => Wish::Become(image.clone()),
            Some(Err(_)) | None => Wish::Run,
        };
        let failed = match attempt_once(shared, &version.spec, initialization, time, room, wish).await {
            Ok(mut instance) => {
                if let (None, Some(Err(why))) = (instance.snapshot, snapshot) {
                    instance.snapshot = Some(Err(why));
                }
                return Ok(instance);
            }
            Err(failed) => failed,
        };
        let failure = match (&snapshot, failed.restore) {
            (Some(Ok(image)), Some(Ok(()))) => match of_restore(failed.failure) {
                Some(failure) => return Err(failure),
                None => {
                    shared.metrics.restored(Why::Broken.text());
                    shared.snapshots.lost(version.spec.generation, image, Why::Broken);
                    snapshot = Some(Err(Why::Broken));
                    continue;
                }
            },
            // It did not begin to become the image, but initialised.
            (Some(Ok(_)), Some(Err(why))) => {
                snapshot = Some(Err(why));
                failed.failure
            }
            (Some(Ok(_)), None) | (Some(Err(_)) | None, _) => failed.failure,
        };
        if !failure.may_pass() {
            return Err(failure);
        }
        match after_failed_init(attempt, version.somebody_waits(), limits) {
            AfterFailedInit::Retry { limit_ms: next } => limit_ms = next,
            AfterFailedInit::Report(_) => return Err(failure),
        }
        attempt += 1;
    }
}

/// A guest that did not come to the end of its Init.
struct Failed {
    failure: Failure,
    /// Whether it was becoming its image, or why it initialised instead; `None` if it had none.
    restore: Option<Result<(), Why>>,
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Failed {
        Failed { failure, restore: None }
    }
}

/// How long after the server's start the launcher's search for interpreters may take.
const INTERPRETERS_WAIT: Duration = Duration::from_secs(10);
/// How long a guest that reported a failed Init may take to end; what it writes until then is in the log.
const INIT_FAILED_EXIT_WAIT: Duration = Duration::from_millis(500);

async fn attempt_once(
    shared: &Arc<Shared>,
    spec: &Arc<Spec>,
    initialization: Initialization,
    time: Duration,
    room: &Arc<Room>,
    wish: Wish,
) -> Result<Instance, Failed> {
    if spec.runtime.family() != RuntimeFamily::Provided {
        wait_for_interpreters(shared).await?;
    }
    let launched = launch(shared, spec, initialization, room.clone(), wish).await?;
    let begun = Instant::now();
    let lost = |image: &_, why| shared.snapshots.lost(spec.generation, image, why);
    let result = tokio::time::timeout(time, launched.init(lost)).await;
    let init_us = begun.elapsed().as_micros() as u64;
    let ending = match result {
        Ok(Ok(restored)) => {
            if let Some(restored) = restored {
                shared.metrics.restored(restored.map_or_else(Why::text, |()| "restored"));
            }
            return Ok(launched.instance(init_us, restored));
        }
        Ok(Err(ending)) => ending,
        Err(_) => Ending::TimedOut,
    };
    if let Ending::Reported { .. } = ending {
        // Whether it ends by itself or not: what it reported is the outcome.
        let _ = tokio::time::timeout(INIT_FAILED_EXIT_WAIT, gone(launched.launch.exit())).await;
    }
    let memory_mb = launched.memory.peak_mb(&launched.launch.exit());
    let failure = Failure::Function { ending, log: launched.log.clone(), init_us, memory_mb };
    Err(Failed { failure, restore: launched.restore() })
}

/// What follows from a failure of a guest that was to become an image; `None`: the image is no good.
fn of_restore(failure: Failure) -> Option<Failure> {
    match failure {
        Failure::Function { ending: Ending::Reported { .. }, .. } => Some(Failure::RestoreHook),
        Failure::Function { ending: Ending::TimedOut, .. } => Some(Failure::RestoreTimedOut),
        Failure::Function { .. } => None,
        failure => Some(failure),
    }
}

/// Managed runtimes start only after the launcher has looked for interpreters.
pub async fn wait_for_interpreters(shared: &Shared) -> Result<(), Failure> {
    let mut interpreters = shared.interpreters.clone();
    let searched = tokio::time::timeout(INTERPRETERS_WAIT, interpreters.wait_for(Option::is_some)).await;
    searched.map_err(|_| platform("the launcher has not said which runtimes there are"))?.map_err(platform)?;
    Ok(())
}

fn platform(error: impl std::fmt::Display) -> Failure {
    Failure::Platform { cause: error.to_string() }
}

/// What a guest that waits is told to do with its function.
pub enum Wish {
    /// Initialise it and serve.
    Run,
    /// Become this image of it and serve.
    Become(Arc<Image>),
    /// Initialise it, send its image, and end.
    Write,
}

/// Asks the launcher for a sandbox and takes hold of its ends.
pub async fn launch(
    shared: &Arc<Shared>,
    spec: &Spec,
    initialization: Initialization,
    room: Arc<Room>,
    wish: Wish,
) -> Result<Launched, Failure> {
    let log_stream = log_stream(spec);
    let mut sandboxes = 1;
    let (launch, limits, environment, answer) = loop {
        let mut start = request(shared, spec, (initialization, &log_stream));
        let limits = (start.open_files, start.processes);
        let environment = start.environment.clone();
        if let Wish::Write = wish {
            // An interpreter of its own is of no use for this, and must not run what will be run again.
            start.environment.iter_mut().filter(|(name, _)| name == "_HANDLER").for_each(|(_, value)| value.clear());
        }
        let (launch, answer) = shared.launches.launch(start, room.clone());
        let answer = tokio::time::timeout(LAUNCH_MAX, answer).await;
        let lost = matches!(&answer, Ok(Ok(Err(failed))) if failed.stage == STAGE_LOST);
        if !lost || sandboxes == SANDBOXES_MAX {
            break (launch, limits, environment, answer);
        }
        sandboxes += 1;
    };
    let started = match answer {
        Ok(Ok(Ok(started))) => started,
        Ok(Ok(Err(failed))) if failed.stage == STAGE_ENTRYPOINT => {
            let log = no_log(shared, spec, log_stream).map_err(platform)?;
            let ending = Ending::InvalidEntrypoint { message: failed.message };
            return Err(Failure::Function { ending, log, init_us: 0, memory_mb: 0 });
        }
        Ok(Ok(Err(failed))) if failed.stage == STAGE_FULL => return Err(Failure::Full),
        Ok(Ok(Err(failed))) => return Err(platform(format!("{}: {}", failed.stage, failed.message))),
        Ok(Err(_)) => return Err(platform("the launcher is gone")),
        Err(_) => return Err(platform("the launcher did not answer in time")),
    };
    let mut files = started.files.into_iter();
    let log = files.next().ok_or_else(|| platform("the launcher sent no log"))?;
    let log = open_log(shared, spec, log_stream, log.into()).map_err(platform)?;
    let first = files.next().ok_or_else(|| platform("the launcher sent neither channel nor listener"))?;
    let how = match spec.runtime.family() {
        RuntimeFamily::Provided => How::RuntimeApi(listen(first, shared, spec).map_err(platform)?),
        RuntimeFamily::Python { .. } | RuntimeFamily::Node { .. } | RuntimeFamily::Other => {
            let mut channel = open_channel(first, shared).map_err(platform)?;
            if started.waits {
                assign(&mut channel, &environment, limits, &wish, &log).await;
            }
            How::Channel(AsyncMutex::new(channel))
        }
    };
    let memory = Memory::new(started.memory, files.next().map(std::fs::File::from));
    let life = Life::at(State::Starting);
    life.advance(Move::Launched);
    let image = match wish {
        Wish::Become(image) => Some(image),
        Wish::Run | Wish::Write => None,
    };
    Ok(Launched { launch, how, memory, log, life, image, refusal: OnceLock::new(), waits: started.waits })
}

/// Gives a guest that waits its function.
async fn assign(
    channel: &mut Channel,
    environment: &[(String, String)],
    (open_files, processes): (u32, u32),
    wish: &Wish,
    log: &InstanceLog,
) {
    let environment = environment.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let assign = Assign { environment, open_files, processes, snapshot: matches!(wish, Wish::Write) };
    if let Wish::Become(image) = wish {
        log.say("RESTORE_START".to_owned());
        let _ = channel.restore(image.as_fd()).await;
    }
    // A guest that is gone already shows that by its end.
    let _ = channel.assign(&assign).await;
}

fn open_log(
    shared: &Shared,
    spec: &Spec,
    stream: String,
    reader: std::io::PipeReader,
) -> std::io::Result<Arc<InstanceLog>> {
    let log = InstanceLog::new(reader, stream, spec, &shared.limits, shared.logs.clone())?;
    tokio::spawn(log.clone().carry());
    Ok(log)
}

/// The log of an instance whose program could not even begin.
fn no_log(shared: &Shared, spec: &Spec, stream: String) -> std::io::Result<Arc<InstanceLog>> {
    let (reader, _) = std::io::pipe()?;
    open_log(shared, spec, stream, reader)
}

fn open_channel(end: OwnedFd, shared: &Shared) -> std::io::Result<Channel> {
    let stream = std::os::unix::net::UnixStream::from(end);
    stream.set_nonblocking(true)?;
    let body_bytes_max = shared.limits.response_payload_bytes as usize + FRAME_SLACK_BYTES;
    Ok(Channel::new(UnixStream::from_std(stream)?, body_bytes_max))
}

fn listen(listener: OwnedFd, shared: &Shared, spec: &Spec) -> std::io::Result<Served> {
    let listener = std::net::TcpListener::from(listener);
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let (bytes_max, slots) = (shared.limits.response_payload_bytes, spec.instance_concurrency);
    Ok(Session::new(bytes_max, slots, shared.large_bodies.clone()).serve(listener))
}

/// What can be said of a version's instances to the launcher before any is wanted.
pub fn kind(spec: &Spec) -> InstanceKind {
    let program = match spec.runtime.family() {
        RuntimeFamily::Provided => Program::Bootstrap,
        RuntimeFamily::Python { .. } | RuntimeFamily::Node { .. } | RuntimeFamily::Other => {
            Program::Managed { runtime: spec.runtime.clone() }
        }
    };
    let network = match spec.network {
        model::function::Network::Nat => Network::Nat,
        model::function::Network::None => Network::None,
    };
    InstanceKind { program, memory_mb: spec.memory_mb, tmp_mb: spec.ephemeral_mb, network }
}

fn request(shared: &Shared, spec: &Spec, of: (Initialization, &str)) -> Start {
    let (initialization, log_stream) = of;
    let around = Surroundings { region: &shared.region, log_stream, initialization };
    let InstanceKind { program, memory_mb, tmp_mb, network } = kind(spec);
    let runtime_api = program == Program::Bootstrap;
    Start {
        instance: shared.next_id(),
        program,
        package: spec.package,
        environment: compose(spec, &around),
        memory_mb,
        cpu_millis: (spec.memory_mb * 1_000 / shared.limits.memory_mb_per_cpu.max(1)).max(1),
        tmp_mb,
        processes: shared.limits.processes,
        open_files: shared.limits.open_files as u32,
        network,
        runtime_api,
    }
}

/// `YYYY/MM/DD/[version]<32 hex>`, as on Lambda.
fn log_stream(spec: &Spec) -> String {
    let today = OffsetDateTime::now_utc();
    let (year, month, day) = (today.year(), u8::from(today.month()), today.day());
    format!("{year:04}/{month:02}/{day:02}/[{}]{}", spec.version, uuid::Uuid::new_v4().simple())
}

/// A sandbox whose guest is in its Init.
pub struct Launched {
    launch: Launch,
    how: How,
    memory: Memory,
    /// Its log.
    pub log: Arc<InstanceLog>,
    life: Life,
    /// What the guest was to become.
    image: Option<Arc<Image>>,
    /// Why it did not.
    refusal: OnceLock<Why>,
    /// Whether it was up before it had a function.
    pub waits: bool,
}

enum How {
    Channel(AsyncMutex<Channel>),
    RuntimeApi(Served),
}

impl Launched {
    /// Waits for the end of Init; whether the guest has become the image that it was given, if it was. `refused` hears
    /// of it when the guest begins to initialise instead.
    async fn init(&self, refused: impl Fn(&Arc<Image>, Why)) -> Result<Option<Result<(), Why>>, Ending> {
        match &self.how {
            How::Channel(_) => self.init_over_channel(refused).await,
            How::RuntimeApi(session) => {
                tokio::select! {
                    result = session.session.initialised() => result.map(|()| None),
                    ending = gone(self.launch.exit()) => Err(ending),
                }
            }
        }
    }

    async fn init_over_channel(&self, refused: impl Fn(&Arc<Image>, Why)) -> Result<Option<Result<(), Why>>, Ending> {
        // One refusal, and what follows it.
        for _ in 0..2 {
            match self.receive().await {
                Ok(frame) if frame.kind == Kind::Ready => {
                    let restored = frame.answer.restored && self.image.is_some();
                    // Its word that it initialises was not needed: it has done so.
                    let initialised = || self.restore().map(|restore| restore.and(Err(Why::Zygote)));
                    return Ok(if restored { Some(Ok(())) } else { initialised() });
                }
                Ok(frame) if frame.kind == Kind::Restore && self.image.is_some() => {
                    let why = Why::from_word(&frame.answer.reason);
                    let _ = self.refusal.set(why);
                    self.image.iter().for_each(|image| refused(image, why));
                }
                Ok(frame) if frame.kind == Kind::InitError => {
                    return Err(Ending::Reported { error_type: frame.answer.error_type, payload: frame.body });
                }
                Ok(_) | Err(Broken::Garbage) => return Err(Ending::ProtocolBroken),
                Err(Broken::Closed) => return Err(exited(&self.launch.exit()).await),
            }
        }
        Err(Ending::ProtocolBroken)
    }

    /// Whether the guest is becoming its image, or why it initialises instead; `None` if it has none.
    fn restore(&self) -> Option<Result<(), Why>> {
        self.image.as_ref()?;
        // An interpreter of its own was not even asked.
        let refusal = self.refusal.get().copied().or((!self.waits).then_some(Why::Zygote));
        Some(refusal.map_or(Ok(()), Err))
    }

    /// The next frame of a guest with a channel.
    pub async fn receive(&self) -> Result<Frame, Broken> {
        match &self.how {
            How::Channel(channel) => channel.lock().await.receive().await,
            How::RuntimeApi(_) => Err(Broken::Garbage),
        }
    }

    /// How it ends.
    pub fn exit(&self) -> watch::Receiver<Option<Exit>> {
        self.launch.exit()
    }

    fn instance(self, init_us: u64, snapshot: Option<Result<(), Why>>) -> Instance {
        if snapshot.is_some() {
            let status = if snapshot == Some(Ok(())) { "" } else { "\tStatus: error" };
            self.log.say(format!("RESTORE_REPORT Restore Duration: {:.2} ms{status}", init_us as f64 / 1_000.0));
        }
        self.life.advance(Move::InitDone);
        let exit = self.launch.exit();
        let talk = match self.how {
            How::Channel(channel) => Talk::Channel(Link::new(channel.into_inner(), self.log.clone(), exit.clone())),
            How::RuntimeApi(session) => Talk::RuntimeApi(session),
        };
        let id = self.launch.keep();
        let (log, memory, life) = (self.log, self.memory, self.life);
        Instance { id, log, exit, init_us, snapshot, sandbox_us: 0, evicted: 0, talk, memory, life }
    }
}
