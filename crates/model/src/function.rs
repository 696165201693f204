//! A function as the registry keeps it, and the part of it that runs.

use crate::arn::FunctionArn;
use crate::digest::Digest;
use crate::name::{FunctionName, Version};
use crate::runtime::Runtime;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub use crate::snapshot::{Snapshot, Target};

/// A function: one record of the registry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Function {
    /// The name, unique in the account.
    pub name: FunctionName,
    /// What the user configured.
    pub config: Config,
    /// The code package.
    pub code: Code,
    /// At most 50 tags.
    pub tags: BTreeMap<String, String>,
    /// Where the function stands.
    pub state: State,
    /// The newest update, once there was one or creation has ended.
    pub last_update: Option<LastUpdate>,
    /// Changes at each write, and again when an asynchronous change completes.
    pub revision_id: String,
    /// Changes whenever what runs changes; names the pool of instances.
    pub generation: Generation,
    /// Milliseconds since the Unix epoch.
    pub last_modified_ms: u64,
    /// The greatest number that was ever given to a version of this function; 0 before the first.
    #[serde(default)]
    pub last_version: u64,
}

/// Names one runnable state of one function; never used twice in a data folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Generation(pub u64);

/// What the user configured. Defaults are filled in: every field is what the API echoes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// `None` for images.
    pub runtime: Option<Runtime>,
    /// The role's ARN, stored and echoed.
    pub role: String,
    /// `module.function`, or whatever the runtime makes of it; `None` for images.
    pub handler: Option<String>,
    /// Up to 256 characters.
    pub description: String,
    /// 1 to 900 s.
    pub timeout_s: u32,
    /// 128 to 10,240 MB.
    pub memory_mb: u32,
    /// Size of `/tmp`, 512 to 10,240 MB.
    pub ephemeral_mb: u32,
    /// Environment variables, at most 4 KB as JSON.
    pub environment: BTreeMap<String, String>,
    /// `x86_64` or `arm64`.
    pub architecture: String,
    /// `Zip` or `Image`.
    pub package_type: String,
    /// Tidegate's own setting: may the function reach the network?
    pub network: Network,
    /// Tidegate's own setting: invocations that one instance runs at a time, 1 to 1,000.
    #[serde(default = "one")]
    pub instance_concurrency: u32,
    /// Fields that are stored and echoed but not honoured yet: name to JSON text.
    pub echoed: BTreeMap<String, String>,
}

/// What records that are older than the setting mean.
fn one() -> u32 {
    1
}

/// What of the network an instance sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// Outbound connections through NAT, with DNS.
    #[default]
    Nat,
    /// Its own loopback only.
    None,
}

/// A code package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Code {
    /// SHA-256 of the zip file.
    pub digest: Digest,
    /// Bytes of the zip file.
    pub size_bytes: u64,
}

/// Where a function stands. The moves are in `scheduler::function_state`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// Being made ready; invocations are refused.
    Pending(Reason),
    /// Invocations are taken.
    Active,
    /// Not invoked for long; the next invocation makes it Pending.
    Inactive(Reason),
    /// Could not be made ready.
    Failed(Reason),
}

/// Why a function is in its state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// One of the API's reason codes, `Creating` for example.
    pub code: String,
    /// For people.
    pub text: String,
}

/// How the newest update stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LastUpdate {
    /// Under way; invocations still see the earlier code and configuration.
    InProgress(Reason),
    /// Done.
    Successful,
    /// Refused; invocations still see the earlier code and configuration.
    Failed(Reason),
}

/// What runs: one version of one function, frozen. Shared by everything that carries an invocation.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    /// The unqualified ARN.
    pub arn: FunctionArn,
    /// The version.
    pub version: Version,
    /// Names the pool of instances that run this.
    pub generation: Generation,
    /// The runtime.
    pub runtime: Runtime,
    /// The handler; empty if the runtime needs none.
    pub handler: String,
    /// Milliseconds an invocation may take.
    pub timeout_ms: u64,
    /// Memory limit; CPU follows it.
    pub memory_mb: u32,
    /// Size of `/tmp`.
    pub ephemeral_mb: u32,
    /// Environment variables.
    pub environment: BTreeMap<String, String>,
    /// The unpacked package that is mounted at `/var/task`.
    pub package: Digest,
    /// What of the network an instance sees.
    pub network: Network,
    /// Invocations that one instance runs at a time.
    pub instance_concurrency: u32,
    /// `/aws/lambda/<name>` unless configured.
    pub log_group: String,
    /// Whether its instances are to be restored from a snapshot (SnapStart).
    pub snap_start: bool,
}

impl Spec {
    /// The function's name.
    pub fn name(&self) -> &FunctionName {
        &self.arn.name
    }
}
