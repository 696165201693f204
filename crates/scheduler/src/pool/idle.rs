//! Instances without work: frozen after a while, stopped in the end, evicted when their room is needed.

use super::table::Place;
use super::{Action, InstanceId, Phase, Pool, StopReason, Wake};
use crate::keep_alive::Basis;

/// Instances that were stopped and of which it is remembered since when they were idle.
const GHOSTS: usize = 16;

/// Since when the instances that were stopped last were idle. Without them, no idle time longer than the one that is kept
/// would ever be seen.
#[derive(Debug, Default)]
pub(super) struct Ghosts {
    since_us: [u64; GHOSTS],
    /// Where the next one goes.
    next: usize,
    len: usize,
}

impl Ghosts {
    pub fn push(&mut self, since_us: u64) {
        self.since_us[self.next] = since_us;
        self.next = (self.next + 1) % GHOSTS;
        self.len = (self.len + 1).min(GHOSTS);
    }

    /// The newest.
    pub fn pop(&mut self) -> Option<u64> {
        self.len = self.len.checked_sub(1)?;
        self.next = (self.next + GHOSTS - 1) % GHOSTS;
        Some(self.since_us[self.next])
    }
}

impl Pool {
    /// Stops an idle instance because its room is needed elsewhere; `false`, and nothing, if it is not idle or is kept
    /// by order.
    pub fn evict(&mut self, now_us: u64, instance: InstanceId, actions: &mut Vec<Action>) -> bool {
        self.now_us = self.now_us.max(now_us);
        let idle = |place: &Place| {
            let instance = self.table.get(*place);
            instance.phase == Phase::Live
                && instance.busy == 0
                && !instance.closing
                && instance.role != super::Role::Provisioned
        };
        match self.table.find(instance).filter(idle) {
            Some(place) => {
                self.ghosts.push(self.table.get(place).since_us);
                self.stop_idle(place, StopReason::Evicted, actions);
                true
            }
            None => false,
        }
    }

    /// The idle instances that may be evicted and since when (`now_us` of their last `Ready` or `Done`), longest idle
    /// first.
    pub fn idle(&self) -> Vec<(InstanceId, u64)> {
        self.demand.idle.iter(&self.table).map(|instance| (instance.id, instance.since_us)).collect()
    }

    /// One more instance is to close, if there are others.
    pub(super) fn yield_one(&mut self) {
        let open = self.live - self.closing;
        if !self.waiting.is_empty() && self.yields + 1 < open {
            self.yields += 1;
        }
    }

    /// A slot of the instance has just become free, `busy` others are taken. Whether it takes no further invocation: it
    /// was closed before, or is now, and ends with the last slot.
    pub(super) fn closes(&mut self, place: Place, busy: u32, actions: &mut Vec<Action>) -> bool {
        if self.waiting.is_empty() {
            self.yields = 0;
        }
        let instance = self.table.get(place);
        let provisioned = instance.role == super::Role::Provisioned;
        if !instance.closing && (self.yields == 0 || provisioned || self.live - self.closing < 2) {
            return false;
        }
        if !instance.closing {
            self.yields -= 1;
            self.closing += 1;
            if busy + 1 < self.config.slots_per_instance {
                let (_, table, shelf) = self.shelved(place);
                shelf.partly.remove(table, place);
            }
            self.table.at(place).closing = true;
        }
        if busy == 0 {
            self.stop_idle(place, StopReason::Yielded, actions);
        }
        true
    }

    pub(super) fn stop_idle(&mut self, place: Place, reason: StopReason, actions: &mut Vec<Action>) {
        let id = self.table.get(place).id;
        self.leave_live(place);
        actions.push(Action::Stop { instance: id, reason });
    }

    /// A draining pool has no use for an idle instance.
    pub(super) fn stop_if_draining(&mut self, place: Place, actions: &mut Vec<Action>) {
        if self.draining {
            self.stop_idle(place, StopReason::Drained, actions);
        }
    }

    /// Stops those that have been idle for too long, freezes those that have been for long.
    pub(super) fn stop_and_freeze(&mut self, actions: &mut Vec<Action>) {
        let (keep_us, basis) = self.keep_us();
        while let Some(place) = self.demand.idle.first() {
            let since_us = self.table.get(place).since_us;
            let idle_us = self.now_us.saturating_sub(since_us);
            if idle_us < keep_us {
                break;
            }
            self.ghosts.push(since_us);
            self.stop_idle(place, StopReason::Idle { idle_ms: idle_us / 1_000, basis }, actions);
        }
        let Some(freeze_after_us) = self.freeze_after_us() else { return };
        for shelf in [&mut self.demand, &mut self.provisioned] {
            while let Some(place) = shelf.thawed() {
                let instance = self.table.get(place);
                if self.now_us.saturating_sub(instance.since_us) < freeze_after_us {
                    break;
                }
                actions.push(Action::Freeze { instance: instance.id });
                shelf.freeze(&mut self.table, place);
            }
        }
    }

    /// How long an idle instance is kept, and why.
    pub(super) fn keep_us(&self) -> (u64, Basis) {
        let max_us = self.config.idle_ms.saturating_mul(1_000);
        self.history.keep_us(self.config.keep_alive, self.estimates.start_us, max_us)
    }

    /// A start is ordered for demand: how long the newest instance that was stopped would have been idle.
    pub(super) fn missed(&mut self) {
        if let Some(since_us) = self.ghosts.pop() {
            self.history.used_after(self.now_us - since_us);
        }
    }

    fn freeze_after_us(&self) -> Option<u64> {
        (self.config.freeze_after_ms > 0).then(|| self.config.freeze_after_ms.saturating_mul(1_000))
    }

    /// Announces the next times at which something happens by itself, unless a Tick that is not much later is on its
    /// way: one that comes in more than twice the time is announced anew, so that few are ever outstanding. The times at
    /// which idle instances are frozen or stopped only ever move on, and are looked up only when none is announced.
    pub(super) fn announce_wakes(&mut self, actions: &mut Vec<Action>) {
        if self.wakes_us[Wake::Idle as usize].is_none() {
            let idle_us = self.since_us(self.demand.idle.first()).map(|us| us.saturating_add(self.keep_us().0));
            self.announce(Wake::Idle, idle_us, actions);
        }
        if self.wakes_us[Wake::Freeze as usize].is_none()
            && let Some(after_us) = self.freeze_after_us()
        {
            let thawed = [self.demand.thawed(), self.provisioned.thawed()];
            let thawed_us = thawed.into_iter().filter_map(|place| self.since_us(place)).min();
            self.announce(Wake::Freeze, thawed_us.map(|us| us.saturating_add(after_us)), actions);
        }
        if !self.waiting.is_empty() {
            let silence_us = self.silence_ends_us().filter(|at| *at > self.now_us);
            self.announce(Wake::Silence, silence_us, actions);
            self.announce(Wake::Retry, self.refused.retry_at_us, actions);
        }
        self.announce(Wake::Provision, self.provision.retry_at_us, actions);
    }

    fn since_us(&self, place: Option<Place>) -> Option<u64> {
        place.map(|place| self.table.get(place).since_us)
    }

    fn announce(&mut self, wake: Wake, at_us: Option<u64>, actions: &mut Vec<Action>) {
        let Some(at_us) = at_us else { return };
        let now_us = self.now_us;
        let announced_us = &mut self.wakes_us[wake as usize];
        let in_us = |at_us: u64| at_us.saturating_sub(now_us);
        if announced_us.is_none_or(|announced_us| in_us(announced_us) / 2 > in_us(at_us)) {
            *announced_us = Some(at_us);
            actions.push(Action::WakeAt { at_us });
        }
    }
}
