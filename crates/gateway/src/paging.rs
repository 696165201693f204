//! Lists in pages: how many items a caller wants, and the marker where the next page starts. Markers are opaque to
//! clients: the base64 of what was shown last.

use crate::errors::{Exception, Refusal};
use crate::request::{Call, Gateway};
use crate::validation::Violations;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// `MaxItems`: what is asked for, but at most `Limits::list_items`.
pub fn items(gateway: &Gateway, call: &Call, violations: &mut Violations, max: i64) -> Result<usize, Refusal> {
    let Some(text) = call.query.get("MaxItems") else { return Ok(gateway.limits.list_items) };
    let number: i64 = text
        .parse()
        .map_err(|_| Refusal::new(Exception::Serialization, "STRING_VALUE can not be converted to an Integer"))?;
    violations.range(number, "maxItems", 1, max);
    Ok(usize::try_from(number).unwrap_or(1).clamp(1, gateway.limits.list_items.max(1)))
}

/// The marker behind an item.
pub fn marker(item: &str) -> String {
    URL_SAFE_NO_PAD.encode(item)
}

/// What `Marker` says was shown last, as `read` understands it.
pub fn read_marker<T>(call: &Call, read: impl FnOnce(&str) -> Option<T>) -> Result<Option<T>, Refusal> {
    let Some(text) = call.query.get("Marker").filter(|text| !text.is_empty()) else { return Ok(None) };
    let item = URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    match item.and_then(|item| read(&item)) {
        Some(item) => Ok(Some(item)),
        None => Err(Refusal::invalid(format!("The Marker is not one that {} has given.", call.operation))),
    }
}
