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
/// AWS: each function may grow by 1,000 executions every 10 seconds.
const LAMBDA_S: f64 = 10.0;

/// Row 5.
pub fn measure(options: &Options) -> Result<Vec<Line>, Failure> {
    process::raise_open_files();
    let function = plan::python(options)?.other(options, "sleeping", "app.handler");
    let executions = options.amount(EXECUTIONS, EXECUTIONS_QUICK);
    let platform = Platform::start(options, &Setup::of(&[&function]))?;
    let (mut times, mut cpu, mut peaks, mut instances) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..options.rounds {
        let name = format!("burst-{round}");
        platform.deploy_with(&name, &function, MEMORY_MB)?;
        platform.rest()?;
        let (guests, before) = (platform.guests().len(), platform.cpu_us());
        let target = platform.target(&name, &format!(r#"{{"seconds":{SLEEP_S}}}"#), "began");
        let (sent, bodies) = load::at_once(&target, executions).map_err(|Failure(text)| platform.failure(&text))?;
        cpu.push((platform.cpu_us() - before) as f64 / executions as f64);
        let mut began = Vec::new();
        let mut seen = BTreeSet::new();
        for body in &bodies {
            let body: Value = serde_json::from_str(body).unwrap_or_default();
            began.push(body["began"].as_f64().ok_or_else(|| Failure("no time in an answer".to_owned()))? - sent);
            seen.insert(body["instance"].as_str().unwrap_or_default().to_owned());
        }
        began.sort_by(f64::total_cmp);
        times.push(began.last().copied().unwrap_or(0.0));
        peaks.push(peak(&began));
        instances.push(seen.len());
        platform.delete_and_wait(&name, guests)?;
    }
    let line = Line::new("5", format!("0 to {executions} executions")).ours(median(&times), "s");
    let line = line.beside("Lambda, published", Some(LAMBDA_S * executions as f64 / EXECUTIONS as f64)).alone();
    let line = line.cpu(median(&cpu), None).marks(Mark::AtMost(3.0), Mark::AtMost(1.0));
    let line = line.note(format!("rounds {} s; running at the same time {peaks:?}", range(&times)));
    Ok(vec![line.note(format!("instances {instances:?}"))])
}

/// The most executions that ran at the same time, each sleeping from its beginning.
fn peak(began: &[f64]) -> usize {
    let running_at = |moment: f64| began.iter().filter(|&&b| b <= moment && moment < b + SLEEP_S).count();
    began.iter().map(|&moment| running_at(moment)).max().unwrap_or(0)
}
