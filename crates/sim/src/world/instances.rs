//! The lives of the simulated instances: what the launcher and the guests would do, in the time that the script says.

use super::{Deployed, Happening, InitEnd, Instance, World};
use crate::random::Chance;
use crate::script::Span;
use crate::tally::End;
use model::Generation;
use scheduler::instance::{self, Event as Move, State};
use scheduler::lifetimes::{self, AfterFailedInit, InitLimits, ReportReason};
use scheduler::pool::{Event, Gone, InstanceId, WaiterId};
use std::collections::BTreeSet;

impl World {
    pub(super) fn function_of(&self, generation: Generation) -> Option<&Deployed> {
        self.functions.get(&self.pools.get(&generation)?.name)
    }

    pub(super) fn function_of_mut(&mut self, generation: Generation) -> Option<&mut Deployed> {
        self.functions.get_mut(&self.pools.get(&generation)?.name)
    }

    /// A start that will have room, now or when those that leave are gone.
    pub(super) fn line_up(&mut self, generation: Generation, id: InstanceId, memory_mb: u32) {
        let instance =
            Instance { generation, state: State::Starting, attempt: 1, running: BTreeSet::new(), frozen: false };
        self.instances.insert(id, instance);
        if let Some(deployed) = self.function_of_mut(generation) {
            deployed.tally.instances(1);
        }
        self.room.park(id, memory_mb);
        self.begin_starts();
    }

    pub(super) fn begin_starts(&mut self) {
        while let Some(id) = self.first_parked().and_then(|id| self.room.admit(id)) {
            self.make_sandbox(id);
        }
    }

    fn make_sandbox(&mut self, id: InstanceId) {
        let Some((generation, attempt)) = self.instances.get(&id).map(|i| (i.generation, i.attempt)) else { return };
        let mut chance = self.chance;
        let Some(deployed) = self.function_of_mut(generation) else { return };
        let start_ms = deployed.start_ms(&mut chance);
        let broken = deployed.broken_starts > 0;
        deployed.broken_starts -= u32::from(broken);
        self.chance = chance;
        let end_ms = self.now_ms + start_ms;
        if broken {
            self.enter(end_ms, Happening::Ended { instance: id, cause: Gone::StartFailed });
        } else {
            self.enter(end_ms, Happening::Launched { instance: id, attempt });
        }
    }

    /// Moves the instance if `scheduler::instance` allows it; a late happening moves nothing.
    fn moved(&mut self, id: InstanceId, event: Move) -> Option<&mut Instance> {
        let instance = self.instances.get_mut(&id)?;
        instance.state = instance::next(instance.state, event).ok()?;
        Some(instance)
    }

    fn is_attempt(&self, id: InstanceId, attempt: u32) -> bool {
        self.instances.get(&id).is_some_and(|i| i.attempt == attempt)
    }

    pub(super) fn launched(&mut self, id: InstanceId, attempt: u32) {
        if !self.is_attempt(id, attempt) {
            return;
        }
        let Some(generation) = self.moved(id, Move::Launched).map(|i| i.generation) else { return };
        let mut chance = self.chance;
        let init_limit_ms = self.machine.init_limit_ms;
        let Some(deployed) = self.function_of_mut(generation) else { return };
        let init_ms = deployed.init_ms(&mut chance);
        let broken = deployed.broken_inits > 0;
        deployed.broken_inits -= u32::from(broken);
        let limit_ms = lifetimes::init_limit_ms(attempt, deployed.init_limits(init_limit_ms));
        self.chance = chance;
        let how = match (init_ms > limit_ms, broken) {
            (true, _) => InitEnd::TimedOut,
            (false, true) => InitEnd::Failed,
            (false, false) => InitEnd::Done,
        };
        let end_ms = self.now_ms + init_ms.min(limit_ms);
        self.enter(end_ms, Happening::InitEnds { instance: id, attempt, how });
    }

    pub(super) fn init_ends(&mut self, id: InstanceId, attempt: u32, how: InitEnd) {
        if !self.is_attempt(id, attempt) {
            return;
        }
        let (event, why) = match how {
            InitEnd::Done => (Move::InitDone, ""),
            InitEnd::Failed => (Move::InitFailed, "Init failed"),
            InitEnd::TimedOut => (Move::TimedOut, "Init timed out"),
        };
        let Some(generation) = self.moved(id, event).map(|i| i.generation) else { return };
        match how {
            InitEnd::Done => {
                self.note(generation, "ready", None, Some(id), String::new());
                self.tell(generation, Event::Ready { instance: id });
            }
            InitEnd::Failed | InitEnd::TimedOut => self.init_failed(generation, id, attempt, why),
        }
    }

    /// Tries again in place, or reports. The retry is a new process, so its life begins anew.
    fn init_failed(&mut self, generation: Generation, id: InstanceId, attempt: u32, why: &str) {
        let waiting = self.pools.get(&generation).map_or(0, |g| g.pool.counts().waiting);
        let init_limit_ms = self.machine.init_limit_ms;
        let Some(limits) = self.function_of(generation).map(|f| f.init_limits(init_limit_ms)) else { return };
        match lifetimes::after_failed_init(attempt, waiting > 0, limits) {
            AfterFailedInit::Retry { limit_ms } => {
                self.note(generation, "retry", None, Some(id), format!("{why}; again within {limit_ms} ms"));
                if let Some(instance) = self.instances.get_mut(&id) {
                    instance.state = State::Starting;
                    instance.attempt = attempt + 1;
                }
                self.make_sandbox(id);
            }
            AfterFailedInit::Report(reason) => {
                let words = match reason {
                    ReportReason::AttemptsUsed => "no try left",
                    ReportReason::NobodyWaits => "nobody waits",
                };
                self.note(generation, "give up", None, Some(id), format!("{why}; {words}"));
                self.order_end(id, Gone::InitFailed);
            }
        }
    }

    pub(super) fn service_ends(&mut self, id: InstanceId, invocation: WaiterId, in_time: bool) {
        let Some(instance) = self.instances.get_mut(&id) else { return };
        if !instance.running.remove(&invocation) {
            return;
        }
        let generation = instance.generation;
        let last = instance.running.is_empty();
        if in_time {
            self.note(generation, "done", Some(invocation), Some(id), String::new());
            self.end(invocation, End::Answered);
            let fit = self.instances.get(&id).is_some_and(|i| i.state == State::Busy);
            if fit && (!last || self.moved(id, Move::Responded).is_some()) {
                self.tell(generation, Event::Done { instance: id });
            }
        } else {
            self.note(generation, "time out", Some(invocation), Some(id), String::new());
            self.end(invocation, End::TimedOut);
            if self.moved(id, Move::TimedOut).is_some() {
                self.tell(generation, Event::Unfit { instance: id });
                self.order_end(id, Gone::Crashed);
            }
        }
    }

    /// An instance that was ordered to end does so after a while; one that has not begun is gone at once.
    pub(super) fn order_end(&mut self, id: InstanceId, cause: Gone) {
        let stop_ms = if self.room.leave(id) { self.machine.stop_ms } else { 0 };
        self.enter(self.now_ms + stop_ms, Happening::Ended { instance: id, cause });
    }

    /// The instance is gone: its room is free, its invocations end, its pool hears of it.
    pub(super) fn ended(&mut self, id: InstanceId, cause: Gone) {
        let Some(generation) = self.moved(id, Move::ProcessEnded).map(|i| i.generation) else { return };
        let running = self.instances.remove(&id).map(|i| i.running).unwrap_or_default();
        let why = match cause {
            Gone::StartFailed => "start failed",
            Gone::InitFailed => "Init failed",
            Gone::Crashed => "crashed",
            Gone::Stopped => "stopped",
        };
        self.note(generation, "gone", None, Some(id), why.to_owned());
        for invocation in running {
            self.note(generation, "crash", Some(invocation), Some(id), String::new());
            self.end(invocation, End::Crashed);
        }
        if let Some(deployed) = self.function_of_mut(generation) {
            deployed.tally.instances(-1);
        }
        self.room.free(id);
        self.begin_starts();
        self.tell(generation, Event::Gone { instance: id, cause });
    }

    /// Drops the pool of an earlier generation once nothing is left in it.
    pub(super) fn forget_if_empty(&mut self, generation: Generation) {
        let newest = self.function_of(generation).is_some_and(|f| f.generation == generation);
        if !newest && self.pools.get(&generation).is_some_and(|g| g.pool.is_empty()) {
            self.pools.remove(&generation);
        }
    }
}

impl Deployed {
    fn init_limits(&self, init_ms: u64) -> InitLimits {
        InitLimits { init_ms, timeout_ms: self.function.timeout_ms }
    }

    fn start_ms(&mut self, chance: &mut Chance) -> u64 {
        next_ms(&self.function.start, &mut self.turns[0], chance)
    }

    fn init_ms(&mut self, chance: &mut Chance) -> u64 {
        next_ms(&self.function.init, &mut self.turns[1], chance)
    }

    pub(super) fn service_ms(&mut self, chance: &mut Chance) -> u64 {
        next_ms(&self.function.service, &mut self.turns[2], chance)
    }
}

fn next_ms(span: &Span, turn: &mut usize, chance: &mut Chance) -> u64 {
    match span {
        Span::Listed(listed) => {
            let at = *turn % listed.len().max(1);
            *turn = at + 1;
            listed.get(at).copied().unwrap_or(0)
        }
        Span::Between(low, high) => chance.between(*low, *high),
    }
}
