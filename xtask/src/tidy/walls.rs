//! Walls between crates that the compiler does not hold by itself.

use super::rust_text::{code_only, word_offsets};
use super::{Checkout, line_of};
use crate::workspace::File;

/// The crate that may use `unsafe`.
const UNSAFE_CRATE: &str = "sandbox";
/// The crate that knows the public status codes.
const STATUS_CRATE: &str = "gateway";
/// Crates that may read environment variables.
const ENVIRONMENT_CRATES: &[&str] = &["server", "cli", "xtask", "bench"];

pub fn check(checkout: &Checkout, found: &mut Vec<String>) {
    package_names(checkout, found);
    crate_roots(checkout, found);
    for file in checkout.rust().filter(|file| file.is_source()) {
        let code = code_only(&file.text);
        let name = file.crate_name().unwrap_or_default();
        if name != STATUS_CRATE && name != "bench" {
            let say = "HTTP status codes belong to `gateway`";
            forbidden(checkout, file, &code, ("status-code", "StatusCode", say), found);
        }
        if !ENVIRONMENT_CRATES.contains(&name) {
            let say = "environment variables are read in `server` and `cli` only";
            for word in ["env::var", "env::var_os", "env::vars", "env::vars_os"] {
                forbidden(checkout, file, &code, ("environment", word, say), found);
            }
        }
        repeated_causes(file, &code, found);
    }
}

/// The folder's name is the package's.
fn package_names(checkout: &Checkout, found: &mut Vec<String>) {
    for file in checkout.files.iter().filter(|file| file.path.ends_with("/Cargo.toml")) {
        let folder = file.path.rsplit('/').nth(1).unwrap_or_default();
        let name =
            file.text.lines().find_map(|line| line.strip_prefix("name = ")).unwrap_or_default().trim_matches('"');
        if name != folder {
            found.push(format!("{}: the package is called `{name}`, its folder `{folder}`", file.path));
        }
    }
}

/// Every crate root forbids `unsafe`, but the one that may use it; and opens by saying what the crate is.
fn crate_roots(checkout: &Checkout, found: &mut Vec<String>) {
    for file in checkout.rust().filter(|file| is_crate_root(&file.path)) {
        let forbids = code_only(&file.text).contains("#![forbid(unsafe_code)]");
        if !forbids && file.crate_name() != Some(UNSAFE_CRATE) {
            found.push(format!("{}: lacks #![forbid(unsafe_code)]", file.path));
        }
        if !file.text.starts_with("//!") {
            found.push(format!("{}: opens by saying which wall it is (//!)", file.path));
        }
    }
}

fn is_crate_root(path: &str) -> bool {
    path.ends_with("/src/lib.rs") || path.ends_with("/src/main.rs") || path.contains("/src/bin/")
}

fn forbidden(checkout: &Checkout, file: &File, code: &str, rule: (&str, &str, &str), found: &mut Vec<String>) {
    let (rule, word, say) = rule;
    for at in word_offsets(code, word) {
        if !checkout.excepted(rule, &file.path) {
            found.push(format!("{}:{}: `{word}`: {say}", file.path, line_of(code, at)));
        }
    }
}

/// An error's text does not repeat its cause: whoever prints it prints the chain.
fn repeated_causes(file: &File, code: &str, found: &mut Vec<String>) {
    let starts: Vec<usize> = code.match_indices("#[error(").map(|(at, _)| at).collect();
    for (index, &at) in starts.iter().enumerate() {
        let end = starts.get(index + 1).copied().unwrap_or_else(|| enum_end(code, at));
        // The variant is read in the blanked code, its text in the source: same offsets.
        let close = code[at..end].find(")]").map_or(end, |close| at + close);
        let (text, variant) = (&file.text[at..close], &code[close..end]);
        if repeats_cause(text, variant) {
            found.push(format!("{}:{}: an error's text does not repeat its cause", file.path, line_of(code, at)));
        }
    }
}

/// Where the last variant's enum ends at the latest: the next brace at the start of a line.
fn enum_end(code: &str, from: usize) -> usize {
    code[from..].find("\n}").map_or(code.len(), |end| from + end)
}

fn repeats_cause(text: &str, variant: &str) -> bool {
    let has_cause = ["#[source]", "#[from]", "source:"].iter().any(|mark| variant.contains(mark));
    let named = ["{source", "{err}", "{error}", "{cause"].iter().any(|mark| text.contains(mark));
    let first = variant.find('(').map(|open| variant[open + 1..].trim_start());
    let first_is_cause = first.is_some_and(|field| field.starts_with("#[source]") || field.starts_with("#[from]"));
    has_cause && (named || (first_is_cause && text.contains("{0")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: usize) {
        let file = File { path: "crates/x/src/lib.rs".to_owned(), text: text.to_owned() };
        let mut found = Vec::new();
        repeated_causes(&file, &code_only(text), &mut found);
        assert_eq!(found.len(), expected, "{text}");
    }

    #[test]
    fn causes_in_error_texts() {
        check("enum E {\n #[error(\"cannot open {path}\")]\n Open { path: P, #[source] source: io::Error },\n}", 0);
        check("enum E {\n #[error(\"cannot open: {source}\")]\n Open { #[source] source: io::Error },\n}", 1);
        check("enum E {\n #[error(\"cannot open: {0}\")]\n Open(#[source] io::Error),\n}", 1);
        check("enum E {\n #[error(\"cannot open {0}\")]\n Open(String, #[source] io::Error),\n}", 0);
        check("enum E {\n #[error(\"{0} is wrong\")]\n A(String),\n #[error(\"b\")]\n B(#[from] io::Error),\n}", 0);
        check("enum E {\n #[error(\"bad {error}\")]\n A { error: String },\n}\nstruct S { source: String }", 0);
    }
}
