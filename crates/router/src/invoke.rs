//! The spine of the synchronous path: every step is a named call, and every step's duration is in one record.

use crate::journal::{End, Journal, Record, Steps};
use crate::line::NoPermit;
use crate::metrics::Metrics;
use crate::permits::{Permit, Permits};
use crate::{Config, Worker};
use bytes::Bytes;
use model::function::Spec;
use model::invocation::{Completed, Invocation, Refusal, ThrottleReason};
use model::{FunctionName, InvocationId, Qualifier, Version};
use scheduler::admission::{Cause, Throttle};
use scheduler::queueing::NotQueued;
use scheduler::routing::{NoRoute, route};
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// One synchronous invocation as the gateway read it.
#[derive(Debug)]
pub struct Request {
    /// The request id.
    pub id: InvocationId,
    /// The function.
    pub name: FunctionName,
    /// The version or alias, if the caller named one.
    pub qualifier: Option<Qualifier>,
    /// JSON text, not empty.
    pub payload: Bytes,
    /// The client context as JSON text.
    pub client_context: Option<String>,
    /// The trace header.
    pub trace_id: String,
}

/// Why an invocation did not run. A failure of the function itself is an `Outcome`, never one of these.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The reference leads nowhere, or to a function that is not ready.
    #[error("no version to run")]
    NoRoute(NoRoute),
    /// Refused for lack of concurrency.
    #[error("throttled: {}", throttle.cause.text())]
    Throttled {
        /// Which limit, and how it came to that.
        throttle: Throttle,
        /// When trying again may help, seconds.
        retry_after_s: u32,
    },
    /// The server is shutting down.
    #[error("shutting down")]
    Draining,
    /// A hook that runs after the restore of a snapshot failed.
    #[error("a hook after the restore failed")]
    RestoreHookFailed,
    /// The restore of a snapshot took too long.
    #[error("the restore took too long")]
    RestoreTimedOut,
    /// The platform failed.
    #[error("the worker failed: {0}")]
    Worker(String),
}

/// How often an invocation is routed anew because its version was replaced under it.
const REROUTES_MAX: u32 = 3;

/// The cheap, cloneable way to the router.
#[derive(Clone)]
pub struct Handle {
    snapshot: Arc<arc_swap::ArcSwap<model::Snapshot>>,
    permits: Permits,
    metrics: Metrics,
    worker: Worker,
    draining: Arc<AtomicBool>,
    journal: Arc<Journal>,
}

impl Handle {
    /// Builds the router; it has no task of its own.
    pub fn new(config: Config) -> Handle {
        Handle {
            journal: Arc::new(Journal::new(config.limits.explained)),
            permits: Permits::new(config.limits, config.shares, config.snapshot.clone()),
            metrics: Metrics::default(),
            snapshot: config.snapshot,
            worker: config.worker,
            draining: Arc::default(),
        }
    }

    /// Shows the router's metrics in `registry`.
    pub fn register(&self, registry: &mut prometheus_client::registry::Registry) {
        self.metrics.register(&self.permits, registry);
    }

    /// Carries one invocation from request to answer.
    pub async fn invoke(&self, request: Request) -> Result<(Completed, Version), Error> {
        let mut steps = Steps::default();
        let mut step = Instant::now();
        let at_ms = now_ms();

        let draw = fastrand::f64();
        let mut spec = self.route(&request.name, request.qualifier.as_ref(), draw)?;
        steps.route_us = lap(&mut step);

        let permit = self.admit(&request.name, &mut steps).await;
        steps.admit_us = lap(&mut step);

        let result = match permit {
            Ok(permit) => self.run(&request, draw, &mut spec, permit, &mut steps).await,
            Err(error) => Err(error),
        };
        steps.worker_us = lap(&mut step);

        tracing::debug!(id = %request.id, ?steps, "invocation carried");
        let version = spec.version;
        self.journal.write(Record { id: request.id, spec, at_ms, steps, end: End::of(&result) });
        result.map(|completed| (completed, version))
    }

    /// Hands an invocation to the worker and brings its answer back. `spec` becomes what has run.
    async fn run(
        &self,
        request: &Request,
        draw: f64,
        spec: &mut Arc<Spec>,
        permit: Permit,
        steps: &mut Steps,
    ) -> Result<Completed, Error> {
        let mut answer = (self.worker)(invocation(request, spec.clone(), steps), permit).await;
        for _ in 0..REROUTES_MAX {
            // The version was replaced between the look at the snapshot and the worker: look again.
            if answer.as_ref().err() != Some(&Refusal::Draining) || self.is_draining() {
                break;
            }
            *spec = self.route(&request.name, request.qualifier.as_ref(), draw)?;
            let permit = self.admit(&request.name, steps).await?;
            answer = (self.worker)(invocation(request, spec.clone(), steps), permit).await;
        }
        answer.map_err(|refusal| self.refused(refusal))
    }

    /// What has become of an invocation, if it is one of the newest.
    pub fn explain(&self, id: &str) -> Option<Record> {
        self.journal.find(id)
    }

    /// Finds what a reference runs, without running it. An alias of two versions leads to either, by its weights.
    pub fn resolve(&self, name: &FunctionName, qualifier: Option<&Qualifier>) -> Result<Arc<Spec>, Error> {
        self.route(name, qualifier, fastrand::f64())
    }

    fn route(&self, name: &FunctionName, qualifier: Option<&Qualifier>, draw: f64) -> Result<Arc<Spec>, Error> {
        let snapshot = self.snapshot.load();
        route(snapshot.functions.get(name).map(Arc::as_ref), qualifier, draw).map_err(Error::NoRoute)
    }

    /// From now on no invocation is admitted, not even those that wait for it; running ones go on.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
        self.permits.drain();
    }

    /// To be told when the shares have changed: some who wait may be admitted by now.
    pub fn shares_changed(&self) {
        self.permits.shares_changed();
    }

    /// Invocations that wait for concurrency now.
    pub fn queued(&self) -> usize {
        self.permits.waiting()
    }

    /// Invocations in flight now.
    pub fn in_flight(&self) -> u32 {
        self.permits.in_use()
    }

    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Takes a permit, or waits for one if the function is configured so.
    async fn admit(&self, name: &FunctionName, steps: &mut Steps) -> Result<Permit, Error> {
        if self.is_draining() {
            return Err(Error::Draining);
        }
        let reason = match self.permits.take_in_turn(name) {
            Ok(permit) => return Ok(permit),
            Err(reason) => reason,
        };
        let begun = Instant::now();
        let waited = match self.permits.wait(name).await {
            None => return Err(self.throttled(reason, Cause::of(reason))),
            Some(waited) => waited,
        };
        steps.queued_us += begun.elapsed().as_micros() as u64;
        self.metrics.waited(begun.elapsed(), waited.is_ok());
        waited.map_err(|why| match why {
            NoPermit::NotQueued(NotQueued::Full) => self.throttled(reason, Cause::QueueFull),
            NoPermit::NotQueued(NotQueued::AllFull) => self.throttled(reason, Cause::AllQueuesFull),
            NoPermit::TimedOut => self.throttled(reason, Cause::QueuedTooLong),
            NoPermit::Draining => Error::Draining,
        })
    }

    fn refused(&self, refusal: Refusal) -> Error {
        match refusal {
            Refusal::QueueFull => self.throttled(ACCOUNT, Cause::InstanceQueueFull),
            Refusal::NoCapacity => self.throttled(ACCOUNT, Cause::NoCapacity),
            Refusal::Draining => Error::Draining,
            Refusal::RestoreHookFailed => Error::RestoreHookFailed,
            Refusal::RestoreTimedOut => Error::RestoreTimedOut,
            Refusal::Failed { cause } => Error::Worker(cause),
        }
    }

    fn throttled(&self, reason: ThrottleReason, cause: Cause) -> Error {
        self.metrics.throttled(cause);
        Error::Throttled { throttle: Throttle { reason, cause }, retry_after_s: RETRY_AFTER_S }
    }
}

/// What an ARN mostly takes.
const ARN_BYTES: usize = 128;

fn invocation(request: &Request, spec: Arc<Spec>, steps: &Steps) -> Invocation {
    let mut invoked_arn = String::with_capacity(ARN_BYTES);
    // Writing to a String cannot fail.
    let _ = match &request.qualifier {
        Some(qualifier) => write!(invoked_arn, "{}:{qualifier}", spec.arn),
        None => write!(invoked_arn, "{}", spec.arn),
    };
    Invocation {
        id: request.id.clone(),
        spec,
        invoked_arn,
        payload: request.payload.clone(),
        client_context: request.client_context.clone(),
        trace_id: request.trace_id.clone(),
        queued_us: steps.queued_us,
    }
}

/// Concurrency comes back as soon as any invocation ends: one second is the shortest honest hint.
const RETRY_AFTER_S: u32 = 1;

/// What the API calls a lack of instances.
const ACCOUNT: ThrottleReason = ThrottleReason::ConcurrentInvocationLimitExceeded;

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

fn lap(since: &mut Instant) -> u64 {
    let now = Instant::now();
    let lap = now.duration_since(*since);
    *since = now;
    lap.as_micros() as u64
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use arc_swap::ArcSwap;
    use model::function::{Generation, Network};
    use model::invocation::{Outcome, Report};
    use model::snapshot::{Target, Targets};
    use model::{AccountId, Digest, FunctionArn, Region, Runtime, Snapshot};
    use std::collections::BTreeMap;
    use std::sync::atomic::AtomicU64;

    fn name() -> FunctionName {
        FunctionName::parse("f").unwrap()
    }

    pub(crate) fn snapshot(generation: u64) -> Arc<Snapshot> {
        let arn = FunctionArn {
            region: Region::parse("us-east-1").unwrap(),
            account: AccountId::parse("000000000000").unwrap(),
            name: name(),
            qualifier: None,
        };
        let spec = Spec {
            arn,
            version: Version::Latest,
            generation: Generation(generation),
            runtime: Runtime("python3.12".into()),
            handler: "a.b".into(),
            timeout_ms: 3_000,
            memory_mb: 128,
            ephemeral_mb: 512,
            environment: BTreeMap::new(),
            package: Digest([0; 32]),
            network: Network::None,
            instance_concurrency: 1,
            log_group: String::new(),
            snap_start: false,
        };
        let targets = Targets::new(Target::Ready(Arc::new(spec)));
        Arc::new(Snapshot { functions: [(name(), Arc::new(targets))].into() })
    }

    fn request() -> Request {
        Request {
            id: InvocationId("1".into()),
            name: name(),
            qualifier: None,
            payload: Bytes::from_static(b"{}"),
            client_context: None,
            trace_id: String::new(),
        }
    }

    /// A worker that has wound up every generation before `current`.
    fn worker(current: u64, asked: Arc<AtomicU64>) -> Worker {
        Arc::new(move |invocation: Invocation, permit: crate::Permit| {
            asked.fetch_add(1, Ordering::Relaxed);
            let fresh = invocation.spec.generation.0 >= current;
            Box::pin(async move {
                let _permit = permit;
                if !fresh {
                    return Err(Refusal::Draining);
                }
                let outcome = Outcome::Success { payload: invocation.payload };
                Ok(Completed { outcome, report: Report::default(), log_tail: Bytes::new() })
            })
        })
    }

    fn router(worker: Worker) -> Handle {
        configured(Arc::new(ArcSwap::new(snapshot(1))), worker)
    }

    fn configured(snapshot: Arc<ArcSwap<Snapshot>>, worker: Worker) -> Handle {
        let limits = crate::Limits { concurrent_executions: 1, queued: 8, explained: 8 };
        Handle::new(Config { snapshot, shares: Arc::default(), limits, worker })
    }

    #[tokio::test]
    async fn an_update_under_way_is_followed() {
        let asked = Arc::new(AtomicU64::new(0));
        let snapshots = Arc::new(ArcSwap::new(snapshot(1)));
        let (inner, seen) = (worker(2, asked.clone()), snapshots.clone());
        // The first refusal comes while the new snapshot arrives.
        let worker: Worker = Arc::new(move |invocation, permit| {
            seen.store(snapshot(2));
            inner(invocation, permit)
        });
        let router = configured(snapshots, worker);
        assert!(router.invoke(request()).await.is_ok());
        assert_eq!(asked.load(Ordering::Relaxed), 2);
        assert_eq!(router.in_flight(), 0);
    }

    #[tokio::test]
    async fn a_version_that_never_comes_back_ends() {
        let asked = Arc::new(AtomicU64::new(0));
        let router = router(worker(9, asked.clone()));
        assert_eq!(router.invoke(request()).await.unwrap_err(), Error::Draining);
        assert_eq!(asked.load(Ordering::Relaxed), u64::from(REROUTES_MAX) + 1);
    }

    #[tokio::test]
    async fn an_abandoned_run_still_counts() {
        let held = Arc::new(std::sync::Mutex::new(None));
        let keep = held.clone();
        // A worker that never answers, as for a client that will not wait.
        let worker: Worker = Arc::new(move |_, permit| {
            *keep.lock().unwrap() = Some(permit);
            Box::pin(std::future::pending())
        });
        let router = router(worker);
        let patience = std::time::Duration::from_millis(1);
        assert!(tokio::time::timeout(patience, router.invoke(request())).await.is_err());
        assert_eq!(router.in_flight(), 1);
        assert!(matches!(router.invoke(request()).await, Err(Error::Throttled { .. })));
        held.lock().unwrap().take();
        assert_eq!(router.in_flight(), 0);
    }

    #[tokio::test]
    async fn draining_admits_nothing() {
        let asked = Arc::new(AtomicU64::new(0));
        let router = router(worker(1, asked.clone()));
        router.drain();
        assert_eq!(router.invoke(request()).await.unwrap_err(), Error::Draining);
        assert_eq!(asked.load(Ordering::Relaxed), 0);
    }
}
