//! The one binary: `tidegate serve` and its companions, and the commands that speak the public API.
#![forbid(unsafe_code)]

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Lines of the log are made on one thread and dropped on another, which the system's allocator does not like (decision
/// 0032).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A function platform for your own machines that speaks the AWS Lambda API
#[derive(Parser)]
#[command(name = "tidegate", version, disable_help_subcommand = true)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    #[command(flatten)]
    Server(server::Command),
    #[command(flatten)]
    Cli(Box<cli::Command>),
}

fn main() -> ExitCode {
    match Options::parse().command {
        Command::Server(command) => server::run(command),
        Command::Cli(command) => cli::run(*command),
    }
}
