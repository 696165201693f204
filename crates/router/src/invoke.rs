//! The spine of the synchronous path: every step is a named call, and every step's duration is in one record.

use crate::permits::Permits;
use crate::{Config, Worker};
use bytes::Bytes;
use model::function::Spec;
use model::invocation::{Completed, Invocation, Refusal, ThrottleReason};
use model::{FunctionName, InvocationId, Qualifier, Version};
use scheduler::routing::{NoRoute, route};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

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
    #[error("throttled: {reason}")]
    Throttled {
        /// Which limit.
        reason: ThrottleReason,
        /// When trying again may help, seconds.
        retry_after_s: u32,
    },
    /// The server is shutting down.
    #[error("shutting down")]
    Draining,
    /// The platform failed.
    #[error("the worker failed: {0}")]
    Worker(String),
}

/// The cheap, cloneable way to the router.
#[derive(Clone)]
pub struct Handle {
    snapshot: Arc<arc_swap::ArcSwap<model::Snapshot>>,
    permits: Permits,
    worker: Worker,
    draining: Arc<AtomicBool>,
}

/// Durations of one invocation's steps, microseconds; one field per step of [`Handle::invoke`].
#[derive(Debug, Default)]
struct Trace {
    route_us: u64,
    admit_us: u64,
    worker_us: u64,
}

impl Handle {
    /// Builds the router; it has no task of its own.
    pub fn new(config: Config) -> Handle {
        Handle {
            snapshot: config.snapshot,
            permits: Permits::new(config.concurrent_executions),
            worker: config.worker,
            draining: Arc::default(),
        }
    }

    /// Carries one invocation from request to answer.
    pub async fn invoke(&self, request: Request) -> Result<(Completed, Version), Error> {
        let mut trace = Trace::default();
        let mut step = Instant::now();
        let id = request.id.clone();

        let spec = self.resolve(&request.name, request.qualifier.as_ref())?;
        trace.route_us = lap(&mut step);

        let permit = self.admit()?;
        trace.admit_us = lap(&mut step);

        let version = spec.version;
        let answer = (self.worker)(invocation(request, spec)).await;
        trace.worker_us = lap(&mut step);

        drop(permit);
        tracing::debug!(%id, ?trace, "invocation carried");
        answer.map(|completed| (completed, version)).map_err(refused)
    }

    /// Finds what a reference runs, without running it.
    pub fn resolve(&self, name: &FunctionName, qualifier: Option<&Qualifier>) -> Result<Arc<Spec>, Error> {
        let snapshot = self.snapshot.load();
        route(snapshot.functions.get(name), qualifier).map_err(Error::NoRoute)
    }

    /// From now on no invocation is admitted; running ones go on.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Invocations in flight now.
    pub fn in_flight(&self) -> u32 {
        self.permits.in_use()
    }

    fn admit(&self) -> Result<crate::permits::Permit, Error> {
        if self.draining.load(Ordering::Acquire) {
            return Err(Error::Draining);
        }
        self.permits.take().map_err(throttled)
    }
}

fn invocation(request: Request, spec: Arc<Spec>) -> Invocation {
    let invoked_arn = match request.qualifier {
        Some(qualifier) => spec.arn.with(qualifier).to_string(),
        None => spec.arn.to_string(),
    };
    Invocation {
        id: request.id,
        spec,
        invoked_arn,
        payload: request.payload,
        client_context: request.client_context,
        trace_id: request.trace_id,
    }
}

fn refused(refusal: Refusal) -> Error {
    match refusal {
        Refusal::QueueFull | Refusal::NoCapacity => throttled(ThrottleReason::ConcurrentInvocationLimitExceeded),
        Refusal::Draining => Error::Draining,
        Refusal::Failed { cause } => Error::Worker(cause),
    }
}

/// Concurrency comes back as soon as any invocation ends: one second is the shortest honest hint.
const RETRY_AFTER_S: u32 = 1;

fn throttled(reason: ThrottleReason) -> Error {
    Error::Throttled { reason, retry_after_s: RETRY_AFTER_S }
}

fn lap(since: &mut Instant) -> u64 {
    let now = Instant::now();
    let lap = now.duration_since(*since);
    *since = now;
    lap.as_micros() as u64
}
