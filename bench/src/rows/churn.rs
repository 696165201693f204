//! Instances made, invoked once and destroyed, per second.
//!
//! Instances may idle for 1 ms only; many functions take turns on a few connections, so that an instance has ended by
//! the time its function is invoked again. Only invocations that met a new instance count. That ends keep up with
//! starts is seen by the number of instances behind each round.

use crate::Failure;
use crate::figures::{median, range};
use crate::options::Options;
use crate::plan::{self, Subject};
use crate::platform::{Platform, Setup};
use crate::process;
use crate::runc::Bundle;
use crate::table::{Line, Mark};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const CLIENTS: usize = 8;

/// Row 4.
pub fn measure(options: &Options) -> Result<Vec<Line>, Failure> {
    let subjects = [plan::native(options), plan::python(options)];
    subjects.into_iter().map(|subject| one(options, &subject?)).collect()
}

fn one(options: &Options, subject: &Subject) -> Result<Line, Failure> {
    let bundle = Bundle::possible().then(|| Bundle::make(&options.output, &options.sources, subject)).transpose()?;
    let platform = Platform::start(options, &Setup::of(&[&subject.function]).limit("idle_ms", 1))?;
    let names: Vec<String> = (0..options.amount(64, 24)).map(|number| format!("churn-{number}")).collect();
    for name in &names {
        platform.deploy(name, &subject.function)?;
    }
    let span = options.span();
    ours(&platform, &names, span / 3)?;
    let (mut rates, mut other_rates, mut left, mut share) = (Vec::new(), Vec::new(), 0, Vec::new());
    let (mut cpu, mut other_cpu) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        let before = platform.cpu_us();
        let made = ours(&platform, &names, span)?;
        left = left.max(platform.guests().len());
        platform.rest()?;
        cpu.push((platform.cpu_us() - before) as f64 / made.all.max(1) as f64);
        rates.push(made.cold as f64 / made.took.as_secs_f64());
        share.push(made.cold as f64 * 100.0 / made.all.max(1) as f64);
        if let Some(bundle) = &bundle {
            let before = process::reaped_us();
            let (runs, took) = others(bundle, span)?;
            other_cpu.push((process::reaped_us() - before) as f64 / runs as f64);
            other_rates.push(runs as f64 / took.as_secs_f64());
        }
    }
    let line = Line::new("4", format!("create + invoke + destroy, {}", subject.name)).ours(median(&rates), "/s");
    let line = line.beside("runc run loop, both cores", median(&other_rates)).cpu(median(&cpu), median(&other_cpu));
    let line = line.note(format!("rounds {}; at most {left} guest processes behind a round", range(&rates)));
    let line = line.note(format!("{:.0} % of invocations met a new instance", median(&share).unwrap_or(0.0)));
    Ok(line.marks(Mark::AtLeast(10.0), Mark::AtLeast(30.0)))
}

struct Made {
    cold: usize,
    all: usize,
    took: Duration,
}

fn ours(platform: &Platform, names: &[String], span: Duration) -> Result<Made, Failure> {
    let next = AtomicUsize::new(0);
    let begun = Instant::now();
    let client = || -> Result<(usize, usize), Failure> {
        let (mut invoker, mut cold, mut all) = (platform.connect()?, 0, 0);
        while begun.elapsed() < span {
            let name = &names[next.fetch_add(1, Ordering::Relaxed) % names.len()];
            cold += usize::from(invoker.invoke(name)?.0 == 1);
            all += 1;
        }
        Ok((cold, all))
    };
    let counts = together(CLIENTS, &client)?;
    let took = begun.elapsed();
    Ok(Made { cold: counts.iter().map(|c| c.0).sum(), all: counts.iter().map(|c| c.1).sum(), took })
}

fn others(bundle: &Bundle, span: Duration) -> Result<(usize, Duration), Failure> {
    let begun = Instant::now();
    let client = || -> Result<usize, Failure> {
        let mut runs = 0;
        while begun.elapsed() < span {
            bundle.run()?;
            runs += 1;
        }
        Ok(runs)
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let runs = together(cores, &client)?.iter().sum();
    Ok((runs, begun.elapsed()))
}

fn together<T: Send>(number: usize, work: &(dyn Fn() -> Result<T, Failure> + Sync)) -> Result<Vec<T>, Failure> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..number).map(|_| scope.spawn(work)).collect();
        let joined = threads.into_iter().map(|t| t.join().unwrap_or_else(|_| Err(Failure("a client panicked".into()))));
        joined.collect()
    })
}
