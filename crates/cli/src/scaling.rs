//! `tidegate scaling`

use crate::client::{Call, Client, segment};
use crate::error::Error;
use crate::screen::{Screen, harmless};
use crate::{Output, Shared};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use ureq::http::Method;

/// Let provisioned concurrency change by itself.
#[derive(Debug, Args)]
pub struct Scaling {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Set bounds, windows of time, and whether the use is followed
    Set(Box<Set>),
    /// Show them, and how they stand
    Get(Of),
    /// End it; what is provisioned stays
    Delete(Of),
}

/// A version or an alias.
#[derive(Debug, Args)]
struct Of {
    /// The function's name
    name: String,
    /// The version's number or the alias's name
    #[arg(long, value_name = "QUALIFIER")]
    qualifier: String,
    #[command(flatten)]
    shared: Shared,
}

#[derive(Debug, Args)]
struct Set {
    #[command(flatten)]
    of: Of,
    /// Never less than this
    #[arg(long, value_name = "N", default_value_t = 0)]
    min: u32,
    /// Never more than this
    #[arg(long, value_name = "N")]
    max: u32,
    /// Follow the use: the share of provisioned instances that is to be in use, for example 0.7
    #[arg(long, value_name = "SHARE")]
    utilisation: Option<f64>,
    /// Keep less only after less was needed for so long [default: 300]
    #[arg(long, value_name = "SECONDS", requires = "utilisation")]
    cool_down: Option<u32>,
    /// Keep at least COUNT whenever CRON comes, for DURATION: "0 8 * * MON-FRI;10h;5;Europe/Berlin"; may be repeated
    #[arg(long, value_name = "CRON;DURATION;COUNT[;ZONE]", value_parser = window)]
    window: Vec<Value>,
}

impl Scaling {
    pub(crate) fn shared(&self) -> &Shared {
        match &self.action {
            Action::Set(set) => &set.of.shared,
            Action::Get(of) | Action::Delete(of) => &of.shared,
        }
    }
}

/// Asks the server and prints what it says.
pub fn run(args: &Scaling, client: &Client, screen: &Screen) -> Result<(), Error> {
    match &args.action {
        Action::Set(set) => {
            let call = call(&set.of, "PutScaling", Method::PUT).json(&body(set));
            show(&client.send(call)?.json()?, &set.of, screen)
        }
        Action::Get(of) => show(&client.send(call(of, "GetScaling", Method::GET))?.json()?, of, screen),
        Action::Delete(of) => {
            client.send(call(of, "DeleteScaling", Method::DELETE))?;
            match of.shared.output {
                Output::Json => screen.json(&json!({ "name": of.name, "action": "deleted" })),
                Output::Text => screen.line(&format!("nothing scales {}:{} any more", of.name, of.qualifier)),
            }
        }
    }
}

fn call(of: &Of, operation: &'static str, method: Method) -> Call {
    let path = format!("/tidegate/v1/functions/{}/scaling", segment(&of.name));
    Call::new(operation, method, path).query("Qualifier", &of.qualifier)
}

fn body(set: &Set) -> Value {
    let mut body = json!({ "min": set.min, "max": set.max, "windows": set.window });
    if let Some(utilisation) = set.utilisation {
        body["utilisation"] = json!(utilisation);
    }
    if let Some(seconds) = set.cool_down {
        body["cool_down_s"] = json!(seconds);
    }
    body
}

fn show(scaling: &Value, of: &Of, screen: &Screen) -> Result<(), Error> {
    if of.shared.output == Output::Json {
        return screen.json(scaling);
    }
    for line in lines(scaling, &format!("{}:{}", of.name, of.qualifier)) {
        screen.line(&line)?;
    }
    Ok(())
}

/// For people.
fn lines(scaling: &Value, of: &str) -> Vec<String> {
    let number = |value: &Value, name: &str| value.get(name).and_then(Value::as_u64).unwrap_or(0);
    let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).map(harmless);
    let mut lines = vec![format!("{of}: {} to {} provisioned", number(scaling, "min"), number(scaling, "max"))];
    if let Some(utilisation) = scaling.get("utilisation").and_then(Value::as_f64) {
        let seconds = number(scaling, "cool_down_s");
        lines.push(format!("  {:.0} % of them in use; less only after {seconds} s of calm", utilisation * 100.0));
    }
    for window in scaling.get("windows").and_then(Value::as_array).into_iter().flatten() {
        lines.push(format!(
            "  at least {} for {} s from {} ({})",
            number(window, "count"),
            number(window, "duration_s"),
            text(window, "cron").unwrap_or_default(),
            text(window, "time_zone").unwrap_or_default(),
        ));
    }
    if let Some(now) = scaling.get("now") {
        let because = text(now, "because").map(|because| format!(" ({because})")).unwrap_or_default();
        let (provisioned, in_use) = (number(now, "provisioned"), number(now, "in_use"));
        lines.push(format!("  now: {provisioned} provisioned{because}, {in_use} in use"));
        if let Some(refused) = text(now, "refused") {
            lines.push(format!("  the newest change was refused: {refused}"));
        }
    }
    lines
}

/// `CRON;DURATION;COUNT[;ZONE]` as the API takes it. What the cron expression and the zone mean, the server knows.
fn window(text: &str) -> Result<Value, String> {
    let parts: Vec<&str> = text.split(';').map(str::trim).collect();
    let (cron, duration, count, zone) = match parts.as_slice() {
        [cron, duration, count] => (cron, duration, count, "UTC"),
        [cron, duration, count, zone] => (cron, duration, count, *zone),
        _ => return Err("not of the form CRON;DURATION;COUNT[;ZONE]".to_owned()),
    };
    let count: u32 = count.parse().map_err(|_| format!("{count:?} is no whole number"))?;
    Ok(json!({ "cron": cron, "time_zone": zone, "duration_s": seconds(duration)?, "count": count }))
}

/// `90s`, `30m`, `10h`, `2d`.
fn seconds(text: &str) -> Result<u64, String> {
    let refuse = || format!("{text:?} is no duration such as 90s, 30m, 10h or 2d");
    let unit = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3_600,
        Some('d') => 86_400,
        _ => return Err(refuse()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| refuse())?;
    number.checked_mul(unit).ok_or_else(refuse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows() {
        let check = |text: &str, want: &str| {
            let got = window(text).map_or_else(|error| error, |value| value.to_string());
            assert_eq!(got, want, "{text}");
        };
        check(
            "0 8 * * MON-FRI;10h;5;Europe/Berlin",
            r#"{"cron":"0 8 * * MON-FRI","time_zone":"Europe/Berlin","duration_s":36000,"count":5}"#,
        );
        check("0 8 * * *; 90s; 1", r#"{"cron":"0 8 * * *","time_zone":"UTC","duration_s":90,"count":1}"#);
        check("0 8 * * *", "not of the form CRON;DURATION;COUNT[;ZONE]");
        check("0 8 * * *;10h;many", r#""many" is no whole number"#);
        check("0 8 * * *;10;1", r#""10" is no duration such as 90s, 30m, 10h or 2d"#);
        check("0 8 * * *;ä;1", r#""ä" is no duration such as 90s, 30m, 10h or 2d"#);
        check("0 8 * * *;;1", r#""" is no duration such as 90s, 30m, 10h or 2d"#);
    }

    #[test]
    fn for_people() {
        let scaling = json!({
            "min": 1, "max": 20, "utilisation": 0.7, "cool_down_s": 300,
            "windows": [{ "cron": "0 8 * * *", "time_zone": "UTC", "duration_s": 60, "count": 5 }],
            "now": { "min": 5, "provisioned": 5, "in_use": 2, "because": "bounds", "refused": "no" },
        });
        let want = "f:live: 1 to 20 provisioned\n  70 % of them in use; less only after 300 s of calm\n  at least 5 for 60 s \
                    from 0 8 * * * (UTC)\n  now: 5 provisioned (bounds), 2 in use\n  the newest change was refused: no";
        assert_eq!(lines(&scaling, "f:live").join("\n"), want);
    }
}
