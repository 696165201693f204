//! How many sandboxes of each shape are kept ready, decided from what has been asked for. No I/O, no clock.

use crate::shape::Shape;
use std::collections::{BTreeMap, BTreeSet};

/// Sandboxes of one shape that are kept in stock when it is expected but rarely asked for.
pub const LEAST: usize = 2;
/// Sandboxes of one shape in stock, at most.
pub const MOST: usize = 16;
/// Sandboxes of all shapes in stock, at most: they are made besides the instances that the configuration allows.
pub const ALL_MOST: usize = 48;
/// Shapes with a stock, at most; the one that was asked for longest ago gives way.
const SHAPES_MAX: usize = 12;
/// Demand is forgotten by half in this time.
const HALVING_MS: u64 = 20_000;
/// How long a shape that nobody expects keeps its stock after it was last asked for.
const KEPT_MS: u64 = 300_000;

/// What was asked for, by shape.
#[derive(Debug, Default)]
pub struct Demand {
    shapes: BTreeMap<Shape, Asked>,
    expected: BTreeSet<Shape>,
}

#[derive(Debug, Clone, Copy)]
struct Asked {
    last_ms: u64,
    /// Starts that came within one burst of each other, as of `last_ms`.
    burst: f64,
}

impl Demand {
    /// A start of this shape has come.
    pub fn ask(&mut self, shape: &Shape, now_ms: u64) {
        let asked = self.shapes.entry(shape.clone()).or_insert(Asked { last_ms: now_ms, burst: 0.0 });
        asked.burst = asked.at(now_ms) + 1.0;
        asked.last_ms = now_ms;
        if self.shapes.len() > SHAPES_MAX {
            let oldest = self.shapes.iter().min_by_key(|(_, asked)| asked.last_ms).map(|(shape, _)| shape.clone());
            oldest.map(|shape| self.shapes.remove(&shape));
        }
    }

    /// These shapes are likely to be asked for.
    pub fn expect(&mut self, expected: BTreeSet<Shape>) {
        self.expected = expected;
    }

    /// How many are to be in stock: of each shape that has any.
    pub fn targets(&self, now_ms: u64) -> BTreeMap<Shape, usize> {
        let mut targets: BTreeMap<Shape, usize> = self.expected.iter().map(|shape| (shape.clone(), LEAST)).collect();
        for (shape, asked) in &self.shapes {
            if now_ms.saturating_sub(asked.last_ms) < KEPT_MS {
                let wanted = (asked.at(now_ms).ceil() as usize).clamp(LEAST, MOST);
                targets.insert(shape.clone(), wanted);
            }
        }
        shrink(&mut targets);
        targets
    }
}

impl Asked {
    fn at(&self, now_ms: u64) -> f64 {
        self.burst * 0.5f64.powf(now_ms.saturating_sub(self.last_ms) as f64 / HALVING_MS as f64)
    }
}

/// The largest give way first, until all together are few enough.
fn shrink(targets: &mut BTreeMap<Shape, usize>) {
    let mut surplus = targets.values().sum::<usize>().saturating_sub(ALL_MOST);
    while surplus > 0 {
        let Some(largest) = targets.values_mut().max() else { return };
        *largest -= 1;
        surplus -= 1;
    }
    targets.retain(|_, target| *target > 0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::Guest;

    fn shape(tmp_mb: u32) -> Shape {
        Shape { guest: Guest::Exec { runtime: None }, connected: true, tmp_mb, runtime_api: true }
    }

    fn target(demand: &Demand, tmp_mb: u32, now_ms: u64) -> Option<usize> {
        demand.targets(now_ms).get(&shape(tmp_mb)).copied()
    }

    #[test]
    fn stock_follows_demand() {
        let mut demand = Demand::default();
        assert!(demand.targets(0).is_empty());
        demand.ask(&shape(1), 1_000);
        assert_eq!(target(&demand, 1, 1_000), Some(LEAST));
        for _ in 0..100 {
            demand.ask(&shape(1), 1_000);
        }
        assert_eq!(target(&demand, 1, 1_000), Some(MOST));
        assert_eq!(target(&demand, 1, 1_000 + 4 * HALVING_MS), Some(7));
        assert_eq!(target(&demand, 1, 1_000 + 10 * HALVING_MS), Some(LEAST));
        assert_eq!(target(&demand, 1, 1_000 + KEPT_MS), None);
    }

    #[test]
    fn what_is_expected_is_there_and_all_together_are_bounded() {
        let mut demand = Demand::default();
        demand.expect((0..5).map(shape).collect());
        assert_eq!(demand.targets(0).len(), 5);
        for tmp_mb in 0..100 {
            for _ in 0..40 {
                demand.ask(&shape(tmp_mb), u64::from(tmp_mb));
            }
        }
        let targets = demand.targets(100);
        assert!(targets.values().sum::<usize>() <= ALL_MOST, "{targets:?}");
        assert!(demand.shapes.len() <= SHAPES_MAX);
        demand.expect(BTreeSet::new());
        assert_eq!(target(&demand, 0, 100), None);
    }
}
