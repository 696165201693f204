//! Is a payload JSON? Without building it in memory, and with the words of the parser that AWS uses (Jackson) for the
//! frequent faults; rare ones are said in our own words.

use serde::de::IgnoredAny;
use std::fmt;

const VALUE_WORDS: &str = "(JSON String, Number, Array, Object or token 'null', 'true' or 'false')";
/// Characters of a wrong token in a text.
const TOKEN_CHARS_MAX: usize = 256;

/// What is wrong with a payload, and where.
#[derive(Debug, PartialEq, Eq)]
pub struct Fault {
    text: String,
    line: usize,
    column: usize,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}\n at [Source: REDACTED (`StreamReadFeature.INCLUDE_SOURCE_IN_LOCATION` disabled); line: {}, \
             column: {}]",
            self.text, self.line, self.column
        )
    }
}

/// Checks syntax and UTF-8.
pub fn check(payload: &[u8]) -> Result<(), Fault> {
    let syntax = serde_json::from_slice::<IgnoredAny>(payload).err();
    let encoding = std::str::from_utf8(payload).err().map(|error| error.valid_up_to());
    match (syntax, encoding) {
        (None, None) => Ok(()),
        (None, Some(offset)) => Err(in_text(payload, offset)),
        (Some(error), encoding) => {
            let offset = offset_of(payload, error.line(), error.column());
            match encoding {
                // Outside of texts a wrong byte is just a wrong character, and the syntax has noticed it.
                Some(earlier) if earlier < offset => Err(in_text(payload, earlier)),
                Some(_) | None => Err(syntax_fault(payload, offset, &error)),
            }
        }
    }
}

fn in_text(payload: &[u8], offset: usize) -> Fault {
    let byte = payload.get(offset).copied().unwrap_or(0);
    // The parser has taken the byte when it complains.
    fault(payload, offset + 1, format!("Invalid UTF-8 start byte 0x{byte:x}"))
}

fn syntax_fault(payload: &[u8], offset: usize, error: &serde_json::Error) -> Fault {
    let Some(byte) = payload.get(offset).filter(|_| !error.is_eof()) else {
        return fault(payload, payload.len(), "Unexpected end-of-input".to_owned());
    };
    let is_token = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_' || *b == b'$';
    let start = payload[..offset].iter().rposition(|b| !is_token(b)).map_or(0, |before| before + 1);
    if is_token(byte) && payload[start].is_ascii_alphabetic() {
        let token: Vec<u8> =
            payload[start..].iter().take_while(|b| is_token(b)).take(TOKEN_CHARS_MAX).copied().collect();
        let text = format!("Unrecognized token '{}': was expecting {VALUE_WORDS}", String::from_utf8_lossy(&token));
        return fault(payload, start + token.len(), text);
    }
    let character = match byte {
        0..=31 | 127..=159 => format!("(CTRL-CHAR, code {byte})"),
        byte => format!("'{}' (code {byte})", char::from(*byte)),
    };
    fault(payload, offset, format!("Unexpected character ({character}): expected a valid value {VALUE_WORDS}"))
}

/// A fault at a byte offset, told as line and column from 1.
fn fault(payload: &[u8], offset: usize, text: String) -> Fault {
    let before = &payload[..offset.min(payload.len())];
    let line = 1 + before.iter().filter(|b| **b == b'\n').count();
    let column = 1 + before.iter().rev().take_while(|b| **b != b'\n').count();
    Fault { text, line, column }
}

/// Lines and columns count from 1; a column of 0 is the end of the line before.
fn offset_of(payload: &[u8], line: usize, column: usize) -> usize {
    let starts = payload.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(index, _)| index + 1);
    let start = std::iter::once(0).chain(starts).nth(line.saturating_sub(1)).unwrap_or(payload.len());
    (start + column).saturating_sub(1).min(payload.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_text(payload: &[u8], want: &str) {
        let got = check(payload).err().map(|fault| fault.to_string().replace('\n', " ")).unwrap_or_default();
        let source = "at [Source: REDACTED (`StreamReadFeature.INCLUDE_SOURCE_IN_LOCATION` disabled); ";
        assert_eq!(got.replace(source, "at "), want, "{payload:?}");
    }

    #[test]
    fn faults() {
        for fine in [&b"{}"[..], b" [1, \"\xc3\xa4\"] ", b"null", b"\"x\"", b"1e3"] {
            check_text(fine, "");
        }
        // Both recorded on AWS.
        check_text(b"\"\x87\"", "Invalid UTF-8 start byte 0x87  at line: 1, column: 3]");
        check_text(
            b"\x99",
            "Unexpected character ((CTRL-CHAR, code 153)): expected a valid value (JSON String, Number, Array, Object or token 'null', 'true' or 'false')  at line: 1, column: 1]",
        );
        check_text(
            b"hello",
            "Unrecognized token 'hello': was expecting (JSON String, Number, Array, Object or token 'null', 'true' or 'false')  at line: 1, column: 6]",
        );
        check_text(b"{\"a\":\n", "Unexpected end-of-input  at line: 2, column: 1]");
    }

    proptest::proptest! {
        #[test]
        fn agrees_with_the_parser(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..40)) {
            let fine = serde_json::from_slice::<serde_json::Value>(&bytes).is_ok();
            let checked = check(&bytes).is_ok();
            // Numbers too large for a value are still JSON.
            proptest::prop_assert!(checked || !fine);
        }

        #[test]
        fn never_panics(text in "[\\[\\]{}\",:0-9a-z\\\\ \n]{0,40}") {
            if let Err(fault) = check(text.as_bytes()) {
                let _ = fault.to_string();
            }
        }
    }
}
