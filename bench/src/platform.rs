//! The platform under measurement: a `tidegate serve` of our own, driven through its public API.

use crate::Failure;
use crate::http::{Connection, Message};
use crate::load::Target;
use crate::options::Options;
use crate::plan::{EVENT, Function, GREETING, MEMORY_MB};
use crate::process::{self, Account, Process};
use serde_json::{Value, json};
use std::fmt::Write;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// The server must be ready, a function Active, an update Successful within this time.
const CHANGE_LIMIT: Duration = Duration::from_secs(20);
/// All instances of a function must be gone within this time of its deletion.
const GONE_LIMIT: Duration = Duration::from_secs(180);
/// The platform must come to rest within this time.
const REST_LIMIT: Duration = Duration::from_secs(60);
/// At rest is who uses next to no CPU time for so long.
const REST: Duration = Duration::from_millis(50);
/// What is next to none, microseconds: whoever wakes up to look at the time uses some.
const REST_CPU_US: u64 = 1_000;
/// The drain limit of the server, and what a thousand instances take to end.
const STOP_LIMIT: Duration = Duration::from_secs(180);
/// Memory that the server may promise, MB. What instances really take is what is measured.
const PROMISED_MEMORY_MB: u64 = 4_000_000;
/// Servers of one run of the bench have folders that differ.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// How a server is started.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    /// Limits that differ from the defaults, by their names in the configuration file.
    pub limits: Vec<(&'static str, u64)>,
    /// Requests must be signed.
    pub auth: bool,
    /// Runtimes whose interpreter the comparators share.
    pub functions: Vec<Function>,
}

impl Setup {
    /// For these functions, with default limits but for memory.
    pub fn of(functions: &[&Function]) -> Setup {
        Setup { functions: functions.iter().map(|&one| one.clone()).collect(), ..Setup::default() }
    }

    /// Sets a limit.
    pub fn limit(mut self, name: &'static str, value: u64) -> Setup {
        self.limits.push((name, value));
        self
    }

    fn config(&self) -> String {
        let mut text = format!("[limits]\ninstances_memory_mb = {PROMISED_MEMORY_MB}\n");
        for (name, value) in &self.limits {
            let _ = writeln!(text, "{name} = {value}");
        }
        let mut said = Vec::new();
        for function in &self.functions {
            let Some(interpreter) = function.interpreter.as_ref().filter(|_| !said.contains(&&function.runtime)) else {
                continue;
            };
            said.push(&function.runtime);
            let _ =
                write!(text, "\n[runtimes.\"{}\"]\ninterpreter = \"{}\"\n", function.runtime, interpreter.display());
        }
        text
    }
}

/// The running server. Dropping it ends it and removes its folder.
pub struct Platform {
    child: Child,
    account: Account,
    folder: PathBuf,
    address: SocketAddr,
    tidegate: PathBuf,
    credentials: Vec<(String, String)>,
}

impl Platform {
    /// Starts the server; without authentication, unless the setup says otherwise.
    pub fn start(options: &Options, setup: &Setup) -> Result<Platform, Failure> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("tidegate-bench-{}-{number}", std::process::id()));
        let at = || Failure::during(format!("cannot prepare {}", folder.display()));
        fs::create_dir(&folder).map_err(at())?;
        fs::write(folder.join("config.toml"), setup.config()).map_err(at())?;
        let log = File::create(folder.join("server.log")).map_err(at())?;
        let address = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).map_err(at())?;
        let account = Account::open(&format!("tidegate-account-{}-{number}", std::process::id()));
        let mut command = account.command(&options.tidegate);
        command.args(["serve", "--listen", &address.to_string(), "--config"]).arg(folder.join("config.toml"));
        command.arg("--data-dir").arg(folder.join("data")).args((!setup.auth).then_some("--no-auth"));
        command.stdin(Stdio::null()).stdout(log.try_clone().map_err(at())?).stderr(log);
        let child = command.spawn().map_err(Failure::during(format!("cannot start {}", options.tidegate.display())))?;
        let tidegate = options.tidegate.clone();
        let mut platform = Platform { child, account, folder, address, tidegate, credentials: Vec::new() };
        let healthy = || (platform.request("GET", "/healthz", "").ok()?.status() == 200).then_some(());
        process::poll_until(CHANGE_LIMIT, healthy)
            .ok_or_else(|| platform.failure("the server did not become ready"))?;
        if setup.auth {
            platform.read_credentials()?;
        }
        Ok(platform)
    }

    /// `export NAME=VALUE`, one or several to a line, as shells take them.
    fn read_credentials(&mut self) -> Result<(), Failure> {
        let mut command = Command::new(&self.tidegate);
        let printed = process::capture(command.args(["credentials", "--data-dir"]).arg(self.folder.join("data")))?;
        let pairs = printed.split_whitespace().filter_map(|word| word.split_once('='));
        self.credentials = pairs.map(|(n, v)| (n.to_owned(), v.trim_matches(['"', '\'']).to_owned())).collect();
        Ok(())
    }

    /// A credential by the name of its environment variable.
    pub fn credential(&self, name: &str) -> String {
        self.credentials.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone()).unwrap_or_default()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Deploys a function with the memory that buys one CPU, through the same command that users type.
    pub fn deploy(&self, name: &str, function: &Function) -> Result<(), Failure> {
        self.deploy_with(name, function, MEMORY_MB)
    }

    /// Deploys a function with so much memory, MB.
    pub fn deploy_with(&self, name: &str, function: &Function, memory_mb: u32) -> Result<(), Failure> {
        let mut command = Command::new(&self.tidegate);
        command.arg("deploy").arg(&function.folder).args(["--name", name, "--runtime", &function.runtime]);
        command.args(["--handler", function.handler, "--memory", &memory_mb.to_string(), "--timeout", "300"]);
        command.env("AWS_ENDPOINT_URL", format!("http://{}", self.address)).envs(self.credentials.iter().cloned());
        process::capture(&mut command).map(drop)
    }

    /// Lets one instance run so many invocations at a time; `false` if the platform does not offer that.
    pub fn set_concurrency(&self, name: &str, concurrency: u32) -> Result<bool, Failure> {
        let path = format!("/tidegate/v1/functions/{name}/settings");
        let answer = self.request("PUT", &path, &json!({"concurrency": concurrency}).to_string())?;
        let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        Ok(answer.status() == 200 && body["concurrency"] == concurrency)
    }

    /// Has so many instances of a function initialised; the answer comes before they are.
    pub fn warm_up(&self, name: &str, count: usize) -> Result<(), Failure> {
        let path = format!("/tidegate/v1/functions/{name}/warm-up");
        let answer = self.request("POST", &path, &json!({"count": count}).to_string())?;
        match answer.status() {
            202 => Ok(()),
            status => Err(self.failure(&format!("warming up answered {status}"))),
        }
    }

    /// Publishes a function, with SnapStart or without; what the version is invoked by, once it can be.
    pub fn publish(&self, name: &str, snap_start: bool) -> Result<String, Failure> {
        let path = format!("/2015-03-31/functions/{name}");
        let wanted = json!({"SnapStart": {"ApplyOn": if snap_start { "PublishedVersions" } else { "None" }}});
        self.request("PUT", &format!("{path}/configuration"), &wanted.to_string())?;
        self.poll_configuration(&path, "", |shown| shown["LastUpdateStatus"] == "Successful")?;
        let made = self.request("POST", &format!("{path}/versions"), "{}")?;
        let made: Value = serde_json::from_slice(&made.body).unwrap_or_default();
        let version = made["Version"].as_str().ok_or_else(|| self.failure("no version was published"))?;
        let status = if snap_start { "On" } else { "Off" };
        let is_ready = |shown: &Value| shown["State"] == "Active" && shown["SnapStart"]["OptimizationStatus"] == status;
        self.poll_configuration(&path, &format!("?Qualifier={version}"), is_ready)?;
        Ok(format!("{name}:{version}"))
    }

    fn poll_configuration(&self, path: &str, query: &str, wanted: impl Fn(&Value) -> bool) -> Result<(), Failure> {
        let path = format!("{path}/configuration{query}");
        let look = || {
            let answer = self.request("GET", &path, "").ok()?;
            wanted(&serde_json::from_slice(&answer.body).ok()?).then_some(())
        };
        process::poll_until(CHANGE_LIMIT, look).ok_or_else(|| self.failure("a change of a function does not end"))
    }

    /// Removes a function.
    pub fn delete(&self, name: &str) -> Result<(), Failure> {
        self.request("DELETE", &format!("/2015-03-31/functions/{name}"), "").map(drop)
    }

    /// Removes a function and waits until so few sandboxed processes are left as there were before it.
    pub fn delete_and_wait(&self, name: &str, before: usize) -> Result<(), Failure> {
        self.delete(name)?;
        let gone = process::poll_until(GONE_LIMIT, || (self.guests().len() <= before).then_some(()));
        gone.ok_or_else(|| self.failure(&format!("{} processes of {name} did not end", self.guests().len())))
    }

    /// Waits until the platform has used no CPU time for a moment: what came before has ended, and pools are filled.
    pub fn rest(&self) -> Result<(), Failure> {
        let (mut before, mut since) = (self.cpu_us(), Instant::now());
        let at_rest = || {
            let now = self.cpu_us();
            if now > before + REST_CPU_US {
                (before, since) = (now, Instant::now());
            }
            (since.elapsed() >= REST).then_some(())
        };
        process::poll_until(REST_LIMIT, at_rest).ok_or_else(|| self.failure("the platform does not come to rest"))
    }

    /// A connection to invoke through.
    pub fn connect(&self) -> Result<Invoker, Failure> {
        let connection = Connection::open(self.address).map_err(Failure::during("cannot connect to the server"))?;
        Ok(Invoker { connection })
    }

    /// For the load generator: the greeting of a function.
    pub fn greeting(&self, name: &str) -> Target {
        self.target(name, EVENT, GREETING)
    }

    /// For the load generator: any function, any event.
    pub fn target(&self, name: &str, event: &str, expected: &'static str) -> Target {
        Target::post(self.address, &format!("/2015-03-31/functions/{name}/invocations"), event, expected)
    }

    fn request(&self, method: &str, path: &str, body: &str) -> Result<Message, Failure> {
        let ask = || Connection::open(self.address)?.request(method, path, body);
        ask().map_err(Failure::during(format!("{method} {path}")))
    }

    /// CPU time of the platform and all its guests, those that have ended too, microseconds.
    pub fn cpu_us(&self) -> u64 {
        self.account.cpu_us(self.child.id())
    }

    /// All its processes, the launcher first.
    pub fn processes(&self) -> Vec<Process> {
        process::tree(self.child.id())
    }

    /// The launcher's process and the daemon's: the child of it that has many threads and is in no sandbox.
    pub fn own(&self) -> Vec<u32> {
        let launcher = self.child.id();
        let many = |pid: u32| fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count) > 1;
        let children = self.processes().into_iter().filter(|process| process.parent == launcher);
        let daemon = children.filter(|process| !process.is_nested() && many(process.pid)).map(|process| process.pid);
        [launcher].into_iter().chain(daemon).collect()
    }

    /// The processes of guests, and those that only exist for them, such as zygotes.
    pub fn guests(&self) -> Vec<Process> {
        let own = self.own();
        self.processes().into_iter().filter(|process| !own.contains(&process.pid)).collect()
    }

    /// An error with what the server wrote.
    pub fn failure(&self, what: &str) -> Failure {
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

/// One client on one connection.
pub struct Invoker {
    connection: Connection,
}

impl Invoker {
    /// Invokes and returns which invocation of its instance this was, and how long it took.
    pub fn invoke(&mut self, name: &str) -> Result<(u64, Duration), Failure> {
        let path = format!("/2015-03-31/functions/{name}/invocations");
        let begun = Instant::now();
        let answer =
            self.connection.request("POST", &path, EVENT).map_err(Failure::during(format!("invoking {name}")))?;
        let took = begun.elapsed();
        let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        match (answer.status(), body["greeting"].as_str(), body["invocations"].as_u64()) {
            // Answers that are wrong would make every figure worthless.
            (200, Some(GREETING), Some(count)) => Ok((count, took)),
            (status, ..) => {
                Err(Failure(format!("invoking {name}: {status} {}", String::from_utf8_lossy(&answer.body))))
            }
        }
    }
}
