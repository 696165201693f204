//! A custom runtime in one file: asks the Runtime API for the next event, answers it, and so on.
//! `native_bootstrap once EVENT` answers one event on standard output instead: the comparator of cold starts.
#![forbid(unsafe_code)]

use bench::http::Connection;
use bench::native::handle;
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
    loop {
        let event = connection.request("GET", "/2018-06-01/runtime/invocation/next", "")?;
        let id = event.header("lambda-runtime-aws-request-id").unwrap_or_default().to_owned();
        let answer = handle(&event.body);
        let taken = connection.request("POST", &format!("/2018-06-01/runtime/invocation/{id}/response"), &answer)?;
        if taken.status() != 202 {
            return Err(io::Error::other(format!("the answer was refused: {}", taken.start)));
        }
    }
}

fn runtime_api() -> io::Result<SocketAddr> {
    let named =
        std::env::var("AWS_LAMBDA_RUNTIME_API").map_err(|_| io::Error::other("AWS_LAMBDA_RUNTIME_API is not set"))?;
    named.to_socket_addrs()?.next().ok_or_else(|| io::ErrorKind::NotFound.into())
}
