//! The pool of each version: the lock around `scheduler::pool`, and the acting on what it decides.

use crate::guest::Instance;
use crate::provision::{ProvisionFailure, ProvisionedCounts};
use crate::service::Shared;
use crate::start::{Failure, start};
use model::Spec;
use model::invocation::Refusal;
use scheduler::instance::Event as Move;
use scheduler::pool::{Action, Config, Dispatched, Event, InstanceId, Pool, RefuseReason, Trouble, WaiterId};
use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

/// One version's instances and waiters. Locked for a few hundred nanoseconds at a time; no other version shares it.
pub struct Versioned {
    /// What runs.
    pub spec: Arc<Spec>,
    /// When an invocation last came, milliseconds since the Unix epoch; 0 before the first.
    pub invoked_ms: AtomicU64,
    state: Mutex<VersionState>,
}

struct VersionState {
    pool: Pool,
    waiters: HashMap<WaiterId, oneshot::Sender<Grant>>,
    instances: HashMap<InstanceId, Arc<Instance>>,
    failures: HashMap<InstanceId, Arc<Failure>>,
    /// What the newest start that failed said; gone after one that succeeded.
    last_failure: Option<String>,
    actions: Vec<Action>,
    draining: bool,
}

/// How a wait for a slot ends.
pub enum Grant {
    /// One slot of this instance.
    Slot {
        /// The pool's name for it.
        instance: InstanceId,
        /// The instance.
        on: Arc<Instance>,
        /// What the invocation meets there and what it waited for.
        why: Dispatched,
    },
    /// The start that would have served it failed.
    Failed(Arc<Failure>),
    /// None is to be had.
    Refused(Refusal),
}

impl Versioned {
    /// No instance yet.
    pub fn new(spec: Arc<Spec>, config: Config) -> Versioned {
        let state = VersionState {
            pool: Pool::new(config),
            waiters: HashMap::new(),
            instances: HashMap::new(),
            failures: HashMap::new(),
            last_failure: None,
            actions: Vec::new(),
            draining: false,
        };
        Versioned { spec, invoked_ms: AtomicU64::new(0), state: Mutex::new(state) }
    }

    /// Waits for a slot. Dropping the future gives up the wait, and the slot if it was just granted.
    pub async fn slot(self: &Arc<Self>, shared: &Arc<Shared>, wait_max: Duration) -> Grant {
        let waiter = shared.next_id();
        let (sender, receiver) = oneshot::channel();
        let mut wait = Wait { version: self.clone(), shared: shared.clone(), waiter, receiver, over: false };
        self.locked(shared, |state| {
            state.waiters.insert(waiter, sender);
            state.step(shared, Event::Arrive { waiter });
        });
        let granted = tokio::time::timeout(wait_max, &mut wait.receiver).await;
        match granted {
            Ok(Ok(grant)) => {
                wait.over = true;
                grant
            }
            // The sender goes only by a grant; a poisoned pool could drop it.
            Ok(Err(_)) => Grant::Refused(Refusal::Failed { cause: "the pool has lost a waiter".to_owned() }),
            Err(_) => Grant::Refused(Refusal::NoCapacity),
        }
    }

    /// Tells the pool what happened and acts on its answer.
    pub fn step(self: &Arc<Self>, shared: &Arc<Shared>, event: Event) {
        self.locked(shared, |state| state.step(shared, event));
    }

    /// An instance has come through its Init.
    pub fn ready(self: &Arc<Self>, shared: &Arc<Shared>, instance: InstanceId, on: Arc<Instance>) {
        self.locked(shared, |state| {
            state.instances.insert(instance, on);
            state.last_failure = None;
            state.step(shared, Event::Ready { instance });
        });
    }

    /// An instance has ended, in whatever state it was.
    pub fn gone(self: &Arc<Self>, shared: &Arc<Shared>, instance: InstanceId, cause: scheduler::pool::Gone) {
        self.locked(shared, |state| {
            state.instances.remove(&instance);
            state.step(shared, Event::Gone { instance, cause });
        });
    }

    /// A start has failed; whoever waited for it learns why.
    pub fn failed(self: &Arc<Self>, shared: &Arc<Shared>, instance: InstanceId, failure: Failure) {
        let cause = failure.cause();
        self.locked(shared, |state| {
            state.last_failure = Some(failure.text().to_owned());
            state.failures.insert(instance, Arc::new(failure));
            state.step(shared, Event::Gone { instance, cause });
        });
    }

    /// Serves who waits, refuses who comes, stops who is idle.
    pub fn drain(self: &Arc<Self>, shared: &Arc<Shared>) {
        self.locked(shared, |state| {
            state.draining = true;
            state.step(shared, Event::Drain);
        });
    }

    /// Nothing runs or waits, and nothing will.
    pub fn is_over(&self) -> bool {
        let state = self.lock();
        state.draining && state.pool.is_empty()
    }

    /// Replaced, with instances that still run.
    pub fn is_winding_up(&self) -> bool {
        let state = self.lock();
        state.draining && !state.pool.is_empty()
    }

    /// Whether an invocation waits for an instance.
    pub fn somebody_waits(&self) -> bool {
        self.lock().pool.counts().waiting > 0
    }

    /// No instance in any phase.
    pub fn is_empty(&self) -> bool {
        self.lock().pool.is_empty()
    }

    /// How many of each there are.
    pub fn counts(&self) -> scheduler::pool::Counts {
        self.lock().pool.counts()
    }

    /// The instances that are kept initialised by order.
    pub fn provisioned(&self) -> ProvisionedCounts {
        let state = self.lock();
        let counts = state.pool.provisioned();
        let failure = |trouble: Trouble| {
            let text = match trouble {
                Trouble::Failed(_) => state.last_failure.clone(),
                Trouble::Refused(_) => None,
            };
            ProvisionFailure { trouble, text: text.unwrap_or_else(|| trouble.text().to_owned()) }
        };
        ProvisionedCounts {
            target: counts.target,
            ready: counts.ready,
            starting: counts.starting,
            in_use: counts.in_use,
            failures: counts.failures,
            last_failure: counts.last_trouble.map(failure),
        }
    }

    /// The idle instances and since when.
    pub fn idle(&self) -> Vec<(InstanceId, u64)> {
        self.lock().pool.idle()
    }

    /// Stops an idle instance for its room; `false` if it is not idle any more.
    pub fn evict(self: &Arc<Self>, shared: &Arc<Shared>, instance: InstanceId) -> bool {
        self.locked(shared, |state| {
            let mut actions = std::mem::take(&mut state.actions);
            let evicted = state.pool.evict(shared.clock_us(), instance, &mut actions);
            state.actions = actions;
            evicted
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VersionState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `change` under the lock, then acts on the actions it has left, still under it: order matters.
    fn locked<T>(self: &Arc<Self>, shared: &Arc<Shared>, change: impl FnOnce(&mut VersionState) -> T) -> T {
        let mut state = self.lock();
        let result = change(&mut state);
        while !state.actions.is_empty() {
            let mut actions = std::mem::take(&mut state.actions);
            for action in actions.drain(..) {
                self.act(shared, &mut state, action);
            }
            // `act` may have stepped the pool again; else keep the allocation.
            if state.actions.is_empty() {
                state.actions = actions;
                break;
            }
        }
        // Whoever had to learn of a failed start has learnt of it.
        state.failures.clear();
        result
    }

    fn act(self: &Arc<Self>, shared: &Arc<Shared>, state: &mut VersionState, action: Action) {
        match action {
            Action::Start { instance, reason } => {
                tracing::debug!(function = %self.spec.name(), instance, ?reason, "start");
                shared.metrics.started(reason);
                tokio::spawn(start(shared.clone(), self.clone(), instance, reason.initialization()));
            }
            Action::Dispatch { waiter, instance, why } => {
                let grant = match state.instances.get(&instance) {
                    Some(on) => {
                        on.life.enter();
                        Grant::Slot { instance, on: on.clone(), why }
                    }
                    None => Grant::Refused(Refusal::Failed { cause: "the instance vanished".to_owned() }),
                };
                state.grant(waiter, grant);
            }
            Action::Stop { instance, reason } => {
                tracing::debug!(function = %self.spec.name(), instance, ?reason, "stop");
                shared.metrics.stopped(reason);
                match state.instances.get(&instance) {
                    Some(on) => shared.stop(on),
                    None => shared.call_off(instance),
                }
            }
            Action::Freeze { instance } => state.freeze(shared, instance, true),
            Action::Thaw { instance } => state.freeze(shared, instance, false),
            Action::Refuse { waiter, reason } => state.grant(waiter, Grant::Refused(refusal(reason))),
            Action::Fail { waiter, instance } => {
                let grant = match state.failures.get(&instance) {
                    Some(failure) => Grant::Failed(failure.clone()),
                    None => Grant::Refused(Refusal::Failed { cause: "the start failed".to_owned() }),
                };
                state.grant(waiter, grant);
            }
            Action::WakeAt { at_us } => {
                let (shared, version) = (shared.clone(), self.clone());
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_micros(at_us.saturating_sub(shared.clock_us()))).await;
                    version.step(&shared, Event::Tick);
                });
            }
        }
    }
}

impl VersionState {
    fn step(&mut self, shared: &Shared, event: Event) {
        let mut next_instance = || shared.next_id();
        self.pool.step(shared.clock_us(), &mut next_instance, event, &mut self.actions);
    }

    fn freeze(&self, shared: &Shared, instance: InstanceId, frozen: bool) {
        if let Some(on) = self.instances.get(&instance) {
            shared.launches.freeze(on.id, frozen);
        }
    }

    /// A waiter that has left between the decision and now gives its slot back in `Wait::drop`.
    fn grant(&mut self, waiter: WaiterId, grant: Grant) {
        if let Some(sender) = self.waiters.remove(&waiter) {
            let _ = sender.send(grant);
        }
    }
}

fn refusal(reason: RefuseReason) -> Refusal {
    match reason {
        RefuseReason::QueueFull => Refusal::QueueFull,
        RefuseReason::NoCapacity => Refusal::NoCapacity,
        RefuseReason::Draining => Refusal::Draining,
    }
}

/// Gives up a wait when it is dropped before its grant was taken.
struct Wait {
    version: Arc<Versioned>,
    shared: Arc<Shared>,
    waiter: WaiterId,
    receiver: oneshot::Receiver<Grant>,
    over: bool,
}

impl Drop for Wait {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let waiter = self.waiter;
        self.version.locked(&self.shared, |state| {
            if state.waiters.remove(&waiter).is_some() {
                state.step(&self.shared, Event::Cancel { waiter });
            } else if let Ok(Grant::Slot { instance, on, .. }) = self.receiver.try_recv() {
                if on.life.leave(Move::Responded) {
                    self.shared.launches.kill(on.id);
                }
                state.step(&self.shared, Event::Done { instance });
            }
        });
    }
}
