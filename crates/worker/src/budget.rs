//! Room for instances on this machine: a number of them, and memory promised to them. Only starts and ends come here.
//!
//! `scheduler::eviction` and `scheduler::sharing` decide who makes room for whom.

use crate::service::Shared;
use crate::versions::Versioned;
use model::{Generation, Limits, Spec};
use scheduler::eviction::{Candidate, Shortage, choose};
use scheduler::pool::{Event, Refusal};
use scheduler::sharing::{self, Ask, Holder, Machine};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How long a start waits for the room of instances that are being stopped for it, or that another version yields.
const ROOM_WAIT: Duration = Duration::from_secs(5);

/// How often a start that waits looks whether something has become idle meanwhile.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// How long until a start that still waits asks for another instance to be yielded.
const YIELD_AGAIN: Duration = Duration::from_secs(1);

/// The room that is left.
pub struct Budget {
    used: Arc<Mutex<Used>>,
    freed: Arc<Notify>,
    machine: Machine,
}

#[derive(Debug, Default)]
struct Used {
    instances: u64,
    memory_mb: u64,
    /// By version; none that holds nothing.
    holders: BTreeMap<Generation, Holder>,
    /// Starts that wait for room, at most one per instance that a version may have.
    asks: Vec<Ask>,
    asked: u64,
}

/// Room for one instance; given back when dropped.
#[derive(Debug)]
pub struct Room {
    used: Arc<Mutex<Used>>,
    freed: Arc<Notify>,
    generation: Generation,
    memory_mb: u64,
}

/// A place in the line for room; left when dropped.
struct Place<'a> {
    budget: &'a Budget,
    ask: Ask,
}

/// Whether a version may be asked to yield.
#[derive(Clone, Copy)]
enum Asks {
    First,
    Again,
    Not,
}

/// What is to be expected of a shortage.
enum Relief {
    /// Instances end already, so many of them idle ones that were stopped for it now.
    Coming(u32),
    /// Another version was asked to yield one.
    Asked,
    /// None.
    Never,
}

fn lock(used: &Mutex<Used>) -> MutexGuard<'_, Used> {
    used.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Budget {
    /// All room is free. `memory_mb_machine` is what the machine has.
    pub fn new(limits: &Limits, memory_mb_machine: u64) -> Budget {
        let memory_mb = match limits.instances_memory_mb {
            0 => memory_mb_machine / 5 * 4,
            set => set,
        };
        let machine = Machine { instances: limits.instances.into(), memory_mb };
        Budget { used: Arc::default(), freed: Arc::default(), machine }
    }

    /// Takes room for an instance of a version: what is free, else that of idle instances of any version, else what a
    /// version yields that has more than its share. Says how many idle instances were stopped for it.
    pub async fn take(&self, shared: &Arc<Shared>, spec: &Spec) -> Result<(Room, u32), Refusal> {
        let mut evicted = 0;
        let until = Instant::now() + ROOM_WAIT;
        let place = self.line_up(spec);
        let mut yield_again = None;
        loop {
            // Registered before looking, so that a return between look and wait is not missed.
            let freed = self.freed.notified();
            let shortage = match self.try_take(place.ask) {
                Ok(room) => return Ok((room, evicted)),
                Err(shortage) => shortage,
            };
            let refusal = if shortage.instances > 0 { Refusal::Instances } else { Refusal::Memory };
            if u64::from(spec.memory_mb) > self.machine.memory_mb {
                return Err(refusal);
            }
            let asks = match yield_again {
                None => Asks::First,
                Some(at) if Instant::now() >= at => Asks::Again,
                Some(_) => Asks::Not,
            };
            match self.relieve(shared, place.ask, shortage, asks) {
                Relief::Coming(stopped) => evicted += stopped,
                Relief::Asked => yield_again = Some(Instant::now() + YIELD_AGAIN),
                Relief::Never if yield_again.is_some() => {}
                Relief::Never => return Err(refusal),
            }
            let look_again = until.min(Instant::now() + LOOK_AGAIN);
            if tokio::time::timeout_at(look_again, freed).await.is_err() && Instant::now() >= until {
                return Err(refusal);
            }
        }
    }

    fn line_up(&self, spec: &Spec) -> Place<'_> {
        let mut used = lock(&self.used);
        used.asked += 1;
        let ask = Ask { generation: spec.generation, memory_mb: spec.memory_mb, number: used.asked };
        used.asks.push(ask);
        Place { budget: self, ask }
    }

    /// Room, if there is enough and nobody comes first; else what is short, nothing if only others come first.
    fn try_take(&self, ask: Ask) -> Result<Room, Shortage> {
        let Ask { generation, memory_mb, .. } = ask;
        let memory_mb = u64::from(memory_mb);
        let mut used = lock(&self.used);
        let shortage = Shortage {
            memory_mb: (used.memory_mb + memory_mb).saturating_sub(self.machine.memory_mb),
            instances: (used.instances + 1).saturating_sub(self.machine.instances) as usize,
        };
        let fits = shortage.memory_mb == 0 && shortage.instances == 0;
        let comes_first = used.asks.len() < 2 || sharing::first(&used.asks, &used.holders()) == Some(ask);
        if !fits || !comes_first {
            return Err(shortage);
        }
        used.instances += 1;
        used.memory_mb += memory_mb;
        let none = Holder { generation, instances: 0, memory_mb: 0 };
        let holder = used.holders.entry(generation).or_insert(none);
        holder.instances += 1;
        holder.memory_mb += memory_mb;
        Ok(Room { used: self.used.clone(), freed: self.freed.clone(), generation, memory_mb })
    }

    /// Sees to it that instances end, if any may.
    fn relieve(&self, shared: &Arc<Shared>, ask: Ask, shortage: Shortage, asks: Asks) -> Relief {
        let holders = lock(&self.used).holders();
        let versions = shared.versions.load();
        let left = still_short(shortage, &versions);
        if left.memory_mb == 0 && left.instances == 0 {
            return Relief::Coming(0);
        }
        if let Some(eviction) = choose(&self.candidates(shared, ask, &holders, &versions), left) {
            let mut evicted = 0;
            for victim in eviction.victims {
                if let Some(version) = versions.get(&victim.generation) {
                    evicted += u32::from(version.evict(shared, victim.instance));
                }
            }
            return Relief::Coming(evicted);
        }
        // A replaced version gives its room back as soon as its last invocations end.
        if versions.values().any(|v| v.is_winding_up()) {
            return Relief::Coming(0);
        }
        let yielder = sharing::yielder(ask, left, self.machine, &holders);
        match yielder.and_then(|generation| versions.get(&generation)) {
            Some(version) => match asks {
                Asks::Not => Relief::Coming(0),
                // What it owes already will do.
                Asks::Again if version.counts().yielding > 0 => Relief::Asked,
                Asks::First | Asks::Again => {
                    version.step(shared, Event::Yield);
                    Relief::Asked
                }
            },
            None => Relief::Never,
        }
    }

    /// The idle instances that may be evicted for the ask.
    fn candidates(
        &self,
        shared: &Shared,
        ask: Ask,
        holders: &[Holder],
        versions: &HashMap<Generation, Arc<Versioned>>,
    ) -> Vec<Candidate> {
        let now_us = shared.clock_us();
        let mut candidates = Vec::new();
        for version in versions.values() {
            let (generation, memory_mb) = (version.spec.generation, version.spec.memory_mb);
            let holder = holders.iter().find(|holder| holder.generation == generation);
            let over_share = holder.is_some_and(|holder| self.machine.is_over(holder, holders));
            for (instance, idle_since_us) in version.idle() {
                let idle_us = now_us.saturating_sub(idle_since_us);
                if !sharing::may_evict(ask, self.machine, holders, over_share, idle_us) {
                    continue;
                }
                candidates.push(Candidate { generation, instance, idle_since_us, memory_mb, over_share });
            }
        }
        candidates
    }
}

impl Used {
    /// All versions that hold room or ask for it.
    fn holders(&self) -> Vec<Holder> {
        let mut all = self.holders.clone();
        for Ask { generation, .. } in &self.asks {
            all.entry(*generation).or_insert(Holder { generation: *generation, instances: 0, memory_mb: 0 });
        }
        all.into_values().collect()
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        lock(&self.budget.used).asks.retain(|ask| *ask != self.ask);
        // Whoever came behind may be first now.
        self.budget.freed.notify_waiters();
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        {
            let mut used = lock(&self.used);
            used.instances -= 1;
            used.memory_mb -= self.memory_mb;
            if let Some(holder) = used.holders.get_mut(&self.generation) {
                holder.instances -= 1;
                holder.memory_mb -= self.memory_mb;
                if holder.instances == 0 {
                    used.holders.remove(&self.generation);
                }
            }
        }
        self.freed.notify_waiters();
    }
}

/// What is short even when all that is stopping has stopped.
fn still_short(shortage: Shortage, versions: &HashMap<Generation, Arc<Versioned>>) -> Shortage {
    let mut left = shortage;
    for version in versions.values() {
        let stopping = version.counts().stopping;
        left.instances = left.instances.saturating_sub(stopping);
        left.memory_mb = left.memory_mb.saturating_sub(stopping as u64 * u64::from(version.spec.memory_mb));
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(budget: &Budget, generation: u64, memory_mb: u32) -> Result<Room, Shortage> {
        let ask = Ask { generation: Generation(generation), memory_mb, number: 0 };
        budget.try_take(ask)
    }

    #[test]
    fn room_is_counted_and_given_back() {
        let limits = Limits { instances: 2, instances_memory_mb: 300, ..Limits::default() };
        let budget = Budget::new(&limits, 0);
        let first = take(&budget, 1, 128).unwrap();
        let _second = take(&budget, 1, 128).unwrap();
        assert_eq!(lock(&budget.used).holders()[0].memory_mb, 256);
        let shortage = take(&budget, 2, 128).unwrap_err();
        assert_eq!((shortage.instances, shortage.memory_mb), (1, 84));
        drop(first);
        let third = take(&budget, 2, 172).unwrap();
        assert_eq!(lock(&budget.used).holders().len(), 2);
        drop(third);
        assert_eq!(lock(&budget.used).holders().len(), 1);
    }

    #[test]
    fn who_holds_less_comes_first() {
        let limits = Limits { instances: 9, instances_memory_mb: 1_000, ..Limits::default() };
        let budget = Budget::new(&limits, 0);
        let _held = take(&budget, 1, 128).unwrap();
        let ask = |generation, number| Ask { generation: Generation(generation), memory_mb: 128, number };
        lock(&budget.used).asks = vec![ask(1, 1), ask(2, 2)];
        assert!(budget.try_take(ask(1, 1)).is_err());
        assert!(budget.try_take(ask(2, 2)).is_ok());
    }

    #[test]
    fn four_fifths_of_the_machine_unless_set() {
        assert_eq!(Budget::new(&Limits::default(), 1_000).machine.memory_mb, 800);
    }
}
