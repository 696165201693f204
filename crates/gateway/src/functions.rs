//! Creating, reading, changing, listing and deleting functions.

use crate::auth::{Target, presign};
use crate::concurrency;
use crate::errors::{Refusal, from_control, not_found};
use crate::paging::{items, marker, read_marker};
use crate::request::{Answer, Call, Gateway, by_size, now_s};
use crate::validation::references::{Kind, Named};
use crate::validation::{Violations, code, configuration, patterns};
use crate::versions;
use crate::view::{self, Detail};
use api::lambda::{CodeLocation, GetFunction, ListFunctions};
use control::AtVersion;
use model::{Function, FunctionName, Qualifier, Version};

/// How long a code location works.
const LOCATION_EXPIRES_S: u64 = 600;
/// The most items that a caller may ask for.
const MAX_ITEMS: i64 = 10_000;

/// CreateFunction
pub async fn create(gateway: &Gateway, call: Call) -> Result<Answer, Refusal> {
    let (place, limits, body) = (gateway.place.clone(), gateway.limits.clone(), call.body);
    let new = by_size(body.len(), move || configuration::create(&body, &place, &limits)).await??;
    let arn = gateway.place.arn(&new.name, None);
    let created = gateway.control.create_function(new).await.map_err(|error| from_control(error, &arn))?;
    Answer::of(201, &view::configuration(&created, &gateway.place, None, Detail::Full))
}

/// GetFunction
pub async fn get(gateway: &Gateway, call: Call) -> Result<Answer, Refusal> {
    let (named, at) = read(gateway, &call).await?;
    let tags = match at.version {
        Version::Latest => at.function.tags.clone(),
        // Tags are the function's, whatever the qualifier.
        Version::Number(_) => read_at(gateway, &named.name, None).await?.function.tags,
    };
    let share = gateway.control.share_of(&named.name);
    let shown = GetFunction {
        configuration: view::configuration(&at, &gateway.place, named.qualifier.as_ref(), Detail::Full),
        code: CodeLocation { repository_type: "S3".to_owned(), location: location(gateway, &call, &at.function) },
        tags,
        concurrency: share.reserved.map(|_| concurrency::shown(share)),
    };
    Answer::of(200, &shown)
}

/// GetFunctionConfiguration
pub async fn get_configuration(gateway: &Gateway, call: Call) -> Result<Answer, Refusal> {
    let (named, at) = read(gateway, &call).await?;
    Answer::of(200, &view::configuration(&at, &gateway.place, named.qualifier.as_ref(), Detail::Full))
}

/// UpdateFunctionCode
pub async fn update_code(gateway: &Gateway, call: Call) -> Result<Answer, Refusal> {
    let name = gateway.place.unqualified(call.operation, call.parameter(0))?;
    let body = call.body.clone();
    let change = by_size(body.len(), move || code::update(&body)).await??;
    let arn = gateway.place.arn(&name, None);
    let publish = change.publish;
    let updated = gateway.control.update_code(&name, change).await.map_err(|error| from_control(error, &arn))?;
    let qualifier = publish.then(|| versions::qualifier(&updated));
    Answer::of(200, &view::configuration(&updated, &gateway.place, qualifier.as_ref(), Detail::Full))
}

/// UpdateFunctionConfiguration
pub async fn update_configuration(gateway: &Gateway, call: Call) -> Result<Answer, Refusal> {
    let name = gateway.place.unqualified(call.operation, call.parameter(0))?;
    let change = configuration::update(&call.body, &gateway.place, &gateway.limits)?;
    let arn = gateway.place.arn(&name, None);
    let function = gateway.control.update_config(&name, change).await.map_err(|error| from_control(error, &arn))?;
    let updated = AtVersion::latest(function);
    Answer::of(200, &view::configuration(&updated, &gateway.place, None, Detail::Full))
}

/// DeleteFunction
pub async fn delete(gateway: &Gateway, call: Call) -> Result<Answer, Refusal> {
    let named = named(gateway, &call)?;
    let arn = gateway.place.arn(&named.name, None);
    let deleted = match &named.qualifier {
        None => gateway.control.delete_function(&named.name).await,
        Some(Qualifier::Version(Version::Latest)) => {
            return Err(Refusal::invalid("$LATEST version cannot be deleted without deleting the function."));
        }
        Some(Qualifier::Version(Version::Number(number))) => gateway.control.delete_version(&named.name, *number).await,
        // AWS's words; DeleteAlias is what is meant.
        Some(Qualifier::Alias(_)) => return Err(Refusal::invalid("Deletion of aliases is not currently supported.")),
    };
    deleted.map_err(|error| from_control(error, &arn))?;
    Ok(Answer::empty(204))
}

/// ListFunctions
pub async fn list(gateway: &Gateway, call: Call) -> Result<Answer, Refusal> {
    let mut violations = Violations::default();
    let version = call.query.get("FunctionVersion");
    if let Some(version) = version {
        violations.one_of(version, "functionVersion", &["ALL"]);
    }
    if let Some(region) = call.query.get("MasterRegion") {
        violations.pattern(region, "masterRegion", &patterns::MASTER_REGION);
    }
    let items = items(gateway, &call, &mut violations, MAX_ITEMS)?;
    violations.finish()?;
    match version {
        Some(_) => list_versions(gateway, &call, items).await,
        None => list_latest(gateway, &call, items).await,
    }
}

async fn list_latest(gateway: &Gateway, call: &Call, items: usize) -> Result<Answer, Refusal> {
    let after = read_marker(call, |text| FunctionName::parse(text).ok())?;
    let listed = gateway.control.functions(after, items).await;
    let (functions, more) = listed.map_err(|error| Refusal::platform(&error))?;
    let next_marker = functions.last().filter(|_| more).map(|last| marker(last.name.as_str()));
    let show = |function: Function| {
        let at = AtVersion::latest(function);
        view::configuration(&at, &gateway.place, None, Detail::Listed)
    };
    Answer::of(200, &ListFunctions { next_marker, functions: functions.into_iter().map(show).collect() })
}

/// All versions of all functions. A marker is the name and the version's number, 0 for `$LATEST`.
async fn list_versions(gateway: &Gateway, call: &Call, items: usize) -> Result<Answer, Refusal> {
    let after = read_marker(call, |text| {
        let (name, number) = text.split_once(':')?;
        Some((FunctionName::parse(name).ok()?, number.parse().ok()?))
    })?;
    let listed = gateway.control.all_versions(after, items).await;
    let (found, more) = listed.map_err(|error| Refusal::platform(&error))?;
    let behind = |last: &AtVersion| marker(&format!("{}:{}", last.function.name, versions::number(last.version)));
    let next_marker = found.last().filter(|_| more).map(behind);
    let show = |at: &AtVersion| view::configuration(at, &gateway.place, Some(&versions::qualifier(at)), Detail::Listed);
    Answer::of(200, &ListFunctions { next_marker, functions: found.iter().map(show).collect() })
}

fn named(gateway: &Gateway, call: &Call) -> Result<Named, Refusal> {
    gateway.place.function(call.operation, Kind::Namespaced, call.parameter(0), call.query.get("Qualifier"))
}

async fn read(gateway: &Gateway, call: &Call) -> Result<(Named, AtVersion), Refusal> {
    let named = named(gateway, call)?;
    let at = read_at(gateway, &named.name, named.qualifier.as_ref()).await?;
    Ok((named, at))
}

async fn read_at(gateway: &Gateway, name: &FunctionName, qualifier: Option<&Qualifier>) -> Result<AtVersion, Refusal> {
    let arn = gateway.place.arn(name, qualifier);
    gateway.control.function_at(name, qualifier).await.map_err(|error| match error {
        // Recorded so: here an alias is a function's qualifier and no thing of its own.
        control::Error::AliasMissing { .. } => not_found(&arn),
        error => from_control(error, &arn),
    })
}

/// A URL for the package, signed if this server asks for signatures.
fn location(gateway: &Gateway, call: &Call, function: &Function) -> String {
    let path = format!("/tidegate/v1/packages/{}", function.code.digest);
    // Whoever terminates TLS in front of us says so; it changes nothing but the caller's own URL.
    let encrypted = gateway.encrypted || call.header("x-forwarded-proto") == Some("https");
    let scheme = if encrypted { "https" } else { "http" };
    let target = Target { scheme, host: &call.host, path: &path, query: "" };
    match gateway.signing_key() {
        Some(key) => presign(key, gateway.place.region.as_str(), &target, LOCATION_EXPIRES_S, now_s()),
        None => format!("{scheme}://{}{path}", call.host),
    }
}
