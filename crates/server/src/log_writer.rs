//! The way of log lines to the disk: a bounded queue and one thread, so that no invocation waits for a disk.

use model::Limits;
use model::log::LogLine;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Batches that may wait for the disk; further ones are dropped and counted.
const BATCHES_MAX: usize = 8_192;
/// Lines of one write to the disk, at most.
const LINES_PER_WRITE: usize = 4_096;

/// Starts the thread. The thread ends, all lines written, when the sink and all its clones are gone.
pub fn start(store: store::Store, limits: Limits) -> std::io::Result<(worker::LogSink, std::thread::JoinHandle<()>)> {
    let (sender, receiver) = sync_channel::<Vec<LogLine>>(BATCHES_MAX);
    let dropped = Arc::new(AtomicU64::new(0));
    let counted = dropped.clone();
    let thread = std::thread::Builder::new()
        .name("log-writer".into())
        .spawn(move || write(&store, &limits, &receiver, &counted))?;
    Ok((sink(sender, dropped), thread))
}

fn sink(sender: SyncSender<Vec<LogLine>>, dropped: Arc<AtomicU64>) -> worker::LogSink {
    Arc::new(move |lines: Vec<LogLine>| {
        let count = lines.len() as u64;
        if sender.try_send(lines).is_err() {
            dropped.fetch_add(count, Ordering::Relaxed);
        }
    })
}

fn write(store: &store::Store, limits: &Limits, receiver: &Receiver<Vec<LogLine>>, dropped: &AtomicU64) {
    while let Ok(mut lines) = receiver.recv() {
        while lines.len() < LINES_PER_WRITE {
            match receiver.try_recv() {
                Ok(more) => lines.extend(more),
                Err(_) => break,
            }
        }
        if let Err(error) = store.logs().append(&lines, limits) {
            tracing::warn!(%error, "log lines could not be written");
        }
        let lost = dropped.swap(0, Ordering::Relaxed);
        if lost > 0 {
            tracing::warn!(lost, "log lines were dropped: functions write faster than the disk");
        }
    }
}

/// Waits, within reason, until the last lines are on the disk; every sink must be gone or idle.
pub fn finish(thread: std::thread::JoinHandle<()>) {
    let until = std::time::Instant::now() + std::time::Duration::from_millis(500);
    while !thread.is_finished() && std::time::Instant::now() < until {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}
