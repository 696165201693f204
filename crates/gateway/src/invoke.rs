//! Step 1 of an invocation: from an authenticated request to `router::invoke`, and from its answer to HTTP.

use crate::errors::{Exception, Refusal, from_router};
use crate::request::{Answer, Call, Gateway, by_size, now_s};
use crate::validation::Violations;
use crate::validation::patterns::{DURABLE_EXECUTION_NAME, TENANT_ID};
use crate::validation::references::{Kind, Named};
use crate::{ids, payload};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::header::{HeaderName, HeaderValue};
use model::invocation::Completed;
use model::{InvocationId, Outcome, Version};
use router::NoRoute;
use std::time::Duration;

/// How long an invocation waits for an Inactive function to wake.
const WAKE_WAIT: Duration = Duration::from_secs(5);
/// The most bytes of a caller's trace header that are passed on, ours.
const TRACE_BYTES_MAX: usize = 512;
const EXECUTED_VERSION: HeaderName = HeaderName::from_static("x-amz-executed-version");
const FUNCTION_ERROR: HeaderName = HeaderName::from_static("x-amz-function-error");
const LOG_RESULT: HeaderName = HeaderName::from_static("x-amz-log-result");
// Names that are constants need not be read anew for each request.
const INVOCATION_TYPE: HeaderName = HeaderName::from_static("x-amz-invocation-type");
const LOG_TYPE: HeaderName = HeaderName::from_static("x-amz-log-type");
const DURABLE_EXECUTION: HeaderName = HeaderName::from_static("x-amz-durable-execution-name");
const TENANT: HeaderName = HeaderName::from_static("x-amz-tenant-id");
const CLIENT_CONTEXT: HeaderName = HeaderName::from_static("x-amz-client-context");
const TRACE_ID: HeaderName = HeaderName::from_static("x-amzn-trace-id");

/// What the request's headers ask for.
#[derive(Debug, PartialEq, Eq)]
struct Wishes {
    dry_run: bool,
    log_tail: bool,
    client_context: Option<String>,
}

/// Runs a function and answers with its outcome. A function's own failure is a success of ours: 200.
pub async fn invoke(gateway: &Gateway, call: Call) -> Result<Answer, Refusal> {
    let qualifier = call.query.get("Qualifier");
    let named = gateway.place.function("InvokeFunction", Kind::Namespaced, call.parameter(0), qualifier)?;
    let wishes = wishes(&call, gateway.limits.client_context_bytes)?;
    let refused = |error| from_router(error, &gateway.place.arn(&named.name, None), named.qualifier.as_ref());
    if wishes.dry_run {
        gateway.router.resolve(&named.name, named.qualifier.as_ref()).map_err(refused)?;
        return Ok(Answer::empty(204));
    }
    let payload = payload(call.body.clone()).await?;
    let trace_id = trace_id(&call);
    let request = || router::Request {
        id: InvocationId(call.id.clone()),
        name: named.name.clone(),
        qualifier: named.qualifier.clone(),
        payload: payload.clone(),
        client_context: wishes.client_context.clone(),
        trace_id: trace_id.clone(),
    };
    let mut result = gateway.router.invoke(request()).await;
    // Rare, and boxed so that each invocation sets memory aside for one of them only.
    if is_inactive(&result) && Box::pin(wake(gateway, &named)).await {
        result = Box::pin(gateway.router.invoke(request())).await;
    }
    let (completed, version) = result.map_err(refused)?;
    Ok(answer(completed, version, wishes.log_tail, &trace_id))
}

fn is_inactive<T>(result: &Result<T, router::Error>) -> bool {
    matches!(result, Err(router::Error::NoRoute(NoRoute::NotReady { state: "Inactive" })))
}

/// `true` if trying again may help.
async fn wake(gateway: &Gateway, named: &Named) -> bool {
    match gateway.control.wake(&named.name, WAKE_WAIT).await {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(name = %named.name, error = &error as &dyn std::error::Error, "cannot wake a function");
            false
        }
    }
}

fn wishes(call: &Call, context_bytes_max: usize) -> Result<Wishes, Refusal> {
    let invocation_type = call.header_named(&INVOCATION_TYPE).unwrap_or("RequestResponse");
    let log_type = call.header_named(&LOG_TYPE).unwrap_or("None");
    let mut violations = Violations::default();
    violations.one_of(invocation_type, "invocationType", &["Event", "RequestResponse", "DryRun"]);
    violations.one_of(log_type, "logType", &["None", "Tail"]);
    if let Some(name) = call.header_named(&DURABLE_EXECUTION) {
        violations.length(name, "durableExecutionName", 1, 64);
        violations.pattern(name, "durableExecutionName", &DURABLE_EXECUTION_NAME);
    }
    if let Some(tenant) = call.header_named(&TENANT) {
        violations.length(tenant, "tenantId", 1, 256);
        violations.pattern(tenant, "tenantId", &TENANT_ID);
    }
    violations.finish()?;
    if invocation_type == "Event" {
        return Err(Refusal::invalid(
            "Tidegate does not take asynchronous invocations yet; use InvocationType RequestResponse.",
        ));
    }
    let client_context = match call.headers.get(&CLIENT_CONTEXT).map(HeaderValue::as_bytes) {
        None | Some([]) => None,
        Some(sent) => Some(client_context(sent, context_bytes_max)?),
    };
    Ok(Wishes { dry_run: invocation_type == "DryRun", log_tail: log_type == "Tail", client_context })
}

/// Decodes a client context to JSON text. It must fit on one header line on its way to the function.
fn client_context(sent: &[u8], bytes_max: usize) -> Result<String, Refusal> {
    let refuse = |text: String| Refusal::new(Exception::InvalidRequestContent, text);
    if sent.len() > bytes_max {
        return Err(refuse(format!("Client context must be no more than {bytes_max} bytes.")));
    }
    let not_json = || refuse("Client context must be a valid Base64-encoded JSON object.".to_owned());
    let decoded = STANDARD.decode(sent).map_err(|_| not_json())?;
    let value: serde_json::Value = serde_json::from_slice(&decoded).map_err(|_| not_json())?;
    if !value.is_object() {
        return Err(not_json());
    }
    // As sent, unless line ends would break the header that carries it.
    match String::from_utf8(decoded) {
        Ok(text) if !text.contains(|c: char| c.is_control()) => Ok(text),
        _ => Ok(value.to_string()),
    }
}

/// The payload as JSON text; nothing at all means `{}`.
async fn payload(body: Bytes) -> Result<Bytes, Refusal> {
    if body.is_empty() {
        return Ok(Bytes::from_static(b"{}"));
    }
    let checked = body.clone();
    by_size(body.len(), move || payload::check(&checked)).await?.map_err(|fault| {
        let text = format!("Could not parse request body into json: Could not parse payload into json: {fault}");
        Refusal::new(Exception::InvalidRequestContent, text)
    })?;
    Ok(body)
}

/// The caller's trace header, or a new one of the same form that asks for no sampling.
fn trace_id(call: &Call) -> String {
    let sent = call.header_named(&TRACE_ID).filter(|text| !text.is_empty() && text.len() <= TRACE_BYTES_MAX);
    match sent {
        Some(text) => text.to_owned(),
        None => ids::trace(now_s()),
    }
}

fn answer(completed: Completed, version: Version, log_tail: bool, trace_id: &str) -> Answer {
    let (payload, failed) = match completed.outcome {
        Outcome::Success { payload } => (payload, false),
        Outcome::FunctionError { payload } => (payload, true),
    };
    let mut answer = Answer::json(200, payload);
    let version = match version {
        Version::Latest => HeaderValue::from_static("$LATEST"),
        Version::Number(number) => HeaderValue::from(number),
    };
    answer.headers.push((EXECUTED_VERSION, version));
    if failed {
        answer.headers.push((FUNCTION_ERROR, HeaderValue::from_static("Unhandled")));
    }
    if log_tail && let Ok(tail) = HeaderValue::from_str(&STANDARD.encode(&completed.log_tail)) {
        answer.headers.push((LOG_RESULT, tail));
    }
    if let Ok(trace_id) = HeaderValue::from_str(trace_id) {
        answer.headers.push((TRACE_ID, trace_id));
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_contexts() {
        let check = |sent: &str, want: &str| {
            let got = client_context(sent.as_bytes(), 40).unwrap_or_else(|refusal| refusal.message);
            assert_eq!(got, want, "{sent}");
        };
        check(&STANDARD.encode(r#"{"a": 1}"#), r#"{"a": 1}"#);
        check(&STANDARD.encode("{\"a\":\n1}"), r#"{"a":1}"#);
        check("!", "Client context must be a valid Base64-encoded JSON object.");
        check(&STANDARD.encode("[1]"), "Client context must be a valid Base64-encoded JSON object.");
        check(&"A".repeat(41), "Client context must be no more than 40 bytes.");
    }

    #[tokio::test]
    async fn payloads() {
        assert_eq!(payload(Bytes::new()).await.unwrap(), "{}");
        assert_eq!(payload(Bytes::from_static(b" [1, 2]")).await.unwrap(), " [1, 2]");
        assert_eq!(payload(Bytes::from(vec![b'1'; 70_000])).await.unwrap().len(), 70_000);
        assert!(payload(Bytes::from_static(b"{")).await.is_err());
    }
}
