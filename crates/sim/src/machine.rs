//! The machine's room for instances: who holds it, who waits for it.
//!
//! Room is held from the begin of a start until the instance is gone. A start that evicts others waits until they are
//! gone, so the memory in use never passes the machine's.

use scheduler::eviction::Shortage;
use scheduler::pool::{InstanceId, Refusal};
use scheduler::sharing::Machine;
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
    /// Starts that wait until others are gone, in the order of arrival.
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
        self.short_of(u64::from(memory_mb), 1)
    }

    /// What those that are parked lack, once all that leave are gone.
    pub fn shortage_of_parked(&self) -> Shortage {
        self.short_of(0, 0)
    }

    fn short_of(&self, memory_mb: u64, instances: usize) -> Shortage {
        let sum = |part: &BTreeMap<InstanceId, u32>| part.values().map(|mb| u64::from(*mb)).sum::<u64>();
        let parked_mb: u64 = self.parked.iter().map(|(_, mb)| u64::from(*mb)).sum();
        let promised_mb = sum(&self.held) - sum(&self.leaving) + parked_mb + memory_mb;
        let promised = self.held.len() - self.leaving.len() + self.parked.len() + instances;
        Shortage {
            memory_mb: promised_mb.saturating_sub(self.memory_mb_max),
            instances: promised.saturating_sub(self.instances_max),
        }
    }

    /// Lines a start up; [`Room::admit`] lets it begin.
    pub fn park(&mut self, instance: InstanceId, memory_mb: u32) {
        self.parked.push_back((instance, memory_mb));
    }

    /// Starts that wait, in the order of arrival.
    pub fn parked(&self) -> impl Iterator<Item = (InstanceId, u32)> {
        self.parked.iter().copied()
    }

    /// Those that hold room.
    pub fn held(&self) -> impl Iterator<Item = (InstanceId, u32)> {
        self.held.iter().map(|(instance, memory_mb)| (*instance, *memory_mb))
    }

    /// All that there is.
    pub fn machine(&self) -> Machine {
        Machine { instances: self.instances_max as u64, memory_mb: self.memory_mb_max }
    }

    /// Lets a parked start begin if it fits now; it then holds its room.
    pub fn admit(&mut self, instance: InstanceId) -> Option<InstanceId> {
        let at = self.parked.iter().position(|(parked, _)| *parked == instance)?;
        let (_, memory_mb) = *self.parked.get(at)?;
        let memory_mb_then = self.memory_mb() + u64::from(memory_mb);
        if memory_mb_then > self.memory_mb_max || self.held.len() >= self.instances_max {
            return None;
        }
        self.parked.remove(at);
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
