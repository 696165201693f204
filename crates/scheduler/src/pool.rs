//! The instances of one version and the invocations that wait for them.
//!
//! Events go in, actions come out; [`Pool::step`] is the only door that moves anything. The rules:
//!
//! - An arriving waiter takes a free slot at once. Provisioned instances come first, then fuller ones (so that others
//!   become idle), then the most recently used idle one (so that the longest idle ones are frozen and end). Without a
//!   free slot it waits, first come first served.
//! - Starts are ordered for waiters that would otherwise wait longer than a start takes (`estimates`); one step orders
//!   as many as that needs. After a refusal it is one at a time, and twice as many after each that succeeds.
//! - A waiter takes whichever comes first: a slot that becomes free, by `Done`, or a started instance, by `Ready`.
//!   Starts that nobody needs any more are called off while they are young; older ones become idle instances.
//! - Every waiter leaves by exactly one of: `Dispatch`, `Refuse`, `Fail`, or its own `Cancel`.
//! - As long as somebody waits, an instance is starting or live; so a waiter is never forgotten.
//!
//! The caller owes the pool: unique ids; for each `Start` one `Ready`, `StartRefused` or `Gone`; for each live instance
//! a `Gone` in the end, also after `Stop`; a `Tick` at or after each `WakeAt`. Whatever else arrives (late, doubled,
//! unknown) changes nothing. When a busy instance is `Gone`, the caller ends the invocations it had dispatched there.
//!
//! Modules in reading order: `events` (what goes in and out), `estimates` and `starts` (when to start), `idle` (when to
//! freeze and stop), `provision` (instances ahead of invocations); `shelf` and `table` hold them.

mod events;

mod estimates;

mod starts;

mod idle;

mod provision;

mod shelf;

mod table;

pub use estimates::{Estimates, Queue, starts_wanted};
pub use events::{Action, Cold, Dispatched, Event, Gone, Lane, Refusal, RefuseReason, StartReason, StopReason, Waited};
pub use provision::{ProvisionedCounts, Trouble};

use crate::keep_alive::{History, Policy};
use idle::Ghosts;
use provision::Provision;
use shelf::Shelf;
use std::collections::VecDeque;
use table::{Instance, List, Place, Table};

/// Names an instance. Chosen by the caller, unique for the life of the process.
pub type InstanceId = u64;

/// Names an invocation that wants a slot. Chosen by the caller, unique for the life of the process.
pub type WaiterId = u64;

/// The settings of one pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Invocations that one instance runs at a time; 0 counts as 1.
    pub slots_per_instance: u32,
    /// Most invocations that wait; the next one is refused with [`RefuseReason::QueueFull`]. An invocation that meets a
    /// cold version waits too, so 0 refuses whatever cannot run at once.
    pub waiting_max: usize,
    /// Idle time after which an instance is stopped, at the latest.
    pub idle_ms: u64,
    /// What decides how much earlier.
    pub keep_alive: Policy,
    /// Idle time after which an instance is frozen; 0 is never.
    pub freeze_after_ms: u64,
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
    /// Busy instances that will end for others instead of running the next invocation.
    pub yielding: usize,
}

/// The instances and waiters of one version.
#[derive(Debug)]
pub struct Pool {
    config: Config,
    table: Table,
    /// Live instances with free slots that are kept by order.
    provisioned: Shelf,
    /// All others with free slots.
    demand: Shelf,
    /// Starts under way, oldest first.
    starting: List,
    live: usize,
    /// Slots taken on live instances.
    busy_slots: u64,
    waiting: VecDeque<Waiting>,
    provision: Provision,
    estimates: Estimates,
    /// How long instances were idle before they were used again.
    history: History,
    ghosts: Ghosts,
    /// When a service has last ended.
    done_us: u64,
    /// Since when somebody has waited at all times.
    queued_since_us: u64,
    /// Waits since then, or since the last start, that a further instance would have spared.
    regret_us: u64,
    refused: Refused,
    /// Instances that are to be closed for others as their slots become free.
    yields: usize,
    /// Live instances that are closing.
    closing: usize,
    draining: bool,
    now_us: u64,
    /// For each [`Wake`], the announced `WakeAt` whose time has not come yet.
    wakes_us: [Option<u64>; WAKES],
}

/// What a Tick is wanted for.
#[derive(Debug, Clone, Copy)]
enum Wake {
    Retry,
    Idle,
    Freeze,
    Silence,
    Provision,
}

const WAKES: usize = 5;

#[derive(Debug, Clone, Copy)]
struct Waiting {
    waiter: WaiterId,
    arrived_us: u64,
}

/// What follows from refused starts.
#[derive(Debug, Default)]
struct Refused {
    /// Starts lag behind the waiters: no further one before this time.
    retry_at_us: Option<u64>,
    /// Most starts under way, until enough of them have succeeded.
    starting_max: Option<usize>,
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
    /// Ordered ahead of demand: not called off; once live it is like any other.
    Ahead,
    Provisioned,
}

impl Pool {
    /// An empty pool.
    pub fn new(config: Config) -> Pool {
        Pool {
            config: Config { slots_per_instance: config.slots_per_instance.max(1), ..config },
            table: Table::default(),
            provisioned: Shelf::default(),
            demand: Shelf::default(),
            starting: List::default(),
            live: 0,
            busy_slots: 0,
            waiting: VecDeque::new(),
            provision: Provision::default(),
            estimates: Estimates::default(),
            history: History::default(),
            ghosts: Ghosts::default(),
            done_us: 0,
            queued_since_us: 0,
            regret_us: 0,
            refused: Refused::default(),
            yields: 0,
            closing: 0,
            draining: false,
            now_us: 0,
            wakes_us: [None; WAKES],
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
            Event::Yield => {
                self.yield_one();
                None
            }
            Event::Drain => self.drain(actions),
            Event::Tick => self.tick(actions),
        };
        if let Some(reason) = start_reason {
            self.start_if_short(reason, next_instance, actions);
        }
        if self.starting.len() > 0 {
            self.call_off_surplus(actions);
        }
        if self.provision.counts.target > 0 {
            self.start_provisioned(next_instance, actions);
        }
        self.announce_wakes(actions);
    }

    /// No instance in any phase, no waiter: the pool may be dropped.
    pub fn is_empty(&self) -> bool {
        self.table.len() == 0 && self.waiting.is_empty()
    }

    /// How many of each there are.
    pub fn counts(&self) -> Counts {
        let idle = self.demand.idle.len() + self.provisioned.idle.len();
        Counts {
            starting: self.starting.len(),
            idle,
            busy: self.live - idle,
            stopping: self.table.len() - self.starting.len() - self.live,
            waiting: self.waiting.len(),
            yielding: self.yields + self.closing,
        }
    }

    /// What has been observed so far.
    pub fn estimates(&self) -> Estimates {
        self.estimates
    }
}

/// One function per event. Each returns why a start may be needed now, if it may.
impl Pool {
    fn arrive(&mut self, waiter: WaiterId, actions: &mut Vec<Action>) -> Option<StartReason> {
        if self.draining {
            actions.push(Action::Refuse { waiter, reason: RefuseReason::Draining });
            return None;
        }
        if let Some(place) = self.provisioned.first().or_else(|| self.demand.first()) {
            self.dispatch(waiter, place, Waited::Not, actions);
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
        if self.waiting.is_empty() {
            (self.queued_since_us, self.regret_us) = (self.now_us, 0);
        }
        self.waiting.push_back(Waiting { waiter, arrived_us: self.now_us });
        Some(match self.present() {
            0 => StartReason::FromZero,
            _ => self.all_busy(),
        })
    }

    fn ready(&mut self, id: InstanceId, actions: &mut Vec<Action>) -> Option<StartReason> {
        let place = self.table.find(id).filter(|place| self.table.get(*place).phase == Phase::Starting)?;
        self.starting.remove(&mut self.table, place);
        self.live += 1;
        let instance = self.table.at(place);
        let started_us = instance.since_us;
        instance.phase = Phase::Live;
        match instance.role {
            Role::Demand => {}
            Role::Ahead => instance.role = Role::Demand,
            Role::Provisioned => self.provision.ready(),
        }
        self.estimates.start(self.now_us - started_us);
        let (now_us, table, shelf) = self.shelved(place);
        shelf.join_idle(table, place, now_us);
        for _ in 0..self.config.slots_per_instance {
            match self.waiting.pop_front() {
                Some(Waiting { waiter, arrived_us }) => {
                    let waited = Waited::ForStart { us: self.now_us - arrived_us };
                    self.dispatch(waiter, place, waited, actions);
                }
                None => break,
            }
        }
        if self.table.get(place).busy == 0 {
            self.stop_if_draining(place, actions);
        }
        self.start_succeeded();
        self.still_waiting()
    }

    fn done(&mut self, id: InstanceId, actions: &mut Vec<Action>) -> Option<StartReason> {
        let place = self.table.find(id)?;
        let instance = self.table.at(place);
        if instance.phase != Phase::Live || instance.busy == 0 {
            return None;
        }
        // With several slots it is not known which one is free: on average, a middling one.
        let taken_us = instance.taken_us / u64::from(instance.busy);
        instance.taken_us -= taken_us;
        instance.busy -= 1;
        let busy = instance.busy;
        self.busy_slots -= 1;
        self.done_us = self.now_us;
        self.estimates.service(self.now_us.saturating_sub(taken_us));
        let slots = self.config.slots_per_instance;
        if self.closes(place, busy, actions) {
            return (!self.waiting.is_empty()).then_some(StartReason::Replacement);
        }
        let (now_us, table, shelf) = self.shelved(place);
        if busy + 1 < slots {
            shelf.partly.remove(table, place);
        }
        if busy > 0 {
            shelf.partly.push(table, place);
        } else {
            shelf.join_idle(table, place, now_us);
            self.provision.counts.in_use -= u32::from(self.table.get(place).role == Role::Provisioned);
        }
        // A waiter means that no other slot is free.
        match self.waiting.pop_front() {
            Some(Waiting { waiter, arrived_us }) => {
                let us = self.now_us - arrived_us;
                self.regret_us = self.regret_us.saturating_add(self.estimates.regret_us(us));
                self.dispatch(waiter, place, Waited::ForSlot { us }, actions);
                self.still_waiting()
            }
            None => {
                if busy == 0 {
                    self.stop_if_draining(place, actions);
                }
                None
            }
        }
    }

    fn unfit(&mut self, id: InstanceId) -> Option<StartReason> {
        let place = self.table.find(id).filter(|place| self.table.get(*place).phase == Phase::Live)?;
        self.leave_live(place);
        Some(StartReason::Replacement)
    }

    fn gone(&mut self, id: InstanceId, cause: Gone, actions: &mut Vec<Action>) -> Option<StartReason> {
        let place = self.table.find(id)?;
        let instance = self.table.get(place);
        let (phase, role, unused) = (instance.phase, instance.role, instance.first_use.is_some());
        match phase {
            Phase::Starting => {
                self.leave_starting(place);
                self.fail_oldest_if_short(id, cause, actions);
            }
            Phase::Live => self.leave_live(place),
            Phase::Stopping => {}
        }
        match cause {
            // An instance that ends before its first use would be replaced again and again.
            Gone::StartFailed | Gone::InitFailed | Gone::Crashed if role == Role::Provisioned && unused => {
                self.provision.failed(self.now_us, Trouble::Failed(cause));
            }
            Gone::StartFailed | Gone::InitFailed | Gone::Crashed | Gone::Stopped => {}
        }
        self.table.remove(id);
        // Whatever ended has made room, so a refusal before it no longer counts.
        self.refused.retry_at_us = None;
        Some(StartReason::Replacement)
    }

    fn cancel(&mut self, waiter: WaiterId) -> Option<StartReason> {
        let at = self.waiting.iter().position(|w| w.waiter == waiter)?;
        self.waiting.remove(at);
        None
    }

    fn drain(&mut self, actions: &mut Vec<Action>) -> Option<StartReason> {
        self.provision(0);
        self.draining = true;
        while let Some(place) = self.demand.idle.first() {
            self.stop_idle(place, StopReason::Drained, actions);
        }
        None
    }

    fn tick(&mut self, actions: &mut Vec<Action>) -> Option<StartReason> {
        for wake_us in &mut self.wakes_us {
            wake_us.take_if(|at| *at <= self.now_us);
        }
        self.refused.retry_at_us.take_if(|at| *at <= self.now_us);
        self.stop_and_freeze(actions);
        let reason = if self.refused.starting_max.is_some() { StartReason::AfterRefusal } else { StartReason::Silence };
        Some(reason)
    }
}

/// The parts that the events share.
impl Pool {
    /// Instances that serve now or will.
    fn present(&self) -> usize {
        self.starting.len() + self.live
    }

    /// The shelf of a live instance, with what else is needed to move it there.
    fn shelved(&mut self, place: Place) -> (u64, &mut Table, &mut Shelf) {
        let shelf = match self.table.get(place).role {
            Role::Demand | Role::Ahead => &mut self.demand,
            Role::Provisioned => &mut self.provisioned,
        };
        (self.now_us, &mut self.table, shelf)
    }

    /// Takes a slot of a live instance that has one free.
    fn dispatch(&mut self, waiter: WaiterId, place: Place, waited: Waited, actions: &mut Vec<Action>) {
        let slots = self.config.slots_per_instance;
        let (now_us, table, shelf) = self.shelved(place);
        let was_idle = table.get(place).busy == 0;
        let idle_us = now_us - table.get(place).since_us;
        if was_idle {
            shelf.leave_idle(table, place);
        } else {
            shelf.partly.remove(table, place);
        }
        let instance = table.at(place);
        instance.busy += 1;
        instance.taken_us += now_us;
        let (id, role) = (instance.id, instance.role);
        let first_use = instance.first_use.take();
        let was_frozen = std::mem::take(&mut instance.frozen);
        if instance.busy < slots {
            shelf.partly.push(table, place);
        }
        if was_idle && first_use.is_none() {
            self.history.used_after(idle_us);
        }
        self.busy_slots += 1;
        let lane = match role {
            Role::Provisioned => {
                self.provision.counts.in_use += u32::from(was_idle);
                Lane::Provisioned
            }
            Role::Demand | Role::Ahead if self.provision.counts.target > 0 => Lane::SpillOver,
            Role::Demand | Role::Ahead => Lane::OnDemand,
        };
        if was_frozen {
            actions.push(Action::Thaw { instance: id });
        }
        let cold = first_use.map_or(Cold::Warm, |reason| Cold::FirstUse { reason });
        let why = Dispatched { cold, waited, lane, was_frozen };
        actions.push(Action::Dispatch { waiter, instance: id, why });
    }

    /// Takes a live instance out of every list and count; it remains as one that is stopping.
    fn leave_live(&mut self, place: Place) {
        let slots = self.config.slots_per_instance;
        let (_, table, shelf) = self.shelved(place);
        let (busy, was_closing) = (table.get(place).busy, table.get(place).closing);
        if was_closing {
            // In no list.
        } else if busy == 0 {
            shelf.leave_idle(table, place);
        } else if busy < slots {
            shelf.partly.remove(table, place);
        }
        let instance = table.at(place);
        instance.phase = Phase::Stopping;
        instance.closing = false;
        (instance.busy, instance.taken_us) = (0, 0);
        if instance.role == Role::Provisioned {
            self.provision.counts.ready -= 1;
            self.provision.counts.in_use -= u32::from(busy > 0);
        }
        self.live -= 1;
        self.closing -= usize::from(was_closing);
        self.busy_slots -= u64::from(busy);
    }
}

#[cfg(test)]
mod tests;
