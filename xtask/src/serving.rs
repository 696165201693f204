//! A `tidegate serve` of our own: a temporary folder, a free port, and always an end.

use crate::steps::{Failure, capture, wait};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long the server may take until it answers; a slow disk is the only honest reason for more than 100 ms.
const READY_LIMIT: Duration = Duration::from_secs(20);
/// How long it may take to drain and clean up after SIGTERM: the drain limit of 30 s and some.
const STOP_LIMIT: Duration = Duration::from_secs(45);
/// How often a taken port is replaced by another.
const PORT_ATTEMPTS: usize = 3;
const POLL: Duration = Duration::from_millis(5);
const ANSWER_BYTES_MAX: u64 = 4_096;

/// The running server. Dropping it stops the server and removes the folder.
pub struct Serving {
    child: Child,
    folder: PathBuf,
    binary: PathBuf,
    address: SocketAddr,
    stopped: bool,
}

impl Serving {
    /// Starts the server and waits until it is ready.
    pub fn start(binary: &Path) -> Result<Self, Failure> {
        let mut last = Failure("no port was free".to_owned());
        for attempt in 0..PORT_ATTEMPTS {
            let folder = std::env::temp_dir().join(format!("tidegate-demo-{}-{attempt}", std::process::id()));
            let mut serving = Self::spawn(binary, folder)?;
            match serving.ready() {
                Ok(()) => return Ok(serving),
                Err(failure) => last = failure,
            }
        }
        Err(last)
    }

    fn spawn(binary: &Path, folder: PathBuf) -> Result<Self, Failure> {
        let at = |e: std::io::Error| Failure(format!("cannot prepare {}: {e}", folder.display()));
        fs::create_dir(&folder).map_err(at)?;
        let errors = File::create(folder.join("server.log")).map_err(at)?;
        let address = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).map_err(at)?;
        let child = Command::new(binary)
            .args(["serve", "--listen", &address.to_string(), "--data-dir"])
            .arg(folder.join("data"))
            .stdin(Stdio::null())
            .stdout(errors.try_clone().map_err(at)?)
            .stderr(errors)
            .spawn()
            .map_err(|e| Failure(format!("cannot start {}: {e}", binary.display())))?;
        Ok(Serving { child, folder, binary: binary.to_owned(), address, stopped: false })
    }

    fn ready(&mut self) -> Result<(), Failure> {
        let deadline = Instant::now() + READY_LIMIT;
        while Instant::now() < deadline {
            if healthy(self.address) {
                return Ok(());
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                self.stopped = true;
                return Err(Failure(format!("the server ended with {status}\n{}", self.log())));
            }
            std::thread::sleep(POLL);
        }
        Err(Failure(format!("the server did not answer within {} s\n{}", READY_LIMIT.as_secs(), self.log())))
    }

    /// `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What the server has written so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("server.log")).unwrap_or_default()
    }

    /// Writes a file into the temporary folder.
    pub fn write(&self, name: &str, contents: &str) -> Result<PathBuf, Failure> {
        let path = self.folder.join(name);
        fs::write(&path, contents).map_err(|e| Failure(format!("cannot write {}: {e}", path.display())))?;
        Ok(path)
    }

    /// The environment that points any AWS client at this server: what `tidegate credentials` prints, and the endpoint.
    pub fn environment(&self) -> Result<Vec<(String, String)>, Failure> {
        let mut command = Command::new(&self.binary);
        let printed = capture(command.args(["credentials", "--data-dir"]).arg(self.folder.join("data")))?;
        // `export NAME=VALUE`, one or several to a line, as shells take them.
        let mut environment: Vec<(String, String)> = printed
            .split_whitespace()
            .filter_map(|word| word.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.trim_matches(['"', '\'']).to_owned()))
            .collect();
        environment.push(("AWS_ENDPOINT_URL".to_owned(), self.endpoint()));
        environment.push(("AWS_REGION".to_owned(), "us-east-1".to_owned()));
        environment.push(("AWS_DEFAULT_REGION".to_owned(), "us-east-1".to_owned()));
        environment.push(("AWS_PAGER".to_owned(), String::new()));
        Ok(environment)
    }

    /// SIGTERM, then waits for the drain; the server must end with 0. Removes the folder.
    pub fn stop(mut self) -> Result<(), Failure> {
        self.stopped = true;
        let pid = self.child.id().to_string();
        // The shell's own `kill`: there may be no program of that name.
        capture(Command::new("sh").args(["-c", "kill -TERM \"$1\"", "sh", &pid]))?;
        let status = wait(&mut self.child, STOP_LIMIT)?;
        if !status.success() {
            return Err(Failure(format!("the server ended with {status} after SIGTERM\n{}", self.log())));
        }
        fs::remove_dir_all(&self.folder).map_err(|e| Failure(format!("cannot remove {}: {e}", self.folder.display())))
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if !self.stopped {
            // SIGTERM first even here: only then does the server remove its cgroups and mounts itself.
            let pid = self.child.id().to_string();
            let _ = Command::new("sh").args(["-c", "kill -TERM \"$1\"", "sh", &pid]).status();
            let _ = wait(&mut self.child, STOP_LIMIT);
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn healthy(address: SocketAddr) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, READY_LIMIT)?;
        stream.set_read_timeout(Some(READY_LIMIT))?;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: tidegate\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}
