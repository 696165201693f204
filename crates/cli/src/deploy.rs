//! `tidegate deploy`

mod guess;
mod manifest;
mod package;
mod pattern;
mod plan;

use crate::client::{Call, Client, segment};
use crate::error::Error;
use crate::screen::{Progress, Screen, size};
use crate::{Output, Shared};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use guess::Interpreters;
use manifest::{FILE_NAME, Manifest};
use model::function::Network;
use package::Package;
use pattern::Patterns;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use ureq::http::Method;

/// How long the upload of a package may take.
const UPLOAD_MAX: Duration = Duration::from_secs(600);
/// How long a function may take to become ready.
const READY_MAX: Duration = Duration::from_secs(120);
/// The first pause between two looks at a function that is not ready; each is twice the one before.
const READY_PAUSE: Duration = Duration::from_millis(20);
/// The longest pause between two looks.
const READY_PAUSE_MAX: Duration = Duration::from_secs(1);
/// The role of functions for which none is named; it is stored and shown, nothing more.
const ROLE: &str = "arn:aws:iam::000000000000:role/tidegate";

/// Package a folder and create or update a function from it.
#[derive(Debug, Args)]
pub struct Deploy {
    /// The folder with the function's code, and perhaps a tidegate.toml
    dir: PathBuf,
    /// The function's name [default: tidegate.toml, else the folder's name]
    #[arg(long, value_parser = manifest::checked_name)]
    name: Option<String>,
    /// The runtime, python3.12 for example [default: tidegate.toml, else guessed]
    #[arg(long)]
    runtime: Option<String>,
    /// The handler, app.handler for example [default: tidegate.toml, else guessed]
    #[arg(long)]
    handler: Option<String>,
    /// Memory
    #[arg(long, value_name = "MB")]
    memory: Option<u32>,
    /// Timeout
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u32>,
    /// An environment variable; may be given several times
    #[arg(long = "env", short, value_name = "KEY=VALUE", value_parser = manifest::variable)]
    environment: Vec<(String, String)>,
    /// What of the network the function sees: nat or none
    #[arg(long, value_name = "NETWORK", value_parser = manifest::network)]
    network: Option<Network>,
    /// Invocations that one instance runs at a time, 1 to 1,000
    #[arg(long, value_name = "N")]
    concurrency: Option<u32>,
    /// How long an invocation beyond the concurrency may wait for it; 0 throttles it at once
    #[arg(long, value_name = "MILLISECONDS")]
    queue_ms: Option<u32>,
    /// How many may wait at a time
    #[arg(long, value_name = "N")]
    queue_length: Option<u32>,
    /// The role's ARN; stored and shown, nothing more
    #[arg(long, value_name = "ARN")]
    role: Option<String>,
    /// Leave these files out; may be given several times
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
    #[command(flatten)]
    pub(crate) shared: Shared,
}

/// What was done.
struct Done {
    name: String,
    action: &'static str,
    changed: Vec<String>,
    code_sha256: String,
    code_bytes: usize,
    /// The function's configuration as the API shows it afterwards.
    config: Value,
}

/// Reads, packages, creates or updates, waits, and tells.
pub fn run(args: &Deploy, client: &Client, screen: &Screen) -> Result<(), Error> {
    let started = Instant::now();
    let manifest = read(args)?;
    let name = name(args, &manifest)?;
    let progress = screen.progress();
    progress.step(format!("packaging {}", args.dir.display()));
    let package = package::build(&args.dir, &Patterns::new(&manifest.exclude), &model::Limits::default())?;
    progress.step(format!("looking for {name}"));
    let done = match configuration(client, &name)? {
        Some(_) => update(&name, &manifest, &package, client, &progress)?,
        None => {
            let mut manifest = manifest;
            let interpreters = if client.is_loopback() { Interpreters::OfThisMachine } else { Interpreters::Unknown };
            for note in guess::complete(&mut manifest, &args.dir, interpreters)? {
                screen.note(&note);
            }
            create(&name, &manifest, &package, client, &progress)?
        }
    };
    drop(progress);
    tell(&done, &package, started.elapsed(), args.shared.output, screen)
}

/// `tidegate.toml` with the flags on top.
fn read(args: &Deploy) -> Result<Manifest, Error> {
    let path = args.dir.join(FILE_NAME);
    let file = match fs::read_to_string(&path) {
        Ok(text) => Manifest::parse(&text).map_err(|problems| {
            let what = format!("{} has problems:\n  {}", path.display(), problems.join("\n  "));
            Error::usage(what, "correct them; an empty file is fine too")
        })?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Manifest::default(),
        Err(source) => return Err(Error::Read { path, source }),
    };
    let environment = (!args.environment.is_empty()).then(|| args.environment.iter().cloned().collect());
    let flags = Manifest {
        name: args.name.clone(),
        runtime: args.runtime.clone(),
        handler: args.handler.clone(),
        role: args.role.clone(),
        memory_mb: args.memory,
        timeout_s: args.timeout,
        network: args.network,
        concurrency: args.concurrency,
        queue_ms: args.queue_ms,
        queue_length: args.queue_length,
        environment,
        exclude: args.exclude.clone(),
    };
    Ok(flags.over(file))
}

/// The name that was given, else the folder's.
fn name(args: &Deploy, manifest: &Manifest) -> Result<String, Error> {
    if let Some(name) = &manifest.name {
        return Ok(name.clone());
    }
    let folder = fs::canonicalize(&args.dir).map_err(|source| Error::Read { path: args.dir.clone(), source })?;
    let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    manifest::checked_name(&name).map_err(|what| Error::usage(what, "give the function a name with --name"))
}

fn function_path(name: &str) -> String {
    format!("/2015-03-31/functions/{}", segment(name))
}

/// `None` if there is no such function.
fn configuration(client: &Client, name: &str) -> Result<Option<Value>, Error> {
    let path = format!("{}/configuration", function_path(name));
    match client.send(Call::new("GetFunctionConfiguration", Method::GET, path)) {
        Ok(answer) => answer.json().map(Some),
        Err(Error::Refused { code, .. }) if code == "ResourceNotFoundException" => Ok(None),
        Err(error) => Err(error),
    }
}

fn create(
    name: &str,
    manifest: &Manifest,
    package: &Package,
    client: &Client,
    progress: &Progress,
) -> Result<Done, Error> {
    progress.step(format!("uploading {}", size(package.zip.len() as u64)));
    let request = plan::create(name, manifest, &STANDARD.encode(&package.zip), ROLE);
    let path = "/2015-03-31/functions".to_owned();
    client.send(Call::new("CreateFunction", Method::POST, path).json(&request).time_max(UPLOAD_MAX))?;
    progress.step(format!("waiting for {name}"));
    let config = ready(client, name)?;
    set_settings(client, name, manifest)?;
    Ok(done(name, "created", Vec::new(), package, config))
}

/// Sends only what differs.
fn update(
    name: &str,
    manifest: &Manifest,
    package: &Package,
    client: &Client,
    progress: &Progress,
) -> Result<Done, Error> {
    // An earlier change may still be under way; the server would refuse ours.
    let mut config = settled(client, name)?;
    let mut changed = Vec::new();
    let (request, fields) = plan::update(manifest, &config);
    if config.get("CodeSha256").and_then(Value::as_str) != Some(&code_sha256(package)) {
        progress.step(format!("uploading {}", size(package.zip.len() as u64)));
        let path = format!("{}/code", function_path(name));
        let code = json!({ "ZipFile": STANDARD.encode(&package.zip) });
        client.send(Call::new("UpdateFunctionCode", Method::PUT, path).json(&code).time_max(UPLOAD_MAX))?;
        progress.step(format!("waiting for {name}"));
        // What is wrong now may be made right by the new configuration.
        config = if fields.is_empty() { ready(client, name)? } else { settled(client, name)? };
        changed.push("code".to_owned());
    }
    if !fields.is_empty() {
        progress.step(format!("configuring {name}"));
        let path = format!("{}/configuration", function_path(name));
        client.send(Call::new("UpdateFunctionConfiguration", Method::PUT, path).json(&request))?;
        config = ready(client, name)?;
        changed.extend(fields);
    }
    changed.extend(set_settings(client, name, manifest)?);
    let action = if changed.is_empty() { "unchanged" } else { "updated" };
    Ok(done(name, action, changed, package, config))
}

/// Sets what is Tidegate's own and names what had to be changed.
fn set_settings(client: &Client, name: &str, manifest: &Manifest) -> Result<Vec<String>, Error> {
    let path = format!("/tidegate/v1/functions/{}/settings", segment(name));
    if plan::settings(manifest, &json!({})).1.is_empty() {
        return Ok(Vec::new());
    }
    let present = client.send(Call::new("settings", Method::GET, path.clone()))?.json()?;
    let (request, changed) = plan::settings(manifest, &present);
    if !changed.is_empty() {
        client.send(Call::new("settings", Method::PUT, path).json(&request))?;
        ready(client, name)?;
    }
    Ok(changed)
}

/// Waits until no change is under way; says nothing about how it ended.
fn settled(client: &Client, name: &str) -> Result<Value, Error> {
    let deadline = Instant::now() + READY_MAX;
    let mut pause = READY_PAUSE;
    loop {
        let Some(config) = configuration(client, name)? else {
            return Err(Error::NotReady { name: name.to_owned(), reason: "it was deleted meanwhile".to_owned() });
        };
        let is = |member: &str, text: &str| config.get(member).and_then(Value::as_str) == Some(text);
        if !is("State", "Pending") && !is("LastUpdateStatus", "InProgress") {
            return Ok(config);
        }
        if Instant::now() + pause > deadline {
            let reason = format!("still pending after {} s", READY_MAX.as_secs());
            return Err(Error::NotReady { name: name.to_owned(), reason });
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(READY_PAUSE_MAX);
    }
}

/// Waits until the function can be invoked.
fn ready(client: &Client, name: &str) -> Result<Value, Error> {
    let config = settled(client, name)?;
    match plan::failure(&config) {
        None => Ok(config),
        Some(reason) => Err(Error::NotReady { name: name.to_owned(), reason }),
    }
}

fn code_sha256(package: &Package) -> String {
    STANDARD.encode(Sha256::digest(&package.zip))
}

fn done(name: &str, action: &'static str, changed: Vec<String>, package: &Package, config: Value) -> Done {
    Done {
        name: name.to_owned(),
        action,
        changed,
        code_sha256: code_sha256(package),
        code_bytes: package.zip.len(),
        config,
    }
}

fn tell(done: &Done, package: &Package, took: Duration, output: Output, screen: &Screen) -> Result<(), Error> {
    let member = |name: &str| done.config.get(name).and_then(Value::as_str).unwrap_or("-");
    if output == Output::Json {
        return screen.json(&json!({
            "name": done.name, "action": done.action, "changed": done.changed, "arn": member("FunctionArn"),
            "runtime": member("Runtime"), "handler": member("Handler"), "state": member("State"),
            "code_sha256": done.code_sha256, "code_bytes": done.code_bytes, "files": package.files,
        }));
    }
    let what = match done.action {
        "created" => format!(
            "created {} ({}, {}): {} in {}",
            done.name,
            member("Runtime"),
            member("Handler"),
            size(done.code_bytes as u64),
            count(package.files)
        ),
        "updated" => format!("updated {}: {}", done.name, done.changed.join(", ")),
        _ => format!("{} is up to date", done.name),
    };
    screen.line(&format!("{what} ({:.1} s)", took.as_secs_f64()))
}

fn count(files: usize) -> String {
    if files == 1 { "1 file".to_owned() } else { format!("{files} files") }
}
