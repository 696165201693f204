//! What the command line says.

use crate::{Failure, rows};
use std::path::PathBuf;
use std::time::Duration;

/// Rounds of each measurement; comparators alternate within each round.
const ROUNDS: usize = 7;
const ROUNDS_QUICK: usize = 3;

/// Folders, and how much is measured.
#[derive(Debug, Clone)]
pub struct Options {
    /// The `tidegate` binary.
    pub tidegate: PathBuf,
    /// The folder with `native_bootstrap`, `plain_native`, `parked_hyper` and, if it was built, `decisions`.
    pub programs: PathBuf,
    /// The bench's own folder, with `functions/` and `plain/`.
    pub sources: PathBuf,
    /// Where the JSON goes, and where comparators from npm (`npm/`) and PyPI (`python/`) are.
    pub output: PathBuf,
    /// Rounds of each measurement.
    pub rounds: usize,
    /// A fraction of everything: to see that it works, not to quote.
    pub quick: bool,
    /// The rows to measure, by number; none means all.
    pub only: Vec<String>,
}

impl Options {
    /// From the command line: `--tidegate`, `--programs`, `--sources`, `--output`, and perhaps `--quick`,
    /// `--rounds N` and `--only ROW[,ROW]`.
    pub fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, Failure> {
        let mut options = Options {
            tidegate: PathBuf::new(),
            programs: PathBuf::new(),
            sources: PathBuf::new(),
            output: PathBuf::new(),
            rounds: 0,
            quick: false,
            only: Vec::new(),
        };
        while let Some(name) = arguments.next() {
            if name == "--quick" {
                options.quick = true;
                continue;
            }
            let value = arguments.next().ok_or_else(|| Failure(format!("{name} needs a value")))?;
            match name.as_str() {
                "--tidegate" => options.tidegate = absolute(&value)?,
                "--programs" => options.programs = absolute(&value)?,
                "--sources" => options.sources = absolute(&value)?,
                "--output" => options.output = absolute(&value)?,
                "--rounds" => options.rounds = value.parse().map_err(Failure::during("--rounds"))?,
                "--only" => options.only.extend(value.split(',').map(str::to_owned)),
                _ => return Err(Failure(format!("unknown option {name}"))),
            }
        }
        options.complete()
    }

    fn complete(mut self) -> Result<Self, Failure> {
        let named = [
            ("--tidegate", &self.tidegate),
            ("--programs", &self.programs),
            ("--sources", &self.sources),
            ("--output", &self.output),
        ];
        if let Some((name, _)) = named.into_iter().find(|(_, path)| path.as_os_str().is_empty()) {
            return Err(Failure(format!("{name} is missing; start this with `cargo xtask bench`")));
        }
        if let Some(unknown) = self.only.iter().find(|wanted| rows::ALL.iter().all(|row| row.number != **wanted)) {
            let known: Vec<&str> = rows::ALL.iter().map(|row| row.number).collect();
            return Err(Failure(format!("--only {unknown}: the rows are {}", known.join(", "))));
        }
        if self.rounds == 0 {
            self.rounds = if self.quick { ROUNDS_QUICK } else { ROUNDS };
        }
        Ok(self)
    }

    /// Is this row to be measured?
    pub fn wants(&self, number: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|wanted| wanted == number)
    }

    /// The full number, or the small one with `--quick`.
    pub fn amount(&self, full: usize, quick: usize) -> usize {
        if self.quick { quick } else { full }
    }

    /// How long a round drives connections.
    pub fn span(&self) -> Duration {
        Duration::from_millis(if self.quick { 300 } else { 1_500 })
    }
}

/// Other programs, in other folders, are told these paths.
fn absolute(path: &str) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(Failure::during(format!("the path {path:?}")))
}
