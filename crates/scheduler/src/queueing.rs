//! Who waits for concurrency, and whose turn it is when some comes free.
//!
//! Each function that is configured so has a queue of its own, first come first served, bounded in length and in time.
//! Functions take turns, so that the long queue of one does not hold up the short one of another. Nobody is kept here:
//! the caller owes each waiter its answer, and a `leave` when the waiter has had enough.

use model::FunctionName;
use model::concurrency::Queue;
use std::collections::{BTreeMap, VecDeque};

/// Names an invocation that waits. Chosen by the caller, unique for the life of the process.
pub type WaiterId = u64;

/// Why an invocation may not wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotQueued {
    /// The function's own queue is full.
    Full,
    /// All queues together hold as many as they may.
    AllFull,
}

/// The queues of all functions.
#[derive(Debug)]
pub struct Queues {
    queues: BTreeMap<FunctionName, VecDeque<WaiterId>>,
    /// Functions with waiters, whose turn it is first.
    turns: VecDeque<FunctionName>,
    waiting: usize,
    waiting_max: usize,
}

impl Queues {
    /// Nobody waits; in all queues together no more than `waiting_max` ever will.
    pub fn new(waiting_max: usize) -> Queues {
        Queues { queues: BTreeMap::new(), turns: VecDeque::new(), waiting: 0, waiting_max }
    }

    /// An invocation wants to wait behind those of its function that do.
    pub fn join(&mut self, name: &FunctionName, waiter: WaiterId, queue: Queue) -> Result<(), NotQueued> {
        if self.of(name) >= queue.length as usize {
            return Err(NotQueued::Full);
        }
        if self.waiting >= self.waiting_max {
            return Err(NotQueued::AllFull);
        }
        match self.queues.get_mut(name) {
            Some(waiters) => waiters.push_back(waiter),
            None => {
                self.queues.insert(name.clone(), VecDeque::from([waiter]));
                self.turns.push_back(name.clone());
            }
        }
        self.waiting += 1;
        Ok(())
    }

    /// A waiter has had enough, or its client is gone. Says whether it still waited.
    pub fn leave(&mut self, name: &FunctionName, waiter: WaiterId) -> bool {
        let Some(waiters) = self.queues.get_mut(name) else { return false };
        let Some(at) = waiters.iter().position(|other| *other == waiter) else { return false };
        waiters.remove(at);
        self.waiting -= 1;
        if waiters.is_empty() {
            self.queues.remove(name);
            self.turns.retain(|other| other != name);
        }
        true
    }

    /// The waiter whose turn it is among the functions that are admitted. It waits no longer, and its function goes
    /// behind the others. `admits` is asked about each function at most once, until it says yes.
    pub fn next(&mut self, mut admits: impl FnMut(&FunctionName) -> bool) -> Option<(FunctionName, WaiterId)> {
        let at = self.turns.iter().position(&mut admits)?;
        let name = self.turns.remove(at)?;
        let waiters = self.queues.get_mut(&name)?;
        let waiter = waiters.pop_front()?;
        self.waiting -= 1;
        if waiters.is_empty() {
            self.queues.remove(&name);
        } else {
            self.turns.push_back(name.clone());
        }
        Some((name, waiter))
    }

    /// How many of a function's invocations wait.
    pub fn of(&self, name: &FunctionName) -> usize {
        self.queues.get(name).map_or(0, VecDeque::len)
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiting
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn name(text: &str) -> FunctionName {
        FunctionName::parse(text).unwrap()
    }

    fn queue(length: u32) -> Queue {
        Queue { wait_ms: 1, length }
    }

    /// Carries out `<function><waiter>` to join, `-<function><waiter>` to leave and `*<functions admitted>` for a turn,
    /// and says what came of each.
    fn check(steps: &str, want: &str) {
        let mut queues = Queues::new(5);
        let said = |step: &str| match (step.strip_prefix('*'), step.strip_prefix('-')) {
            (Some(admitted), _) => match queues.next(|name| admitted.contains(name.as_str())) {
                Some((name, waiter)) => format!("{name}{waiter}"),
                None => "nobody".to_owned(),
            },
            (None, Some(step)) => queues.leave(&name(&step[..1]), step[1..].parse().unwrap()).to_string(),
            (None, None) => match queues.join(&name(&step[..1]), step[1..].parse().unwrap(), queue(3)) {
                Ok(()) => "ok".to_owned(),
                Err(refused) => format!("{refused:?}"),
            },
        };
        let got: Vec<String> = steps.split(' ').map(said).collect();
        assert_eq!(got.join(" "), want, "{steps}");
    }

    #[test]
    fn turns() {
        check("*a", "nobody");
        check("a1 a2 *a *a *a", "ok ok a1 a2 nobody");
        // Functions take turns; their waiters come in their order.
        check("a1 a2 a3 b4 *ab *ab *ab *ab *ab", "ok ok ok ok a1 b4 a2 a3 nobody");
        check("a1 b2 c3 *c *abc *abc *abc", "ok ok ok c3 a1 b2 nobody");
        check("a1 b2 *b *b *", "ok ok b2 nobody nobody");
    }

    #[test]
    fn bounds() {
        check("a1 a2 a3 a4", "ok ok ok Full");
        check("a1 a2 b3 b4 c5 c6 *a c6", "ok ok ok ok ok AllFull a1 ok");
    }

    #[test]
    fn leaving() {
        check("a1 a2 -a1 -a1 *a *a", "ok ok true false a2 nobody");
        check("a1 b2 -a1 *ab a3 *ab", "ok ok true b2 ok a3");
        check("a1 *a -a1 -b1", "ok a1 false false");
    }

    proptest::proptest! {
        /// Each waiter leaves exactly once, in the order of its function's arrivals, and nobody is lost or counted twice.
        #[test]
        fn everybody_leaves_once(steps in proptest::collection::vec((0u8..5, 0usize..3, 0u64..40), 0..120)) {
            let names = ["a", "b", "c"].map(name);
            let mut queues = Queues::new(12);
            let mut inside: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
            let mut used = BTreeSet::new();
            for (what, who, waiter) in steps {
                let mine = inside.entry(who).or_default();
                match what {
                    0 => {
                        let waited = mine.iter().position(|other| *other == waiter);
                        proptest::prop_assert_eq!(queues.leave(&names[who], waiter), waited.is_some());
                        waited.map(|at| mine.remove(at));
                    }
                    1 => {
                        let next = queues.next(|name| *name == names[who]);
                        let want = (!mine.is_empty()).then(|| (names[who].clone(), mine.remove(0)));
                        proptest::prop_assert_eq!(next, want);
                    }
                    _ if used.insert(waiter) => match queues.join(&names[who], waiter, queue(5)) {
                        Ok(()) => mine.push(waiter),
                        Err(NotQueued::Full) => proptest::prop_assert_eq!(mine.len(), 5),
                        Err(NotQueued::AllFull) => proptest::prop_assert_eq!(queues.waiting(), 12),
                    },
                    _ => {}
                }
                let all: usize = inside.values().map(Vec::len).sum();
                proptest::prop_assert_eq!(queues.waiting(), all);
                for (who, waiters) in &inside {
                    proptest::prop_assert_eq!(queues.of(&names[*who]), waiters.len());
                }
            }
            while let Some((name, waiter)) = queues.next(|_| true) {
                let who = names.iter().position(|other| *other == name).unwrap();
                proptest::prop_assert_eq!(inside.get_mut(&who).unwrap().remove(0), waiter);
            }
            proptest::prop_assert!(inside.values().all(Vec::is_empty) && queues.waiting() == 0);
        }

        /// With all admitted, between two turns of a function that waits, every other that waits has had one.
        #[test]
        fn functions_take_turns(lengths in proptest::collection::vec(1u64..6, 1..5)) {
            let mut queues = Queues::new(usize::MAX);
            for (who, length) in lengths.iter().enumerate() {
                for number in 0..*length {
                    queues.join(&name(&format!("f{who}")), (who as u64) * 100 + number, queue(100)).unwrap();
                }
            }
            let mut served = vec![0u64; lengths.len()];
            while let Some((_, waiter)) = queues.next(|_| true) {
                served[(waiter / 100) as usize] += 1;
                for (who, length) in lengths.iter().enumerate() {
                    for other in 0..lengths.len() {
                        let even = served[who] <= served[other] + 1 || served[other] == lengths[other];
                        proptest::prop_assert!(even && served[who] <= *length);
                    }
                }
            }
            proptest::prop_assert_eq!(served, lengths);
        }
    }
}
