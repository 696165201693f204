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
    /// Time for its Init, or for its restore.
    pub init_us: u64,
    /// Whether it was restored from a snapshot.
    #[serde(default)]
    pub restored: bool,
    /// Why it was not, if its version is to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub without_snapshot: Option<String>,
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

/// `GET|PUT /tidegate/v1/functions/{name}/scaling?Qualifier=`: what changes the provisioned concurrency of a version or
/// an alias by itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scaling {
    /// Never less than this; 0 unless given.
    #[serde(default)]
    pub min: u32,
    /// Never more than this.
    pub max: u32,
    /// The share of provisioned instances that is to be in use, more than 0, at most 1. Left out: the use is not followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub utilisation: Option<f64>,
    /// Less is kept only after less was needed for so long, seconds; 300 unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cool_down_s: Option<u32>,
    /// Times in which more than `min` is kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub windows: Vec<ScalingWindow>,
    /// How it stands; in answers only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub now: Option<ScalingNow>,
}

/// A time that comes again and again, in which at least `count` is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScalingWindow {
    /// When it opens: minute, hour, day of the month, month, weekday.
    pub cron: String,
    /// By which clock: an IANA name such as `Europe/Berlin`; `UTC` unless given.
    #[serde(default = "utc")]
    pub time_zone: String,
    /// How long it stays open, seconds.
    pub duration_s: u32,
    /// What is kept.
    pub count: u32,
}

fn utc() -> String {
    "UTC".to_owned()
}

/// How scaling stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScalingNow {
    /// The least that is kept now, open windows included.
    pub min: u32,
    /// What is provisioned.
    pub provisioned: u32,
    /// Of that, in use.
    pub in_use: u32,
    /// Why it is so much: `bounds`, `busy`, `calm` or `steady`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
    /// Why the newest change was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// `POST /tidegate/v1/functions/{name}/warm-up?Qualifier=`, and its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WarmUp {
    /// So many invocations shall find an initialised instance, from 1.
    #[serde(alias = "Count")]
    pub count: u32,
}
