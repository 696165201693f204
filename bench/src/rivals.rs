//! The comparators of warm managed runtimes: serverless-offline and Google's functions framework, with the same
//! handlers. `cargo xtask bench` installs them below the output folder.

use crate::Failure;
use crate::load::{self, Target};
use crate::options::Options;
use crate::plan::{EVENT, GREETING, Subject};
use crate::process;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const READY_LIMIT: Duration = Duration::from_secs(40);
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// A running comparator. Dropping it ends it.
pub struct Rival {
    child: Child,
    /// Where to send the event.
    pub target: Target,
}

impl Rival {
    /// serverless-offline; it listens the way Lambda does.
    pub fn serverless_offline(options: &Options, subject: &Subject) -> Result<Rival, Failure> {
        let folder = folder(options, "serverless", subject)?;
        let (http, lambda) = (free_address()?, free_address()?);
        let at = || Failure::during(format!("cannot prepare {}", folder.display()));
        let yaml = format!(
            "service: bench\nframeworkVersion: '3'\nprovider: {{name: aws, runtime: {}}}\nplugins: [serverless-offline]\n\
            functions:\n  greet: {{handler: {}}}\ncustom:\n  serverless-offline: {{host: 127.0.0.1, httpPort: {}, \
            lambdaPort: {}, noTimeout: true}}\n",
            subject.function.runtime,
            subject.function.handler,
            http.port(),
            lambda.port()
        );
        fs::write(folder.join("serverless.yml"), yaml).map_err(at())?;
        let _ = std::os::unix::fs::symlink(options.output.join("npm/node_modules"), folder.join("node_modules"));
        let mut command = Command::new(options.output.join("npm/node_modules/.bin/serverless"));
        command.args(["offline", "start"]);
        // It would ask its makers for news and send them figures.
        command.envs([("SLS_TELEMETRY_DISABLED", "1"), ("SLS_NOTIFICATIONS_MODE", "off"), ("CI", "1")]);
        Rival::start(command, &folder, lambda, "/2015-03-31/functions/bench-dev-greet/invocations")
    }

    /// The functions framework for Node.js or Python.
    pub fn functions_framework(options: &Options, subject: &Subject) -> Result<Rival, Failure> {
        let folder = folder(options, "framework", subject)?;
        let address = free_address()?;
        let port = address.port().to_string();
        let plain = options.sources.join("plain");
        let mut command = if subject.name == "Python" {
            let mut command = Command::new(options.output.join("python/bin/functions-framework"));
            command.arg("--source").arg(plain.join("framework.py"));
            command
        } else {
            let copied = fs::copy(plain.join("framework.cjs"), folder.join("function.js"));
            copied.map_err(Failure::during(format!("cannot write into {}", folder.display())))?;
            let mut command = Command::new(options.output.join("npm/node_modules/.bin/functions-framework"));
            command.arg("--source").arg(&folder);
            command
        };
        command.args(["--target", "serve", "--port", &port]);
        command.env("BENCH_FUNCTION", &subject.function.folder).env("NODE_ENV", "production");
        Rival::start(command, &folder, address, "/")
    }

    fn start(mut command: Command, folder: &Path, address: SocketAddr, path: &str) -> Result<Rival, Failure> {
        let program = command.get_program().to_owned();
        let log = folder.join("log.txt");
        let output = File::create(&log).map_err(Failure::during(format!("cannot write {}", log.display())))?;
        let errors = output.try_clone().map_err(Failure::during("a second handle of a log"))?;
        command.current_dir(folder).stdin(Stdio::null()).stdout(output).stderr(errors);
        let child = command.spawn().map_err(Failure::during(format!("cannot start {}", program.display())))?;
        let rival = Rival { child, target: Target::post(address, path, EVENT, GREETING) };
        let answers = || load::closed(&rival.target, 1, Duration::from_millis(1)).ok();
        match process::poll_until(READY_LIMIT, answers) {
            Some(_) => Ok(rival),
            None => Err(Failure(format!(
                "{} did not answer: {}",
                program.display(),
                fs::read_to_string(&log).unwrap_or_default()
            ))),
        }
    }

    /// CPU time of it and everything below it so far, microseconds.
    pub fn cpu_us(&self) -> u64 {
        process::cpu_us(self.child.id())
    }
}

impl Drop for Rival {
    fn drop(&mut self) {
        for below in process::tree(self.child.id()) {
            process::terminate(below.pid);
        }
        let _ = process::wait(&mut self.child, STOP_LIMIT);
    }
}

/// A folder of its own with the handler's files.
fn folder(options: &Options, name: &str, subject: &Subject) -> Result<PathBuf, Failure> {
    let folder = options.output.join(format!("{name}-{}", subject.name));
    let copy = || -> std::io::Result<()> {
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder)?;
        for entry in fs::read_dir(&subject.function.folder)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                fs::copy(entry.path(), folder.join(entry.file_name()))?;
            }
        }
        Ok(())
    };
    copy().map_err(Failure::during(format!("cannot prepare {}", folder.display())))?;
    Ok(folder)
}

fn free_address() -> Result<SocketAddr, Failure> {
    let bound = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    bound.map_err(Failure::during("no port is free"))
}
