//! A custom runtime in one file: asks the Runtime API for the next event, answers it, and so on.
//! As the handler `ahead` it sends each answer and its next call in one write (HTTP pipelining), which saves both sides a
//! write and a read for each event; most runtime clients wait for the acknowledgement first, as it does otherwise.
//! `native_bootstrap once EVENT` answers one event on standard output instead: the comparator of cold starts.
#![forbid(unsafe_code)]

use bench::http::Connection;
use bench::native::{AHEAD, handle};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [once, event] = arguments.as_slice()
        && once == "once"
    {
        println!("{}", handle(event.as_bytes()));
        return ExitCode::SUCCESS;
    }
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("native_bootstrap: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Ends only with an error: the platform stops a runtime by ending its process.
fn serve() -> io::Result<()> {
    let address = runtime_api()?;
    let mut connection = Connection::open(address)?;
    // Waiting for an event has no time limit: an idle instance may be frozen for hours.
    connection.wait_without_limit()?;
    let ahead = std::env::var("_HANDLER").is_ok_and(|handler| handler == AHEAD);
    let next = connection.text("GET", "/2018-06-01/runtime/invocation/next", "");
    connection.send(&next)?;
    loop {
        let event = connection.receive()?;
        let id = event.header("lambda-runtime-aws-request-id").unwrap_or_default();
        let path = format!("/2018-06-01/runtime/invocation/{id}/response");
        let answer = connection.text("POST", &path, &handle(&event.body));
        if ahead {
            connection.send(&(answer + &next))?;
        } else {
            connection.send(&answer)?;
        }
        let taken = connection.receive()?;
        if taken.status() != 202 {
            return Err(io::Error::other(format!("the answer was refused: {}", taken.start)));
        }
        if !ahead {
            connection.send(&next)?;
        }
    }
}

fn runtime_api() -> io::Result<SocketAddr> {
    let named =
        std::env::var("AWS_LAMBDA_RUNTIME_API").map_err(|_| io::Error::other("AWS_LAMBDA_RUNTIME_API is not set"))?;
    named.to_socket_addrs()?.next().ok_or_else(|| io::ErrorKind::NotFound.into())
}
