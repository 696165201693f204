//! PutProvisionedConcurrencyConfig, GetProvisionedConcurrencyConfig, ListProvisionedConcurrencyConfigs and
//! DeleteProvisionedConcurrencyConfig.

use crate::errors::{Refusal, alias_not_found, from_control, not_found};
use crate::paging::{items, marker, read_marker};
use crate::request::{Answer, Call, Gateway};
use crate::validation::references::{Kind, Named};
use crate::validation::{self, Fields, Violations};
use crate::view;
use api::lambda::{ListProvisionedConcurrency, ProvisionedConcurrency};
use control::{ProvisionedNow, Status};
use model::{Qualifier, Version};

/// The most items that a caller may ask for.
const MAX_ITEMS: i64 = 50;

/// PutProvisionedConcurrencyConfig
pub async fn put(gateway: &Gateway, call: Call) -> Result<Answer, Refusal> {
    let wanted = wanted(&call.body)?;
    let (named, qualifier) =
        named(gateway, &call, "Provisioned Concurrency Configs cannot be applied to unpublished function versions.")?;
    let put = gateway.control.put_provisioned(&named.name, &qualifier, wanted).await;
    let now = put.map_err(|error| refused(gateway, &named, error))?;
    // What was asked for has only begun, whatever is there already.
    Answer::of(202, &ProvisionedConcurrency { status: "IN_PROGRESS".to_owned(), ..shown(&now) })
}

/// GetProvisionedConcurrencyConfig
pub async fn get(gateway: &Gateway, call: Call) -> Result<Answer, Refusal> {
    let (named, qualifier) = named(gateway, &call, UNPUBLISHED)?;
    let found = gateway.control.provisioned(&named.name, &qualifier).await;
    Answer::of(200, &shown(&found.map_err(|error| refused(gateway, &named, error))?))
}

/// DeleteProvisionedConcurrencyConfig
pub async fn delete(gateway: &Gateway, call: Call) -> Result<Answer, Refusal> {
    let (named, qualifier) = named(gateway, &call, UNPUBLISHED)?;
    let deleted = gateway.control.delete_provisioned(&named.name, &qualifier).await;
    deleted.map_err(|error| refused(gateway, &named, error))?;
    Ok(Answer::empty(204))
}

/// ListProvisionedConcurrencyConfigs
pub async fn list(gateway: &Gateway, call: Call) -> Result<Answer, Refusal> {
    let name = gateway.place.unqualified(call.operation, call.parameter(0))?;
    let mut violations = Violations::default();
    let items = items(gateway, &call, &mut violations, MAX_ITEMS)?;
    violations.finish()?;
    let after = read_marker(&call, |text| Some(text.to_owned()))?;
    let arn = gateway.place.arn(&name, None);
    let listed = gateway.control.all_provisioned(&name, after, items).await;
    let (found, more) = listed.map_err(|error| from_control(error, &arn))?;
    let next_marker = found.last().filter(|_| more).map(|last| marker(&last.record.qualifier));
    let show = |now: &ProvisionedNow| {
        let function_arn = Some(format!("{arn}:{}", now.record.qualifier));
        ProvisionedConcurrency { function_arn, ..shown(now) }
    };
    let provisioned_concurrency_configs = found.iter().map(show).collect();
    Answer::of(200, &ListProvisionedConcurrency { next_marker, provisioned_concurrency_configs })
}

/// AWS's words for `$LATEST` where only versions and aliases will do.
pub const UNPUBLISHED: &str = "The function resource provided must be an alias or a published version.";

/// The function and its qualifier, which must be there; `unpublished` refuses `$LATEST`.
pub fn named(gateway: &Gateway, call: &Call, unpublished: &str) -> Result<(Named, Qualifier), Refusal> {
    let given = call.query.get("Qualifier");
    let named = gateway.place.function(call.operation, Kind::Plain, call.parameter(0), given)?;
    match named.qualifier.clone() {
        None => {
            let mut violations = Violations::default();
            violations.missing("qualifier");
            violations.finish()?;
            Err(Refusal::invalid(unpublished))
        }
        Some(Qualifier::Version(Version::Latest)) => Err(Refusal::invalid(unpublished)),
        Some(qualifier) => Ok((named, qualifier)),
    }
}

fn wanted(body: &[u8]) -> Result<u32, Refusal> {
    const AT: &str = "provisionedConcurrentExecutions";
    let value = validation::parse(body)?;
    let mut violations = Violations::default();
    let wanted = Fields::of(&value)?.integer("ProvisionedConcurrentExecutions")?;
    match wanted {
        Some(wanted) if wanted < 1 => violations.add(&wanted, AT, "Member must have value greater than or equal to 1"),
        Some(_) => {}
        None => violations.missing(AT),
    }
    violations.finish()?;
    // More than can be counted is more than any account has.
    Ok(wanted.and_then(|wanted| u32::try_from(wanted).ok()).unwrap_or(u32::MAX))
}

/// Recorded so: of a function that is not there it is the alias or the version that is missed.
pub fn refused(gateway: &Gateway, named: &Named, error: control::Error) -> Refusal {
    let arn = gateway.place.arn(&named.name, named.qualifier.as_ref());
    match (error, &named.qualifier) {
        (control::Error::NotFound { .. }, Some(Qualifier::Alias(_))) => alias_not_found(&arn),
        (control::Error::NotFound { .. }, _) => not_found(&arn),
        (error, _) => from_control(error, &arn),
    }
}

fn shown(now: &ProvisionedNow) -> ProvisionedConcurrency {
    let status = match now.status {
        Status::InProgress => "IN_PROGRESS",
        Status::Ready => "READY",
        Status::Failed => "FAILED",
    };
    ProvisionedConcurrency {
        function_arn: None,
        requested_provisioned_concurrent_executions: now.record.requested,
        available_provisioned_concurrent_executions: now.allocated,
        allocated_provisioned_concurrent_executions: now.allocated,
        status: status.to_owned(),
        status_reason: now.reason.clone(),
        last_modified: view::timestamp_s(now.record.last_modified_ms),
    }
}
