//! `tidegate doctor`: what isolation and limits this machine gives, line by line.

use crate::{config, serve, shims};
use api::launcher::{Ability, Grade};
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

/// How the findings are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Looks at the machine as a server would and prints what it finds. The exit code is 0 if the machine could be looked at.
pub fn run(file: Option<&Path>, output: Output) -> ExitCode {
    let file = match file.map(config::read).transpose() {
        Ok(file) => file.unwrap_or_default(),
        Err(error) => return crate::report(&error),
    };
    let mut config = sandbox::Config::new(Path::new("/tmp"));
    config.runtimes = file.runtimes;
    config.nameservers = file.nameservers;
    config.ca_bundle = file.ca_bundle;
    config.shims = shims::FILES;
    serve::take_environment(&mut config);
    let abilities = match sandbox::doctor(&config) {
        Ok(abilities) => abilities,
        Err(error) => return crate::report(&error),
    };
    let text = match output {
        Output::Json => serde_json::to_string_pretty(&abilities).unwrap_or_default() + "\n",
        Output::Text => abilities.iter().map(|a| line(a, std::io::stdout().is_terminal())).collect(),
    };
    // A reader that has gone away is not an error.
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

fn line(ability: &Ability, colours: bool) -> String {
    let (word, colour) = match ability.grade {
        Grade::Full => ("ok", "32"),
        Grade::Weak => ("weak", "33"),
        Grade::Missing => ("missing", "31"),
    };
    let word = if colours { format!("\x1b[{colour}m{word:<8}\x1b[0m") } else { format!("{word:<8}") };
    let mut line = format!("{word} {:<28} {}\n", ability.name, ability.detail);
    if !ability.remedy.is_empty() {
        line.push_str(&format!("{:>8} {:<28} -> {}\n", "", "", ability.remedy));
    }
    line
}
