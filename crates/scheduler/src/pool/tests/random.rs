//! The rules of the pool, and random sequences of events that must keep them.

use crate::pool::table::Instance;
use crate::pool::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

impl Pool {
    /// What must hold between any two steps.
    pub(super) fn check_rules(&self) {
        let slots = self.config.slots_per_instance;
        let of = |phase| self.table.iter().map(|(_, i)| i).filter(move |i| i.phase == phase);
        assert_eq!(of(Phase::Starting).count(), self.starting.len());
        assert!(self.starting.iter(&self.table).all(|i| i.phase == Phase::Starting));
        assert_eq!(of(Phase::Live).count(), self.live);
        assert_eq!(of(Phase::Live).map(|i| u64::from(i.busy)).sum::<u64>(), self.busy_slots);
        assert!(self.present() <= self.config.instances_max);
        assert!(self.waiting.len() <= self.config.waiting_max);
        assert!(self.table.iter().all(|(_, i)| i.busy <= slots && (i.phase == Phase::Live || i.busy == 0)));
        assert!(self.table.iter().all(|(_, i)| !i.frozen || i.busy == 0));
        assert_eq!(of(Phase::Live).filter(|i| i.closing).count(), self.closing);
        assert!(of(Phase::Live).all(|i| !i.closing || i.busy > 0));
        self.check_shelf(Role::Demand, &self.demand);
        self.check_shelf(Role::Provisioned, &self.provisioned);
        if !self.waiting.is_empty() {
            let shelves = [&self.demand, &self.provisioned];
            assert!(shelves.iter().all(|s| s.first().is_none()), "a slot is free while somebody waits");
            assert!(self.present() > 0, "somebody waits for nothing");
        }
        assert!(!self.draining || self.counts().idle == 0);
        self.check_wake(Wake::Idle, self.demand.idle.iter(&self.table).next(), self.config.idle_ms * 2);
        self.check_provision();
        if self.starts_missing() > 0 && self.present() < self.config.instances_max {
            let wakes_us = [Wake::Retry, Wake::Silence].map(|wake| self.wakes_us[wake as usize]);
            assert!(wakes_us.iter().any(Option::is_some), "nothing will order the missing starts");
        }
        if self.silence_ends_us().is_some_and(|at| at > self.now_us) {
            assert!(self.wakes_us[Wake::Silence as usize].is_some(), "nothing will end the silence");
        }
    }

    /// A Tick will come soon enough to act on what is due `after_ms` after the instance became idle.
    fn check_wake(&self, wake: Wake, first: Option<&Instance>, after_ms: u64) {
        if let Some(first) = first {
            let in_us = (first.since_us + after_ms * 1_000).saturating_sub(self.now_us);
            let wake_us = self.wakes_us[wake as usize];
            assert!(wake_us.is_some_and(|at| at <= self.now_us + 2 * in_us + 1), "nothing will wake for {wake:?}");
        }
    }

    fn check_shelf(&self, role: Role, shelf: &Shelf) {
        let slots = self.config.slots_per_instance;
        let is_live = |i: &&Instance| i.phase == Phase::Live && i.role == role && !i.closing;
        let live: Vec<&Instance> = self.table.iter().map(|(_, i)| i).filter(is_live).collect();
        assert_eq!(live.iter().filter(|i| i.busy == 0).count(), shelf.idle.len());
        assert_eq!(live.iter().filter(|i| i.busy > 0 && i.busy < slots).count(), shelf.partly.len());
        let idle: Vec<&Instance> = shelf.idle.iter(&self.table).collect();
        let partly: Vec<&Instance> = shelf.partly.iter(&self.table).collect();
        assert_eq!((idle.len(), partly.len()), (shelf.idle.len(), shelf.partly.len()));
        assert!(idle.iter().chain(&partly).all(|i| i.phase == Phase::Live && i.role == role));
        assert!(idle.windows(2).all(|pair| pair[0].since_us <= pair[1].since_us));
        let thawed = idle.iter().find(|i| !i.frozen);
        assert_eq!(thawed.map(|i| i.id), shelf.thawed().map(|place| self.table.get(place).id));
        if self.config.freeze_after_ms > 0 {
            self.check_wake(Wake::Freeze, thawed.copied(), self.config.freeze_after_ms);
        }
    }

    fn check_provision(&self) {
        let of = |phase| {
            let kept = move |i: &&Instance| i.role == Role::Provisioned && i.phase == phase;
            self.table.iter().map(|(_, i)| i).filter(kept)
        };
        let counts = self.provision.counts;
        assert_eq!(of(Phase::Starting).count() as u32, counts.starting);
        assert_eq!(of(Phase::Live).count() as u32, counts.ready);
        assert_eq!(of(Phase::Live).filter(|i| i.busy > 0).count() as u32, counts.in_use);
        assert!(counts.ready + counts.starting <= counts.target);
        let missing = counts.target - counts.ready - counts.starting;
        let full = self.present() == self.config.instances_max;
        if missing > 0 && !full && counts.starting < provision::PROVISION_STARTING_MAX {
            assert!(self.wakes_us[Wake::Provision as usize].is_some(), "nothing will start the missing ones");
        }
    }
}

/// The world around a pool, as far as it must be known to send it sensible events and to check its actions.
#[derive(Default)]
struct World {
    newest: u64,
    starting: BTreeSet<InstanceId>,
    /// Slots taken of live instances.
    live: BTreeMap<InstanceId, u32>,
    stopping: BTreeSet<InstanceId>,
    frozen: BTreeSet<InstanceId>,
    waiting: BTreeSet<WaiterId>,
    ended: BTreeSet<WaiterId>,
    wakes_us: BTreeSet<u64>,
}

impl World {
    fn end(&mut self, waiter: WaiterId) {
        assert!(self.waiting.remove(&waiter), "{waiter} ended but did not wait");
        assert!(self.ended.insert(waiter), "{waiter} ended twice");
    }

    fn step(&mut self, pool: &mut Pool, now_us: u64, event: Event) {
        let mut actions = Vec::new();
        let mut newest = self.newest;
        let mut next = || {
            newest += 1;
            newest
        };
        pool.step(now_us, &mut next, event, &mut actions);
        self.newest = newest;
        let wakes = actions.iter().filter(|a| matches!(a, Action::WakeAt { .. })).count();
        assert!(wakes <= 5, "{actions:?}");
        actions.into_iter().for_each(|action| self.act(pool, action));
        pool.check_rules();
        assert_eq!(pool.counts().waiting, self.waiting.len());
    }

    fn act(&mut self, pool: &Pool, action: Action) {
        match action {
            Action::Start { instance, .. } => assert!(self.starting.insert(instance)),
            Action::Freeze { instance } => {
                assert_eq!(self.live.get(&instance), Some(&0), "freeze of an instance that is not idle");
                assert!(self.frozen.insert(instance), "frozen twice");
            }
            Action::Thaw { instance } => assert!(self.frozen.remove(&instance), "thawed twice"),
            Action::Dispatch { waiter, instance, .. } => {
                self.end(waiter);
                assert!(!self.frozen.contains(&instance), "dispatch to a frozen instance");
                let busy = self.live.get_mut(&instance).expect("dispatch to an instance that is not live");
                *busy += 1;
                assert!(*busy <= pool.config.slots_per_instance, "dispatch to a slot that is not free");
            }
            Action::Stop { instance, .. } => {
                let was_idle = self.live.remove(&instance).is_some_and(|busy| busy == 0);
                assert!(self.starting.remove(&instance) || was_idle, "stop of a busy or unknown instance");
                self.stopping.insert(instance);
            }
            Action::Refuse { waiter, .. } | Action::Fail { waiter, .. } => self.end(waiter),
            Action::WakeAt { at_us } => {
                self.wakes_us.insert(at_us);
            }
        }
    }

    /// Applies one random move; `pick` chooses whom it meets.
    fn apply(&mut self, pool: &mut Pool, now_us: u64, kind: u8, pick: usize) {
        let nth = |set: Vec<u64>| set.get(pick % set.len().max(1)).copied();
        let starting = nth(self.starting.iter().copied().collect());
        let live = nth(self.live.keys().copied().collect());
        let busy = nth(self.live.iter().filter(|(_, busy)| **busy > 0).map(|(id, _)| *id).collect());
        let stopping = nth(self.stopping.iter().copied().collect());
        let cause = [Gone::StartFailed, Gone::InitFailed, Gone::Crashed, Gone::Stopped][pick % 4];
        let event = match kind {
            0..=5 => {
                let waiter = 1_000 + (self.ended.len() + self.waiting.len()) as u64;
                self.waiting.insert(waiter);
                Some(Event::Arrive { waiter })
            }
            6..=8 => starting.map(|instance| {
                self.starting.remove(&instance);
                self.live.insert(instance, 0);
                Event::Ready { instance }
            }),
            9..=13 => busy.map(|instance| {
                *self.live.get_mut(&instance).unwrap() -= 1;
                Event::Done { instance }
            }),
            14 => starting.map(|instance| {
                self.starting.remove(&instance);
                Event::Gone { instance, cause }
            }),
            15 => starting.map(|instance| {
                self.starting.remove(&instance);
                Event::StartRefused { instance, reason: Refusal::Instances }
            }),
            16 => live.map(|instance| {
                self.live.remove(&instance);
                Event::Gone { instance, cause }
            }),
            17 => stopping.map(|instance| {
                self.stopping.remove(&instance);
                let crossed = pick.is_multiple_of(2);
                if crossed {
                    Event::StartRefused { instance, reason: Refusal::Memory }
                } else {
                    Event::Gone { instance, cause: Gone::Stopped }
                }
            }),
            18 => nth(self.waiting.iter().copied().collect()).map(|waiter| {
                self.end(waiter);
                Event::Cancel { waiter }
            }),
            // Late, doubled and unknown.
            19 => stopping.map(|instance| Event::Done { instance }),
            20 => stopping.map(|instance| Event::Ready { instance }),
            21 => live.map(|instance| Event::StartRefused { instance, reason: Refusal::Memory }),
            22 => Some(Event::Gone { instance: 900_000, cause }),
            24 => live.map(|instance| {
                self.live.remove(&instance);
                self.stopping.insert(instance);
                Event::Unfit { instance }
            }),
            23 => pick.is_multiple_of(30).then_some(Event::Drain),
            27 => Some(Event::Yield),
            25 => Some(Event::Provision { target: pick as u32 % 5 }),
            26 => Some(Event::WarmUp { count: pick as u32 % 5 }),
            _ => Some(Event::Tick),
        };
        if let Some(event) = event {
            self.step(pool, now_us, event);
        }
    }
}

proptest! {
    /// Whatever happens, the rules hold; and when the world behaves again and the pool drains, everything ends.
    #[test]
    fn random_worlds(
        slots_per_instance in 1u32..4,
        waiting_max in 0usize..12,
        instances_max in 0usize..6,
        freeze_after_ms in 0u64..70,
        adaptive: bool,
        moves in proptest::collection::vec((0u8..30, any::<usize>(), 0u64..40), 0..200),
    ) {
        let keep_alive = if adaptive { Policy::Adaptive } else { Policy::Fixed };
        let config = Config { slots_per_instance, waiting_max, idle_ms: 50, keep_alive, freeze_after_ms, instances_max };
        let mut pool = Pool::new(config);
        let mut world = World::default();
        let mut now_us = 0;
        for (kind, pick, pause_ms) in moves {
            now_us += pause_ms * 1_000;
            while world.wakes_us.first().is_some_and(|at| *at <= now_us) {
                world.wakes_us.pop_first();
                world.step(&mut pool, now_us, Event::Tick);
            }
            prop_assert!(world.wakes_us.len() <= 20, "{:?}", world.wakes_us);
            world.apply(&mut pool, now_us, kind, pick);
        }
        world.step(&mut pool, now_us, Event::Drain);
        for _ in 0..2_000 {
            for kind in [9, 6, 17] {
                world.apply(&mut pool, now_us, kind, 0);
            }
        }
        prop_assert!(pool.is_empty(), "{:?}", pool.counts());
        prop_assert!(world.waiting.is_empty());
    }
}
