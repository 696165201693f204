//! What a guest writes to stdout and stderr, split into lines, and the lines that the platform adds.

use crate::LogSink;
use model::log::LogLine;
use model::{FunctionName, InvocationId, Limits, Spec, Version};
use std::collections::HashMap;
use std::io::{PipeReader, Read};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::net::unix::pipe::Receiver;

/// The log of one instance: one stream.
pub struct InstanceLog {
    /// Waits for bytes.
    pipe: Receiver,
    /// The same pipe, read past the reactor's memory of it: what was written before an answer must be seen.
    direct: PipeReader,
    collector: Mutex<Collector>,
    sink: LogSink,
}

/// Whether the pipe may give more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pipe {
    Empty,
    More,
    Closed,
}

/// Reads of one drain, at most: a guest that writes without end must not hold up its own END line for ever.
const READS_PER_DRAIN: usize = 64;
const READ_BYTES: usize = 8_192;

impl InstanceLog {
    /// Takes the read end of the guest's pipe. Must be called inside the async runtime.
    pub fn new(
        pipe: PipeReader,
        stream: String,
        of: &Spec,
        limits: &Limits,
        sink: LogSink,
    ) -> std::io::Result<Arc<InstanceLog>> {
        let direct = pipe.try_clone()?;
        let pipe = Receiver::from_owned_fd(pipe.into())?;
        let collector = Collector {
            function: of.name().clone(),
            version: of.version,
            stream: stream.into(),
            shared: Text::default(),
            several: (of.instance_concurrency > 1).then(HashMap::new),
            lines: Vec::new(),
            line_bytes_max: limits.log_line_bytes,
            tail_bytes_max: limits.log_tail_bytes,
        };
        Ok(Arc::new(InstanceLog { pipe, direct, collector: Mutex::new(collector), sink }))
    }

    /// Carries lines until the guest has closed its ends. One task per instance.
    pub async fn carry(self: Arc<InstanceLog>) {
        loop {
            if self.pipe.readable().await.is_err() {
                return;
            }
            let pipe = {
                let mut collector = self.lock();
                self.read(&mut collector, |bytes| self.pipe.try_read(bytes))
            };
            match pipe {
                Pipe::Empty => {}
                Pipe::More => tokio::task::yield_now().await,
                Pipe::Closed => return,
            }
        }
    }

    /// Begins an invocation's log. The tail of an instance's first invocation keeps what Init wrote.
    pub fn start(&self, id: &InvocationId, text: String, first: bool) {
        let mut collector = self.lock();
        self.read(&mut collector, |bytes| (&self.direct).read(bytes));
        collector.start(id, text, first);
    }

    /// Takes in what the guest says of one of several invocations. What belongs to none that runs goes to the log
    /// all the same, but into no tail.
    pub fn of_invocation(&self, id: &str, bytes: &[u8]) {
        let mut collector = self.lock();
        collector.of_invocation(id, bytes);
        self.flush(&mut collector);
    }

    /// Takes in what the guest has written so far and ends the invocation's log with the platform's own lines.
    /// Gives the log's tail.
    pub fn end(&self, id: &InvocationId, texts: impl IntoIterator<Item = String>) -> Vec<u8> {
        let mut collector = self.lock();
        self.read(&mut collector, |bytes| (&self.direct).read(bytes));
        let tail = collector.end(id, texts);
        self.flush(&mut collector);
        tail
    }

    /// Adds a line of the platform's own, between invocations.
    pub fn say(&self, line: String) {
        let mut collector = self.lock();
        self.read(&mut collector, |bytes| (&self.direct).read(bytes));
        let mut text = std::mem::take(&mut collector.shared);
        collector.end_line(&mut text);
        collector.platform_line(&mut text, line);
        collector.shared = text;
        self.flush(&mut collector);
    }

    /// The guest never had the invocation.
    pub fn forget(&self, id: &InvocationId) {
        if let Some(several) = &mut self.lock().several {
            several.remove(&id.0);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Collector> {
        self.collector.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what is there, up to a bound, and passes lines on as they fill: a read of nothing but line ends makes
    /// thousands of them.
    fn read(&self, collector: &mut Collector, mut source: impl FnMut(&mut [u8]) -> std::io::Result<usize>) -> Pipe {
        let mut bytes = [0; READ_BYTES];
        for _ in 0..READS_PER_DRAIN {
            match source(&mut bytes) {
                Ok(0) => return Pipe::Closed,
                Ok(count) => {
                    collector.push(&bytes[..count]);
                    self.flush(collector);
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Pipe::Empty,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return Pipe::Closed,
            }
        }
        Pipe::More
    }

    fn flush(&self, collector: &mut Collector) {
        if !collector.lines.is_empty() {
            (self.sink)(std::mem::take(&mut collector.lines));
        }
    }
}

/// Bytes to lines. No I/O.
struct Collector {
    function: FunctionName,
    version: Version,
    stream: Arc<str>,
    /// What comes through the pipe, which all invocations of an instance share.
    shared: Text,
    /// Where an instance runs several invocations at a time: the log of each.
    several: Option<HashMap<Arc<str>, Text>>,
    lines: Vec<LogLine>,
    line_bytes_max: usize,
    tail_bytes_max: usize,
}

/// A text that grows.
#[derive(Default)]
struct Text {
    /// A line that is not ended.
    partial: Vec<u8>,
    tail: Vec<u8>,
}

impl Collector {
    fn push(&mut self, bytes: &[u8]) {
        let mut text = std::mem::take(&mut self.shared);
        self.push_to(&mut text, bytes);
        self.shared = text;
    }

    fn start(&mut self, id: &InvocationId, line: String, first: bool) {
        let mut text = std::mem::take(&mut self.shared);
        self.end_line(&mut text);
        if !first {
            text.tail.clear();
        }
        match &mut self.several {
            None => self.platform_line(&mut text, line),
            Some(several) => {
                let mut own = Text { partial: Vec::new(), tail: std::mem::take(&mut text.tail) };
                several.insert(id.0.clone(), Text::default());
                self.platform_line(&mut own, line);
                self.put_back(&id.0, own);
            }
        }
        self.shared = text;
    }

    fn of_invocation(&mut self, id: &str, bytes: &[u8]) {
        let own = self.several.as_mut().and_then(|several| several.get_mut(id)).map(std::mem::take);
        match own {
            Some(mut own) => {
                self.push_to(&mut own, bytes);
                self.put_back(id, own);
            }
            None => {
                let mut text = Text::default();
                self.push_to(&mut text, bytes);
                self.end_line(&mut text);
            }
        }
    }

    fn end(&mut self, id: &InvocationId, lines: impl IntoIterator<Item = String>) -> Vec<u8> {
        let own = self.several.as_mut().map(|several| several.remove(&id.0).unwrap_or_default());
        let alone = own.is_none();
        let mut text = own.unwrap_or_else(|| std::mem::take(&mut self.shared));
        self.end_line(&mut text);
        for line in lines {
            self.platform_line(&mut text, line);
        }
        self.cut_tail(&mut text.tail);
        if !alone {
            return text.tail;
        }
        let tail = text.tail.clone();
        self.shared = text;
        tail
    }

    fn put_back(&mut self, id: &str, text: Text) {
        if let Some(place) = self.several.as_mut().and_then(|several| several.get_mut(id)) {
            *place = text;
        }
    }

    fn push_to(&mut self, text: &mut Text, mut bytes: &[u8]) {
        self.keep_tail(&mut text.tail, bytes);
        while let Some(end) = bytes.iter().position(|b| *b == b'\n') {
            self.extend_line(text, &bytes[..end]);
            self.finish_line(text);
            bytes = &bytes[end + 1..];
        }
        self.extend_line(text, bytes);
    }

    /// Ends a line that the guest left open.
    fn end_line(&mut self, text: &mut Text) {
        if !text.partial.is_empty() {
            self.keep_tail(&mut text.tail, b"\n");
            self.finish_line(text);
        }
    }

    fn platform_line(&mut self, text: &mut Text, line: String) {
        self.keep_tail(&mut text.tail, line.as_bytes());
        self.keep_tail(&mut text.tail, b"\n");
        self.add(line);
    }

    /// Appends to the open line; a line that outgrows its limit is split.
    fn extend_line(&mut self, text: &mut Text, mut bytes: &[u8]) {
        while text.partial.len() + bytes.len() > self.line_bytes_max {
            let (now, later) = bytes.split_at(self.line_bytes_max - text.partial.len());
            text.partial.extend_from_slice(now);
            self.finish_line(text);
            bytes = later;
        }
        text.partial.extend_from_slice(bytes);
    }

    fn finish_line(&mut self, text: &mut Text) {
        let line = String::from_utf8_lossy(&text.partial).into_owned();
        text.partial.clear();
        self.add(line);
    }

    fn add(&mut self, text: String) {
        let time_ms = now_ms();
        let (function, version, stream) = (self.function.clone(), self.version, self.stream.clone());
        self.lines.push(LogLine { function, version, stream, time_ms, text });
    }

    fn keep_tail(&self, tail: &mut Vec<u8>, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(self.tail_bytes_max)..];
        tail.extend_from_slice(bytes);
        // Cut only now and then: cutting moves what stays.
        if tail.len() > 4 * self.tail_bytes_max {
            self.cut_tail(tail);
        }
    }

    fn cut_tail(&self, tail: &mut Vec<u8>) {
        let surplus = tail.len().saturating_sub(self.tail_bytes_max);
        tail.drain(..surplus);
    }
}

/// Milliseconds since the Unix epoch.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collector(several: bool) -> Collector {
        Collector {
            function: FunctionName::parse("f").unwrap(),
            version: Version::Latest,
            stream: "s".into(),
            shared: Text::default(),
            several: several.then(HashMap::new),
            lines: Vec::new(),
            line_bytes_max: 8,
            tail_bytes_max: 10,
        }
    }

    fn id(text: &str) -> InvocationId {
        InvocationId(text.into())
    }

    fn texts(collector: &Collector) -> Vec<&str> {
        collector.lines.iter().map(|l| l.text.as_str()).collect()
    }

    #[test]
    fn lines_across_reads_and_long_lines() {
        let mut c = collector(false);
        c.push(b"one\ntw");
        c.push(b"o\n\n0123456789abcdefXY\xff");
        assert_eq!(texts(&c), ["one", "two", "", "01234567", "89abcdef"]);
        c.end(&id("1"), []);
        assert_eq!(c.lines.last().unwrap().text, "XY\u{fffd}");
        c.end(&id("1"), []);
        assert_eq!(c.lines.len(), 6);
    }

    #[test]
    fn tail_is_bounded() {
        let mut c = collector(false);
        for n in 0..100 {
            c.push(format!("line {n}\n").as_bytes());
            assert!(c.shared.tail.len() <= 40);
        }
        assert_eq!(c.end(&id("1"), []), b"8\nline 99\n");
        c.push(&[b'x'; 100]);
        assert!(c.shared.tail.ends_with(&[b'x'; 10]));
    }

    #[test]
    fn several_invocations_have_their_own_tails() {
        let mut c = collector(true);
        c.push(b"init\n");
        c.start(&id("a"), "A".into(), true);
        c.start(&id("b"), "B".into(), false);
        c.of_invocation("a", b"1\n2");
        c.of_invocation("b", b"3\n");
        c.push(b"raw\n");
        c.of_invocation("never", b"lost");
        assert_eq!(c.end(&id("a"), ["Z".into()]), b"it\nA\n1\n2\nZ\n"[1..]);
        assert_eq!(c.end(&id("b"), []), b"B\n3\n");
        // An invocation that is over has no log of its own any more.
        c.of_invocation("a", b"late\n");
        assert_eq!(texts(&c), ["init", "A", "B", "1", "3", "raw", "lost", "2", "Z", "late"]);
        assert!(c.several.is_some_and(|several| several.is_empty()));
    }
}
