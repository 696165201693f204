//! The machine's room between the functions, as the worker shares it.

use super::{Happening, World};
use crate::machine;
use model::Generation;
use scheduler::eviction::{self, Shortage};
use scheduler::pool::{Event, InstanceId};
use scheduler::sharing::{self, Ask, Holder};
use std::collections::BTreeMap;

/// How long a start waits for room that others are to yield.
const ROOM_WAIT_MS: u64 = 5_000;
/// How often it looks whether something has become idle.
const LOOK_AGAIN_MS: u64 = 50;
/// How often it asks for another instance.
const YIELD_AGAIN_MS: u64 = 1_000;

impl World {
    /// All that hold room or wait for it.
    pub(super) fn holders(&self) -> Vec<Holder> {
        let mut holders: BTreeMap<Generation, Holder> = BTreeMap::new();
        let held = self.room.held().map(|(id, memory_mb)| (id, 1, u64::from(memory_mb)));
        let parked = self.room.parked().map(|(id, _)| (id, 0, 0));
        for (id, instances, memory_mb) in held.chain(parked) {
            let Some(generation) = self.instances.get(&id).map(|i| i.generation) else { continue };
            let holder = holders.entry(generation).or_insert(Holder { generation, instances: 0, memory_mb: 0 });
            holder.instances += instances;
            holder.memory_mb += memory_mb;
        }
        holders.into_values().collect()
    }

    /// The parked start that comes first.
    pub(super) fn first_parked(&self) -> Option<InstanceId> {
        let ask = |(number, memory_mb)| {
            let generation = self.instances.get(&number)?.generation;
            Some(Ask { generation, memory_mb, number })
        };
        let asks: Vec<Ask> = self.room.parked().filter_map(ask).collect();
        sharing::first(&asks, &self.holders()).map(|ask| ask.number)
    }

    /// Evicts what covers a shortage, if that can be.
    pub(super) fn evict_for(&mut self, ask: Ask, shortage: Shortage) -> bool {
        let Some(eviction) = eviction::choose(&self.candidates(ask), shortage) else { return false };
        for victim in eviction.victims {
            self.evict(victim, eviction.reason);
        }
        true
    }

    /// Asks the version that has the most beyond its share to yield, and waits for it.
    pub(super) fn ask_to_yield(&mut self, ask: Ask, shortage: Shortage) -> bool {
        let mut holders = self.holders();
        let generation = ask.generation;
        if !holders.iter().any(|holder| holder.generation == generation) {
            holders.push(Holder { generation, instances: 0, memory_mb: 0 });
        }
        let Some(yielder) = sharing::yielder(ask, shortage, self.room.machine(), &holders) else { return false };
        self.note(yielder, "is to yield for", None, Some(ask.number), String::new());
        self.tell(yielder, Event::Yield);
        if self.asking.is_empty() {
            self.enter(self.now_ms + LOOK_AGAIN_MS, Happening::LookAgain);
        }
        self.asking.entry(ask.number).or_insert(self.now_ms);
        true
    }

    pub(super) fn look_again(&mut self) {
        let parked: BTreeMap<InstanceId, u32> = self.room.parked().collect();
        self.asking.retain(|id, _| parked.contains_key(id));
        for (id, since_ms) in self.asking.clone() {
            let waited_ms = self.now_ms - since_ms;
            let shortage = self.room.shortage_of_parked();
            let is_short = shortage.memory_mb > 0 || shortage.instances > 0;
            let Some(generation) = self.instances.get(&id).map(|i| i.generation) else { continue };
            if waited_ms >= ROOM_WAIT_MS {
                self.refuse_parked(generation, id, shortage);
                continue;
            }
            let ask = Ask { generation, memory_mb: parked.get(&id).copied().unwrap_or(0), number: id };
            let owed = self.pools.values().any(|generated| generated.pool.counts().yielding > 0);
            if is_short && !self.evict_for(ask, shortage) && waited_ms.is_multiple_of(YIELD_AGAIN_MS) && !owed {
                self.ask_to_yield(ask, shortage);
            }
        }
        self.begin_starts();
        if !self.asking.is_empty() {
            self.enter(self.now_ms + LOOK_AGAIN_MS, Happening::LookAgain);
        }
    }

    fn refuse_parked(&mut self, generation: Generation, id: InstanceId, shortage: Shortage) {
        self.asking.remove(&id);
        self.room.free(id);
        self.instances.remove(&id);
        if let Some(deployed) = self.function_of_mut(generation) {
            deployed.tally.instances(-1);
        }
        let reason = machine::refusal(shortage);
        self.note(generation, "no room for", None, Some(id), format!("{reason:?}"));
        self.tell(generation, Event::StartRefused { instance: id, reason });
    }
}
