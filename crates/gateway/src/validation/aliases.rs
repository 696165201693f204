//! The bodies of PublishVersion, CreateAlias and UpdateAlias.

use super::patterns::{ALIAS_NAME, VERSION, VERSION_NUMBER};
use super::{Fields, Violations, configuration, json};
use crate::errors::Refusal;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use control::{AliasChange, NewAlias, Publication};
use model::{Digest, Qualifier, Version};

/// The most characters of a version number in a request.
const VERSION_CHARS_MAX: usize = 1_024;

/// Reads the body of PublishVersion.
pub fn publication(body: &[u8]) -> Result<Publication, Refusal> {
    let value = json::parse(body)?;
    let fields = Fields::of(&value)?;
    let mut violations = Violations::default();
    let description = description(&fields, &mut violations)?;
    let code = fields.text("CodeSha256")?.filter(|text| !text.is_empty());
    let revision_id = fields.text("RevisionId")?.filter(|text| !text.is_empty()).map(str::to_owned);
    let publish = configuration::publish(&fields, &mut violations)?;
    violations.finish()?;
    publish.judge()?;
    Ok(Publication { code: code.map(|text| (text.to_owned(), digest(text))), revision_id, description })
}

/// Reads the body of CreateAlias.
pub fn create(body: &[u8]) -> Result<NewAlias, Refusal> {
    let value = json::parse(body)?;
    let fields = Fields::of(&value)?;
    let mut violations = Violations::default();
    let name = fields.text("Name")?;
    match name {
        Some(name) => check_name(name, &mut violations),
        None => violations.missing("name"),
    }
    let main = fields.text("FunctionVersion")?.map(|text| version(text, &mut violations));
    if main.is_none() {
        violations.missing("functionVersion");
    }
    let description = description(&fields, &mut violations)?.unwrap_or_default();
    let additional = weights(&fields, &mut violations)?.unwrap_or_default();
    violations.finish()?;
    Ok(NewAlias {
        name: name.unwrap_or_default().to_owned(),
        version: main.unwrap_or(Version::Latest),
        additional,
        description,
    })
}

/// Reads the body of UpdateAlias.
pub fn update(body: &[u8]) -> Result<AliasChange, Refusal> {
    let value = json::parse(body)?;
    let fields = Fields::of(&value)?;
    let mut violations = Violations::default();
    let main = fields.text("FunctionVersion")?.map(|text| version(text, &mut violations));
    let description = description(&fields, &mut violations)?;
    let additional = weights(&fields, &mut violations)?;
    let revision_id = fields.text("RevisionId")?.filter(|text| !text.is_empty()).map(str::to_owned);
    violations.finish()?;
    Ok(AliasChange { version: main, additional, description, revision_id })
}

/// Adds what an alias's name breaks of the service model's constraints.
pub fn check_name(name: &str, violations: &mut Violations) {
    violations.length(name, "name", 1, Qualifier::MAX_CHARS);
    violations.pattern(name, "name", &ALIAS_NAME);
}

/// Reads a version that an alias points to. What is put in the place of a violation is never used.
pub fn version(text: &str, violations: &mut Violations) -> Version {
    violations.length(text, "functionVersion", 1, VERSION_CHARS_MAX);
    violations.pattern(text, "functionVersion", &VERSION);
    number(text).map_or(Version::Latest, Version::Number)
}

/// A version's number. Those beyond what we count to are of versions that do not exist.
fn number(text: &str) -> Option<u64> {
    match text.bytes().all(|b| b.is_ascii_digit()) {
        true => Some(text.parse().unwrap_or(u64::MAX)),
        false => None,
    }
}

fn description(fields: &Fields<'_>, violations: &mut Violations) -> Result<Option<String>, Refusal> {
    let description = fields.text("Description")?;
    if let Some(description) = description {
        violations.length(description, "description", 0, 256);
    }
    Ok(description.map(str::to_owned))
}

/// Reads `RoutingConfig`: absent leaves the weights as they are, empty removes them.
fn weights(fields: &Fields<'_>, violations: &mut Violations) -> Result<Option<Vec<(u64, f64)>>, Refusal> {
    const AT: &str = "routingConfig.additionalVersionWeights";
    let Some(routing) = fields.object("RoutingConfig")? else { return Ok(None) };
    let Some(weights) = routing.object("AdditionalVersionWeights")? else { return Ok(Some(Vec::new())) };
    let mut read = Vec::new();
    for (key, _) in weights.iter() {
        read.push((key.as_str(), weights.number(key)?));
    }
    let shown = || {
        let pair = |(key, weight): &(&str, Option<f64>)| match weight {
            Some(weight) => format!("{key}={weight:?}"),
            None => format!("{key}=null"),
        };
        format!("{{{}}}", read.iter().map(pair).collect::<Vec<_>>().join(", "))
    };
    if read.iter().any(|(key, _)| key.len() > VERSION_CHARS_MAX || !(VERSION_NUMBER.matches)(key)) {
        let constraint = format!(
            "Map keys must satisfy constraint: [Member must have length less than or equal to {VERSION_CHARS_MAX}, \
             Member must have length greater than or equal to 1, {}]",
            VERSION_NUMBER.constraint()
        );
        violations.add(&shown(), AT, &constraint);
    }
    if read.iter().any(|(_, weight)| !weight.is_some_and(|weight| (0.0..=1.0).contains(&weight))) {
        let constraint = "Map value must satisfy constraint: [Member must have value less than or equal to 1.0, Member \
                          must have value greater than or equal to 0.0, Member must not be null]";
        violations.add(&shown(), AT, constraint);
    }
    Ok(Some(read.into_iter().filter_map(|(key, weight)| Some((number(key)?, weight?))).collect()))
}

/// The digest in a text as the API spells them.
fn digest(text: &str) -> Option<Digest> {
    STANDARD.decode(text).ok()?.try_into().ok().map(Digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &str, want: &str) {
        let got = match create(body.as_bytes()) {
            Ok(new) => format!("{} {} {:?} {}", new.name, new.version, new.additional, new.description),
            Err(refusal) => format!("{} {}", refusal.error_type, refusal.message),
        };
        assert!(got.starts_with(want), "{got} does not start with {want}");
    }

    #[test]
    fn aliases() {
        check(r#"{"Name": "live", "FunctionVersion": "1"}"#, "live 1 [] ");
        check(
            r#"{"Name": "a", "FunctionVersion": "$LATEST", "RoutingConfig": {}, "Description": "d"}"#,
            "a $LATEST [] d",
        );
        check(
            r#"{"Name": "a", "FunctionVersion": "1", "RoutingConfig": {"AdditionalVersionWeights": {"2": 0.25}}}"#,
            "a 1 [(2, 0.25)]",
        );
        check(
            r#"{"Name": "2024", "FunctionVersion": "1"}"#,
            "ValidationException 1 validation error detected: Value '2024' at 'name' failed to satisfy constraint: \
             Member must satisfy regular expression pattern: (?!^[0-9]+$)([a-zA-Z0-9-_]+)",
        );
        check(
            r#"{"Name": "a", "FunctionVersion": "live"}"#,
            "ValidationException 1 validation error detected: Value 'live' at 'functionVersion'",
        );
        check("{}", "ValidationException 2 validation errors detected: Value null at 'name'");
        check(
            r#"{"Name": "a", "FunctionVersion": "1", "RoutingConfig": {"AdditionalVersionWeights": {"2": 2}}}"#,
            "ValidationException 1 validation error detected: Value '{2=2.0}' at \
             'routingConfig.additionalVersionWeights' failed to satisfy constraint: Map value must satisfy constraint: \
             [Member must have value less than or equal to 1.0, Member must have value greater than or equal to 0.0, \
             Member must not be null]",
        );
        check(
            r#"{"Name": "a", "FunctionVersion": "1", "RoutingConfig": {"AdditionalVersionWeights": {"$LATEST": 0.5}}}"#,
            "ValidationException 1 validation error detected: Value '{$LATEST=0.5}' at \
             'routingConfig.additionalVersionWeights' failed to satisfy constraint: Map keys must satisfy constraint: \
             [Member must have length less than or equal to 1024, Member must have length greater than or equal to 1, \
             Member must satisfy regular expression pattern: [0-9]+]",
        );
    }

    #[test]
    fn absent_and_empty_weights_differ() {
        assert_eq!(update(b"{}").unwrap().additional, None);
        assert_eq!(update(br#"{"RoutingConfig": {}}"#).unwrap().additional, Some(Vec::new()));
        let body = br#"{"RoutingConfig": {"AdditionalVersionWeights": {}}}"#;
        assert_eq!(update(body).unwrap().additional, Some(Vec::new()));
    }

    proptest::proptest! {
        #[test]
        fn never_panics(body in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200), key in ".{0,9}", weight in proptest::prelude::any::<f64>()) {
            let _ = (create(&body), update(&body), publication(&body));
            let routing = serde_json::json!({ "RoutingConfig": { "AdditionalVersionWeights": { key: weight } } });
            let _ = update(routing.to_string().as_bytes());
        }
    }
}
