//! Memory of invocations that wait: ten instances run a thousand each, and the daemon holds them all.

use crate::Failure;
use crate::figures::{median, range};
use crate::load::{self, Target};
use crate::options::Options;
use crate::plain::Plain;
use crate::plan::{self, EVENT, Subject};
use crate::platform::{Platform, Setup};
use crate::process;
use crate::table::{Line, Mark};
use std::time::Duration;

const PARKED: usize = 10_000;
const PARKED_QUICK: usize = 1_000;
const IN_AN_INSTANCE: u32 = 1_000;
/// Memory that has not grown for so long does not grow any more.
const STILL: Duration = Duration::from_millis(500);
const STILL_LIMIT: Duration = Duration::from_secs(30);

/// Row 9.
pub fn measure(options: &Options) -> Result<Vec<Line>, Failure> {
    // Each parked connection takes a file of ours; besides, we need a few.
    let files = usize::try_from(process::raise_open_files()).unwrap_or(usize::MAX);
    let number = options.amount(PARKED, PARKED_QUICK).min(files.saturating_sub(200));
    let (mut ours, mut bare, mut guests) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        let parked = through_us(options, number)?;
        ours.push(parked.daemon);
        guests.push(parked.guests);
        bare.push(on_bare_hyper(options, number)?);
    }
    let line = Line::new("9", format!("memory of {number} parked, each")).ours(median(&ours), "KB");
    let line = line.beside("bare hyper connection", median(&bare)).marks(Mark::AtMost(3.0), Mark::AtMost(1.5));
    let line = line.note(format!("the daemon's, rounds {}; bare {}", range(&ours), range(&bare)));
    Ok(vec![line.note(format!("in the guests besides {:.1} KB each", median(&guests).unwrap_or(0.0)))])
}

struct Parked {
    daemon: f64,
    guests: f64,
}

fn through_us(options: &Options, number: usize) -> Result<Parked, Failure> {
    let function = plan::nodejs(options)?.other(options, "parked", "index.handler");
    let setup = Setup::of(&[&function]).limit("concurrent_executions", 20_000).limit("waiting_per_version", 20_000);
    // What is parked runs on when its client has gone; the end of the server need not wait for it. All connections
    // are opened before the first of them sends a request.
    let setup = setup.limit("drain_ms", 100).limit("header_read_ms", 120_000);
    let platform = Platform::start(options, &setup.limit("connections", 20_000))?;
    platform.deploy("parked", &function)?;
    if !platform.set_concurrency("parked", IN_AN_INSTANCE)? {
        return Err(Failure("the platform does not offer several invocations per instance".to_owned()));
    }
    let target = platform.target("parked", r#"{"seconds":0}"#, "done");
    load::closed(&target, 1, Duration::from_millis(1))?;
    platform.rest()?;
    let own = platform.own();
    let daemon = own.last().copied().unwrap_or(0);
    let guests = || platform.guests().iter().map(|process| process::pss_bytes(process.pid)).sum::<u64>();
    let before = (process::pss_bytes(daemon), guests());
    let target = platform.target("parked", r#"{"seconds":200}"#, "done");
    let look = || Ok((still(|| process::pss_bytes(daemon)), guests()));
    let after = load::parked(&target, number, look).map_err(|Failure(text)| platform.failure(&text))?;
    let each = |after: u64, before: u64| after.saturating_sub(before) as f64 / 1_024.0 / number as f64;
    Ok(Parked { daemon: each(after.0, before.0), guests: each(after.1, before.1) })
}

fn on_bare_hyper(options: &Options, number: usize) -> Result<f64, Failure> {
    let program = options.programs.join("parked_hyper").to_string_lossy().into_owned();
    let subject = Subject { server: vec![program], ..plan::native(options)? };
    let server = Plain::start(&subject)?;
    let before = process::pss_bytes(server.pid());
    let target = Target::post(server.address(), "/", EVENT, "");
    let after = load::parked(&target, number, || Ok(still(|| process::pss_bytes(server.pid()))))?;
    Ok(after.saturating_sub(before) as f64 / 1_024.0 / number as f64)
}

/// The figure, once it has stopped changing.
fn still(figure: impl Fn() -> u64) -> u64 {
    let (mut last, mut since) = (figure(), std::time::Instant::now());
    let settled = process::poll_until(STILL_LIMIT, || {
        let now = figure();
        if now.abs_diff(last) > 64 << 10 {
            (last, since) = (now, std::time::Instant::now());
        }
        (since.elapsed() >= STILL).then_some(now)
    });
    settled.unwrap_or(last)
}
