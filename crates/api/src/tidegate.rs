//! Tidegate's own part of the public API, under `/tidegate/v1/`. It speaks snake_case, to be told apart from Lambda's.

use model::function::Network;
use serde::{Deserialize, Serialize};

/// `GET|PUT /tidegate/v1/functions/{name}/settings`; a PUT leaves absent fields as they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// What of the network an instance sees.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    /// Invocations that one instance runs at a time, 1 to 1,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    /// How long an invocation for which there is no concurrency may wait for it before it is throttled, milliseconds; 0
    /// throttles it at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_ms: Option<u32>,
    /// How many wait at a time, at most; only where `queue_ms` is not 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_length: Option<u32>,
}

/// `GET /tidegate/v1/functions/{name}/logs?limit=&after=&wait_ms=`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logs {
    /// Oldest first.
    pub lines: Vec<LogLine>,
    /// What to send as `after` to go on from here.
    pub cursor: String,
}

/// One line of a function's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// Milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// The version that ran.
    pub version: String,
    /// The log stream, one per instance.
    pub stream: String,
    /// The text without its line end.
    pub text: String,
}
