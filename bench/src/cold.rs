//! Cold starts: from the request to the answer of a new instance, beside `runc run` of the same handler.

use crate::Failure;
use crate::figures::Latencies;
use crate::options::Options;
use crate::plan::Subject;
use crate::platform::Platform;
use crate::runc::Bundle;
use std::time::Duration;

/// The figures of one subject.
pub struct Cold {
    /// `python`, for example.
    pub subject: &'static str,
    /// Through the Lambda API, until the answer.
    pub ours: Latencies,
    /// `runc run`, until the answer; empty without runc.
    pub runc: Latencies,
    /// `runc run`, until it had ended.
    pub runc_ended: Latencies,
}

/// Measures in rounds; within a round the two alternate, and who begins alternates too.
pub fn measure(options: &Options, platform: &Platform, subjects: &[Subject]) -> Result<Vec<Cold>, Failure> {
    subjects.iter().map(|subject| platform.with(subject, || one(options, platform, subject))).collect()
}

fn one(options: &Options, platform: &Platform, subject: &Subject) -> Result<Cold, Failure> {
    eprintln!("cold starts: {}", subject.name);
    let mut cold = Cold {
        subject: subject.name,
        ours: Latencies::default(),
        runc: Latencies::default(),
        runc_ended: Latencies::default(),
    };
    let mut bundle =
        Bundle::possible().then(|| Bundle::make(&options.output, &options.sources, subject)).transpose()?;
    for round in 0..options.rounds {
        let (mut ours, mut answered, mut ended) = (Vec::new(), Vec::new(), Vec::new());
        for sample in 0..options.cold_per_round {
            let ours_first = (round + sample) % 2 == 0;
            if ours_first {
                ours.push(start(platform, subject, round * options.cold_per_round + sample)?);
            }
            if let Some(bundle) = &mut bundle {
                let run = bundle.run()?;
                answered.push(run.answered);
                ended.push(run.ended);
            }
            if !ours_first {
                ours.push(start(platform, subject, round * options.cold_per_round + sample)?);
            }
        }
        cold.ours.add(&ours);
        cold.runc.add(&answered);
        cold.runc_ended.add(&ended);
    }
    Ok(cold)
}

/// One cold start. The handler's own count proves that the instance was new.
fn start(platform: &Platform, subject: &Subject, sample: usize) -> Result<Duration, Failure> {
    platform.replace_instances(subject.name, sample)?;
    let (_, count, took) = platform.connect()?.invoke(subject.name)?;
    if count != 1 {
        return Err(Failure(format!(
            "{}: a start that should be cold met an instance with {count} invocations",
            subject.name
        )));
    }
    Ok(took)
}
