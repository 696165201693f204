//! Warm Python and Node.js handlers beside serverless-offline and Google's functions framework with the same handler.
//!
//! Servers and load have a core each. The frameworks serve all connections from one process; the platform is measured
//! with an instance for each invocation, its default, and with one instance for all, where it offers that.

use crate::Failure;
use crate::figures::{median, range};
use crate::load::{self, Target};
use crate::options::Options;
use crate::plan::{self, Subject};
use crate::platform::{Platform, Setup};
use crate::process::Pinned;
use crate::rivals::Rival;
use crate::rows::proxy::{CONNECTIONS, LOAD, SERVERS};
use crate::table::{Line, Mark};

const RIVALS: [&str; 2] = ["serverless-offline", "functions-framework"];

/// Row 7.
pub fn measure(options: &Options) -> Result<Vec<Line>, Failure> {
    let mut lines = Vec::new();
    for subject in [plan::python(options)?, plan::nodejs(options)?] {
        lines.extend(one(options, &subject)?);
    }
    Ok(lines)
}

#[derive(Default)]
struct Side {
    rates: Vec<f64>,
    cpu: Vec<f64>,
}

impl Side {
    fn round(&mut self, options: &Options, target: &Target, cpu_us: impl Fn() -> u64) -> Result<(), Failure> {
        let _pinned = Pinned::to(LOAD);
        load::closed(target, CONNECTIONS, options.span() / 3)?;
        let before = cpu_us();
        let load = load::closed(target, CONNECTIONS, options.span())?;
        self.cpu.push((cpu_us() - before) as f64 / load.latencies.len().max(1) as f64);
        self.rates.push(load.per_second());
        Ok(())
    }
}

fn one(options: &Options, subject: &Subject) -> Result<Vec<Line>, Failure> {
    let pinned = Pinned::to(SERVERS);
    let platform = Platform::start(options, &Setup::of(&[&subject.function]))?;
    platform.deploy("single", &subject.function)?;
    platform.deploy("many", &subject.function)?;
    let many = platform.set_concurrency("many", CONNECTIONS as u32)?;
    let rivals = [Rival::serverless_offline(options, subject), Rival::functions_framework(options, subject)];
    drop(pinned);
    let mut sides: [Side; 4] = Default::default();
    for round in 0..options.rounds {
        for turn in 0..sides.len() {
            let which = if round % 2 == 0 { turn } else { sides.len() - 1 - turn };
            match which {
                0 => sides[0].round(options, &platform.greeting("single"), || platform.cpu_us())?,
                1 if many => sides[1].round(options, &platform.greeting("many"), || platform.cpu_us())?,
                1 => {}
                _ => {
                    if let Ok(rival) = &rivals[which - 2] {
                        sides[which].round(options, &rival.target, || rival.cpu_us())?;
                    }
                }
            }
        }
    }
    let [single, many, offline, framework] = &sides;
    let missing = |index: usize| rivals[index].as_ref().err().map_or("", |Failure(text)| text.as_str());
    let mut lines = Vec::new();
    let marks = [(8.0, 15.0), (2.0, 4.0)];
    for (way, ours) in [("an instance each", single), ("one instance", many)] {
        if ours.rates.is_empty() {
            continue;
        }
        for (index, other) in [offline, framework].into_iter().enumerate() {
            let line = Line::new("7", format!("warm {}, {way}", subject.name)).ours(median(&ours.rates), "/s");
            let line = line.beside(RIVALS[index], median(&other.rates)).cpu(median(&ours.cpu), median(&other.cpu));
            let line = line.marks(Mark::AtLeast(marks[index].0), Mark::AtLeast(marks[index].1));
            let first = missing(index).lines().next().unwrap_or_default();
            let line = if first.is_empty() { line } else { line.note(format!("no comparator: {first}")) };
            lines.push(line.note(format!("16 connections; rounds {}", range(&ours.rates))));
        }
    }
    Ok(lines)
}
