//! What the command line says.

use crate::Failure;
use std::path::PathBuf;

/// Rounds of each measurement; comparators alternate within each round.
const ROUNDS: usize = 7;

/// Folders, and how much is measured.
#[derive(Debug, Clone)]
pub struct Options {
    /// The `tidegate` binary.
    pub tidegate: PathBuf,
    /// The folder with `native_bootstrap` and `plain_native`.
    pub programs: PathBuf,
    /// The bench's own folder, with `functions/` and `plain/`.
    pub sources: PathBuf,
    /// Where the JSON goes.
    pub output: PathBuf,
    /// Rounds of each measurement.
    pub rounds: usize,
    /// Cold starts of each kind in a round.
    pub cold_per_round: usize,
    /// Warm invocations, one after the other, of each kind in a round.
    pub warm_per_round: usize,
    /// How long a round drives 16 connections, milliseconds.
    pub throughput_ms: u64,
    /// Warm invocations over which CPU time is taken.
    pub processor_invocations: usize,
    /// `python`, `nodejs` or `native` only.
    pub only: Option<String>,
}

impl Options {
    /// From the command line: `--tidegate`, `--programs`, `--sources`, `--output`, and perhaps `--quick`
    /// (a tenth of everything: to see that it works) and `--only RUNTIME`.
    pub fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, Failure> {
        let mut options = Options {
            tidegate: PathBuf::new(),
            programs: PathBuf::new(),
            sources: PathBuf::new(),
            output: PathBuf::new(),
            rounds: ROUNDS,
            cold_per_round: 15,
            warm_per_round: 1_000,
            throughput_ms: 1_000,
            processor_invocations: 10_000,
            only: None,
        };
        while let Some(name) = arguments.next() {
            if name == "--quick" {
                options.quick();
                continue;
            }
            let value = arguments.next().ok_or_else(|| Failure(format!("{name} needs a value")))?;
            match name.as_str() {
                "--tidegate" => options.tidegate = absolute(&value)?,
                "--programs" => options.programs = absolute(&value)?,
                "--sources" => options.sources = absolute(&value)?,
                "--output" => options.output = absolute(&value)?,
                "--only" => options.only = Some(value),
                _ => return Err(Failure(format!("unknown option {name}"))),
            }
        }
        options.complete()
    }

    fn quick(&mut self) {
        self.rounds = 3;
        self.cold_per_round = 3;
        self.warm_per_round = 100;
        self.throughput_ms = 200;
        self.processor_invocations = 1_000;
    }

    fn complete(self) -> Result<Self, Failure> {
        let named = [
            ("--tidegate", &self.tidegate),
            ("--programs", &self.programs),
            ("--sources", &self.sources),
            ("--output", &self.output),
        ];
        let missing = named.into_iter().find(|(_, path)| path.as_os_str().is_empty()).map(|(name, _)| name);
        match missing {
            Some(name) => Err(Failure(format!("{name} is missing; start this with `cargo xtask bench`"))),
            None => Ok(self),
        }
    }
}

/// Other programs, in other folders, are told these paths.
fn absolute(path: &str) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(Failure::during(format!("the path {path:?}")))
}
