//! Functions as records of the registry: JSON under `function.<name>`.

use crate::Error;
use crate::registry::{Change, Entry, Expect, Registry};
use model::{Function, FunctionName, Generation};
use serde::Serialize;
use serde::de::DeserializeOwned;

const PREFIX: &str = "function.";
const GENERATION_COUNTER: &str = "generation";
/// Records of these kinds belong to a function and go with it: `<kind>.<function>.<…>`.
const OWNED: [&str; 4] = ["version", "alias", "provisioned", "scaling"];

impl Registry {
    /// A function and its record's revision.
    pub fn function(&self, name: &FunctionName) -> Result<Option<(Function, u64)>, Error> {
        self.get(&key(name))?.map(decode).transpose()
    }

    /// Functions after `after`, at most `limit`, in the order of their names' bytes, each with its revision.
    pub fn functions(&self, after: Option<&FunctionName>, limit: usize) -> Result<Vec<(Function, u64)>, Error> {
        let after = after.map(key);
        self.list(PREFIX, after.as_deref(), limit)?.into_iter().map(decode).collect()
    }

    /// Writes a function if `expect` holds, else [`Error::Conflict`]. Gives the record's new revision.
    pub fn put_function(&self, function: &Function, expect: Expect) -> Result<u64, Error> {
        self.put(&key(&function.name), &encode(&function.name, function)?, expect)
    }

    /// Removes a function and all that belongs to it if `expect` holds, else [`Error::Conflict`]. Says whether there
    /// was one.
    pub fn delete_function(&self, name: &FunctionName, expect: Expect) -> Result<bool, Error> {
        let Some(found) = self.get(&key(name))? else { return self.delete(&key(name), expect) };
        let owned = OWNED.iter().map(|kind| Change::DeleteAll { prefix: format!("{kind}.{name}.") });
        let expect = if expect == Expect::Any { Expect::Revision(found.revision) } else { expect };
        let function = Change::Delete { key: key(name), expect };
        self.apply(&std::iter::once(function).chain(owned).collect::<Vec<_>>())?;
        Ok(true)
    }

    /// A generation that this data folder has never seen.
    pub fn next_generation(&self) -> Result<Generation, Error> {
        self.next_number(GENERATION_COUNTER).map(Generation)
    }
}

/// The change that writes a function.
pub(crate) fn put(function: &Function, expect: Expect) -> Result<Change, Error> {
    Ok(Change::Put { key: key(&function.name), value: encode(&function.name, function)?, expect })
}

/// A record's JSON; `name` is the function that it is or belongs to.
pub(crate) fn encode<T: Serialize>(name: &FunctionName, record: &T) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(record).map_err(|source| Error::EncodeFunction { name: name.clone(), source })
}

/// A record and its revision.
pub(crate) fn decode<T: DeserializeOwned>(entry: Entry) -> Result<(T, u64), Error> {
    match serde_json::from_slice(&entry.value) {
        Ok(record) => Ok((record, entry.revision)),
        Err(source) => Err(Error::DecodeFunction { key: entry.key, source }),
    }
}

fn key(name: &FunctionName) -> String {
    format!("{PREFIX}{name}")
}
