//! Memory of a thousand idle Python instances, and of as many plain `python3` processes with the same modules.
//!
//! Shared pages count once: the sum of the proportional sizes of all processes but the launcher and the daemon, zygotes
//! included. What the kernel holds beside that (slabs, page tables, stacks, per-CPU memory) is in the remark.

use crate::Failure;
use crate::figures::median;
use crate::load;
use crate::options::Options;
use crate::plan::{self, Function};
use crate::platform::{Platform, Setup};
use crate::process;
use crate::table::{Line, Mark};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const INSTANCES: usize = 1_000;
const INSTANCES_QUICK: usize = 100;
const MEMORY_MB: u32 = 128;
/// So long may it take until all instances are there.
const FILL_LIMIT: Duration = Duration::from_secs(60);
/// Plain processes that start at the same time.
const AT_ONCE: usize = 8;
const END_LIMIT: Duration = Duration::from_secs(10);

/// Row 8.
pub fn measure(options: &Options) -> Result<Vec<Line>, Failure> {
    process::raise_open_files();
    let function = plan::python(options)?.other(options, "sleeping", "app.handler");
    let number = options.amount(INSTANCES, INSTANCES_QUICK);
    let platform = Platform::start(options, &Setup::of(&[&function]))?;
    let (mut ours, mut plain, mut kernel, mut plain_kernel) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..options.rounds {
        let name = format!("idle-{round}");
        platform.deploy_with(&name, &function, MEMORY_MB)?;
        platform.rest()?;
        let (guests, before) = (platform.guests().len(), process::kernel_bytes());
        let modules = fill(&platform, &name, number)?;
        platform.rest()?;
        let pss: u64 = platform.guests().iter().map(|process| process::pss_bytes(process.pid)).sum();
        ours.push(mb(pss) / number as f64);
        kernel.push(mb(process::kernel_bytes().saturating_sub(before)) / number as f64);
        platform.delete_and_wait(&name, guests)?;
        let before = process::kernel_bytes();
        let processes = Processes::start(options, &function, &modules, number)?;
        plain.push(mb(processes.0.iter().map(|child| process::pss_bytes(child.id())).sum()) / number as f64);
        plain_kernel.push(mb(process::kernel_bytes().saturating_sub(before)) / number as f64);
    }
    let line = Line::new("8", format!("memory of {number} idle Python, each")).ours(median(&ours), "MB");
    let line = line.beside("python3, same modules", median(&plain)).marks(Mark::AtMost(0.25), Mark::AtMost(0.125));
    let (kernel, plain_kernel) = (median(&kernel).unwrap_or(0.0), median(&plain_kernel).unwrap_or(0.0));
    Ok(vec![line.note(format!("the kernel's own beside it: {kernel:.2} MB each, plain {plain_kernel:.2} MB each"))])
}

fn mb(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Makes so many instances and returns the modules that one of them has imported.
fn fill(platform: &Platform, name: &str, number: usize) -> Result<String, Failure> {
    // Each has a first process of its own beside the guest.
    let wanted = platform.guests().len() + 2 * number;
    platform.warm_up(name, number)?;
    let there = || (platform.guests().len() >= wanted).then_some(());
    let lacking = || platform.failure(&format!("there were never {number} instances at a time"));
    process::poll_until(FILL_LIMIT, there).ok_or_else(lacking)?;
    platform.rest()?;
    let target = platform.target(name, r#"{"modules":true}"#, "began");
    let (_, bodies) = load::staggered(&target, 1, Duration::ZERO)?;
    let answer: Value = bodies.first().and_then(|body| serde_json::from_str(body).ok()).unwrap_or_default();
    let names = answer["modules"].as_array().into_iter().flatten().filter_map(Value::as_str);
    // What is the shim's own is not to be had on the host.
    let names: Vec<&str> = names.filter(|name| !name.starts_with("_tidegate") && *name != "app").collect();
    Ok(names.join(","))
}

/// Plain processes that wait. Dropping them ends them.
struct Processes(Vec<Child>);

impl Processes {
    fn start(options: &Options, function: &Function, modules: &str, number: usize) -> Result<Processes, Failure> {
        let mut all = Processes(Vec::new());
        let program = function.interpreter.clone().unwrap_or_default();
        while all.0.len() < number {
            let from = all.0.len();
            for _ in 0..AT_ONCE.min(number - from) {
                let mut command = Command::new(&program);
                command.arg(options.sources.join("plain/idle.py")).arg(modules);
                command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
                all.0.push(command.spawn().map_err(Failure::during("cannot start python3"))?);
            }
            for child in &mut all.0[from..] {
                let mut line = String::new();
                let output = child.stdout.as_mut().map(|output| BufReader::new(output).read_line(&mut line));
                if !matches!(output, Some(Ok(_))) || line.trim() != "ready" {
                    return Err(Failure(format!("a plain python3 wrote {line:?}")));
                }
            }
        }
        Ok(all)
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // The end of its input ends it.
            drop(child.stdin.take());
        }
        for child in &mut self.0 {
            let _ = process::wait(child, END_LIMIT);
        }
    }
}
