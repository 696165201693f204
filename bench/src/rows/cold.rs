//! Cold starts: from the request to the answer of a new instance, one after the other.
//!
//! Instances may idle for 1 ms only, and several functions take turns: every invocation meets a new instance, which the
//! handler's own count proves. Before each start the platform comes to rest, so that neither the end of the instance
//! before nor the filling of a pool is measured here; row 4 measures those.

use crate::Failure;
use crate::figures::Latencies;
use crate::options::Options;
use crate::plan::{self, Subject};
use crate::platform::{Platform, Setup};
use crate::process;
use crate::runc::Bundle;
use crate::table::{Line, Mark};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Functions that take turns.
const FUNCTIONS: usize = 8;

/// Row 1.
pub fn python(options: &Options) -> Result<Vec<Line>, Failure> {
    let subject = plan::python(options)?;
    let measured = measure(options, &subject, runc(options, &subject))?;
    let p99 = Line::new("1", "the same, p99").ours(measured.ours.p99_us().map(ms), "ms");
    let p99 = p99.beside("runc run, p99", measured.other.p99_us().map(ms)).alone();
    let line = measured.line("1", &subject, "runc run").marks(Mark::AtMost(1.0 / 15.0), Mark::AtMost(1.0 / 30.0));
    Ok(vec![line, p99.marks(Mark::AtMost(10.0), Mark::AtMost(10.0))])
}

/// Row 2.
pub fn native(options: &Options) -> Result<Vec<Line>, Failure> {
    let subject = plan::native(options)?;
    let measured = measure(options, &subject, runc(options, &subject))?;
    let p99 = Line::new("2", "the same, p99").ours(measured.ours.p99_us().map(ms), "ms");
    let p99 = p99.beside("runc run, p99", measured.other.p99_us().map(ms));
    let line = measured.line("2", &subject, "runc run").marks(Mark::AtMost(0.1), Mark::AtMost(1.0 / 25.0));
    Ok(vec![line, p99])
}

/// Row 3.
pub fn nodejs(options: &Options) -> Result<Vec<Line>, Failure> {
    let subject = plan::nodejs(options)?;
    let interpreter = subject.function.interpreter.clone().unwrap_or_default();
    let bare: Other = Ok(Box::new(move || {
        let begun = Instant::now();
        let status = Command::new(&interpreter).args(["-e", "0"]).stdin(Stdio::null()).status();
        match status.map_err(Failure::during("cannot start node"))? {
            status if status.success() => Ok(begun.elapsed()),
            status => Err(Failure(format!("node -e 0 ended with {status}"))),
        }
    }));
    let measured = measure(options, &subject, bare)?;
    let p99 = Line::new("3", "the same, p99").ours(measured.ours.p99_us().map(ms), "ms");
    let p99 = p99.beside("node -e 0, p99", measured.other.p99_us().map(ms));
    let line = measured.line("3", &subject, "node -e 0").marks(Mark::AtMost(0.25), Mark::AtMost(0.1));
    Ok(vec![line, p99])
}

/// One start of the comparator, or why there is none.
type Other = Result<Box<dyn FnMut() -> Result<Duration, Failure>>, String>;

fn runc(options: &Options, subject: &Subject) -> Other {
    if !Bundle::possible() {
        return Err("runc is not here, or we are not root".to_owned());
    }
    let bundle = Bundle::make(&options.output, &options.sources, subject).map_err(|Failure(text)| text)?;
    Ok(Box::new(move || bundle.run().map(|run| run.answered)))
}

struct Measured {
    ours: Latencies,
    other: Latencies,
    cpu_us: Option<f64>,
    other_cpu_us: Option<f64>,
    note: String,
}

impl Measured {
    fn line(&self, row: &'static str, subject: &Subject, beside: &str) -> Line {
        let line = Line::new(row, format!("cold start, {}, p50", subject.name)).ours(self.ours.p50_us().map(ms), "ms");
        line.beside(beside, self.other.p50_us().map(ms)).cpu(self.cpu_us, self.other_cpu_us).note(&self.note)
    }
}

/// Milliseconds.
pub fn ms(us: f64) -> f64 {
    us / 1e3
}

/// Within a round the two alternate, and who begins alternates too.
fn measure(options: &Options, subject: &Subject, other: Other) -> Result<Measured, Failure> {
    let platform = Platform::start(options, &Setup::of(&[&subject.function]).limit("idle_ms", 1))?;
    let names: Vec<String> = (0..FUNCTIONS).map(|number| format!("cold-{number}")).collect();
    for name in &names {
        platform.deploy(name, &subject.function)?;
        platform.connect()?.invoke(name)?;
    }
    let (mut other, note) = match other {
        Ok(other) => (Some(other), String::new()),
        Err(reason) => (None, format!("no comparator: {reason}")),
    };
    let mut measured =
        Measured { ours: Latencies::default(), other: Latencies::default(), cpu_us: None, other_cpu_us: None, note };
    let (mut samples, mut cpu_us, mut other_cpu_us) = (0, 0, 0);
    for round in 0..options.rounds {
        let (mut ours, mut others) = (Vec::new(), Vec::new());
        for sample in 0..options.amount(15, 5) {
            let name = &names[samples % names.len()];
            let mut run_other = || -> Result<(), Failure> {
                let Some(other) = &mut other else { return Ok(()) };
                let before = process::reaped_us();
                others.push(other()?);
                other_cpu_us += process::reaped_us() - before;
                Ok(())
            };
            let ours_first = (round + sample) % 2 == 0;
            if !ours_first {
                run_other()?;
            }
            platform.rest()?;
            let before = platform.cpu_us();
            ours.push(start(&platform, name)?);
            platform.rest()?;
            cpu_us += platform.cpu_us() - before;
            if ours_first {
                run_other()?;
            }
            samples += 1;
        }
        measured.ours.add(&ours);
        measured.other.add(&others);
    }
    let each = |total: u64| total as f64 / samples.max(1) as f64;
    measured.cpu_us = Some(each(cpu_us));
    measured.other_cpu_us = other.is_some().then(|| each(other_cpu_us));
    Ok(measured)
}

/// One cold start. The handler's own count proves that the instance was new.
pub fn start(platform: &Platform, name: &str) -> Result<Duration, Failure> {
    match platform.connect()?.invoke(name)? {
        (1, took) => Ok(took),
        (count, _) => Err(Failure(format!("a start that should be cold met an instance with {count} invocations"))),
    }
}
