//! What is shown: one table for people, one JSON file for comparisons over time.

use crate::Failure;
use crate::options::Options;
use serde_json::{Value, json};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// A mark to reach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Mark {
    /// Less is better.
    AtMost(f64),
    /// More is better.
    AtLeast(f64),
}

impl Mark {
    fn is_met(self, value: f64) -> bool {
        match self {
            Mark::AtMost(most) => value <= most,
            Mark::AtLeast(least) => value >= least,
        }
    }

    fn value(self) -> f64 {
        match self {
            Mark::AtMost(value) | Mark::AtLeast(value) => value,
        }
    }
}

/// One line of the table.
#[derive(Debug, Clone)]
pub struct Line {
    row: &'static str,
    measure: String,
    unit: &'static str,
    ours: Option<f64>,
    comparator: Option<f64>,
    /// What the comparator is.
    beside: String,
    /// What is held against the marks: ours over the comparator's, or ours alone.
    judged: Option<f64>,
    is_ratio: bool,
    must: Option<Mark>,
    aim: Option<Mark>,
    /// CPU time per operation, microseconds.
    cpu_us: [Option<f64>; 2],
    note: String,
}

impl Line {
    /// A line without figures.
    pub fn new(row: &'static str, measure: impl Into<String>) -> Line {
        Line {
            row,
            measure: measure.into(),
            unit: "",
            ours: None,
            comparator: None,
            beside: String::new(),
            judged: None,
            is_ratio: false,
            must: None,
            aim: None,
            cpu_us: [None, None],
            note: String::new(),
        }
    }

    /// The platform's figure.
    pub fn ours(mut self, value: Option<f64>, unit: &'static str) -> Line {
        (self.ours, self.unit) = (value, unit);
        self
    }

    /// The comparator's name and figure; the ratio is held against the marks.
    pub fn beside(mut self, name: impl Into<String>, value: Option<f64>) -> Line {
        (self.beside, self.comparator) = (name.into(), value);
        self.judged = self.ours.zip(value).filter(|(_, value)| *value > 0.0).map(|(ours, value)| ours / value);
        self.is_ratio = true;
        self
    }

    /// Holds the platform's figure itself against the marks, whatever the comparator's is.
    pub fn alone(mut self) -> Line {
        (self.judged, self.is_ratio) = (self.ours, false);
        self
    }

    /// What must be reached, and what is aimed at.
    pub fn marks(mut self, must: Mark, aim: Mark) -> Line {
        (self.must, self.aim) = (Some(must), Some(aim));
        self
    }

    /// A mark without an aim beyond it.
    pub fn must(mut self, must: Mark) -> Line {
        self.must = Some(must);
        self
    }

    /// CPU time per operation, microseconds: ours and the comparator's.
    pub fn cpu(mut self, ours: Option<f64>, comparator: Option<f64>) -> Line {
        self.cpu_us = [ours, comparator];
        self
    }

    /// Adds a remark.
    pub fn note(mut self, text: impl AsRef<str>) -> Line {
        if !text.as_ref().is_empty() {
            let separator = if self.note.is_empty() { "" } else { "; " };
            self.note = format!("{}{separator}{}", self.note, text.as_ref());
        }
        self
    }

    /// `aim`, `must`, `NO`, or `-` where there is nothing to hold against a mark.
    pub fn reached(&self) -> &'static str {
        let Some(judged) = self.judged else { return "-" };
        match (self.must, self.aim) {
            (_, Some(aim)) if aim.is_met(judged) => "aim",
            (Some(must), _) if must.is_met(judged) => "must",
            (None, None) => "-",
            _ => "NO",
        }
    }

    fn shown(&self, value: Option<f64>) -> String {
        match value {
            Some(value) if self.is_ratio => ratio(value),
            Some(value) => format!("{} {}", figure(value), self.unit),
            None => "-".to_owned(),
        }
    }

    /// The line without the rest of the table.
    pub fn short(&self) -> String {
        let [_, measure, ours, comparator, beside, judged, must, aim, reached, ..] = self.cells();
        format!("{measure}: {ours}, {beside} {comparator}; {judged} (must {must}, aim {aim}): {reached}")
    }

    fn cells(&self) -> [String; 11] {
        let amount = |value: Option<f64>| value.map_or("-".to_owned(), |v| format!("{} {}", figure(v), self.unit));
        let cpu = |value: Option<f64>| value.map_or("-".to_owned(), figure);
        [
            self.row.to_owned(),
            self.measure.clone(),
            amount(self.ours),
            amount(self.comparator),
            self.beside.clone(),
            self.shown(self.judged),
            self.shown(self.must.map(Mark::value)),
            self.shown(self.aim.map(Mark::value)),
            self.reached().to_owned(),
            cpu(self.cpu_us[0]),
            cpu(self.cpu_us[1]),
        ]
    }

    fn json(&self) -> Value {
        json!({
            "row": self.row, "measure": self.measure, "unit": self.unit, "ours": self.ours,
            "comparator": self.comparator, "beside": self.beside, "judged": self.judged, "is_ratio": self.is_ratio,
            "must": self.must.map(Mark::value), "aim": self.aim.map(Mark::value), "reached": self.reached(),
            "cpu_us": self.cpu_us[0], "comparator_cpu_us": self.cpu_us[1], "note": self.note,
        })
    }
}

/// All lines of a run.
pub struct Table {
    /// In the order of the rows.
    pub lines: Vec<Line>,
    rounds: usize,
    quick: bool,
}

const TITLES: [&str; 11] =
    ["row", "measure", "ours", "comparator", "which", "ratio", "must", "aim", "reached", "CPU µs/op", "comparator's"];

impl Table {
    /// An empty one.
    pub fn new(options: &Options) -> Table {
        Table { lines: Vec::new(), rounds: options.rounds, quick: options.quick }
    }

    /// The table, and below it the remarks.
    pub fn text(&self) -> String {
        let quick = if self.quick { ", --quick: do not quote" } else { "" };
        let mut text = format!("\n{}\n{} rounds, medians over rounds{quick}\n\n", machine(), self.rounds);
        let mut rows = vec![TITLES.map(str::to_owned)];
        rows.extend(self.lines.iter().map(Line::cells));
        let width = |column: usize| rows.iter().map(|cells| cells[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..TITLES.len()).map(width).collect();
        for cells in &rows {
            for (cell, width) in cells.iter().zip(&widths) {
                let _ = write!(text, "{cell:<width$}  ");
            }
            text.truncate(text.trim_end().len());
            text.push('\n');
        }
        text.push('\n');
        for line in self.lines.iter().filter(|line| !line.note.is_empty()) {
            let _ = writeln!(text, "{} {}: {}", line.row, line.measure, line.note);
        }
        text
    }

    /// Writes `<seconds since 1970>.json` and the same as `latest.json` into the folder.
    pub fn write(&self, folder: &Path) -> Result<PathBuf, Failure> {
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let lines: Vec<Value> = self.lines.iter().map(Line::json).collect();
        let value = json!({
            "time_s": now_s, "machine": machine(), "rounds": self.rounds, "quick": self.quick, "lines": lines,
        });
        let text = format!("{value:#}\n");
        let path = folder.join(format!("{now_s}.json"));
        let written = fs::create_dir_all(folder)
            .and_then(|()| fs::write(&path, &text))
            .and_then(|()| fs::write(folder.join("latest.json"), &text));
        written.map_err(Failure::during(format!("cannot write {}", path.display())))?;
        Ok(path)
    }
}

/// A ratio as people say it: `1/15`, `2.4`, `31`.
fn ratio(value: f64) -> String {
    if value > 0.0 && value < 0.5 { format!("1/{}", figure(1.0 / value)) } else { figure(value) }
}

/// Three digits that count.
fn figure(value: f64) -> String {
    match value.abs() {
        small if small < 10.0 => {
            let text = format!("{value:.2}");
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
        small if small < 100.0 => {
            let text = format!("{value:.1}");
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
        small if small < 1_000_000.0 => format!("{value:.0}"),
        _ => format!("{:.2} M", value / 1_000_000.0),
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
    let load = read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned();
    let kernel = read("/proc/sys/kernel/osrelease");
    format!("{processor}, {cores} cores, {memory}, Linux {}, load average {load}", kernel.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_text() {
        for (value, text) in [(1.0 / 15.0, "1/15"), (0.6, "0.6"), (2.0, "2"), (31.46, "31.5"), (0.0, "0")] {
            assert_eq!(ratio(value), text);
        }
        for (value, text) in [(1.234, "1.23"), (12.0, "12"), (1234.5, "1234"), (5_000_000.0, "5.00 M")] {
            assert_eq!(figure(value), text);
        }
    }

    fn check(ours: f64, comparator: Option<f64>, expected: &str) {
        let line = Line::new("1", "cold").ours(Some(ours), "ms").beside("runc", comparator);
        let line = line.marks(Mark::AtMost(1.0 / 15.0), Mark::AtMost(1.0 / 30.0));
        assert_eq!(line.reached(), expected);
    }

    #[test]
    fn marks_are_held_against_ratios() {
        check(2.0, Some(40.0), "must");
        check(2.0, Some(60.0), "aim");
        check(2.0, Some(10.0), "NO");
        check(2.0, None, "-");
        let alone = Line::new("5", "burst").ours(Some(2.5), "s").beside("published", Some(10.0)).alone();
        assert_eq!(alone.marks(Mark::AtMost(3.0), Mark::AtMost(1.0)).reached(), "must");
        let faster = Line::new("7", "warm").ours(Some(90.0), "/s").beside("x", Some(10.0));
        assert_eq!(faster.marks(Mark::AtLeast(8.0), Mark::AtLeast(15.0)).reached(), "must");
    }
}
