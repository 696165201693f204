//! What a guest writes to stdout and stderr, split into lines, and the lines that the platform adds.

use crate::LogSink;
use model::log::LogLine;
use model::{FunctionName, Limits, Version};
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
        of: (FunctionName, Version),
        limits: &Limits,
        sink: LogSink,
    ) -> std::io::Result<Arc<InstanceLog>> {
        let direct = pipe.try_clone()?;
        let pipe = Receiver::from_owned_fd(pipe.into())?;
        let collector = Collector {
            function: of.0,
            version: of.1,
            stream: stream.into(),
            partial: Vec::new(),
            tail: Vec::new(),
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
    pub fn start(&self, text: String, first: bool) {
        let mut collector = self.lock();
        self.read(&mut collector, |bytes| (&self.direct).read(bytes));
        collector.end_line();
        if !first {
            collector.tail.clear();
        }
        collector.platform_line(text);
    }

    /// Takes in what the guest has written so far and ends the invocation's log with the platform's own lines.
    /// Gives the log's tail.
    pub fn end(&self, texts: impl IntoIterator<Item = String>) -> Vec<u8> {
        let mut collector = self.lock();
        self.read(&mut collector, |bytes| (&self.direct).read(bytes));
        collector.end_line();
        for text in texts {
            collector.platform_line(text);
        }
        self.flush(&mut collector);
        collector.tail()
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
    partial: Vec<u8>,
    tail: Vec<u8>,
    lines: Vec<LogLine>,
    line_bytes_max: usize,
    tail_bytes_max: usize,
}

impl Collector {
    fn push(&mut self, mut bytes: &[u8]) {
        self.keep_tail(bytes);
        while let Some(end) = bytes.iter().position(|b| *b == b'\n') {
            self.extend_line(&bytes[..end]);
            self.finish_line();
            bytes = &bytes[end + 1..];
        }
        self.extend_line(bytes);
    }

    /// Ends a line that the guest left open.
    fn end_line(&mut self) {
        if !self.partial.is_empty() {
            self.keep_tail(b"\n");
            self.finish_line();
        }
    }

    fn platform_line(&mut self, text: String) {
        self.keep_tail(text.as_bytes());
        self.keep_tail(b"\n");
        self.add(text);
    }

    /// Appends to the open line; a line that outgrows its limit is split.
    fn extend_line(&mut self, mut bytes: &[u8]) {
        while self.partial.len() + bytes.len() > self.line_bytes_max {
            let (now, later) = bytes.split_at(self.line_bytes_max - self.partial.len());
            self.partial.extend_from_slice(now);
            self.finish_line();
            bytes = later;
        }
        self.partial.extend_from_slice(bytes);
    }

    fn finish_line(&mut self) {
        let text = String::from_utf8_lossy(&self.partial).into_owned();
        self.partial.clear();
        self.add(text);
    }

    fn add(&mut self, text: String) {
        let time_ms = now_ms();
        let (function, version, stream) = (self.function.clone(), self.version, self.stream.clone());
        self.lines.push(LogLine { function, version, stream, time_ms, text });
    }

    fn keep_tail(&mut self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(self.tail_bytes_max)..];
        self.tail.extend_from_slice(bytes);
        // Cut only now and then: cutting moves what stays.
        if self.tail.len() > 4 * self.tail_bytes_max {
            self.cut_tail();
        }
    }

    fn cut_tail(&mut self) {
        let surplus = self.tail.len().saturating_sub(self.tail_bytes_max);
        self.tail.drain(..surplus);
    }

    fn tail(&mut self) -> Vec<u8> {
        self.cut_tail();
        self.tail.clone()
    }
}

/// Milliseconds since the Unix epoch.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collector() -> Collector {
        Collector {
            function: FunctionName::parse("f").unwrap(),
            version: Version::Latest,
            stream: "s".into(),
            partial: Vec::new(),
            tail: Vec::new(),
            lines: Vec::new(),
            line_bytes_max: 8,
            tail_bytes_max: 10,
        }
    }

    fn texts(collector: &Collector) -> Vec<&str> {
        collector.lines.iter().map(|l| l.text.as_str()).collect()
    }

    #[test]
    fn lines_across_reads_and_long_lines() {
        let mut c = collector();
        c.push(b"one\ntw");
        c.push(b"o\n\n0123456789abcdefXY\xff");
        assert_eq!(texts(&c), ["one", "two", "", "01234567", "89abcdef"]);
        c.end_line();
        assert_eq!(c.lines.last().unwrap().text, "XY\u{fffd}");
        c.end_line();
        assert_eq!(c.lines.len(), 6);
    }

    #[test]
    fn tail_is_bounded() {
        let mut c = collector();
        for n in 0..100 {
            c.push(format!("line {n}\n").as_bytes());
            assert!(c.tail.len() <= 40);
        }
        assert_eq!(c.tail(), b"8\nline 99\n");
        c.push(&[b'x'; 100]);
        assert_eq!(c.tail(), [b'x'; 10]);
    }
}
