//! Documents that say what is there: paths that exist, promises with tests that exist.

use super::Checkout;
use super::rust_text::word_offsets;
use crate::workspace::File;
use std::collections::BTreeSet;
use std::path::Path;

/// The document whose tables pair promises with tests.
const SPECIFICATION: &str = "docs/specification.md";
/// What a promise says instead of a test, honestly.
const PENDING: &str = "test pending";
/// The map stays short.
const MAP: (&str, usize) = ("ARCHITECTURE.md", 300);

pub fn check(checkout: &Checkout, found: &mut Vec<String>) {
    let documents = checkout.files.iter().filter(|file| is_document(&file.path));
    for file in documents {
        paths(checkout, file, found);
        if file.path == MAP.0 && file.text.lines().count() >= MAP.1 {
            found.push(format!("{}: {} lines, fewer than {}", file.path, file.text.lines().count(), MAP.1));
        }
        if file.path == SPECIFICATION {
            promises(checkout, file, found);
        }
    }
}

fn is_document(path: &str) -> bool {
    path.ends_with(".md") && (!path.contains('/') || path.starts_with("docs/") || path.ends_with("/README.md"))
}

/// Every path in backticks and every relative link leads somewhere.
fn paths(checkout: &Checkout, file: &File, found: &mut Vec<String>) {
    let crates: BTreeSet<&str> = checkout.files.iter().filter_map(File::crate_name).collect();
    let folder = Path::new(&file.path).parent().unwrap_or(Path::new(""));
    for (number, line) in prose(&file.text) {
        for quoted in quoted(line) {
            if let Some(path) = path_in_checkout(quoted, &crates)
                && !checkout.root.join(&path).exists()
            {
                found.push(format!("{}:{number}: there is no `{quoted}`", file.path));
            }
        }
        for link in links(line) {
            if !checkout.root.join(folder).join(link).exists() {
                found.push(format!("{}:{number}: the link to {link} leads nowhere", file.path));
            }
        }
    }
}

/// The lines outside fenced blocks, numbered from 1.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        (!fenced && !fence).then_some((index + 1, line))
    })
}

/// What stands in backticks on a line.
fn quoted(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// The path below the root, if the text is one of ours: its first part is a folder of the checkout or a crate.
fn path_in_checkout(text: &str, crates: &BTreeSet<&str>) -> Option<String> {
    let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c));
    let (first, rest) = text.split_once('/')?;
    if !plain || rest.is_empty() {
        return None;
    }
    let folders = ["crates", "docs", "tests", "runtimes", "examples", "bench", "xtask", ".ci", ".cargo", ".config"];
    if folders.contains(&first) {
        return Some(text.to_owned());
    }
    crates.contains(first).then(|| format!("crates/{text}"))
}

/// Targets of Markdown links that are relative paths, without their `#` part.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| {
        let target = rest.split(')').next()?.split('#').next()?;
        (!target.is_empty() && !target.contains("://") && !target.starts_with("mailto:")).then_some(target)
    })
}

/// Every row of a table with the head `| promise | test |` names a test that exists, or says that there is none.
fn promises(checkout: &Checkout, file: &File, found: &mut Vec<String>) {
    let mut inside = false;
    for (number, line) in prose(&file.text) {
        let Some(cells) = line.trim().strip_prefix('|').and_then(|l| l.strip_suffix('|')) else {
            inside = false;
            continue;
        };
        let last = cells.rsplit('|').next().unwrap_or_default().trim();
        if last == "test" {
            inside = true;
        } else if inside && !last.starts_with("---") {
            promise(checkout, &format!("{}:{number}", file.path), last, found);
        }
    }
}

fn promise(checkout: &Checkout, place: &str, cell: &str, found: &mut Vec<String>) {
    let tests: Vec<&str> = quoted(cell).collect();
    if tests.is_empty() && !cell.contains(PENDING) {
        found.push(format!("{place}: a promise names its test, or says `{PENDING}`"));
    }
    for test in tests.into_iter().filter(|test| !exists(checkout, test)) {
        found.push(format!("{place}: there is no test `{test}`"));
    }
}

/// `name`, `file.py::name`, `file.py::Class::name`, `file.rs::name`, or the path of a script with a golden transcript.
fn exists(checkout: &Checkout, test: &str) -> bool {
    let parts: Vec<&str> = test.split("::").collect();
    let (file, names) = match parts.as_slice() {
        [path] if path.contains('/') => return checkout.root.join(path).exists(),
        [file, names @ ..] if file.contains('.') => (Some(*file), names),
        names => (None, names),
    };
    let [around @ .., name] = names else { return false };
    checkout.files.iter().filter(|f| file.is_none_or(|wanted| f.path.ends_with(wanted))).any(|f| {
        let (function, scope) = if f.extension() == "rs" { ("fn", "mod") } else { ("def", "class") };
        let code = matches!(f.extension(), "rs" | "py");
        code && defines(&f.text, function, name) && around.iter().all(|outer| defines(&f.text, scope, outer))
    })
}

fn defines(text: &str, keyword: &str, name: &str) -> bool {
    word_offsets(text, name).any(|at| text[..at].trim_end_matches(' ').ends_with(keyword))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_ours() {
        let crates = BTreeSet::from(["model", "gateway"]);
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(path_in_checkout(text, &crates).as_deref(), expected, "{text}");
        };
        check("gateway/src/invoke.rs", Some("crates/gateway/src/invoke.rs"));
        check("docs/specification.md", Some("docs/specification.md"));
        check("application/zip", None);
        check("/var/task", None);
        check("packages/<sha256>.zip", None);
        check("crates/*", None);
        check("model", None);
    }

    #[test]
    fn links_and_quotes() {
        let line = "see [a](docs/a.md#b), [c](https://d) and `e` or `f/g`";
        assert_eq!(links(line).collect::<Vec<_>>(), ["docs/a.md"]);
        assert_eq!(quoted(line).collect::<Vec<_>>(), ["e", "f/g"]);
        let text = "a\n```\n`x`\n```\nb";
        assert_eq!(prose(text).collect::<Vec<_>>(), [(1, "a"), (5, "b")]);
    }

    #[test]
    fn promises_name_tests() {
        let rust = File { path: "crates/a/src/b.rs".to_owned(), text: "fn cold_first() {}".to_owned() };
        let python =
            File { path: "tests/test_c.py".to_owned(), text: "class TestE:\n    def test_d(server):\n".to_owned() };
        let checkout = Checkout { root: "/nowhere".into(), files: vec![rust, python], exceptions: Vec::new() };
        let check = |cell: &str, expected: usize| {
            let text = format!("| promise | test |\n|---|---|\n| x | {cell} |\n\n| other | y |\n");
            let file = File { path: SPECIFICATION.to_owned(), text };
            let mut found = Vec::new();
            promises(&checkout, &file, &mut found);
            assert_eq!(found.len(), expected, "{cell}: {found:?}");
        };
        check("`cold_first`", 0);
        check("`b.rs::cold_first`, `test_c.py::test_d`", 0);
        check("`test_c.py::TestE::test_d`", 0);
        check("`test_c.py::TestF::test_d`", 1);
        check("test pending", 0);
        check("`test_c.py::cold_first`", 1);
        check("`cold`", 1);
        check("soon", 1);
    }
}
