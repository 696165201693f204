//! Environment variables: names, reserved names, size.

use super::patterns::ENVIRONMENT_NAME;
use super::{Fields, Violations};
use crate::errors::Refusal;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Names that the platform sets itself (`lambda-semantics.md` section 11, AWS's developer guide).
const RESERVED: &[&str] = &[
    "_HANDLER",
    "_X_AMZN_TRACE_ID",
    "AWS_DEFAULT_REGION",
    "AWS_REGION",
    "AWS_EXECUTION_ENV",
    "AWS_LAMBDA_FUNCTION_NAME",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
    "AWS_LAMBDA_FUNCTION_VERSION",
    "AWS_LAMBDA_INITIALIZATION_TYPE",
    "AWS_LAMBDA_LOG_GROUP_NAME",
    "AWS_LAMBDA_LOG_STREAM_NAME",
    "AWS_LAMBDA_MAX_CONCURRENCY",
    "AWS_ACCESS_KEY",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_LAMBDA_RUNTIME_API",
    "AWS_LAMBDA_METADATA_API",
    "AWS_LAMBDA_METADATA_TOKEN",
    "LAMBDA_TASK_ROOT",
    "LAMBDA_RUNTIME_DIR",
];

/// The variables in the order in which they were sent: AWS's text about their size quotes them so.
pub type Sent<'a> = Vec<(&'a str, &'a str)>;

/// Reads `Environment`. Names that break the pattern are violations; their values may be secrets and are not quoted.
pub fn read<'a>(fields: &Fields<'a>, violations: &mut Violations) -> Result<Option<Sent<'a>>, Refusal> {
    let Some(environment) = fields.object("Environment")? else { return Ok(None) };
    let variables = environment.text_map("Variables")?.unwrap_or_default();
    if variables
        .iter()
        .any(|(name, _)| !(ENVIRONMENT_NAME.matches)(name) && *name != "_HANDLER" && *name != "_X_AMZN_TRACE_ID")
    {
        let constraint = format!("Map keys must satisfy constraint: [{}]", ENVIRONMENT_NAME.constraint());
        violations.add_sensitive("environment.variables", &constraint);
    }
    Ok(Some(variables))
}

/// Refuses reserved names and too many bytes.
pub fn judge(sent: &Sent<'_>, bytes_max: usize) -> Result<BTreeMap<String, String>, Refusal> {
    let reserved: Vec<&str> = sent.iter().map(|(name, _)| *name).filter(|name| RESERVED.contains(name)).collect();
    if !reserved.is_empty() {
        return Err(Refusal::invalid(format!(
            "Lambda was unable to configure your environment variables because the environment variables you have \
             provided contains reserved keys that are currently not supported for modification. Reserved keys used in \
             this request: {}",
            reserved.join(", ")
        )));
    }
    let object: Map<String, Value> = sent.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    let measured = Value::Object(object).to_string();
    if measured.len() > bytes_max {
        return Err(Refusal::invalid(format!(
            "Lambda was unable to configure your environment variables because the environment variables you have \
             provided exceeded the {}KB limit. String measured: {measured}",
            bytes_max / 1_024
        )));
    }
    if sent.iter().any(|(_, value)| value.contains('\0')) {
        return Err(Refusal::invalid("Environment variables cannot hold a NUL."));
    }
    Ok(sent.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
}
