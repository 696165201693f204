//! May one more invocation run now? The concurrency of the account and of the function.
//!
//! The account's concurrency is split: a function with reserved concurrency has its share to itself and is capped by
//! it; all others compete for the rest (AWS Lambda developer guide, "Configuring reserved concurrency"). So no share
//! needs to know of another, and the sum can never pass the account's limit.

use model::invocation::ThrottleReason;

/// Permits that are held now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InUse {
    /// By all functions of the account that have no reserved concurrency.
    pub account: u32,
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
        None if in_use.account < caps.account.saturating_sub(caps.reserved_total) => Ok(()),
        None => Err(ThrottleReason::ConcurrentInvocationLimitExceeded),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        const ACCOUNT: Result<(), ThrottleReason> = Err(ThrottleReason::ConcurrentInvocationLimitExceeded);
        const RESERVED: Result<(), ThrottleReason> =
            Err(ThrottleReason::ReservedFunctionConcurrentInvocationLimitExceeded);
        // in use outside reservations, in use by the function, account's cap, reserved, reserved in total
        for (account, function, cap, reserved, reserved_total, want) in [
            (0, 0, 10, None, 0, Ok(())),
            (9, 9, 10, None, 0, Ok(())),
            (10, 1, 10, None, 0, ACCOUNT),
            (11, 0, 10, None, 0, ACCOUNT),
            (0, 0, 0, None, 0, ACCOUNT),
            // Others' reservations are out of reach.
            (6, 0, 10, None, 3, Ok(())),
            (7, 0, 10, None, 3, ACCOUNT),
            (0, 0, 10, None, 10, ACCOUNT),
            (0, 0, 10, None, 11, ACCOUNT),
            // A reservation is the function's own, and all it has.
            (10, 2, 10, Some(3), 3, Ok(())),
            (0, 3, 10, Some(3), 3, RESERVED),
            (0, 4, 10, Some(3), 3, RESERVED),
            (0, 0, 10, Some(0), 0, RESERVED),
        ] {
            let got = admit(InUse { account, function }, Caps { account: cap, reserved, reserved_total });
            assert_eq!(got, want, "{account} {function} {cap} {reserved:?} {reserved_total}");
        }
    }

    proptest::proptest! {
        /// Whatever arrives and leaves, the account's limit holds, and an unreserved crowd leaves reservations alone.
        #[test]
        fn limit_holds(cap in 0u32..20, reserved in 0u32..20, arrivals in proptest::collection::vec(0u8..2, 0..60)) {
            let reserved = reserved.min(cap);
            let (mut with, mut without) = (0, 0);
            for who in arrivals {
                let reserved_for = (who == 0).then_some(reserved);
                let function = if who == 0 { with } else { without };
                let caps = Caps { account: cap, reserved: reserved_for, reserved_total: reserved };
                if admit(InUse { account: without, function }, caps).is_ok() {
                    *(if who == 0 { &mut with } else { &mut without }) += 1;
                }
                proptest::prop_assert!(with + without <= cap && with <= reserved && without <= cap - reserved);
            }
        }
    }
}
