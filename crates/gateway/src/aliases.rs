//! CreateAlias, GetAlias, UpdateAlias, ListAliases and DeleteAlias.

use crate::errors::{Exception, Refusal, alias_not_found, from_control};
use crate::paging::{items, marker, read_marker};
use crate::request::{Answer, Call, Gateway};
use crate::validation::references::Place;
use crate::validation::{Violations, aliases};
use api::lambda::{AliasConfiguration, ListAliases, RoutingConfig};
use model::{Alias, FunctionArn, FunctionName, Qualifier};

/// The most items that a caller may ask for.
const MAX_ITEMS: i64 = 10_000;

/// CreateAlias
pub async fn create(gateway: &Gateway, call: Call) -> Result<Answer, Refusal> {
    let name = gateway.place.unqualified(call.operation, call.parameter(0))?;
    let new = aliases::create(&call.body)?;
    let arn = gateway.place.arn(&name, None);
    let alias = gateway.control.create_alias(&name, new).await.map_err(|error| from_control(error, &arn))?;
    Answer::of(201, &shown(&alias, &gateway.place))
}

/// GetAlias
pub async fn get(gateway: &Gateway, call: Call) -> Result<Answer, Refusal> {
    let (name, alias, arn) = named(gateway, &call)?;
    let alias = gateway.control.alias(&name, &alias).await.map_err(|error| match error {
        // Recorded so, also if there is no function at all.
        control::Error::NotFound { .. } => alias_not_found(&arn),
        error => from_control(error, &arn),
    })?;
    Answer::of(200, &shown(&alias, &gateway.place))
}

/// UpdateAlias
pub async fn update(gateway: &Gateway, call: Call) -> Result<Answer, Refusal> {
    let (name, alias, arn) = named(gateway, &call)?;
    let change = aliases::update(&call.body)?;
    let updated = gateway.control.update_alias(&name, &alias, change).await;
    let alias = updated.map_err(|error| match error {
        // Recorded so: not the words of GetAlias.
        control::Error::AliasMissing { .. } => {
            Refusal::new(Exception::ResourceNotFound, format!("Alias not found: {arn}"))
        }
        error => from_control(error, &gateway.place.arn(&name, None)),
    })?;
    Answer::of(200, &shown(&alias, &gateway.place))
}

/// ListAliases
pub async fn list(gateway: &Gateway, call: Call) -> Result<Answer, Refusal> {
    let name = gateway.place.unqualified(call.operation, call.parameter(0))?;
    let mut violations = Violations::default();
    let version = call.query.get("FunctionVersion").map(|text| aliases::version(text, &mut violations));
    let items = items(gateway, &call, &mut violations, MAX_ITEMS)?;
    violations.finish()?;
    let after = read_marker(&call, |text| Some(text.to_owned()))?;
    let arn = gateway.place.arn(&name, None);
    let listed = gateway.control.aliases(&name, version, after, items).await;
    let (aliases, more) = listed.map_err(|error| from_control(error, &arn))?;
    let next_marker = aliases.last().filter(|_| more).map(|last| marker(&last.name));
    let aliases = aliases.iter().map(|alias| shown(alias, &gateway.place)).collect();
    Answer::of(200, &ListAliases { next_marker, aliases })
}

/// DeleteAlias
pub async fn delete(gateway: &Gateway, call: Call) -> Result<Answer, Refusal> {
    let (name, alias, _) = named(gateway, &call)?;
    let arn = gateway.place.arn(&name, None);
    gateway.control.delete_alias(&name, &alias).await.map_err(|error| from_control(error, &arn))?;
    Ok(Answer::empty(204))
}

/// The function, the alias, and the alias's ARN.
fn named(gateway: &Gateway, call: &Call) -> Result<(FunctionName, String, FunctionArn), Refusal> {
    let name = gateway.place.unqualified(call.operation, call.parameter(0))?;
    let mut violations = Violations::default();
    aliases::check_name(call.parameter(1), &mut violations);
    violations.finish()?;
    let alias = call.parameter(1).to_owned();
    let arn = gateway.place.arn(&name, Some(&Qualifier::Alias(alias.clone())));
    Ok((name, alias, arn))
}

fn shown(alias: &Alias, place: &Place) -> AliasConfiguration {
    let weights = alias.additional.iter().map(|(version, weight)| (version.to_string(), *weight));
    let routing_config = RoutingConfig { additional_version_weights: weights.collect() };
    AliasConfiguration {
        alias_arn: place.arn(&alias.function, Some(&Qualifier::Alias(alias.name.clone()))).to_string(),
        name: alias.name.clone(),
        function_version: alias.version.to_string(),
        description: alias.description.clone(),
        routing_config: (!alias.additional.is_empty()).then_some(routing_config),
        revision_id: alias.revision_id.clone(),
    }
}
