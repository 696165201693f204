//! How a function's record looks in answers: every default spelled out (`lambda-semantics.md` section 2).

use crate::validation::references::Place;
use api::lambda::{Environment, EphemeralStorage, FunctionConfiguration, RuntimeVersionConfig};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use control::AtVersion;
use model::function::{Config, LastUpdate, Reason, State};
use model::{Function, Qualifier};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use time::macros::format_description;

/// How much of a record is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// Everything.
    Full,
    /// As in lists: neither states nor the runtime's version.
    Listed,
}

/// A function's record as the API shows it. The ARN is qualified if the caller's reference was.
pub fn configuration(
    at: &AtVersion,
    place: &Place,
    qualifier: Option<&Qualifier>,
    detail: Detail,
) -> FunctionConfiguration {
    let function = &at.function;
    let config = &function.config;
    let mut shown = FunctionConfiguration {
        function_name: function.name.to_string(),
        function_arn: place.arn(&function.name, qualifier).to_string(),
        runtime: config.runtime.as_ref().map(|runtime| runtime.0.clone()),
        role: config.role.clone(),
        handler: config.handler.clone(),
        code_size: function.code.size_bytes,
        description: config.description.clone(),
        timeout: config.timeout_s,
        memory_size: config.memory_mb,
        last_modified: timestamp(function.last_modified_ms),
        code_sha256: STANDARD.encode(function.code.digest.0),
        version: at.version.to_string(),
        environment: environment(config),
        revision_id: function.revision_id.clone(),
        package_type: config.package_type.clone(),
        architectures: vec![config.architecture.clone()],
        ephemeral_storage: Some(EphemeralStorage { size: config.ephemeral_mb }),
        ..FunctionConfiguration::default()
    };
    show_echoed(&mut shown, at);
    if detail == Detail::Full {
        show_states(&mut shown, function);
        shown.runtime_version_config = config.runtime.as_ref().map(|runtime| runtime_version(&runtime.0, place));
    }
    shown
}

/// What is only kept and shown, with Lambda's defaults for what was not sent.
fn show_echoed(shown: &mut FunctionConfiguration, at: &AtVersion) {
    let function = &at.function;
    let echoed = |name: &str| -> Option<Value> { serde_json::from_str(function.config.echoed.get(name)?).ok() };
    shown.vpc_config = echoed("VpcConfig");
    shown.dead_letter_config = echoed("DeadLetterConfig");
    shown.kms_key_arn = echoed("KMSKeyArn");
    shown.tracing_config = Some(echoed("TracingConfig").unwrap_or_else(|| json!({ "Mode": "PassThrough" })));
    shown.layers = echoed("Layers");
    shown.file_system_configs = echoed("FileSystemConfigs");
    shown.image_config_response = echoed("ImageConfig");
    let off = || json!({ "ApplyOn": "None", "OptimizationStatus": "Off" });
    let mut snap_start = echoed("SnapStart").unwrap_or_else(off);
    if at.optimized {
        snap_start["OptimizationStatus"] = "On".into();
    }
    shown.snap_start = Some(snap_start);
    shown.logging_config = Some(logging(echoed("LoggingConfig"), function));
    shown.tenancy_config = echoed("TenancyConfig");
    shown.capacity_provider_config = echoed("CapacityProviderConfig");
    shown.durable_config = echoed("DurableConfig");
}

fn show_states(shown: &mut FunctionConfiguration, function: &Function) {
    let (state, reason): (&str, Option<&Reason>) = match &function.state {
        State::Pending(reason) => ("Pending", Some(reason)),
        State::Active => ("Active", None),
        State::Inactive(reason) => ("Inactive", Some(reason)),
        State::Failed(reason) => ("Failed", Some(reason)),
    };
    shown.state = Some(state.to_owned());
    shown.state_reason = reason.map(|r| r.text.clone());
    shown.state_reason_code = reason.map(|r| r.code.clone());
    let (status, reason) = match &function.last_update {
        None => (None, None),
        Some(LastUpdate::InProgress(reason)) => (Some("InProgress"), Some(reason)),
        Some(LastUpdate::Successful) => (Some("Successful"), None),
        Some(LastUpdate::Failed(reason)) => (Some("Failed"), Some(reason)),
    };
    shown.last_update_status = status.map(str::to_owned);
    shown.last_update_status_reason = reason.map(|r| r.text.clone());
    shown.last_update_status_reason_code = reason.map(|r| r.code.clone());
}

fn environment(config: &Config) -> Option<Environment> {
    let variables = config.environment.clone();
    (!variables.is_empty()).then_some(Environment { variables })
}

fn logging(configured: Option<Value>, function: &Function) -> Value {
    let mut shown = configured.unwrap_or_else(|| json!({ "LogFormat": "Text" }));
    if let Some(members) = shown.as_object_mut() {
        members.entry("LogGroup").or_insert_with(|| format!("/aws/lambda/{}", function.name).into());
    }
    shown
}

/// AWS names each build of a runtime by a hash; here the interpreter is the machine's, so the identifier is hashed.
fn runtime_version(runtime: &str, place: &Place) -> RuntimeVersionConfig {
    let digest = model::Digest(Sha256::digest(runtime.as_bytes()).into());
    RuntimeVersionConfig { runtime_version_arn: format!("arn:aws:lambda:{}::runtime:{digest}", place.region) }
}

/// `2026-11-23T04:48:45+0000`
pub fn timestamp_s(epoch_ms: u64) -> String {
    let text = timestamp(epoch_ms);
    // Milliseconds are four characters from the dot on.
    text.split_once('.').map_or(text.clone(), |(seconds, rest)| format!("{seconds}{}", &rest[3..]))
}

/// `2026-11-23T04:48:45.123+0000`
fn timestamp(epoch_ms: u64) -> String {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]+0000");
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(epoch_ms) * 1_000_000);
    time.unwrap_or(OffsetDateTime::UNIX_EPOCH).format(&format).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps() {
        assert_eq!(timestamp(1_795_409_325_123), "2026-11-23T04:48:45.123+0000");
        assert_eq!(timestamp_s(1_795_409_325_123), "2026-11-23T04:48:45+0000");
        assert_eq!(timestamp(0), "1970-01-01T00:00:00.000+0000");
        assert_eq!(timestamp(u64::MAX), "1970-01-01T00:00:00.000+0000");
    }
}
