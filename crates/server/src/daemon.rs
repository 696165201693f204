//! The daemon: builds the loops, connects them, serves, drains. Runs in a child of the launcher, without privilege.

use crate::access_key::{self, AccessKey};
use crate::log_writer;
use crate::serve::Settings;
use api::launcher::{Grade, Hello};
use arc_swap::ArcSwap;
use model::function::Reason;
use model::{Shares, Snapshot, Spec};
use prometheus_client::registry::Registry;
use std::io::IsTerminal;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// Why the daemon ended badly.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("start the async runtime")]
    Runtime(#[source] std::io::Error),
    #[error("open the data folder")]
    Store(#[from] store::Error),
    #[error("the access key")]
    AccessKey(#[from] access_key::Error),
    #[error("start the log writer")]
    LogWriter(#[source] std::io::Error),
    #[error("take over the listener")]
    Listener(#[source] std::io::Error),
    #[error("listen for signals")]
    Signals(#[source] std::io::Error),
    #[error("the loop of the {0} has ended")]
    Loop(&'static str),
    #[error("read the functions")]
    Control(#[from] control::Error),
    #[error("run the worker")]
    Worker(#[from] worker::Error),
}

/// Runs the daemon to its end; the process's exit code.
pub fn run(settings: Settings, listener: TcpListener, launcher: OwnedFd, data_dir: &Path) -> i32 {
    tracing_subscriber::fmt()
        .with_max_level(settings.log_level)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let threads = settings.file.threads.unwrap_or_else(default_threads);
    let runtime = match threads {
        // Alone, a thread needs none of what threads need to share their work.
        1 => tokio::runtime::Builder::new_current_thread().enable_all().build(),
        _ => tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build(),
    };
    let runtime = runtime.map_err(Error::Runtime);
    let ended = runtime.and_then(|runtime| {
        let ended = runtime.block_on(serve(settings, listener, launcher, data_dir));
        // The drain was bounded; work that blocks on a disk or on somebody else's server is not waited for.
        runtime.shutdown_background();
        ended
    });
    match ended {
        Ok(()) => 0,
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "the daemon ends");
            1
        }
    }
}

/// Half of the CPUs: the guests have the other half, and work that wanders between more threads than it can keep busy
/// is woken more often than it runs (decision 0025).
fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |cpus| (cpus.get() / 2).max(1))
}

async fn serve(settings: Settings, listener: TcpListener, launcher: OwnedFd, data_dir: &Path) -> Result<(), Error> {
    let mut signals = Signals::new().map_err(Error::Signals)?;
    let limits = settings.file.limits.clone();
    let store = store::Store::open(data_dir)?;
    let address = listener.local_addr().map_err(Error::Listener)?;
    let scheme = if settings.tls.is_some() { "https" } else { "http" };
    let endpoint = format!("{scheme}://{address}");
    let key = access_key::load_or_create(data_dir, &settings.region, endpoint.clone())?;
    let (logs, log_writer) = log_writer::start(store.clone(), limits.clone()).map_err(Error::LogWriter)?;

    let (worker_service, worker) = worker::Service::new(worker::Config {
        limits: limits.clone(),
        region: settings.region.to_string(),
        memory_mb_machine: machine_memory_mb(),
        keep_alive: settings.file.keep_alive.unwrap_or_default(),
        launcher,
        logs,
    })?;
    let worker_ended = tokio::spawn(worker_service.run());
    tokio::spawn(say_what_is_weak(worker.hello()));

    let (snapshot, shares) = (Arc::default(), Arc::default());
    let router = router(&limits, &snapshot, &shares, &worker);
    let config = control_config(&settings, &store, (snapshot, shares), &router, &worker);
    let (control_service, control) = control::Service::new(config)?;
    let mut metrics = Registry::default();
    router.register(&mut metrics);
    worker.register(&mut metrics);
    drop(worker);

    let (stop, stopping) = watch::channel(false);
    let control_ended = tokio::spawn(control_service.run(stopped(stopping.clone())));
    let config = gateway_config(&settings, key, router.clone(), control, metrics);
    let (gateway_service, gateway) = gateway::Service::new(config);
    listener.set_nonblocking(true).map_err(Error::Listener)?;
    let listener = tokio::net::TcpListener::from_std(listener).map_err(Error::Listener)?;
    let gateway_ended = tokio::spawn(gateway_service.run(listener, stopped(stopping)));
    tracing::info!(%endpoint, region = %settings.region, auth = settings.auth_required, "ready");

    let (mut gateway_ended, mut control_ended) = (gateway_ended, control_ended);
    tokio::select! {
        ended = worker_ended => return ended.map_or(Err(Error::Loop("worker")), |ended| ended.map_err(Error::Worker)),
        _ = &mut gateway_ended => return Err(Error::Loop("gateway")),
        _ = &mut control_ended => return Err(Error::Loop("control")),
        () = signals.next() => {}
    }
    tracing::info!("draining");
    router.drain();
    gateway.drain();
    stop.send_replace(true);
    let drained = async {
        let _ = gateway_ended.await;
        let _ = control_ended.await;
        while router.in_flight() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        _ = tokio::time::timeout(Duration::from_millis(limits.drain_ms), drained) => {}
        () = again(&mut signals) => tracing::warn!("told twice to stop: not waiting for what is under way"),
    }
    drop(router);
    log_writer.finish();
    Ok(())
}

fn control_config(
    settings: &Settings,
    store: &store::Store,
    (snapshot, shares): (Arc<ArcSwap<Snapshot>>, Arc<ArcSwap<Shares>>),
    router: &router::Handle,
    worker: &worker::Handle,
) -> control::Config {
    let router = router.clone();
    let (in_use, last_invoked, retain) = (worker.clone(), worker.clone(), worker.clone());
    let (provision, provisioned, warm_up) = (worker.clone(), worker.clone(), worker.clone());
    let snapshots = worker.clone();
    control::Config {
        account: settings.account.clone(),
        region: settings.region.clone(),
        limits: settings.file.limits.clone(),
        s3: settings.file.s3.clone(),
        store: store.clone(),
        snapshot,
        shares,
        shares_changed: Box::new(move || router.shares_changed()),
        changed: Box::new(move |snapshot| {
            retain.retain(snapshot.ready().map(|spec| spec.generation).collect());
            retain.expect(snapshot.ready().map(|spec| &**spec));
        }),
        interpreters: worker.interpreters(),
        take_snapshot: Box::new(move |spec| Box::pin(take_snapshot(snapshots.clone(), spec))),
        in_use: Box::new(move |digest| in_use.in_use(digest)),
        last_invoked: Box::new(move |name| last_invoked.last_invoked(name)),
        provision: Box::new(move |spec, target| provision.provision(spec.clone(), target)),
        provisioned: Box::new(move |generation| provisioned.provisioned(generation).map(counts)),
        warm_up: Box::new(move |spec, count| warm_up.warm_up(spec.clone(), count)),
    }
}

/// Whether a snapshot of a version that is being published was taken, or why the version has failed.
async fn take_snapshot(worker: worker::Handle, spec: Arc<Spec>) -> Result<bool, Reason> {
    match worker.take_snapshot(spec.clone()).await {
        Ok(Ok(())) => Ok(true),
        Ok(Err(why)) => {
            tracing::info!(function = %spec.name(), version = %spec.version, why, "published without a snapshot");
            Ok(false)
        }
        Err(failed) => {
            let code = if failed.timed_out { "FunctionError.InitTimeout" } else { "FunctionError.RuntimeInitError" };
            let text = format!("Init failed while the snapshot was taken: {}; the log says more.", failed.error_type);
            Err(Reason { code: code.to_owned(), text })
        }
    }
}

/// What the worker says of provisioned instances, as `control` asks it.
fn counts(counts: worker::ProvisionedCounts) -> control::Counts {
    let failure = counts.last_failure.map(|failure| (failure.trouble, failure.text));
    control::Counts { ready: counts.ready, in_use: counts.in_use, failure }
}

fn gateway_config(
    settings: &Settings,
    key: AccessKey,
    router: router::Handle,
    control: control::Handle,
    registry: Registry,
) -> gateway::Config {
    let key = gateway::auth::Key {
        access_key_id: key.access_key_id,
        secret_access_key: key.secret_access_key,
        session_token: None,
        expires_at_s: None,
    };
    // Our own key first: it signs the URLs of packages.
    let keys = std::iter::once(key).chain(settings.file.credentials.iter().cloned()).collect();
    let auth = match settings.auth_required {
        true => gateway::Auth::Required(gateway::auth::Keys(keys)),
        false => gateway::Auth::Open { public: settings.open_to_all },
    };
    gateway::Config {
        limits: settings.file.limits.clone(),
        auth,
        tls: settings.tls.clone(),
        account: settings.account.clone(),
        region: settings.region.clone(),
        router,
        control,
        registry,
    }
}

fn router(
    limits: &model::Limits,
    snapshot: &Arc<ArcSwap<Snapshot>>,
    shares: &Arc<ArcSwap<Shares>>,
    worker: &worker::Handle,
) -> router::Handle {
    let worker = worker.clone();
    let worker: router::Worker = Arc::new(move |invocation, permit| {
        let worker = worker.clone();
        Box::pin(async move { worker.invoke(invocation, Box::new(permit)).await })
    });
    let (snapshot, shares, limits) = (snapshot.clone(), shares.clone(), router::Limits::of(limits));
    router::Handle::new(router::Config { snapshot, shares, limits, worker })
}

/// Tells the operator once what this machine does not give to sandboxes.
async fn say_what_is_weak(mut hello: watch::Receiver<Option<Hello>>) {
    // Without a launcher there is nothing to say; the worker's end is reported elsewhere.
    let Ok(Some(hello)) = hello.wait_for(Option::is_some).await.map(|hello| hello.clone()) else { return };
    tracing::info!(mode = ?hello.mode, "sandboxes");
    for ability in hello.abilities.iter().filter(|ability| ability.grade != Grade::Full) {
        tracing::warn!(grade = ?ability.grade, remedy = %ability.remedy, "{}: {}", ability.name, ability.detail);
    }
}

async fn stopped(mut stopping: watch::Receiver<bool>) {
    // The sender lives until the daemon ends.
    let _ = stopping.wait_for(|stop| *stop).await;
}

/// A terminal or a service manager signals every process, and the launcher passes the signal on: what arrives right
/// behind the first signal is the same wish.
const SAME_WISH: Duration = Duration::from_secs(1);

/// Waits for a second wish to stop.
async fn again(signals: &mut Signals) {
    let first = tokio::time::Instant::now();
    loop {
        signals.next().await;
        if first.elapsed() > SAME_WISH {
            return;
        }
    }
}

/// SIGTERM from the launcher, or SIGINT from a terminal.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        Ok(Signals { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// What the machine has, or what the container around us may use, whichever is less; a cautious guess if neither can
/// be read.
fn machine_memory_mb() -> u64 {
    const GUESS_MB: u64 = 2_048;
    const CONTAINER: [&str; 2] = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:"));
    let kb = line.and_then(|l| l.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    let machine = kb.map(|kb| kb / 1_024);
    let read = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let container = CONTAINER.iter().filter_map(|path| read(path)).map(|bytes| bytes / 1_048_576);
    container.chain(machine).min().unwrap_or(GUESS_MB)
}
