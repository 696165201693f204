//! What has become of the newest invocations, for whoever asks why one took so long or was refused. In memory only.
//!
//! Invocations of which there is something to tell are written whatever it takes; the usual ones, success on a used
//! instance with a free slot, only where nobody else is just writing, so that they wait for no lock. Each kind has room of
//! its own: a flood of the usual does not wash away the others.

use crate::Error;
use model::InvocationId;
use model::function::Spec;
use model::invocation::{Completed, Report};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

/// Parts of the journal; an invocation is written to the one that its id says.
const PARTS: usize = 64;

/// One invocation, from the router's view.
#[derive(Debug, Clone)]
pub struct Record {
    /// Its id.
    pub id: InvocationId,
    /// What it ran, or would have.
    pub spec: Arc<Spec>,
    /// When it came, milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// How long each step took.
    pub steps: Steps,
    /// How it ended.
    pub end: End,
}

/// Durations of one invocation's steps, microseconds; one field per step of [`crate::Handle::invoke`].
#[derive(Debug, Clone, Copy, Default)]
pub struct Steps {
    /// Finding the version.
    pub route_us: u64,
    /// Getting a permit, the wait for it included.
    pub admit_us: u64,
    /// Of that, the wait in the function's queue for concurrency.
    pub queued_us: u64,
    /// On the worker.
    pub worker_us: u64,
}

/// How an invocation ended.
#[derive(Debug, Clone)]
pub enum End {
    /// It ran.
    Ran(Report),
    /// It did not.
    Refused(Error),
}

impl Record {
    /// Nothing of it is worth a wait for a lock.
    fn is_usual(&self) -> bool {
        match &self.end {
            End::Ran(report) => {
                let met = &report.met;
                let quiet = met.cold.is_none() && met.waited.is_none() && !met.was_frozen;
                quiet && report.ended.is_none() && self.steps.queued_us == 0
            }
            End::Refused(_) => false,
        }
    }
}

impl End {
    /// Of an invocation's result.
    pub fn of(result: &Result<Completed, Error>) -> End {
        match result {
            Ok(completed) => End::Ran(completed.report),
            Err(error) => End::Refused(error.clone()),
        }
    }
}

/// The newest records.
#[derive(Debug)]
pub struct Journal {
    usual: Box<[Mutex<VecDeque<Record>>]>,
    told: Box<[Mutex<VecDeque<Record>>]>,
    part_max: usize,
}

impl Journal {
    /// Nothing is written; of either kind about `max` records will be kept. None at all if it is 0.
    pub fn new(max: usize) -> Journal {
        let parts = || (0..PARTS).map(|_| Mutex::default()).collect();
        Journal { usual: parts(), told: parts(), part_max: max.div_ceil(PARTS) }
    }

    /// Writes a record; the oldest of its part and kind makes room.
    pub fn write(&self, record: Record) {
        if self.part_max == 0 {
            return;
        }
        let part = part_of(&record.id.0);
        let mut records = match record.is_usual() {
            false => lock(&self.told[part]),
            true => match self.usual[part].try_lock() {
                Ok(records) => records,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => return,
            },
        };
        if records.len() >= self.part_max {
            records.pop_front();
        }
        records.push_back(record);
    }

    /// The record of an invocation, if it is still there.
    pub fn find(&self, id: &str) -> Option<Record> {
        let part = part_of(id);
        [&self.told, &self.usual].into_iter().find_map(|kind| {
            let records = lock(&kind[part]);
            records.iter().rev().find(|record| *record.id.0 == *id).cloned()
        })
    }
}

fn lock(records: &Mutex<VecDeque<Record>>) -> MutexGuard<'_, VecDeque<Record>> {
    records.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ids are random, so a few of their bytes spread as well as a hash of all.
fn part_of(id: &str) -> usize {
    let step = |hash: usize, byte: u8| hash.wrapping_mul(31) + usize::from(byte);
    id.bytes().rev().take(8).fold(0, step) % PARTS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invoke::tests::snapshot;
    use model::snapshot::Target;

    fn record(id: &str, end: End) -> Record {
        let snapshot = snapshot(1);
        let Some(Target::Ready(spec)) = snapshot.functions.values().next().map(|targets| targets.latest.clone()) else {
            panic!("the snapshot has one function");
        };
        Record { id: InvocationId(id.into()), spec, at_ms: 0, steps: Steps::default(), end }
    }

    #[test]
    fn a_flood_of_the_usual_leaves_the_others() {
        let journal = Journal::new(128);
        journal.write(record("told", End::Refused(Error::Draining)));
        for number in 0..10_000 {
            journal.write(record(&format!("usual{number}"), End::Ran(Report::default())));
        }
        assert!(matches!(journal.find("told").unwrap().end, End::Refused(Error::Draining)));
        assert!(journal.find("usual9999").is_some() && journal.find("usual0").is_none());
        let kept: usize = journal.usual.iter().map(|part| lock(part).len()).sum();
        assert!(kept <= 128, "{kept}");
        assert!(journal.find("nobody").is_none());
    }

    #[test]
    fn none_are_kept_if_so_configured() {
        let journal = Journal::new(0);
        journal.write(record("a", End::Refused(Error::Draining)));
        assert!(journal.find("a").is_none());
    }
}
