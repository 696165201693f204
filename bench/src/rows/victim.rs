//! One function's p99 alone, and beside another function that burns all the CPU time it gets.

use crate::Failure;
use crate::figures::Latencies;
use crate::load;
use crate::options::Options;
use crate::plan;
use crate::platform::{Platform, Setup};
use crate::table::{Line, Mark};
use std::time::Duration;

/// Requests to the victim per second, whether or not earlier answers are there.
const PER_SECOND: u32 = 100;
const CONNECTIONS: usize = 8;

/// Row 11.
pub fn measure(options: &Options) -> Result<Vec<Line>, Failure> {
    let subject = plan::python(options)?;
    let hog = subject.other(options, "burning", "app.handler");
    let platform = Platform::start(options, &Setup::of(&[&subject.function, &hog]))?;
    platform.deploy("victim", &subject.function)?;
    platform.deploy("hog", &hog)?;
    let span = options.span() * 2;
    let (mut alone, mut beside) = (Latencies::default(), Latencies::default());
    let victim = platform.greeting("victim");
    // As many burning instances as there are cores, each with a whole CPU.
    let hogs = std::thread::available_parallelism().map_or(1, usize::from);
    let burn = format!(r#"{{"seconds":{:.1}}}"#, span.as_secs_f64() + 1.0);
    let burning = platform.target("hog", &burn, "");
    load::closed(&platform.target("hog", r#"{"seconds":0.2}"#, ""), hogs, Duration::from_millis(1))?;
    load::open(&victim, PER_SECOND, span / 2, CONNECTIONS)?;
    for _ in 0..options.rounds {
        platform.rest()?;
        alone.add(&load::open(&victim, PER_SECOND, span, CONNECTIONS)?.latencies);
        let under_load = std::thread::scope(|scope| {
            let hog = scope.spawn(|| load::at_once(&burning, hogs));
            // The hogs' start is over, their end is not near.
            std::thread::sleep(Duration::from_millis(500));
            let load = load::open(&victim, PER_SECOND, span, CONNECTIONS);
            let burned = hog.join().unwrap_or_else(|_| Err(Failure("the hog's client panicked".to_owned())));
            burned.and(load)
        })?;
        beside.add(&under_load.latencies);
    }
    let ms = |us: Option<f64>| us.map(|us| us / 1e3);
    let line = Line::new("11", "p99 beside a CPU hog").ours(ms(beside.p99_of_rounds_us()), "ms");
    let line = line.beside("the same alone", ms(alone.p99_of_rounds_us())).must(Mark::AtMost(2.0));
    let p50 = [&beside, &alone].map(|latencies| latencies.p50_us().unwrap_or(0.0) / 1e3);
    let line = line.note(format!("p50 {:.2} ms beside, {:.2} ms alone; {hogs} burning instances", p50[0], p50[1]));
    Ok(vec![line.note(format!("Python, {PER_SECOND} requests/s, latency from when each was due"))])
}
