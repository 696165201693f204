//! `cargo xtask arrows`: the crates' dependencies are those of the table in `ARCHITECTURE.md`, no more and no fewer.
//!
//! Normal and build dependencies count, of our own crates and of others; those of tests do not. A table that
//! also lists what is no longer used would let the arrow come back unseen, so that fails too.

use crate::steps::{Failure, capture, cargo};
use crate::workspace::root;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;

/// The head of the table, as its cells are written.
const HEAD: [&str; 4] = ["crate", "may depend on", "outside crates", "wall"];

/// What a crate depends on.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Arrows {
    ours: BTreeSet<String>,
    outside: BTreeSet<String>,
}

/// A row of the table.
struct Row {
    line: usize,
    arrows: Arrows,
    wall: String,
}

/// Compares; the failure names each line to change and what it must say.
pub fn arrows() -> Result<(), Failure> {
    let path = root().join("ARCHITECTURE.md");
    let map = fs::read_to_string(&path).map_err(|e| Failure(format!("cannot read {}: {e}", path.display())))?;
    let metadata = capture(cargo().args(["metadata", "--format-version", "1", "--no-deps"]))?;
    let metadata: Value = serde_json::from_str(&metadata).map_err(|e| Failure(format!("cargo metadata: {e}")))?;
    let table = table(&map)?;
    let actual = actual(&metadata);
    let differences = differences(&table, &actual);
    if differences.is_empty() {
        println!("arrows: {} crates as in ARCHITECTURE.md", actual.len());
        return Ok(());
    }
    Err(Failure(format!(
        "the dependencies are not those of ARCHITECTURE.md. A new arrow is a decision: change the table in the \
         same commit, or drop the dependency.\n{differences}"
    )))
}

/// The table of the map, by crate.
fn table(map: &str) -> Result<BTreeMap<String, Row>, Failure> {
    let mut rows = BTreeMap::new();
    let mut lines = map.lines().enumerate().skip_while(|(_, line)| cells(line).is_none_or(|cells| cells != HEAD));
    let Some((head_line, _)) = lines.next() else {
        return Err(Failure(format!("ARCHITECTURE.md has no table with the head | {} |", HEAD.join(" | "))));
    };
    for (index, line) in lines.skip(1) {
        let Some(cells) = cells(line) else { break };
        let [name, ours, outside, wall] = cells.as_slice() else {
            return Err(Failure(format!("ARCHITECTURE.md:{}: a row has four cells", index + 1)));
        };
        let arrows = Arrows { ours: names(ours), outside: names(outside) };
        rows.insert(plain(name), Row { line: index + 1, arrows, wall: (*wall).to_owned() });
    }
    if rows.is_empty() {
        return Err(Failure(format!("ARCHITECTURE.md:{}: the table is empty", head_line + 1)));
    }
    Ok(rows)
}

fn cells(line: &str) -> Option<Vec<&str>> {
    let inner = line.trim().strip_prefix('|')?.strip_suffix('|')?;
    Some(inner.split('|').map(str::trim).collect())
}

fn names(cell: &str) -> BTreeSet<String> {
    cell.split(',').map(plain).filter(|name| !name.is_empty() && name != "none").collect()
}

fn plain(name: &str) -> String {
    name.trim().trim_matches('`').to_owned()
}

/// What cargo knows, by crate. Our own crates are those that come from a path.
fn actual(metadata: &Value) -> BTreeMap<String, Arrows> {
    let mut crates = BTreeMap::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let mut arrows = Arrows::default();
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            if dependency["kind"].as_str() == Some("dev") {
                continue;
            }
            let name = dependency["name"].as_str().unwrap_or_default().to_owned();
            let side = if dependency["path"].is_string() { &mut arrows.ours } else { &mut arrows.outside };
            side.insert(name);
        }
        crates.insert(package["name"].as_str().unwrap_or_default().to_owned(), arrows);
    }
    crates
}

fn differences(table: &BTreeMap<String, Row>, actual: &BTreeMap<String, Arrows>) -> String {
    let mut text = String::new();
    for (name, arrows) in actual {
        match table.get(name) {
            None => {
                let _ =
                    writeln!(text, "new crate {name}; add to the table:\n  {}", row(name, arrows, "which wall it is"));
            }
            Some(known) if known.arrows != *arrows => {
                let _ = writeln!(text, "ARCHITECTURE.md:{}: {name}: {}", known.line, changes(&known.arrows, arrows));
                let _ = writeln!(text, "  to allow it, the line becomes\n  {}", row(name, arrows, &known.wall));
            }
            Some(_) => {}
        }
    }
    for (name, known) in table.iter().filter(|(name, _)| !actual.contains_key(*name)) {
        let _ = writeln!(text, "ARCHITECTURE.md:{}: there is no crate {name}; remove the line", known.line);
    }
    text
}

fn changes(known: &Arrows, actual: &Arrows) -> String {
    let mut parts = Vec::new();
    for (known, actual) in [(&known.ours, &actual.ours), (&known.outside, &actual.outside)] {
        parts.extend(actual.difference(known).map(|name| format!("new arrow to {name}")));
        parts.extend(known.difference(actual).map(|name| format!("no longer uses {name}")));
    }
    parts.join(", ")
}

fn row(name: &str, arrows: &Arrows, wall: &str) -> String {
    let list = |names: &BTreeSet<String>| names.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    format!("| `{name}` | {} | {} | {wall} |", list(&arrows.ours), list(&arrows.outside))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAP: &str = "# Map\n\n| crate | may depend on | outside crates | wall |\n|---|---|---|---|\n\
        | `model` | | serde, thiserror | words |\n| `store` | model | none | disk |\n\nmore\n";

    fn metadata(store: &str) -> Value {
        let text = format!(
            r#"{{"packages":[{{"name":"model","dependencies":[{{"name":"serde","kind":null}},
            {{"name":"thiserror","kind":null}},{{"name":"proptest","kind":"dev"}}]}},
            {{"name":"store","dependencies":[{store}]}}]}}"#
        );
        serde_json::from_str(&text).expect("metadata of the test")
    }

    fn check(store: &str, expected: &str) {
        let found = differences(&table(MAP).expect("the table"), &actual(&metadata(store)));
        assert_eq!(found.lines().next().unwrap_or(""), expected);
    }

    #[test]
    fn compares_both_ways() {
        let model = r#"{"name":"model","kind":null,"path":"/x"}"#;
        check(model, "");
        check("", "ARCHITECTURE.md:6: store: no longer uses model");
        check(&format!(r#"{model},{{"name":"tokio","kind":null}}"#), "ARCHITECTURE.md:6: store: new arrow to tokio");
        check(
            &format!(r#"{model},{{"name":"router","kind":"build","path":"/y"}}"#),
            "ARCHITECTURE.md:6: store: new arrow to router",
        );
    }

    #[test]
    fn crates_that_appear_or_vanish() {
        let table = table(MAP).expect("the table");
        let only_new = BTreeMap::from([("events".to_owned(), Arrows::default())]);
        let text = differences(&table, &only_new);
        assert!(text.starts_with("new crate events"), "{text}");
        assert!(text.contains("ARCHITECTURE.md:5: there is no crate model"), "{text}");
    }

    #[test]
    fn a_missing_table_is_said() {
        assert!(super::table("# Map\n").is_err());
    }
}
