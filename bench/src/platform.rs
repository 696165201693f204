//! The platform under measurement: a `tidegate serve` of our own, driven through its public API.

use crate::Failure;
use crate::http::{Connection, Message};
use crate::options::Options;
use crate::plan::{EVENT, GREETING, MEMORY_MB, Subject};
use crate::process::{self, Process};
use serde_json::{Value, json};
use std::fmt::Write;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The server must be ready, a function Active, an update Successful within this time.
const CHANGE_LIMIT: Duration = Duration::from_secs(20);
/// An instance that was replaced must be gone within this time.
const GONE_LIMIT: Duration = Duration::from_secs(10);
/// The drain limit of the server, and some.
const STOP_LIMIT: Duration = Duration::from_secs(45);
/// Memory that the server may promise, MB: 16 instances at 1,769 MB each and those that are just ending.
const PROMISED_MEMORY_MB: u32 = 65_536;

/// The running server. Dropping it ends it and removes its folder.
pub struct Platform {
    child: Child,
    folder: PathBuf,
    address: SocketAddr,
    tidegate: PathBuf,
}

impl Platform {
    /// Starts the server without authentication: the signature is not what is measured.
    pub fn start(options: &Options, subjects: &[Subject]) -> Result<Platform, Failure> {
        let folder = std::env::temp_dir().join(format!("tidegate-bench-{}", std::process::id()));
        let at = || Failure::during(format!("cannot prepare {}", folder.display()));
        fs::create_dir(&folder).map_err(at())?;
        fs::write(folder.join("config.toml"), config(subjects)).map_err(at())?;
        let log = File::create(folder.join("server.log")).map_err(at())?;
        let address = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).map_err(at())?;
        let child = Command::new(&options.tidegate)
            .args(["serve", "--no-auth", "--listen", &address.to_string(), "--config"])
            .arg(folder.join("config.toml"))
            .arg("--data-dir")
            .arg(folder.join("data"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(at())?)
            .stderr(log)
            .spawn()
            .map_err(Failure::during(format!("cannot start {}", options.tidegate.display())))?;
        let platform = Platform { child, folder, address, tidegate: options.tidegate.clone() };
        platform.ready()?;
        Ok(platform)
    }

    fn ready(&self) -> Result<(), Failure> {
        let healthy = || (self.request("GET", "/healthz", "").ok()?.status() == 200).then_some(());
        process::poll_until(CHANGE_LIMIT, healthy).ok_or_else(|| self.failure("the server did not become ready"))
    }

    /// Deploys a function, measures it, and removes it with all its instances: what is measured next has the machine
    /// for itself.
    pub fn with<T>(&self, subject: &Subject, work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
        self.deploy(subject)?;
        let measured = work()?;
        self.request("DELETE", &format!("/2015-03-31/functions/{}", subject.name), "")?;
        self.instances_gone()?;
        Ok(measured)
    }

    /// Through the same command that users type.
    fn deploy(&self, subject: &Subject) -> Result<(), Failure> {
        let mut command = Command::new(&self.tidegate);
        command.arg("deploy").arg(&subject.folder).args(["--name", subject.name, "--runtime", &subject.runtime]);
        command.args(["--handler", subject.handler, "--memory", &MEMORY_MB.to_string()]);
        command.env("AWS_ENDPOINT_URL", format!("http://{}", self.address));
        process::capture(&mut command)?;
        // Answers that are wrong would make every figure worthless.
        match self.connect()?.invoke(subject.name)? {
            (greeting, ..) if greeting == GREETING => Ok(()),
            (greeting, ..) => Err(self.failure(&format!("{}: answered {greeting}", subject.name))),
        }
    }

    /// A connection to invoke through.
    pub fn connect(&self) -> Result<Invoker, Failure> {
        let connection = Connection::open(self.address).map_err(Failure::during("cannot connect to the server"))?;
        Ok(Invoker { connection })
    }

    /// Changes the configuration, so that the next invocation needs a new instance; waits until the change is in
    /// force and every instance is gone, so that the old one's end is not measured with the new one's start.
    pub fn replace_instances(&self, name: &str, round: usize) -> Result<(), Failure> {
        let path = format!("/2015-03-31/functions/{name}/configuration");
        let change = json!({"Environment": {"Variables": {"BENCH_ROUND": round.to_string()}}}).to_string();
        let answer = self.request("PUT", &path, &change)?;
        if answer.status() != 200 {
            return Err(self.failure(&format!("the update was refused: {}", String::from_utf8_lossy(&answer.body))));
        }
        let successful = || {
            let configuration: Value = serde_json::from_slice(&self.request("GET", &path, "").ok()?.body).ok()?;
            (configuration["LastUpdateStatus"] == "Successful").then_some(())
        };
        process::poll_until(CHANGE_LIMIT, successful).ok_or_else(|| self.failure("the update did not succeed"))?;
        self.instances_gone()
    }

    fn instances_gone(&self) -> Result<(), Failure> {
        let gone = process::poll_until(GONE_LIMIT, || self.processes().1.is_empty().then_some(()));
        gone.ok_or_else(|| self.failure(&format!("instances did not end: {:?}", self.processes().1)))
    }

    fn request(&self, method: &str, path: &str, body: &str) -> Result<Message, Failure> {
        let ask = || Connection::open(self.address)?.request(method, path, body);
        ask().map_err(Failure::during(format!("{method} {path}")))
    }

    /// The platform's own processes (launcher, daemon, and what else they keep), and those in sandboxes.
    pub fn processes(&self) -> (Vec<Process>, Vec<Process>) {
        process::tree(self.child.id()).into_iter().partition(|process| !process.is_nested())
    }

    /// SIGTERM; the server must end with 0.
    pub fn stop(mut self) -> Result<(), Failure> {
        process::terminate(self.child.id());
        let status = process::wait(&mut self.child, STOP_LIMIT)?;
        if status.success() { Ok(()) } else { Err(self.failure(&format!("the server ended with {status}"))) }
    }

    fn failure(&self, what: &str) -> Failure {
        let mut text = what.to_owned();
        let log = fs::read_to_string(self.folder.join("server.log")).unwrap_or_default();
        if !log.is_empty() {
            let _ = write!(text, "\n--- the server wrote:\n{log}");
        }
        Failure(text)
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            process::terminate(self.child.id());
            let _ = process::wait(&mut self.child, STOP_LIMIT);
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The interpreters that the comparators use, and room for all instances.
fn config(subjects: &[Subject]) -> String {
    let mut text = format!("[limits]\ninstances_memory_mb = {PROMISED_MEMORY_MB}\n");
    for subject in subjects {
        if let Some(interpreter) = &subject.interpreter {
            let _ = write!(text, "\n[runtimes.\"{}\"]\ninterpreter = \"{}\"\n", subject.runtime, interpreter.display());
        }
    }
    text
}

/// One client on one connection.
pub struct Invoker {
    connection: Connection,
}

impl Invoker {
    /// Invokes and returns the greeting, which invocation of its instance this was, and how long it took.
    pub fn invoke(&mut self, name: &str) -> Result<(String, u64, Duration), Failure> {
        let path = format!("/2015-03-31/functions/{name}/invocations");
        let begun = Instant::now();
        let answer =
            self.connection.request("POST", &path, EVENT).map_err(Failure::during(format!("invoking {name}")))?;
        let took = begun.elapsed();
        let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        match (answer.status(), body["greeting"].as_str(), body["invocations"].as_u64()) {
            (200, Some(greeting), Some(count)) => Ok((greeting.to_owned(), count, took)),
            (status, ..) => {
                Err(Failure(format!("invoking {name}: {status} {}", String::from_utf8_lossy(&answer.body))))
            }
        }
    }
}
