//! `tidegate logs`

use crate::client::{Call, Client, segment};
use crate::error::Error;
use crate::screen::{Screen, Style, harmless};
use crate::{Output, Shared};
use clap::Args;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use time::OffsetDateTime;
use time::macros::format_description;
use ureq::http::Method;

/// How long one request waits for new lines, milliseconds; the server answers as soon as there are some.
const WAIT_MS: u64 = 20_000;
/// Lines that one request of `--follow` fetches at most.
const FOLLOW_LINES: u32 = 1_000;
/// The least time between two requests that brought nothing, should the server not wait.
const EMPTY_PAUSE: Duration = Duration::from_millis(500);

/// Show a function's log.
#[derive(Debug, Args)]
pub struct Logs {
    /// The function's name
    name: String,
    /// Keep waiting for new lines
    #[arg(long, short)]
    follow: bool,
    /// How many of the last lines to show first
    #[arg(long, short = 'n', value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    lines: u32,
    #[command(flatten)]
    pub(crate) shared: Shared,
}

/// Prints the last lines, then, if asked to follow, new ones until the user interrupts. With `--output json`
/// each line is one JSON object.
pub fn run(args: &Logs, client: &Client, screen: &Screen) -> Result<(), Error> {
    let mut cursor = None;
    let mut limit = args.lines;
    // Not bounded: following ends when the user says so, or with an error.
    loop {
        let asked = Instant::now();
        let page = fetch(args, client, limit, cursor.as_deref())?;
        let lines = page.get("lines").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        for line in lines {
            screen.line(&shown(line, args.shared.output, screen))?;
        }
        if !args.follow {
            return Ok(());
        }
        if lines.is_empty() && cursor.is_some() {
            std::thread::sleep(EMPTY_PAUSE.saturating_sub(asked.elapsed()));
        }
        let Some(next) = page.get("cursor").and_then(Value::as_str) else {
            return Err(Error::Answer { operation: "logs", what: "it has no cursor".to_owned() });
        };
        cursor = Some(next.to_owned());
        limit = FOLLOW_LINES;
    }
}

fn fetch(args: &Logs, client: &Client, limit: u32, after: Option<&str>) -> Result<Value, Error> {
    let path = format!("/tidegate/v1/functions/{}/logs", segment(&args.name));
    let mut call = Call::new("logs", Method::GET, path).query("limit", limit);
    if let Some(after) = after {
        call = call.query("after", after).query("wait_ms", WAIT_MS);
    }
    client.send(call)?.json()
}

fn shown(line: &Value, output: Output, screen: &Screen) -> String {
    let text = |name: &str| line.get(name).and_then(Value::as_str).unwrap_or_default();
    let time_ms = line.get("time_ms").and_then(Value::as_i64).unwrap_or(0);
    match output {
        Output::Json => json!({
            "time_ms": time_ms, "version": text("version"), "stream": text("stream"), "text": text("text"),
        })
        .to_string(),
        Output::Text => {
            format!("{} {}", screen.styled(Style::Dim, &moment(time_ms)), harmless(text("text").trim_end()))
        }
    }
}

/// `2026-11-23 04:48:45.123`, UTC.
fn moment(time_ms: i64) -> String {
    let shape = format_description!("[year]-[month]-[day] [hour]:[minute]:[second].[subsecond digits:3]");
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(time_ms) * 1_000_000)
        .ok()
        .and_then(|moment| moment.format(shape).ok())
        .unwrap_or_else(|| time_ms.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments() {
        assert_eq!(moment(1_440_938_160_007), "2015-08-30 12:36:00.007");
        assert_eq!(moment(i64::MAX), i64::MAX.to_string());
    }
}
