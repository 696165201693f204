//! How long Init may take, and whether it is tried again.
//!
//! On demand, Init has a limit of its own (10 s). When it fails or runs out of that time, it is tried once more inside
//! the first invocation, now under the function's timeout; the second result is what the caller sees
//! (`lambda-semantics.md` section 5; AWS Lambda developer guide, "Understanding the Lambda execution environment
//! lifecycle").

/// Tries of Init that one instance's first invocation may cost.
pub const INIT_ATTEMPTS_MAX: u32 = 2;

/// The limits that a function's Init lives under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InitLimits {
    /// Time for the first try, `model::Limits::init_ms`.
    pub init_ms: u64,
    /// The function's timeout.
    pub timeout_ms: u64,
}

/// Why an instance is initialised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Initialization {
    /// For an invocation, or ahead of one.
    OnDemand,
    /// For provisioned concurrency.
    Provisioned,
}

/// The least time that Init of a provisioned instance has.
pub const PROVISIONED_INIT_MS: u64 = 130_000;

impl InitLimits {
    /// The limits for what is initialised: nobody waits for a provisioned instance, so that it has 130 s, or the
    /// function's timeout if that is longer; for all others `init_ms` counts.
    pub fn of(initialization: Initialization, init_ms: u64, timeout_ms: u64) -> InitLimits {
        let init_ms = match initialization {
            Initialization::OnDemand => init_ms,
            Initialization::Provisioned => PROVISIONED_INIT_MS.max(timeout_ms),
        };
        InitLimits { init_ms, timeout_ms }
    }
}

/// What follows a failed Init.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterFailedInit {
    /// Start anew and try again inside the invocation that waits.
    Retry {
        /// Time for the retry and the invocation together.
        limit_ms: u64,
    },
    /// The failure is the outcome of the invocation that waits.
    Report(ReportReason),
}

/// Why a failed Init is not tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReportReason {
    /// It has been tried [`INIT_ATTEMPTS_MAX`] times.
    AttemptsUsed,
    /// No invocation waits, so there is none inside of which to try.
    NobodyWaits,
}

/// Decides after try number `attempt` (from 1) has failed or run out of time.
pub fn after_failed_init(attempt: u32, somebody_waits: bool, limits: InitLimits) -> AfterFailedInit {
    if attempt >= INIT_ATTEMPTS_MAX {
        AfterFailedInit::Report(ReportReason::AttemptsUsed)
    } else if !somebody_waits {
        AfterFailedInit::Report(ReportReason::NobodyWaits)
    } else {
        AfterFailedInit::Retry { limit_ms: init_limit_ms(attempt + 1, limits) }
    }
}

/// Time that try number `attempt` (from 1) has: Init's own limit at first, the function's timeout afterwards.
pub fn init_limit_ms(attempt: u32, limits: InitLimits) -> u64 {
    if attempt <= 1 { limits.init_ms } else { limits.timeout_ms }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        let limits = InitLimits { init_ms: 10_000, timeout_ms: 3_000 };
        let retry = AfterFailedInit::Retry { limit_ms: 3_000 };
        for (attempt, somebody_waits, want) in [
            (0, true, AfterFailedInit::Retry { limit_ms: 10_000 }),
            (1, true, retry),
            (1, false, AfterFailedInit::Report(ReportReason::NobodyWaits)),
            (2, true, AfterFailedInit::Report(ReportReason::AttemptsUsed)),
            (2, false, AfterFailedInit::Report(ReportReason::AttemptsUsed)),
            (u32::MAX, true, AfterFailedInit::Report(ReportReason::AttemptsUsed)),
        ] {
            assert_eq!(after_failed_init(attempt, somebody_waits, limits), want, "{attempt} {somebody_waits}");
        }
        assert_eq!((init_limit_ms(1, limits), init_limit_ms(2, limits)), (10_000, 3_000));
    }

    #[test]
    fn provisioned_instances_have_more_time() {
        for (initialization, timeout_ms, want) in [
            (Initialization::OnDemand, 900_000, 10_000),
            (Initialization::Provisioned, 3_000, 130_000),
            (Initialization::Provisioned, 900_000, 900_000),
        ] {
            let limits = InitLimits::of(initialization, 10_000, timeout_ms);
            assert_eq!((init_limit_ms(1, limits), limits.timeout_ms), (want, timeout_ms), "{initialization:?}");
        }
    }
}
