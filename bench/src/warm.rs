//! Warm invocations: latency on one connection, throughput on sixteen, beside a plain HTTP server with the handler.

use crate::Failure;
use crate::figures::Latencies;
use crate::options::Options;
use crate::plain::Plain;
use crate::plan::Subject;
use crate::platform::Platform;
use std::time::{Duration, Instant};

/// Connections of the throughput measurement.
pub const CONNECTIONS: usize = 16;
/// Invocations that are not measured, before each series.
const WARM_UP: usize = 50;

/// The figures of one subject.
pub struct Warm {
    /// `python`, for example.
    pub subject: &'static str,
    /// Through the Lambda API.
    pub ours: Side,
    /// The plain server.
    pub plain: Side,
}

/// What is measured of each.
#[derive(Default)]
pub struct Side {
    /// One connection, one request after the other.
    pub latencies: Latencies,
    /// Answers per second on sixteen connections, round by round.
    pub per_second: Vec<u64>,
}

/// Sends one request and says how long it took.
type Ask<'a> = Box<dyn FnMut() -> Result<Duration, Failure> + Send + 'a>;
/// Opens a connection.
type Connect<'a> = &'a (dyn Fn() -> Result<Ask<'a>, Failure> + Sync);

/// Measures in rounds; who begins alternates.
pub fn measure(options: &Options, platform: &Platform, subjects: &[Subject]) -> Result<Vec<Warm>, Failure> {
    subjects.iter().map(|subject| platform.with(subject, || one(options, platform, subject))).collect()
}

fn one(options: &Options, platform: &Platform, subject: &Subject) -> Result<Warm, Failure> {
    eprintln!("warm invocations: {}", subject.name);
    let server = Plain::start(subject)?;
    let ours = || -> Result<Ask, Failure> {
        let mut invoker = platform.connect()?;
        Ok(Box::new(move || invoker.invoke(subject.name).map(|(_, _, took)| took)))
    };
    let plain = || -> Result<Ask, Failure> {
        let mut asker = server.connect()?;
        Ok(Box::new(move || asker.ask()))
    };
    let mut warm = Warm { subject: subject.name, ours: Side::default(), plain: Side::default() };
    for round in 0..options.rounds {
        if round % 2 == 0 {
            warm.ours.round(options, &ours)?;
            warm.plain.round(options, &plain)?;
        } else {
            warm.plain.round(options, &plain)?;
            warm.ours.round(options, &ours)?;
        }
    }
    Ok(warm)
}

impl Side {
    fn round(&mut self, options: &Options, connect: Connect) -> Result<(), Failure> {
        let mut ask = connect()?;
        for _ in 0..WARM_UP {
            ask()?;
        }
        let samples: Vec<Duration> = (0..options.warm_per_round).map(|_| ask()).collect::<Result<_, _>>()?;
        self.latencies.add(&samples);
        self.per_second.push(throughput(connect, Duration::from_millis(options.throughput_ms))?);
        Ok(())
    }
}

/// Answers per second on [`CONNECTIONS`] connections. A first, short run is not counted: it starts the instances.
fn throughput(connect: Connect, duration: Duration) -> Result<u64, Failure> {
    drive(connect, duration / 4)?;
    let begun = Instant::now();
    let answers = drive(connect, duration)?;
    let took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
    Ok(answers * 1_000 / took_ms)
}

fn drive(connect: Connect, duration: Duration) -> Result<u64, Failure> {
    let deadline = Instant::now() + duration;
    let client = move || -> Result<u64, Failure> {
        let mut ask = connect()?;
        let mut answers = 0;
        while Instant::now() < deadline {
            ask()?;
            answers += 1;
        }
        Ok(answers)
    };
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CONNECTIONS).map(|_| scope.spawn(client)).collect();
        let joined =
            clients.into_iter().map(|c| c.join().unwrap_or_else(|_| Err(Failure("a client panicked".to_owned()))));
        joined.sum()
    })
}
