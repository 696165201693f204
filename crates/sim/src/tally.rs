//! What became of a function's invocations, in numbers.

use scheduler::pool::RefuseReason;
use std::collections::BTreeMap;

/// How an invocation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// The function answered.
    Answered,
    /// The function ran too long.
    TimedOut,
    /// The instance ended in the middle.
    Crashed,
    /// The instance that was to serve it could not be started or initialised.
    NotStarted,
    /// Too many ran already.
    Throttled,
    /// Too many waited already.
    QueueFull,
    /// No instance could be had.
    NoCapacity,
    /// The pool drained.
    Draining,
    /// The client went away.
    Cancelled,
}

impl From<RefuseReason> for End {
    fn from(reason: RefuseReason) -> End {
        match reason {
            RefuseReason::QueueFull => End::QueueFull,
            RefuseReason::NoCapacity => End::NoCapacity,
            RefuseReason::Draining => End::Draining,
        }
    }
}

/// Counts of one function.
#[derive(Debug, Default)]
pub struct Tally {
    invoked: u64,
    ends: BTreeMap<End, u64>,
    first_uses: u64,
    /// Of those dispatched, from arrival to dispatch.
    waits_ms: Vec<u64>,
    instances: i64,
    /// Most instances at a time, starting ones and those that still end included.
    instances_peak: i64,
}

impl Tally {
    /// An invocation arrived.
    pub fn invoked(&mut self) {
        self.invoked += 1;
    }

    /// An invocation got a slot.
    pub fn dispatched(&mut self, wait_ms: u64, first_use: bool) {
        self.waits_ms.push(wait_ms);
        self.first_uses += u64::from(first_use);
    }

    /// An invocation ended.
    pub fn ended(&mut self, end: End) {
        *self.ends.entry(end).or_default() += 1;
    }

    /// There are so many more instances now, or fewer.
    pub fn instances(&mut self, more: i64) {
        self.instances += more;
        self.instances_peak = self.instances_peak.max(self.instances);
    }

    /// One paragraph for the summary.
    pub fn print(&self, name: &str) -> String {
        let ends: Vec<String> = self.ends.iter().map(|(end, count)| format!("{} {count}", end.words())).collect();
        let unfinished = self.invoked - self.ends.values().sum::<u64>();
        let unfinished = if unfinished == 0 { String::new() } else { format!(", unfinished {unfinished}") };
        let dispatched = self.waits_ms.len() as u64;
        let mut waits_ms = self.waits_ms.clone();
        waits_ms.sort_unstable();
        format!(
            "  {name}: invoked {}: {}{unfinished}\n      cold {} of {dispatched} ({}), wait p50 {} ms, p99 {} ms, \
             instances peak {}",
            self.invoked,
            ends.join(", "),
            self.first_uses,
            share(self.first_uses, dispatched),
            percentile(&waits_ms, 50),
            percentile(&waits_ms, 99),
            self.instances_peak
        )
    }
}

impl End {
    /// For people.
    pub fn words(self) -> &'static str {
        match self {
            End::Answered => "answered",
            End::TimedOut => "timed out",
            End::Crashed => "crashed",
            End::NotStarted => "not started",
            End::Throttled => "throttled",
            End::QueueFull => "queue full",
            End::NoCapacity => "no capacity",
            End::Draining => "draining",
            End::Cancelled => "cancelled",
        }
    }
}

/// In percent with one digit, rounded to the nearest; integers, so that it prints the same everywhere.
fn share(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "-".to_owned();
    }
    let tenths = (part * 1_000 + whole / 2) / whole;
    format!("{}.{} %", tenths / 10, tenths % 10)
}

/// The smallest value that at least `percent` of the sorted values do not pass; 0 of none.
fn percentile(sorted: &[u64], percent: usize) -> u64 {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures() {
        let hundred: Vec<u64> = (1..=100).collect();
        assert_eq!((percentile(&hundred, 50), percentile(&hundred, 99), percentile(&[], 50)), (50, 99, 0));
        assert_eq!((percentile(&[7], 50), percentile(&[7], 99)), (7, 7));
        assert_eq!((share(1, 3), share(2, 3), share(0, 0)), ("33.3 %".into(), "66.7 %".into(), "-".into()));
    }
}
