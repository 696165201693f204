//! One count for each function, found without a lock.

use arc_swap::ArcSwap;
use model::{FunctionName, Snapshot};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// A new function's count costs a copy of one part of the table, so it has many parts.
const PARTS: usize = 256;

type Part = HashMap<FunctionName, Arc<AtomicU32>>;

/// The table of counts. Counts of functions that are gone leave it when others come.
#[derive(Debug)]
pub struct Counts {
    parts: Box<[ArcSwap<Part>]>,
    snapshot: Arc<ArcSwap<Snapshot>>,
}

impl Counts {
    /// No function has a count yet; `snapshot` says which functions there are.
    pub fn new(snapshot: Arc<ArcSwap<Snapshot>>) -> Counts {
        Counts { parts: (0..PARTS).map(|_| ArcSwap::default()).collect(), snapshot }
    }

    /// A function's count.
    pub fn of(&self, name: &FunctionName) -> Arc<AtomicU32> {
        let part = &self.parts[part_of(name)];
        if let Some(count) = part.load().get(name) {
            return count.clone();
        }
        let new = Arc::new(AtomicU32::new(0));
        let snapshot = self.snapshot.load();
        part.rcu(|counts| {
            let is_needed =
                |name, count: &AtomicU32| count.load(Ordering::SeqCst) > 0 || snapshot.functions.contains_key(name);
            let kept = counts.iter().filter(|(name, count)| is_needed(name, count));
            let mut counts: Part = kept.map(|(name, count)| (name.clone(), count.clone())).collect();
            counts.entry(name.clone()).or_insert_with(|| new.clone());
            counts
        });
        // Another may have been quicker.
        part.load().get(name).cloned().unwrap_or(new)
    }
}

/// FNV-1a: a few nanoseconds, and nothing is won by names that meet in one part.
fn part_of(name: &FunctionName) -> usize {
    let step = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    name.as_str().bytes().fold(0x811c_9dc5, step) as usize % PARTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gone_functions_leave_no_count() {
        let counts = Counts::new(Arc::default());
        let name = |number: usize| FunctionName::parse(&format!("f{number}")).unwrap();
        let running = counts.of(&name(0));
        running.fetch_add(1, Ordering::SeqCst);
        for number in 1..20_000 {
            counts.of(&name(number));
        }
        let kept: usize = counts.parts.iter().map(|part| part.load().len()).sum();
        assert!(kept <= PARTS + 1, "{kept}");
        assert!(Arc::ptr_eq(&running, &counts.of(&name(0))), "what runs is counted on");
    }
}
