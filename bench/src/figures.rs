//! Numbers of many samples: medians over rounds, percentiles over everything.

use std::time::Duration;

/// Durations of one kind, round by round.
#[derive(Debug, Clone, Default)]
pub struct Latencies {
    rounds: Vec<Vec<u64>>,
}

impl Latencies {
    /// Adds a round.
    pub fn add(&mut self, samples: &[Duration]) {
        self.rounds.push(samples.iter().map(|d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)).collect());
    }

    /// The median of the rounds' medians, microseconds; `None` without samples.
    pub fn p50_us(&self) -> Option<f64> {
        let medians: Vec<u64> = self.rounds.iter().filter_map(|round| percentile(round, 50)).collect();
        percentile(&medians, 50).map(|ns| ns as f64 / 1e3)
    }

    /// The 99th percentile of all samples of all rounds, microseconds.
    pub fn p99_us(&self) -> Option<f64> {
        percentile(&self.rounds.concat(), 99).map(|ns| ns as f64 / 1e3)
    }

    /// The median of the rounds' 99th percentiles, microseconds: one bad round does not decide.
    pub fn p99_of_rounds_us(&self) -> Option<f64> {
        let each: Vec<u64> = self.rounds.iter().filter_map(|round| percentile(round, 99)).collect();
        percentile(&each, 50).map(|ns| ns as f64 / 1e3)
    }
}

/// The smallest value that at least `percent` of all values do not exceed.
pub fn percentile(values: &[u64], percent: usize) -> Option<u64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied()
}

/// The median; `None` without values.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len().div_ceil(2).saturating_sub(1)).copied()
}

/// From the least to the most, for remarks.
pub fn range(values: &[f64]) -> String {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(0.0, f64::max);
    if values.is_empty() { String::new() } else { format!("{least:.2} to {most:.2}") }
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
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn medians_of_rounds() {
        let mut latencies = Latencies::default();
        assert_eq!((latencies.p50_us(), latencies.p99_us()), (None, None));
        for round in [[1, 2, 3], [10, 20, 90], [4, 5, 6]] {
            latencies.add(&round.map(Duration::from_micros));
        }
        assert_eq!((latencies.p50_us(), latencies.p99_us()), (Some(5.0), Some(90.0)));
        assert_eq!(latencies.p99_of_rounds_us(), Some(6.0));
    }
}
