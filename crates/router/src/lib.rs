//! The loop that carries a synchronous invocation: resolve, admit, hand over to a worker, bring the answer back.
//!
//! The wall: no arrow to `store`, so a synchronous invocation cannot write anything durable. The spine is
//! [`invoke.rs`](../src/invoke.rs); read it first.
#![forbid(unsafe_code)]

mod invoke;
mod permits;

mod counts;

mod line;

mod metrics;

pub mod journal;

pub use invoke::{Error, Handle, Request};
pub use permits::Permit;
pub use scheduler::admission::{Cause, Throttle};
pub use scheduler::routing::NoRoute;

use model::invocation::{Completed, Invocation, Refusal};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// What the router is made of.
pub struct Config {
    /// All functions; written by `control`, read here once per invocation without a lock.
    pub snapshot: Arc<arc_swap::ArcSwap<model::Snapshot>>,
    /// Functions' shares of the account's concurrency; written by `control`, read here once per invocation.
    pub shares: Arc<arc_swap::ArcSwap<model::Shares>>,
    /// The router's limits.
    pub limits: Limits,
    /// Hands an invocation to the worker of this machine.
    pub worker: Worker,
}

/// The limits that the router keeps; see `model::Limits`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Concurrent executions in the account.
    pub concurrent_executions: u32,
    /// Invocations of all functions that wait for concurrency.
    pub queued: usize,
    /// Invocations of either kind that are kept in the journal.
    pub explained: usize,
}

impl Limits {
    /// The router's share of all limits.
    pub fn of(limits: &model::Limits) -> Limits {
        Limits {
            concurrent_executions: limits.concurrent_executions,
            queued: limits.queued,
            explained: limits.explained,
        }
    }
}

/// The way to a worker. Boxed, since router and worker do not know each other: on many machines this is a network hop.
/// The permit goes along: it counts until the run has ended, whether or not the caller waits for the answer.
pub type Worker = Arc<dyn Fn(Invocation, Permit) -> WorkerAnswer + Send + Sync>;

/// A worker's answer, pending.
pub type WorkerAnswer = Pin<Box<dyn Future<Output = Result<Completed, Refusal>> + Send>>;
