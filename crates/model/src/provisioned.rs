//! Provisioned concurrency as the registry keeps it: how much is wanted, and who changes that by itself.

use crate::name::FunctionName;
use serde::{Deserialize, Serialize};

/// Provisioned concurrency of a version or an alias: one record of the registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provisioned {
    /// The function.
    pub function: FunctionName,
    /// The version's number or the alias's name.
    pub qualifier: String,
    /// Invocations for which initialised instances are kept, from 1.
    pub requested: u32,
    /// Milliseconds since the Unix epoch.
    pub last_modified_ms: u64,
}

/// What changes the provisioned concurrency of a version or an alias by itself: one record of the registry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scaling {
    /// The function.
    pub function: FunctionName,
    /// The version's number or the alias's name.
    pub qualifier: String,
    /// Never less than this.
    pub min: u32,
    /// Never more than this, from 1.
    pub max: u32,
    /// Follows the use of the provisioned instances; without it `min` and the windows alone decide.
    pub tracking: Option<Tracking>,
    /// Times in which more than `min` is kept.
    pub windows: Vec<Window>,
}

/// Following the use.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Tracking {
    /// The share of provisioned instances that is to be in use, more than 0, at most 1.
    pub utilisation: f64,
    /// Less is kept only after less was needed for so long, seconds.
    pub cool_down_s: u32,
}

/// A time that comes again and again, in which at least `count` is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// When it begins: five fields of cron, minute to weekday.
    pub cron: String,
    /// Where the clock hangs by which it begins: an IANA name such as `Europe/Berlin`.
    pub time_zone: String,
    /// How long it lasts, seconds.
    pub duration_s: u32,
    /// What is kept.
    pub count: u32,
}
