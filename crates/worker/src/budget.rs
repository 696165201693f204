//! Room for instances on this machine: a number of them, and memory promised to them. Only starts and ends come here.

use crate::service::Shared;
use crate::versions::Versioned;
use model::{Generation, Limits};
use scheduler::eviction::{Candidate, Shortage, choose};
use scheduler::pool::Refusal;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// How long a start waits for the room of instances that are being stopped for it.
const ROOM_WAIT: Duration = Duration::from_secs(5);

/// The room that is left.
pub struct Budget {
    used: Arc<Mutex<Used>>,
    freed: Arc<Notify>,
    instances_max: u64,
    memory_mb_max: u64,
}

#[derive(Debug, Default, Clone, Copy)]
struct Used {
    instances: u64,
    memory_mb: u64,
}

/// Room for one instance; given back when dropped.
#[derive(Debug)]
pub struct Room {
    used: Arc<Mutex<Used>>,
    freed: Arc<Notify>,
    memory_mb: u64,
}

fn lock(used: &Mutex<Used>) -> MutexGuard<'_, Used> {
    used.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Budget {
    /// All room is free. `memory_mb_machine` is what the machine has.
    pub fn new(limits: &Limits, memory_mb_machine: u64) -> Budget {
        let memory_mb_max = match limits.instances_memory_mb {
            0 => memory_mb_machine / 5 * 4,
            set => set,
        };
        Budget { used: Arc::default(), freed: Arc::default(), instances_max: limits.instances.into(), memory_mb_max }
    }

    /// Takes room, if need be by stopping the idlest instances of any version, and says how many that were.
    pub async fn take(&self, shared: &Arc<Shared>, memory_mb: u32) -> Result<(Room, u32), Refusal> {
        let mut evicted = 0;
        let until = tokio::time::Instant::now() + ROOM_WAIT;
        loop {
            // Registered before looking, so that a return between look and wait is not missed.
            let freed = self.freed.notified();
            let shortage = match self.try_take(memory_mb) {
                Ok(room) => return Ok((room, evicted)),
                Err(shortage) => shortage,
            };
            let refusal = if shortage.instances > 0 { Refusal::Instances } else { Refusal::Memory };
            if u64::from(memory_mb) > self.memory_mb_max {
                return Err(refusal);
            }
            evicted += evict(shared, shortage).ok_or(refusal)?;
            if tokio::time::timeout_at(until, freed).await.is_err() {
                return Err(refusal);
            }
        }
    }

    fn try_take(&self, memory_mb: u32) -> Result<Room, Shortage> {
        let memory_mb = u64::from(memory_mb);
        let mut used = lock(&self.used);
        let after = Used { instances: used.instances + 1, memory_mb: used.memory_mb + memory_mb };
        let shortage = Shortage {
            memory_mb: after.memory_mb.saturating_sub(self.memory_mb_max),
            instances: after.instances.saturating_sub(self.instances_max) as usize,
        };
        if shortage.memory_mb > 0 || shortage.instances > 0 {
            return Err(shortage);
        }
        *used = after;
        Ok(Room { used: self.used.clone(), freed: self.freed.clone(), memory_mb })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        {
            let mut used = lock(&self.used);
            used.instances -= 1;
            used.memory_mb -= self.memory_mb;
        }
        self.freed.notify_waiters();
    }
}

/// Stops the idlest instances, as far as those that are stopping already will not do, and says how many; `None` if no
/// room is on its way.
fn evict(shared: &Arc<Shared>, shortage: Shortage) -> Option<u32> {
    let versions = shared.versions.load();
    let left = still_short(shortage, &versions);
    if left.memory_mb == 0 && left.instances == 0 {
        return Some(0);
    }
    let mut candidates = Vec::new();
    for version in versions.values() {
        for (instance, idle_since_us) in version.idle() {
            let (generation, memory_mb) = (version.spec.generation, version.spec.memory_mb);
            candidates.push(Candidate { generation, instance, idle_since_us, memory_mb });
        }
    }
    let Some(eviction) = choose(&candidates, left) else {
        // A replaced version gives its room back as soon as its last invocations end.
        return versions.values().any(|v| v.is_winding_up()).then_some(0);
    };
    let mut evicted = 0;
    for victim in eviction.victims {
        if let Some(version) = versions.get(&victim.generation) {
            evicted += u32::from(version.evict(shared, victim.instance));
        }
    }
    Some(evicted)
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

    #[test]
    fn room_is_counted_and_given_back() {
        let limits = Limits { instances: 2, instances_memory_mb: 300, ..Limits::default() };
        let budget = Budget::new(&limits, 0);
        let first = budget.try_take(128).unwrap();
        let _second = budget.try_take(128).unwrap();
        let shortage = budget.try_take(128).unwrap_err();
        assert_eq!((shortage.instances, shortage.memory_mb), (1, 84));
        drop(first);
        assert!(budget.try_take(172).is_ok());
    }

    #[test]
    fn four_fifths_of_the_machine_unless_set() {
        assert_eq!(Budget::new(&Limits::default(), 1_000).memory_mb_max, 800);
    }
}
