//! The commands for users: `deploy`, `invoke`, `list`, `logs`, `explain`, `scaling`, `warm-up`, `delete`.
//!
//! The wall: this crate knows the server only by its public API, and so proves that the API is enough.
#![forbid(unsafe_code)]

mod client;
mod connection;
mod delete;
mod deploy;
mod error;
mod explain;
mod invoke;
mod list;
mod logs;
mod scaling;
mod screen;
mod warm_up;

pub use connection::Connection;

use clap::{Args, Subcommand, ValueEnum};
use client::Client;
use error::Error;
use screen::Screen;
use std::process::ExitCode;

/// The commands that speak the public API. To be flattened into the binary's own enum.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Package a folder and create or update a function from it
    Deploy(Box<deploy::Deploy>),
    /// Invoke a function and print its answer
    Invoke(invoke::Invoke),
    /// List the functions
    List(list::List),
    /// Show a function's log
    Logs(logs::Logs),
    /// Tell why an invocation took as long as it did, or was refused
    Explain(explain::Explain),
    /// Let provisioned concurrency change by itself
    Scaling(scaling::Scaling),
    /// Start instances ahead of invocations
    WarmUp(warm_up::WarmUp),
    /// Delete a function
    Delete(delete::Delete),
}

/// Options that all commands have.
#[derive(Debug, Args)]
struct Shared {
    #[command(flatten)]
    connection: Connection,
    /// How results are printed
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people
    Text,
    /// For programs
    Json,
}

/// Runs one command and prints what is to be said. The exit code is 0 for success, 1 for a function error,
/// 2 for a wrong use, 3 for a refusal by the server, 4 if the server cannot be reached.
pub fn run(command: Command) -> ExitCode {
    let screen = Screen::of_process();
    let done = match &command {
        Command::Deploy(args) => with_client(&args.shared, |client| deploy::run(args, client, &screen)),
        Command::Invoke(args) => with_client(&args.shared, |client| invoke::run(args, client, &screen)),
        Command::List(args) => with_client(&args.shared, |client| list::run(args, client, &screen)),
        Command::Logs(args) => with_client(&args.shared, |client| logs::run(args, client, &screen)),
        Command::Explain(args) => with_client(&args.shared, |client| explain::run(args, client, &screen)),
        Command::Scaling(args) => with_client(args.shared(), |client| scaling::run(args, client, &screen)),
        Command::WarmUp(args) => with_client(&args.shared, |client| warm_up::run(args, client, &screen)),
        Command::Delete(args) => with_client(&args.shared, |client| delete::run(args, client, &screen)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of our output has gone; there is nobody to tell.
        Err(Error::Print(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            screen.error(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

fn with_client(shared: &Shared, work: impl FnOnce(&Client) -> Result<(), Error>) -> Result<(), Error> {
    let target = shared.connection.resolve(&|name| std::env::var(name).ok())?;
    work(&Client::new(target)?)
}
