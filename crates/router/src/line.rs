//! Invocations that wait for a permit. `scheduler::queueing` says whose turn it is; here they are woken.
//!
//! Nothing of this is touched while nobody waits but one counter, which every returning permit reads.

use crate::permits::{Permit, Permits};
use model::FunctionName;
use model::concurrency::Queue;
use scheduler::queueing::{NotQueued, Queues, WaiterId};
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

/// All who wait.
#[derive(Debug)]
pub struct Line {
    /// As many as the queues hold, to be read without their lock.
    waiting: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    queues: Queues,
    senders: HashMap<WaiterId, oneshot::Sender<Permit>>,
    newest: WaiterId,
    closed: bool,
}

/// How a wait ends without a permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoPermit {
    /// There was no room to wait.
    NotQueued(NotQueued),
    /// None came free in time.
    TimedOut,
    /// The router drains.
    Draining,
}

impl Line {
    /// Nobody waits.
    pub fn new(waiting_max: usize) -> Line {
        let queues = Queues::new(waiting_max);
        let state = State { queues, senders: HashMap::new(), newest: 0, closed: false };
        Line { waiting: AtomicUsize::new(0), state: Mutex::new(state) }
    }

    /// Whether others of this function wait, who must not be overtaken.
    pub fn is_before(&self, name: &FunctionName) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0 && self.lock().queues.of(name) > 0
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    /// Waits for a permit in the function's queue. Dropping the future gives up the wait.
    pub async fn wait(&self, permits: &Permits, name: &FunctionName, queue: Queue) -> Result<Permit, NoPermit> {
        let mut wait = self.join(name, queue)?;
        // A permit that came back before this one waited has woken nobody.
        self.serve(permits);
        let wait_max = Duration::from_millis(queue.wait_ms.into());
        match tokio::time::timeout(wait_max, &mut wait.receiver).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) => Err(NoPermit::Draining),
            // It may have come in this very moment.
            Err(_) => wait.receiver.try_recv().map_err(|_| NoPermit::TimedOut),
        }
    }

    /// Hands out what has come free, as long as somebody waits for it.
    pub fn serve(&self, permits: &Permits) {
        while self.waiting.load(Ordering::SeqCst) > 0 {
            // Whoever is in a queue has a sender.
            let (Some(sender), Some(permit)) = self.turn(permits) else { return };
            // A waiter that has just left gives its permit back here, outside of the lock: that serves the next.
            drop(sender.send(permit));
        }
    }

    /// Nobody waits from now on.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.senders.clear();
        while state.queues.next(|_| true).is_some() {}
        self.count(&state);
    }

    fn turn(&self, permits: &Permits) -> (Option<oneshot::Sender<Permit>>, Option<Permit>) {
        let mut turn = permits.turn();
        let mut state = self.lock();
        let Some((_, waiter)) = state.queues.next(|name| turn.admits(name)) else { return (None, None) };
        self.count(&state);
        (state.senders.remove(&waiter), turn.permit)
    }

    fn join(&self, name: &FunctionName, queue: Queue) -> Result<Wait<'_>, NoPermit> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.lock();
        if state.closed {
            return Err(NoPermit::Draining);
        }
        state.newest += 1;
        let waiter = state.newest;
        state.queues.join(name, waiter, queue).map_err(NoPermit::NotQueued)?;
        state.senders.insert(waiter, sender);
        self.count(&state);
        Ok(Wait { line: self, name: name.clone(), waiter, receiver })
    }

    fn count(&self, state: &State) {
        self.waiting.store(state.queues.waiting(), Ordering::SeqCst);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in a queue, given up when it is dropped.
struct Wait<'a> {
    line: &'a Line,
    name: FunctionName,
    waiter: WaiterId,
    receiver: oneshot::Receiver<Permit>,
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        let mut state = self.line.lock();
        if state.senders.remove(&self.waiter).is_some() {
            state.queues.leave(&self.name, self.waiter);
            self.line.count(&state);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Limits;
    use arc_swap::ArcSwap;
    use model::{Share, Shares};
    use std::sync::Arc;
    use std::sync::atomic::AtomicU32;

    /// Bounds every wait of these tests.
    const PATIENCE_MS: u32 = 20_000;

    fn name(text: &str) -> FunctionName {
        FunctionName::parse(text).unwrap()
    }

    struct Bench {
        permits: Permits,
        shares: Arc<ArcSwap<Shares>>,
    }

    impl Bench {
        /// The account's concurrency, and of each function what it reserves, how long its queue is and how patient.
        fn new(concurrent_executions: u32, functions: &[(&str, Option<u32>, u32, u32)]) -> Bench {
            let shares = Arc::<ArcSwap<Shares>>::default();
            let limits = Limits { concurrent_executions, queued: 100, explained: 0 };
            let bench = Bench { permits: Permits::new(limits, shares.clone(), Arc::default()), shares };
            for (function, reserved, length, wait_ms) in functions {
                bench.share(function, *reserved, Queue { wait_ms: *wait_ms, length: *length });
            }
            bench
        }

        fn share(&self, function: &str, reserved: Option<u32>, queue: Queue) {
            let mut shares = Shares::clone(&self.shares.load());
            shares.set(name(function), Share { reserved, queue: Some(queue) });
            self.shares.store(Arc::new(shares));
            self.permits.shares_changed();
        }

        /// Begins to wait and comes back when it does.
        async fn waiter(&self, function: &str) -> tokio::task::JoinHandle<Result<Permit, NoPermit>> {
            let (permits, function, before) = (self.permits.clone(), name(function), self.permits.waiting());
            let waiter = tokio::spawn(async move { permits.wait(&function).await.unwrap() });
            while self.permits.waiting() == before && !waiter.is_finished() {
                tokio::task::yield_now().await;
            }
            waiter
        }
    }

    #[tokio::test]
    async fn who_waits_is_served_in_turn() {
        let bench = Bench::new(1, &[("f", None, 9, PATIENCE_MS), ("g", None, 9, PATIENCE_MS)]);
        let held = bench.permits.take(&name("f")).unwrap();
        let first = bench.waiter("f").await;
        let second = bench.waiter("f").await;
        let other = bench.waiter("g").await;
        assert!(bench.permits.take_in_turn(&name("f")).is_err());
        drop(held);
        let held = first.await.unwrap().unwrap();
        assert!(!second.is_finished() && !other.is_finished());
        assert!(bench.permits.take_in_turn(&name("f")).is_err(), "nobody is overtaken");
        drop(held);
        let held = other.await.unwrap().unwrap();
        assert!(!second.is_finished(), "functions take turns");
        drop(held);
        drop(second.await.unwrap().unwrap());
        assert_eq!((bench.permits.in_use(), bench.permits.waiting()), (0, 0));
    }

    #[tokio::test]
    async fn ends_without_a_permit() {
        let bench = Bench::new(1, &[("f", None, 1, PATIENCE_MS), ("hasty", None, 9, 1)]);
        let held = bench.permits.take(&name("f")).unwrap();
        assert_eq!(bench.permits.wait(&name("hasty")).await.unwrap().unwrap_err(), NoPermit::TimedOut);
        assert!(bench.permits.wait(&name("none")).await.is_none());
        let patient = bench.waiter("f").await;
        let full = bench.permits.wait(&name("f")).await.unwrap().unwrap_err();
        assert_eq!(full, NoPermit::NotQueued(NotQueued::Full));
        bench.permits.drain();
        assert_eq!(patient.await.unwrap().unwrap_err(), NoPermit::Draining);
        assert_eq!(bench.permits.wait(&name("f")).await.unwrap().unwrap_err(), NoPermit::Draining);
        drop(held);
        assert_eq!((bench.permits.in_use(), bench.permits.waiting()), (0, 0));
    }

    #[tokio::test]
    async fn who_leaves_makes_room_and_loses_no_permit() {
        let bench = Bench::new(1, &[("f", None, 1, PATIENCE_MS)]);
        let held = bench.permits.take(&name("f")).unwrap();
        let leaving = bench.waiter("f").await;
        leaving.abort();
        assert!(leaving.await.unwrap_err().is_cancelled());
        assert_eq!(bench.permits.waiting(), 0);
        let next = bench.waiter("f").await;
        drop(held);
        drop(next.await.unwrap().unwrap());
        assert_eq!(bench.permits.in_use(), 0);
    }

    #[tokio::test]
    async fn a_greater_share_serves_who_waits() {
        let queue = Queue { wait_ms: PATIENCE_MS, length: 9 };
        let bench = Bench::new(9, &[("f", Some(0), 9, PATIENCE_MS)]);
        let (first, second) = (bench.waiter("f").await, bench.waiter("f").await);
        bench.share("f", Some(1), queue);
        let held = first.await.unwrap().unwrap();
        assert!(!second.is_finished());
        bench.share("f", None, queue);
        drop((held, second.await.unwrap().unwrap()));
        assert_eq!(bench.permits.in_use(), 0);
    }

    /// Threads give back and wait at the same time: no permit is lost while somebody waits for it, and no cap is passed.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn no_wake_is_lost() {
        let bench = Bench::new(
            4,
            &[("own", Some(2), 50, PATIENCE_MS), ("f", None, 50, PATIENCE_MS), ("g", None, 50, PATIENCE_MS)],
        );
        let running = Arc::new(AtomicU32::new(0));
        let tasks: Vec<_> = (0..24)
            .map(|at| {
                let (permits, running, function) =
                    (bench.permits.clone(), running.clone(), name(["own", "f", "g"][at % 3]));
                tokio::spawn(async move {
                    for _ in 0..400 {
                        let permit = match permits.take_in_turn(&function) {
                            Ok(permit) => permit,
                            Err(_) => permits.wait(&function).await.unwrap().unwrap(),
                        };
                        assert!(running.fetch_add(1, Ordering::SeqCst) < 4);
                        tokio::task::yield_now().await;
                        running.fetch_sub(1, Ordering::SeqCst);
                        drop(permit);
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!((bench.permits.in_use(), bench.permits.waiting()), (0, 0));
    }
}
