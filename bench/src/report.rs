//! What is shown: one table for people, one JSON file for comparisons over time.

use crate::Failure;
use crate::cold::Cold;
use crate::figures::{Latencies, Summary, percentile};
use crate::options::Options;
use crate::plan::MEMORY_MB;
use crate::processor::Processor;
use crate::warm::{CONNECTIONS, Side, Warm};
use serde_json::{Value, json};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// All figures of a run.
pub struct Report {
    /// Cold starts.
    pub cold: Vec<Cold>,
    /// Warm invocations.
    pub warm: Vec<Warm>,
    /// CPU time.
    pub processor: Vec<Processor>,
    rounds: usize,
}

impl Report {
    /// An empty one.
    pub fn new(options: &Options) -> Report {
        Report { cold: Vec::new(), warm: Vec::new(), processor: Vec::new(), rounds: options.rounds }
    }

    /// The table.
    pub fn table(&self) -> String {
        let mut text = format!("\n{}\n", machine());
        let _ = writeln!(
            text,
            "{} rounds; p50 is the median of the rounds' medians (least to most), p99 is over all samples",
            self.rounds
        );
        let _ = writeln!(text, "\nCold start at {MEMORY_MB} MB, ms until the answer");
        let _ = writeln!(
            text,
            "{:<8} {:<30} {:<30} {:>10} {:>16}",
            "", "tidegate p50, p99", "runc run p50, p99", "ratio p50", "runc ended p50"
        );
        for cold in &self.cold {
            let (ours, runc) = (cold.ours.summary(), cold.runc.summary());
            let ended = cold.runc_ended.summary().map_or("-".to_owned(), |s| ms(s.p50_us));
            let ratio = ratio(ours.map(|s| s.p50_us), runc.map(|s| s.p50_us));
            let _ =
                writeln!(text, "{:<8} {:<30} {:<30} {ratio:>10} {ended:>16}", cold.subject, in_ms(ours), in_ms(runc));
        }
        let _ = writeln!(text, "\nWarm invocation on one connection, µs");
        let _ =
            writeln!(text, "{:<8} {:<30} {:<30} {:>10}", "", "tidegate p50, p99", "plain server p50, p99", "ratio p50");
        for warm in &self.warm {
            let (ours, plain) = (warm.ours.latencies.summary(), warm.plain.latencies.summary());
            let ratio = ratio(ours.map(|s| s.p50_us), plain.map(|s| s.p50_us));
            let _ = writeln!(text, "{:<8} {:<30} {:<30} {ratio:>10}", warm.subject, in_us(ours), in_us(plain));
        }
        let _ = writeln!(text, "\nWarm invocations per second on {CONNECTIONS} connections, median of the rounds");
        let _ = writeln!(text, "{:<8} {:>12} {:>14} {:>10}", "", "tidegate", "plain server", "ratio");
        for warm in &self.warm {
            let (ours, plain) = (percentile(&warm.ours.per_second, 50), percentile(&warm.plain.per_second, 50));
            let _ = writeln!(
                text,
                "{:<8} {:>12} {:>14} {:>10}",
                warm.subject,
                ours.unwrap_or(0),
                plain.unwrap_or(0),
                ratio(ours, plain)
            );
        }
        let _ = writeln!(text, "\nCPU time per warm invocation, µs");
        let _ = writeln!(text, "{:<8} {:>18} {:>8}", "", "launcher + daemon", "guest");
        for one in &self.processor {
            let _ = writeln!(text, "{:<8} {:>18} {:>8}", one.subject, us(one.platform_ns), us(one.guest_ns));
        }
        text
    }

    /// Writes `<seconds since 1970>.json` into the folder.
    pub fn write(&self, folder: &Path) -> Result<PathBuf, Failure> {
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let path = folder.join(format!("{now_s}.json"));
        let written = fs::create_dir_all(folder).and_then(|()| fs::write(&path, format!("{:#}\n", self.json(now_s))));
        written.map_err(Failure::during(format!("cannot write {}", path.display())))?;
        Ok(path)
    }

    fn json(&self, now_s: u64) -> Value {
        let cold = self.cold.iter().map(|c| {
            json!({"subject": c.subject, "tidegate": latencies(&c.ours), "runc": latencies(&c.runc),
                "runc_ended": latencies(&c.runc_ended)})
        });
        let warm =
            self.warm.iter().map(|w| json!({"subject": w.subject, "tidegate": side(&w.ours), "plain": side(&w.plain)}));
        let processor = self.processor.iter().map(|p| {
            json!({"subject": p.subject, "platform_ns": p.platform_ns, "guest_ns": p.guest_ns, "invocations": p.invocations})
        });
        json!({
            "time_s": now_s, "machine": machine(), "rounds": self.rounds, "memory_mb": MEMORY_MB,
            "cold": cold.collect::<Vec<_>>(), "warm": warm.collect::<Vec<_>>(),
            "processor": processor.collect::<Vec<_>>(),
        })
    }
}

fn side(side: &Side) -> Value {
    json!({"latencies": latencies(&side.latencies), "per_second": side.per_second})
}

fn latencies(latencies: &Latencies) -> Value {
    latencies.summary().map_or(Value::Null, |s| {
        json!({"p50_us": s.p50_us, "p50_least_us": s.p50_least_us, "p50_most_us": s.p50_most_us, "p99_us": s.p99_us,
            "samples": s.samples})
    })
}

fn in_ms(summary: Option<Summary>) -> String {
    let show =
        |s: Summary| format!("{} ({} to {}), {}", ms(s.p50_us), ms(s.p50_least_us), ms(s.p50_most_us), ms(s.p99_us));
    summary.map_or("-".to_owned(), show)
}

fn in_us(summary: Option<Summary>) -> String {
    let show = |s: Summary| format!("{} ({} to {}), {}", s.p50_us, s.p50_least_us, s.p50_most_us, s.p99_us);
    summary.map_or("-".to_owned(), show)
}

/// Microseconds as milliseconds with one decimal.
fn ms(us: u64) -> String {
    format!("{}.{}", us / 1_000, us % 1_000 / 100)
}

/// Nanoseconds as microseconds with one decimal.
fn us(ns: u64) -> String {
    ms(ns)
}

/// Ours over the other's, two decimals.
fn ratio(ours: Option<u64>, other: Option<u64>) -> String {
    match (ours, other) {
        (Some(ours), Some(other)) if other > 0 => {
            let hundredths = ours * 100 / other;
            format!("{}.{:02}", hundredths / 100, hundredths % 100)
        }
        _ => "-".to_owned(),
    }
}

/// The machine in one line: figures mean nothing without it.
fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
        line.split_once(':').map_or(String::new(), |(_, value)| value.trim().to_owned())
    };
    let processor = field(&read("/proc/cpuinfo"), "model name");
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = field(&read("/proc/meminfo"), "MemTotal");
    format!("{processor}, {cores} cores, {memory}, Linux {}", read("/proc/sys/kernel/osrelease").trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_text() {
        assert_eq!(ms(12_345), "12.3");
        assert_eq!(ms(99), "0.0");
        assert_eq!(ratio(Some(150), Some(100)), "1.50");
        assert_eq!(ratio(Some(1), Some(300)), "0.00");
        assert_eq!(ratio(Some(1), Some(0)), "-");
        assert_eq!(ratio(None, Some(1)), "-");
    }
}
