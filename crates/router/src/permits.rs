//! The count of invocations in flight. A permit returns when it is dropped, however the invocation ends.

use model::invocation::ThrottleReason;
use scheduler::admission::{Caps, InUse, admit};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Counts permits with one atomic; no lock is shared by functions.
#[derive(Debug, Clone)]
pub struct Permits {
    in_use: Arc<AtomicU32>,
    account_max: u32,
}

/// One invocation in flight.
#[derive(Debug)]
pub struct Permit {
    in_use: Arc<AtomicU32>,
}

impl Permits {
    /// No permit is in use.
    pub fn new(account_max: u32) -> Permits {
        Permits { in_use: Arc::default(), account_max }
    }

    /// Takes a permit, or says why not.
    pub fn take(&self) -> Result<Permit, ThrottleReason> {
        let before = self.in_use.fetch_add(1, Ordering::AcqRel);
        let permit = Permit { in_use: self.in_use.clone() };
        let caps = Caps { account: self.account_max, reserved: None, reserved_total: 0 };
        // A refused permit is dropped here, which gives the count back.
        admit(InUse { account: before, function: 0 }, caps).map(|()| permit)
    }

    /// Invocations in flight now.
    pub fn in_use(&self) -> u32 {
        self.in_use.load(Ordering::Acquire)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.in_use.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permits_come_back() {
        let permits = Permits::new(2);
        let first = permits.take().unwrap();
        let _second = permits.take().unwrap();
        assert_eq!(permits.take().unwrap_err(), ThrottleReason::ConcurrentInvocationLimitExceeded);
        assert_eq!(permits.in_use(), 2);
        drop(first);
        assert!(permits.take().is_ok());
    }
}
