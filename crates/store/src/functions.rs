//! Functions as records of the registry: JSON under `function.<name>`.

use crate::Error;
use crate::registry::{Entry, Expect, Registry};
use model::{Function, FunctionName, Generation};

const PREFIX: &str = "function.";
const GENERATION_COUNTER: &str = "generation";

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
        let value = serde_json::to_vec(function)
            .map_err(|source| Error::EncodeFunction { name: function.name.clone(), source })?;
        self.put(&key(&function.name), &value, expect)
    }

    /// Removes a function if `expect` holds, else [`Error::Conflict`]. Says whether there was one.
    pub fn delete_function(&self, name: &FunctionName, expect: Expect) -> Result<bool, Error> {
        self.delete(&key(name), expect)
    }

    /// A generation that this data folder has never seen.
    pub fn next_generation(&self) -> Result<Generation, Error> {
        self.next_number(GENERATION_COUNTER).map(Generation)
    }
}

fn key(name: &FunctionName) -> String {
    format!("{PREFIX}{name}")
}

fn decode(entry: Entry) -> Result<(Function, u64), Error> {
    match serde_json::from_slice(&entry.value) {
        Ok(function) => Ok((function, entry.revision)),
        Err(source) => Err(Error::DecodeFunction { key: entry.key, source }),
    }
}
