//! `cargo xtask tidy`: the rules of the house that a machine can read.
//!
//! Where a rule has an exception, `xtask/exceptions.txt` names it with its reason. An exception that is no longer
//! needed fails as well, so the list can only stay true.

mod docs;
mod rust_text;
mod shape;
mod walls;
mod words;

use crate::steps::Failure;
use crate::workspace::{self, File};
use std::cell::Cell;
use std::fs;
use std::path::PathBuf;

/// The checkout as the checks see it.
struct Checkout {
    root: PathBuf,
    files: Vec<File>,
    exceptions: Vec<Exception>,
}

/// A line of the exceptions file: `rule subject reason`.
struct Exception {
    rule: String,
    subject: String,
    used: Cell<bool>,
}

impl Checkout {
    /// Is this allowed by name? Marks the exception as needed.
    fn excepted(&self, rule: &str, subject: &str) -> bool {
        let found = self.exceptions.iter().find(|e| e.rule == rule && e.subject == subject);
        found.inspect(|e| e.used.set(true)).is_some()
    }

    /// Our Rust files.
    fn rust(&self) -> impl Iterator<Item = &File> {
        self.files.iter().filter(|file| file.extension() == "rs")
    }
}

const EXCEPTIONS: &str = "xtask/exceptions.txt";

/// Runs every check and prints each violation as `path:line: what`.
pub fn tidy() -> Result<(), Failure> {
    let root = workspace::root();
    let files = workspace::files(&root)?;
    let exceptions = exceptions(&fs::read_to_string(root.join(EXCEPTIONS)).unwrap_or_default())?;
    let checkout = Checkout { root, files, exceptions };
    let mut found = Vec::new();
    walls::check(&checkout, &mut found);
    shape::check(&checkout, &mut found);
    words::check(&checkout, &mut found);
    docs::check(&checkout, &mut found);
    for unused in checkout.exceptions.iter().filter(|e| !e.used.get()) {
        found.push(format!("{EXCEPTIONS}: `{} {}` is no longer needed; remove the line", unused.rule, unused.subject));
    }
    if found.is_empty() {
        println!("tidy: {} files", checkout.files.len());
        return Ok(());
    }
    found.sort();
    for violation in &found {
        println!("{violation}");
    }
    Err(Failure(format!("{} violations", found.len())))
}

fn exceptions(text: &str) -> Result<Vec<Exception>, Failure> {
    let mut exceptions = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let mut parts = line.splitn(3, ' ');
        let (Some(rule), Some(subject), Some(_reason)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(Failure(format!("{EXCEPTIONS}:{}: a line is `rule subject reason`", index + 1)));
        };
        exceptions.push(Exception { rule: rule.to_owned(), subject: subject.to_owned(), used: Cell::new(false) });
    }
    Ok(exceptions)
}

/// The line number of a byte offset, from 1.
fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes()[..offset.min(text.len())].iter().filter(|&&b| b == b'\n').count() + 1
}
