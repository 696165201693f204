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

mod events;
mod provision;
mod shelf;

pub use events::{Action, Cold, Dispatched, Event, Gone, Lane, Refusal, RefuseReason, StartReason, StopReason, Waited};
pub use provision::{ProvisionedCounts, Trouble};

use provision::Provision;
use shelf::Shelf;
use std::collections::{BTreeMap, VecDeque};

/// Names an instance. Chosen by the caller, unique for the life of the process.
pub type InstanceId = u64;

/// Names an invocation that wants a slot. Chosen by the caller, unique for the life of the process.
pub type WaiterId = u64;

/// How long the pool waits before it asks again, after a start was refused while others could still serve.
pub const START_RETRY_US: u64 = 20_000;

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
    /// Live instances with free slots that are kept by order.
    provisioned: Shelf,
    /// All others with free slots.
    demand: Shelf,
    provision: Provision,
    waiting: VecDeque<Waiting>,
    starting: usize,
    live: usize,
    draining: bool,
    now_us: u64,
    /// For each [`Wake`], the announced `WakeAt` whose time has not come yet.
    wakes_us: [Option<u64>; 3],
    /// Set while starts lag behind the waiters because one was refused: the next is ordered at this time.
    retry_at_us: Option<u64>,
}

/// What a Tick is wanted for.
#[derive(Debug, Clone, Copy)]
enum Wake {
    Retry,
    Idle,
    Provision,
}

#[derive(Debug, Clone, Copy)]
struct Waiting {
    waiter: WaiterId,
    arrived_us: u64,
}

#[derive(Debug)]
struct Instance {
    phase: Phase,
    role: Role,
    /// Slots taken; only live instances have any.
    busy: u32,
    /// Why it was started; taken by the first dispatch.
    first_use: Option<StartReason>,
    /// Index in its shelf's `partly` while some slots are taken and some are free.
    partly_at: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Starting,
    Live,
    Stopping,
}

/// What an instance is kept for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Demand,
    Provisioned,
}

impl Pool {
    /// An empty pool.
    pub fn new(config: Config) -> Pool {
        Pool {
            config: Config { slots_per_instance: config.slots_per_instance.max(1), ..config },
            instances: BTreeMap::new(),
            provisioned: Shelf::default(),
            demand: Shelf::default(),
            provision: Provision::default(),
            waiting: VecDeque::new(),
            starting: 0,
            live: 0,
            draining: false,
            now_us: 0,
            wakes_us: [None; 3],
            retry_at_us: None,
        }
    }

    /// Takes one event and appends what is to be done. `now_us` is on any clock of microseconds; a step back counts as
    /// no time passed. `next_instance` is asked for an id at each `Start`.
    pub fn step(
        &mut self,
        now_us: u64,
        next_instance: &mut dyn FnMut() -> InstanceId,
        event: Event,
        actions: &mut Vec<Action>,
    ) {
        self.now_us = self.now_us.max(now_us);
        let start_reason = match event {
            Event::Arrive { waiter } => self.arrive(waiter, actions),
            Event::Ready { instance } => self.ready(instance, actions),
            Event::Done { instance } => self.done(instance, actions),
            Event::Unfit { instance } => self.unfit(instance),
            Event::Gone { instance, cause } => self.gone(instance, cause, actions),
            Event::Cancel { waiter } => self.cancel(waiter),
            Event::StartRefused { instance, reason } => self.start_refused(instance, reason, actions),
            Event::Provision { target } => {
                self.provision(target);
                None
            }
            Event::WarmUp { count } => {
                self.warm_up(count, next_instance, actions);
                None
            }
            Event::Drain => self.drain(actions),
            Event::Tick => self.tick(actions),
        };
        if let Some(reason) = start_reason {
            self.start_if_short(reason, next_instance, actions);
        }
        self.start_provisioned(next_instance, actions);
        if self.draining {
            self.stop_surplus(actions);
        }
        self.announce_wake(actions);
    }

    /// Stops an idle instance because its room is needed elsewhere; `false`, and nothing, if it is not idle or is kept
    /// by order.
    pub fn evict(&mut self, now_us: u64, instance: InstanceId, actions: &mut Vec<Action>) -> bool {
        self.now_us = self.now_us.max(now_us);
        let was_idle = self.demand.leave_idle(instance);
        if was_idle {
            self.stop_live(instance, StopReason::Evicted, actions);
        }
        was_idle
    }

    /// The idle instances that may be evicted and since when (`now_us` of their last `Ready` or `Done`), longest idle
    /// first.
    pub fn idle(&self) -> Vec<(InstanceId, u64)> {
        self.demand.idle.iter().copied().collect()
    }

    /// No instance in any phase, no waiter: the pool may be dropped.
    pub fn is_empty(&self) -> bool {
        self.instances.is_empty() && self.waiting.is_empty()
    }

    /// How many of each there are.
    pub fn counts(&self) -> Counts {
        let idle = self.demand.idle.len() + self.provisioned.idle.len();
        Counts {
            starting: self.starting,
            idle,
            busy: self.live - idle,
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
        if let Some(instance) = self.provisioned.first().or_else(|| self.demand.first()) {
            self.dispatch(waiter, instance, Waited::Not, actions);
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
        self.waiting.push_back(Waiting { waiter, arrived_us: self.now_us });
        Some(match self.starting + self.live {
            0 => StartReason::FromZero,
            _ => StartReason::AllBusy { live: self.live, starting: self.starting },
        })
    }

    fn ready(&mut self, id: InstanceId, actions: &mut Vec<Action>) -> Option<StartReason> {
        let instance = self.instances.get_mut(&id).filter(|i| i.phase == Phase::Starting)?;
        instance.phase = Phase::Live;
        let role = instance.role;
        self.starting -= 1;
        self.live += 1;
        if role == Role::Provisioned {
            self.provision.counts.starting -= 1;
            self.provision.counts.ready += 1;
            self.provision.succeeded();
        }
        let (live, now_us) = (self.live, self.now_us);
        let shelf = self.shelf(role);
        shelf.idle.push_back((id, now_us));
        // Room for all of them in both lists, so that no later Arrive or Done allocates.
        shelf.idle.reserve(live.saturating_sub(shelf.idle.len()));
        shelf.partly.reserve(live.saturating_sub(shelf.partly.len()));
        for _ in 0..self.config.slots_per_instance {
            match self.waiting.pop_front() {
                Some(Waiting { waiter, arrived_us }) => {
                    let waited = Waited::ForStart { us: self.now_us - arrived_us };
                    self.dispatch(waiter, id, waited, actions);
                }
                None => break,
            }
        }
        self.stop_if_drained(id, actions);
        None
    }

    fn done(&mut self, id: InstanceId, actions: &mut Vec<Action>) -> Option<StartReason> {
        let slots = self.config.slots_per_instance;
        let lane = self.lane_of(id)?;
        let instance = self.instances.get_mut(&id).filter(|i| i.phase == Phase::Live && i.busy > 0)?;
        if let Some(Waiting { waiter, arrived_us }) = self.waiting.pop_front() {
            // The slot goes from hand to hand; a waiter means that no other slot is free.
            let cold = instance.first_use.take().map_or(Cold::Warm, |reason| Cold::FirstUse { reason });
            let waited = Waited::ForSlot { us: self.now_us - arrived_us };
            actions.push(Action::Dispatch { waiter, instance: id, why: Dispatched { cold, waited, lane } });
            return None;
        }
        let was_full = instance.busy == slots;
        instance.busy -= 1;
        let (busy, role) = (instance.busy, instance.role);
        let now_us = self.now_us;
        let (shelf, instances) = match role {
            Role::Demand => (&mut self.demand, &mut self.instances),
            Role::Provisioned => (&mut self.provisioned, &mut self.instances),
        };
        if busy == 0 {
            if !was_full {
                shelf.leave_partly(id, instances);
            }
            shelf.idle.push_back((id, now_us));
            self.provision.counts.in_use -= u32::from(role == Role::Provisioned);
            self.stop_if_drained(id, actions);
        } else if was_full {
            shelf.join_partly(id, instances);
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
        let instance = self.instances.get(&id)?;
        let (phase, role, unused) = (instance.phase, instance.role, instance.first_use.is_some());
        match phase {
            Phase::Starting => {
                self.starting -= 1;
                self.provision.counts.starting -= u32::from(role == Role::Provisioned);
                self.fail_oldest_if_short(id, cause, actions);
            }
            Phase::Live => self.leave_live(id),
            Phase::Stopping => {}
        }
        match cause {
            // An instance that ends before its first use would be replaced again and again.
            Gone::StartFailed | Gone::InitFailed | Gone::Crashed if role == Role::Provisioned && unused => {
                self.provision.failed(self.now_us, Trouble::Failed(cause));
            }
            Gone::StartFailed | Gone::InitFailed | Gone::Crashed | Gone::Stopped => {}
        }
        self.instances.remove(&id);
        // Whatever ended has made room, so a refusal before it no longer counts.
        self.retry_at_us = None;
        Some(StartReason::Replacement)
    }

    fn cancel(&mut self, waiter: WaiterId) -> Option<StartReason> {
        let at = self.waiting.iter().position(|w| w.waiter == waiter)?;
        self.waiting.remove(at);
        None
    }

    fn start_refused(&mut self, id: InstanceId, why: Refusal, actions: &mut Vec<Action>) -> Option<StartReason> {
        let instance = self.instances.get(&id)?;
        let (phase, role) = (instance.phase, instance.role);
        match phase {
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
        if role == Role::Provisioned {
            self.provision.counts.starting -= 1;
            self.provision.failed(self.now_us, Trouble::Refused(why));
        }
        if self.starting + self.live == 0 {
            let reason = RefuseReason::NoCapacity;
            actions.extend(self.waiting.drain(..).map(|w| Action::Refuse { waiter: w.waiter, reason }));
        } else {
            self.retry_at_us = Some(self.now_us.saturating_add(START_RETRY_US));
        }
        None
    }

    fn drain(&mut self, actions: &mut Vec<Action>) -> Option<StartReason> {
        self.provision(0);
        self.draining = true;
        while let Some((id, _)) = self.demand.idle.pop_front() {
            self.stop_live(id, StopReason::Drained, actions);
        }
        None
    }

    fn tick(&mut self, actions: &mut Vec<Action>) -> Option<StartReason> {
        for wake_us in &mut self.wakes_us {
            wake_us.take_if(|at| *at <= self.now_us);
        }
        while let Some(&(id, since_us)) = self.demand.idle.front() {
            let idle_us = self.now_us.saturating_sub(since_us);
            if idle_us < self.idle_max_us() {
                break;
            }
            self.demand.idle.pop_front();
            self.stop_live(id, StopReason::Idle { idle_ms: idle_us / 1_000 }, actions);
        }
        Some(StartReason::AfterRefusal)
    }

    fn warm_up(&mut self, count: u32, next_instance: &mut dyn FnMut() -> InstanceId, actions: &mut Vec<Action>) {
        let wanted = (count as usize).min(self.config.instances_max);
        while !self.draining && self.starting + self.live < wanted {
            self.start(Role::Demand, StartReason::WarmUp, next_instance, actions);
        }
    }
}

/// The parts that the events share.
impl Pool {
    fn shelf(&mut self, role: Role) -> &mut Shelf {
        match role {
            Role::Demand => &mut self.demand,
            Role::Provisioned => &mut self.provisioned,
        }
    }

    fn lane_of(&self, id: InstanceId) -> Option<Lane> {
        Some(match self.instances.get(&id)?.role {
            Role::Provisioned => Lane::Provisioned,
            Role::Demand if self.provision.counts.target > 0 => Lane::SpillOver,
            Role::Demand => Lane::OnDemand,
        })
    }

    fn idle_max_us(&self) -> u64 {
        self.config.idle_ms.saturating_mul(1_000)
    }

    /// Takes a slot of a live instance that has one free; it is the last of its shelf's `partly` or `idle`.
    fn dispatch(&mut self, waiter: WaiterId, id: InstanceId, waited: Waited, actions: &mut Vec<Action>) {
        let Some(lane) = self.lane_of(id) else { return };
        let Some(instance) = self.instances.get_mut(&id) else { return };
        let shelf = match instance.role {
            Role::Demand => &mut self.demand,
            Role::Provisioned => &mut self.provisioned,
        };
        if instance.busy == 0 {
            shelf.idle.pop_back();
            instance.partly_at = shelf.partly.len();
            shelf.partly.push(id);
            self.provision.counts.in_use += u32::from(instance.role == Role::Provisioned);
        }
        instance.busy += 1;
        if instance.busy == self.config.slots_per_instance {
            shelf.partly.pop();
        }
        let cold = instance.first_use.take().map_or(Cold::Warm, |reason| Cold::FirstUse { reason });
        actions.push(Action::Dispatch { waiter, instance: id, why: Dispatched { cold, waited, lane } });
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
        let must_wait = self.retry_at_us.is_some_and(|at| self.now_us < at);
        // With nobody present the start is ordered even so: else nothing would ever serve the waiters.
        if !self.wants_start() || (must_wait && self.starting + self.live > 0) {
            return;
        }
        self.start(Role::Demand, reason, next_instance, actions);
        // Earlier refusals may have left more than one start to make up for; the next one follows in a while.
        self.retry_at_us = self.wants_start().then(|| self.now_us.saturating_add(START_RETRY_US));
    }

    fn start_provisioned(&mut self, next_instance: &mut dyn FnMut() -> InstanceId, actions: &mut Vec<Action>) {
        if self.provision.counts.target == 0 {
            return;
        }
        self.provision.retry_at_us.take_if(|at| *at <= self.now_us);
        let missing = self.provision.missing();
        for _ in 0..missing {
            if self.starting + self.live >= self.config.instances_max {
                break;
            }
            self.start(Role::Provisioned, StartReason::Provisioned, next_instance, actions);
            self.provision.counts.starting += 1;
        }
    }

    fn start(
        &mut self,
        role: Role,
        reason: StartReason,
        next_instance: &mut dyn FnMut() -> InstanceId,
        actions: &mut Vec<Action>,
    ) {
        let id = next_instance();
        let fresh = Instance { phase: Phase::Starting, role, busy: 0, first_use: Some(reason), partly_at: 0 };
        self.instances.insert(id, fresh);
        self.starting += 1;
        actions.push(Action::Start { instance: id, reason });
    }

    /// A start that failed by itself is somebody's error: the oldest waiter's, unless other starts cover everybody.
    fn fail_oldest_if_short(&mut self, instance: InstanceId, cause: Gone, actions: &mut Vec<Action>) {
        match cause {
            Gone::StartFailed | Gone::InitFailed | Gone::Crashed => {}
            Gone::Stopped => return,
        }
        if self.uncovered() > 0
            && let Some(Waiting { waiter, .. }) = self.waiting.pop_front()
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
        if self.draining && self.demand.idle.back().is_some_and(|(last, _)| *last == id) {
            self.demand.idle.pop_back();
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
        let Some(instance) = self.instances.get(&id) else { return };
        let (role, busy) = (instance.role, instance.busy);
        let (shelf, instances) = match role {
            Role::Demand => (&mut self.demand, &mut self.instances),
            Role::Provisioned => (&mut self.provisioned, &mut self.instances),
        };
        shelf.leave_partly(id, instances);
        shelf.leave_idle(id);
        self.live -= 1;
        if role == Role::Provisioned {
            self.provision.counts.ready -= 1;
            self.provision.counts.in_use -= u32::from(busy > 0);
        }
    }

    /// Announces the next time at which something happens by itself, unless a Tick that is no later is on its way. Idle
    /// deadlines only ever move on, so one announcement serves until its time, and the same goes for retries.
    fn announce_wake(&mut self, actions: &mut Vec<Action>) {
        let idle_at_us = self.demand.idle.front().map(|(_, since_us)| since_us.saturating_add(self.idle_max_us()));
        let retry_at_us = self.retry_at_us.filter(|_| self.wants_start());
        for (wake, at_us) in
            [(Wake::Retry, retry_at_us), (Wake::Idle, idle_at_us), (Wake::Provision, self.provision.retry_at_us)]
        {
            let announced_us = &mut self.wakes_us[wake as usize];
            if let (Some(at_us), None) = (at_us, *announced_us) {
                *announced_us = Some(at_us);
                actions.push(Action::WakeAt { at_us });
            }
        }
    }
}

#[cfg(test)]
mod tests;
