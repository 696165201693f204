//! The comparator of warm invocations: the same handler behind a plain HTTP server, on the host, without a sandbox.

use crate::Failure;
use crate::http::Connection;
use crate::plan::{EVENT, Subject};
use crate::process;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const STOP_LIMIT: Duration = Duration::from_secs(5);

/// The running server. Dropping it ends it.
pub struct Plain {
    child: Child,
    address: SocketAddr,
}

impl Plain {
    /// Starts the server; it prints its port first.
    pub fn start(subject: &Subject) -> Result<Plain, Failure> {
        let failed = format!("cannot start {}", subject.server.join(" "));
        let [program, arguments @ ..] = subject.server.as_slice() else { return Err(Failure(failed)) };
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(Failure::during(failed.clone()))?;
        let mut line = String::new();
        if let Some(output) = child.stdout.take() {
            let _ = BufReader::new(output).read_line(&mut line);
        }
        let port = line.trim().parse();
        let plain = Plain { child, address: (Ipv4Addr::LOCALHOST, port.unwrap_or(0)).into() };
        if plain.address.port() == 0 { Err(Failure(failed)) } else { Ok(plain) }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A connection to ask through.
    pub fn connect(&self) -> Result<Asker, Failure> {
        let connection =
            Connection::open(self.address).map_err(Failure::during("cannot connect to the plain server"))?;
        Ok(Asker { connection })
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        process::terminate(self.child.id());
        let _ = process::wait(&mut self.child, STOP_LIMIT);
    }
}

/// One client on one connection.
pub struct Asker {
    connection: Connection,
}

impl Asker {
    /// Sends the event and returns how long the answer took.
    pub fn ask(&mut self) -> Result<Duration, Failure> {
        let begun = Instant::now();
        let answer = self.connection.request("POST", "/", EVENT).map_err(Failure::during("asking the plain server"))?;
        let took = begun.elapsed();
        match answer.status() {
            200 if answer.body.starts_with(b"{\"greeting\"") => Ok(took),
            status => Err(Failure(format!("the plain server: {status} {}", String::from_utf8_lossy(&answer.body)))),
        }
    }
}
