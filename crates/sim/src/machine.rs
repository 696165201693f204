//! The machine's room for instances: who holds it, who waits for it.
//!
//! Room is held from the begin of a start until the instance is gone. A start that evicts others waits until they are
//! gone, so the memory in use never passes the machine's.

use scheduler::eviction::Shortage;
use scheduler::pool::{InstanceId, Refusal};
use std::collections::{BTreeMap, VecDeque};

/// Who holds room and who waits for it.
#[derive(Debug)]
pub struct Room {
    memory_mb_max: u64,
    instances_max: usize,
    /// Memory of those that have begun.
    held: BTreeMap<InstanceId, u32>,
    /// Those of them that are ordered to stop.
    leaving: BTreeMap<InstanceId, u32>,
    /// Starts that wait until others are gone, first come first served.
    parked: VecDeque<(InstanceId, u32)>,
    memory_mb_peak: u64,
    instances_peak: usize,
}

impl Room {
    /// An empty machine.
    pub fn new(memory_mb_max: u64, instances_max: usize) -> Room {
        Room {
            memory_mb_max,
            instances_max,
            held: BTreeMap::new(),
            leaving: BTreeMap::new(),
            parked: VecDeque::new(),
            memory_mb_peak: 0,
            instances_peak: 0,
        }
    }

    /// What one more start lacks, once all that leave are gone and all that are parked have begun.
    pub fn shortage(&self, memory_mb: u32) -> Shortage {
        let sum = |part: &BTreeMap<InstanceId, u32>| part.values().map(|mb| u64::from(*mb)).sum::<u64>();
        let parked_mb: u64 = self.parked.iter().map(|(_, mb)| u64::from(*mb)).sum();
        let promised_mb = sum(&self.held) - sum(&self.leaving) + parked_mb + u64::from(memory_mb);
        let promised = self.held.len() - self.leaving.len() + self.parked.len() + 1;
        Shortage {
            memory_mb: promised_mb.saturating_sub(self.memory_mb_max),
            instances: promised.saturating_sub(self.instances_max),
        }
    }

    /// Lines a start up; [`Room::admit`] lets it begin.
    pub fn park(&mut self, instance: InstanceId, memory_mb: u32) {
        self.parked.push_back((instance, memory_mb));
    }

    /// The next parked start that fits now, which then holds its room.
    pub fn admit(&mut self) -> Option<InstanceId> {
        let (instance, memory_mb) = *self.parked.front()?;
        let memory_mb_then = self.memory_mb() + u64::from(memory_mb);
        if memory_mb_then > self.memory_mb_max || self.held.len() >= self.instances_max {
            return None;
        }
        self.parked.pop_front();
        self.held.insert(instance, memory_mb);
        self.memory_mb_peak = self.memory_mb_peak.max(memory_mb_then);
        self.instances_peak = self.instances_peak.max(self.held.len());
        Some(instance)
    }

    /// The instance is ordered to stop; `false` if it had not even begun and is gone at once.
    pub fn leave(&mut self, instance: InstanceId) -> bool {
        self.parked.retain(|(parked, _)| *parked != instance);
        match self.held.get(&instance) {
            Some(memory_mb) => {
                self.leaving.insert(instance, *memory_mb);
                true
            }
            None => false,
        }
    }

    /// The instance is gone.
    pub fn free(&mut self, instance: InstanceId) {
        self.parked.retain(|(parked, _)| *parked != instance);
        self.held.remove(&instance);
        self.leaving.remove(&instance);
    }

    /// Memory in use.
    pub fn memory_mb(&self) -> u64 {
        self.held.values().map(|mb| u64::from(*mb)).sum()
    }

    /// The rules of the room hold.
    pub fn is_kept(&self) -> bool {
        self.memory_mb() <= self.memory_mb_max && self.held.len() <= self.instances_max
    }

    /// Nobody holds room and nobody waits for it.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty() && self.parked.is_empty()
    }

    /// One line for `show` and the summary.
    pub fn print(&self) -> String {
        format!(
            "  machine: memory {} of {} MB (peak {}), instances {} of {} (peak {}), starts waiting for room {}",
            self.memory_mb(),
            self.memory_mb_max,
            self.memory_mb_peak,
            self.held.len(),
            self.instances_max,
            self.instances_peak,
            self.parked.len()
        )
    }
}

/// What a start is refused for, if eviction cannot cover the shortage.
pub fn refusal(shortage: Shortage) -> Refusal {
    if shortage.memory_mb > 0 { Refusal::Memory } else { Refusal::Instances }
}
