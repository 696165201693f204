//! The bodies of CreateFunction and UpdateFunctionConfiguration.

use super::code::{self, Sent};
use super::patterns::{CODE_SIGNING_CONFIG, HANDLER, ROLE};
use super::references::{self, Place};
use super::{Fields, Violations, echoed, environment, json, shown_list, tags};
use crate::errors::{Exception, Refusal};
use control::{ConfigChange, NewFunction};
use model::function::{Config, Network};
use model::runtime::{CREATABLE, RETIRED};
use model::{Limits, Runtime};
use std::collections::BTreeMap;

/// Lambda's default, seconds.
const TIMEOUT_S: u32 = 3;
/// Lambda's default, MB.
const MEMORY_MB: u32 = 128;
/// Lambda's default, MB.
const EPHEMERAL_MB: u32 = 512;
const ARCHITECTURES: &[&str] = &["x86_64", "arm64"];

/// What both bodies have in common, checked against the service model but not against the business rules.
struct Sketch<'a> {
    runtime: Option<&'a str>,
    role: Option<&'a str>,
    handler: Option<&'a str>,
    description: Option<&'a str>,
    timeout_s: Option<u32>,
    memory_mb: Option<u32>,
    ephemeral_mb: Option<u32>,
    environment: Option<environment::Sent<'a>>,
    echoed: echoed::Echoed,
}

/// Reads the body of CreateFunction.
pub fn create(body: &[u8], place: &Place, limits: &Limits) -> Result<NewFunction, Refusal> {
    let value = json::parse(body)?;
    let fields = Fields::of(&value)?;
    let mut violations = Violations::default();
    let name = fields.text("FunctionName")?;
    match name {
        Some(name) => references::check(&mut violations, references::Kind::Plain, name),
        None => violations.missing("functionName"),
    }
    let sketch = sketch(&fields, limits, &mut violations)?;
    if sketch.role.is_none() {
        violations.missing("role");
    }
    let code = match fields.object("Code")? {
        Some(code) => Some(code::read(&code, "code.", &mut violations)?),
        None => {
            violations.missing("code");
            None
        }
    };
    let architecture = architecture(&fields, &mut violations)?;
    let package_type = fields.text("PackageType")?.unwrap_or("Zip");
    violations.one_of(package_type, "packageType", &["Zip", "Image"]);
    let tags = tags::read(&fields, &mut violations)?.unwrap_or_default();
    let publish = publish(&fields, &mut violations)?;
    let signing = code_signing(&fields, &mut violations)?;
    violations.finish()?;
    let (Some(name), Some(code)) = (name, code) else {
        return Err(Refusal::invalid("FunctionName and Code are mandatory."));
    };
    let name = place.unqualified("CreateFunction", name)?;
    refuse_images(package_type, &code)?;
    let publish = publish.judge()?;
    signing.refuse()?;
    if sketch.runtime.is_none() || sketch.handler.is_none() {
        return Err(Refusal::invalid(
            "Runtime and Handler are mandatory parameters for functions created with deployment packages.",
        ));
    }
    let change = sketch.judge(&fields, place, limits)?;
    if tags.len() > limits.tags {
        return Err(Refusal::invalid("Number of tags exceeds resource tag limit."));
    }
    Ok(NewFunction { name, config: with_defaults(change, architecture), tags, code: code.source()?, publish })
}

/// Reads the body of UpdateFunctionConfiguration.
pub fn update(body: &[u8], place: &Place, limits: &Limits) -> Result<ConfigChange, Refusal> {
    let value = json::parse(body)?;
    let fields = Fields::of(&value)?;
    let mut violations = Violations::default();
    let sketch = sketch(&fields, limits, &mut violations)?;
    let revision_id = fields.text("RevisionId")?.map(str::to_owned);
    violations.finish()?;
    Ok(ConfigChange { revision_id, ..sketch.judge(&fields, place, limits)? })
}

fn sketch<'a>(fields: &Fields<'a>, limits: &Limits, violations: &mut Violations) -> Result<Sketch<'a>, Refusal> {
    let role = fields.text("Role")?;
    if let Some(role) = role {
        violations.pattern(role, "role", &ROLE);
    }
    let handler = fields.text("Handler")?;
    if let Some(handler) = handler {
        violations.length(handler, "handler", 0, 128);
        violations.pattern(handler, "handler", &HANDLER);
    }
    let description = fields.text("Description")?;
    if let Some(description) = description {
        violations.length(description, "description", 0, 256);
    }
    let mut number = |fields: &Fields<'a>, name, at, min: u32, max: u32| -> Result<Option<u32>, Refusal> {
        let Some(number) = fields.integer(name)? else { return Ok(None) };
        violations.range(number, at, min.into(), max.into());
        // Out of range is a violation by now; what is put here instead is never used.
        Ok(Some(u32::try_from(number).unwrap_or(min)))
    };
    let timeout_s = number(fields, "Timeout", "timeout", 1, limits.timeout_s_max)?;
    let memory_mb = number(fields, "MemorySize", "memorySize", limits.memory_mb_min, limits.memory_mb_max)?;
    let storage = fields.object("EphemeralStorage")?;
    let (min, max) = (limits.ephemeral_mb_min, limits.ephemeral_mb_max);
    let ephemeral_mb = match &storage {
        Some(storage) => number(storage, "Size", "ephemeralStorage.size", min, max)?,
        None => None,
    };
    if storage.is_some() && ephemeral_mb.is_none() {
        violations.missing("ephemeralStorage.size");
    }
    Ok(Sketch {
        runtime: fields.text("Runtime")?,
        role,
        handler,
        description,
        timeout_s,
        memory_mb,
        ephemeral_mb,
        environment: environment::read(fields, violations)?,
        echoed: echoed::read(fields, violations)?,
    })
}

impl Sketch<'_> {
    /// The business rules; the first that is broken refuses.
    fn judge(self, fields: &Fields<'_>, place: &Place, limits: &Limits) -> Result<ConfigChange, Refusal> {
        let runtime = self.runtime.map(judge_runtime).transpose()?;
        let judged = self.environment.map(|sent| environment::judge(&sent, limits.environment_bytes));
        let environment = judged.transpose()?;
        echoed::judge_layers(fields, place.region.as_str())?;
        Ok(ConfigChange {
            runtime,
            role: self.role.map(str::to_owned),
            handler: self.handler.map(str::to_owned),
            description: self.description.map(str::to_owned),
            timeout_s: self.timeout_s,
            memory_mb: self.memory_mb,
            ephemeral_mb: self.ephemeral_mb,
            environment,
            network: None,
            instance_concurrency: None,
            echoed: self.echoed,
            revision_id: None,
        })
    }
}

fn with_defaults(change: ConfigChange, architecture: Option<String>) -> Config {
    Config {
        runtime: change.runtime,
        role: change.role.unwrap_or_default(),
        handler: change.handler,
        description: change.description.unwrap_or_default(),
        timeout_s: change.timeout_s.unwrap_or(TIMEOUT_S),
        memory_mb: change.memory_mb.unwrap_or(MEMORY_MB),
        ephemeral_mb: change.ephemeral_mb.unwrap_or(EPHEMERAL_MB),
        environment: change.environment.unwrap_or_default(),
        architecture: architecture.unwrap_or_else(|| ARCHITECTURES[0].to_owned()),
        package_type: "Zip".to_owned(),
        network: Network::default(),
        instance_concurrency: 1,
        echoed: kept(change.echoed),
    }
}

fn kept(echoed: echoed::Echoed) -> BTreeMap<String, String> {
    echoed.into_iter().filter_map(|(name, text)| Some((name, text?))).collect()
}

fn judge_runtime(id: &str) -> Result<Runtime, Refusal> {
    if RETIRED.contains(&id) {
        return Err(Refusal::invalid(format!(
            "The runtime parameter of {id} is no longer supported for creating or updating AWS Lambda functions. We \
             recommend you use a supported runtime while creating or updating functions."
        )));
    }
    // AWS has retired `provided`; here it still runs.
    if id != "provided" && !CREATABLE.contains(&id) {
        return Err(Refusal::invalid(format!(
            "Value {id} at 'runtime' failed to satisfy constraint: Member must satisfy enum value set: [{}] or be a \
             valid ARN",
            CREATABLE.join(", ")
        )));
    }
    Ok(Runtime(id.to_owned()))
}

/// Reads `Architectures`, a list of one.
pub(super) fn architecture(fields: &Fields<'_>, violations: &mut Violations) -> Result<Option<String>, Refusal> {
    let Some(list) = fields.texts("Architectures")? else { return Ok(None) };
    if list.iter().any(|architecture| !ARCHITECTURES.contains(architecture)) {
        let constraint = format!(
            "Member must satisfy constraint: [{}, Member must not be null]",
            super::enum_constraint(ARCHITECTURES)
        );
        violations.add(&shown_list(&list), "architectures", &constraint);
    }
    violations.count(&list, "architectures", 1, 1);
    Ok(list.first().map(|architecture| (*architecture).to_owned()))
}

/// Whether a version is published as well.
pub(super) struct Publish {
    wanted: bool,
    /// `$LATEST.PUBLISHED` is for capacity providers, which do not exist here.
    elsewhere: bool,
}

impl Publish {
    /// Whether to publish; refuses what cannot be done.
    pub(super) fn judge(&self) -> Result<bool, Refusal> {
        match self.elsewhere {
            true => Err(Refusal::invalid("Tidegate publishes numbered versions only; leave out PublishTo.")),
            false => Ok(self.wanted),
        }
    }
}

/// Reads `Publish` and `PublishTo`.
pub(super) fn publish(fields: &Fields<'_>, violations: &mut Violations) -> Result<Publish, Refusal> {
    let publish_to = fields.text("PublishTo")?;
    if let Some(publish_to) = publish_to {
        violations.one_of(publish_to, "publishTo", &["LATEST_PUBLISHED"]);
    }
    Ok(Publish { wanted: fields.boolean("Publish")?.unwrap_or(false), elsewhere: publish_to.is_some() })
}

/// A CodeSigningConfig; none exists here.
struct Signing(Option<String>);

impl Signing {
    fn refuse(&self) -> Result<(), Refusal> {
        match &self.0 {
            None => Ok(()),
            Some(arn) => Err(Refusal::new(
                Exception::CodeSigningConfigNotFound,
                format!(
                    "The code signing configuration cannot be found. Check that the provided configuration is not \
                     deleted: {arn}."
                ),
            )),
        }
    }
}

fn code_signing(fields: &Fields<'_>, violations: &mut Violations) -> Result<Signing, Refusal> {
    let arn = fields.text("CodeSigningConfigArn")?;
    if let Some(arn) = arn {
        violations.length(arn, "codeSigningConfigArn", 0, 200);
        violations.pattern(arn, "codeSigningConfigArn", &CODE_SIGNING_CONFIG);
    }
    Ok(Signing(arn.map(str::to_owned)))
}

fn refuse_images(package_type: &str, code: &Sent<'_>) -> Result<(), Refusal> {
    if package_type == "Image" {
        return Err(Refusal::invalid("Tidegate does not run container images yet; use PackageType Zip."));
    }
    if code.image_uri.is_some() {
        return Err(Refusal::invalid("Please don't provide ImageUri when creating a function with packageType Zip."));
    }
    Ok(())
}
