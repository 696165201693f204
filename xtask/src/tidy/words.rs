//! Words: names that say nothing, and marks of unfinished work.

use super::rust_text::{code_only, word_offsets};
use super::{Checkout, line_of};
use crate::workspace::File;
use std::path::Path;

/// No type and no file has one of these as a word of its name.
const EMPTY_WORDS: &[&str] = &["manager", "helper", "helpers", "util", "utils", "common", "misc", "data", "info"];
/// Marks of unfinished work; in two parts, so that this file does not hold them.
const UNFINISHED: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME"), concat!("X", "XX")];
const UNFINISHED_MACROS: &[&str] = &[concat!("todo", "!"), concat!("unimplemented", "!")];

pub fn check(checkout: &Checkout, found: &mut Vec<String>) {
    for file in &checkout.files {
        if file.path == "Cargo.lock" {
            continue;
        }
        file_name(file, found);
        unfinished(file, found);
        if ["rs", "py", "mjs"].contains(&file.extension()) {
            type_names(file, found);
        }
    }
}

fn file_name(file: &File, found: &mut Vec<String>) {
    let stem = Path::new(&file.path).file_stem().and_then(|s| s.to_str()).unwrap_or("");
    if let Some(word) = words(stem).into_iter().find(|word| EMPTY_WORDS.contains(&word.as_str())) {
        found.push(format!("{}: a file name does not say `{word}`", file.path));
    }
}

fn type_names(file: &File, found: &mut Vec<String>) {
    let rust = file.extension() == "rs";
    let code = if rust { code_only(&file.text) } else { file.text.clone() };
    let keywords: &[&str] = if rust { &["struct", "enum", "trait", "type", "union", "mod"] } else { &["class"] };
    for keyword in keywords {
        for at in word_offsets(&code, keyword) {
            // The name of an associated type is chosen by the trait, which may not be ours.
            if *keyword == "type" && code[..at].ends_with("    ") {
                continue;
            }
            let name: String = code[at + keyword.len()..]
                .trim_start_matches([' ', '\t'])
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect();
            if let Some(word) = words(&name).into_iter().find(|word| EMPTY_WORDS.contains(&word.as_str())) {
                found.push(format!("{}:{}: `{name}`: a name does not say `{word}`", file.path, line_of(&code, at)));
            }
        }
    }
}

fn unfinished(file: &File, found: &mut Vec<String>) {
    let marks = UNFINISHED.iter().flat_map(|mark| word_offsets(&file.text, mark).map(move |at| (at, mark)));
    let macros = UNFINISHED_MACROS.iter().flat_map(|name| file.text.match_indices(name).map(move |(at, _)| (at, name)));
    for (at, mark) in marks.chain(macros) {
        found.push(format!("{}:{}: unfinished work is not committed: {mark}", file.path, line_of(&file.text, at)));
    }
}

/// The words of a snake, kebab or camel name, in lower case.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut before_is_lower = false;
    for character in name.chars() {
        let starts = character.is_uppercase() && before_is_lower;
        if starts || !character.is_alphanumeric() {
            words.push(String::new());
        }
        if character.is_alphanumeric()
            && let Some(last) = words.last_mut()
        {
            last.extend(character.to_lowercase());
        }
        before_is_lower = character.is_lowercase() || character.is_numeric();
    }
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_names() {
        assert_eq!(words("FunctionManager"), ["function", "manager"]);
        assert_eq!(words("my_data-file2Info"), ["my", "data", "file2", "info"]);
        assert_eq!(words("Database"), ["database"]);
        assert_eq!(words("_HTTPError_"), ["httperror"]);
        assert!(words("").is_empty());
    }

    fn check_source(path: &str, text: &str, expected: &[&str]) {
        let file = File { path: path.to_owned(), text: text.to_owned() };
        let mut found = Vec::new();
        file_name(&file, &mut found);
        type_names(&file, &mut found);
        unfinished(&file, &mut found);
        assert_eq!(found, expected);
    }

    #[test]
    fn names_and_marks() {
        check_source("a/metadata.rs", "struct Metadata; // a Manager\nlet data = info;", &[]);
        check_source("a/log_util.rs", "", &["a/log_util.rs: a file name does not say `util`"]);
        check_source("a/b.rs", "enum HttpInfo {}", &["a/b.rs:1: `HttpInfo`: a name does not say `info`"]);
        let mark = format!("\n# {}: later", UNFINISHED[0]);
        let said = format!("a/b.py:2: unfinished work is not committed: {}", UNFINISHED[0]);
        check_source("a/b.py", &mark, &[&said]);
    }
}
