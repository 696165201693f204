//! The way of log lines to the disk: a bounded queue and one thread, so that no invocation waits for a disk.

use model::Limits;
use model::log::LogLine;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Batches that may wait for the disk; further ones are dropped and counted.
const BATCHES_MAX: usize = 8_192;
/// Lines of one write to the disk, at most.
const LINES_PER_WRITE: usize = 4_096;
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

/// Starts the thread.
pub fn start(store: store::Store, limits: Limits) -> std::io::Result<(worker::LogSink, LogWriter)> {
    let (sender, receiver) = sync_channel(BATCHES_MAX);
    let dropped = Arc::new(AtomicU64::new(0));
    let counted = dropped.clone();
    let work = move || write(&store, &limits, &receiver, &counted);
    let thread = std::thread::Builder::new().name("log-writer".into()).spawn(work)?;
    let to = sender.clone();
    let sink = Arc::new(move |lines: Vec<LogLine>| {
        let count = lines.len() as u64;
        if to.try_send(Message::Lines(lines)).is_err() {
            dropped.fetch_add(count, Ordering::Relaxed);
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

fn write(store: &store::Store, limits: &Limits, receiver: &Receiver<Message>, dropped: &AtomicU64) {
    let mut ended = false;
    while !ended {
        let Ok(Message::Lines(mut lines)) = receiver.recv() else { return };
        while lines.len() < LINES_PER_WRITE {
            match receiver.try_recv() {
                Ok(Message::Lines(more)) => lines.extend(more),
                Ok(Message::End) => {
                    ended = true;
                    break;
                }
                Err(_) => break,
            }
        }
        if let Err(error) = store.logs().append(&lines, limits) {
            tracing::warn!(error = &error as &dyn std::error::Error, "log lines could not be written");
        }
        let lost = dropped.swap(0, Ordering::Relaxed);
        if lost > 0 {
            tracing::warn!(lost, "log lines were dropped: functions write faster than the disk");
        }
    }
}
