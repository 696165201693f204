//! CPU time per warm invocation: the launcher's and the daemon's own, and apart from it the guest's.

use crate::Failure;
use crate::options::Options;
use crate::plan::Subject;
use crate::platform::Platform;
use crate::process::Process;
use std::collections::BTreeMap;

/// The figures of one subject, nanoseconds per invocation. The clock of `/proc` steps by 10 ms: over 10,000
/// invocations that is 1 µs each.
pub struct Processor {
    /// `python`, for example.
    pub subject: &'static str,
    /// User and system time of launcher and daemon.
    pub platform_ns: u64,
    /// User and system time of everything in sandboxes.
    pub guest_ns: u64,
    /// Over how many invocations.
    pub invocations: usize,
}

/// Measures on one connection, one invocation after the other.
pub fn measure(options: &Options, platform: &Platform, subjects: &[Subject]) -> Result<Vec<Processor>, Failure> {
    subjects.iter().map(|subject| platform.with(subject, || one(options, platform, subject))).collect()
}

fn one(options: &Options, platform: &Platform, subject: &Subject) -> Result<Processor, Failure> {
    eprintln!("CPU time: {}", subject.name);
    let mut invoker = platform.connect()?;
    invoker.invoke(subject.name)?;
    let (own, guests) = platform.processes();
    for _ in 0..options.processor_invocations {
        invoker.invoke(subject.name)?;
    }
    let (own_after, guests_after) = platform.processes();
    let per_invocation = |spent_us: u64| spent_us * 1_000 / options.processor_invocations.max(1) as u64;
    Ok(Processor {
        subject: subject.name,
        platform_ns: per_invocation(spent_us(&own, &own_after)),
        guest_ns: per_invocation(spent_us(&guests, &guests_after)),
        invocations: options.processor_invocations,
    })
}

/// CPU time between two looks, of the processes that were there at both.
fn spent_us(before: &[Process], after: &[Process]) -> u64 {
    let before: BTreeMap<u32, u64> = before.iter().map(|process| (process.pid, process.cpu_us)).collect();
    let spent = after.iter().filter_map(|process| Some(process.cpu_us.saturating_sub(*before.get(&process.pid)?)));
    spent.sum()
}
