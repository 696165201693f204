//! Members that Tidegate does not honour yet. They are checked as AWS checks them, kept as JSON text in the form in
//! which answers show them, and echoed.

use super::patterns::{
    ANY_ARN_OR_EMPTY, CAPACITY_PROVIDER, FILE_SYSTEM, LAYER, LOCAL_MOUNT_PATH, LOG_GROUP, SECURITY_GROUP, SUBNET,
};
use super::{Fields, Pattern, Violations, shown_list};
use crate::errors::Refusal;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The most layers of a function.
const LAYERS_MAX: usize = 5;

/// Name to JSON text; `None` forgets the member.
pub type Echoed = BTreeMap<String, Option<String>>;

/// Reads all of them.
pub fn read(fields: &Fields<'_>, violations: &mut Violations) -> Result<Echoed, Refusal> {
    let readers: [Reader; 11] = [
        ("VpcConfig", vpc),
        ("DeadLetterConfig", dead_letters),
        ("KMSKeyArn", kms_key),
        ("TracingConfig", tracing),
        ("Layers", layers),
        ("FileSystemConfigs", file_systems),
        ("ImageConfig", image),
        ("SnapStart", snap_start),
        ("LoggingConfig", logging),
        ("CapacityProviderConfig", capacity_provider),
        ("DurableConfig", durable),
    ];
    let mut echoed = Echoed::new();
    for (name, read) in readers {
        if fields.value(name).is_some() {
            let value = read(fields, violations)?;
            echoed.insert(name.to_owned(), value.map(|value| value.to_string()));
        }
    }
    if let Some(tenancy) = fields.object("TenancyConfig")? {
        let mode = tenancy.text("TenantIsolationMode")?;
        match mode {
            Some(mode) => violations.one_of(mode, "tenancyConfig.tenantIsolationMode", &["PER_TENANT"]),
            None => violations.missing("tenancyConfig.tenantIsolationMode"),
        }
        echoed.insert("TenancyConfig".to_owned(), Some(json!({ "TenantIsolationMode": mode }).to_string()));
    }
    Ok(echoed)
}

type Reader = (&'static str, fn(&Fields<'_>, &mut Violations) -> Result<Option<Value>, Refusal>);

fn vpc(fields: &Fields<'_>, violations: &mut Violations) -> Result<Option<Value>, Refusal> {
    let Some(vpc) = fields.object("VpcConfig")? else { return Ok(None) };
    let subnets = vpc.texts("SubnetIds")?.unwrap_or_default();
    let groups = vpc.texts("SecurityGroupIds")?.unwrap_or_default();
    violations.count(&subnets, "vpcConfig.subnetIds", 0, 16);
    violations.count(&groups, "vpcConfig.securityGroupIds", 0, 5);
    check_ids(&subnets, "vpcConfig.subnetIds", &SUBNET, violations);
    check_ids(&groups, "vpcConfig.securityGroupIds", &SECURITY_GROUP, violations);
    let dual_stack = vpc.boolean("Ipv6AllowedForDualStack")?.unwrap_or(false);
    Ok(Some(json!({
        "SubnetIds": subnets,
        "SecurityGroupIds": groups,
        "VpcId": "",
        "Ipv6AllowedForDualStack": dual_stack,
    })))
}

fn check_ids(ids: &[&str], at: &str, pattern: &Pattern, violations: &mut Violations) {
    if ids.iter().any(|id| id.chars().count() > 1_024 || !(pattern.matches)(id)) {
        let constraint = format!(
            "Member must satisfy constraint: [Member must have length less than or equal to 1024, Member must have \
             length greater than or equal to 0, {}]",
            pattern.constraint()
        );
        violations.add(&shown_list(ids), at, &constraint);
    }
}

fn dead_letters(fields: &Fields<'_>, violations: &mut Violations) -> Result<Option<Value>, Refusal> {
    let Some(config) = fields.object("DeadLetterConfig")? else { return Ok(None) };
    let Some(target) = config.text("TargetArn")? else { return Ok(None) };
    violations.pattern(target, "deadLetterConfig.targetArn", &ANY_ARN_OR_EMPTY);
    Ok((!target.is_empty()).then(|| json!({ "TargetArn": target })))
}

fn kms_key(fields: &Fields<'_>, violations: &mut Violations) -> Result<Option<Value>, Refusal> {
    let Some(key) = fields.text("KMSKeyArn")? else { return Ok(None) };
    violations.pattern(key, "kMSKeyArn", &ANY_ARN_OR_EMPTY);
    Ok((!key.is_empty()).then(|| json!(key)))
}

fn tracing(fields: &Fields<'_>, violations: &mut Violations) -> Result<Option<Value>, Refusal> {
    let Some(config) = fields.object("TracingConfig")? else { return Ok(None) };
    let mode = config.text("Mode")?.unwrap_or("PassThrough");
    violations.one_of(mode, "tracingConfig.mode", &["Active", "PassThrough"]);
    Ok(Some(json!({ "Mode": mode })))
}

fn layers(fields: &Fields<'_>, violations: &mut Violations) -> Result<Option<Value>, Refusal> {
    let Some(layers) = fields.texts("Layers")? else { return Ok(None) };
    if layers.iter().any(|layer| layer.chars().count() > 2_048 || !(LAYER.matches)(layer)) {
        let constraint = format!(
            "Member must satisfy constraint: [Member must have length less than or equal to 2048, Member must have \
             length greater than or equal to 1, {}, Member must not be null]",
            LAYER.constraint()
        );
        violations.add(&shown_list(&layers), "layers", &constraint);
    }
    let listed: Vec<Value> = layers.iter().map(|layer| json!({ "Arn": layer, "CodeSize": 0 })).collect();
    Ok((!listed.is_empty()).then(|| json!(listed)))
}

fn file_systems(fields: &Fields<'_>, violations: &mut Violations) -> Result<Option<Value>, Refusal> {
    let Some(list) = fields.list("FileSystemConfigs")? else { return Ok(None) };
    let mut listed = Vec::new();
    for (index, value) in list.iter().enumerate() {
        let config = Fields::of(value)?;
        let at = |name: &str| format!("fileSystemConfigs.{}.member.{name}", index + 1);
        let arn = config.text("Arn")?;
        let path = config.text("LocalMountPath")?;
        for (text, name, pattern) in [(arn, "arn", &FILE_SYSTEM), (path, "localMountPath", &LOCAL_MOUNT_PATH)] {
            match text {
                Some(text) => violations.pattern(text, &at(name), pattern),
                None => violations.missing(&at(name)),
            }
        }
        listed.push(json!({ "Arn": arn, "LocalMountPath": path }));
    }
    if listed.len() > 1 {
        violations.add(
            &Value::from(listed.clone()),
            "fileSystemConfigs",
            "Member must have length less than or equal to 1",
        );
    }
    Ok((!listed.is_empty()).then(|| json!(listed)))
}

fn image(fields: &Fields<'_>, violations: &mut Violations) -> Result<Option<Value>, Refusal> {
    let Some(config) = fields.object("ImageConfig")? else { return Ok(None) };
    let mut shown = serde_json::Map::new();
    for (name, at) in [("EntryPoint", "imageConfig.entryPoint"), ("Command", "imageConfig.command")] {
        if let Some(words) = config.texts(name)? {
            violations.count(&words, at, 0, 1_500);
            shown.insert(name.into(), json!(words));
        }
    }
    if let Some(folder) = config.text("WorkingDirectory")? {
        violations.length(folder, "imageConfig.workingDirectory", 0, 1_000);
        shown.insert("WorkingDirectory".into(), json!(folder));
    }
    Ok((!shown.is_empty()).then(|| json!({ "ImageConfig": shown })))
}

fn snap_start(fields: &Fields<'_>, violations: &mut Violations) -> Result<Option<Value>, Refusal> {
    let Some(config) = fields.object("SnapStart")? else { return Ok(None) };
    let apply_on = config.text("ApplyOn")?.unwrap_or("None");
    violations.one_of(apply_on, "snapStart.applyOn", &["PublishedVersions", "None"]);
    Ok(Some(json!({ "ApplyOn": apply_on, "OptimizationStatus": "Off" })))
}

/// The group's default depends on the function's name and is filled in when it is shown.
fn logging(fields: &Fields<'_>, violations: &mut Violations) -> Result<Option<Value>, Refusal> {
    let Some(config) = fields.object("LoggingConfig")? else { return Ok(None) };
    let format = config.text("LogFormat")?.unwrap_or("Text");
    violations.one_of(format, "loggingConfig.logFormat", &["JSON", "Text"]);
    let mut shown = serde_json::Map::new();
    shown.insert("LogFormat".into(), json!(format));
    for (name, at, words) in [
        (
            "ApplicationLogLevel",
            "loggingConfig.applicationLogLevel",
            &["TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"][..],
        ),
        ("SystemLogLevel", "loggingConfig.systemLogLevel", &["DEBUG", "INFO", "WARN"][..]),
    ] {
        let level = config.text(name)?;
        if let Some(level) = level {
            violations.one_of(level, at, words);
        }
        if let Some(level) = level.or((format == "JSON").then_some("INFO")) {
            shown.insert(name.into(), json!(level));
        }
    }
    if let Some(group) = config.text("LogGroup")? {
        violations.length(group, "loggingConfig.logGroup", 1, 512);
        violations.pattern(group, "loggingConfig.logGroup", &LOG_GROUP);
        shown.insert("LogGroup".into(), json!(group));
    }
    Ok(Some(Value::Object(shown)))
}

fn capacity_provider(fields: &Fields<'_>, violations: &mut Violations) -> Result<Option<Value>, Refusal> {
    const INNER: &str = "capacityProviderConfig.lambdaManagedInstancesCapacityProviderConfig";
    let Some(config) = fields.object("CapacityProviderConfig")? else { return Ok(None) };
    let Some(inner) = config.object("LambdaManagedInstancesCapacityProviderConfig")? else {
        violations.missing(INNER);
        return Ok(None);
    };
    match inner.text("CapacityProviderArn")? {
        Some(arn) => violations.pattern(arn, &format!("{INNER}.capacityProviderArn"), &CAPACITY_PROVIDER),
        None => violations.missing(&format!("{INNER}.capacityProviderArn")),
    }
    if let Some(concurrency) = inner.integer("PerExecutionEnvironmentMaxConcurrency")? {
        violations.range(concurrency, &format!("{INNER}.perExecutionEnvironmentMaxConcurrency"), 1, 1_600);
    }
    if let Some(ratio) = inner.number("ExecutionEnvironmentMemoryGiBPerVCpu")?
        && !(2.0..=8.0).contains(&ratio)
    {
        let bound = if ratio > 8.0 { "less than or equal to 8" } else { "greater than or equal to 2" };
        let at = format!("{INNER}.executionEnvironmentMemoryGiBPerVCpu");
        violations.add(&ratio, &at, &format!("Member must have value {bound}"));
    }
    Ok(fields.value("CapacityProviderConfig").cloned())
}

fn durable(fields: &Fields<'_>, violations: &mut Violations) -> Result<Option<Value>, Refusal> {
    let Some(config) = fields.object("DurableConfig")? else { return Ok(None) };
    if let Some(days) = config.integer("RetentionPeriodInDays")? {
        violations.range(days, "durableConfig.retentionPeriodInDays", 1, 90);
    }
    if let Some(seconds) = config.integer("ExecutionTimeout")? {
        violations.range(seconds, "durableConfig.executionTimeout", 1, 31_622_400);
    }
    if let Some(key) = config.text("KMSKeyArn")? {
        violations.pattern(key, "durableConfig.kMSKeyArn", &ANY_ARN_OR_EMPTY);
    }
    Ok(fields.value("DurableConfig").cloned())
}

/// The business rules for layers, for a server in `region`.
pub fn judge_layers(fields: &Fields<'_>, region: &str) -> Result<(), Refusal> {
    let layers = fields.texts("Layers")?.unwrap_or_default();
    if layers.len() > LAYERS_MAX {
        return Err(Refusal::invalid(format!("Cannot reference more than {LAYERS_MAX} layers.")));
    }
    if layers.iter().any(|layer| layer.split(':').nth(3).is_some_and(|theirs| !theirs.is_empty() && theirs != region)) {
        return Err(Refusal::invalid(format!(
            "Layers are not in the same region as the function. Layers are expected to be in region {region}."
        )));
    }
    for (index, layer) in layers.iter().enumerate() {
        let unversioned = |arn: &str| arn.rsplit_once(':').map(|(layer, _)| layer.to_owned());
        let same = layers[..index].iter().find(|earlier| unversioned(earlier) == unversioned(layer));
        if let Some(earlier) = same {
            return Err(Refusal::invalid(format!(
                "Two different versions of the same layer are not allowed to be referenced in the same function. \
                 {earlier} and {layer} are versions of the same layer."
            )));
        }
    }
    Ok(())
}
