//! Creating, reading, changing, listing and deleting functions.

use crate::auth::{Target, presign};
use crate::concurrency;
use crate::errors::{Refusal, from_control, not_found};
use crate::request::{Answer, Call, Gateway, by_size, now_s};
use crate::validation::references::{Kind, Named};
use crate::validation::{Violations, code, configuration, patterns};
use crate::view::{self, Detail};
use api::lambda::{CodeLocation, GetFunction, ListFunctions};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use model::{Function, FunctionName, Qualifier, Version};

/// How long a code location works.
const LOCATION_EXPIRES_S: u64 = 600;

/// CreateFunction
pub async fn create(gateway: &Gateway, call: Call) -> Result<Answer, Refusal> {
    let (place, limits, body) = (gateway.place.clone(), gateway.limits.clone(), call.body);
    let new = by_size(body.len(), move || configuration::create(&body, &place, &limits)).await??;
    let arn = gateway.place.arn(&new.name, None);
    let function = gateway.control.create_function(new).await.map_err(|error| from_control(error, &arn))?;
    Answer::of(201, &view::configuration(&function, &gateway.place, None, Detail::Full))
}

/// GetFunction
pub async fn get(gateway: &Gateway, call: Call) -> Result<Answer, Refusal> {
    let (named, function) = read(gateway, &call).await?;
    let share = gateway.control.share_of(&named.name);
    let shown = GetFunction {
        configuration: view::configuration(&function, &gateway.place, named.qualifier.as_ref(), Detail::Full),
        code: CodeLocation { repository_type: "S3".to_owned(), location: location(gateway, &call, &function) },
        tags: function.tags,
        concurrency: share.reserved.map(|_| concurrency::shown(share)),
    };
    Answer::of(200, &shown)
}

/// GetFunctionConfiguration
pub async fn get_configuration(gateway: &Gateway, call: Call) -> Result<Answer, Refusal> {
    let (named, function) = read(gateway, &call).await?;
    Answer::of(200, &view::configuration(&function, &gateway.place, named.qualifier.as_ref(), Detail::Full))
}

/// UpdateFunctionCode
pub async fn update_code(gateway: &Gateway, call: Call) -> Result<Answer, Refusal> {
    let name = gateway.place.unqualified(call.operation, call.parameter(0))?;
    let body = call.body.clone();
    let change = by_size(body.len(), move || code::update(&body)).await??;
    let arn = gateway.place.arn(&name, None);
    let function = gateway.control.update_code(&name, change).await.map_err(|error| from_control(error, &arn))?;
    Answer::of(200, &view::configuration(&function, &gateway.place, None, Detail::Full))
}

/// UpdateFunctionConfiguration
pub async fn update_configuration(gateway: &Gateway, call: Call) -> Result<Answer, Refusal> {
    let name = gateway.place.unqualified(call.operation, call.parameter(0))?;
    let change = configuration::update(&call.body, &gateway.place, &gateway.limits)?;
    let arn = gateway.place.arn(&name, None);
    let function = gateway.control.update_config(&name, change).await.map_err(|error| from_control(error, &arn))?;
    Answer::of(200, &view::configuration(&function, &gateway.place, None, Detail::Full))
}

/// DeleteFunction
pub async fn delete(gateway: &Gateway, call: Call) -> Result<Answer, Refusal> {
    let named = named(gateway, &call)?;
    match &named.qualifier {
        None => {}
        Some(Qualifier::Version(Version::Latest)) => {
            return Err(Refusal::invalid("$LATEST version cannot be deleted without deleting the function."));
        }
        // No version is published and no alias made, so there is nothing to delete.
        Some(_) => return Err(not_found(&gateway.place.arn(&named.name, named.qualifier.as_ref()))),
    }
    let arn = gateway.place.arn(&named.name, None);
    gateway.control.delete_function(&named.name).await.map_err(|error| from_control(error, &arn))?;
    Ok(Answer::empty(204))
}

/// ListFunctions
pub async fn list(gateway: &Gateway, call: Call) -> Result<Answer, Refusal> {
    let page = page(gateway, &call)?;
    let listed = gateway.control.functions(page.after, page.items).await;
    let (functions, more) = listed.map_err(|error| Refusal::platform(&error))?;
    let next_marker = functions.last().filter(|_| more).map(|last| marker(&last.name));
    let latest = Qualifier::Version(Version::Latest);
    let qualifier = page.all_versions.then_some(&latest);
    let show = |f: &Function| view::configuration(f, &gateway.place, qualifier, Detail::Listed);
    Answer::of(200, &ListFunctions { next_marker, functions: functions.iter().map(show).collect() })
}

struct Page {
    after: Option<FunctionName>,
    items: usize,
    all_versions: bool,
}

fn page(gateway: &Gateway, call: &Call) -> Result<Page, Refusal> {
    let mut violations = Violations::default();
    let version = call.query.get("FunctionVersion");
    if let Some(version) = version {
        violations.one_of(version, "functionVersion", &["ALL"]);
    }
    if let Some(region) = call.query.get("MasterRegion") {
        violations.pattern(region, "masterRegion", &patterns::MASTER_REGION);
    }
    let items = match call.query.get("MaxItems") {
        None => gateway.limits.list_items,
        Some(text) => {
            let number: i64 = text.parse().map_err(|_| {
                let text = "STRING_VALUE can not be converted to an Integer";
                Refusal::new(crate::errors::Exception::Serialization, text)
            })?;
            violations.range(number, "maxItems", 1, 10_000);
            usize::try_from(number).unwrap_or(1).clamp(1, gateway.limits.list_items.max(1))
        }
    };
    violations.finish()?;
    let after = call.query.get("Marker").filter(|text| !text.is_empty()).map(read_marker).transpose()?;
    Ok(Page { after, items, all_versions: version.is_some() })
}

/// Opaque to clients: the name of the last function they have seen.
fn marker(name: &FunctionName) -> String {
    URL_SAFE_NO_PAD.encode(name.as_str())
}

fn read_marker(text: &str) -> Result<FunctionName, Refusal> {
    let name = URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    name.and_then(|name| FunctionName::parse(&name).ok())
        .ok_or_else(|| Refusal::invalid("The Marker is not one that ListFunctions has given."))
}

fn named(gateway: &Gateway, call: &Call) -> Result<Named, Refusal> {
    gateway.place.function(call.operation, Kind::Namespaced, call.parameter(0), call.query.get("Qualifier"))
}

async fn read(gateway: &Gateway, call: &Call) -> Result<(Named, Function), Refusal> {
    let named = named(gateway, call)?;
    let arn = gateway.place.arn(&named.name, named.qualifier.as_ref());
    match &named.qualifier {
        None | Some(Qualifier::Version(Version::Latest)) => {}
        Some(_) => return Err(not_found(&arn)),
    }
    let function = gateway.control.function(&named.name).await.map_err(|error| from_control(error, &arn))?;
    Ok((named, function))
}

/// A URL for the package, signed if this server asks for signatures.
fn location(gateway: &Gateway, call: &Call, function: &Function) -> String {
    let path = format!("/tidegate/v1/packages/{}", function.code.digest);
    // Whoever terminates TLS in front of us says so; it changes nothing but the caller's own URL.
    let scheme = if call.header("x-forwarded-proto") == Some("https") { "https" } else { "http" };
    let target = Target { scheme, host: &call.host, path: &path, query: "" };
    match gateway.signing_key() {
        Some(key) => presign(key, gateway.place.region.as_str(), &target, LOCATION_EXPIRES_S, now_s()),
        None => format!("{scheme}://{}{path}", call.host),
    }
}
