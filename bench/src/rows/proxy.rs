//! A warm native handler through the platform, and the same handler as a plain HTTP server behind nginx.
//!
//! Server and load have a core each. The latency that a way adds is its p50 less that of the plain server asked
//! directly, all on one connection.
//!
//! The handler is a custom runtime, in two forms: one that waits for the acknowledgement of its answer before it asks for
//! the next event, as most runtime clients do, and one that sends both in one write.

use crate::Failure;
use crate::figures::{Latencies, median, range};
use crate::load::{self, Target};
use crate::native::AHEAD;
use crate::nginx::Nginx;
use crate::options::Options;
use crate::plain::Plain;
use crate::plan::{self, EVENT, Function, GREETING};
use crate::platform::{Platform, Setup};
use crate::process::{self, Pinned};
use crate::table::{Line, Mark};

/// Connections of the throughput measurement.
pub const CONNECTIONS: usize = 16;
/// The cores of servers and of the load.
pub const SERVERS: usize = 0;
/// See [`SERVERS`].
pub const LOAD: usize = 1;

/// One way to the handler.
struct Way<'a> {
    target: Target,
    cpu_us: Box<dyn Fn() -> u64 + 'a>,
    latencies: Latencies,
    rates: Vec<f64>,
    cpu: Vec<f64>,
}

impl<'a> Way<'a> {
    fn new(target: Target, cpu_us: impl Fn() -> u64 + 'a) -> Way<'a> {
        let latencies = Latencies::default();
        Way { target, cpu_us: Box::new(cpu_us), latencies, rates: Vec::new(), cpu: Vec::new() }
    }

    fn round(&mut self, options: &Options) -> Result<(), Failure> {
        let _pinned = Pinned::to(LOAD);
        load::closed(&self.target, 1, options.span() / 10)?;
        self.latencies.add(&load::closed(&self.target, 1, options.span() / 2)?.latencies);
        load::closed(&self.target, CONNECTIONS, options.span() / 3)?;
        let before = (self.cpu_us)();
        let load = load::closed(&self.target, CONNECTIONS, options.span())?;
        self.cpu.push(((self.cpu_us)() - before) as f64 / load.latencies.len().max(1) as f64);
        self.rates.push(load.per_second());
        Ok(())
    }
}

/// Row 6.
pub fn measure(options: &Options) -> Result<Vec<Line>, Failure> {
    let subject = plan::native(options)?;
    let pinned = Pinned::to(SERVERS);
    let platform = Platform::start(options, &Setup::of(&[&subject.function]))?;
    platform.deploy("native", &subject.function)?;
    let plain = Plain::start(&subject)?;
    let nginx = Nginx::start(&options.output, plain.address());
    drop(pinned);
    platform.deploy(AHEAD, &Function { handler: AHEAD, ..subject.function.clone() })?;
    let mut ours = Way::new(platform.greeting("native"), || platform.cpu_us());
    let mut ahead = Way::new(platform.greeting(AHEAD), || platform.cpu_us());
    let direct = Target::post(plain.address(), "/", EVENT, GREETING);
    let mut direct = Way::new(direct, || process::cpu_us(plain.pid()));
    let mut proxied = nginx.as_ref().ok().map(|nginx| {
        let target = Target::post(nginx.address(), "/", EVENT, GREETING);
        Way::new(target, || process::cpu_us(nginx.pid()) + process::cpu_us(plain.pid()))
    });
    for round in 0..options.rounds {
        let mut ways: Vec<&mut Way> = [&mut ours, &mut ahead, &mut direct].into_iter().chain(&mut proxied).collect();
        if round % 2 == 1 {
            ways.reverse();
        }
        for way in ways {
            way.round(options)?;
        }
    }
    let note = nginx.as_ref().err().map_or(String::new(), |Failure(text)| format!("no comparator: {text}"));
    let mut lines = lines("warm native", &ours, &direct, proxied.as_ref(), &note);
    lines.extend(self::lines("the same, sending ahead", &ahead, &direct, proxied.as_ref(), &note));
    Ok(lines)
}

fn lines(what: &str, ours: &Way, direct: &Way, proxied: Option<&Way>, note: &str) -> Vec<Line> {
    let other = |figure: fn(&Way) -> Option<f64>| proxied.and_then(figure);
    let rate = |way: &Way| median(&way.rates);
    let cpu = |way: &Way| median(&way.cpu);
    let throughput = Line::new("6", format!("{what}, 16 connections")).ours(rate(ours), "/s");
    let throughput = throughput.beside("nginx + plain server", other(rate)).cpu(cpu(ours), other(cpu));
    let throughput = throughput.marks(Mark::AtLeast(0.6), Mark::AtLeast(1.0)).note(note);
    let throughput = throughput.note(format!("without signatures; rounds {}", range(&ours.rates)));
    let throughput = throughput.note(format!("the plain server alone: {:.0} /s", rate(direct).unwrap_or(0.0)));
    let p50 = |way: &Way| way.latencies.p50_us();
    let added = |way: &Way| p50(way).zip(p50(direct)).map(|(through, direct)| through - direct);
    let latency = Line::new("6", format!("{what}, added p50, 1 connection")).ours(added(ours), "µs");
    let latency = latency.beside("nginx + plain server", proxied.and_then(added));
    let latency = latency.marks(Mark::AtMost(2.0), Mark::AtMost(1.0)).note(note);
    let through = [Some(ours), proxied, Some(direct)].map(|way| way.and_then(p50).unwrap_or(0.0));
    let [ours, proxied, direct] = through;
    vec![throughput, latency.note(format!("p50 through us {ours:.1}, nginx {proxied:.1}, direct {direct:.1} µs"))]
}
