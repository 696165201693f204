//! Tasks for developers: `cargo xtask demo | test | ci | arrows | tidy | bench | soak`.
//!
//! Each task is one module; `steps` starts other programs and `needs` installs what they need.
#![forbid(unsafe_code)]

mod arrows;
mod bench;
mod checks;
mod demo;
mod needs;
mod serving;
mod steps;
mod suites;
mod tally;
mod tidy;
mod workspace;

use std::process::ExitCode;
use steps::Failure;

const USAGE: &str = "\
usage: cargo xtask TASK

  demo                          build, serve, deploy a function, invoke it, show its log, stop
  test [--unit] [--e2e] [-- ..] unit tests, then the suites by real clients; what follows -- goes to pytest
  ci                            format, lints, arrows, tidy, then test
  arrows                        compare the crates' dependencies with the table in ARCHITECTURE.md
  tidy                          check the rules of the house
  bench [--only ROW[,ROW]] [--rounds N] [--quick]
                                measure beside comparators, print one table, write target/bench/latest.json
  soak [--minutes N]            mixed load, churn and kills; fails if the platform fails a request or grows
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some((task, rest)) = arguments.split_first() else {
        eprint!("{USAGE}");
        return ExitCode::from(2);
    };
    match dispatch(task, rest) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure(text)) => {
            if !text.is_empty() {
                eprintln!("xtask {task}: {text}");
            }
            ExitCode::FAILURE
        }
    }
}

fn dispatch(task: &str, rest: &[String]) -> Result<(), Failure> {
    match (task, rest) {
        ("demo", []) => demo::demo(),
        ("test", _) => suites::test(&suites::Selection::parse(rest)?),
        ("ci", []) => checks::ci(),
        ("arrows", []) => arrows::arrows(),
        ("tidy", []) => tidy::tidy(),
        ("bench", _) => bench::bench(rest),
        ("soak", _) => suites::soak(rest),
        ("demo" | "ci" | "arrows" | "tidy", _) => Err(Failure(format!("takes no arguments\n{USAGE}"))),
        _ => Err(Failure(format!("unknown task\n{USAGE}"))),
    }
}
