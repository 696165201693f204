//! Wiring: configuration, start, drain, shutdown.
//!
//! The wall: the only crate that sees all loops. It decides nothing about functions; it builds the parts, hands them
//! their ends, and ends them in order.
#![forbid(unsafe_code)]

mod access_key;
#[cfg(test)]
mod carried;
mod config;
mod daemon;
mod doctor;
mod log_writer;
mod serve;
mod settings;
mod shims;

use clap::Subcommand;
use std::path::PathBuf;
use std::process::ExitCode;

pub use serve::Serve;

/// Where a server keeps everything, and its key is looked for, unless told otherwise.
const DATA_DIR: &str = "tidegate-data";

/// The commands that run or look at a server on this machine.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a server
    Serve(Box<Serve>),
    /// Print the access key of a server's data folder as shell exports
    Credentials(Credentials),
    /// Say what isolation and limits this machine gives, and what to do about the rest
    Doctor(Doctor),
}

/// Options of `tidegate credentials`.
#[derive(Debug, clap::Args)]
pub struct Credentials {
    /// The server's data folder
    #[arg(long, value_name = "DIR", default_value = DATA_DIR)]
    data_dir: PathBuf,
}

/// Options of `tidegate doctor`.
#[derive(Debug, clap::Args)]
pub struct Doctor {
    /// A configuration file as for `serve`
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How the findings are printed
    #[arg(long, value_enum, default_value_t = doctor::Output::Text)]
    output: doctor::Output,
}

/// Runs one command.
pub fn run(command: Command) -> ExitCode {
    match command {
        Command::Serve(options) => serve::run(&options),
        Command::Credentials(options) => access_key::print(&options.data_dir),
        Command::Doctor(options) => doctor::run(options.config.as_deref(), options.output),
    }
}

/// Prints an error with all its causes.
fn report(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("error: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        eprintln!("  because: {error}");
        cause = error.source();
    }
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(subcommand)]
        command: Command,
    }

    #[test]
    fn credentials_are_looked_for_where_serve_keeps_them() {
        for (line, want) in [(&["", "credentials"][..], DATA_DIR), (&["", "credentials", "--data-dir", "/d"], "/d")] {
            let Command::Credentials(options) = Line::try_parse_from(line).unwrap().command else { panic!("{line:?}") };
            assert_eq!(options.data_dir, PathBuf::from(want));
        }
    }
}
