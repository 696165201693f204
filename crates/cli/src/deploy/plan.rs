//! What to ask of the API, as pure functions over a manifest and the function's present configuration.

use super::manifest::Manifest;
use serde_json::{Map, Value, json};

/// The body of CreateFunction.
pub fn create(name: &str, manifest: &Manifest, zip_base64: &str, role: &str) -> Value {
    let mut request = wanted(manifest);
    request.entry("Role").or_insert_with(|| json!(role));
    request.insert("FunctionName".to_owned(), json!(name));
    request.insert("Code".to_owned(), json!({ "ZipFile": zip_base64 }));
    Value::Object(request)
}

/// The body of UpdateFunctionConfiguration and the names of the fields in it: those that the manifest names and that
/// differ from `config`. What the manifest does not name stays as it is.
pub fn update(manifest: &Manifest, config: &Value) -> (Value, Vec<String>) {
    let mut request = wanted(manifest);
    request.retain(|field, value| !is_same(field, value, config.get(field)));
    let fields = request.keys().cloned().collect();
    (Value::Object(request), fields)
}

/// The body of a change of Tidegate's own settings and the names in it: those that the manifest names and that differ
/// from `present`.
pub fn settings(manifest: &Manifest, present: &Value) -> (Value, Vec<String>) {
    let mut request: Map<String, Value> = [
        ("network", manifest.network.map(|v| json!(v))),
        ("concurrency", manifest.concurrency.map(|v| json!(v))),
        ("queue_ms", manifest.queue_ms.map(|v| json!(v))),
        ("queue_length", manifest.queue_length.map(|v| json!(v))),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name.to_owned(), value?)))
    .collect();
    request.retain(|name, value| present.get(name) != Some(value));
    let names = request.keys().cloned().collect();
    (Value::Object(request), names)
}

/// Why the function cannot be invoked or its update was refused; `None` if all is well.
pub fn failure(config: &Value) -> Option<String> {
    let text = |name: &str| config.get(name).and_then(Value::as_str);
    let reason = |member: &str, code: &str| match (text(member), text(code)) {
        (Some(reason), Some(code)) => format!("{reason} ({code})"),
        (Some(one), None) | (None, Some(one)) => one.to_owned(),
        (None, None) => "the server gives no reason".to_owned(),
    };
    if text("State") == Some("Failed") {
        return Some(reason("StateReason", "StateReasonCode"));
    }
    (text("LastUpdateStatus") == Some("Failed")).then(|| reason("LastUpdateStatusReason", "LastUpdateStatusReasonCode"))
}

fn wanted(manifest: &Manifest) -> Map<String, Value> {
    let environment = manifest.environment.as_ref().map(|variables| json!({ "Variables": variables }));
    [
        ("Runtime", manifest.runtime.as_ref().map(|v| json!(v))),
        ("Handler", manifest.handler.as_ref().map(|v| json!(v))),
        ("Role", manifest.role.as_ref().map(|v| json!(v))),
        ("MemorySize", manifest.memory_mb.map(|v| json!(v))),
        ("Timeout", manifest.timeout_s.map(|v| json!(v))),
        ("Environment", environment),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name.to_owned(), value?)))
    .collect()
}

/// A function without variables has no `Environment` at all.
fn is_same(field: &str, wanted: &Value, present: Option<&Value>) -> bool {
    if field != "Environment" {
        return present == Some(wanted);
    }
    let empty = json!({});
    let variables = |value: Option<&Value>| value.and_then(|v| v.get("Variables")).cloned().unwrap_or(empty.clone());
    variables(Some(wanted)) == variables(present)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        Manifest {
            runtime: Some("python3.12".to_owned()),
            memory_mb: Some(256),
            environment: Some([("A".to_owned(), "1".to_owned())].into()),
            ..Manifest::default()
        }
    }

    #[test]
    fn creation() {
        let want = json!({
            "Runtime": "python3.12", "MemorySize": 256, "Environment": {"Variables": {"A": "1"}}, "Role": "r",
            "FunctionName": "f", "Code": {"ZipFile": "zip"}
        });
        assert_eq!(create("f", &manifest(), "zip", "r"), want);
        let own_role = Manifest { role: Some("mine".to_owned()), ..manifest() };
        assert_eq!(create("f", &own_role, "zip", "r")["Role"], "mine");
    }

    #[test]
    fn updates_name_only_what_differs() {
        let check = |config: Value, want: &[&str]| assert_eq!(update(&manifest(), &config).1, want, "{config}");
        let same =
            json!({"Runtime": "python3.12", "MemorySize": 256, "Environment": {"Variables": {"A": "1"}}, "Timeout": 3});
        check(same, &[]);
        check(json!({"Runtime": "python3.12", "MemorySize": 128}), &["MemorySize", "Environment"]);
        let none = Manifest { environment: Some([].into()), ..Manifest::default() };
        assert!(update(&none, &json!({})).1.is_empty());
        assert_eq!(update(&none, &json!({"Environment": {"Variables": {"A": "1"}}})).1, ["Environment"]);
    }

    #[test]
    fn settings_name_only_what_differs() {
        let manifest = Manifest { concurrency: Some(8), network: Some(model::function::Network::None), ..manifest() };
        let check = |present: Value, want: Value| assert_eq!(settings(&manifest, &present).0, want, "{present}");
        check(json!({}), json!({"network": "none", "concurrency": 8}));
        check(json!({"network": "none", "concurrency": 1}), json!({"concurrency": 8}));
        check(json!({"network": "none", "concurrency": 8}), json!({}));
        assert!(settings(&Manifest::default(), &json!({})).1.is_empty());
    }

    #[test]
    fn failures() {
        assert_eq!(failure(&json!({"State": "Active", "LastUpdateStatus": "Successful"})), None);
        assert_eq!(failure(&json!({"State": "Inactive"})), None);
        let failed = json!({"State": "Failed", "StateReason": "no node", "StateReasonCode": "InvalidRuntime"});
        assert_eq!(failure(&failed).as_deref(), Some("no node (InvalidRuntime)"));
        let refused = json!({"State": "Active", "LastUpdateStatus": "Failed"});
        assert_eq!(failure(&refused).as_deref(), Some("the server gives no reason"));
    }
}
