//! Tidegate's own operations, under `/tidegate/v1/`.

use crate::body::{self, FileBody};
use crate::errors::{Exception, Refusal, from_control};
use crate::request::{Answer, Call, Gateway};
use api::tidegate::{LogLine, Logs};
use control::Cursor;
use model::Digest;
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
