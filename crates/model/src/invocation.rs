//! One invocation: what goes in, what comes out, and why one may be refused.

use crate::function::Spec;
use bytes::Bytes;
use std::fmt;
use std::sync::Arc;

/// The id of an invocation, a lower-case UUID; it survives retries.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InvocationId(pub Arc<str>);

impl fmt::Display for InvocationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for InvocationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One request to run a function, resolved to a version.
#[derive(Debug, Clone)]
pub struct Invocation {
    /// The request id.
    pub id: InvocationId,
    /// What runs.
    pub spec: Arc<Spec>,
    /// The ARN as the caller qualified it.
    pub invoked_arn: String,
    /// JSON text; never empty (an empty request body becomes `{}`).
    pub payload: Bytes,
    /// The client context, decoded to JSON text.
    pub client_context: Option<String>,
    /// The `X-Amzn-Trace-Id` of the caller, or one of ours.
    pub trace_id: String,
    /// How long it has waited for concurrency.
    pub queued_us: u64,
}

/// How an invocation that ran has ended. A user function's failure is an outcome, never an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The function answered.
    Success {
        /// Its answer, JSON text.
        payload: Bytes,
    },
    /// The function failed: it raised, exited, timed out or could not be initialised.
    FunctionError {
        /// The error as JSON: `errorMessage`, `errorType`, perhaps `stackTrace` and `requestId`.
        payload: Bytes,
    },
}

/// An outcome with what is known of the run.
#[derive(Debug, Clone)]
pub struct Completed {
    /// Success or function error.
    pub outcome: Outcome,
    /// Durations and memory.
    pub report: Report,
    /// The last 4 KB of the log, START and REPORT included.
    pub log_tail: Bytes,
}

/// The figures of one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Report {
    /// Time in the handler, as the worker saw it.
    pub duration_us: u64,
    /// Time from dispatch order to slot: waiting for an instance.
    pub queue_us: u64,
    /// Init of the instance, or its restore, when this invocation was its first.
    pub init_us: Option<u64>,
    /// Whether the instance was restored from a snapshot, when this invocation was its first.
    pub restored: bool,
    /// Peak memory of the instance so far.
    pub memory_used_mb: u32,
    /// How it came to its instance.
    pub met: Met,
    /// Why the outcome is a function error, if it is; for people.
    pub ended: Option<&'static str>,
}

/// What an invocation met on the worker and what it waited for. Reasons are for people and stay the same from release to
/// release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Met {
    /// The worker's number of the instance; 0 if there was none.
    pub instance: u64,
    /// The instance's start, if this was its first invocation.
    pub cold: Option<Start>,
    /// A wait for a slot, if none was free.
    pub waited: Option<Wait>,
    /// Whether the instance is a provisioned one, or why not; `None` if the version has none.
    pub lane: Option<&'static str>,
    /// The instance had to be thawed.
    pub was_frozen: bool,
}

/// How an instance was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// Why.
    pub reason: &'static str,
    /// Time from the order to the beginning of Init: room and sandbox.
    pub sandbox_us: u64,
    /// Idle instances that were stopped to make room for it.
    pub evicted: u32,
    /// Why it was not restored from a snapshot, if its version is to be.
    pub without_snapshot: Option<&'static str>,
}

/// A wait for a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait {
    /// How long.
    pub us: u64,
    /// What came first.
    pub reason: &'static str,
}

/// Why an invocation was throttled, as the API spells it (`ThrottleReason`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThrottleReason {
    /// The account's concurrency is used up.
    ConcurrentInvocationLimitExceeded,
    /// The function's reserved concurrency is used up.
    ReservedFunctionConcurrentInvocationLimitExceeded,
}

impl fmt::Display for ThrottleReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Why a worker did not run an invocation. None of these is the function's own fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Too many invocations wait for this version already.
    QueueFull,
    /// The machine's budget of instances or memory is used up, or no instance came free in time.
    NoCapacity,
    /// The worker is shutting down, or the version is being replaced.
    Draining,
    /// A hook that runs after the restore of a snapshot has failed.
    RestoreHookFailed,
    /// The restore of a snapshot, with its hooks, took too long.
    RestoreTimedOut,
    /// The platform failed; for people.
    Failed {
        /// What went wrong.
        cause: String,
    },
}
