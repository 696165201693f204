//! The instances of one version and the invocations that wait for them.
//!
//! Events go in, actions come out; [`Pool::step`] is the only door that moves anything. The rules:
//!
//! - An arriving waiter takes a free slot at once. Fuller instances come first (so that others become idle), then the
//!   most recently used idle one (so that the longest idle ones can end). Without a free slot it waits, first come
//!   first served, and a start is ordered unless the starts under way already cover all waiters.
//! - A slot that becomes free, by `Ready` or by `Done`, goes to the oldest waiter.
//! - Every waiter leaves by exactly one of: `Dispatch`, `Refuse`, `Fail`, or its own `Cancel`.
//! - As long as somebody waits, an instance is starting or live; so a waiter is never forgotten.
//! - One step orders at most one start. More are not needed, since each event uncovers at most one instance's worth
//!   of waiters, and it keeps a full machine from being asked again and again for all waiters at once.
//!
//! The caller owes the pool: unique ids; for each `Start` one `Ready`, `StartRefused` or `Gone`; for each live instance
//! a `Gone` in the end, also after `Stop`; a `Tick` at or after each `WakeAt`. Whatever else arrives (late, doubled,
//! unknown) changes nothing. When a busy instance is `Gone`, the caller ends the invocations it had dispatched there.

use std::collections::{BTreeMap, VecDeque};

/// Names an instance. Chosen by the caller, unique for the life of the process.
pub type InstanceId = u64;

/// Names an invocation that wants a slot. Chosen by the caller, unique for the life of the process.
pub type WaiterId = u64;

/// How long the pool waits before it asks again, after a start was refused while others could still serve.
pub const START_RETRY_MS: u64 = 20;

/// The settings of one pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Invocations that one instance runs at a time; 0 counts as 1.
    pub slots_per_instance: u32,
    /// Most invocations that wait; the next one is refused with [`RefuseReason::QueueFull`]. An invocation that meets a
    /// cold version waits too, so 0 refuses whatever cannot run at once.
    pub waiting_max: usize,
    /// Idle time after which an instance is stopped.
    pub idle_ms: u64,
    /// Most instances of this version that are starting or live; at the limit waiters wait for a free slot.
    pub instances_max: usize,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// An invocation wants a slot.
    Arrive {
        /// The invocation.
        waiter: WaiterId,
    },
    /// Init has finished; all slots of the instance are free.
    Ready {
        /// The instance.
        instance: InstanceId,
    },
    /// One slot is free again and the instance is fit for reuse.
    Done {
        /// The instance.
        instance: InstanceId,
    },
    /// The caller has ordered the end of a live instance by itself: a timeout, a broken protocol. Nothing is dispatched
    /// to it any more and a replacement may start; `Gone` follows when it has ended. Without this event an instance of
    /// several slots would get more work until `Gone`.
    Unfit {
        /// The instance.
        instance: InstanceId,
    },
    /// The instance has ended, in whatever state it was.
    Gone {
        /// The instance.
        instance: InstanceId,
        /// How it ended.
        cause: Gone,
    },
    /// The waiter's client is gone, or it has waited too long. Nothing if it no longer waits.
    Cancel {
        /// The waiter.
        waiter: WaiterId,
    },
    /// The worker could not even begin an ordered start.
    StartRefused {
        /// The instance that will not be.
        instance: InstanceId,
        /// What was short.
        reason: Refusal,
    },
    /// Superseded or shutting down: who waits is still served, who arrives is refused, who is idle stops.
    Drain,
    /// Time has passed.
    Tick,
}

/// How an instance ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    /// The sandbox could not be made.
    StartFailed,
    /// The function's Init failed or took too long.
    InitFailed,
    /// It ended by itself after Init.
    Crashed,
    /// It was stopped, by this pool's order or by somebody else.
    Stopped,
}

/// What was short when a start was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The machine's memory for instances is promised away.
    Memory,
    /// The machine's number of instances is used up.
    Instances,
}

/// What the caller is to do, in the given order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Start an instance.
    Start {
        /// Its id, from `next_instance`.
        instance: InstanceId,
        /// Why now.
        reason: StartReason,
    },
    /// Run the waiter's invocation on the instance; it holds one slot until `Done` or `Gone`.
    Dispatch {
        /// The waiter; the pool forgets it.
        waiter: WaiterId,
        /// The instance.
        instance: InstanceId,
        /// Whether the instance was used before.
        cold: Cold,
    },
    /// Stop the instance; nothing runs on it.
    Stop {
        /// The instance.
        instance: InstanceId,
        /// Why.
        reason: StopReason,
    },
    /// Throttle the waiter.
    Refuse {
        /// The waiter; the pool forgets it.
        waiter: WaiterId,
        /// Why.
        reason: RefuseReason,
    },
    /// Give the waiter the error with which the instance's start or Init failed.
    Fail {
        /// The waiter; the pool forgets it.
        waiter: WaiterId,
        /// The instance that failed.
        instance: InstanceId,
    },
    /// Send `Tick` at this time or soon after. Each stands, whatever follows; no more than two are ever outstanding.
    WakeAt {
        /// Milliseconds, on the clock of `now_ms`.
        at_ms: u64,
    },
}

/// Why an instance is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartReason {
    /// The version has no instance.
    FromZero,
    /// No slot is free, and the starts under way do not cover all waiters.
    AllBusy {
        /// Instances past Init.
        live: usize,
        /// Instances before the end of Init.
        starting: usize,
    },
    /// An instance ended or failed, and its waiters need another.
    Replacement,
    /// An earlier start was refused for lack of room; this asks again.
    AfterRefusal,
}

/// Whether an invocation meets a used instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cold {
    /// The instance has run an invocation before.
    Warm,
    /// The first invocation of the instance; its Init is reported with it.
    FirstUse {
        /// Why the instance was started.
        reason: StartReason,
    },
}

/// Why an instance is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// Nobody used it.
    Idle {
        /// For so long.
        idle_ms: u64,
    },
    /// The pool drains and the instance has nothing to do.
    Drained,
    /// The pool drains and nobody waits for this start any more.
    Surplus,
    /// Its room is needed elsewhere.
    Evicted,
}

/// Why a waiter is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefuseReason {
    /// As many as [`Config::waiting_max`] wait already.
    QueueFull,
    /// No instance could be started and none is there.
    NoCapacity,
    /// The pool drains.
    Draining,
}

/// How many of each there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Instances before the end of Init.
    pub starting: usize,
    /// Instances with all slots free.
    pub idle: usize,
    /// Instances with at least one slot taken.
    pub busy: usize,
    /// Instances ordered to stop, or unfit, that are not gone yet.
    pub stopping: usize,
    /// Invocations without a slot.
    pub waiting: usize,
}

/// The instances and waiters of one version.
#[derive(Debug)]
pub struct Pool {
    config: Config,
    instances: BTreeMap<InstanceId, Instance>,
    /// Instances with all slots free and since when, longest idle first: the back is the most recently used.
    idle: VecDeque<(InstanceId, u64)>,
    /// Instances with some slots free, in no order; each knows its place here.
    partly: Vec<InstanceId>,
    waiting: VecDeque<WaiterId>,
    starting: usize,
    live: usize,
    draining: bool,
    now_ms: u64,
    /// The announced `WakeAt` for the end of idleness whose time has not come yet.
    idle_wake_at_ms: Option<u64>,
    /// The same for a retry.
    retry_wake_at_ms: Option<u64>,
    /// Set while starts lag behind the waiters because one was refused: the next is ordered at this time.
    retry_at_ms: Option<u64>,
}

#[derive(Debug)]
struct Instance {
    phase: Phase,
    /// Slots taken; only live instances have any.
    busy: u32,
    /// Why it was started; taken by the first dispatch.
    first_use: Option<StartReason>,
    /// Index in `Pool::partly` while some slots are taken and some are free.
    partly_at: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Starting,
    Live,
    Stopping,
}

impl Pool {
    /// An empty pool.
    pub fn new(config: Config) -> Pool {
        Pool {
            config: Config { slots_per_instance: config.slots_per_instance.max(1), ..config },
            instances: BTreeMap::new(),
            idle: VecDeque::new(),
            partly: Vec::new(),
            waiting: VecDeque::new(),
            starting: 0,
            live: 0,
            draining: false,
            now_ms: 0,
            idle_wake_at_ms: None,
            retry_wake_at_ms: None,
            retry_at_ms: None,
        }
    }

    /// Takes one event and appends what is to be done. `now_ms` is on any clock of milliseconds; a step back counts as
    /// no time passed. `next_instance` is asked for an id at each `Start`.
    pub fn step(
        &mut self,
        now_ms: u64,
        next_instance: &mut dyn FnMut() -> InstanceId,
        event: Event,
        actions: &mut Vec<Action>,
    ) {
        self.now_ms = self.now_ms.max(now_ms);
        let start_reason = match event {
            Event::Arrive { waiter } => self.arrive(waiter, actions),
            Event::Ready { instance } => self.ready(instance, actions),
            Event::Done { instance } => self.done(instance, actions),
            Event::Unfit { instance } => self.unfit(instance),
            Event::Gone { instance, cause } => self.gone(instance, cause, actions),
            Event::Cancel { waiter } => self.cancel(waiter),
            Event::StartRefused { instance, reason: Refusal::Memory | Refusal::Instances } => {
                self.start_refused(instance, actions)
            }
            Event::Drain => self.drain(actions),
            Event::Tick => self.tick(actions),
        };
        if let Some(reason) = start_reason {
            self.start_if_short(reason, next_instance, actions);
        }
        if self.draining {
            self.stop_surplus(actions);
        }
        self.announce_wake(actions);
    }

    /// Stops an idle instance because its room is needed elsewhere; `false`, and nothing, if it is not idle.
    pub fn evict(&mut self, now_ms: u64, instance: InstanceId, actions: &mut Vec<Action>) -> bool {
        self.now_ms = self.now_ms.max(now_ms);
        let was_idle = self.leave_idle(instance);
        if was_idle {
            self.stop_live(instance, StopReason::Evicted, actions);
        }
        was_idle
    }

    /// The idle instances and since when (`now_ms` of their last `Ready` or `Done`), longest idle first.
    pub fn idle(&self) -> Vec<(InstanceId, u64)> {
        self.idle.iter().copied().collect()
    }

    /// No instance in any phase, no waiter: the pool may be dropped.
    pub fn is_empty(&self) -> bool {
        self.instances.is_empty() && self.waiting.is_empty()
    }

    /// How many of each there are.
    pub fn counts(&self) -> Counts {
        Counts {
            starting: self.starting,
            idle: self.idle.len(),
            busy: self.live - self.idle.len(),
            stopping: self.instances.len() - self.starting - self.live,
            waiting: self.waiting.len(),
        }
    }
}

/// One function per event. Each returns why a start may be needed now, if it may.
impl Pool {
    fn arrive(&mut self, waiter: WaiterId, actions: &mut Vec<Action>) -> Option<StartReason> {
        if self.draining {
            actions.push(Action::Refuse { waiter, reason: RefuseReason::Draining });
            return None;
        }
        if let Some(instance) = self.free_instance() {
            self.dispatch(waiter, instance, actions);
            return None;
        }
        if self.waiting.len() >= self.config.waiting_max {
            actions.push(Action::Refuse { waiter, reason: RefuseReason::QueueFull });
            return None;
        }
        if self.config.instances_max == 0 {
            actions.push(Action::Refuse { waiter, reason: RefuseReason::NoCapacity });
            return None;
        }
        self.waiting.push_back(waiter);
        Some(match self.starting + self.live {
            0 => StartReason::FromZero,
            _ => StartReason::AllBusy { live: self.live, starting: self.starting },
        })
    }

    fn ready(&mut self, id: InstanceId, actions: &mut Vec<Action>) -> Option<StartReason> {
        let instance = self.instances.get_mut(&id).filter(|i| i.phase == Phase::Starting)?;
        instance.phase = Phase::Live;
        self.starting -= 1;
        self.live += 1;
        self.idle.push_back((id, self.now_ms));
        // Room for all of them in both lists, so that no later Arrive or Done allocates.
        self.idle.reserve(self.live - self.idle.len());
        self.partly.reserve(self.live - self.partly.len());
        for _ in 0..self.config.slots_per_instance {
            match self.waiting.pop_front() {
                Some(waiter) => self.dispatch(waiter, id, actions),
                None => break,
            }
        }
        self.stop_if_drained(id, actions);
        None
    }

    fn done(&mut self, id: InstanceId, actions: &mut Vec<Action>) -> Option<StartReason> {
        let slots = self.config.slots_per_instance;
        let instance = self.instances.get_mut(&id).filter(|i| i.phase == Phase::Live && i.busy > 0)?;
        if let Some(waiter) = self.waiting.pop_front() {
            // The slot goes from hand to hand; a waiter means that no other slot is free.
            let cold = instance.first_use.take().map_or(Cold::Warm, |reason| Cold::FirstUse { reason });
            actions.push(Action::Dispatch { waiter, instance: id, cold });
            return None;
        }
        let was_full = instance.busy == slots;
        instance.busy -= 1;
        if instance.busy == 0 {
            if !was_full {
                self.leave_partly(id);
            }
            self.idle.push_back((id, self.now_ms));
            self.stop_if_drained(id, actions);
        } else if was_full {
            instance.partly_at = self.partly.len();
            self.partly.push(id);
        }
        None
    }

    fn unfit(&mut self, id: InstanceId) -> Option<StartReason> {
        self.instances.get(&id).filter(|i| i.phase == Phase::Live)?;
        self.leave_live(id);
        let instance = self.instances.get_mut(&id)?;
        (instance.phase, instance.busy) = (Phase::Stopping, 0);
        Some(StartReason::Replacement)
    }

    fn gone(&mut self, id: InstanceId, cause: Gone, actions: &mut Vec<Action>) -> Option<StartReason> {
        match self.instances.get(&id)?.phase {
            Phase::Starting => {
                self.starting -= 1;
                self.fail_oldest_if_short(id, cause, actions);
            }
            Phase::Live => self.leave_live(id),
            Phase::Stopping => {}
        }
        self.instances.remove(&id);
        // Whatever ended has made room, so a refusal before it no longer counts.
        self.retry_at_ms = None;
        Some(StartReason::Replacement)
    }

    fn cancel(&mut self, waiter: WaiterId) -> Option<StartReason> {
        let at = self.waiting.iter().position(|w| *w == waiter)?;
        self.waiting.remove(at);
        None
    }

    fn start_refused(&mut self, id: InstanceId, actions: &mut Vec<Action>) -> Option<StartReason> {
        match self.instances.get(&id)?.phase {
            Phase::Live => return None,
            // The refusal crossed our order to stop; no Gone will follow.
            Phase::Stopping => {
                self.instances.remove(&id);
                return None;
            }
            Phase::Starting => {}
        }
        self.instances.remove(&id);
        self.starting -= 1;
        if self.starting + self.live == 0 {
            let reason = RefuseReason::NoCapacity;
            actions.extend(self.waiting.drain(..).map(|waiter| Action::Refuse { waiter, reason }));
        } else {
            self.retry_at_ms = Some(self.now_ms.saturating_add(START_RETRY_MS));
        }
        None
    }

    fn drain(&mut self, actions: &mut Vec<Action>) -> Option<StartReason> {
        self.draining = true;
        while let Some((id, _)) = self.idle.pop_front() {
            self.stop_live(id, StopReason::Drained, actions);
        }
        None
    }

    fn tick(&mut self, actions: &mut Vec<Action>) -> Option<StartReason> {
        self.idle_wake_at_ms.take_if(|at| *at <= self.now_ms);
        self.retry_wake_at_ms.take_if(|at| *at <= self.now_ms);
        while let Some(&(id, since_ms)) = self.idle.front() {
            let idle_ms = self.now_ms.saturating_sub(since_ms);
            if idle_ms < self.config.idle_ms {
                break;
            }
            self.idle.pop_front();
            self.stop_live(id, StopReason::Idle { idle_ms }, actions);
        }
        Some(StartReason::AfterRefusal)
    }
}

/// The parts that the events share.
impl Pool {
    /// The live instance that gets the next invocation: one that is busy already, else the most recently used.
    fn free_instance(&self) -> Option<InstanceId> {
        self.partly.last().copied().or_else(|| self.idle.back().map(|(id, _)| *id))
    }

    /// Takes a slot of a live instance that has one free; it is the last of `partly` or of `idle`.
    fn dispatch(&mut self, waiter: WaiterId, id: InstanceId, actions: &mut Vec<Action>) {
        let Some(instance) = self.instances.get_mut(&id) else { return };
        if instance.busy == 0 {
            self.idle.pop_back();
            instance.partly_at = self.partly.len();
            self.partly.push(id);
        }
        instance.busy += 1;
        if instance.busy == self.config.slots_per_instance {
            self.partly.pop();
        }
        let cold = instance.first_use.take().map_or(Cold::Warm, |reason| Cold::FirstUse { reason });
        actions.push(Action::Dispatch { waiter, instance: id, cold });
    }

    /// Waiters beyond what the starts under way will serve.
    fn uncovered(&self) -> usize {
        let covered = self.starting.saturating_mul(self.config.slots_per_instance as usize);
        self.waiting.len().saturating_sub(covered)
    }

    fn wants_start(&self) -> bool {
        self.uncovered() > 0 && self.starting + self.live < self.config.instances_max
    }

    fn start_if_short(
        &mut self,
        reason: StartReason,
        next_instance: &mut dyn FnMut() -> InstanceId,
        actions: &mut Vec<Action>,
    ) {
        let must_wait = self.retry_at_ms.is_some_and(|at| self.now_ms < at);
        // With nobody present the start is ordered even so: else nothing would ever serve the waiters.
        if !self.wants_start() || (must_wait && self.starting + self.live > 0) {
            return;
        }
        let id = next_instance();
        let fresh = Instance { phase: Phase::Starting, busy: 0, first_use: Some(reason), partly_at: 0 };
        self.instances.insert(id, fresh);
        self.starting += 1;
        actions.push(Action::Start { instance: id, reason });
        // Earlier refusals may have left more than one start to make up for; the next one follows in a while.
        self.retry_at_ms = self.wants_start().then(|| self.now_ms.saturating_add(START_RETRY_MS));
    }

    /// A start that failed by itself is somebody's error: the oldest waiter's, unless other starts cover everybody.
    fn fail_oldest_if_short(&mut self, instance: InstanceId, cause: Gone, actions: &mut Vec<Action>) {
        match cause {
            Gone::StartFailed | Gone::InitFailed | Gone::Crashed => {}
            Gone::Stopped => return,
        }
        if self.uncovered() > 0
            && let Some(waiter) = self.waiting.pop_front()
        {
            actions.push(Action::Fail { waiter, instance });
        }
    }

    fn stop_live(&mut self, id: InstanceId, reason: StopReason, actions: &mut Vec<Action>) {
        if let Some(instance) = self.instances.get_mut(&id) {
            instance.phase = Phase::Stopping;
            self.live -= 1;
            actions.push(Action::Stop { instance: id, reason });
        }
    }

    /// The instance, live, has perhaps just become idle, at the back of `idle`; a draining pool has no use for it.
    fn stop_if_drained(&mut self, id: InstanceId, actions: &mut Vec<Action>) {
        if self.draining && self.idle.back().is_some_and(|(last, _)| *last == id) {
            self.idle.pop_back();
            self.stop_live(id, StopReason::Drained, actions);
        }
    }

    /// Stops the newest starts that no waiter needs.
    fn stop_surplus(&mut self, actions: &mut Vec<Action>) {
        let needed = self.waiting.len().div_ceil(self.config.slots_per_instance as usize);
        let surplus = self.starting.saturating_sub(needed);
        if surplus == 0 {
            return;
        }
        let newest_first = self.instances.iter_mut().rev().filter(|(_, i)| i.phase == Phase::Starting);
        for (id, instance) in newest_first.take(surplus) {
            instance.phase = Phase::Stopping;
            actions.push(Action::Stop { instance: *id, reason: StopReason::Surplus });
        }
        self.starting -= surplus;
    }

    /// Takes a live instance out of every list and count of live ones; the caller gives it another phase.
    fn leave_live(&mut self, id: InstanceId) {
        self.leave_partly(id);
        self.leave_idle(id);
        self.live -= 1;
    }

    fn leave_idle(&mut self, id: InstanceId) -> bool {
        let at = self.idle.iter().position(|(idle, _)| *idle == id);
        at.is_some_and(|at| self.idle.remove(at).is_some())
    }

    fn leave_partly(&mut self, id: InstanceId) {
        let Some(at) = self.instances.get(&id).map(|i| i.partly_at).filter(|at| self.partly.get(*at) == Some(&id))
        else {
            return;
        };
        self.partly.swap_remove(at);
        if let Some(moved) = self.partly.get(at).and_then(|moved| self.instances.get_mut(moved)) {
            moved.partly_at = at;
        }
    }

    /// Announces the next time at which something happens by itself, unless a Tick that is no later is on its way. Idle
    /// deadlines only ever move on, so one announcement serves until its time, and the same goes for retries.
    fn announce_wake(&mut self, actions: &mut Vec<Action>) {
        let idle_at_ms = self.idle.front().map(|(_, since_ms)| since_ms.saturating_add(self.config.idle_ms));
        let retry_at_ms = self.retry_at_ms.filter(|_| self.wants_start());
        for (at_ms, announced_ms) in
            [(retry_at_ms, &mut self.retry_wake_at_ms), (idle_at_ms, &mut self.idle_wake_at_ms)]
        {
            if let (Some(at_ms), None) = (at_ms, *announced_ms) {
                *announced_ms = Some(at_ms);
                actions.push(Action::WakeAt { at_ms });
            }
        }
    }
}

#[cfg(test)]
mod tests;
