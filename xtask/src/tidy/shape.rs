//! Sizes: files, functions, `main.rs`.

use super::rust_text::{code_only, word_offsets};
use super::{Checkout, line_of};

/// Lines of a source file.
const FILE_LINES_MAX: usize = 800;
/// Lines of a Rust function, from `fn` to its closing brace.
const FUNCTION_LINES_MAX: usize = 70;
/// Lines of a `main.rs`: a table of contents.
const MAIN_LINES_MAX: usize = 150;

pub fn check(checkout: &Checkout, found: &mut Vec<String>) {
    for file in checkout.files.iter().filter(|f| ["rs", "py", "mjs"].contains(&f.extension())) {
        let lines = file.text.lines().count();
        let most = if file.path.ends_with("/src/main.rs") { MAIN_LINES_MAX } else { FILE_LINES_MAX };
        if lines > most && !checkout.excepted("file-lines", &file.path) {
            found.push(format!("{}: {lines} lines, at most {most}", file.path));
        }
    }
    for file in checkout.rust() {
        let code = code_only(&file.text);
        for function in functions(&code) {
            let subject = format!("{}::{}", file.path, function.name);
            if function.lines > FUNCTION_LINES_MAX && !checkout.excepted("function-lines", &subject) {
                let Function { name, line, lines } = function;
                found.push(format!("{}:{line}: `{name}` has {lines} lines, at most {FUNCTION_LINES_MAX}", file.path));
            }
        }
    }
}

/// A function with a body.
#[derive(Debug, PartialEq, Eq)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// The line of its `fn`.
    pub line: usize,
    /// Lines from there to the closing brace.
    pub lines: usize,
}

/// The functions of a source whose comments and literals are blanked.
pub fn functions(code: &str) -> Vec<Function> {
    let mut functions = Vec::new();
    for at in word_offsets(code, "fn") {
        let after = code[at + 2..].trim_start();
        let name: String = after.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        // `fn(u8)` is a type.
        if name.is_empty() {
            continue;
        }
        if let Some(end) = body_end(code, at) {
            let line = line_of(code, at);
            functions.push(Function { name, line, lines: line_of(code, end) - line + 1 });
        }
    }
    functions
}

/// The offset of the brace that closes the body; `None` for a declaration without one.
fn body_end(code: &str, from: usize) -> Option<usize> {
    let mut brackets = 0usize;
    let mut braces = 0usize;
    for (offset, byte) in code.bytes().enumerate().skip(from) {
        match byte {
            b'(' | b'[' if braces == 0 => brackets += 1,
            b')' | b']' if braces == 0 => brackets = brackets.saturating_sub(1),
            b';' if braces == 0 && brackets == 0 => return None,
            b'{' => braces += 1,
            b'}' => {
                braces = braces.saturating_sub(1);
                if braces == 0 && brackets == 0 {
                    return Some(offset);
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_functions() {
        let source = "trait T {\n    fn a(&self);\n    fn b(&self, x: [u8; 4]) -> u8 {\n        if x { 1 } else { 2 }\n    }\n}\n\
            struct S(fn(u8) -> u8);\nfn c() { fn d() {\n} }\n";
        let found: Vec<(String, usize, usize)> =
            functions(&code_only(source)).into_iter().map(|f| (f.name, f.line, f.lines)).collect();
        let expected =
            [("b", 3, 3), ("c", 8, 2), ("d", 8, 2)].map(|(name, line, lines)| (name.to_owned(), line, lines));
        assert_eq!(found, expected);
    }
}
