//! From nothing to a thousand concurrent executions of one function that sleeps for two seconds.
//!
//! The connections stand before the clock starts. Each execution tells when it began and in which instance; the figure
//! is the time from the first byte sent until the last execution had begun.

use crate::Failure;
use crate::figures::{median, range};
use crate::load;
use crate::options::Options;
use crate::plan;
use crate::platform::{Platform, Setup};
use crate::process;
use crate::table::{Line, Mark};
use serde_json::Value;
use std::collections::BTreeSet;

const EXECUTIONS: usize = 1_000;
const EXECUTIONS_QUICK: usize = 100;
const SLEEP_S: f64 = 2.0;
const MEMORY_MB: u32 = 128;
/// Executions at a time in an instance that takes several.
const SLOTS: u32 = 20;
/// AWS: each function may grow by 1,000 executions every 10 seconds.
const LAMBDA_S: f64 = 10.0;

/// Row 5.
pub fn measure(options: &Options) -> Result<Vec<Line>, Failure> {
    process::raise_open_files();
    let function = plan::python(options)?.other(options, "sleeping", "app.handler");
    let platform = Platform::start(options, &Setup::of(&[&function]))?;
    let mut lines = Vec::new();
    for (way, slots) in [("an instance each".to_owned(), 1), (format!("{SLOTS} in an instance"), SLOTS)] {
        let mut seen = Seen::default();
        for round in 0..options.rounds {
            let name = format!("burst-{slots}-{round}");
            platform.deploy_with(&name, &function, MEMORY_MB)?;
            if slots > 1 && !platform.set_concurrency(&name, slots)? {
                return Ok(lines);
            }
            seen.round(options, &platform, &name)?;
        }
        lines.push(seen.line(options, &way));
    }
    Ok(lines)
}

/// What was seen in each round.
#[derive(Default)]
struct Seen {
    times: Vec<f64>,
    cpu: Vec<f64>,
    peaks: Vec<usize>,
    instances: Vec<usize>,
}

impl Seen {
    fn round(&mut self, options: &Options, platform: &Platform, name: &str) -> Result<(), Failure> {
        let executions = options.amount(EXECUTIONS, EXECUTIONS_QUICK);
        platform.rest()?;
        let (guests, before) = (platform.guests().len(), platform.cpu_us());
        let target = platform.target(name, &format!(r#"{{"seconds":{SLEEP_S}}}"#), "began");
        let (sent, bodies) = load::at_once(&target, executions).map_err(|Failure(text)| platform.failure(&text))?;
        self.cpu.push((platform.cpu_us() - before) as f64 / executions as f64);
        let mut began = Vec::new();
        let mut seen = BTreeSet::new();
        for body in &bodies {
            let body: Value = serde_json::from_str(body).unwrap_or_default();
            began.push(body["began"].as_f64().ok_or_else(|| Failure("no time in an answer".to_owned()))? - sent);
            seen.insert(body["instance"].as_str().unwrap_or_default().to_owned());
        }
        began.sort_by(f64::total_cmp);
        self.times.push(began.last().copied().unwrap_or(0.0));
        self.peaks.push(peak(&began));
        self.instances.push(seen.len());
        platform.delete_and_wait(name, guests)
    }

    fn line(&self, options: &Options, way: &str) -> Line {
        let executions = options.amount(EXECUTIONS, EXECUTIONS_QUICK);
        let line = Line::new("5", format!("0 to {executions} executions, {way}")).ours(median(&self.times), "s");
        let line = line.beside("Lambda, published", Some(LAMBDA_S * executions as f64 / EXECUTIONS as f64)).alone();
        let line = line.cpu(median(&self.cpu), None).marks(Mark::AtMost(3.0), Mark::AtMost(1.0));
        let line = line.note(format!("rounds {} s; at the same time {:?}", range(&self.times), self.peaks));
        line.note(format!("instances {:?}", self.instances))
    }
}

/// The most executions that ran at the same time, each sleeping from its beginning.
fn peak(began: &[f64]) -> usize {
    let running_at = |moment: f64| began.iter().filter(|&&b| b <= moment && moment < b + SLEEP_S).count();
    began.iter().map(|&moment| running_at(moment)).max().unwrap_or(0)
}
