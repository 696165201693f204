//! What of the account's concurrency a function has to itself, and what it does when there is none for it.

use crate::name::FunctionName;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// How one function shares in the account's concurrency: one record of the registry, kept while it differs from the
/// default. Not part of any version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Share {
    /// Invocations that the function may run at a time, kept for it alone; 0 throttles all. `None`: it competes with all
    /// other functions that have none.
    pub reserved: Option<u32>,
    /// Tidegate's own setting: invocations for which there is no concurrency wait here. `None`: they are throttled.
    #[serde(default)]
    pub queue: Option<Queue>,
}

/// Where invocations wait for concurrency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queue {
    /// The longest wait, milliseconds, from 1.
    pub wait_ms: u32,
    /// Invocations that wait at a time, at most, from 1.
    pub length: u32,
}

/// All functions' shares as of one moment. Written by `control`, read by `router`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shares {
    /// By name; those that are missing have the default.
    functions: HashMap<FunctionName, Share>,
    reserved_total: u32,
}

impl Shares {
    /// A function's share.
    pub fn of(&self, name: &FunctionName) -> Share {
        self.functions.get(name).copied().unwrap_or_default()
    }

    /// The sum of all reserved concurrency.
    pub fn reserved_total(&self) -> u32 {
        self.reserved_total
    }

    /// Replaces a function's share; the default takes no room.
    pub fn set(&mut self, name: FunctionName, share: Share) {
        if share == Share::default() {
            self.functions.remove(&name);
        } else {
            self.functions.insert(name, share);
        }
        let reserved = self.functions.values().map(|share| share.reserved.unwrap_or(0));
        self.reserved_total = reserved.fold(0, u32::saturating_add);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_follow() {
        let name = |text: &str| FunctionName::parse(text).unwrap();
        let mut shares = Shares::default();
        for (function, reserved, total) in
            [("a", Some(5), 5), ("b", Some(0), 5), ("a", Some(7), 7), ("c", Some(1), 8), ("a", None, 1), ("c", None, 0)]
        {
            shares.set(name(function), Share { reserved, queue: None });
            assert_eq!((shares.of(&name(function)).reserved, shares.reserved_total()), (reserved, total), "{function}");
        }
        shares.set(name("b"), Share::default());
        assert_eq!(shares, Shares::default());
    }
}
