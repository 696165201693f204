//! Routing and pool decisions per second and core, with a million instances known: measured by a program of its own,
//! which runs the real deciding code.

use crate::Failure;
use crate::figures::{median, range};
use crate::options::Options;
use crate::process::{self, Pinned};
use crate::table::{Line, Mark};
use serde_json::Value;
use std::process::Command;

/// Row 10.
pub fn measure(options: &Options) -> Result<Vec<Line>, Failure> {
    let program = options.programs.join("decisions");
    let line = Line::new("10", "decisions per second and core");
    if !program.is_file() {
        return Ok(vec![line.note(format!("not measured: there is no {}", program.display()))]);
    }
    let _pinned = Pinned::to(0);
    let (mut ours, mut lookups, mut instances) = (Vec::new(), Vec::new(), 0);
    for _ in 0..options.rounds {
        let printed = process::capture(&mut Command::new(&program))?;
        let value: Value = printed
            .lines()
            .find_map(|line| serde_json::from_str(line).ok())
            .ok_or_else(|| Failure(format!("decisions wrote {printed:?}")))?;
        ours.extend(value["decisions_per_s"].as_f64());
        lookups.extend(value["lookup_per_s"].as_f64());
        instances = value["instances"].as_u64().unwrap_or(0);
    }
    let line = line.ours(median(&ours), "/s").beside("a hash map look-up", median(&lookups)).alone();
    let line = line.cpu(median(&ours).map(|n| 1e6 / n), median(&lookups).map(|n| 1e6 / n));
    let line = line.note(format!("{instances} instances known; rounds {}", range(&ours)));
    Ok(vec![line.marks(Mark::AtLeast(1e6), Mark::AtLeast(5e6))])
}
