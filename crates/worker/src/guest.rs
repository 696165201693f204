//! One instance: its channel or Runtime API, its log, its memory figure, and where it is in its life.

use crate::link::Link;
use crate::logs::InstanceLog;
use crate::outcomes::Ending;
use crate::runtime_api::{Handover, Served};
use crate::snapstart::Why;
use api::launcher::{ExitStatus, MemorySource};
use bytes::Bytes;
use model::invocation::Invocation;
use scheduler::instance::{Event, State, next};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// How an instance ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// How its main process ended; `None` if the launcher could not say.
    pub status: Option<ExitStatus>,
    /// The kernel killed it for lack of memory.
    pub out_of_memory: bool,
    /// The peak of its memory, if a control group has counted it.
    pub memory_peak_bytes: Option<u64>,
}

/// An instance past its Init.
pub struct Instance {
    /// The launcher's name for it.
    pub id: u64,
    /// Its log.
    pub log: Arc<InstanceLog>,
    /// Set once, when it has ended.
    pub exit: watch::Receiver<Option<Exit>>,
    /// What Init took, or the restore.
    pub init_us: u64,
    /// Whether it was restored from a snapshot, or why not; `None` if its version is not to be.
    pub snapshot: Option<Result<(), Why>>,
    /// What its room and its sandbox took before.
    pub sandbox_us: u64,
    /// Idle instances that were stopped to make room for it.
    pub evicted: u32,
    /// How it is spoken to.
    pub talk: Talk,
    /// Its memory figure.
    pub memory: Memory,
    /// Where it is in its life.
    pub life: Life,
}

/// How a guest is spoken to.
pub enum Talk {
    /// Our shim, over the inherited channel.
    Channel(Link),
    /// A custom runtime, over the Runtime API.
    RuntimeApi(Served),
}

/// The guest's answer to one invocation.
#[derive(Debug)]
pub enum Answer {
    /// The handler's result.
    Success(Bytes),
    /// Anything else.
    Ended(Ending),
    /// The guest's own error, behind which it ends itself.
    Last(Ending),
    /// The guest was gone before the invocation could reach it: another instance may run it.
    NotTaken,
}

/// After the channel closed: how long the exit status may take to arrive.
const EXIT_STATUS_WAIT: Duration = Duration::from_secs(2);

impl Instance {
    /// Runs one invocation and waits for its answer; the caller bounds the time.
    pub async fn run(&self, invocation: &Invocation, deadline_ms: u64) -> Answer {
        match &self.talk {
            Talk::Channel(link) => link.exchange(invocation, deadline_ms).await,
            Talk::RuntimeApi(Served { session, .. }) => {
                let answered = match session.try_hand_over(Handover::new(invocation, deadline_ms)) {
                    Ok(answered) => answered,
                    Err(handover) => tokio::select! {
                        answered = session.hand_over(handover) => answered,
                        _ = gone(self.exit.clone()) => return Answer::NotTaken,
                    },
                };
                tokio::select! {
                    biased;
                    answer = answered => answer.unwrap_or(Answer::Ended(Ending::ProtocolBroken)),
                    ending = gone(self.exit.clone()) => Answer::Ended(ending),
                }
            }
        }
    }

    /// Waits until the guest can take the next invocation.
    pub async fn settle(&self) {
        if let Talk::RuntimeApi(Served { session, .. }) = &self.talk {
            tokio::select! {
                () = session.parked() => {}
                _ = gone(self.exit.clone()) => {}
            }
        }
    }

    /// Whether the guest can take the next invocation now.
    pub fn has_settled(&self) -> bool {
        match &self.talk {
            Talk::Channel(_) => true,
            Talk::RuntimeApi(Served { session, .. }) => session.has_settled(),
        }
    }
}

/// The ending of a guest that has closed its channel.
pub async fn exited(exit: &watch::Receiver<Option<Exit>>) -> Ending {
    match tokio::time::timeout(EXIT_STATUS_WAIT, gone(exit.clone())).await {
        Ok(ending) => ending,
        // It closed the channel but lives on.
        Err(_) => Ending::ProtocolBroken,
    }
}

/// Waits for the end of an instance.
pub async fn gone(mut exit: watch::Receiver<Option<Exit>>) -> Ending {
    let exit = match exit.wait_for(Option::is_some).await {
        Ok(exit) => *exit,
        Err(_) => None,
    };
    match exit {
        Some(Exit { status, out_of_memory, .. }) => Ending::Exited { status, out_of_memory },
        None => Ending::Exited { status: None, out_of_memory: false },
    }
}

/// An instance's place in its life, and how many invocations it has; `scheduler::instance` accepts or refuses each move.
#[derive(Debug)]
pub struct Life(Mutex<Course>);

#[derive(Debug)]
struct Course {
    state: State,
    /// Slots that are granted and not given back.
    taken: u32,
}

impl Life {
    /// A life that stands at `state`.
    pub fn at(state: State) -> Life {
        Life(Mutex::new(Course { state, taken: 0 }))
    }

    /// Where it stands.
    pub fn state(&self) -> State {
        self.lock().state
    }

    /// Makes a move if it is allowed.
    pub fn advance(&self, event: Event) {
        self.lock().advance(event);
    }

    /// A slot is granted.
    pub fn enter(&self) {
        let mut course = self.lock();
        course.taken += 1;
        if course.taken == 1 {
            course.advance(Event::Dispatch);
        }
    }

    /// A slot comes back, and with it what has happened to its invocation. `true` if this was the last one of an
    /// instance that is to end.
    pub fn leave(&self, event: Event) -> bool {
        let mut course = self.lock();
        course.taken = course.taken.saturating_sub(1);
        // While others run it stays busy.
        if event != Event::Responded || (course.taken == 0 && course.state == State::Busy) {
            course.advance(event);
        }
        course.taken == 0 && course.state == State::Stopping
    }

    fn lock(&self) -> MutexGuard<'_, Course> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Course {
    fn advance(&mut self, event: Event) {
        match next(self.state, event) {
            Ok(to) => self.state = to,
            Err(refused) => tracing::debug!(?refused, "late or illegal move of an instance ignored"),
        }
    }
}

/// The peak of an instance's memory.
pub struct Memory {
    source: MemorySource,
    file: Option<File>,
    /// The newest reading: the file goes with the instance.
    last_bytes: AtomicU64,
    /// When it was read, milliseconds since the Unix epoch.
    last_ms: AtomicU64,
}

/// A reading that is younger than this stands for an invocation shorter than [`QUICK`]: little memory can have come in
/// such a time, and to read it costs the kernel more than a warm invocation's other bookkeeping together.
const FRESH_MS: u64 = 100;
/// See [`FRESH_MS`].
const QUICK: Duration = Duration::from_millis(2);

const BYTES_PER_MB: u64 = 1_048_576;

impl Memory {
    /// Reads from what the launcher sent.
    pub fn new(source: MemorySource, file: Option<File>) -> Memory {
        Memory { source, file, last_bytes: AtomicU64::new(0), last_ms: AtomicU64::new(0) }
    }

    /// The peak so far after an invocation that took `duration` and ended at `now_ms`; see [`Memory::peak_mb`].
    pub fn peak_mb_after(&self, duration: Duration, now_ms: u64, exit: &watch::Receiver<Option<Exit>>) -> u32 {
        let fresh = now_ms.saturating_sub(self.last_ms.load(Ordering::Relaxed)) < FRESH_MS;
        if fresh && duration < QUICK && exit.borrow().is_none() {
            return to_mb(self.last_bytes.load(Ordering::Relaxed));
        }
        self.last_ms.store(now_ms, Ordering::Relaxed);
        self.peak_mb(exit)
    }

    /// The peak so far, MB, rounded up; 0 if it is not known. `exit` knows better once the instance has ended.
    pub fn peak_mb(&self, exit: &watch::Receiver<Option<Exit>>) -> u32 {
        let last = self.last_bytes.load(Ordering::Relaxed);
        let at_exit = exit.borrow().and_then(|exit| exit.memory_peak_bytes);
        let bytes = at_exit.or_else(|| self.read_bytes()).unwrap_or(0).max(last);
        self.last_bytes.store(bytes, Ordering::Relaxed);
        to_mb(bytes)
    }

    fn read_bytes(&self) -> Option<u64> {
        let mut bytes = [0; 4_096];
        let count = self.file.as_ref()?.read_at(&mut bytes, 0).ok()?;
        let text = std::str::from_utf8(&bytes[..count]).ok()?;
        match self.source {
            MemorySource::CgroupPeak => text.trim().parse().ok(),
            MemorySource::ProcStatus => peak_of_status(text),
            MemorySource::None => None,
        }
    }
}

fn to_mb(bytes: u64) -> u32 {
    bytes.div_ceil(BYTES_PER_MB).try_into().unwrap_or(u32::MAX)
}

fn peak_of_status(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    let kb: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kb * 1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peaks_of_status_files() {
        assert_eq!(peak_of_status("Name:\tx\nVmHWM:\t   2048 kB\nVmRSS:\t 1 kB\n"), Some(2_097_152));
        assert_eq!(peak_of_status("VmHWM:\tmuch\n"), None);
        assert_eq!(peak_of_status(""), None);
    }
}
