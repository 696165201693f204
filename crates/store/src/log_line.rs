//! A log line as bytes: `<time>Z`, version, stream and text, tabs between, one line per record.

use model::log::LogLine;
use model::{FunctionName, Qualifier};
use std::io::Write;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::format_description::well_known::Rfc3339;
use time::macros::{datetime, format_description};

/// The most bytes of a text that are kept; the worker splits lines long before.
pub(crate) const TEXT_BYTES_MAX: usize = 1_048_576;

/// RFC 3339 in UTC, always 19 characters; behind it come the milliseconds.
const SECOND: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]");
/// Later times are cut to this one: RFC 3339 has four digits for the year.
const LATEST: OffsetDateTime = datetime!(9999-12-31 23:59:59 UTC);

/// Writes records. Most come within the second of the one before, whose text is kept.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    second: Option<u64>,
    text: String,
}

impl Writer {
    /// Appends a record and its line end to `out`.
    pub(crate) fn write(&mut self, out: &mut Vec<u8>, line: &LogLine) {
        let (second, mut millis) = (line.time_ms / 1_000, line.time_ms % 1_000);
        if second > LATEST.unix_timestamp() as u64 {
            millis = 999;
        }
        if self.second != Some(second) {
            let time = i64::try_from(second).ok().and_then(|s| OffsetDateTime::from_unix_timestamp(s).ok());
            self.text = time.unwrap_or(LATEST).format(SECOND).unwrap_or_default();
            self.second = Some(second);
        }
        out.extend_from_slice(self.text.as_bytes());
        // Writing to a Vec cannot fail.
        let _ = write!(out, ".{millis:03}Z\t{}\t", line.version);
        escape(out, &line.stream, true);
        out.push(b'\t');
        escape(out, &line.text[..line.text.floor_char_boundary(TEXT_BYTES_MAX)], false);
        out.push(b'\n');
    }
}

/// Reads a record without its line end; `None` if it is not one.
pub(crate) fn read(function: &FunctionName, record: &[u8]) -> Option<LogLine> {
    let record = String::from_utf8_lossy(record);
    let mut fields = record.splitn(4, '\t');
    let time = OffsetDateTime::parse(fields.next()?, &Rfc3339).ok()?;
    let version = match Qualifier::parse(fields.next()?) {
        Ok(Qualifier::Version(version)) => version,
        Ok(Qualifier::Alias(_)) | Err(_) => return None,
    };
    Some(LogLine {
        function: function.clone(),
        version,
        stream: unescape(fields.next()?).into(),
        time_ms: u64::try_from(time.unix_timestamp_nanos() / 1_000_000).ok()?,
        text: unescape(fields.next()?),
    })
}

fn escape(out: &mut Vec<u8>, text: &str, tabs: bool) {
    if !text.bytes().any(|byte| matches!(byte, b'\n' | b'\r' | b'\\') || (tabs && byte == b'\t')) {
        return out.extend_from_slice(text.as_bytes());
    }
    for byte in text.bytes() {
        match byte {
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\t' if tabs => out.extend_from_slice(b"\\t"),
            byte => out.push(byte),
        }
    }
}

fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, if c == '\\' { chars.next() } else { None }) {
            ('\\', Some('n')) => plain.push('\n'),
            ('\\', Some('r')) => plain.push('\r'),
            ('\\', Some('t')) => plain.push('\t'),
            ('\\', Some(other)) => plain.push(other),
            (c, _) => plain.push(c),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Version;

    fn line(time_ms: u64, version: Version, stream: &str, text: &str) -> LogLine {
        let function = FunctionName::parse("f").unwrap();
        LogLine { function, version, stream: stream.into(), time_ms, text: text.to_owned() }
    }

    fn check(line: &LogLine, want: &str) {
        let mut bytes = Vec::new();
        Writer::default().write(&mut bytes, line);
        assert_eq!(String::from_utf8_lossy(&bytes), want);
        assert_eq!(read(&line.function, &bytes[..bytes.len() - 1]).as_ref(), Some(line));
    }

    #[test]
    fn records() {
        check(&line(0, Version::Latest, "s", ""), "1970-01-01T00:00:00.000Z\t$LATEST\ts\t\n");
        check(
            &line(1_700_000_000_123, Version::Number(7), "2023/11/14/[7]ab", "a\tb\\n\n\r"),
            "2023-11-14T22:13:20.123Z\t7\t2023/11/14/[7]ab\ta\tb\\\\n\\n\\r\n",
        );
        check(&line(5, Version::Latest, "a\tb\nc", "ü"), "1970-01-01T00:00:00.005Z\t$LATEST\ta\\tb\\nc\tü\n");
    }

    #[test]
    fn the_text_of_a_second_is_kept_no_longer() {
        let (mut writer, mut bytes) = (Writer::default(), Vec::new());
        for time_ms in [999, 7, 1_000, 1_050, 253_402_300_800_000, 3] {
            writer.write(&mut bytes, &line(time_ms, Version::Latest, "s", ""));
        }
        let text = String::from_utf8(bytes).unwrap();
        let times: Vec<&str> = text.lines().map(|line| &line[..24]).collect();
        assert_eq!(
            times,
            [
                "1970-01-01T00:00:00.999Z",
                "1970-01-01T00:00:00.007Z",
                "1970-01-01T00:00:01.000Z",
                "1970-01-01T00:00:01.050Z",
                "9999-12-31T23:59:59.999Z",
                "1970-01-01T00:00:00.003Z",
            ]
        );
    }

    #[test]
    fn extremes() {
        let mut bytes = Vec::new();
        Writer::default().write(&mut bytes, &line(u64::MAX, Version::Latest, "s", &"ü".repeat(TEXT_BYTES_MAX)));
        assert!(bytes.starts_with(b"9999-12-31T23:59:59.999Z\t"));
        assert!(bytes.len() < TEXT_BYTES_MAX + 100);
        for bad in ["", "x", "1970-01-01T00:00:00.000Z\t$LATEST\ts", "1970-01-01T00:00:00.000Z\talias\ts\tt"] {
            assert_eq!(read(&FunctionName::parse("f").unwrap(), bad.as_bytes()), None);
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_written_is_read(time_ms in 0_u64..253_402_300_800_000, stream in ".{0,40}", text in "\\PC*|[\\\\\n\r\tnrt]{0,40}") {
            let line = line(time_ms, Version::Number(time_ms), &stream, &text);
            let mut bytes = Vec::new();
            Writer::default().write(&mut bytes, &line);
            let end = bytes.pop();
            proptest::prop_assert_eq!(end, Some(b'\n'));
            proptest::prop_assert!(!bytes.contains(&b'\n'));
            proptest::prop_assert_eq!(read(&line.function, &bytes), Some(line));
        }

        #[test]
        fn any_bytes_are_a_record_or_not(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = read(&FunctionName::parse("f").unwrap(), &bytes);
        }
    }
}
