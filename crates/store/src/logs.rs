//! Function logs: a folder per function, `current.log` and behind it `1.log`, `2.log` and so on, the higher
//! the older. Bounded in bytes per file and in files. Not synced: a power cut may cost the newest lines.

use crate::Error;
use crate::log_line;
use model::log::LogLine;
use model::{FunctionName, Limits};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Functions whose current file is kept open; beyond it the one that wrote longest ago is closed.
const OPEN_FILES_MAX: usize = 64;
/// The most lines that one read gives.
const READ_LINES_MAX: usize = 10_000;
/// The most bytes of log files that one read looks at.
const READ_BYTES_MAX: u64 = 4_194_304;
/// Deleted functions that are remembered, since their instances may still write; beyond it the earliest is forgotten.
const CLOSED_MAX: usize = 1_024;
/// Instances of a deleted function that are remembered.
const CLOSED_STREAMS_MAX: usize = 10_000;
/// Bytes from the start of a log file that tell it from others.
const FINGERPRINT_BYTES: usize = 128;

const CURRENT: &str = "current.log";

/// All function logs.
#[derive(Debug)]
pub struct Logs {
    folder: PathBuf,
    /// Held while a log is appended to, rotated or removed, and while a reader opens its files.
    open: Mutex<OpenFiles>,
}

/// Where a reader of a log stopped. Opaque to users; the text form is made for passing it around. It stays
/// true when files are rotated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    file: Identity,
    offset: u64,
}

/// The text is not a cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is not a log cursor")]
pub struct CursorError;

/// Tells a log file from others of the same function under whatever name. The inode alone is not enough: it
/// may be used again once the oldest file is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    inode: u64,
    fingerprint: u64,
}

impl Cursor {
    /// The oldest line that is kept.
    pub const START: Cursor = Cursor { file: Identity { inode: 0, fingerprint: 0 }, offset: 0 };
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:x}-{:x}", self.file.inode, self.file.fingerprint, self.offset)
    }
}

impl FromStr for Cursor {
    type Err = CursorError;
    fn from_str(text: &str) -> Result<Cursor, CursorError> {
        let number = |part: &str| u64::from_str_radix(part, 16).map_err(|_| CursorError);
        match text.split('-').collect::<Vec<_>>().as_slice() {
            [inode, fingerprint, offset] => {
                let file = Identity { inode: number(inode)?, fingerprint: number(fingerprint)? };
                Ok(Cursor { file, offset: number(offset)? })
            }
            _ => Err(CursorError),
        }
    }
}

impl Logs {
    pub(crate) fn open(folder: PathBuf) -> Logs {
        Logs { folder, open: Mutex::new(OpenFiles::default()) }
    }

    /// Appends lines, each to its function's log, in their order. On an error the other functions' lines are
    /// still written; [`Error::AppendLog`] says how many were lost.
    pub fn append(&self, lines: &[LogLine], limits: &Limits) -> Result<(), Error> {
        let mut by_function: BTreeMap<&FunctionName, Vec<&LogLine>> = BTreeMap::new();
        let mut open = self.lock();
        for line in lines.iter().filter(|line| open.closed.takes(line)) {
            by_function.entry(&line.function).or_default().push(line);
        }
        let (mut lost, mut first) = (0, None);
        for (function, lines) in by_function {
            let folder = self.function_folder(function);
            let mut batch = Batch { folder: &folder, function, limits, open: &mut open, written: 0 };
            if let Err(source) = batch.append(&lines) {
                lost += lines.len() - batch.written;
                // Opened afresh next time: its length is not known any more.
                open.files.remove(function);
                first.get_or_insert((folder, source));
            }
        }
        match first {
            None => Ok(()),
            Some((path, source)) => Err(Error::AppendLog { path, lines: lost, source }),
        }
    }

    /// Lines of a function's log, at most `limit` (and 10,000), oldest first, and the cursor behind the last
    /// of them.
    ///
    /// With `after`, the lines behind that cursor; if its file has been rotated away, the oldest lines kept.
    /// Without, the newest lines. A function without a log has no lines. One read looks at no more than 4 MiB.
    pub fn read(
        &self,
        function: &FunctionName,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<(Vec<LogLine>, Cursor), Error> {
        let folder = self.function_folder(function);
        let limit = limit.min(READ_LINES_MAX);
        let read = || {
            let segments = {
                let _open = self.lock();
                Segment::open_all(&folder)?
            };
            match after {
                Some(cursor) => read_forward(function, segments, *cursor, limit),
                None => read_newest(function, segments, limit),
            }
        };
        read().map_err(|source| Error::ReadLog { path: folder.clone(), source })
    }

    /// Ends the log of a function that is deleted: removes it, and drops what instances of the function still write.
    /// Nothing is remembered of that past a restart, nor need it be: no instance outlives one.
    pub fn close(&self, function: &FunctionName) -> Result<(), Error> {
        self.lock().closed.close(function);
        // Whoever has written before is an instance of the deleted function, and so is whoever writes from here on.
        let (lines, _) = self.read(function, None, READ_LINES_MAX)?;
        self.lock().closed.know(function, lines.into_iter().map(|line| line.stream));
        self.remove(function)
    }

    /// Begins the empty log of a new function at `now_ms`, milliseconds since the Unix epoch. What instances write that
    /// have written before, is still dropped; lines may be under way for long, so their own time counts. To be called
    /// before an instance of the new function can write.
    pub fn begin(&self, function: &FunctionName, now_ms: u64) -> Result<(), Error> {
        self.lock().closed.open(function, now_ms);
        self.remove(function)
    }

    /// Removes a function's log. None there is no error.
    pub fn remove(&self, function: &FunctionName) -> Result<(), Error> {
        let path = self.function_folder(function);
        let mut open = self.lock();
        open.files.remove(function);
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::RemoveLog { path, source: error }),
            _ => Ok(()),
        }
    }

    /// The functions that have a log, in no order.
    pub fn functions(&self) -> Result<Vec<FunctionName>, Error> {
        let list = || {
            let names = fs::read_dir(&self.folder)?.map(|entry| entry.map(|entry| entry.file_name()));
            names.collect::<io::Result<Vec<_>>>()
        };
        let names = list().map_err(|source| Error::ReadLog { path: self.folder.clone(), source })?;
        // What has another name is not ours.
        Ok(names.iter().filter_map(|name| FunctionName::parse(name.to_str()?).ok()).collect())
    }

    fn function_folder(&self, function: &FunctionName) -> PathBuf {
        self.folder.join(function.as_str())
    }

    /// A panic elsewhere leaves at worst a torn line, which readers skip.
    fn lock(&self) -> MutexGuard<'_, OpenFiles> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The current files of the functions that wrote last.
#[derive(Debug, Default)]
struct OpenFiles {
    files: HashMap<FunctionName, Current>,
    /// Counts uses, to tell which is the oldest.
    uses: u64,
    closed: Closed,
}

/// The log streams, and so the instances, of deleted functions.
#[derive(Debug, Default)]
struct Closed {
    functions: HashMap<FunctionName, ClosedFunction>,
    /// In the order of their first deletion.
    order: VecDeque<FunctionName>,
}

#[derive(Debug, Default)]
struct ClosedFunction {
    /// There is no function of this name now.
    absent: bool,
    /// When the function that is there now began.
    begun_ms: u64,
    streams: HashSet<Arc<str>>,
}

impl Closed {
    /// Does the line belong to a function that is there? One that does not tells of an instance.
    fn takes(&mut self, line: &LogLine) -> bool {
        let Some(closed) = self.functions.get_mut(&line.function) else { return true };
        if closed.streams.contains(&line.stream) {
            return false;
        }
        let earlier = closed.absent || line.time_ms < closed.begun_ms;
        if earlier && closed.streams.len() < CLOSED_STREAMS_MAX {
            closed.streams.insert(line.stream.clone());
        }
        !earlier
    }

    fn close(&mut self, function: &FunctionName) {
        if !self.functions.contains_key(function) {
            self.order.push_back(function.clone());
            if self.order.len() > CLOSED_MAX {
                self.order.pop_front().and_then(|earliest| self.functions.remove(&earliest));
            }
        }
        self.functions.entry(function.clone()).or_default().absent = true;
    }

    fn know(&mut self, function: &FunctionName, streams: impl Iterator<Item = Arc<str>>) {
        if let Some(closed) = self.functions.get_mut(function) {
            let room = CLOSED_STREAMS_MAX.saturating_sub(closed.streams.len());
            closed.streams.extend(streams.collect::<HashSet<_>>().into_iter().take(room));
        }
    }

    fn open(&mut self, function: &FunctionName, now_ms: u64) {
        if let Some(closed) = self.functions.get_mut(function) {
            (closed.absent, closed.begun_ms) = (false, now_ms);
        }
    }
}

#[derive(Debug)]
struct Current {
    file: File,
    bytes: u64,
    used: u64,
}

impl OpenFiles {
    fn current(&mut self, function: &FunctionName, folder: &Path) -> io::Result<&mut Current> {
        self.uses += 1;
        let used = self.uses;
        if !self.files.contains_key(function) {
            if self.files.len() >= OPEN_FILES_MAX {
                let oldest = self.files.iter().min_by_key(|(_, current)| current.used).map(|(name, _)| name.clone());
                oldest.and_then(|name| self.files.remove(&name));
            }
            self.files.insert(function.clone(), Current::open(folder)?);
        }
        match self.files.get_mut(function) {
            Some(current) => {
                current.used = used;
                Ok(current)
            }
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

impl Current {
    fn open(folder: &Path) -> io::Result<Current> {
        let path = folder.join(CURRENT);
        let open = || OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&path);
        let file = match open() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
                open()?
            }
            done => done?,
        };
        let bytes = file.metadata()?.len();
        let mut current = Current { file, bytes, used: 0 };
        current.end_torn_line()?;
        Ok(current)
    }

    /// An earlier run may have been killed in the middle of a write.
    fn end_torn_line(&mut self) -> io::Result<()> {
        let mut last = [b'\n'];
        if self.bytes > 0 {
            self.file.read_exact_at(&mut last, self.bytes - 1)?;
        }
        if last != [b'\n'] { self.write(b"\n") } else { Ok(()) }
    }

    fn write(&mut self, records: &[u8]) -> io::Result<()> {
        let written = self.file.write_all(records);
        match written {
            Ok(()) => self.bytes += records.len() as u64,
            // A full disk may have taken a part; half a batch would be read as if it were whole.
            Err(_) => self.file.set_len(self.bytes)?,
        }
        written
    }
}

/// One function's share of an append.
struct Batch<'a> {
    folder: &'a Path,
    function: &'a FunctionName,
    limits: &'a Limits,
    open: &'a mut OpenFiles,
    written: usize,
}

impl Batch<'_> {
    fn append(&mut self, lines: &[&LogLine]) -> io::Result<()> {
        let mut file_bytes = self.open.current(self.function, self.folder)?.bytes;
        let (mut records, mut pending) = (Vec::new(), 0);
        let mut writer = log_line::Writer::default();
        for line in lines {
            let before = records.len();
            writer.write(&mut records, line);
            let full = file_bytes + records.len() as u64 > self.limits.log_file_bytes;
            if full && file_bytes + before as u64 > 0 {
                let record = records.split_off(before);
                self.flush(&records, pending)?;
                self.rotate()?;
                (file_bytes, records, pending) = (0, record, 0);
            }
            pending += 1;
        }
        self.flush(&records, pending)
    }

    fn flush(&mut self, records: &[u8], lines: usize) -> io::Result<()> {
        if lines > 0 {
            self.open.current(self.function, self.folder)?.write(records)?;
            self.written += lines;
        }
        Ok(())
    }

    /// Makes every file one older and drops those beyond the limit. A kill in between leaves a gap in the
    /// numbers, which does no harm.
    fn rotate(&mut self) -> io::Result<()> {
        self.open.files.remove(self.function);
        let path = |number: u32| self.folder.join(format!("{number}.log"));
        for number in old_numbers(self.folder)? {
            if number >= self.limits.log_files {
                fs::remove_file(path(number))?;
            } else {
                fs::rename(path(number), path(number.saturating_add(1)))?;
            }
        }
        let current = self.folder.join(CURRENT);
        if self.limits.log_files == 0 { fs::remove_file(current) } else { fs::rename(current, path(1)) }
    }
}

/// The numbers of the rotated files, the oldest, and so the highest, first.
fn old_numbers(folder: &Path) -> io::Result<Vec<u32>> {
    let mut numbers: Vec<u32> = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let Some(text) = name.to_str().and_then(|name| name.strip_suffix(".log")) else { continue };
        // Only names that we would give: `01.log` is not ours to rename.
        numbers.extend(text.parse::<u32>().ok().filter(|number| *number > 0 && number.to_string() == text));
    }
    numbers.sort_unstable_by(|a, b| b.cmp(a));
    Ok(numbers)
}

/// One log file as it was when the reader opened it.
struct Segment {
    file: File,
    bytes: u64,
    identity: Identity,
}

impl Segment {
    /// All files of a log that hold something, the oldest first.
    fn open_all(folder: &Path) -> io::Result<Vec<Segment>> {
        let numbers = match old_numbers(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            numbers => numbers?,
        };
        let names = numbers.iter().map(|number| format!("{number}.log")).chain([CURRENT.to_owned()]);
        let mut segments = Vec::new();
        for name in names {
            match File::open(folder.join(name)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                file => segments.extend(Segment::of(file?)?),
            }
        }
        Ok(segments)
    }

    /// `None` as long as the file's start is not settled.
    fn of(file: File) -> io::Result<Option<Segment>> {
        let found = file.metadata()?;
        let mut start = Vec::new();
        (&file).take(FINGERPRINT_BYTES as u64).read_to_end(&mut start)?;
        match start.iter().position(|byte| *byte == b'\n') {
            Some(end) => start.truncate(end),
            None if start.len() < FINGERPRINT_BYTES => return Ok(None),
            None => {}
        }
        let identity = Identity { inode: found.ino(), fingerprint: fnv1a(&start) };
        Ok(Some(Segment { file, bytes: found.len(), identity }))
    }

    fn cursor(&self, offset: u64) -> Cursor {
        Cursor { file: self.identity, offset }
    }
}

/// The 64-bit FNV-1a hash; good enough to tell a handful of files apart.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

fn read_forward(
    function: &FunctionName,
    mut segments: Vec<Segment>,
    mut cursor: Cursor,
    limit: usize,
) -> io::Result<(Vec<LogLine>, Cursor)> {
    let known = segments.iter().position(|segment| segment.identity == cursor.file);
    segments.drain(..known.unwrap_or(0));
    let mut offset = known.map_or(0, |_| cursor.offset);
    let (mut lines, mut left_bytes) = (Vec::new(), READ_BYTES_MAX);
    for segment in &segments {
        if lines.len() >= limit || left_bytes == 0 {
            break;
        }
        // A made-up cursor may point anywhere.
        let offset_here = offset.min(segment.bytes);
        let bytes = (segment.bytes - offset_here).min(left_bytes);
        let end = offset_here + read_lines(function, segment, offset_here, bytes, limit, &mut lines)?;
        cursor = segment.cursor(end);
        left_bytes -= bytes;
        offset = 0;
    }
    Ok((lines, cursor))
}

/// Reads whole lines from `bytes` of a file until `limit` are there. Gives how many bytes are done with.
fn read_lines(
    function: &FunctionName,
    segment: &Segment,
    offset: u64,
    bytes: u64,
    limit: usize,
    lines: &mut Vec<LogLine>,
) -> io::Result<u64> {
    let mut file = &segment.file;
    file.seek(SeekFrom::Start(offset))?;
    let mut reader = BufReader::new(file.take(bytes));
    let (mut record, mut done) = (Vec::new(), 0);
    while lines.len() < limit {
        record.clear();
        let read = reader.read_until(b'\n', &mut record)? as u64;
        if record.pop_if(|byte| *byte == b'\n').is_some() {
            done += read;
            lines.extend(log_line::read(function, &record));
        } else if done == 0 && read == READ_BYTES_MAX {
            // No line of ours is that long: step over it, or the reader would stand here for ever.
            return Ok(read);
        } else {
            break;
        }
    }
    Ok(done)
}

fn read_newest(function: &FunctionName, segments: Vec<Segment>, limit: usize) -> io::Result<(Vec<LogLine>, Cursor)> {
    let (mut newest_first, mut left_bytes, mut cursor) = (Vec::new(), READ_BYTES_MAX, None);
    for segment in segments.iter().rev() {
        let start = segment.bytes.saturating_sub(left_bytes);
        let mut window = vec![0; (segment.bytes - start) as usize];
        segment.file.read_exact_at(&mut window, start)?;
        let end = window.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        cursor.get_or_insert(segment.cursor(start + end as u64));
        // Cut in the middle of a line, unless the window starts with the file.
        let first = if start == 0 { Some(0) } else { window.iter().position(|byte| *byte == b'\n').map(|at| at + 1) };
        let whole = first.and_then(|first| window.get(first..end)).unwrap_or_default();
        let records = whole.split(|byte| *byte == b'\n').rev();
        newest_first.extend(records.filter_map(|r| log_line::read(function, r)).take(limit - newest_first.len()));
        left_bytes -= window.len() as u64;
        if newest_first.len() >= limit || left_bytes == 0 {
            break;
        }
    }
    newest_first.reverse();
    Ok((newest_first, cursor.unwrap_or(Cursor::START)))
}
