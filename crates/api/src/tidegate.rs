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

/// `GET /tidegate/v1/explain/{request_id}`: what has become of an invocation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The invocation's id.
    pub request_id: String,
    /// The function.
    pub function: String,
    /// The version that ran or would have.
    pub version: String,
    /// When it came, milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// `success`, `function_error`, `throttled`, `draining` or `failed`.
    pub end: String,
    /// Why, for all but success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// One word for the reason of a throttle, as in the metrics.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throttle: Option<String>,
    /// The worker's number of the instance that ran it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<u64>,
    /// Whether the instance was a provisioned one, or why not; absent if the version has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lane: Option<String>,
    /// How the instance was started, if this was its first invocation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cold_start: Option<ColdStart>,
    /// In their order; together they are the time from the router's door and back.
    pub steps: Vec<Step>,
}

/// How an instance was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColdStart {
    /// Why.
    pub reason: String,
    /// Time for its room and its sandbox.
    pub sandbox_us: u64,
    /// Time for its Init.
    pub init_us: u64,
    /// Idle instances that were stopped to make room for it.
    pub evicted: u32,
}

/// One step of an invocation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// `route`, `admit`, `queue`, `slot`, `invoke` or `answer`.
    pub name: String,
    /// How long it took.
    pub us: u64,
    /// What it waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
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
