//! What reaches the user's eyes: results on standard output, everything else on standard error.

use crate::error::Error;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::error::Error as _;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

/// The terminal, or what stands in for it.
pub struct Screen {
    /// Standard output may be coloured.
    colour_out: bool,
    /// Standard error may be coloured.
    colour_err: bool,
    /// Standard error is a terminal: progress may be shown.
    interactive: bool,
}

/// The few styles in use.
#[derive(Debug, Clone, Copy)]
pub enum Style {
    /// For headings.
    Bold,
    /// For what matters less.
    Dim,
    /// For errors.
    Red,
    /// For advice.
    Cyan,
}

impl Screen {
    /// Colours and progress only on a terminal, colours only without `NO_COLOR` (no-color.org).
    pub fn of_process() -> Screen {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let interactive = io::stderr().is_terminal();
        Screen { colour_out: !plain && io::stdout().is_terminal(), colour_err: !plain && interactive, interactive }
    }

    /// One line on standard output.
    pub fn line(&self, text: &str) -> Result<(), Error> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())
            .and_then(|()| if text.ends_with('\n') { Ok(()) } else { out.write_all(b"\n") })
            .and_then(|()| out.flush())
            .map_err(Error::Print)
    }

    /// Bytes on standard output, with a line end behind them if they have none.
    pub fn bytes(&self, bytes: &[u8]) -> Result<(), Error> {
        let mut out = io::stdout().lock();
        out.write_all(bytes)
            .and_then(|()| if bytes.ends_with(b"\n") { Ok(()) } else { out.write_all(b"\n") })
            .and_then(|()| out.flush())
            .map_err(Error::Print)
    }

    /// A JSON value on standard output, on several lines.
    pub fn json(&self, value: &serde_json::Value) -> Result<(), Error> {
        self.line(&format!("{value:#}"))
    }

    /// Text for standard output in a style.
    pub fn styled(&self, style: Style, text: &str) -> String {
        paint(self.colour_out, style, text)
    }

    /// A remark on standard error.
    pub fn note(&self, text: &str) {
        self.say(&format!("{} {text}", paint(self.colour_err, Style::Dim, "note:")));
    }

    /// Text as it is on standard error.
    pub fn aside(&self, text: &str) {
        self.say(text.trim_end_matches('\n'));
    }

    /// What happened and what to do next, on standard error.
    pub fn error(&self, error: &Error) {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(inner) = cause {
            text.push_str(&format!(": {inner}"));
            cause = inner.source();
        }
        self.say(&format!("{} {text}", paint(self.colour_err, Style::Red, "error:")));
        self.say(&format!("{} {}", paint(self.colour_err, Style::Cyan, "help:"), error.help()));
    }

    /// A spinner that is only seen on a terminal.
    pub fn progress(&self) -> Progress {
        let target = if self.interactive { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(None, target);
        if self.interactive {
            let template = if self.colour_err { "{spinner:.cyan} {msg}" } else { "{spinner} {msg}" };
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(100));
        }
        Progress(bar)
    }

    /// Asks a yes-or-no question; `None` if there is nobody to ask.
    pub fn confirm(&self, question: &str) -> Result<Option<bool>, Error> {
        if !self.interactive || !io::stdin().is_terminal() {
            return Ok(None);
        }
        let mut err = io::stderr().lock();
        write!(err, "{question} [y/N] ").and_then(|()| err.flush()).map_err(Error::Print)?;
        let mut answer = String::new();
        io::stdin().read_line(&mut answer).map_err(Error::Print)?;
        Ok(Some(matches!(answer.trim(), "y" | "Y" | "yes")))
    }

    /// Standard error may be closed; then there is nobody to tell.
    fn say(&self, text: &str) {
        let _ = writeln!(io::stderr().lock(), "{text}");
    }
}

/// Shows what is being done, as long as it lives.
pub struct Progress(ProgressBar);

impl Progress {
    /// What is being done now.
    pub fn step(&self, text: String) {
        self.0.set_message(text);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

fn paint(colour: bool, style: Style, text: &str) -> String {
    let code = match style {
        Style::Bold => "1",
        Style::Dim => "2",
        Style::Red => "1;31",
        Style::Cyan => "36",
    };
    if colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

/// Text that came from elsewhere, without the control characters that could steer a terminal.
pub fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect()
}

/// Rows in columns: each as wide as its widest cell, two spaces apart. The first row is the heading.
pub fn columns(rows: &[Vec<String>]) -> Vec<String> {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    rows.iter()
        .map(|row| {
            let cells: Vec<String> =
                row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}", width = *width)).collect();
            cells.join("  ").trim_end().to_owned()
        })
        .collect()
}

/// A size for people: `512 B`, `1.5 kB`, `2.0 MB`.
pub fn size(bytes: u64) -> String {
    let number = bytes as f64;
    match bytes {
        0..=999 => format!("{bytes} B"),
        1_000..=999_949 => format!("{:.1} kB", number / 1e3),
        _ => format!("{:.1} MB", number / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [vec!["NAME".to_owned(), "X".to_owned()], vec!["äöü-long".to_owned(), "1".to_owned()]];
        assert_eq!(columns(&rows), ["NAME      X", "äöü-long  1"]);
        assert!(columns(&[]).is_empty());
    }

    #[test]
    fn sizes() {
        let got: Vec<String> = [0, 999, 1_000, 999_949, 999_950, 2_000_000].into_iter().map(size).collect();
        assert_eq!(got, ["0 B", "999 B", "1.0 kB", "999.9 kB", "1.0 MB", "2.0 MB"]);
    }

    #[test]
    fn paint_and_harmless() {
        assert_eq!(paint(false, Style::Red, "x"), "x");
        assert_eq!(paint(true, Style::Red, "x"), "\x1b[1;31mx\x1b[0m");
        assert_eq!(harmless("a\x1b[2Jb\tc"), "a\u{fffd}[2Jb\tc");
    }
}
