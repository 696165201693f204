//! The registry: keys and values with revisions, compare-and-set and prefix listing. No more than a
//! replicated key-value store offers (NATS JetStream's is the model), so that one can take its place.

use crate::Error;
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use std::fmt;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The most bytes in a key or prefix.
pub const KEY_BYTES_MAX: usize = 512;
/// The most bytes in a value: what a NATS message holds by default.
pub const VALUE_BYTES_MAX: usize = 1_048_576;

/// How long a statement waits for another process that reads the file, an operator's `sqlite3` say.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// The file's format, kept in SQLite's `user_version`; 0 is a new file.
const FORMAT: i64 = 1;
/// The counter behind revisions. The name cannot clash: it is no valid key.
const REVISION_COUNTER: &str = "#revision";

/// Version 1 of the tables.
const TABLES: &str = "
    CREATE TABLE entries (key TEXT PRIMARY KEY NOT NULL, value BLOB NOT NULL, revision INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE counters (name TEXT PRIMARY KEY NOT NULL, value INTEGER NOT NULL) WITHOUT ROWID;
";

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its key.
    pub key: String,
    /// Its value.
    pub value: Vec<u8>,
    /// The revision of its newest write. Revisions grow over the whole registry and are never used twice.
    pub revision: u64,
}

/// What a writer expects of the record it is about to change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Anything, or nothing.
    Any,
    /// No record.
    Absent,
    /// A record at exactly this revision.
    Revision(u64),
}

impl Expect {
    fn holds(self, found: Option<u64>) -> bool {
        match self {
            Expect::Any => true,
            Expect::Absent => found.is_none(),
            Expect::Revision(revision) => found == Some(revision),
        }
    }
}

impl fmt::Display for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Expect::Any => f.write_str("anything"),
            Expect::Absent => f.write_str("absent"),
            Expect::Revision(revision) => write!(f, "at revision {revision}"),
        }
    }
}

/// The registry, in one SQLite file. A write is on the disk when it returns. Nothing in here reads a clock
/// or draws a random number: the same writes in the same order give the same records.
#[derive(Debug)]
pub struct Registry {
    connection: Mutex<Connection>,
}

impl Registry {
    pub(crate) fn open(path: &Path) -> Result<Registry, Error> {
        // Made before SQLite sees it, because values hold users' secrets; SQLite gives its side files the same mode.
        OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path)
            .map_err(|source| Error::Prepare { path: path.to_owned(), source })?;
        let failed = |source| Error::OpenRegistry { path: path.to_owned(), source };
        let mut connection = Connection::open(path).map_err(failed)?;
        configure(&connection).map_err(failed)?;
        let found = migrate(&mut connection).map_err(failed)?;
        if found > FORMAT {
            return Err(Error::RegistryFormat { path: path.to_owned(), found, known: FORMAT });
        }
        Ok(Registry { connection: Mutex::new(connection) })
    }

    /// The record of a key.
    pub fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        check_key(key)?;
        let connection = self.lock();
        let read = || {
            let mut query = connection.prepare_cached("SELECT value, revision FROM entries WHERE key = ?1")?;
            let found = query.query_row([key], |row| {
                Ok(Entry { key: key.to_owned(), value: row.get(0)?, revision: from_column(row.get(1)?) })
            });
            found.optional()
        };
        read().map_err(|source| Error::ReadRegistry { key: key.to_owned(), source })
    }

    /// Records whose key starts with `prefix` and is greater than `after`, at most `limit` of them, in the
    /// order of their keys' bytes. An empty prefix means all.
    pub fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Entry>, Error> {
        if !prefix.is_empty() {
            check_key(prefix.strip_suffix('.').unwrap_or(prefix))?;
        }
        let start = after.map_or(prefix, |after| after.max(prefix));
        let connection = self.lock();
        let read = || {
            let sql = "SELECT key, value, revision FROM entries WHERE key >= ?1 ORDER BY key";
            let mut query = connection.prepare_cached(sql)?;
            let mut rows = query.query([start])?;
            let mut entries = Vec::new();
            while entries.len() < limit {
                let Some(row) = rows.next()? else { break };
                let key: String = row.get(0)?;
                if !key.starts_with(prefix) {
                    break;
                }
                if after == Some(key.as_str()) {
                    continue;
                }
                entries.push(Entry { key, value: row.get(1)?, revision: from_column(row.get(2)?) });
            }
            Ok(entries)
        };
        read().map_err(|source| Error::ReadRegistry { key: prefix.to_owned(), source })
    }

    /// The record with the greatest key among those that start with `prefix`, which ends with a dot.
    pub fn last(&self, prefix: &str) -> Result<Option<Entry>, Error> {
        let start = prefix.strip_suffix('.').ok_or_else(|| Error::Key { key: prefix.to_owned() })?;
        check_key(start)?;
        let connection = self.lock();
        let read = || {
            let sql = "SELECT key, value, revision FROM entries WHERE key >= ?1 AND key < ?2 ORDER BY key DESC LIMIT 1";
            let mut query = connection.prepare_cached(sql)?;
            let found = query.query_row([prefix, &after_all(start)], |row| {
                Ok(Entry { key: row.get(0)?, value: row.get(1)?, revision: from_column(row.get(2)?) })
            });
            found.optional()
        };
        read().map_err(|source| Error::ReadRegistry { key: prefix.to_owned(), source })
    }

    /// Writes a record if `expect` holds, else [`Error::Conflict`]. Gives the record's new revision.
    pub fn put(&self, key: &str, value: &[u8], expect: Expect) -> Result<u64, Error> {
        check_key(key)?;
        check_value(key, value)?;
        self.change(key, |transaction| put(transaction, key, value, expect))
    }

    /// Carries out all changes or, if one cannot be, none of them.
    pub fn apply(&self, changes: &[Change]) -> Result<(), Error> {
        let Some(first) = changes.first() else { return Ok(()) };
        changes.iter().try_for_each(Change::check)?;
        self.change(first.name(), |transaction| {
            for change in changes {
                if let Err(refusal) = change.carry_out(transaction)? {
                    return Ok(Err(refusal));
                }
            }
            Ok(Ok(()))
        })
    }

    /// Removes a record if `expect` holds, else [`Error::Conflict`]. Says whether there was one.
    pub fn delete(&self, key: &str, expect: Expect) -> Result<bool, Error> {
        check_key(key)?;
        self.change(key, |transaction| delete(transaction, key, expect))
    }

    /// The next number of a counter, from 1. A number that was given out is never given out again, whatever
    /// happens to the process or the machine.
    pub fn next_number(&self, counter: &str) -> Result<u64, Error> {
        check_key(counter)?;
        self.change(counter, |transaction| Ok(Ok(from_column(advance(transaction, counter)?))))
    }

    /// Runs one write as a transaction; a refusal rolls it back.
    fn change<T>(
        &self,
        key: &str,
        apply: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<Result<T, Error>>,
    ) -> Result<T, Error> {
        let mut connection = self.lock();
        let failed = |source| Error::WriteRegistry { key: key.to_owned(), source };
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        let value = apply(&transaction).map_err(failed)??;
        transaction.commit().map_err(failed)?;
        Ok(value)
    }

    /// A panic elsewhere cannot leave the connection in the middle of a change: a transaction rolls back
    /// when it is dropped. So a poisoned lock is as good as any.
    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One change among several that are carried out together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Writes a record.
    Put {
        /// Its key.
        key: String,
        /// Its value.
        value: Vec<u8>,
        /// What must be there.
        expect: Expect,
    },
    /// Removes a record, if there is one.
    Delete {
        /// Its key.
        key: String,
        /// What must be there.
        expect: Expect,
    },
    /// Removes all records whose keys start so.
    DeleteAll {
        /// Ends with a dot.
        prefix: String,
    },
}

impl Change {
    fn name(&self) -> &str {
        match self {
            Change::Put { key, .. } | Change::Delete { key, .. } => key,
            Change::DeleteAll { prefix } => prefix,
        }
    }

    fn check(&self) -> Result<(), Error> {
        match self {
            Change::Put { key, value, .. } => check_key(key).and_then(|()| check_value(key, value)),
            Change::Delete { key, .. } => check_key(key),
            Change::DeleteAll { prefix } => match prefix.strip_suffix('.') {
                Some(key) => check_key(key),
                None => Err(Error::Key { key: prefix.clone() }),
            },
        }
    }

    fn carry_out(&self, transaction: &Transaction<'_>) -> rusqlite::Result<Result<(), Error>> {
        match self {
            Change::Put { key, value, expect } => Ok(put(transaction, key, value, *expect)?.map(|_| ())),
            Change::Delete { key, expect } => Ok(delete(transaction, key, *expect)?.map(|_| ())),
            Change::DeleteAll { prefix } => {
                let sql = "DELETE FROM entries WHERE key >= ?1 AND key < ?2";
                transaction.prepare_cached(sql)?.execute([prefix, &after_all(prefix.trim_end_matches('.'))])?;
                Ok(Ok(()))
            }
        }
    }
}

/// The end of the keys that start with `start` and a dot: in the order of bytes `/` comes right behind the dot.
fn after_all(start: &str) -> String {
    format!("{start}/")
}

fn put(transaction: &Transaction<'_>, key: &str, value: &[u8], expect: Expect) -> rusqlite::Result<Result<u64, Error>> {
    let found = revision_of(transaction, key)?;
    if !expect.holds(found) {
        return Ok(Err(Error::Conflict { key: key.to_owned(), expected: expect, found }));
    }
    let revision = advance(transaction, REVISION_COUNTER)?;
    let sql = "INSERT INTO entries (key, value, revision) VALUES (?1, ?2, ?3)
        ON CONFLICT (key) DO UPDATE SET value = excluded.value, revision = excluded.revision";
    transaction.prepare_cached(sql)?.execute(params![key, value, revision])?;
    Ok(Ok(from_column(revision)))
}

fn delete(transaction: &Transaction<'_>, key: &str, expect: Expect) -> rusqlite::Result<Result<bool, Error>> {
    let found = revision_of(transaction, key)?;
    if !expect.holds(found) {
        return Ok(Err(Error::Conflict { key: key.to_owned(), expected: expect, found }));
    }
    let removed = transaction.prepare_cached("DELETE FROM entries WHERE key = ?1")?.execute([key])?;
    Ok(Ok(removed > 0))
}

fn check_value(key: &str, value: &[u8]) -> Result<(), Error> {
    match value.len() {
        bytes if bytes > VALUE_BYTES_MAX => Err(Error::ValueTooLarge { key: key.to_owned(), bytes }),
        _ => Ok(()),
    }
}

fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    // FULL makes each commit reach the disk; with NORMAL, a power cut could take back a write that was answered.
    connection.pragma_update(None, "synchronous", "FULL")
}

/// Brings the tables to [`FORMAT`] and gives the format that the file has now.
fn migrate(connection: &mut Connection) -> rusqlite::Result<i64> {
    let format = |c: &Connection| c.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0));
    if format(connection)? == 0 {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute_batch(TABLES)?;
        transaction.pragma_update(None, "user_version", FORMAT)?;
        transaction.commit()?;
    }
    format(connection)
}

fn revision_of(transaction: &Transaction<'_>, key: &str) -> rusqlite::Result<Option<u64>> {
    let mut query = transaction.prepare_cached("SELECT revision FROM entries WHERE key = ?1")?;
    Ok(query.query_row([key], |row| row.get(0)).optional()?.map(from_column))
}

fn advance(transaction: &Transaction<'_>, counter: &str) -> rusqlite::Result<i64> {
    let sql = "INSERT INTO counters (name, value) VALUES (?1, 1)
        ON CONFLICT (name) DO UPDATE SET value = value + 1 RETURNING value";
    transaction.prepare_cached(sql)?.query_row([counter], |row| row.get(0))
}

/// SQLite's integers are signed; ours only ever count up from 1.
fn from_column(number: i64) -> u64 {
    number.unsigned_abs()
}

/// Keys are what JetStream's key-value store takes: `[a-zA-Z0-9-_./=]`, no dot at either end.
fn check_key(key: &str) -> Result<(), Error> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_./=".contains(&b);
    let dotted = key.starts_with('.') || key.ends_with('.');
    if key.is_empty() || key.len() > KEY_BYTES_MAX || dotted || !key.bytes().all(allowed) {
        return Err(Error::Key { key: key.chars().take(KEY_BYTES_MAX).collect() });
    }
    Ok(())
}
