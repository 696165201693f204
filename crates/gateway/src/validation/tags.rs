//! Tags in bodies and queries.

use super::patterns::TAG;
use super::{Fields, Violations, shown_list};
use crate::errors::Refusal;
use std::collections::BTreeMap;

const KEY_CHARS_MAX: usize = 128;
const VALUE_CHARS_MAX: usize = 256;

/// Reads a map `Tags`.
pub fn read(fields: &Fields<'_>, violations: &mut Violations) -> Result<Option<BTreeMap<String, String>>, Refusal> {
    let Some(sent) = fields.text_map("Tags")? else { return Ok(None) };
    let shown = || {
        let pairs: Vec<String> = sent.iter().map(|(key, value)| format!("{key}={value}")).collect();
        format!("{{{}}}", pairs.join(", "))
    };
    if sent.iter().any(|(key, _)| !fits(key, 1, KEY_CHARS_MAX)) {
        let constraint = format!("Map keys must satisfy constraint: [{}]", constraints(1, KEY_CHARS_MAX));
        violations.add(&shown(), "tags", &constraint);
    }
    if sent.iter().any(|(_, value)| !fits(value, 0, VALUE_CHARS_MAX)) {
        let constraint = format!("Map value must satisfy constraint: [{}]", constraints(0, VALUE_CHARS_MAX));
        violations.add(&shown(), "tags", &constraint);
    }
    Ok(Some(sent.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()))
}

/// Checks the keys of UntagResource.
pub fn check_keys(keys: &[String], violations: &mut Violations) {
    if keys.is_empty() {
        violations.missing("tagKeys");
    }
    if keys.iter().any(|key| !fits(key, 1, KEY_CHARS_MAX)) {
        let shown: Vec<&str> = keys.iter().map(String::as_str).collect();
        let constraint = format!("Member must satisfy constraint: [{}]", constraints(1, KEY_CHARS_MAX));
        violations.add(&shown_list(&shown), "tagKeys", &constraint);
    }
}

fn fits(text: &str, min: usize, max: usize) -> bool {
    (min..=max).contains(&text.chars().count()) && (TAG.matches)(text)
}

fn constraints(min: usize, max: usize) -> String {
    format!(
        "Member must have length less than or equal to {max}, Member must have length greater than or \
         equal to {min}, {}",
        TAG.constraint()
    )
}
