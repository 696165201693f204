//! Measures cold starts, warm invocations and the platform's own CPU time; prints one table, writes one JSON file.
#![forbid(unsafe_code)]

use bench::options::Options;
use bench::plan::Subject;
use bench::platform::Platform;
use bench::report::Report;
use bench::{Failure, cold, processor, warm};
use std::process::ExitCode;

fn main() -> ExitCode {
    match Options::parse(std::env::args().skip(1)).and_then(|options| measure(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure(text)) => {
            eprintln!("bench: {text}");
            ExitCode::FAILURE
        }
    }
}

fn measure(options: &Options) -> Result<(), Failure> {
    let subjects = Subject::present(options)?;
    let platform = Platform::start(options, &subjects)?;
    let mut report = Report::new(options);
    report.cold = cold::measure(options, &platform, &subjects)?;
    report.warm = warm::measure(options, &platform, &subjects)?;
    report.processor = processor::measure(options, &platform, &subjects)?;
    platform.stop()?;
    print!("{}", report.table());
    let path = report.write(&options.output)?;
    println!("\nthe same as JSON: {}", path.display());
    Ok(())
}
