//! Published versions and aliases as records of the registry: JSON under `version.<function>.<number>` and
//! `alias.<function>.<name>`. They go with their function.

use crate::Error;
use crate::functions::{decode, encode, put};
use crate::registry::{Change, Expect, Registry};
use model::{Alias, Function, FunctionName, Published};

/// Records read at once.
const PAGE: usize = 200;

impl Registry {
    /// A version.
    pub fn version(&self, name: &FunctionName, number: u64) -> Result<Option<Published>, Error> {
        let found = self.get(&version_key(name, number))?.map(decode).transpose()?;
        Ok(found.map(|(version, _)| version))
    }

    /// A function's versions after the number `after`, at most `limit`, in the order of their numbers.
    pub fn versions(&self, name: &FunctionName, after: u64, limit: usize) -> Result<Vec<Published>, Error> {
        let after = version_key(name, after);
        let page = self.list(&format!("version.{name}."), Some(&after), limit)?;
        page.into_iter().map(|entry| Ok(decode(entry)?.0)).collect()
    }

    /// The version of the greatest number.
    pub fn newest_version(&self, name: &FunctionName) -> Result<Option<Published>, Error> {
        let entry = self.last(&format!("version.{name}."))?;
        Ok(entry.map(decode).transpose()?.map(|(version, _)| version))
    }

    /// Calls `visit` with every version of every function.
    pub fn each_version(&self, visit: impl FnMut(Published)) -> Result<(), Error> {
        self.each("version.", visit)
    }

    /// Writes a new version and its function, or neither.
    pub fn publish(&self, function: &Function, expect: Expect, version: &Published) -> Result<(), Error> {
        self.apply(&[put(function, expect)?, put_version(version, Expect::Absent)?])
    }

    /// Writes a version again, whose state has moved.
    pub fn rewrite_version(&self, version: &Published) -> Result<(), Error> {
        self.apply(&[put_version(version, Expect::Any)?])
    }

    /// Removes a version and what is configured for it.
    pub fn delete_version(&self, name: &FunctionName, number: u64) -> Result<(), Error> {
        let mut changes = vec![Change::Delete { key: version_key(name, number), expect: Expect::Any }];
        changes.extend(configured(name, &number.to_string()));
        self.apply(&changes)
    }

    /// An alias.
    pub fn alias(&self, function: &FunctionName, name: &str) -> Result<Option<Alias>, Error> {
        let found = self.get(&alias_key(function, name))?.map(decode).transpose()?;
        Ok(found.map(|(alias, _)| alias))
    }

    /// A function's aliases after the name `after`, at most `limit`, in the order of their names' bytes.
    pub fn aliases(&self, function: &FunctionName, after: Option<&str>, limit: usize) -> Result<Vec<Alias>, Error> {
        let after = after.map(|name| alias_key(function, name));
        let page = self.list(&format!("alias.{function}."), after.as_deref(), limit)?;
        page.into_iter().map(|entry| Ok(decode(entry)?.0)).collect()
    }

    /// Calls `visit` with every alias of every function.
    pub fn each_alias(&self, visit: impl FnMut(Alias)) -> Result<(), Error> {
        self.each("alias.", visit)
    }

    /// Writes an alias if `expect` holds, else [`Error::Conflict`].
    pub fn put_alias(&self, alias: &Alias, expect: Expect) -> Result<(), Error> {
        let value = encode(&alias.function, alias)?;
        self.put(&alias_key(&alias.function, &alias.name), &value, expect).map(|_| ())
    }

    /// Removes an alias and what is configured for it.
    pub fn delete_alias(&self, function: &FunctionName, name: &str) -> Result<(), Error> {
        let mut changes = vec![Change::Delete { key: alias_key(function, name), expect: Expect::Any }];
        changes.extend(configured(function, name));
        self.apply(&changes)
    }

    /// Calls `visit` with every record under a prefix, page by page.
    pub(crate) fn each<T: serde::de::DeserializeOwned>(
        &self,
        prefix: &str,
        mut visit: impl FnMut(T),
    ) -> Result<(), Error> {
        let mut after: Option<String> = None;
        loop {
            let page = self.list(prefix, after.as_deref(), PAGE)?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.key.clone());
            for entry in page {
                visit(decode(entry)?.0);
            }
        }
    }
}

/// Removes what is configured for a version or an alias.
fn configured(name: &FunctionName, qualifier: &str) -> [Change; 2] {
    ["provisioned", "scaling"]
        .map(|kind| Change::Delete { key: format!("{kind}.{name}.{qualifier}"), expect: Expect::Any })
}

fn put_version(version: &Published, expect: Expect) -> Result<Change, Error> {
    let name = &version.function.name;
    Ok(Change::Put { key: version_key(name, version.number), value: encode(name, version)?, expect })
}

/// Numbers have twenty digits, as many as the greatest, so that keys are in their order.
fn version_key(name: &FunctionName, number: u64) -> String {
    format!("version.{name}.{number:020}")
}

fn alias_key(function: &FunctionName, name: &str) -> String {
    format!("alias.{function}.{name}")
}
