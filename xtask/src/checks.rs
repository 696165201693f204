//! `cargo xtask ci`: everything that must hold before a change is taken.

use crate::steps::{Failure, cargo, run};
use crate::suites::{self, Selection};
use crate::tally::Summary;
use crate::{arrows, tidy};

/// Runs all checks, then all tests; a failure does not hide the later ones.
pub fn ci() -> Result<(), Failure> {
    let mut summary = Summary::default();
    summary.step("format", |_| run(cargo().args(["fmt", "--all", "--", "--check"])));
    summary.step("arrows", |_| arrows::arrows());
    summary.step("tidy", |_| tidy::tidy());
    summary
        .step("lints", |_| run(cargo().args(["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"])));
    suites::add_steps(&Selection::all(), &mut summary);
    summary.finish()
}
