//! SnapStart: a version is initialised once, its guest's memory is kept as an image, and further guests become that image
//! instead of initialising. What is in an image is the guests' business; here it is bytes, kept by version.

use crate::channel::Broken;
use crate::guest::exited;
use crate::outcomes::Ending;
use crate::service::{Handle, Shared};
use crate::start::{Failure, Launched, Wish, launch, wait_for_interpreters};
use api::channel::Kind;
use api::launcher::{ExitStatus, Grade, is_read_at_start};
use model::{FunctionName, Generation, RuntimeFamily, Spec};
use sandbox::image::{Growing, Image};
use scheduler::lifetimes::{InitLimits, Initialization};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::time::timeout;

/// Images of a version that may turn out useless one after the other before it does without.
const FAILURES_MAX: u32 = 3;
/// How often a guest that can be written down is asked for: the runtime's zygote may still come up.
const GUESTS_MAX: u32 = 20;
/// Snapshots that are being taken at a time, at most; further ones wait.
const TAKES_MAX: usize = 8;
/// How long they wait: an Init may take minutes. Then the version does without, until a start has a snapshot taken.
const TURN_WAIT: Duration = Duration::from_secs(10);
/// Pause before the next.
const GUEST_PAUSE: Duration = Duration::from_millis(500);
/// An image that was used within this time does not give way to one that was dropped before: versions that take turns
/// would have snapshots taken for ever.
const CONTESTED: Duration = Duration::from_secs(60);
/// How long the image of a version is kept that is not yet among those that may be invoked: it is being published.
const UNPUBLISHED_KEPT: Duration = Duration::from_secs(300);
/// Bytes that an image may have beyond the function's memory: its index, and pages that are there twice.
const SLACK_BYTES: u64 = 64 << 20;

/// Why an instance is not restored from a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// None has been taken yet, or it was dropped.
    None,
    /// Threads ran.
    Threads,
    /// Processes ran.
    Processes,
    /// A file was open that cannot be opened again.
    Files,
    /// Memory was shared, or mapped from a file that is gone.
    Memory,
    /// The image would be too large.
    Size,
    /// `/tmp` held too much.
    Tmp,
    /// The snapshot fits a zygote that is gone.
    Zygote,
    /// The guest ended while it was restored.
    Broken,
    /// The environment has what only a starting interpreter reads.
    Environment,
    /// No snapshots are taken of this runtime.
    Runtime,
    /// This machine cannot do it.
    Platform,
}

impl Why {
    /// The guest's word for it.
    pub fn from_word(word: &str) -> Why {
        match word {
            "threads" => Why::Threads,
            "processes" => Why::Processes,
            "files" => Why::Files,
            "memory" => Why::Memory,
            "size" => Why::Size,
            "tmp" => Why::Tmp,
            "zygote" => Why::Zygote,
            "broken" => Why::Broken,
            _ => Why::Platform,
        }
    }

    /// For people; the same from release to release.
    pub fn text(self) -> &'static str {
        match self {
            Why::None => "no snapshot has been taken yet",
            Why::Threads => "Init leaves threads running",
            Why::Processes => "Init leaves processes running",
            Why::Files => "Init leaves a file open that cannot be opened again",
            Why::Memory => "Init leaves memory that is shared or whose file is gone",
            Why::Size => "the snapshot is too large",
            Why::Tmp => "Init leaves too much in /tmp",
            Why::Zygote => "the runtime was restarted since the snapshot was taken",
            Why::Broken => "the snapshot could not be restored",
            Why::Environment => "the environment has variables that only a starting interpreter reads",
            Why::Runtime => "no snapshots are taken of this runtime",
            Why::Platform => "this machine cannot take snapshots of the function",
        }
    }

    /// Whether another snapshot could be better.
    fn may_pass(self) -> bool {
        match self {
            Why::None | Why::Zygote | Why::Broken => true,
            Why::Threads
            | Why::Processes
            | Why::Files
            | Why::Memory
            | Why::Size
            | Why::Tmp
            | Why::Environment
            | Why::Runtime
            | Why::Platform => false,
        }
    }
}

/// The images of all versions.
#[derive(Debug)]
pub struct Snapshots {
    entries: Mutex<HashMap<Generation, Entry>>,
    bytes_max: u64,
    /// Bytes of those that are being taken.
    growing: AtomicU64,
}

/// The bytes of an image that is being taken, counted among those of all others that are, until this is dropped.
struct Growth<'a> {
    snapshots: &'a Snapshots,
    bytes: u64,
}

impl Growth<'_> {
    /// Counts more of them, or says why there cannot be more: the image is too large by itself, or there is no room now.
    fn add(&mut self, bytes: usize) -> Result<(), Why> {
        let bytes = bytes as u64;
        if self.bytes + bytes > self.snapshots.bytes_max {
            return Err(Why::Size);
        }
        self.bytes += bytes;
        let before = self.snapshots.growing.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes > self.snapshots.bytes_max { Err(Why::None) } else { Ok(()) }
    }
}

impl Drop for Growth<'_> {
    fn drop(&mut self) {
        self.snapshots.growing.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Entry {
    state: State,
    /// Whether it has been among the versions that may be invoked.
    published: bool,
    /// Whether it has been and is no more, while its image is being taken.
    gone: bool,
    used: Instant,
    failures: u32,
    /// Bytes of its newest image, once it had one.
    bytes: u64,
}

#[derive(Debug)]
enum State {
    /// The next start has one taken.
    Wanted(Why),
    Taking,
    Kept(Arc<Image>),
    Refused(Why),
}

impl Snapshots {
    /// None yet; those that are kept have so many bytes together at most, and those that are being taken as many.
    pub fn new(bytes_max: u64) -> Snapshots {
        Snapshots { entries: Mutex::default(), bytes_max, growing: AtomicU64::new(0) }
    }

    /// An image that is going to be taken.
    fn growth(&self) -> Growth<'_> {
        Growth { snapshots: self, bytes: 0 }
    }

    /// The image of a version, or why there is none.
    pub fn image(&self, of: Generation) -> Result<Arc<Image>, Why> {
        let mut entries = self.lock();
        let Some(entry) = entries.get_mut(&of) else { return Err(Why::None) };
        entry.used = Instant::now();
        match &entry.state {
            State::Kept(image) => Ok(image.clone()),
            State::Taking => Err(Why::None),
            State::Wanted(why) | State::Refused(why) => Err(*why),
        }
    }

    /// Keeps only versions that may be invoked, and those that are being published. What is being taken ends by itself.
    pub fn retain(&self, current: &HashSet<Generation>) {
        self.lock().retain(|of, entry| {
            let is_current = current.contains(of);
            entry.published |= is_current;
            entry.gone = entry.published && !is_current;
            let is_taking = matches!(entry.state, State::Taking);
            is_current || is_taking || (!entry.published && entry.used.elapsed() < UNPUBLISHED_KEPT)
        });
    }

    /// This image of a version turned out useless, for this reason. Several starts may find that of one image, and find it
    /// late: it counts once, and not against the next one.
    pub fn lost(&self, of: Generation, image: &Arc<Image>, why: Why) {
        let mut entries = self.lock();
        let Some(entry) = entries.get_mut(&of) else { return };
        if matches!(&entry.state, State::Kept(kept) if Arc::ptr_eq(kept, image)) {
            entry.failures += u32::from(why != Why::Zygote);
            let again = why.may_pass() && entry.failures < FAILURES_MAX;
            entry.state = if again { State::Wanted(why) } else { State::Refused(why) };
        }
    }

    /// Whether one is to be taken now; then nobody else takes one until [`Snapshots::end`].
    fn begin(&self, of: Generation) -> bool {
        let mut entries = self.lock();
        if is_contested(&entries, of, self.bytes_max) {
            return false;
        }
        let state = State::Wanted(Why::None);
        let new = || Entry { state, published: false, gone: false, used: Instant::now(), failures: 0, bytes: 0 };
        let entry = entries.entry(of).or_insert_with(new);
        let wanted = matches!(entry.state, State::Wanted(_));
        if wanted {
            entry.state = State::Taking;
        }
        wanted
    }

    /// What came of it.
    fn end(&self, of: Generation, taken: Result<Image, Why>) -> Result<(), Why> {
        let mut entries = self.lock();
        let Some(entry) = entries.get_mut(&of) else { return Err(Why::None) };
        if entry.gone {
            entries.remove(&of);
            return Err(Why::None);
        }
        // An Init may have taken longer than what is not published yet is kept.
        entry.used = Instant::now();
        let why = match taken {
            Ok(image) if image.bytes() <= self.bytes_max => {
                entry.bytes = image.bytes();
                entry.state = State::Kept(Arc::new(image));
                make_room(&mut entries, of, self.bytes_max);
                return Ok(());
            }
            Ok(_) => Why::Size,
            Err(why) => why,
        };
        entry.failures += u32::from(why != Why::None);
        let again = why.may_pass() && entry.failures < FAILURES_MAX;
        entry.state = if again { State::Wanted(why) } else { State::Refused(why) };
        Err(why)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Generation, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether an image of a version that had one before would take the place of one that is in use.
fn is_contested(entries: &HashMap<Generation, Entry>, of: Generation, bytes_max: u64) -> bool {
    let Some(before) = entries.get(&of).map(|entry| entry.bytes).filter(|bytes| *bytes > 0) else { return false };
    let others = entries.iter().filter(|(other, entry)| **other != of && matches!(entry.state, State::Kept(_)));
    let in_use = others.filter(|(_, entry)| entry.used.elapsed() < CONTESTED).map(|(_, entry)| entry.bytes);
    before + in_use.sum::<u64>() > bytes_max
}

/// Drops what was used longest ago until the rest is small enough; `newest` stays.
fn make_room(entries: &mut HashMap<Generation, Entry>, newest: Generation, bytes_max: u64) {
    loop {
        let images = entries.iter().filter_map(|(of, entry)| match &entry.state {
            State::Kept(image) => Some((*of, entry.used, image.bytes())),
            State::Wanted(_) | State::Taking | State::Refused(_) => None,
        });
        let images: Vec<(Generation, Instant, u64)> = images.collect();
        if images.iter().map(|(_, _, bytes)| bytes).sum::<u64>() <= bytes_max {
            return;
        }
        let oldest = images.iter().filter(|(of, ..)| *of != newest).min_by_key(|(_, used, _)| *used);
        match oldest.and_then(|(of, ..)| entries.get_mut(of)) {
            Some(entry) => entry.state = State::Wanted(Why::None),
            None => return,
        }
    }
}

/// The right to take a snapshot: of few versions at a time, and of one of each function, so that no function has all turns.
#[derive(Debug)]
pub struct Turns {
    all: Semaphore,
    functions: Mutex<HashMap<FunctionName, Weak<Semaphore>>>,
}

/// A turn, until this is dropped.
struct Turn<'a> {
    _function: OwnedSemaphorePermit,
    _all: SemaphorePermit<'a>,
}

impl Turns {
    /// All of them free.
    pub fn new() -> Turns {
        Turns { all: Semaphore::new(TAKES_MAX), functions: Mutex::default() }
    }

    /// Waits for a turn of this function: so long for the function's own, which keeps nobody else from theirs, and then
    /// [`TURN_WAIT`]. `None`: it did not come.
    async fn take(&self, of: &FunctionName, own_wait: Duration) -> Option<Turn<'_>> {
        let _function = timeout(own_wait, self.function(of).acquire_owned()).await.ok()?.ok()?;
        let _all = timeout(TURN_WAIT, self.all.acquire()).await.ok()?.ok()?;
        Some(Turn { _function, _all })
    }

    fn function(&self, of: &FunctionName) -> Arc<Semaphore> {
        let mut functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = functions.get(of).and_then(Weak::upgrade) {
            return known;
        }
        functions.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::new(Semaphore::new(1));
        functions.insert(of.clone(), Arc::downgrade(&turn));
        turn
    }
}

/// Why a version that is to be restored from snapshots cannot be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitFailed {
    /// Whether its time was over.
    pub timed_out: bool,
    /// The error's type.
    pub error_type: String,
}

impl Handle {
    /// Initialises a version that is about to be published and takes a snapshot of it. `Ok(Err(_))`: Init went well, but
    /// instances will initialise by themselves for this reason.
    pub async fn take_snapshot(&self, spec: Arc<Spec>) -> Result<Result<(), &'static str>, InitFailed> {
        let of = spec.generation;
        if !self.shared.snapshots.begin(of) {
            return Ok(self.shared.snapshots.image(of).map(drop).map_err(Why::text));
        }
        let taken = take(&self.shared, &spec).await;
        let failed = match taken {
            Ok(taken) => return Ok(end(&self.shared, of, taken).map_err(Why::text)),
            Err(Failure::Function { ending, .. }) => Some(ending),
            Err(_) => None,
        };
        // Without an image, the first start tries again.
        let _ = end(&self.shared, of, Err(Why::None));
        match failed {
            Some(ending) => {
                let timed_out = ending == Ending::TimedOut;
                Err(InitFailed { timed_out, error_type: ending.error_type().to_owned() })
            }
            None => Ok(Err(Why::None.text())),
        }
    }
}

/// Takes a snapshot behind a start that had none, if one is wanted.
pub fn take_later(shared: &Arc<Shared>, spec: &Arc<Spec>) {
    if !spec.snap_start || !shared.snapshots.begin(spec.generation) {
        return;
    }
    let (shared, spec) = (shared.clone(), spec.clone());
    tokio::spawn(async move {
        let taken = take(&shared, &spec).await.unwrap_or_else(|failure| match failure {
            Failure::Function { .. } => Err(Why::Broken),
            _ => Err(Why::None),
        });
        if let Err(why) = end(&shared, spec.generation, taken) {
            tracing::info!(function = %spec.name(), version = %spec.version, why = why.text(), "no snapshot");
        }
    });
}

/// Keeps what came of a snapshot, and counts it.
fn end(shared: &Shared, of: Generation, taken: Result<Image, Why>) -> Result<(), Why> {
    let ended = shared.snapshots.end(of, taken);
    shared.metrics.taken(ended.map_or_else(Why::text, |()| "taken"));
    ended
}

/// Initialises a guest and gives its image, or why it has none; the guest is gone afterwards.
async fn take(shared: &Arc<Shared>, spec: &Arc<Spec>) -> Result<Result<Image, Why>, Failure> {
    if !matches!(spec.runtime.family(), RuntimeFamily::Python { .. }) {
        return Ok(Err(Why::Runtime));
    }
    wait_for_interpreters(shared).await?;
    if !can_share(shared) {
        return Ok(Err(Why::Platform));
    }
    if spec.environment.iter().any(|(name, value)| is_read_at_start(name, value)) {
        return Ok(Err(Why::Environment));
    }
    let initialization = Initialization::Provisioned;
    let limits = InitLimits::of(initialization, shared.limits.init_ms, spec.timeout_ms);
    let Some(_turn) = shared.turns.take(spec.name(), Duration::from_millis(limits.init_ms)).await else {
        return Ok(Err(Why::None));
    };
    let mut killed = false;
    for _ in 0..GUESTS_MAX {
        let (room, _) = shared.budget.take(shared, spec).await.map_err(|_| Failure::Full)?;
        let launched = launch(shared, spec, Initialization::OnDemand, Arc::new(room), Wish::Write).await?;
        if !launched.waits {
            // An interpreter of its own, which shares no addresses with others.
            drop(launched);
            tokio::time::sleep(GUEST_PAUSE).await;
            continue;
        }
        let begun = Instant::now();
        let written =
            timeout(Duration::from_millis(limits.init_ms), write(&launched, spec, shared.snapshots.growth())).await;
        let init_us = begun.elapsed().as_micros() as u64;
        let failed = match written.unwrap_or(Err(Ending::TimedOut)) {
            Ok(written) => {
                launched.log.say(format!("INIT_REPORT Init Duration: {:.2} ms\tPhase: init", init_us as f64 / 1e3));
                return Ok(written);
            }
            // Not by its own doing, as far as can be told: once more.
            Err(Ending::Exited { status: Some(ExitStatus::Signal(9)), out_of_memory: false }) if !killed => {
                killed = true;
                continue;
            }
            Err(ending) => ending,
        };
        let kind = failed.error_type();
        let report = format!("INIT_REPORT Init Duration: {:.2} ms\tPhase: init\t", init_us as f64 / 1e3);
        launched.log.say(format!("{report}Status: error\tError Type: {kind}"));
        return Err(Failure::Function { ending: failed, log: launched.log.clone(), init_us, memory_mb: 0 });
    }
    Ok(Err(Why::Platform))
}

/// Guests come from a zygote, and thus share addresses, only where a control group limits their memory.
fn can_share(shared: &Shared) -> bool {
    let hello = shared.hello.borrow();
    let abilities = hello.iter().flat_map(|hello| &hello.abilities);
    abilities.into_iter().any(|ability| ability.name == "memory limit" && ability.grade == Grade::Full)
}

/// Carries the image from the guest, piece by piece.
async fn write(launched: &Launched, spec: &Spec, mut growth: Growth<'_>) -> Result<Result<Image, Why>, Ending> {
    let bytes_max = (u64::from(spec.memory_mb) << 20) + SLACK_BYTES;
    let Ok(mut growing) = Growing::new(bytes_max) else { return Ok(Err(Why::Platform)) };
    loop {
        match launched.receive().await {
            Ok(frame) if frame.kind == Kind::Image => {
                if let Err(why) = growth.add(frame.body.len()) {
                    return Ok(Err(why));
                }
                if growing.append(&frame.body).is_err() {
                    return Ok(Err(Why::Size));
                }
            }
            Ok(frame) if frame.kind == Kind::Ready && frame.answer.reason.is_empty() && growing.bytes() > 0 => {
                return Ok(growing.seal().map_err(|_| Why::Platform));
            }
            Ok(frame) if frame.kind == Kind::Ready => return Ok(Err(Why::from_word(&frame.answer.reason))),
            Ok(frame) if frame.kind == Kind::InitError => {
                return Err(Ending::Reported { error_type: frame.answer.error_type, payload: frame.body });
            }
            Ok(_) | Err(Broken::Garbage) => return Err(Ending::ProtocolBroken),
            Err(Broken::Closed) => return Err(exited(&launched.exit()).await),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(bytes: usize) -> Image {
        let mut growing = Growing::new(1 << 20).unwrap();
        growing.append(&vec![1; bytes]).unwrap();
        growing.seal().unwrap()
    }

    fn keep(snapshots: &Snapshots, of: u64, bytes: usize) -> Result<(), Why> {
        assert!(snapshots.begin(Generation(of)));
        assert!(!snapshots.begin(Generation(of)), "one at a time");
        snapshots.end(Generation(of), Ok(image(bytes)))
    }

    #[test]
    fn the_one_used_longest_ago_gives_way() {
        let snapshots = Snapshots::new(100);
        keep(&snapshots, 1, 40).unwrap();
        keep(&snapshots, 2, 40).unwrap();
        snapshots.image(Generation(1)).unwrap();
        keep(&snapshots, 3, 40).unwrap();
        assert_eq!(snapshots.image(Generation(2)).unwrap_err(), Why::None);
        assert!(snapshots.image(Generation(1)).is_ok() && snapshots.image(Generation(3)).is_ok());
        assert_eq!(keep(&snapshots, 4, 101), Err(Why::Size));
        assert!(!snapshots.begin(Generation(4)), "it stays too large");
        assert!(!snapshots.begin(Generation(2)), "it is wanted again, but those that are kept are in use");
        snapshots.retain(&HashSet::from([1, 2, 3, 4].map(Generation)));
        snapshots.retain(&HashSet::from([2, 4].map(Generation)));
        assert!(snapshots.begin(Generation(2)), "there is room");
    }

    #[test]
    fn failures_are_bounded_and_an_end_of_the_zygote_is_none() {
        let snapshots = Snapshots::new(100);
        let of = Generation(1);
        for _ in 0..10 {
            keep(&snapshots, 1, 10).unwrap();
            snapshots.lost(of, &snapshots.image(of).unwrap(), Why::Zygote);
        }
        for _ in 0..FAILURES_MAX {
            keep(&snapshots, 1, 10).unwrap();
            snapshots.lost(of, &snapshots.image(of).unwrap(), Why::Broken);
        }
        assert!(!snapshots.begin(of));
        assert_eq!(snapshots.image(of).unwrap_err(), Why::Broken);
    }

    #[test]
    fn an_image_is_lost_once_whoever_finds_it_out() {
        let snapshots = Snapshots::new(100);
        let of = Generation(1);
        keep(&snapshots, 1, 10).unwrap();
        let old = snapshots.image(of).unwrap();
        for _ in 0..FAILURES_MAX {
            snapshots.lost(of, &old, Why::Broken);
        }
        assert!(snapshots.begin(of), "three starts of one image are one failure");
        snapshots.lost(of, &old, Why::Broken);
        assert!(!snapshots.begin(of), "another is being taken");
        snapshots.end(of, Ok(image(10))).unwrap();
        snapshots.lost(of, &old, Why::Platform);
        let new = snapshots.image(of).expect("the new one is another");
        assert!(!Arc::ptr_eq(&new, &old));
    }

    #[test]
    fn what_is_being_taken_stays_until_it_ends() {
        let snapshots = Snapshots::new(100);
        let (of, none) = (Generation(1), HashSet::new());
        assert!(snapshots.begin(of));
        snapshots.lock().get_mut(&of).unwrap().used -= UNPUBLISHED_KEPT;
        snapshots.retain(&none);
        snapshots.end(of, Ok(image(10))).unwrap();
        snapshots.retain(&none);
        let old = snapshots.image(of).expect("it was still being published, and is");
        snapshots.lost(of, &old, Why::Zygote);
        snapshots.retain(&HashSet::from([of]));
        assert!(snapshots.begin(of));
        snapshots.retain(&none);
        assert!(!snapshots.begin(of), "one at a time, although its version is gone");
        assert_eq!(snapshots.end(of, Ok(image(10))), Err(Why::None), "nobody wants it");
        assert!(snapshots.lock().is_empty());
        assert_eq!(snapshots.end(of, Ok(image(10))), Err(Why::None), "never begun");
    }

    #[tokio::test]
    async fn a_function_has_one_turn_at_a_time() {
        let turns = Turns::new();
        let name = |number: usize| FunctionName::parse(&format!("f{number}")).unwrap();
        let (patience, long) = (Duration::from_millis(20), Duration::from_secs(60));
        let mut held = vec![turns.take(&name(0), long).await.unwrap()];
        {
            let (again, other) = (name(0), name(1));
            let mut waiting = std::pin::pin!(turns.take(&again, long));
            assert!(timeout(patience, waiting.as_mut()).await.is_err(), "its own is taken");
            assert!(turns.take(&again, patience).await.is_none());
            turns.take(&other, long).await.unwrap();
            held.clear();
            held.push(waiting.await.unwrap());
        }
        for number in 1..TAKES_MAX {
            held.push(turns.take(&name(number), long).await.unwrap());
        }
        assert!(timeout(patience, turns.take(&name(TAKES_MAX), long)).await.is_err(), "all are taken");
        held.clear();
        held.push(turns.take(&name(0), long).await.unwrap());
        assert_eq!(turns.functions.lock().unwrap().len(), 1, "what is over is forgotten");
    }

    #[test]
    fn images_are_bounded_while_they_grow() {
        let snapshots = Snapshots::new(100);
        let (mut one, mut other) = (snapshots.growth(), snapshots.growth());
        assert_eq!(one.add(101), Err(Why::Size), "by itself");
        one.add(60).unwrap();
        other.add(40).unwrap();
        assert_eq!(other.add(1), Err(Why::None), "there may be room later");
        assert_eq!(one.add(41), Err(Why::Size));
        drop(one);
        other.add(59).unwrap();
        drop(other);
        snapshots.growth().add(100).unwrap();
    }

    #[test]
    fn images_go_with_their_versions() {
        let snapshots = Snapshots::new(100);
        keep(&snapshots, 1, 10).unwrap();
        snapshots.retain(&HashSet::new());
        assert!(snapshots.image(Generation(1)).is_ok(), "it is being published");
        snapshots.retain(&HashSet::from([Generation(1)]));
        snapshots.retain(&HashSet::from([Generation(2)]));
        assert_eq!(snapshots.image(Generation(1)).unwrap_err(), Why::None);
    }
}
