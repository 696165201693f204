//! Cold starts of a Python function with heavy imports: a version with SnapStart beside one without.

use crate::Failure;
use crate::figures::Latencies;
use crate::options::Options;
use crate::plan;
use crate::platform::{Platform, Setup};
use crate::rows::cold::{ms, start};
use crate::table::Line;

/// Row 13.
pub fn measure(options: &Options) -> Result<Vec<Line>, Failure> {
    let function = plan::python(options)?.other(options, "heavy", "app.handler");
    let platform = Platform::start(options, &Setup::of(&[&function]).limit("idle_ms", 1))?;
    platform.deploy("heavy", &function)?;
    let versions = [platform.publish("heavy", true)?, platform.publish("heavy", false)?];
    let mut latencies = [Latencies::default(), Latencies::default()];
    let mut cpu_us = [0, 0];
    let samples = options.amount(15, 5);
    for round in 0..options.rounds {
        let mut taken = [Vec::new(), Vec::new()];
        for sample in 0..samples {
            // Who begins alternates.
            let first = (round + sample) % 2;
            for which in [first, 1 - first] {
                platform.rest()?;
                let before = platform.cpu_us();
                taken[which].push(start(&platform, &versions[which])?);
                platform.rest()?;
                cpu_us[which] += platform.cpu_us() - before;
            }
        }
        latencies.iter_mut().zip(&taken).for_each(|(all, taken)| all.add(taken));
    }
    let each = |total: u64| Some(total as f64 / (samples * options.rounds).max(1) as f64);
    let [with, without] = latencies;
    let line = Line::new("13", "cold start, Python, heavy imports, p50").ours(with.p50_us().map(ms), "ms");
    let line = line.beside("without SnapStart", without.p50_us().map(ms)).cpu(each(cpu_us[0]), each(cpu_us[1]));
    let p99 = Line::new("13", "the same, p99").ours(with.p99_us().map(ms), "ms");
    Ok(vec![line, p99.beside("without SnapStart, p99", without.p99_us().map(ms))])
}
