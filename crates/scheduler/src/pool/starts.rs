//! Ordering starts, and calling them off.

use super::estimates::{Queue, starts_wanted};
use super::table::{Instance, List, Place};
use super::{
    Action, Gone, InstanceId, Phase, Pool, Refusal, RefuseReason, Role, StartReason, StopReason, Trouble, Waiting,
};

/// How long the pool waits before it asks again, after a start was refused while others could still serve.
pub const START_RETRY_US: u64 = 20_000;

/// Starts under way at which refusals are forgotten.
const REFUSED_FORGOTTEN_AT: usize = 1_024;

type NextInstance<'a> = &'a mut dyn FnMut() -> InstanceId;

impl Pool {
    pub(super) fn start_if_short(&mut self, reason: StartReason, next: NextInstance, actions: &mut Vec<Action>) {
        let must_wait = self.refused.retry_at_us.is_some_and(|at| self.now_us < at);
        // With nobody present a start is ordered even so: else nothing would ever serve the waiters.
        if self.waiting.is_empty() || (must_wait && self.present() > 0) {
            return;
        }
        let mut wanted = self.starts_missing();
        let mut role = Role::Demand;
        if let StartReason::Sustained { .. } = reason {
            wanted = wanted.max(1 + self.live / 4);
            // The estimates alone would call it off.
            role = Role::Ahead;
        }
        if reason == StartReason::Silence {
            role = Role::Ahead;
        }
        wanted = wanted.min(self.config.instances_max.saturating_sub(self.present()));
        let may = self.refused.starting_max.map_or(usize::MAX, |max| max.saturating_sub(self.starting.len()));
        let may = if self.present() == 0 { may.max(1) } else { may };
        for _ in 0..wanted.min(may) {
            self.start(role, reason, next, actions);
            self.regret_us = 0;
        }
        // What a refusal has held back follows in a while.
        self.refused.retry_at_us = (wanted > may).then(|| self.now_us.saturating_add(START_RETRY_US));
    }

    /// Starts to order beside those under way, whatever limits them.
    pub(super) fn starts_missing(&self) -> usize {
        starts_wanted(self.queue(), self.estimates) as usize
    }

    fn queue(&self) -> Queue {
        Queue {
            waiting: self.waiting.len() as u64,
            busy_slots: self.busy_slots,
            starting: self.starting.len() as u64,
            slots: u64::from(self.config.slots_per_instance),
            is_silent: self.silence_ends_us().is_some_and(|at| at <= self.now_us),
        }
    }

    /// When a silence of the services that the waiters count on has lasted too long.
    pub(super) fn silence_ends_us(&self) -> Option<u64> {
        let oldest = self.waiting.front()?;
        let silence_max_us = self.estimates.silence_max_us()?;
        Some(self.done_us.max(oldest.arrived_us).saturating_add(silence_max_us))
    }

    /// Why a start may be needed after something has changed, if anybody still waits. What was observed has moved too.
    pub(super) fn still_waiting(&mut self) -> Option<StartReason> {
        if self.waiting.is_empty() {
            return None;
        }
        let queued_us = self.now_us - self.queued_since_us;
        let sustained = self.starting.len() == 0 && self.estimates.is_worth_a_start(self.regret_us, queued_us);
        Some(match self.refused.starting_max {
            Some(_) => StartReason::AfterRefusal,
            None if sustained => StartReason::Sustained { waiting: self.waiting.len() as u32 },
            None => self.all_busy(),
        })
    }

    pub(super) fn all_busy(&self) -> StartReason {
        StartReason::AllBusy { live: self.live as u32, starting: self.starting.len() as u32 }
    }

    pub(super) fn warm_up(&mut self, count: u32, next: NextInstance, actions: &mut Vec<Action>) {
        let wanted = (count as usize).min(self.config.instances_max);
        while !self.draining && self.present() < wanted {
            self.start(Role::Ahead, StartReason::WarmUp, next, actions);
        }
    }

    pub(super) fn start_provisioned(&mut self, next: NextInstance, actions: &mut Vec<Action>) {
        self.provision.retry_at_us.take_if(|at| *at <= self.now_us);
        for _ in 0..self.provision.missing() {
            if self.present() >= self.config.instances_max {
                break;
            }
            self.start(Role::Provisioned, StartReason::Provisioned, next, actions);
            self.provision.counts.starting += 1;
        }
    }

    fn start(&mut self, role: Role, reason: StartReason, next: NextInstance, actions: &mut Vec<Action>) {
        match role {
            // What a kept instance would have spared.
            Role::Demand => self.missed(),
            Role::Ahead | Role::Provisioned => {}
        }
        let id = next();
        let place = self.table.insert(Instance::starting(id, self.now_us, role, reason));
        self.starting.push(&mut self.table, place);
        actions.push(Action::Start { instance: id, reason });
    }

    /// After refusals, each start that succeeds allows twice as many at a time.
    pub(super) fn start_succeeded(&mut self) {
        if let Some(max) = self.refused.starting_max {
            self.refused.retry_at_us = None;
            self.refused.starting_max = (max < REFUSED_FORGOTTEN_AT).then_some(max * 2);
        }
    }

    pub(super) fn start_refused(
        &mut self,
        id: InstanceId,
        why: Refusal,
        actions: &mut Vec<Action>,
    ) -> Option<StartReason> {
        let place = self.table.find(id)?;
        let instance = self.table.get(place);
        let role = instance.role;
        match instance.phase {
            Phase::Live => return None,
            Phase::Starting => self.leave_starting(place),
            // The refusal crossed our order to stop; no Gone will follow.
            Phase::Stopping => {
                self.table.remove(id);
                return None;
            }
        }
        self.table.remove(id);
        if role == Role::Provisioned {
            self.provision.failed(self.now_us, Trouble::Refused(why));
        }
        if self.present() == 0 {
            let reason = RefuseReason::NoCapacity;
            actions.extend(self.waiting.drain(..).map(|w| Action::Refuse { waiter: w.waiter, reason }));
            self.refused = super::Refused::default();
            return None;
        }
        self.refused.starting_max = Some(1);
        self.refused.retry_at_us = Some(self.now_us.saturating_add(START_RETRY_US));
        None
    }

    /// A start that failed by itself is somebody's error: the oldest waiter's, unless other starts cover everybody.
    pub(super) fn fail_oldest_if_short(&mut self, instance: InstanceId, cause: Gone, actions: &mut Vec<Action>) {
        match cause {
            Gone::StartFailed | Gone::InitFailed | Gone::Crashed => {}
            Gone::Stopped => return,
        }
        if self.starts_missing() > 0
            && let Some(Waiting { waiter, .. }) = self.waiting.pop_front()
        {
            actions.push(Action::Fail { waiter, instance });
        }
    }

    /// Stops the newest starts that waiters do not need. An older one stays: most of its cost is spent, and the next
    /// peak will use it. So that queues that come and go do not order and call off in turn, a start is surplus only if
    /// twice as many waiters would not need it. A draining pool keeps none.
    pub(super) fn call_off_surplus(&mut self, actions: &mut Vec<Action>) {
        let waiting = self.waiting.len() as u64 * if self.draining { 1 } else { 2 };
        let queue = Queue { waiting, starting: 0, ..self.queue() };
        // A draining pool looks only at its starts, else they would be called off while their waiters wait for slots.
        let queue = if self.draining { Queue { busy_slots: 0, ..queue } } else { queue };
        let needed = starts_wanted(queue, self.estimates) as usize;
        let (mut surplus, mut young_us) = (self.starting.len().saturating_sub(needed), u64::MAX);
        if !self.draining {
            // One stays, else clients that give up early would never find an instance however often they came back.
            surplus = surplus.min(self.present() - 1);
            young_us = self.estimates.start_us.map_or(0, |us| us / 2);
        }
        let mut next = self.starting.last();
        while let Some(place) = next.filter(|_| surplus > 0) {
            next = List::before(&self.table, place);
            let instance = self.table.get(place);
            if self.now_us - instance.since_us >= young_us {
                break;
            }
            if instance.role == Role::Demand || self.draining {
                let id = instance.id;
                self.leave_starting(place);
                actions.push(Action::Stop { instance: id, reason: StopReason::Surplus });
                surplus -= 1;
            }
        }
    }

    /// Takes a start out of every list and count; it remains as one that is stopping.
    pub(super) fn leave_starting(&mut self, place: Place) {
        self.starting.remove(&mut self.table, place);
        let instance = self.table.at(place);
        instance.phase = Phase::Stopping;
        if instance.role == Role::Provisioned {
            self.provision.counts.starting -= 1;
        }
    }
}
