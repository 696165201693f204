//! The loop of management operations, and the only writer of the registry.
//!
//! The wall: one owner per fact. Writes happen one at a time; after each of them the router's snapshot is replaced.
//! An operation answers as soon as its record is written; what makes a function ready goes on in the background
//! and is taken up again at the next start if the server ends in between.
#![forbid(unsafe_code)]

mod functions;

mod updates;

mod versions;

mod aliases;

mod provisioned;

mod scaling;

mod windows;

mod transitions;

mod snapshot;

mod packages;

mod tags;

mod collect;

mod reserved;

mod error;

pub use aliases::{AliasChange, NewAlias};
pub use error::{Error, WeightFault};
pub use functions::{Account, NewFunction};
pub use packages::CodeSource;
pub use provisioned::{Counted, Counts, Provision, ProvisionedNow, WarmUp};
pub use scaling::ScalingNow;
pub use windows::WindowFault;
// What callers meet of `scheduler`, which they do not depend on.
pub use scheduler::provisioned::{Because, NotProvisioned, Status};
// What callers meet of `store`, which they do not depend on.
pub use store::remote::{RemoteError, S3Config};
pub use store::{Cursor, PackageError, StoredZip};
pub use updates::{CodeChange, ConfigChange};
pub use versions::{AtVersion, Publication};

use arc_swap::ArcSwap;
use model::function::Reason;
use model::log::LogLine;
use model::snapshot::Snapshot;
use model::{AccountId, Digest, FunctionArn, FunctionName, Limits, Region, Shares, Spec};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use store::Store;
use tokio::sync::{Mutex, Notify, RwLock, Semaphore, watch};

/// The interpreters of this machine by runtime identifier; `None` until the launcher has looked for them.
pub type Interpreters = Option<BTreeMap<String, api::launcher::Interpreter>>;

/// Does an instance still use a package?
pub type InUse = Box<dyn Fn(&Digest) -> bool + Send + Sync>;

/// When was a function last invoked since the server started, milliseconds since the Unix epoch?
pub type LastInvoked = Box<dyn Fn(&FunctionName) -> Option<u64> + Send + Sync>;

/// Initialises a version that is being published and takes a snapshot of it, for SnapStart: whether there is one now, or
/// why the version has failed.
pub type TakeSnapshot = Box<dyn Fn(Arc<Spec>) -> Snapshotting + Send + Sync>;

/// A snapshot that is being taken.
pub type Snapshotting = Pin<Box<dyn Future<Output = Result<bool, Reason>> + Send>>;

/// Hears of a new snapshot. Must not block.
pub type Changed = Box<dyn Fn(&Snapshot) + Send + Sync>;

/// How often idle functions, unfinished transitions, unused packages and logs are looked for without a cause.
const ROUND: Duration = Duration::from_secs(60);

/// What `control` is made of.
pub struct Config {
    /// The one account.
    pub account: AccountId,
    /// The one region.
    pub region: Region,
    /// All limits.
    pub limits: Limits,
    /// Where `S3Bucket` and `S3Key` lead; `None` refuses them.
    pub s3: Option<S3Config>,
    /// The data folder.
    pub store: Store,
    /// Where the router reads.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// Functions' shares of the account's concurrency, where the router reads.
    pub shares: Arc<ArcSwap<Shares>>,
    /// Told when the shares have changed. Must not block.
    pub shares_changed: Box<dyn Fn() + Send + Sync>,
    /// Told of every new snapshot, so that instances of what is gone can end.
    pub changed: Changed,
    /// What can run here.
    pub interpreters: watch::Receiver<Interpreters>,
    /// Asked for a snapshot of a version that is being published.
    pub take_snapshot: TakeSnapshot,
    /// Asked before a package is removed.
    pub in_use: InUse,
    /// Asked before a function becomes Inactive.
    pub last_invoked: LastInvoked,
    /// Told how many instances of a version to keep initialised.
    pub provision: Provision,
    /// Asked how many there are.
    pub provisioned: Counted,
    /// Told to start instances ahead of invocations.
    pub warm_up: WarmUp,
}

/// What all parts share.
struct Shared {
    config: Config,
    started_ms: u64,
    /// Held from reading a record to writing it back.
    writer: Mutex<()>,
    /// Read while a package is unpacked and until a record refers to it; written while unused packages are removed.
    uploads: RwLock<()>,
    /// Permits to fetch from the object store.
    fetches: Arc<Semaphore>,
    /// Transitions whose task lives, by function and the revision id that began them.
    settling: std::sync::Mutex<BTreeSet<(FunctionName, String)>>,
    unused: std::sync::Mutex<collect::Unused>,
    book: std::sync::Mutex<provisioned::Book>,
    scalings: std::sync::Mutex<scaling::Scalings>,
    collect_soon: Notify,
}

/// The background part: completes what an earlier run, or a data folder that failed for a while, left unfinished, and
/// looks for idle functions, unused packages and logs of functions that are gone.
pub struct Service {
    shared: Arc<Shared>,
}

/// The cheap, cloneable way to `control`.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl Service {
    /// Reads all functions and fills the snapshot. Blocks on the disk; call it before serving.
    pub fn new(config: Config) -> Result<(Service, Handle), Error> {
        let shared = Arc::new(Shared {
            config,
            started_ms: now_ms(),
            writer: Mutex::new(()),
            uploads: RwLock::new(()),
            fetches: Arc::new(Semaphore::new(packages::FETCHES_MAX)),
            settling: std::sync::Mutex::default(),
            unused: std::sync::Mutex::default(),
            book: std::sync::Mutex::default(),
            scalings: std::sync::Mutex::default(),
            collect_soon: Notify::new(),
        });
        shared.load_shares()?;
        shared.load_snapshot()?;
        shared.load_provisioned()?;
        shared.load_scaling()?;
        Ok((Service { shared: shared.clone() }, Handle { shared }))
    }

    /// Runs until `shutdown` is ready. Transitions under way may be cut off; the next start completes them.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        self.shared.forget_grace();
        self.shared.provision_all();
        tokio::select! {
            () = shutdown => {}
            () = rounds(self.shared.clone()) => {}
            () = scaling::rounds(self.shared) => {}
        }
    }
}

/// Tidies again and again, without end.
async fn rounds(shared: Arc<Shared>) {
    let mut resumed: Option<Instant> = None;
    loop {
        if resumed.is_none_or(|at| at.elapsed() >= ROUND) {
            resumed = Some(Instant::now());
            shared.resume().await;
        }
        shared.collect().await;
        shared.sweep_logs().await;
        shared.retire_idle().await;
        let pause = if shared.has_unused() { collect::GRACE } else { ROUND };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shared.collect_soon.notified() => {}
        }
    }
}

impl Handle {
    /// The unqualified ARN of a function.
    pub fn arn(&self, name: &FunctionName) -> FunctionArn {
        self.shared.arn(name)
    }

    /// Lines of a function's log, at most `limit`, and the cursor behind the last of them; see [`store::Logs::read`].
    /// [`Error::NotFound`] if there is no such function.
    pub async fn read_log(
        &self,
        name: &FunctionName,
        after: Option<Cursor>,
        limit: usize,
    ) -> Result<(Vec<LogLine>, Cursor), Error> {
        self.function(name).await?;
        let name = name.clone();
        self.shared.on_disk(move |store| store.logs().read(&name, after.as_ref(), limit)).await
    }

    /// The zip of a package, opened; `None` if there is no such package.
    pub async fn package(&self, digest: Digest) -> Result<Option<StoredZip>, Error> {
        self.shared.on_disk(move |store| store.packages().zip(&digest)).await
    }
}

impl Shared {
    fn arn(&self, name: &FunctionName) -> FunctionArn {
        FunctionArn {
            region: self.config.region.clone(),
            account: self.config.account.clone(),
            name: name.clone(),
            qualifier: None,
        }
    }

    /// Does blocking work on the data folder without holding up the loop.
    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, store::Error> + Send + 'static,
    ) -> Result<T, Error> {
        let store = self.config.store.clone();
        blocking(move || work(&store).map_err(Error::Store)).await
    }
}

/// Moves blocking work to a thread that may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(Error::Interrupted))
}

/// Carries a write to its end even if the caller goes away in the middle.
async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    tokio::spawn(work).await.unwrap_or(Err(Error::Interrupted))
}

/// Milliseconds since the Unix epoch.
fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

fn new_revision_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

#[cfg(test)]
mod tests;
