//! `tidegate invoke`

use crate::client::{Answer, Call, Client, segment};
use crate::error::Error;
use crate::screen::{Screen, harmless};
use crate::{Output, Shared};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;
use ureq::http::Method;

/// The longest timeout of a function plus a minute for a cold start and the way.
const INVOKE_MAX: Duration = Duration::from_secs(960);

/// Invoke a function and print its answer.
#[derive(Debug, Args)]
pub struct Invoke {
    /// The function's name or ARN
    name: String,
    /// The payload, JSON, or `-` to read it from standard input [default: {}]
    #[arg(value_name = "PAYLOAD", conflicts_with_all = ["payload", "payload_file"])]
    argument: Option<String>,
    /// The payload, JSON
    #[arg(long, short, value_name = "JSON", conflicts_with = "payload_file")]
    payload: Option<String>,
    /// A file with the payload; `-` is standard input
    #[arg(long, short = 'f', value_name = "FILE")]
    payload_file: Option<PathBuf>,
    /// Print the end of the invocation's log to standard error
    #[arg(long)]
    tail: bool,
    /// A version or an alias
    #[arg(long, value_name = "QUALIFIER")]
    qualifier: Option<String>,
    #[command(flatten)]
    pub(crate) shared: Shared,
}

/// Sends the payload and prints the answer; a function error is an error.
pub fn run(args: &Invoke, client: &Client, screen: &Screen) -> Result<(), Error> {
    let payload = payload(args)?;
    let path = format!("/2015-03-31/functions/{}/invocations", segment(&args.name));
    let mut call = Call::new("Invoke", Method::POST, path).body(payload).time_max(INVOKE_MAX);
    if let Some(qualifier) = &args.qualifier {
        call = call.query("Qualifier", qualifier);
    }
    if args.tail {
        call = call.header("x-amz-log-type", "Tail");
    }
    let answer = client.send(call)?;
    let log_tail = log_tail(&answer);
    if let (Some(log_tail), Output::Text) = (&log_tail, args.shared.output) {
        let lines: Vec<String> = log_tail.lines().map(harmless).collect();
        screen.aside(&lines.join("\n"));
    }
    match args.shared.output {
        Output::Text => screen.bytes(&answer.body)?,
        Output::Json => screen.json(&as_json(&answer, log_tail.as_deref()))?,
    }
    match answer.header("x-amz-function-error") {
        None => Ok(()),
        Some(kind) => Err(Error::FunctionFailed { name: args.name.clone(), what: failure(kind, &answer.body) }),
    }
}

fn payload(args: &Invoke) -> Result<Vec<u8>, Error> {
    let bytes_max = model::Limits::default().request_payload_bytes;
    let stdin = Path::new("-");
    let text = args.payload.as_ref().or(args.argument.as_ref().filter(|text| *text != "-"));
    let (from, bytes) = match (text, &args.payload_file, &args.argument) {
        (Some(text), _, _) => ("the payload".to_owned(), text.clone().into_bytes()),
        (None, Some(path), _) if path != stdin => {
            let read = File::open(path).and_then(|file| read_bounded(file, bytes_max));
            let bytes = read.map_err(|source| Error::Read { path: path.clone(), source })?;
            (path.display().to_string(), bytes)
        }
        (None, Some(_), _) | (None, None, Some(_)) => {
            let read = read_bounded(io::stdin().lock(), bytes_max);
            let bytes = read.map_err(|source| Error::Read { path: PathBuf::from("standard input"), source })?;
            ("standard input".to_owned(), bytes)
        }
        (None, None, None) => ("the default payload".to_owned(), b"{}".to_vec()),
    };
    if bytes.len() as u64 > bytes_max {
        let help = "keep large data elsewhere and send a reference to it";
        return Err(Error::usage(format!("{from} is larger than {bytes_max} bytes"), help));
    }
    if !bytes.is_empty() {
        serde_json::from_slice::<serde::de::IgnoredAny>(&bytes).map_err(|error| {
            Error::usage(
                format!("{from} is not JSON: {error}"),
                "in a shell, put JSON between single quotes: '{\"key\": \"value\"}'",
            )
        })?;
    }
    Ok(bytes)
}

/// One byte more than allowed is enough to know that it is too much.
fn read_bounded(source: impl Read, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(bytes_max + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn log_tail(answer: &Answer) -> Option<String> {
    let bytes = STANDARD.decode(answer.header("x-amz-log-result")?).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn as_json(answer: &Answer, log_tail: Option<&str>) -> Value {
    let payload = serde_json::from_slice(&answer.body)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&answer.body).into_owned()));
    json!({
        "status_code": answer.status,
        "executed_version": answer.header("x-amz-executed-version"),
        "function_error": answer.header("x-amz-function-error"),
        "log_tail": log_tail,
        "payload": payload,
    })
}

/// `errorType: errorMessage`, as far as the function's error has them.
fn failure(kind: &str, body: &[u8]) -> String {
    let body: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    let member = |name: &str| body.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let text = match (member("errorType"), member("errorMessage")) {
        (Some(error_type), Some(message)) => format!("{error_type}: {message}"),
        (Some(text), None) | (None, Some(text)) => text.to_owned(),
        (None, None) => kind.to_owned(),
    };
    text.lines().map(harmless).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_in_one_line() {
        let check = |body: &str, want: &str| assert_eq!(failure("Unhandled", body.as_bytes()), want);
        check(r#"{"errorType":"ValueError","errorMessage":"no\nluck"}"#, "ValueError: no luck");
        check(r#"{"errorMessage":"x"}"#, "x");
        check("[]", "Unhandled");
        check("", "Unhandled");
    }

    #[test]
    fn reading_stops_just_behind_the_limit() {
        assert_eq!(read_bounded(io::repeat(0), 10).unwrap().len(), 11);
        assert_eq!(read_bounded(&b"abc"[..], 10).unwrap(), b"abc");
    }
}
