//! How many starts a queue is worth, from what was observed of services and starts.
//!
//! The rule: a start is ordered for whoever would otherwise wait longer than a start takes. Whatever is busy now frees a
//! slot once per service time, and whatever starts now serves for as long as it took to start; so
//!
//! - as long as nothing is known, or services take longer than starts, every waiter has a start (or a slot of one) of
//!   its own at once;
//! - a short function's slots, busy or starting, each clear as many waiters as services fit into a start;
//! - when no service ends for much longer than one should take, what is known no longer counts;
//! - waits that are short enough for this rule, but longer than services, add up to a further start in a queue that
//!   has not been empty for as long as a start takes.

/// Newer observations weigh an eighth.
const WEIGHT: u64 = 8;

/// Services that must fit into a silence before estimates stop to count, and the shortest such silence.
const SILENT_SERVICES: u64 = 4;
/// See [`SILENT_SERVICES`].
const SILENCE_MIN_US: u64 = 10_000;

/// Waits shorter than this never add up.
const REGRET_MIN_US: u64 = 1_000;
/// So many starts' worth of waiting is worth one start.
const REGRET_STARTS: u64 = 8;

/// Moving averages, in microseconds; `None` before the first observation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Estimates {
    /// From dispatch to the freed slot.
    pub service_us: Option<u64>,
    /// From the order to start until Init has finished.
    pub start_us: Option<u64>,
}

impl Estimates {
    pub(super) fn service(&mut self, us: u64) {
        self.service_us = Some(moved(self.service_us, us));
    }

    pub(super) fn start(&mut self, us: u64) {
        self.start_us = Some(moved(self.start_us, us));
    }

    /// Waiters that one slot clears in the time of a start; `None` unless services are known to be the shorter ones.
    fn turns(self) -> Option<u64> {
        let (service_us, start_us) = (self.service_us?.max(1), self.start_us?);
        (service_us <= start_us).then(|| start_us / service_us)
    }

    /// How long no service may end before [`Estimates`] no longer count; `None` if nothing is counted on anyway.
    pub(super) fn silence_max_us(self) -> Option<u64> {
        self.turns()?;
        Some((self.service_us? * SILENT_SERVICES).max(SILENCE_MIN_US))
    }

    /// What a wait adds to the regret that no further instance was started.
    pub(super) fn regret_us(self, waited_us: u64) -> u64 {
        let unworthy_us = self.service_us.map_or(u64::MAX, |us| us.saturating_mul(2).max(REGRET_MIN_US));
        if waited_us > unworthy_us { waited_us } else { 0 }
    }

    /// Whether so much regret is worth a start, in a queue that has not been empty for so long.
    pub(super) fn is_worth_a_start(self, regret_us: u64, queued_us: u64) -> bool {
        let worth_us = |start_us: u64| start_us.saturating_mul(REGRET_STARTS).max(REGRET_MIN_US);
        self.start_us.is_some_and(|start_us| queued_us >= start_us && regret_us >= worth_us(start_us))
    }
}

fn moved(average_us: Option<u64>, us: u64) -> u64 {
    match average_us {
        None => us,
        Some(average_us) => average_us - average_us / WEIGHT + us / WEIGHT,
    }
}

/// Who waits and who may serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queue {
    /// Invocations without a slot.
    pub waiting: u64,
    /// Slots taken on live instances.
    pub busy_slots: u64,
    /// Instances before the end of Init.
    pub starting: u64,
    /// Slots of one instance.
    pub slots: u64,
    /// No service has ended for too long.
    pub is_silent: bool,
}

/// How many starts are to be ordered beside those under way.
pub fn starts_wanted(queue: Queue, estimates: Estimates) -> u64 {
    let turns = estimates.turns().filter(|_| !queue.is_silent);
    let freed = turns.map_or(0, |turns| queue.busy_slots.saturating_mul(turns));
    let per_start = queue.slots.max(1).saturating_mul(turns.unwrap_or(1));
    let covered = freed.saturating_add(queue.starting.saturating_mul(per_start));
    queue.waiting.saturating_sub(covered).div_ceil(per_start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        let known = |service_us, start_us| Estimates { service_us: Some(service_us), start_us: Some(start_us) };
        let unknown = Estimates::default();
        // waiting, busy slots, starting, slots, silent, estimates, starts
        for (waiting, busy_slots, starting, slots, is_silent, estimates, want) in [
            (0, 0, 0, 1, false, unknown, 0),
            (1, 0, 0, 1, false, unknown, 1),
            (1_000, 0, 0, 1, false, unknown, 1_000),
            (1_000, 0, 400, 1, false, unknown, 600),
            (1_000, 0, 0, 10, false, unknown, 100),
            // Long: every waiter has a start of its own, whatever is busy.
            (1_000, 500, 0, 1, false, known(2_000_000, 2_000), 1_000),
            (1, 999, 0, 1, false, known(2_001, 2_000), 1),
            // Short: four that are busy clear a hundred in the time of a start.
            (100, 4, 0, 1, false, known(1_000, 25_000), 0),
            (101, 4, 0, 1, false, known(1_000, 25_000), 1),
            (100, 0, 0, 1, false, known(1_000, 25_000), 4),
            (100, 0, 3, 1, false, known(1_000, 25_000), 1),
            (100, 0, 0, 4, false, known(1_000, 25_000), 1),
            (100, 4, 0, 1, false, known(2_000, 2_000), 96),
            (100, 4, 0, 1, false, known(0, 50), 0),
            // Silence: what was known does not count.
            (100, 4, 0, 1, true, known(1_000, 25_000), 100),
            (100, 4, 90, 1, true, known(1_000, 25_000), 10),
        ] {
            let queue = Queue { waiting, busy_slots, starting, slots, is_silent };
            assert_eq!(starts_wanted(queue, estimates), want, "{queue:?} {estimates:?}");
        }
    }

    #[test]
    fn averages_follow() {
        let mut estimates = Estimates::default();
        estimates.service(800);
        assert_eq!(estimates.service_us, Some(800));
        (0..60).for_each(|_| estimates.service(8_000));
        assert!((7_000..=8_000).contains(&estimates.service_us.unwrap()), "{estimates:?}");
        assert_eq!(estimates.silence_max_us(), None);
        estimates.start(80_000);
        assert_eq!(estimates.silence_max_us(), estimates.service_us.map(|us| us * SILENT_SERVICES));
    }

    #[test]
    fn regret() {
        let estimates = Estimates { service_us: Some(3_000), start_us: Some(10_000) };
        assert_eq!([5_000, 6_000, 6_001].map(|us| estimates.regret_us(us)), [0, 0, 6_001]);
        assert_eq!([79_999, 80_000].map(|us| estimates.is_worth_a_start(us, 10_000)), [false, true]);
        assert!(!estimates.is_worth_a_start(u64::MAX, 9_999));
        assert_eq!(Estimates::default().regret_us(u64::MAX), 0);
        assert!(!Estimates::default().is_worth_a_start(u64::MAX, u64::MAX));
    }

    proptest::proptest! {
        /// A longer queue never wants fewer starts, and what was just ordered covers it.
        #[test]
        fn starts_cover(
            waiting in 0u64..2_000,
            busy_slots in 0u64..50,
            starting in 0u64..50,
            slots in 1u64..5,
            is_silent: bool,
            service_us in proptest::option::of(0u64..100_000),
            start_us in proptest::option::of(0u64..100_000),
        ) {
            let estimates = Estimates { service_us, start_us };
            let queue = Queue { waiting, busy_slots, starting, slots, is_silent };
            let wanted = starts_wanted(queue, estimates);
            proptest::prop_assert!(wanted <= waiting);
            let longer = Queue { waiting: waiting + 1, ..queue };
            proptest::prop_assert!(starts_wanted(longer, estimates) >= wanted);
            proptest::prop_assert_eq!(starts_wanted(Queue { starting: starting + wanted, ..queue }, estimates), 0);
        }
    }
}
