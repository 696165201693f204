//! The environment of a guest (`lambda-semantics.md` section 11). No credentials are handed to guests: Tidegate has no
//! roles yet, and the server's own key must never reach one.

use api::launcher::LIBRARY_PATH;
use model::{RuntimeFamily, Spec};
use scheduler::lifetimes::Initialization;

/// What an instance's environment depends on besides its function.
pub struct Surroundings<'a> {
    /// The server's region.
    pub region: &'a str,
    /// The instance's log stream.
    pub log_stream: &'a str,
    /// Why it is initialised.
    pub initialization: Initialization,
}

/// All variables, the user's own included; platform names win (the API refuses reserved ones anyway).
pub fn compose(spec: &Spec, around: &Surroundings<'_>) -> Vec<(String, String)> {
    let own = platform(spec, around);
    let mut all: Vec<(String, String)> = spec
        .environment
        .iter()
        .filter(|(name, _)| !own.iter().any(|(platform, _)| platform == *name) || may_override(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let user_set = |name: &str| may_override(name) && spec.environment.contains_key(name);
    all.extend(own.into_iter().filter(|(name, _)| !user_set(name)).map(|(name, value)| (name.to_owned(), value)));
    all
}

/// Lambda lets users replace these.
fn may_override(name: &str) -> bool {
    matches!(name, "PATH" | "LD_LIBRARY_PATH" | "NODE_PATH" | "PYTHONPATH" | "LANG" | "TZ" | "NODE_OPTIONS")
}

/// As Lambda spells it.
fn initialization_type(initialization: Initialization) -> &'static str {
    match initialization {
        Initialization::OnDemand => "on-demand",
        Initialization::Provisioned => "provisioned-concurrency",
    }
}

fn platform(spec: &Spec, around: &Surroundings<'_>) -> Vec<(&'static str, String)> {
    let mut own = vec![
        ("_HANDLER", spec.handler.clone()),
        ("AWS_REGION", around.region.to_owned()),
        ("AWS_DEFAULT_REGION", around.region.to_owned()),
        ("AWS_LAMBDA_FUNCTION_NAME", spec.name().to_string()),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", spec.memory_mb.to_string()),
        ("AWS_LAMBDA_FUNCTION_VERSION", spec.version.to_string()),
        ("AWS_LAMBDA_INITIALIZATION_TYPE", initialization_type(around.initialization).to_owned()),
        ("AWS_LAMBDA_LOG_GROUP_NAME", spec.log_group.clone()),
        ("AWS_LAMBDA_LOG_STREAM_NAME", around.log_stream.to_owned()),
        ("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:9001".to_owned()),
        ("AWS_XRAY_CONTEXT_MISSING", "LOG_ERROR".to_owned()),
        ("AWS_XRAY_DAEMON_ADDRESS", "169.254.79.129:2000".to_owned()),
        ("LAMBDA_TASK_ROOT", "/var/task".to_owned()),
        ("LAMBDA_RUNTIME_DIR", "/var/runtime".to_owned()),
        ("LANG", "en_US.UTF-8".to_owned()),
        ("TZ", ":UTC".to_owned()),
        ("PATH", "/var/lang/bin:/usr/local/bin:/usr/bin/:/bin:/opt/bin".to_owned()),
        ("LD_LIBRARY_PATH", LIBRARY_PATH.to_owned()),
    ];
    if spec.instance_concurrency > 1 {
        own.push(("AWS_LAMBDA_MAX_CONCURRENCY", spec.instance_concurrency.to_string()));
    }
    match spec.runtime.family() {
        RuntimeFamily::Python { .. } => {
            own.push(("AWS_EXECUTION_ENV", format!("AWS_Lambda_{}", spec.runtime.0)));
            own.push(("PYTHONPATH", "/var/runtime".to_owned()));
        }
        RuntimeFamily::Node { major } => {
            own.push(("AWS_EXECUTION_ENV", format!("AWS_Lambda_{}", spec.runtime.0)));
            let path =
                format!("/opt/nodejs/node{major}/node_modules:/opt/nodejs/node_modules:/var/runtime/node_modules");
            own.push(("NODE_PATH", path));
        }
        RuntimeFamily::Provided | RuntimeFamily::Other => {}
    }
    own
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn spec(runtime: &str, environment: &[(&str, &str)]) -> Spec {
        Spec {
            arn: model::FunctionArn {
                region: model::Region::parse("us-east-1").unwrap(),
                account: model::AccountId::parse("000000000000").unwrap(),
                name: model::FunctionName::parse("f").unwrap(),
                qualifier: None,
            },
            version: model::Version::Latest,
            generation: model::Generation(1),
            runtime: model::Runtime(runtime.to_owned()),
            handler: "a.b".into(),
            timeout_ms: 3_000,
            memory_mb: 128,
            ephemeral_mb: 512,
            environment: environment.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect::<BTreeMap<_, _>>(),
            package: model::Digest([0; 32]),
            network: model::function::Network::Nat,
            instance_concurrency: 1,
            log_group: "/aws/lambda/f".into(),
            snap_start: false,
        }
    }

    fn value(all: &[(String, String)], name: &str) -> Option<String> {
        let found: Vec<_> = all.iter().filter(|(n, _)| n == name).collect();
        assert!(found.len() <= 1, "{name} is there twice");
        found.first().map(|(_, v)| v.clone())
    }

    #[test]
    fn user_variables_and_overrides() {
        let around = Surroundings { region: "us-east-1", log_stream: "s", initialization: Initialization::OnDemand };
        let all = compose(&spec("python3.12", &[("A", "1"), ("PATH", "/x"), ("LAMBDA_TASK_ROOT", "/evil")]), &around);
        assert_eq!(value(&all, "A").as_deref(), Some("1"));
        assert_eq!(value(&all, "PATH").as_deref(), Some("/x"));
        assert_eq!(value(&all, "LAMBDA_TASK_ROOT").as_deref(), Some("/var/task"));
        assert_eq!(value(&all, "AWS_EXECUTION_ENV").as_deref(), Some("AWS_Lambda_python3.12"));
    }

    /// Else no guest could be up before its function is known.
    #[test]
    fn a_plain_function_starts_with_the_usual() {
        let around = Surroundings { region: "us-east-1", log_stream: "s", initialization: Initialization::OnDemand };
        let all = compose(&spec("python3.12", &[("A", "1")]), &around);
        for (name, usual) in api::launcher::USUAL {
            assert_eq!(value(&all, name).as_deref(), Some(usual));
        }
    }

    #[test]
    fn no_execution_env_for_custom_runtimes_and_no_credentials() {
        let around = Surroundings { region: "us-east-1", log_stream: "s", initialization: Initialization::OnDemand };
        let all = compose(&spec("provided.al2023", &[]), &around);
        assert_eq!(value(&all, "AWS_EXECUTION_ENV"), None);
        assert!(!all.iter().any(|(n, _)| n.contains("SECRET") || n.contains("ACCESS_KEY")));
    }
}
