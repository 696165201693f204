//! Whom to stop when a start finds too little room on the machine.
//!
//! Versions that hold more than their share lose theirs first, then the least recently used go, across all versions. An instance that the larger ones after it make
//! needless is spared. If all idle instances together would not make enough room, none is stopped.

use crate::pool::InstanceId;
use model::Generation;

/// An idle instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Names the pool.
    pub generation: Generation,
    /// The instance.
    pub instance: InstanceId,
    /// Since when it is idle, microseconds on any one clock.
    pub idle_since_us: u64,
    /// Memory promised to it.
    pub memory_mb: u32,
    /// Its version holds more than its share of the machine.
    pub over_share: bool,
}

/// How much is missing for the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shortage {
    /// Memory to be freed; 0 if there is enough.
    pub memory_mb: u64,
    /// Instances to be ended; 0 if there may be one more.
    pub instances: usize,
}

/// Why victims are needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The memory for instances is promised away.
    Memory,
    /// There are as many instances as may be.
    Instances,
    /// Both.
    MemoryAndInstances,
}

/// What is to be stopped, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Eviction {
    /// In the order of choice. Freed together, they cover the shortage.
    pub victims: Vec<Candidate>,
    /// What was short.
    pub reason: Reason,
}

/// Picks the victims. `None` if nothing is short, or if the candidates cannot cover it.
pub fn choose(candidates: &[Candidate], shortage: Shortage) -> Option<Eviction> {
    let reason = match (shortage.memory_mb > 0, shortage.instances > 0) {
        (true, true) => Reason::MemoryAndInstances,
        (true, false) => Reason::Memory,
        (false, true) => Reason::Instances,
        (false, false) => return None,
    };
    let mut by_age = candidates.to_vec();
    by_age.sort_by_key(|c| (!c.over_share, c.idle_since_us, c.generation, c.instance));
    let (mut freed_mb, mut ended) = (0, 0);
    let enough = by_age.iter().position(|candidate| {
        freed_mb += u64::from(candidate.memory_mb);
        ended += 1;
        freed_mb >= shortage.memory_mb && ended >= shortage.instances
    })?;
    by_age.truncate(enough + 1);
    let mut spared = Vec::new();
    // The newest first: of those that are not needed, the one most likely to be used again stays.
    for (at, candidate) in by_age.iter().enumerate().rev() {
        let rest_mb = freed_mb - u64::from(candidate.memory_mb);
        if rest_mb >= shortage.memory_mb && ended > shortage.instances {
            freed_mb = rest_mb;
            ended -= 1;
            spared.push(at);
        }
    }
    spared.iter().for_each(|at| {
        by_age.remove(*at);
    });
    Some(Eviction { victims: by_age, reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(instance: InstanceId, idle_since_us: u64, memory_mb: u32) -> Candidate {
        Candidate { generation: Generation(instance % 2), instance, idle_since_us, memory_mb, over_share: false }
    }

    fn victims(candidates: &[Candidate], memory_mb: u64, instances: usize) -> Option<(Vec<InstanceId>, Reason)> {
        choose(candidates, Shortage { memory_mb, instances })
            .map(|e| (e.victims.iter().map(|v| v.instance).collect(), e.reason))
    }

    #[test]
    fn table() {
        let idle = [candidate(1, 30, 128), candidate(2, 10, 128), candidate(3, 20, 1_024), candidate(4, 40, 512)];
        for (memory_mb, instances, want) in [
            (0, 0, None),
            (1, 0, Some((vec![2], Reason::Memory))),
            (128, 0, Some((vec![2], Reason::Memory))),
            (0, 1, Some((vec![2], Reason::Instances))),
            (128, 1, Some((vec![2], Reason::MemoryAndInstances))),
            (0, 2, Some((vec![2, 3], Reason::Instances))),
            // 2 alone is too small; with 3 it is needless.
            (1_000, 0, Some((vec![3], Reason::Memory))),
            (1_000, 2, Some((vec![2, 3], Reason::MemoryAndInstances))),
            (1_152, 0, Some((vec![2, 3], Reason::Memory))),
            (1_792, 0, Some((vec![2, 3, 1, 4], Reason::Memory))),
            (1_793, 0, None),
            (0, 5, None),
        ] {
            assert_eq!(victims(&idle, memory_mb, instances), want, "{memory_mb} MB, {instances} instances");
        }
        assert_eq!(victims(&[], 1, 1), None);
    }

    #[test]
    fn equal_age_is_decided_by_id() {
        assert_eq!(
            victims(&[candidate(5, 1, 128), candidate(3, 1, 128), candidate(4, 1, 128)], 0, 2),
            Some((vec![4, 3], Reason::Instances))
        );
    }

    proptest::proptest! {
        /// Victims cover the shortage, none of them is needless, and none is found only if all would not do.
        #[test]
        fn enough_and_no_more(
            idle in proptest::collection::vec((0u64..50, 1u32..2_000), 0..12),
            memory_mb in 0u64..8_000,
            instances in 0usize..8,
        ) {
            let idle: Vec<_> = idle.iter().zip(1..).map(|((since, mb), id)| candidate(id, *since, *mb)).collect();
            let covers = |victims: &[Candidate]| {
                let freed_mb: u64 = victims.iter().map(|v| u64::from(v.memory_mb)).sum();
                freed_mb >= memory_mb && victims.len() >= instances
            };
            match choose(&idle, Shortage { memory_mb, instances }) {
                None => proptest::prop_assert!(!covers(&idle) || (memory_mb, instances) == (0, 0)),
                Some(eviction) => {
                    proptest::prop_assert!(covers(&eviction.victims));
                    for without in 0..eviction.victims.len() {
                        let mut fewer = eviction.victims.clone();
                        fewer.remove(without);
                        proptest::prop_assert!(!covers(&fewer));
                    }
                }
            }
        }
    }
}
