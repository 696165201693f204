//! May one more invocation run now? The concurrency of the account and of the function.
//!
//! The account's concurrency is split: a function with reserved concurrency has its share to itself and is capped by
//! it; all others compete for the rest (AWS Lambda developer guide, "Configuring reserved concurrency"). So no share
//! needs to know of another, and the sum can never pass the account's limit, unless a reservation is made or removed
//! while invocations run: they stay counted where they were admitted, and until they have ended the reservation wins.

use model::invocation::ThrottleReason;

/// Permits that are held now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InUse {
    /// By all functions of the account.
    pub account: u32,
    /// Those that were given to functions without reserved concurrency.
    pub unreserved: u32,
    /// By this function.
    pub function: u32,
}

/// What may be held at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caps {
    /// The account's concurrency.
    pub account: u32,
    /// This function's reserved concurrency, if it has any; 0 refuses everything.
    pub reserved: Option<u32>,
    /// The sum of all reserved concurrency in the account, this function's included. Whoever sets reservations keeps it
    /// below the account's concurrency; beyond that the reservations win and the account's limit does not hold.
    pub reserved_total: u32,
}

/// Admits one more invocation, or names the limit that refuses it.
pub fn admit(in_use: InUse, caps: Caps) -> Result<(), ThrottleReason> {
    match caps.reserved {
        Some(reserved) if in_use.function < reserved => Ok(()),
        Some(_) => Err(ThrottleReason::ReservedFunctionConcurrentInvocationLimitExceeded),
        None if in_use.unreserved < unreserved(caps) && in_use.account < caps.account => Ok(()),
        None => Err(ThrottleReason::ConcurrentInvocationLimitExceeded),
    }
}

/// A throttle: what the API calls it, and how it came to that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Throttle {
    /// The API's word.
    pub reason: ThrottleReason,
    /// The whole reason.
    pub cause: Cause,
}

/// How it came to a throttle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// The account's concurrency is used up, or what of it is not reserved.
    Account,
    /// The function's reserved concurrency is used up.
    Reserved,
    /// Concurrency is used up, and the function's queue for it is full.
    QueueFull,
    /// Concurrency is used up, and all queues together hold as many as they may.
    AllQueuesFull,
    /// Concurrency did not come free while the invocation was in its function's queue.
    QueuedTooLong,
    /// Too many invocations wait for an instance of the version.
    InstanceQueueFull,
    /// The machine has no room for an instance, or none came free in time.
    NoCapacity,
}

impl Cause {
    /// All of them.
    pub const ALL: [Cause; 7] = [
        Cause::Account,
        Cause::Reserved,
        Cause::QueueFull,
        Cause::AllQueuesFull,
        Cause::QueuedTooLong,
        Cause::InstanceQueueFull,
        Cause::NoCapacity,
    ];

    /// Of a refused admission.
    pub fn of(reason: ThrottleReason) -> Cause {
        match reason {
            ThrottleReason::ConcurrentInvocationLimitExceeded => Cause::Account,
            ThrottleReason::ReservedFunctionConcurrentInvocationLimitExceeded => Cause::Reserved,
        }
    }

    /// One word for counting.
    pub fn label(self) -> &'static str {
        match self {
            Cause::Account => "account",
            Cause::Reserved => "reserved",
            Cause::QueueFull => "queue_full",
            Cause::AllQueuesFull => "all_queues_full",
            Cause::QueuedTooLong => "queued_too_long",
            Cause::InstanceQueueFull => "instance_queue_full",
            Cause::NoCapacity => "no_capacity",
        }
    }

    /// For people.
    pub fn text(self) -> &'static str {
        match self {
            Cause::Account => "the account's unreserved concurrency is used up",
            Cause::Reserved => "the function's reserved concurrency is used up",
            Cause::QueueFull => "concurrency is used up and the function's queue is full",
            Cause::AllQueuesFull => "concurrency is used up and all queues together are full",
            Cause::QueuedTooLong => "no concurrency came free while the invocation waited in the function's queue",
            Cause::InstanceQueueFull => "too many invocations wait for an instance of this version",
            Cause::NoCapacity => "the machine has no room for an instance and none came free in time",
        }
    }
}

/// What all functions without a reservation have together.
fn unreserved(caps: Caps) -> u32 {
    caps.account.saturating_sub(caps.reserved_total)
}

/// A reservation that somebody wants to make, and what it meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reservation {
    /// What the function shall have.
    pub wanted: u32,
    /// What it has, 0 for none.
    pub present: u32,
    /// What its versions have provisioned; part of what it reserves.
    pub provisioned: u32,
    /// What is promised to other functions: reserved, or provisioned without a reservation.
    pub others: u32,
    /// The account's concurrency.
    pub account: u32,
    /// What must be left to functions without a reservation; no more than the account's concurrency counts.
    pub unreserved_min: u32,
}

/// Why a reservation is not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotReserved {
    /// Too little would be left to functions without a reservation.
    UnreservedBelowMinimum {
        /// What must be left.
        minimum: u32,
    },
    /// The function's versions have more provisioned than that.
    BelowProvisioned {
        /// What they have.
        provisioned: u32,
    },
}

/// May the reservation be made? To reserve less than before is allowed however full the account is.
pub fn may_reserve(reservation: Reservation) -> Result<(), NotReserved> {
    let Reservation { wanted, present, provisioned, others, account, unreserved_min } = reservation;
    let minimum = unreserved_min.min(account);
    let left = i64::from(account) - i64::from(others) - i64::from(wanted);
    if wanted > present && left < i64::from(minimum) {
        return Err(NotReserved::UnreservedBelowMinimum { minimum });
    }
    if wanted < provisioned {
        return Err(NotReserved::BelowProvisioned { provisioned });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCOUNT: Result<(), ThrottleReason> = Err(ThrottleReason::ConcurrentInvocationLimitExceeded);
    const RESERVED: Result<(), ThrottleReason> = Err(ThrottleReason::ReservedFunctionConcurrentInvocationLimitExceeded);

    #[test]
    fn admissions() {
        // in use in the account, outside reservations, by the function, account's cap, reserved, reserved in total
        for (account, unreserved, function, cap, reserved, reserved_total, want) in [
            (0, 0, 0, 10, None, 0, Ok(())),
            (9, 9, 9, 10, None, 0, Ok(())),
            (10, 10, 1, 10, None, 0, ACCOUNT),
            (11, 11, 0, 10, None, 0, ACCOUNT),
            (0, 0, 0, 0, None, 0, ACCOUNT),
            // Others' reservations are out of reach.
            (6, 6, 0, 10, None, 3, Ok(())),
            (7, 7, 0, 10, None, 3, ACCOUNT),
            (9, 6, 0, 10, None, 3, Ok(())),
            (0, 0, 0, 10, None, 10, ACCOUNT),
            (0, 0, 0, 10, None, 11, ACCOUNT),
            // A reservation was removed while what it admitted still runs.
            (10, 2, 8, 10, None, 0, ACCOUNT),
            (9, 2, 7, 10, None, 0, Ok(())),
            // A reservation is the function's own, and all it has.
            (10, 10, 2, 10, Some(3), 3, Ok(())),
            (3, 0, 3, 10, Some(3), 3, RESERVED),
            (4, 0, 4, 10, Some(3), 3, RESERVED),
            (0, 0, 0, 10, Some(0), 0, RESERVED),
        ] {
            let in_use = InUse { account, unreserved, function };
            let got = admit(in_use, Caps { account: cap, reserved, reserved_total });
            assert_eq!(got, want, "{in_use:?} {cap} {reserved:?} {reserved_total}");
        }
    }

    #[test]
    fn reservations() {
        use NotReserved::{BelowProvisioned, UnreservedBelowMinimum};
        let check = |wanted, present, provisioned, others, account, want| {
            let reservation = Reservation { wanted, present, provisioned, others, account, unreserved_min: 100 };
            assert_eq!(may_reserve(reservation), want, "{reservation:?}");
        };
        let too_little = |minimum| Err(UnreservedBelowMinimum { minimum });
        check(900, 0, 0, 0, 1_000, Ok(()));
        check(901, 0, 0, 0, 1_000, too_little(100));
        check(u32::MAX, 0, 0, u32::MAX, 1_000, too_little(100));
        check(500, 0, 0, 400, 1_000, Ok(()));
        check(501, 0, 0, 400, 1_000, too_little(100));
        // A small account has nothing to reserve but nothing itself.
        check(1, 0, 0, 0, 10, too_little(10));
        check(0, 0, 0, 0, 10, Ok(()));
        // The account has shrunk since.
        check(400, 500, 0, 900, 1_000, Ok(()));
        check(501, 500, 0, 900, 1_000, too_little(100));
        check(1, 0, 2, 0, 1_000, Err(BelowProvisioned { provisioned: 2 }));
        check(2, 0, 2, 0, 1_000, Ok(()));
    }

    proptest::proptest! {
        /// Whatever arrives and leaves, the account's limit holds, and an unreserved crowd leaves reservations alone.
        #[test]
        fn limit_holds(cap in 0u32..20, reserved in 0u32..20, steps in proptest::collection::vec(0u8..4, 0..80)) {
            let reserved = reserved.min(cap);
            let (mut with, mut without) = (0u32, 0u32);
            for step in steps {
                match step {
                    2 => with = with.saturating_sub(1),
                    3 => without = without.saturating_sub(1),
                    who => {
                        let function = if who == 0 { with } else { without };
                        let in_use = InUse { account: with + without, unreserved: without, function };
                        let caps = Caps { account: cap, reserved: (who == 0).then_some(reserved), reserved_total: reserved };
                        if admit(in_use, caps).is_ok() {
                            *(if who == 0 { &mut with } else { &mut without }) += 1;
                        }
                    }
                }
                proptest::prop_assert!(with + without <= cap && with <= reserved && without <= cap - reserved);
            }
        }
    }
}
