//! How long an idle instance is kept, from the idle times that were seen before it.
//!
//! A histogram per version holds how long instances were idle before they were used again, and how long those that had
//! been stopped would have been. From it:
//!
//! - `Fixed`: the upper bound, whatever was seen.
//! - `Histogram`: so long that 99 of 100 would have been used again ("Serverless in the Wild", USENIX ATC 2020, the
//!   keep-alive window of the hybrid policy). It does not know what a start costs.
//! - `Adaptive`: so long that waits for starts and idle time together cost least, where the time of a start is worth
//!   [`IDLE_PER_START`] times as much idle time. A function that starts in 2 ms is let go after a minute or two; one that needs
//!   two seconds of Init is kept for as long as there is hope.
//!
//! With too few observations the upper bound applies; in `Adaptive`, the idle time that a start is worth.

/// What decides how long an idle instance is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// The same time for all.
    Fixed,
    /// The time in which nearly all instances were used again.
    Histogram,
    /// The time at which waits and idle memory cost least.
    #[default]
    Adaptive,
}

impl Policy {
    /// The policy of a name: `fixed`, `histogram` or `adaptive`.
    pub fn parse(name: &str) -> Option<Policy> {
        match name {
            "fixed" => Some(Policy::Fixed),
            "histogram" => Some(Policy::Histogram),
            "adaptive" => Some(Policy::Adaptive),
            _ => None,
        }
    }
}

/// Why an instance was kept for as long as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Basis {
    /// The configured time.
    Fixed,
    /// The configured time, because too little has been seen.
    FewSeen,
    /// Nearly all were used again within this time.
    Tail,
    /// Longer would cost more idle memory than it saves in starts.
    Price,
}

impl Basis {
    /// For people.
    pub fn text(self) -> &'static str {
        match self {
            Basis::Fixed => "idle for the configured time",
            Basis::FewSeen => "idle for the configured time; too few idle times are known",
            Basis::Tail => "idle for longer than nearly all idle times before",
            Basis::Price => "keeping it would cost more memory than a start costs time",
        }
    }
}

/// Idle time that one unit of start time is worth: a start of 2 ms is worth 80 s of an idle instance, one of a second eleven
/// hours. With this, both waits and idle memory are below those of a fixed minute on the traces (decision 0016).
pub const IDLE_PER_START: u64 = 40_000;

/// No policy lets an instance go sooner: starts and stops beat in time with nothing that short.
pub const KEEP_MIN_US: u64 = 1_000_000;

/// Observations before they decide anything.
pub const SEEN_MIN: u32 = 4;

/// Of this many observations all are halved, so that newer ones count more.
const SEEN_MAX: u32 = 512;

/// The share of idle times that [`Policy::Histogram`] covers, in percent.
const TAIL_PERCENT: u32 = 99;

/// Idle times shorter than this are one bin; each doubling above it is four.
const BASE_US: u64 = 1 << 14;
const BINS_PER_DOUBLING: usize = 4;
/// Up to 4.8 hours.
const BINS: usize = 1 + 20 * BINS_PER_DOUBLING;

/// Idle times of one version.
#[derive(Debug, Clone)]
pub struct History {
    bins: [u16; BINS],
    seen: u32,
}

impl Default for History {
    fn default() -> History {
        History { bins: [0; BINS], seen: 0 }
    }
}

impl History {
    /// An instance was, or would have been, idle for so long before it was used again.
    pub fn used_after(&mut self, idle_us: u64) {
        self.bins[bin_of(idle_us)] += 1;
        self.seen += 1;
        if self.seen >= SEEN_MAX {
            self.bins.iter_mut().for_each(|count| *count /= 2);
            self.seen = self.bins.iter().map(|count| u32::from(*count)).sum();
        }
    }

    /// How long an instance is kept, at most `max_us`, and why. `start_us` is what a start costs.
    pub fn keep_us(&self, policy: Policy, start_us: Option<u64>, max_us: u64) -> (u64, Basis) {
        match (policy, start_us) {
            (Policy::Fixed, _) => (max_us, Basis::Fixed),
            (Policy::Adaptive, None) => (max_us, Basis::FewSeen),
            // Whatever comes, this costs at most twice what the best choice would have cost.
            (Policy::Adaptive, Some(start_us)) if self.seen < SEEN_MIN => {
                let worth_us = start_us.saturating_mul(IDLE_PER_START);
                (worth_us.clamp(KEEP_MIN_US.min(max_us), max_us), Basis::FewSeen)
            }
            (Policy::Histogram, _) if self.seen < SEEN_MIN => (max_us, Basis::FewSeen),
            (Policy::Histogram, _) => (self.tail_us().clamp(KEEP_MIN_US.min(max_us), max_us), Basis::Tail),
            (Policy::Adaptive, Some(start_us)) => {
                (self.cheapest_us(start_us, max_us).max(KEEP_MIN_US.min(max_us)), Basis::Price)
            }
        }
    }

    fn tail_us(&self) -> u64 {
        let wanted = (self.seen * TAIL_PERCENT).div_ceil(100);
        let mut covered = 0;
        let tail = self.bins.iter().position(|count| {
            covered += u32::from(*count);
            covered >= wanted
        });
        end_of(tail.unwrap_or(BINS - 1))
    }

    /// The end of that bin, or of none, at which the price is lowest: idle time of all, and the starts of those that come
    /// later. All idle times of a bin count as the bin's end.
    fn cheapest_us(&self, start_us: u64, max_us: u64) -> u64 {
        let start_price = start_us.saturating_mul(IDLE_PER_START);
        let (mut later, mut idle_us) = (u64::from(self.seen), 0_u64);
        let (mut best_us, mut best_price) = (0, later.saturating_mul(start_price));
        for (bin, count) in self.bins.iter().enumerate() {
            let end_us = end_of(bin);
            if end_us > max_us {
                break;
            }
            let within = u64::from(*count);
            later -= within;
            idle_us = idle_us.saturating_add(within.saturating_mul(end_us));
            let waited_us = later.saturating_mul(end_us);
            let price = idle_us.saturating_add(waited_us).saturating_add(later.saturating_mul(start_price));
            if within > 0 && price < best_price {
                (best_us, best_price) = (end_us, price);
            }
        }
        best_us
    }
}

fn bin_of(idle_us: u64) -> usize {
    if idle_us < BASE_US {
        return 0;
    }
    let doubling = idle_us.ilog2() as usize;
    let quarter = (idle_us >> (doubling - 2)) as usize & (BINS_PER_DOUBLING - 1);
    let bin = 1 + (doubling - BASE_US.ilog2() as usize) * BINS_PER_DOUBLING + quarter;
    bin.min(BINS - 1)
}

/// The first idle time that is longer than all of the bin.
fn end_of(bin: usize) -> u64 {
    let (doublings, quarters) = (bin / BINS_PER_DOUBLING, bin % BINS_PER_DOUBLING);
    (BASE_US << doublings) / BINS_PER_DOUBLING as u64 * (BINS_PER_DOUBLING + quarters) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000;

    fn history(idle_s: &[(u64, u32)]) -> History {
        let mut history = History::default();
        for (idle_s, times) in idle_s {
            (0..*times).for_each(|_| history.used_after(idle_s * S));
        }
        history
    }

    #[test]
    fn bins_follow_each_other() {
        for idle_us in [0, 1, BASE_US - 1, BASE_US, 20_000, 65_535, 65_536, S, 60 * S, 3_600 * S, 16_000 * S] {
            let bin = bin_of(idle_us);
            assert!(idle_us < end_of(bin), "{idle_us} in {bin}");
            assert!(bin == 0 || end_of(bin - 1) <= idle_us, "{idle_us} in {bin}");
        }
        assert_eq!(bin_of(u64::MAX), BINS - 1);
    }

    #[test]
    fn table() {
        const MAX: u64 = 600 * S;
        let start_2_ms = Some(2_000);
        for (idle_s, policy, start_us, from_s, to_s, basis) in [
            (vec![(1, 100)], Policy::Fixed, start_2_ms, 600, 600, Basis::Fixed),
            (vec![(1, 3)], Policy::Adaptive, start_2_ms, 80, 80, Basis::FewSeen),
            (vec![(1, 3)], Policy::Adaptive, Some(S), 600, 600, Basis::FewSeen),
            (vec![(1, 3)], Policy::Histogram, start_2_ms, 600, 600, Basis::FewSeen),
            (vec![(1, 100)], Policy::Adaptive, None, 600, 600, Basis::FewSeen),
            // Nearly all come after a second; one in twenty after five minutes.
            (vec![(1, 95), (300, 5)], Policy::Histogram, start_2_ms, 300, 400, Basis::Tail),
            (vec![(1, 95), (300, 5)], Policy::Adaptive, start_2_ms, 1, 2, Basis::Price),
            // Two seconds of Init are worth the wait.
            (vec![(1, 95), (300, 5)], Policy::Adaptive, Some(2 * S), 300, 400, Basis::Price),
            // Every five minutes: 80 s of idleness are worth a start, 300 s are not.
            (vec![(300, 50)], Policy::Adaptive, start_2_ms, 0, 1, Basis::Price),
            (vec![(30, 50)], Policy::Adaptive, start_2_ms, 30, 40, Basis::Price),
            // Beyond the bound.
            (vec![(3_000, 50)], Policy::Histogram, start_2_ms, 600, 600, Basis::Tail),
            (vec![(3_000, 50)], Policy::Adaptive, Some(2 * S), 0, 1, Basis::Price),
        ] {
            let (keep_us, why) = history(&idle_s).keep_us(policy, start_us, MAX);
            assert_eq!(why, basis, "{idle_s:?} {policy:?}");
            assert!((from_s * S..=to_s * S).contains(&keep_us), "{idle_s:?} {policy:?} {start_us:?}: {keep_us}");
        }
    }

    #[test]
    fn what_is_newer_counts_more() {
        let mut history = history(&[(1, 5_000)]);
        assert!(history.seen < SEEN_MAX);
        (0..1_500).for_each(|_| history.used_after(30 * S));
        assert!(history.keep_us(Policy::Adaptive, Some(2_000), 600 * S).0 > 30 * S);
    }

    proptest::proptest! {
        /// Within its bounds, and no shorter for slower starts.
        #[test]
        fn bounds(
            idle_us in proptest::collection::vec(0u64..10_000 * S, 0..200),
            start_us in 0u64..10 * S,
            max_us in 0u64..5_000 * S,
        ) {
            let mut history = History::default();
            idle_us.iter().for_each(|us| history.used_after(*us));
            for policy in [Policy::Fixed, Policy::Histogram, Policy::Adaptive] {
                let (keep_us, _) = history.keep_us(policy, Some(start_us), max_us);
                let (slower_us, _) = history.keep_us(policy, Some(start_us * 2), max_us);
                proptest::prop_assert!(keep_us <= max_us && keep_us <= slower_us);
            }
        }
    }
}
