//! `sim FILE` runs a script and prints its transcript; `sim --seed N` prints and runs the random script of that seed.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let text = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["--seed", seed] => seed.parse().map(sim::random::script).map_err(|error| format!("seed {seed}: {error}")),
        [file] => std::fs::read_to_string(file).map_err(|error| format!("{file}: {error}")),
        _ => Err("usage: sim FILE | sim --seed N".to_owned()),
    };
    let text = match text {
        Ok(text) => text,
        Err(problem) => {
            eprintln!("{problem}");
            return ExitCode::FAILURE;
        }
    };
    if arguments.len() == 2 {
        println!("{text}");
    }
    match sim::run(&text) {
        Ok(transcript) => {
            print!("{transcript}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

fn report(error: &sim::Error) {
    match error {
        sim::Error::Script(cause) => eprintln!("{error}: {cause}"),
        sim::Error::Endless { transcript } | sim::Error::RuleBroken { transcript } => {
            print!("{transcript}");
            eprintln!("{error}");
        }
    }
}
