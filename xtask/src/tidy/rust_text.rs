//! Rust source with comments and literals blanked out, so that plain searches see code only.

/// A copy of `source` of the same length: comments and the insides of string and character literals become
/// spaces, line ends stay. Offsets and line numbers are those of the source.
pub fn code_only(source: &str) -> String {
    let mut lexer = Lexer { bytes: source.as_bytes(), at: 0, out: source.as_bytes().to_vec() };
    lexer.run();
    // Whole literals and comments are blanked, so no character is cut; the fallback never happens.
    String::from_utf8(lexer.out).unwrap_or_default()
}

struct Lexer<'a> {
    bytes: &'a [u8],
    at: usize,
    out: Vec<u8>,
}

impl Lexer<'_> {
    fn run(&mut self) {
        while self.at < self.bytes.len() {
            let rest = &self.bytes[self.at..];
            if rest.starts_with(b"//") {
                let end = self.find_from(self.at, b"\n").unwrap_or(self.bytes.len());
                self.blank_to(end);
            } else if rest.starts_with(b"/*") {
                let end = self.block_comment_end();
                self.blank_to(end);
            } else if let Some(hashes) = self.raw_string_hashes() {
                self.raw_string(hashes);
            } else if rest[0] == b'"' {
                self.string();
            } else if rest[0] == b'\'' {
                self.character_or_lifetime();
            } else if is_word(rest[0]) {
                self.word();
            } else {
                self.at += 1;
            }
        }
    }

    /// Skips a whole identifier or number, so that the `r` of `for` never looks like the start of a raw string.
    fn word(&mut self) {
        while self.at < self.bytes.len() && is_word(self.bytes[self.at]) {
            self.at += 1;
        }
    }

    /// Nested, as Rust's block comments are.
    fn block_comment_end(&self) -> usize {
        let mut depth = 0usize;
        let mut at = self.at;
        while at < self.bytes.len() {
            match &self.bytes[at..] {
                [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
                [b'*', b'/', ..] if depth == 1 => return at + 2,
                [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
                _ => at += 1,
            }
        }
        self.bytes.len()
    }

    /// For `r"`, `r#"`, `br##"` and `cr"` at the current place: the number of `#`.
    fn raw_string_hashes(&self) -> Option<usize> {
        let rest = &self.bytes[self.at..];
        let prefix = [&b"r"[..], b"br", b"cr"].into_iter().find(|p| rest.starts_with(p))?.len();
        let hashes = rest[prefix..].iter().take_while(|&&b| b == b'#').count();
        (rest.get(prefix + hashes) == Some(&b'"')).then_some(hashes)
    }

    fn raw_string(&mut self, hashes: usize) {
        let open = self.find_from(self.at, b"\"").unwrap_or(self.at) + 1;
        let closing: Vec<u8> = std::iter::once(b'"').chain(std::iter::repeat_n(b'#', hashes)).collect();
        let close = self.find_from(open, &closing).unwrap_or(self.bytes.len());
        self.at = open;
        self.blank_to(close);
        self.at = (close + closing.len()).min(self.bytes.len());
    }

    fn string(&mut self) {
        let open = self.at + 1;
        let mut close = open;
        while close < self.bytes.len() && self.bytes[close] != b'"' {
            close += if self.bytes[close] == b'\\' { 2 } else { 1 };
        }
        self.at = open;
        self.blank_to(close.min(self.bytes.len()));
        self.at = (close + 1).min(self.bytes.len());
    }

    /// `'a'` and `'\n'` are literals, `'a` alone is a lifetime.
    fn character_or_lifetime(&mut self) {
        let open = self.at + 1;
        let width = match self.bytes.get(open) {
            Some(b'\\') => self.find_from(open + 2, b"'").map(|close| close - open),
            Some(&first) => Some(character_width(first)).filter(|w| self.bytes.get(open + w) == Some(&b'\'')),
            None => None,
        };
        self.at = open;
        if let Some(width) = width {
            self.blank_to(open + width);
            self.at += 1;
        }
    }

    fn blank_to(&mut self, end: usize) {
        for byte in &mut self.out[self.at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        self.at = end;
    }

    fn find_from(&self, from: usize, what: &[u8]) -> Option<usize> {
        let rest = self.bytes.get(from..)?;
        rest.windows(what.len()).position(|window| window == what).map(|found| from + found)
    }
}

/// Bytes of a UTF-8 character, from its first byte.
fn character_width(first: u8) -> usize {
    match first {
        0xF0.. => 4,
        0xE0.. => 3,
        0xC0.. => 2,
        _ => 1,
    }
}

/// Part of an identifier?
pub fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// The offsets at which `word` stands in `code` as a whole word; `word` may hold `::`.
pub fn word_offsets<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let bytes = code.as_bytes();
    code.match_indices(word).map(|(at, _)| at).filter(move |&at| {
        let before = at.checked_sub(1).is_none_or(|i| !is_word(bytes[i]));
        let after = bytes.get(at + word.len()).is_none_or(|&b| !is_word(b));
        before && after
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(source: &str, expected: &str) {
        assert_eq!(code_only(source), expected, "{source}");
    }

    #[test]
    fn blanks_comments_and_literals() {
        check("a // b {\nc", "a       \nc");
        check("a /* b /* c */ d */ e", "a                   e");
        check(r#"f("{\"}", 'x', '\'', '{')"#, r#"f("    ", ' ', '  ', ' ')"#);
        check("r#\"a\"}\"# b", "r#\"   \"# b");
        check("fn f<'a>(x: &'a str) -> &'a str { 'l: loop {} }", "fn f<'a>(x: &'a str) -> &'a str { 'l: loop {} }");
        check("for\"x\"", "for\" \"");
        check("b'{' b\"{\" br\"{\"", "b' ' b\" \" br\" \"");
        check("'é' \"ü\"", "'  ' \"  \"");
        check("r#type r\"", "r#type r\"");
    }

    #[test]
    fn never_fails_on_broken_source() {
        for source in ["\"", "'", "'\\", "/*", "r#\"", "\"\\", "'\\'", "b'", "*/", "é'"] {
            assert_eq!(code_only(source).len(), source.len(), "{source}");
        }
    }

    #[test]
    fn whole_words() {
        let found: Vec<usize> = word_offsets("fn fnord fn_ fn", "fn").collect();
        assert_eq!(found, [0, 13]);
    }
}
