//! Writes the transcript. Lines of one millisecond that differ only in their numbers are joined.

use std::fmt::Write;

/// Most runs of numbers that a line shows before it only counts them.
const RUNS_SHOWN_MAX: usize = 8;

/// The transcript so far.
#[derive(Debug, Default)]
pub struct Transcript {
    text: String,
    now_ms: u64,
    /// The lines of `now_ms`, not written yet.
    lines: Vec<Line>,
}

/// One line before its numbers are put in.
#[derive(Debug)]
struct Line {
    who: String,
    what: &'static str,
    invocations: Vec<u64>,
    instances: Vec<u64>,
    why: String,
}

impl Transcript {
    /// Notes what happened to whom at `now_ms`: an invocation, an instance, or an invocation on an instance.
    pub fn note(
        &mut self,
        now_ms: u64,
        who: &str,
        what: &'static str,
        invocation: Option<u64>,
        instance: Option<u64>,
        why: String,
    ) {
        if now_ms != self.now_ms {
            self.flush();
            self.now_ms = now_ms;
        }
        let same = |line: &&mut Line| line.who == who && line.what == what && line.why == why;
        match self.lines.iter_mut().find(same) {
            Some(line) => {
                line.invocations.extend(invocation);
                line.instances.extend(instance);
            }
            None => self.lines.push(Line {
                who: who.to_owned(),
                what,
                invocations: invocation.into_iter().collect(),
                instances: instance.into_iter().collect(),
                why,
            }),
        }
    }

    /// Writes a line as it is.
    pub fn plain(&mut self, text: &str) {
        self.flush();
        self.text.push_str(text);
        self.text.push('\n');
    }

    /// The whole text.
    pub fn finish(mut self) -> String {
        self.flush();
        self.text
    }

    fn flush(&mut self) {
        for line in std::mem::take(&mut self.lines) {
            let mut numbers = runs(&line.invocations, "");
            if !line.instances.is_empty() {
                let joint = if numbers.is_empty() { "" } else { " on " };
                numbers = format!("{numbers}{joint}{}", runs(&line.instances, "#"));
            }
            let why = if line.why.is_empty() { String::new() } else { format!(": {}", line.why) };
            let text = format!("{:>6}  {:<6} {} {numbers}{why}", self.now_ms, line.who, line.what);
            // Writing to a String cannot fail.
            let _ = writeln!(self.text, "{}", text.trim_end());
        }
    }
}

/// Numbers in the order given, `1-3, 7, 10-8, 5 x4`: what rises or falls by one, or repeats, is one run.
fn runs(numbers: &[u64], mark: &str) -> String {
    let mut runs: Vec<Run> = Vec::new();
    for number in numbers {
        if !runs.last_mut().is_some_and(|run| run.takes(*number)) {
            runs.push(Run { first: *number, last: *number, count: 1 });
        }
    }
    let shown: Vec<String> = runs.iter().take(RUNS_SHOWN_MAX).map(|run| run.print(mark)).collect();
    let more = if runs.len() > shown.len() { format!(", ... ({} in all)", numbers.len()) } else { String::new() };
    shown.join(", ") + &more
}

#[derive(Debug)]
struct Run {
    first: u64,
    last: u64,
    count: u64,
}

impl Run {
    /// Takes the number in if it goes on as the run did so far.
    fn takes(&mut self, number: u64) -> bool {
        let rises = self.last >= self.first && self.last - self.first == self.count - 1 && number == self.last + 1;
        let falls = self.last <= self.first && self.first - self.last == self.count - 1 && number + 1 == self.last;
        let repeats = self.last == self.first && number == self.last;
        let taken = rises || falls || repeats;
        if taken {
            self.last = number;
            self.count += 1;
        }
        taken
    }

    fn print(&self, mark: &str) -> String {
        match (self.count, self.first == self.last) {
            (1, _) => format!("{mark}{}", self.first),
            (count, true) => format!("{mark}{} x{count}", self.first),
            (_, false) => format!("{mark}{}-{mark}{}", self.first, self.last),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joins_what_differs_in_numbers_only() {
        let mut transcript = Transcript::default();
        for (now_ms, invocation, why) in [(1, 4, ""), (1, 5, ""), (1, 6, "late"), (1, 9, ""), (2, 10, "")] {
            transcript.note(now_ms, "f/1", "dispatch", Some(invocation), Some(invocation), why.into());
        }
        transcript.plain("end");
        assert_eq!(
            transcript.finish(),
            "     1  f/1    dispatch 4-5, 9 on #4-#5, #9\n     1  f/1    dispatch 6 on #6: late\n     \
             2  f/1    dispatch 10 on #10\nend\n"
        );
    }

    #[test]
    fn long_lists_are_counted() {
        let odd: Vec<u64> = (0..20).map(|n| 2 * n).collect();
        assert_eq!(runs(&odd, ""), "0, 2, 4, 6, 8, 10, 12, 14, ... (20 in all)");
        assert_eq!(runs(&[], "#"), "");
        assert_eq!(runs(&[1, 2, 3, 2, 2, 2, 9, 8, 7, 7, 5], "#"), "#1-#3, #2 x3, #9-#7, #7, #5");
        assert_eq!(runs(&[4, 4, 5, 6, 0, 0], ""), "4 x2, 5-6, 0 x2");
    }
}
