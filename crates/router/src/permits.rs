//! The counts of invocations in flight. A permit returns when it is dropped, however the invocation ends.

use crate::Limits;
use crate::counts::Counts;
use crate::line::{Line, NoPermit};
use arc_swap::ArcSwap;
use model::invocation::ThrottleReason;
use model::{FunctionName, Shares, Snapshot};
use scheduler::admission::{Caps, InUse, admit};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Counts permits with atomics: one for the account, one for what is not reserved, one for each function. No lock is
/// shared by functions.
#[derive(Debug, Clone)]
pub struct Permits {
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    account_max: u32,
    shares: Arc<ArcSwap<Shares>>,
    account: AtomicU32,
    /// Permits that were given to functions without a reservation.
    unreserved: AtomicU32,
    functions: Counts,
    line: Line,
}

/// One invocation in flight.
#[derive(Debug)]
pub struct Permit {
    state: Arc<State>,
    function: Arc<AtomicU32>,
    reserved: bool,
}

impl Permits {
    /// No permit is in use.
    pub fn new(limits: Limits, shares: Arc<ArcSwap<Shares>>, snapshot: Arc<ArcSwap<Snapshot>>) -> Permits {
        let (account, unreserved) = (AtomicU32::new(0), AtomicU32::new(0));
        let (functions, line) = (Counts::new(snapshot), Line::new(limits.queued));
        let account_max = limits.concurrent_executions;
        Permits { state: Arc::new(State { account_max, shares, account, unreserved, functions, line }) }
    }

    /// Takes a permit for a function that exists, or says why not.
    pub fn take(&self, name: &FunctionName) -> Result<Permit, ThrottleReason> {
        let state = &self.state;
        let shares = state.shares.load();
        let reserved = shares.of(name).reserved;
        let caps = Caps { account: state.account_max, reserved, reserved_total: shares.reserved_total() };
        let function = state.functions.of(name);
        // What is capped moves by comparison, so that no race passes the cap or stops short of it. The others follow.
        let capped = if reserved.is_some() { &*function } else { &state.unreserved };
        let mut before = capped.load(Ordering::SeqCst);
        loop {
            let account = state.account.load(Ordering::SeqCst);
            admit(InUse { account, unreserved: before, function: before }, caps)?;
            match capped.compare_exchange_weak(before, before + 1, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => break,
                Err(now) => before = now,
            }
        }
        state.account.fetch_add(1, Ordering::SeqCst);
        if reserved.is_none() {
            function.fetch_add(1, Ordering::SeqCst);
        }
        Ok(Permit { state: state.clone(), function, reserved: reserved.is_some() })
    }

    /// Takes a permit, unless others of the function wait for one.
    pub fn take_in_turn(&self, name: &FunctionName) -> Result<Permit, ThrottleReason> {
        if self.state.line.is_before(name) {
            return Err(match self.state.shares.load().of(name).reserved {
                Some(_) => ThrottleReason::ReservedFunctionConcurrentInvocationLimitExceeded,
                None => ThrottleReason::ConcurrentInvocationLimitExceeded,
            });
        }
        self.take(name)
    }

    /// Waits for a permit in the function's queue; `None` if it has none.
    pub async fn wait(&self, name: &FunctionName) -> Option<Result<Permit, NoPermit>> {
        let queue = self.state.shares.load().of(name).queue?;
        Some(self.state.line.wait(self, name, queue).await)
    }

    /// The shares have changed: some who wait may be admitted by now.
    pub fn shares_changed(&self) {
        self.state.line.serve(self);
    }

    /// Nobody waits for a permit from now on.
    pub fn drain(&self) {
        self.state.line.close();
    }

    /// Invocations that wait for a permit now.
    pub fn waiting(&self) -> usize {
        self.state.line.waiting()
    }

    /// Looks for somebody to admit.
    pub fn turn(&self) -> Turn<'_> {
        Turn { permits: self, unreserved_refused: false, permit: None }
    }

    /// Invocations in flight now.
    pub fn in_use(&self) -> u32 {
        self.state.account.load(Ordering::SeqCst)
    }
}

/// A look along those who wait.
pub struct Turn<'a> {
    permits: &'a Permits,
    /// What one function without a reservation does not get, no other gets.
    unreserved_refused: bool,
    /// What whoever is admitted gets.
    pub permit: Option<Permit>,
}

impl Turn<'_> {
    /// Takes a permit for a function, if there is one.
    pub fn admits(&mut self, name: &FunctionName) -> bool {
        let is_reserved = || self.permits.state.shares.load().of(name).reserved.is_some();
        if self.unreserved_refused && !is_reserved() {
            return false;
        }
        match self.permits.take(name) {
            Ok(permit) => self.permit = Some(permit),
            Err(ThrottleReason::ConcurrentInvocationLimitExceeded) => self.unreserved_refused = true,
            Err(ThrottleReason::ReservedFunctionConcurrentInvocationLimitExceeded) => {}
        }
        self.permit.is_some()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        // As they were counted, whatever the function reserves by now.
        self.function.fetch_sub(1, Ordering::SeqCst);
        if !self.reserved {
            self.state.unreserved.fetch_sub(1, Ordering::SeqCst);
        }
        self.state.account.fetch_sub(1, Ordering::SeqCst);
        if self.state.line.waiting() > 0 {
            self.state.line.serve(&Permits { state: self.state.clone() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Share;
    use std::collections::BTreeMap;

    const ACCOUNT: ThrottleReason = ThrottleReason::ConcurrentInvocationLimitExceeded;
    const RESERVED: ThrottleReason = ThrottleReason::ReservedFunctionConcurrentInvocationLimitExceeded;

    fn name(text: &str) -> FunctionName {
        FunctionName::parse(text).unwrap()
    }

    struct Bench {
        permits: Permits,
        shares: Arc<ArcSwap<Shares>>,
    }

    impl Bench {
        fn new(account_max: u32) -> Bench {
            let shares = Arc::<ArcSwap<Shares>>::default();
            let limits = Limits { concurrent_executions: account_max, queued: 3, explained: 0 };
            Bench { permits: Permits::new(limits, shares.clone(), Arc::default()), shares }
        }

        fn reserve(&self, function: &str, reserved: Option<u32>) {
            let mut shares = Shares::clone(&self.shares.load());
            shares.set(name(function), Share { reserved, ..Share::default() });
            self.shares.store(Arc::new(shares));
        }

        fn take(&self, function: &str) -> Result<Permit, ThrottleReason> {
            self.permits.take(&name(function))
        }
    }

    #[test]
    fn permits_come_back() {
        let bench = Bench::new(2);
        let first = bench.take("f").unwrap();
        let _second = bench.take("g").unwrap();
        assert_eq!(bench.take("f").unwrap_err(), ACCOUNT);
        assert_eq!(bench.permits.in_use(), 2);
        drop(first);
        assert!(bench.take("f").is_ok());
    }

    #[test]
    fn a_reservation_is_its_own() {
        let bench = Bench::new(3);
        bench.reserve("own", Some(2));
        let others = bench.take("f").unwrap();
        assert_eq!(bench.take("f").unwrap_err(), ACCOUNT);
        let both = (bench.take("own").unwrap(), bench.take("own").unwrap());
        assert_eq!(bench.take("own").unwrap_err(), RESERVED);
        drop(both);
        assert_eq!(bench.take("f").unwrap_err(), ACCOUNT, "what is reserved stays so while it is idle");
        drop(others);
        bench.reserve("own", Some(0));
        assert_eq!(bench.take("own").unwrap_err(), RESERVED);
        assert_eq!(bench.permits.in_use(), 0);
    }

    #[test]
    fn what_runs_stays_counted_when_the_limit_changes() {
        let bench = Bench::new(4);
        let early = (bench.take("f").unwrap(), bench.take("f").unwrap());
        bench.reserve("f", Some(2));
        assert_eq!(bench.take("f").unwrap_err(), RESERVED, "two run already");
        drop(early);
        let reserved = (bench.take("f").unwrap(), bench.take("f").unwrap());
        bench.reserve("f", None);
        let rest = (bench.take("f").unwrap(), bench.take("g").unwrap());
        assert_eq!(bench.take("g").unwrap_err(), ACCOUNT, "the account has no more than four");
        drop((reserved, rest));
        assert_eq!(bench.permits.in_use(), 0);
        let _all: Vec<_> = (0..4).map(|_| bench.take("g").unwrap()).collect();
    }

    #[test]
    fn threads_never_pass_a_cap_nor_lose_a_count() {
        let bench = Arc::new(Bench::new(3));
        bench.reserve("own", Some(2));
        let running = Arc::new(AtomicU32::new(0));
        let threads: Vec<_> = ["own", "own", "f", "g"]
            .into_iter()
            .map(|function| {
                let (bench, running) = (bench.clone(), running.clone());
                std::thread::spawn(move || {
                    for _ in 0..5_000 {
                        if let Ok(permit) = bench.take(function) {
                            assert!(running.fetch_add(1, Ordering::SeqCst) < 3);
                            running.fetch_sub(1, Ordering::SeqCst);
                            drop(permit);
                        }
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(bench.permits.in_use(), 0);
        assert!(bench.take("f").is_ok() && bench.take("own").is_ok());
    }

    proptest::proptest! {
        /// Reservations come and go while invocations do: at no time does a function with a reservation hold more than
        /// the greatest it was ever admitted under, and in the end every count is back.
        #[test]
        fn counts_come_back(steps in proptest::collection::vec((0usize..3, 0u8..5, 0u32..4), 0..60)) {
            let bench = Bench::new(4);
            let names = ["a", "b", "c"];
            let mut held: BTreeMap<usize, Vec<Permit>> = BTreeMap::new();
            for (who, what, number) in steps {
                let mine = held.entry(who).or_default();
                match what {
                    0 => bench.reserve(names[who], Some(number)),
                    1 => bench.reserve(names[who], None),
                    2 => drop(mine.pop()),
                    _ => {
                        let reserved = bench.shares.load().of(&name(names[who])).reserved;
                        match bench.take(names[who]) {
                            Ok(permit) => {
                                mine.push(permit);
                                proptest::prop_assert!(reserved.is_none_or(|most| mine.len() <= most as usize));
                            }
                            Err(reason) => proptest::prop_assert_eq!(reason == RESERVED, reserved.is_some()),
                        }
                    }
                }
                let all: usize = held.values().map(Vec::len).sum();
                proptest::prop_assert_eq!(bench.permits.in_use() as usize, all);
            }
            held.clear();
            names.iter().for_each(|function| bench.reserve(function, None));
            let all: Vec<_> = (0..4).map(|_| bench.take("a")).collect();
            proptest::prop_assert!(all.iter().all(Result::is_ok) && bench.take("a").is_err());
        }
    }
}
