//! Tidegate's own operations, under `/tidegate/v1/`.

use crate::body::{self, FileBody};
use crate::errors::{Exception, Refusal, from_control};
use crate::request::{Answer, Call, Gateway};
use api::tidegate::{LogLine, Logs, Settings};
use control::{ConfigChange, Cursor};
use model::{Digest, Function, FunctionName, Limits, Runtime, RuntimeFamily};
use std::str::FromStr;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

/// Lines of a log that are sent when the caller does not say how many.
const LINES: usize = 100;
/// The most lines of a log in one answer.
const LINES_MAX: usize = 10_000;
/// The longest wait for new lines.
const WAIT_MS_MAX: u64 = 20_000;
/// How often a log is looked at during a wait.
const LOOK: Duration = Duration::from_millis(200);

/// GET /tidegate/v1/functions/{name}/settings
pub async fn get_settings(gateway: &Gateway, call: Call) -> Result<Answer, Refusal> {
    let (_, function) = read(gateway, &call).await?;
    Answer::of(200, &shown(&function))
}

/// PUT /tidegate/v1/functions/{name}/settings
pub async fn put_settings(gateway: &Gateway, call: Call) -> Result<Answer, Refusal> {
    let (name, function) = read(gateway, &call).await?;
    let wanted: Settings = serde_json::from_slice(&call.body)
        .map_err(|error| Refusal::invalid(format!("The settings cannot be read: {error}")))?;
    let change = change(&wanted, &function, &gateway.limits)?;
    if change == ConfigChange::default() {
        return Answer::of(200, &shown(&function));
    }
    let arn = gateway.place.arn(&name, None);
    let function = gateway.control.update_config(&name, change).await.map_err(|error| from_control(error, &arn))?;
    Answer::of(200, &shown(&function))
}

fn shown(function: &Function) -> Settings {
    Settings { network: Some(function.config.network), concurrency: Some(function.config.instance_concurrency) }
}

/// What of the wanted settings differs from the present ones; the default if nothing does.
fn change(wanted: &Settings, function: &Function, limits: &Limits) -> Result<ConfigChange, Refusal> {
    let present = &function.config;
    if let Some(concurrency) = wanted.concurrency {
        check_concurrency(concurrency, present.runtime.as_ref(), limits.instance_concurrency_max)?;
    }
    Ok(ConfigChange {
        network: wanted.network.filter(|network| *network != present.network),
        instance_concurrency: wanted.concurrency.filter(|wanted| *wanted != present.instance_concurrency),
        ..ConfigChange::default()
    })
}

/// Python's and Node.js's shims take several invocations at once, and custom runtimes do if several of their threads
/// ask for the next one.
fn check_concurrency(wanted: u32, runtime: Option<&Runtime>, max: u32) -> Result<(), Refusal> {
    if wanted == 0 || wanted > max {
        return Err(Refusal::invalid(format!("concurrency must be from 1 to {max}, not {wanted}.")));
    }
    match runtime.map(|runtime| (runtime, runtime.family())) {
        Some((_, RuntimeFamily::Python { .. } | RuntimeFamily::Node { .. } | RuntimeFamily::Provided)) => Ok(()),
        _ if wanted == 1 => Ok(()),
        Some((runtime, RuntimeFamily::Other)) => {
            Err(Refusal::invalid(format!("Instances of {} run one invocation at a time.", runtime.0)))
        }
        None => Err(Refusal::invalid("Instances of images run one invocation at a time.")),
    }
}

/// GET /tidegate/v1/functions/{name}/logs
pub async fn read_log(gateway: &Gateway, call: Call) -> Result<Answer, Refusal> {
    let name = gateway.place.unqualified(call.operation, call.parameter(0))?;
    let limit = number(&call, "limit")?.map_or(LINES, |limit| limit.clamp(1, LINES_MAX as u64) as usize);
    let wait = Duration::from_millis(number(&call, "wait_ms")?.unwrap_or(0).min(WAIT_MS_MAX));
    let after = call.query.get("after").filter(|text| !text.is_empty()).map(Cursor::from_str).transpose();
    let mut after = after.map_err(|_| Refusal::invalid("The value of after is not a cursor that was given here."))?;
    let deadline = Instant::now() + wait;
    let arn = gateway.place.arn(&name, None);
    loop {
        let read = gateway.control.read_log(&name, after, limit).await;
        let (lines, cursor) = read.map_err(|error| from_control(error, &arn))?;
        let over = Instant::now() >= deadline || gateway.draining.load(Ordering::Acquire);
        if !lines.is_empty() || over {
            let lines = lines.into_iter().map(line).collect();
            return Answer::of(200, &Logs { lines, cursor: cursor.to_string() });
        }
        after = Some(cursor);
        tokio::time::sleep(LOOK).await;
    }
}

fn line(line: model::log::LogLine) -> LogLine {
    LogLine {
        time_ms: line.time_ms,
        version: line.version.to_string(),
        stream: line.stream.to_string(),
        text: line.text,
    }
}

fn number(call: &Call, name: &str) -> Result<Option<u64>, Refusal> {
    let read = |text: &str| text.parse().map_err(|_| Refusal::invalid(format!("{name} must be a whole number.")));
    call.query.get(name).map(read).transpose()
}

/// GET /tidegate/v1/packages/{digest}
pub async fn get_package(gateway: &Gateway, call: Call) -> Result<Answer, Refusal> {
    let missing = || Refusal::new(Exception::ResourceNotFound, "There is no such package.");
    let digest = Digest::parse(call.parameter(0)).map_err(|_| missing())?;
    let zip = gateway.control.package(digest).await.map_err(|error| Refusal::platform(&error))?.ok_or_else(missing)?;
    Ok(Answer {
        content_type: "application/zip",
        body: body::Answer::File(FileBody::new(zip.file, zip.size_bytes)),
        ..Answer::empty(200)
    })
}

async fn read(gateway: &Gateway, call: &Call) -> Result<(FunctionName, Function), Refusal> {
    let name = gateway.place.unqualified(call.operation, call.parameter(0))?;
    let arn = gateway.place.arn(&name, None);
    let function = gateway.control.function(&name).await.map_err(|error| from_control(error, &arn))?;
    Ok((name, function))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_run_several_at_a_time() {
        let check = |wanted, runtime: Option<&str>, want: &str| {
            let runtime = runtime.map(|id| Runtime(id.to_owned()));
            let got = check_concurrency(wanted, runtime.as_ref(), 1_000);
            assert_eq!(got.err().map_or(String::new(), |refusal| refusal.message), want, "{wanted} {runtime:?}");
        };
        for runtime in ["python3.12", "nodejs22.x", "provided.al2023"] {
            check(1, Some(runtime), "");
            check(1_000, Some(runtime), "");
            check(0, Some(runtime), "concurrency must be from 1 to 1000, not 0.");
            check(1_001, Some(runtime), "concurrency must be from 1 to 1000, not 1001.");
        }
        check(1, Some("java21"), "");
        check(2, Some("java21"), "Instances of java21 run one invocation at a time.");
        check(1, None, "");
        check(2, None, "Instances of images run one invocation at a time.");
    }
}
