//! Measures what the platform promises beside comparators; prints one table, writes one JSON file.
#![forbid(unsafe_code)]

use bench::options::Options;
use bench::table::{Line, Table};
use bench::{Failure, rows};
use std::process::ExitCode;
use std::time::Instant;

fn main() -> ExitCode {
    match Options::parse(std::env::args().skip(1)).and_then(|options| measure(&options)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(Failure(text)) => {
            eprintln!("bench: {text}");
            ExitCode::FAILURE
        }
    }
}

/// Tells whether every row could be measured; a row below its mark is a result, not a failure.
fn measure(options: &Options) -> Result<bool, Failure> {
    let mut table = Table::new(options);
    let mut complete = true;
    for row in rows::ALL.iter().filter(|row| options.wants(row.number)) {
        eprintln!("row {}: {}", row.number, row.title);
        let begun = Instant::now();
        match (row.measure)(options) {
            Ok(lines) => {
                // A run that is broken off has shown what it had.
                lines.iter().for_each(|line| eprintln!("    {}", line.short()));
                table.lines.extend(lines);
            }
            Err(Failure(text)) => {
                eprintln!("bench: row {}: {text}", row.number);
                let first = text.lines().next().unwrap_or_default();
                table.lines.push(Line::new(row.number, row.title).note(format!("not measured: {first}")));
                complete = false;
            }
        }
        eprintln!("    {} s", begun.elapsed().as_secs());
    }
    print!("{}", table.text());
    let path = table.write(&options.output)?;
    println!("\nthe same as JSON: {}", path.display());
    Ok(complete)
}
