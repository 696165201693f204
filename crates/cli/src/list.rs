//! `tidegate list`

use crate::client::{Call, Client};
use crate::error::Error;
use crate::screen::{Screen, Style, columns, harmless, size};
use crate::{Output, Shared};
use clap::Args;
use serde_json::{Value, json};
use ureq::http::Method;

/// The most pages that are fetched; at 50 functions each, half a million functions.
const PAGES_MAX: usize = 10_000;

/// List the functions.
#[derive(Debug, Args)]
pub struct List {
    #[command(flatten)]
    pub(crate) shared: Shared,
}

/// Fetches all pages and prints them.
pub fn run(args: &List, client: &Client, screen: &Screen) -> Result<(), Error> {
    let functions = fetch(client)?;
    if args.shared.output == Output::Json {
        return screen.json(&json!({ "functions": functions }));
    }
    if functions.is_empty() {
        screen.note("there are no functions yet; `tidegate deploy DIR` makes one");
        return Ok(());
    }
    let mut rows =
        vec![["NAME", "RUNTIME", "HANDLER", "MEMORY", "TIMEOUT", "CODE", "MODIFIED"].map(str::to_owned).to_vec()];
    rows.extend(functions.iter().map(row));
    for (index, line) in columns(&rows).iter().enumerate() {
        screen.line(&if index == 0 { screen.styled(Style::Bold, line) } else { line.clone() })?;
    }
    Ok(())
}

fn fetch(client: &Client) -> Result<Vec<Value>, Error> {
    let mut functions = Vec::new();
    let mut marker: Option<String> = None;
    for _ in 0..PAGES_MAX {
        let mut call = Call::new("ListFunctions", Method::GET, "/2015-03-31/functions".to_owned());
        if let Some(marker) = &marker {
            call = call.query("Marker", marker);
        }
        let mut page = client.send(call)?.json()?;
        if let Some(list) = page.get_mut("Functions").and_then(Value::as_array_mut) {
            functions.append(list);
        }
        marker = page.get("NextMarker").and_then(Value::as_str).filter(|m| !m.is_empty()).map(str::to_owned);
        if marker.is_none() {
            break;
        }
    }
    Ok(functions)
}

fn row(function: &Value) -> Vec<String> {
    let text = |name: &str| harmless(function.get(name).and_then(Value::as_str).unwrap_or("-"));
    let number = |name: &str| function.get(name).and_then(Value::as_u64).unwrap_or(0);
    // `2026-11-23T04:48:45.123+0000`: to the second is enough for a table.
    let modified: String = text("LastModified").replace('T', " ").chars().take(19).collect();
    vec![
        text("FunctionName"),
        text("Runtime"),
        text("Handler"),
        format!("{} MB", number("MemorySize")),
        format!("{} s", number("Timeout")),
        size(number("CodeSize")),
        modified,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows() {
        let function = json!({
            "FunctionName": "f", "Runtime": "python3.12", "Handler": "a.b", "MemorySize": 128, "Timeout": 3,
            "CodeSize": 1500, "LastModified": "2026-11-23T04:48:45.123+0000"
        });
        assert_eq!(row(&function), ["f", "python3.12", "a.b", "128 MB", "3 s", "1.5 kB", "2026-11-23 04:48:45"]);
        assert_eq!(row(&Value::Null)[..2], ["-", "-"]);
    }
}
