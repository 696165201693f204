//! Counts what passed and failed, from the closing lines of `cargo test` and pytest.

use std::time::Instant;

/// How many tests and checks passed and failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Succeeded.
    pub passed: usize,
    /// Failed, or could not be run.
    pub failed: usize,
    /// Left out, with a reason in the output above.
    pub skipped: usize,
}

impl Tally {
    /// Takes a line of output into account, if it is one of the closing lines.
    pub fn read(&mut self, line: &str) {
        let closing = match line.strip_prefix("test result: ") {
            Some(rest) => rest,
            None if is_pytest_closing(line) => line,
            None => return,
        };
        for part in closing.split([',', ';', '.']) {
            let words: Vec<&str> = part.split_whitespace().filter(|w| !w.starts_with('=')).collect();
            let Some(pair) = words.windows(2).find(|pair| pair[0].parse::<usize>().is_ok()) else { continue };
            let count: usize = pair[0].parse().unwrap_or(0);
            match pair[1] {
                "passed" | "xpassed" => self.passed += count,
                "failed" | "error" | "errors" => self.failed += count,
                "skipped" | "ignored" | "xfailed" => self.skipped += count,
                _ => {}
            }
        }
    }

    /// Adds another count.
    pub fn add(&mut self, other: Tally) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

/// `=== 3 failed, 12 passed in 4.56s ===`, or without the bars when pytest is told to be quiet.
fn is_pytest_closing(line: &str) -> bool {
    let line = line.trim_matches(['=', ' ']);
    line.starts_with(|c: char| c.is_ascii_digit()) && line.contains(" in ") && line.ends_with(['s', ')'])
}

/// One row of the summary.
pub struct Row {
    name: &'static str,
    tally: Tally,
    seconds: u64,
    failure: Option<String>,
}

/// The steps of a task and how each ended; a failed step does not stop the later ones.
#[derive(Default)]
pub struct Summary {
    rows: Vec<Row>,
}

impl Summary {
    /// Runs a step and records how it ended. A step without counts of its own counts as one.
    pub fn step(&mut self, name: &'static str, work: impl FnOnce(&mut Tally) -> Result<(), crate::steps::Failure>) {
        crate::steps::say(name);
        let begun = Instant::now();
        let mut tally = Tally::default();
        let failure = work(&mut tally).err().map(|f| f.0);
        match &failure {
            Some(_) if tally.failed == 0 => tally.failed = 1,
            None if tally == Tally::default() => tally.passed = 1,
            _ => {}
        }
        if let Some(text) = &failure {
            eprintln!("{name} failed: {text}");
        }
        self.rows.push(Row { name, tally, seconds: begun.elapsed().as_secs(), failure });
    }

    /// Prints the table; the last line is the count of everything. Fails if anything did.
    pub fn finish(self) -> Result<(), crate::steps::Failure> {
        let mut all = Tally::default();
        println!();
        for row in &self.rows {
            let word = if row.failure.is_none() { "ok" } else { "FAILED" };
            let Tally { passed, failed, skipped } = row.tally;
            println!(
                "{:<24} {word:<7} {passed:>5} passed {failed:>4} failed {skipped:>4} skipped {:>5} s",
                row.name, row.seconds
            );
            all.add(row.tally);
        }
        let failed: Vec<&str> = self.rows.iter().filter(|r| r.failure.is_some()).map(|r| r.name).collect();
        if !failed.is_empty() {
            println!("failed: {}", failed.join(", "));
        }
        println!("{} passed, {} failed, {} skipped", all.passed, all.failed, all.skipped);
        if failed.is_empty() { Ok(()) } else { Err(crate::steps::Failure::already_said()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(lines: &str, passed: usize, failed: usize, skipped: usize) {
        let mut tally = Tally::default();
        lines.lines().for_each(|line| tally.read(line));
        assert_eq!(tally, Tally { passed, failed, skipped }, "{lines}");
    }

    #[test]
    fn closing_lines() {
        check(
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            12,
            0,
            1,
        );
        check("test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out", 3, 2, 0);
        check("======= 3 failed, 120 passed, 2 skipped, 1 error in 31.22s (0:00:31) =======", 120, 4, 2);
        check("===== 5 passed in 0.12s =====", 5, 0, 0);
        check("3 passed, 980 deselected in 12.52s", 3, 0, 0);
        check("===== no tests ran in 0.12s =====", 0, 0, 0);
        check("===== FAILURES =====\n12 passed\nrunning 3 tests", 0, 0, 0);
    }
}
