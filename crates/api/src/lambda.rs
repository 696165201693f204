//! Answers of the public Lambda API, as the service model of August 2026 spells them (`2015-03-31`). Fields that are
//! `None` are left out, as AWS does.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// `FunctionConfiguration`: the answer of most function operations.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct FunctionConfiguration {
    /// The name.
    pub function_name: String,
    /// The ARN, qualified if the request was.
    pub function_arn: String,
    /// The runtime's identifier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
    /// The role's ARN.
    pub role: String,
    /// The handler.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handler: Option<String>,
    /// Bytes of the zip.
    pub code_size: u64,
    /// The description.
    pub description: String,
    /// Seconds.
    pub timeout: u32,
    /// MB.
    pub memory_size: u32,
    /// `2026-11-23T04:48:45.123+0000`
    pub last_modified: String,
    /// SHA-256 of the zip, base64.
    pub code_sha256: String,
    /// `$LATEST` or a number.
    pub version: String,
    /// Echoed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vpc_config: Option<Value>,
    /// Echoed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letter_config: Option<Value>,
    /// Left out if there are no variables.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment: Option<Environment>,
    /// Echoed.
    #[serde(rename = "KMSKeyArn", skip_serializing_if = "Option::is_none")]
    pub kms_key_arn: Option<Value>,
    /// Echoed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracing_config: Option<Value>,
    /// Changes at each write.
    pub revision_id: String,
    /// Echoed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<Value>,
    /// `Pending`, `Active`, `Inactive` or `Failed`; left out in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// For people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_reason: Option<String>,
    /// `Creating`, for example.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_reason_code: Option<String>,
    /// `InProgress`, `Successful` or `Failed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_update_status: Option<String>,
    /// For people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_update_status_reason: Option<String>,
    /// `Creating`, for example.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_update_status_reason_code: Option<String>,
    /// Echoed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_system_configs: Option<Value>,
    /// `Zip` or `Image`.
    pub package_type: String,
    /// Echoed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_config_response: Option<Value>,
    /// One of `x86_64` and `arm64`.
    pub architectures: Vec<String>,
    /// Size of `/tmp`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ephemeral_storage: Option<EphemeralStorage>,
    /// `{"ApplyOn": …, "OptimizationStatus": "Off"}`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snap_start: Option<Value>,
    /// Left out in lists and for images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime_version_config: Option<RuntimeVersionConfig>,
    /// `{"LogFormat": …, "LogGroup": …}`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logging_config: Option<Value>,
    /// Echoed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenancy_config: Option<Value>,
    /// Echoed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity_provider_config: Option<Value>,
    /// Echoed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub durable_config: Option<Value>,
}

/// Environment variables.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Environment {
    /// Name to value.
    pub variables: BTreeMap<String, String>,
}

/// Size of `/tmp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct EphemeralStorage {
    /// MB.
    pub size: u32,
}

/// Which build of the runtime a function uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RuntimeVersionConfig {
    /// `arn:aws:lambda:<region>::runtime:<64 hexadecimal digits>`
    pub runtime_version_arn: String,
}

/// The answer of GetFunction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct GetFunction {
    /// The configuration.
    pub configuration: FunctionConfiguration,
    /// Where the code can be had.
    pub code: CodeLocation,
    /// Left out if there are none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// Left out if nothing is reserved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<Concurrency>,
}

/// What a function has reserved of the account's concurrency.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Concurrency {
    /// Left out if nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reserved_concurrent_executions: Option<u32>,
}

/// Where a function's code can be had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct CodeLocation {
    /// `S3`, since clients know no other word for a zip behind a URL.
    pub repository_type: String,
    /// A URL that works for ten minutes.
    pub location: String,
}

/// The answer of ListFunctions.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ListFunctions {
    /// Where the next page starts, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_marker: Option<String>,
    /// In the order of their names.
    pub functions: Vec<FunctionConfiguration>,
}

/// The answer of ListVersionsByFunction.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ListVersions {
    /// Where the next page starts, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_marker: Option<String>,
    /// `$LATEST`, then in the order of their numbers.
    pub versions: Vec<FunctionConfiguration>,
}

/// `AliasConfiguration`: the answer of most alias operations.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct AliasConfiguration {
    /// The function's ARN, qualified by the alias.
    pub alias_arn: String,
    /// The name.
    pub name: String,
    /// `$LATEST` or a number.
    pub function_version: String,
    /// The description.
    pub description: String,
    /// Left out if all invocations go to the one version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routing_config: Option<RoutingConfig>,
    /// Changes at each write.
    pub revision_id: String,
}

/// How an alias divides its invocations.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RoutingConfig {
    /// Version to share, 0 to 1; the rest goes to the alias's main version.
    pub additional_version_weights: BTreeMap<String, f64>,
}

/// The answer of ListAliases.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ListAliases {
    /// Where the next page starts, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_marker: Option<String>,
    /// In the order of their names.
    pub aliases: Vec<AliasConfiguration>,
}

/// The answer of PutProvisionedConcurrencyConfig and GetProvisionedConcurrencyConfig, and an item of the list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ProvisionedConcurrency {
    /// The version's or alias's ARN; in lists only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function_arn: Option<String>,
    /// What is wanted.
    pub requested_provisioned_concurrent_executions: u32,
    /// What is initialised.
    pub available_provisioned_concurrent_executions: u32,
    /// The same, since what is initialised is available.
    pub allocated_provisioned_concurrent_executions: u32,
    /// `IN_PROGRESS`, `READY` or `FAILED`.
    pub status: String,
    /// Why something is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_reason: Option<String>,
    /// `2019-12-31T20:28:49+0000`
    pub last_modified: String,
}

/// The answer of ListProvisionedConcurrencyConfigs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ListProvisionedConcurrency {
    /// Where the next page starts, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_marker: Option<String>,
    /// In the order of the qualifiers.
    pub provisioned_concurrency_configs: Vec<ProvisionedConcurrency>,
}

/// The answer of ListTags.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ListTags {
    /// Key to value.
    pub tags: BTreeMap<String, String>,
}

/// The answer of GetAccountSettings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct AccountSettings {
    /// What is allowed.
    pub account_limit: AccountLimit,
    /// What is used.
    pub account_usage: AccountUsage,
}

/// What an account is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct AccountLimit {
    /// Bytes of all packages.
    pub total_code_size: u64,
    /// Bytes of one unpacked package.
    pub code_size_unzipped: u64,
    /// Bytes of one zip in a request.
    pub code_size_zipped: u64,
    /// Invocations at once.
    pub concurrent_executions: u32,
    /// Those that no function has reserved.
    pub unreserved_concurrent_executions: u32,
}

/// What an account uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct AccountUsage {
    /// Bytes of all functions' packages.
    pub total_code_size: u64,
    /// Functions.
    pub function_count: u64,
}
