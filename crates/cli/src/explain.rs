//! `tidegate explain`

use crate::client::{Call, Client, segment};
use crate::error::Error;
use crate::screen::{Screen, columns, harmless};
use crate::{Output, Shared};
use clap::Args;
use serde_json::Value;
use ureq::http::Method;

/// Tell why an invocation took as long as it did, or was refused.
#[derive(Debug, Args)]
pub struct Explain {
    /// The invocation's id: `x-amzn-RequestId` of its answer, `RequestId` in the log
    request_id: String,
    #[command(flatten)]
    pub(crate) shared: Shared,
}

/// Asks and prints.
pub fn run(args: &Explain, client: &Client, screen: &Screen) -> Result<(), Error> {
    let path = format!("/tidegate/v1/explain/{}", segment(&args.request_id));
    let told = client.send(Call::new("explain", Method::GET, path))?.json()?;
    match args.shared.output {
        Output::Json => screen.json(&told),
        Output::Text => text(&told).iter().try_for_each(|line| screen.line(line)),
    }
}

fn text(told: &Value) -> Vec<String> {
    let word = |name: &str| harmless(told.get(name).and_then(Value::as_str).unwrap_or("-"));
    let end = match word("end").as_str() {
        "success" => "ran with success".to_owned(),
        "function_error" => format!("ran and failed: {}", word("reason")),
        "throttled" => format!("was throttled: {}", word("reason")),
        _ => format!("did not run: {}", word("reason")),
    };
    let mut lines = vec![format!("{} of {} version {} {end}", word("request_id"), word("function"), word("version"))];
    let steps = told.get("steps").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let rows: Vec<Vec<String>> = steps.iter().map(row).collect();
    lines.extend(columns(&rows).into_iter().map(|line| format!("  {line}")));
    if let Some(start) = told.get("cold_start") {
        let number = |name: &str| start.get(name).and_then(Value::as_u64).unwrap_or(0);
        let reason = harmless(start.get("reason").and_then(Value::as_str).unwrap_or("-"));
        let (sandbox, init) = (ms(number("sandbox_us")), ms(number("init_us")));
        let restored = start.get("restored").and_then(Value::as_bool).unwrap_or(false);
        let what = if restored { "restored from a snapshot in" } else { "Init" };
        lines.push(format!("cold start: {reason}; sandbox {sandbox}, {what} {init}"));
        if let Some(why) = start.get("without_snapshot").and_then(Value::as_str) {
            lines.push(format!("not restored from a snapshot: {}", harmless(why)));
        }
        if number("evicted") > 0 {
            lines.push(format!("idle instances stopped for it: {}", number("evicted")));
        }
    }
    if let Some(instance) = told.get("instance").and_then(Value::as_u64) {
        let lane = told.get("lane").and_then(Value::as_str).map(|lane| format!(" ({})", harmless(lane)));
        lines.push(format!("instance {instance}{}", lane.unwrap_or_default()));
    }
    lines
}

fn row(step: &Value) -> Vec<String> {
    let word = |name: &str| harmless(step.get(name).and_then(Value::as_str).unwrap_or(""));
    vec![word("name"), ms(step.get("us").and_then(Value::as_u64).unwrap_or(0)), word("note")]
}

fn ms(us: u64) -> String {
    format!("{:.2} ms", us as f64 / 1_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn for_people() {
        let told = json!({
            "request_id": "1-2", "function": "f", "version": "$LATEST", "time_ms": 1, "end": "success", "instance": 7,
            "cold_start": {"reason": "the version had no instance", "sandbox_us": 2_100, "init_us": 40_000, "evicted": 2},
            "steps": [
                {"name": "route", "us": 8},
                {"name": "queue", "us": 12_300, "note": "concurrency was used up"},
                {"name": "slot", "us": 42_200, "note": "waited for a start"},
            ],
        });
        let want = "1-2 of f version $LATEST ran with success\n  route  0.01 ms\n  \
                    queue  12.30 ms  concurrency was used up\n  slot   42.20 ms  waited for a start\n\
                    cold start: the version had no instance; sandbox 2.10 ms, Init 40.00 ms\n\
                    idle instances stopped for it: 2\ninstance 7";
        let got: Vec<String> = text(&told).iter().map(|line| line.trim_end().to_owned()).collect();
        assert_eq!(got.join("\n"), want);
        let told = json!({"request_id": "3", "function": "f", "version": "1", "end": "throttled", "reason": "why",
            "steps": []});
        assert_eq!(text(&told), ["3 of f version 1 was throttled: why"]);
    }
}
