//! `sim FILE` runs a script and prints its transcript; `sim --seed N` prints and runs the random script of that seed;
//! `sim trace FOLDER [START_MS]` replays the traces of that folder and compares the keep-alive policies.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let ["trace", folder, more @ ..] = arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        return traces(folder, more);
    }
    let text = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["--seed", seed] => seed.parse().map(sim::random::script).map_err(|error| format!("seed {seed}: {error}")),
        [file] => std::fs::read_to_string(file).map_err(|error| format!("{file}: {error}")),
        _ => Err("usage: sim FILE | sim --seed N | sim trace FOLDER [START_MS]".to_owned()),
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

/// The samples of a folder, by the endings of their files: invocations, durations, memory.
const SAMPLES: [[&str; 3]; 2] = [
    ["azure2019_1350_inv.csv", "azure2019_1350_run.csv", "azure2019_1350_mem.csv"],
    ["azure2019_500_invocations.csv", "azure2019_500_durations.csv", "azure2019_500_memory.csv"],
];

fn traces(folder: &str, more: &[&str]) -> ExitCode {
    let start_ms = more.first().and_then(|ms| ms.parse().ok()).unwrap_or(2);
    for files in SAMPLES {
        let texts: Result<Vec<String>, String> = files
            .iter()
            .map(|file| std::fs::read_to_string(format!("{folder}/{file}")).map_err(|error| format!("{file}: {error}")))
            .collect();
        match texts.as_deref() {
            Ok([invocations, durations, memory]) => {
                let functions = sim::trace::read(invocations, durations, memory);
                let count: u64 = functions.iter().flat_map(|f| &f.per_minute).map(|n| u64::from(*n)).sum();
                println!("{}: {} functions, {count} invocations", files[0], functions.len());
                println!("{}", sim::trace::compare(&functions, start_ms * 1_000));
            }
            Ok(_) => {}
            Err(problem) => {
                eprintln!("{problem}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
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
