//! Provisioned concurrency: may it be had, how it is divided among versions, how it stands, and how much of it there
//! should be.

use model::Version;
use model::provisioned::Tracking;
use model::snapshot::Split;

/// What somebody wants to provision, and what it meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// What the version or alias shall have.
    pub wanted: u32,
    /// What the function's other versions and aliases have.
    pub others_of_function: u32,
    /// The function's reserved concurrency.
    pub reserved: Option<u32>,
    /// What is promised to other functions: reserved, or provisioned without a reservation.
    pub others: u32,
    /// The account's concurrency.
    pub account: u32,
    /// What must be left to functions to which nothing is promised; no more than the account's concurrency counts.
    pub unreserved_min: u32,
}

/// Why provisioned concurrency is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotProvisioned {
    /// The function reserves less.
    MoreThanReserved,
    /// The account has less.
    MoreThanUnreserved {
        /// What no function has reserved.
        unreserved: u32,
    },
    /// Too little would be left to others.
    UnreservedBelowMinimum {
        /// What must be left.
        minimum: u32,
    },
}

/// May it be provisioned? Of a function with reserved concurrency it is a part of that; else a part of the account's.
pub fn may_provision(wish: Wish) -> Result<(), NotProvisioned> {
    let Wish { wanted, others_of_function, reserved, others, account, unreserved_min } = wish;
    let of_function = u64::from(wanted) + u64::from(others_of_function);
    if let Some(reserved) = reserved {
        return match of_function > u64::from(reserved) {
            true => Err(NotProvisioned::MoreThanReserved),
            false => Ok(()),
        };
    }
    let unreserved = account.saturating_sub(others);
    if of_function > u64::from(unreserved) {
        return Err(NotProvisioned::MoreThanUnreserved { unreserved });
    }
    let minimum = unreserved_min.min(account);
    match u64::from(unreserved) - of_function < u64::from(minimum) {
        true => Err(NotProvisioned::UnreservedBelowMinimum { minimum }),
        false => Ok(()),
    }
}

/// Divides what an alias has among its versions by their weights. Each version that gets invocations gets at least 1,
/// if there are 2 or more; the sum is what the alias has.
pub fn divide(count: u32, split: &Split) -> Vec<(Version, u32)> {
    let Some((additional, weight)) = split.additional else { return vec![(split.main, count)] };
    let exact = (f64::from(count) * weight).round();
    // In range, since a weight is at most 1.
    let mut share = (exact as u32).min(count);
    if count >= 2 && weight > 0.0 && weight < 1.0 {
        share = share.clamp(1, count - 1);
    }
    vec![(split.main, count - share), (Version::Number(additional), share)]
}

/// Instances for so many invocations.
pub fn instances(concurrency: u32, slots_per_instance: u32) -> u32 {
    concurrency.div_ceil(slots_per_instance.max(1))
}

/// One version's part of what is provisioned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Invocations that it is to be ready for.
    pub wanted: u32,
    /// Instances that are ready, and invocations that each of them runs at a time.
    pub ready: u32,
    /// See `ready`.
    pub slots_per_instance: u32,
    /// Whether the newest start has failed, and none has succeeded since.
    pub failed: bool,
}

/// How provisioned concurrency stands, as the API spells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Some is missing.
    InProgress,
    /// All is there.
    Ready,
    /// Some is missing, since the function fails to start.
    Failed,
}

/// What is there of the parts together, and how they stand together.
pub fn standing(parts: &[Part]) -> (u32, Status) {
    let there = |part: &Part| part.wanted.min(part.ready.saturating_mul(part.slots_per_instance.max(1)));
    let allocated = parts.iter().map(there).fold(0, u32::saturating_add);
    let missing: Vec<&Part> = parts.iter().filter(|part| there(part) < part.wanted).collect();
    let status = match missing.iter().any(|part| part.failed) {
        _ if missing.is_empty() => Status::Ready,
        true => Status::Failed,
        false => Status::InProgress,
    };
    (allocated, status)
}

/// What scaling goes by: bounds as they are now, windows included.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bounds {
    /// Never less.
    pub min: u32,
    /// Never more; wins over `min`.
    pub max: u32,
}

/// What is to be seen now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Milliseconds on any clock that does not go back.
    pub now_ms: u64,
    /// What is provisioned.
    pub current: u32,
    /// Of that, in use.
    pub in_use: u32,
}

/// What is remembered from one decision to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Calm {
    /// Since when less is needed than there is; `None` while it is not so.
    since_ms: Option<u64>,
    /// The most that was needed since then.
    peak: u32,
}

/// Why so much is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Because {
    /// The bounds leave no choice.
    Bounds,
    /// More is in use than the utilisation allows.
    Busy,
    /// Less was needed for the whole cool-down.
    Calm,
    /// It is as it should be, or has not been calm for long enough.
    Steady,
}

/// How much should be provisioned. More is taken at once; less after a cool-down, and then as much as was needed at
/// most during it.
pub fn scale(bounds: Bounds, tracking: Option<Tracking>, seen: Seen, calm: &mut Calm) -> (u32, Because) {
    let bounded = |count: u32| count.max(bounds.min).min(bounds.max);
    let Some(tracking) = tracking else {
        *calm = Calm::default();
        let count = bounded(bounds.min);
        return (count, if count == seen.current { Because::Steady } else { Because::Bounds });
    };
    let current = bounded(seen.current);
    if current != seen.current {
        *calm = Calm::default();
        return (current, Because::Bounds);
    }
    // A utilisation of nothing would want infinitely many; then all that is allowed is taken.
    let exact = (f64::from(seen.in_use) / tracking.utilisation.max(f64::EPSILON)).ceil();
    let needed = bounded(if exact >= f64::from(u32::MAX) { u32::MAX } else { exact as u32 });
    if needed >= current {
        *calm = Calm::default();
        return (needed, if needed > current { Because::Busy } else { Because::Steady });
    }
    let since_ms = *calm.since_ms.get_or_insert(seen.now_ms);
    calm.peak = calm.peak.max(needed);
    if seen.now_ms.saturating_sub(since_ms) < u64::from(tracking.cool_down_s) * 1_000 {
        return (current, Because::Steady);
    }
    let count = calm.peak;
    *calm = Calm::default();
    (count, Because::Calm)
}

#[cfg(test)]
mod tests;
