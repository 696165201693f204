//! The way of log lines to the disk: a bounded queue and one thread, so that no invocation waits for a disk.

use model::Limits;
use model::log::LogLine;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Batches that may wait for the disk; further ones are dropped and counted.
const BATCHES_MAX: usize = 8_192;
/// Bytes that may wait for the disk, counting what a line costs in memory beside its text; more is dropped and counted.
const BYTES_MAX: usize = 16_777_216;
/// What a line costs beside its text.
const LINE_BYTES: usize = 128;
/// Lines of one write to the disk, at most.
const LINES_PER_WRITE: usize = 4_096;
/// After a write, how long lines are gathered for the next. A thread that waited for each batch would have to be woken
/// for each, which costs the invocation more than all else about its log.
const GATHER: Duration = Duration::from_millis(5);
/// How long the last lines may take to reach the disk at the end.
const FINISH_WAIT: Duration = Duration::from_secs(2);

enum Message {
    Lines(Vec<LogLine>),
    End,
}

/// The writing thread.
pub struct LogWriter {
    sender: SyncSender<Message>,
    thread: JoinHandle<()>,
}

/// What sink and thread share.
#[derive(Default)]
struct Backlog {
    bytes: AtomicUsize,
    dropped: AtomicU64,
}

fn bytes_of(lines: &[LogLine]) -> usize {
    lines.iter().map(|line| line.text.len() + LINE_BYTES).sum()
}

/// Starts the thread.
pub fn start(store: store::Store, limits: Limits) -> std::io::Result<(worker::LogSink, LogWriter)> {
    let (sender, receiver) = sync_channel(BATCHES_MAX);
    let backlog = Arc::new(Backlog::default());
    let shared = backlog.clone();
    let work = move || write(&store, &limits, &receiver, &shared);
    let thread = std::thread::Builder::new().name("log-writer".into()).spawn(work)?;
    let to = sender.clone();
    let sink = Arc::new(move |lines: Vec<LogLine>| {
        let (count, bytes) = (lines.len() as u64, bytes_of(&lines));
        let waiting = backlog.bytes.fetch_add(bytes, Ordering::Relaxed);
        if waiting + bytes > BYTES_MAX || to.try_send(Message::Lines(lines)).is_err() {
            backlog.bytes.fetch_sub(bytes, Ordering::Relaxed);
            backlog.dropped.fetch_add(count, Ordering::Relaxed);
        }
    });
    Ok((sink, LogWriter { sender, thread }))
}

impl LogWriter {
    /// Waits, within reason, until every line that was handed over is written.
    pub fn finish(self) {
        let until = Instant::now() + FINISH_WAIT;
        let mut end = Some(Message::End);
        while !self.thread.is_finished() && Instant::now() < until {
            if let Some(message) = end.take() {
                end = match self.sender.try_send(message) {
                    Err(std::sync::mpsc::TrySendError::Full(message)) => Some(message),
                    Err(std::sync::mpsc::TrySendError::Disconnected(_)) | Ok(()) => None,
                };
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn write(store: &store::Store, limits: &Limits, receiver: &Receiver<Message>, backlog: &Backlog) {
    let mut lines = Vec::new();
    loop {
        if lines.is_empty() {
            let Ok(Message::Lines(first)) = receiver.recv() else { return };
            lines = first;
        }
        let ended = gather(receiver, &mut lines);
        write_batch(store, limits, &lines, backlog);
        let full = lines.len() >= LINES_PER_WRITE;
        lines.clear();
        if ended {
            return;
        }
        if !full {
            // While lines keep coming, nobody has to wake this thread.
            std::thread::sleep(GATHER);
        }
        match receiver.try_recv() {
            Ok(Message::Lines(first)) => lines = first,
            Ok(Message::End) => return,
            Err(_) => {}
        }
    }
}

/// Takes what waits, up to the lines of one write; `true` if the end has come.
fn gather(receiver: &Receiver<Message>, lines: &mut Vec<LogLine>) -> bool {
    while lines.len() < LINES_PER_WRITE {
        match receiver.try_recv() {
            Ok(Message::Lines(more)) => lines.extend(more),
            Ok(Message::End) => return true,
            Err(_) => return false,
        }
    }
    false
}

fn write_batch(store: &store::Store, limits: &Limits, lines: &[LogLine], backlog: &Backlog) {
    if let Err(error) = store.logs().append(lines, limits) {
        tracing::warn!(error = &error as &dyn std::error::Error, "log lines could not be written");
    }
    backlog.bytes.fetch_sub(bytes_of(lines), Ordering::Relaxed);
    let lost = backlog.dropped.swap(0, Ordering::Relaxed);
    if lost > 0 {
        tracing::warn!(lost, "log lines were dropped: functions write faster than the disk");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> LogLine {
        let function = model::FunctionName::parse("f").unwrap();
        LogLine { function, version: model::Version::Latest, stream: "s".into(), time_ms: 0, text: text.to_owned() }
    }

    #[test]
    fn lines_reach_the_disk_and_a_flood_of_empty_ones_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let store = store::Store::open(dir.path()).unwrap();
        let (sink, writer) = start(store.clone(), Limits::default()).unwrap();
        sink(vec![line("first")]);
        // More at once than may ever wait: dropped whole, whatever the disk does.
        sink(vec![line(""); BYTES_MAX / LINE_BYTES + 1]);
        sink(vec![line("last")]);
        writer.finish();
        let name = model::FunctionName::parse("f").unwrap();
        let (lines, _) = store.logs().read(&name, None, 10).unwrap();
        let texts: Vec<&str> = lines.iter().map(|l| l.text.as_str()).collect();
        assert_eq!(texts, ["first", "last"]);
    }
}
