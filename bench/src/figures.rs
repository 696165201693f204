//! Numbers of many samples: medians over rounds, percentiles over everything.

use std::time::Duration;

/// Durations of one kind, round by round.
#[derive(Debug, Clone, Default)]
pub struct Latencies {
    rounds: Vec<Vec<u64>>,
}

/// What is said of them, microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// The median of the rounds' medians.
    pub p50_us: u64,
    /// The smallest of the rounds' medians.
    pub p50_least_us: u64,
    /// The largest of the rounds' medians.
    pub p50_most_us: u64,
    /// The 99th percentile of all samples of all rounds.
    pub p99_us: u64,
    /// How many samples.
    pub samples: usize,
}

impl Latencies {
    /// Adds a round.
    pub fn add(&mut self, samples: &[Duration]) {
        self.rounds.push(samples.iter().map(|d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX)).collect());
    }

    /// Sums up; `None` without samples.
    pub fn summary(&self) -> Option<Summary> {
        let medians: Vec<u64> = self.rounds.iter().filter_map(|round| percentile(round, 50)).collect();
        let all: Vec<u64> = self.rounds.concat();
        Some(Summary {
            p50_us: percentile(&medians, 50)?,
            p50_least_us: *medians.iter().min()?,
            p50_most_us: *medians.iter().max()?,
            p99_us: percentile(&all, 99)?,
            samples: all.len(),
        })
    }
}

/// The smallest value that at least `percent` of all values do not exceed.
pub fn percentile(values: &[u64], percent: usize) -> Option<u64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles() {
        let hundred: Vec<u64> = (1..=100).rev().collect();
        let check = |values: &[u64], percent, expected| assert_eq!(percentile(values, percent), expected);
        check(&hundred, 50, Some(50));
        check(&hundred, 99, Some(99));
        check(&hundred, 100, Some(100));
        check(&[7], 99, Some(7));
        check(&[1, 2, 3], 50, Some(2));
        check(&[], 50, None);
    }

    #[test]
    fn medians_of_rounds() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.summary(), None);
        for round in [[1, 2, 3], [10, 20, 90], [4, 5, 6]] {
            latencies.add(&round.map(Duration::from_micros));
        }
        let expected = Summary { p50_us: 5, p50_least_us: 2, p50_most_us: 20, p99_us: 90, samples: 9 };
        assert_eq!(latencies.summary(), Some(expected));
    }
}
