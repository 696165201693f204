//! The rows of the table, one module for each kind of measurement.

pub mod burst;
pub mod churn;
pub mod cold;
pub mod decisions;
pub mod handlers;
pub mod memory;
pub mod parked;
pub mod proxy;
pub mod signed;
pub mod snapstart;
pub mod victim;

use crate::Failure;
use crate::options::Options;
use crate::table::Line;

/// A row: a number that people know it by, and how it is measured.
pub struct Row {
    /// The number in the table.
    pub number: &'static str,
    /// What it measures.
    pub title: &'static str,
    /// Measures; may give several lines.
    pub measure: fn(&Options) -> Result<Vec<Line>, Failure>,
}

/// All rows, in order.
pub const ALL: &[Row] = &[
    Row { number: "1", title: "cold start, Python", measure: cold::python },
    Row { number: "2", title: "cold start, static native bootstrap", measure: cold::native },
    Row { number: "3", title: "cold start, Node.js", measure: cold::nodejs },
    Row { number: "4", title: "create + invoke + destroy", measure: churn::measure },
    Row { number: "5", title: "0 to 1,000 concurrent executions", measure: burst::measure },
    Row { number: "6", title: "warm native handler beside nginx", measure: proxy::measure },
    Row { number: "7", title: "warm Python and Node.js handlers", measure: handlers::measure },
    Row { number: "8", title: "memory of idle Python instances", measure: memory::measure },
    Row { number: "9", title: "memory of parked invocations", measure: parked::measure },
    Row { number: "10", title: "routing and pool decisions", measure: decisions::measure },
    Row { number: "11", title: "a victim beside a CPU hog", measure: victim::measure },
    Row { number: "12", title: "what a signature costs", measure: signed::measure },
    Row { number: "13", title: "cold start with SnapStart", measure: snapstart::measure },
];
