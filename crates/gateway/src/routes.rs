//! Which operation a request asks for: one table of all operations of the Lambda service model (August 2026), and
//! Tidegate's own.

use percent_encoding::percent_decode_str;

/// The most characters of a path, ours; no reference is nearly as long.
const PATH_BYTES_MAX: usize = 4_096;

/// An operation that is offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Lambda's.
    CreateFunction,
    /// Lambda's.
    GetFunction,
    /// Lambda's.
    GetFunctionConfiguration,
    /// Lambda's.
    UpdateFunctionCode,
    /// Lambda's.
    UpdateFunctionConfiguration,
    /// Lambda's.
    ListFunctions,
    /// Lambda's.
    DeleteFunction,
    /// Lambda's.
    TagResource,
    /// Lambda's.
    UntagResource,
    /// Lambda's.
    ListTags,
    /// Lambda's.
    GetAccountSettings,
    /// Lambda's.
    PutFunctionConcurrency,
    /// Lambda's.
    GetFunctionConcurrency,
    /// Lambda's.
    DeleteFunctionConcurrency,
    /// Lambda's.
    PutProvisionedConcurrencyConfig,
    /// Lambda's.
    GetProvisionedConcurrencyConfig,
    /// Lambda's.
    ListProvisionedConcurrencyConfigs,
    /// Lambda's.
    DeleteProvisionedConcurrencyConfig,
    /// Lambda's.
    PublishVersion,
    /// Lambda's.
    ListVersionsByFunction,
    /// Lambda's.
    CreateAlias,
    /// Lambda's.
    GetAlias,
    /// Lambda's.
    UpdateAlias,
    /// Lambda's.
    ListAliases,
    /// Lambda's.
    DeleteAlias,
    /// Lambda's.
    Invoke,
    /// Ours: reads a function's own settings.
    GetSettings,
    /// Ours: changes a function's own settings.
    PutSettings,
    /// Ours: reads what scales provisioned concurrency.
    GetScaling,
    /// Ours: sets it.
    PutScaling,
    /// Ours: ends it.
    DeleteScaling,
    /// Ours: starts instances ahead of invocations.
    WarmUp,
    /// Ours: reads a function's log.
    ReadLog,
    /// Ours: tells of an invocation.
    Explain,
    /// Ours: downloads a package.
    GetPackage,
}

/// One row of the table.
#[derive(Debug)]
struct Route {
    method: &'static str,
    /// Segments in braces stand for one segment of any text.
    pattern: &'static str,
    /// `key=value` that the query must hold, or empty.
    query: &'static str,
    /// As the service model spells it.
    name: &'static str,
    operation: Option<Operation>,
}

const fn offered(method: &'static str, pattern: &'static str, name: &'static str, operation: Operation) -> Route {
    Route { method, pattern, query: "", name, operation: Some(operation) }
}

const fn refused(method: &'static str, pattern: &'static str, query: &'static str, name: &'static str) -> Route {
    Route { method, pattern, query, name, operation: None }
}

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Match {
    /// An operation that is offered, with the decoded text of the pattern's braces, in order.
    Offered(Operation, &'static str, Vec<String>),
    /// An operation of the service model that is not offered.
    NotOffered(&'static str),
    /// Nothing that is known.
    Unknown,
}

/// Finds the operation. `path` and `query` are as they came over the wire. An empty last segment does not matter:
/// some clients send it.
pub fn find(method: &str, path: &str, query: &str) -> Match {
    if path.len() > PATH_BYTES_MAX {
        return Match::Unknown;
    }
    let Some(path) = path.strip_prefix('/') else { return Match::Unknown };
    let segments: Vec<&str> = path.strip_suffix('/').unwrap_or(path).split('/').collect();
    let route = ROUTES.iter().find(|route| {
        route.method == method
            && fits(route.pattern, &segments)
            && (route.query.is_empty() || query.split('&').any(|pair| pair == route.query))
    });
    let Some(route) = route else { return Match::Unknown };
    let Some(operation) = route.operation else { return Match::NotOffered(route.name) };
    match parameters(route.pattern, &segments) {
        Some(parameters) => Match::Offered(operation, route.name, parameters),
        None => Match::Unknown,
    }
}

fn fits(pattern: &str, segments: &[&str]) -> bool {
    let mut wanted = pattern[1..].split('/');
    let all = segments.iter().all(|segment| match wanted.next() {
        Some(part) if part.starts_with('{') => !segment.is_empty(),
        Some(part) => part == *segment,
        None => false,
    });
    all && wanted.next().is_none()
}

/// `None` if a parameter is not UTF-8.
fn parameters(pattern: &str, segments: &[&str]) -> Option<Vec<String>> {
    let places = pattern[1..].split('/').zip(segments).filter(|(part, _)| part.starts_with('{'));
    places.map(|(_, segment)| percent_decode_str(segment).decode_utf8().ok().map(String::from)).collect()
}

/// The most frequent first.
#[rustfmt::skip]
const ROUTES: &[Route] = &[
    offered("POST", "/2015-03-31/functions/{FunctionName}/invocations", "Invoke", Operation::Invoke),
    refused("POST", "/2014-11-13/functions/{FunctionName}/invoke-async", "", "InvokeAsync"),
    refused("GET", "/2015-03-31/event-source-mappings", "", "ListEventSourceMappings"),
    refused("POST", "/2015-03-31/event-source-mappings", "", "CreateEventSourceMapping"),
    refused("DELETE", "/2015-03-31/event-source-mappings/{UUID}", "", "DeleteEventSourceMapping"),
    refused("GET", "/2015-03-31/event-source-mappings/{UUID}", "", "GetEventSourceMapping"),
    refused("PUT", "/2015-03-31/event-source-mappings/{UUID}", "", "UpdateEventSourceMapping"),
    offered("GET", "/2015-03-31/functions", "ListFunctions", Operation::ListFunctions),
    offered("POST", "/2015-03-31/functions", "CreateFunction", Operation::CreateFunction),
    offered("DELETE", "/2015-03-31/functions/{FunctionName}", "DeleteFunction", Operation::DeleteFunction),
    offered("GET", "/2015-03-31/functions/{FunctionName}", "GetFunction", Operation::GetFunction),
    offered("GET", "/2015-03-31/functions/{FunctionName}/aliases", "ListAliases", Operation::ListAliases),
    offered("POST", "/2015-03-31/functions/{FunctionName}/aliases", "CreateAlias", Operation::CreateAlias),
    offered("DELETE", "/2015-03-31/functions/{FunctionName}/aliases/{Name}", "DeleteAlias", Operation::DeleteAlias),
    offered("GET", "/2015-03-31/functions/{FunctionName}/aliases/{Name}", "GetAlias", Operation::GetAlias),
    offered("PUT", "/2015-03-31/functions/{FunctionName}/aliases/{Name}", "UpdateAlias", Operation::UpdateAlias),
    offered("PUT", "/2015-03-31/functions/{FunctionName}/code", "UpdateFunctionCode", Operation::UpdateFunctionCode),
    offered("GET", "/2015-03-31/functions/{FunctionName}/configuration", "GetFunctionConfiguration", Operation::GetFunctionConfiguration),
    offered("PUT", "/2015-03-31/functions/{FunctionName}/configuration", "UpdateFunctionConfiguration", Operation::UpdateFunctionConfiguration),
    refused("GET", "/2015-03-31/functions/{FunctionName}/policy", "", "GetPolicy"),
    refused("POST", "/2015-03-31/functions/{FunctionName}/policy", "", "AddPermission"),
    refused("DELETE", "/2015-03-31/functions/{FunctionName}/policy/{StatementId}", "", "RemovePermission"),
    offered("GET", "/2015-03-31/functions/{FunctionName}/versions", "ListVersionsByFunction", Operation::ListVersionsByFunction),
    offered("POST", "/2015-03-31/functions/{FunctionName}/versions", "PublishVersion", Operation::PublishVersion),
    offered("GET", "/2016-08-19/account-settings", "GetAccountSettings", Operation::GetAccountSettings),
    offered("DELETE", "/2017-03-31/tags/{Resource}", "UntagResource", Operation::UntagResource),
    offered("GET", "/2017-03-31/tags/{Resource}", "ListTags", Operation::ListTags),
    offered("POST", "/2017-03-31/tags/{Resource}", "TagResource", Operation::TagResource),
    offered("DELETE", "/2017-10-31/functions/{FunctionName}/concurrency", "DeleteFunctionConcurrency", Operation::DeleteFunctionConcurrency),
    offered("PUT", "/2017-10-31/functions/{FunctionName}/concurrency", "PutFunctionConcurrency", Operation::PutFunctionConcurrency),
    refused("GET", "/2018-10-31/layers", "find=LayerVersion", "GetLayerVersionByArn"),
    refused("GET", "/2018-10-31/layers", "", "ListLayers"),
    refused("GET", "/2018-10-31/layers/{LayerName}/versions", "", "ListLayerVersions"),
    refused("POST", "/2018-10-31/layers/{LayerName}/versions", "", "PublishLayerVersion"),
    refused("DELETE", "/2018-10-31/layers/{LayerName}/versions/{VersionNumber}", "", "DeleteLayerVersion"),
    refused("GET", "/2018-10-31/layers/{LayerName}/versions/{VersionNumber}", "", "GetLayerVersion"),
    refused("GET", "/2018-10-31/layers/{LayerName}/versions/{VersionNumber}/policy", "", "GetLayerVersionPolicy"),
    refused("POST", "/2018-10-31/layers/{LayerName}/versions/{VersionNumber}/policy", "", "AddLayerVersionPermission"),
    refused("DELETE", "/2018-10-31/layers/{LayerName}/versions/{VersionNumber}/policy/{StatementId}", "", "RemoveLayerVersionPermission"),
    refused("DELETE", "/2019-09-25/functions/{FunctionName}/event-invoke-config", "", "DeleteFunctionEventInvokeConfig"),
    refused("GET", "/2019-09-25/functions/{FunctionName}/event-invoke-config", "", "GetFunctionEventInvokeConfig"),
    refused("POST", "/2019-09-25/functions/{FunctionName}/event-invoke-config", "", "UpdateFunctionEventInvokeConfig"),
    refused("PUT", "/2019-09-25/functions/{FunctionName}/event-invoke-config", "", "PutFunctionEventInvokeConfig"),
    refused("GET", "/2019-09-25/functions/{FunctionName}/event-invoke-config/list", "", "ListFunctionEventInvokeConfigs"),
    offered("GET", "/2019-09-30/functions/{FunctionName}/concurrency", "GetFunctionConcurrency", Operation::GetFunctionConcurrency),
    offered("DELETE", "/2019-09-30/functions/{FunctionName}/provisioned-concurrency", "DeleteProvisionedConcurrencyConfig", Operation::DeleteProvisionedConcurrencyConfig),
    Route { method: "GET", pattern: "/2019-09-30/functions/{FunctionName}/provisioned-concurrency", query: "List=ALL", name: "ListProvisionedConcurrencyConfigs", operation: Some(Operation::ListProvisionedConcurrencyConfigs) },
    offered("GET", "/2019-09-30/functions/{FunctionName}/provisioned-concurrency", "GetProvisionedConcurrencyConfig", Operation::GetProvisionedConcurrencyConfig),
    offered("PUT", "/2019-09-30/functions/{FunctionName}/provisioned-concurrency", "PutProvisionedConcurrencyConfig", Operation::PutProvisionedConcurrencyConfig),
    refused("GET", "/2020-04-22/code-signing-configs", "", "ListCodeSigningConfigs"),
    refused("POST", "/2020-04-22/code-signing-configs", "", "CreateCodeSigningConfig"),
    refused("DELETE", "/2020-04-22/code-signing-configs/{CodeSigningConfigArn}", "", "DeleteCodeSigningConfig"),
    refused("GET", "/2020-04-22/code-signing-configs/{CodeSigningConfigArn}", "", "GetCodeSigningConfig"),
    refused("PUT", "/2020-04-22/code-signing-configs/{CodeSigningConfigArn}", "", "UpdateCodeSigningConfig"),
    refused("GET", "/2020-04-22/code-signing-configs/{CodeSigningConfigArn}/functions", "", "ListFunctionsByCodeSigningConfig"),
    refused("DELETE", "/2020-06-30/functions/{FunctionName}/code-signing-config", "", "DeleteFunctionCodeSigningConfig"),
    refused("GET", "/2020-06-30/functions/{FunctionName}/code-signing-config", "", "GetFunctionCodeSigningConfig"),
    refused("PUT", "/2020-06-30/functions/{FunctionName}/code-signing-config", "", "PutFunctionCodeSigningConfig"),
    refused("GET", "/2021-07-20/functions/{FunctionName}/runtime-management-config", "", "GetRuntimeManagementConfig"),
    refused("PUT", "/2021-07-20/functions/{FunctionName}/runtime-management-config", "", "PutRuntimeManagementConfig"),
    refused("DELETE", "/2021-10-31/functions/{FunctionName}/url", "", "DeleteFunctionUrlConfig"),
    refused("GET", "/2021-10-31/functions/{FunctionName}/url", "", "GetFunctionUrlConfig"),
    refused("POST", "/2021-10-31/functions/{FunctionName}/url", "", "CreateFunctionUrlConfig"),
    refused("PUT", "/2021-10-31/functions/{FunctionName}/url", "", "UpdateFunctionUrlConfig"),
    refused("GET", "/2021-10-31/functions/{FunctionName}/urls", "", "ListFunctionUrlConfigs"),
    refused("POST", "/2021-11-15/functions/{FunctionName}/response-streaming-invocations", "", "InvokeWithResponseStream"),
    refused("GET", "/2024-08-31/functions/{FunctionName}/recursion-config", "", "GetFunctionRecursionConfig"),
    refused("PUT", "/2024-08-31/functions/{FunctionName}/recursion-config", "", "PutFunctionRecursionConfig"),
    refused("GET", "/2025-11-30/capacity-providers", "", "ListCapacityProviders"),
    refused("POST", "/2025-11-30/capacity-providers", "", "CreateCapacityProvider"),
    refused("DELETE", "/2025-11-30/capacity-providers/{CapacityProviderName}", "", "DeleteCapacityProvider"),
    refused("GET", "/2025-11-30/capacity-providers/{CapacityProviderName}", "", "GetCapacityProvider"),
    refused("PUT", "/2025-11-30/capacity-providers/{CapacityProviderName}", "", "UpdateCapacityProvider"),
    refused("GET", "/2025-11-30/capacity-providers/{CapacityProviderName}/function-versions", "", "ListFunctionVersionsByCapacityProvider"),
    refused("GET", "/2025-11-30/functions/{FunctionName}/function-scaling-config", "", "GetFunctionScalingConfig"),
    refused("PUT", "/2025-11-30/functions/{FunctionName}/function-scaling-config", "", "PutFunctionScalingConfig"),
    refused("POST", "/2025-12-01/durable-execution-callbacks/{CallbackId}/fail", "", "SendDurableExecutionCallbackFailure"),
    refused("POST", "/2025-12-01/durable-execution-callbacks/{CallbackId}/heartbeat", "", "SendDurableExecutionCallbackHeartbeat"),
    refused("POST", "/2025-12-01/durable-execution-callbacks/{CallbackId}/succeed", "", "SendDurableExecutionCallbackSuccess"),
    refused("GET", "/2025-12-01/durable-executions/{DurableExecutionArn}", "", "GetDurableExecution"),
    refused("POST", "/2025-12-01/durable-executions/{DurableExecutionArn}/checkpoint", "", "CheckpointDurableExecution"),
    refused("GET", "/2025-12-01/durable-executions/{DurableExecutionArn}/history", "", "GetDurableExecutionHistory"),
    refused("GET", "/2025-12-01/durable-executions/{DurableExecutionArn}/state", "", "GetDurableExecutionState"),
    refused("POST", "/2025-12-01/durable-executions/{DurableExecutionArn}/stop", "", "StopDurableExecution"),
    refused("GET", "/2025-12-01/functions/{FunctionName}/durable-executions", "", "ListDurableExecutionsByFunction"),
    // Tidegate's own
    offered("GET", "/tidegate/v1/functions/{name}/settings", "GetSettings", Operation::GetSettings),
    offered("PUT", "/tidegate/v1/functions/{name}/settings", "PutSettings", Operation::PutSettings),
    offered("GET", "/tidegate/v1/functions/{name}/scaling", "GetScaling", Operation::GetScaling),
    offered("PUT", "/tidegate/v1/functions/{name}/scaling", "PutScaling", Operation::PutScaling),
    offered("DELETE", "/tidegate/v1/functions/{name}/scaling", "DeleteScaling", Operation::DeleteScaling),
    offered("POST", "/tidegate/v1/functions/{name}/warm-up", "WarmUp", Operation::WarmUp),
    offered("GET", "/tidegate/v1/functions/{name}/logs", "ReadLog", Operation::ReadLog),
    offered("GET", "/tidegate/v1/explain/{request_id}", "Explain", Operation::Explain),
    offered("GET", "/tidegate/v1/packages/{digest}", "GetPackage", Operation::GetPackage),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_whole_service_model_is_there() {
        let lambda: Vec<&Route> = ROUTES.iter().filter(|r| !r.pattern.starts_with("/tidegate/")).collect();
        assert_eq!(lambda.len(), 85);
        let names: BTreeSet<&str> = lambda.iter().map(|r| r.name).collect();
        assert_eq!(names.len(), 85);
        assert_eq!(lambda.iter().filter(|r| r.operation.is_some()).count(), 26);
    }

    #[test]
    fn every_route_is_reached_by_its_own_pattern() {
        for route in ROUTES {
            let path = route.pattern.replace(['{', '}'], "x");
            match (find(route.method, &path, route.query), route.operation) {
                (Match::Offered(operation, name, _), Some(wanted)) => {
                    assert_eq!((operation, name), (wanted, route.name))
                }
                (Match::NotOffered(name), None) => assert_eq!(name, route.name),
                (found, _) => panic!("{route:?} leads to {found:?}"),
            }
        }
    }

    fn check(method: &str, path: &str, query: &str, want: &str) {
        assert_eq!(format!("{:?}", find(method, path, query)), want, "{method} {path} {query}");
    }

    #[test]
    fn paths() {
        check(
            "POST",
            "/2015-03-31/functions/arn%3Aaws%3Alambda/invocations",
            "",
            r#"Offered(Invoke, "Invoke", ["arn:aws:lambda"])"#,
        );
        check("GET", "/2015-03-31/functions/", "", r#"Offered(ListFunctions, "ListFunctions", [])"#);
        check("GET", "/2015-03-31/functions/f/", "", r#"Offered(GetFunction, "GetFunction", ["f"])"#);
        check("GET", "/2018-10-31/layers", "find=LayerVersion&Arn=x", r#"NotOffered("GetLayerVersionByArn")"#);
        check("GET", "/2018-10-31/layers", "", r#"NotOffered("ListLayers")"#);
        for (method, path) in [
            ("GET", ""),
            ("GET", "/"),
            ("GET", "//"),
            ("GET", "*"),
            ("PATCH", "/2015-03-31/functions"),
            ("GET", "/2015-03-31/functions//configuration"),
            ("GET", "/2015-03-31/functions/%FF"),
            ("GET", "/2015-03-31/functions/a/b/c/d"),
        ] {
            check(method, path, "", "Unknown");
        }
    }

    proptest::proptest! {
        #[test]
        fn never_panics(method in "[A-Z]{0,8}", path in ".{0,80}", query in ".{0,40}") {
            find(&method, &path, &query);
        }
    }
}
