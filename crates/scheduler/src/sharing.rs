//! Fair shares of the machine's room: one version's flood must not keep another from running.
//!
//! As long as there is room, or idle instances to evict, nobody is limited. When everything is busy, the room is divided
//! evenly between the versions that use it or ask for it. A version below its share may ask another, the one that is the
//! furthest above its own, to yield: to end an instance instead of running its next waiter there. Nobody is interrupted.
//! Of several that ask, the one that holds the least is served first. What others have used a moment ago is not evicted
//! for a version beyond its share: they would have to win it back for their next invocation.

use crate::eviction::Shortage;
use model::Generation;

/// What one version holds, and whether it asks for more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    /// The version.
    pub generation: Generation,
    /// Its instances, starting ones included.
    pub instances: u64,
    /// Memory promised to them.
    pub memory_mb: u64,
}

/// A start that wants room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// Whose.
    pub generation: Generation,
    /// Memory that it needs.
    pub memory_mb: u32,
    /// Asks count upwards.
    pub number: u64,
}

/// All that there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    /// Most instances.
    pub instances: u64,
    /// Memory for instances.
    pub memory_mb: u64,
}

impl Machine {
    /// What each version may hold when the machine is full; one instance at least.
    fn share(self, versions: usize) -> Machine {
        let versions = versions.max(1) as u64;
        Machine { instances: (self.instances / versions).max(1), memory_mb: self.memory_mb / versions }
    }

    /// Whether a version holds more than its share. `holders` are all that hold or ask.
    pub fn is_over(self, holder: &Holder, holders: &[Holder]) -> bool {
        let share = self.share(holders.len());
        holder.instances > 1 && (holder.instances > share.instances || holder.memory_mb > share.memory_mb)
    }
}

/// How long the idle instances of versions within their share are safe from those that would be above theirs.
pub const SAFE_US: u64 = 1_000_000;

/// Whether an idle instance may be evicted for the ask. `over_share` tells of the instance's own version.
pub fn may_evict(ask: Ask, machine: Machine, holders: &[Holder], over_share: bool, idle_us: u64) -> bool {
    over_share || idle_us >= SAFE_US || has_less_than_its_share(ask, machine, holders)
}

/// Whether the asking version stays within its share with what it asks for, or has nothing at all.
fn has_less_than_its_share(ask: Ask, machine: Machine, holders: &[Holder]) -> bool {
    let share = machine.share(holders.len());
    match holders.iter().find(|holder| holder.generation == ask.generation) {
        Some(Holder { instances: 0, .. }) | None => true,
        Some(holder) => {
            holder.instances < share.instances && holder.memory_mb + u64::from(ask.memory_mb) <= share.memory_mb
        }
    }
}

/// Which of the asks comes first: of the version that holds the least, the oldest.
pub fn first(asks: &[Ask], holders: &[Holder]) -> Option<Ask> {
    let held_mb = |ask: &Ask| holders.iter().find(|h| h.generation == ask.generation).map_or(0, |h| h.memory_mb);
    asks.iter().copied().min_by_key(|ask| (held_mb(ask), ask.number))
}

/// Which version is to yield an instance for the ask, when nothing is idle; `None` if the asking one has its share. The
/// asking one is among the holders, with what it holds now.
pub fn yielder(ask: Ask, shortage: Shortage, machine: Machine, holders: &[Holder]) -> Option<Generation> {
    if !has_less_than_its_share(ask, machine, holders) {
        return None;
    }
    let over = holders.iter().filter(|h| h.generation != ask.generation && machine.is_over(h, holders));
    let largest = over.max_by_key(|holder| match shortage.memory_mb {
        0 => (holder.instances, holder.memory_mb, holder.generation),
        _ => (holder.memory_mb, holder.instances, holder.generation),
    });
    largest.map(|holder| holder.generation)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(generation: u64, instances: u64, memory_mb: u64) -> Holder {
        Holder { generation: Generation(generation), instances, memory_mb }
    }

    #[test]
    fn who_yields() {
        const MACHINE: Machine = Machine { instances: 100, memory_mb: 1_000 };
        let memory = Shortage { memory_mb: 100, instances: 0 };
        let instances = Shortage { memory_mb: 0, instances: 1 };
        for (holders, shortage, want) in [
            // Nobody else is there.
            (vec![holder(1, 10, 1_000)], memory, None),
            // 2 has everything, 1 nothing.
            (vec![holder(1, 0, 0), holder(2, 10, 1_000)], memory, Some(2)),
            // Even.
            (vec![holder(1, 5, 500), holder(2, 5, 500)], memory, None),
            (vec![holder(1, 4, 400), holder(2, 6, 600)], memory, Some(2)),
            // The ask would pass the share.
            (vec![holder(1, 3, 450), holder(2, 5, 550)], memory, None),
            // The largest of three.
            (vec![holder(1, 1, 100), holder(2, 4, 350), holder(3, 6, 550)], memory, Some(3)),
            // One instance of many versions, each larger than its share: who has none may ask, but nobody has two.
            (vec![holder(1, 0, 0), holder(2, 1, 500), holder(3, 1, 500)], memory, None),
            (vec![holder(1, 0, 0), holder(2, 80, 80), holder(3, 20, 200)], instances, Some(2)),
            (vec![holder(1, 0, 0), holder(2, 30, 300), holder(3, 70, 700)], instances, Some(3)),
        ] {
            let ask = Ask { generation: Generation(1), memory_mb: 100, number: 1 };
            assert_eq!(yielder(ask, shortage, MACHINE, &holders).map(|g| g.0), want, "{holders:?} {shortage:?}");
        }
    }

    #[test]
    fn who_may_evict() {
        const MACHINE: Machine = Machine { instances: 100, memory_mb: 1_000 };
        let ask = |generation| Ask { generation: Generation(generation), memory_mb: 100, number: 1 };
        let holders = [holder(1, 8, 800), holder(2, 2, 200)];
        for (asking, over_share, idle_us, want) in [
            (1, false, 0, false),
            (1, false, SAFE_US, true),
            (1, true, 0, true),
            (2, false, 0, true),
            (3, false, 0, true),
        ] {
            let got = may_evict(ask(asking), MACHINE, &holders, over_share, idle_us);
            assert_eq!(got, want, "{asking} {over_share} {idle_us}");
        }
    }

    #[test]
    fn who_is_first() {
        let ask = |generation, number| Ask { generation: Generation(generation), memory_mb: 1, number };
        let holders = [holder(1, 9, 900), holder(2, 1, 100)];
        assert_eq!(first(&[], &holders), None);
        assert_eq!(first(&[ask(1, 1), ask(2, 3), ask(2, 2)], &holders), Some(ask(2, 2)));
        assert_eq!(first(&[ask(1, 1), ask(2, 3), ask(3, 4)], &holders), Some(ask(3, 4)));
    }

    proptest::proptest! {
        /// Yielding never takes anybody below its share, nor the asking one above, so it comes to an end.
        #[test]
        fn yielding_ends(
            held in proptest::collection::vec((0u64..20, 1u64..200), 1..8),
            memory_mb in 1u32..200,
        ) {
            let machine = Machine { instances: 40, memory_mb: 2_000 };
            let mut holders: Vec<Holder> =
                held.iter().zip(1..).map(|((n, mb), at)| holder(at, *n, n * mb)).collect();
            let each: Vec<u64> = held.iter().map(|(_, mb)| *mb).collect();
            let ask = Ask { generation: Generation(1), memory_mb, number: 1 };
            let shortage = Shortage { memory_mb: 1, instances: 0 };
            for _ in 0..200 {
                let Some(who) = yielder(ask, shortage, machine, &holders) else { return Ok(()) };
                let at = who.0 as usize - 1;
                proptest::prop_assert!(at != 0 && machine.is_over(&holders[at], &holders));
                holders[at].instances -= 1;
                holders[at].memory_mb -= each[at];
                proptest::prop_assert!(holders[at].instances > 0);
            }
            proptest::prop_assert!(false, "no end");
        }
    }
}
