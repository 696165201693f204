//! Published versions and aliases as the registry keeps them.

use crate::function::Function;
use crate::name::{FunctionName, Version};
use crate::snapshot::Split;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A published version: one record of the registry. It never changes, but for its state until it is ready.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Published {
    /// From 1; never given twice to versions of one function.
    pub number: u64,
    /// What `$LATEST` was, without tags, and with a description, state, generation and revision id of its own.
    pub function: Function,
    /// `$LATEST`'s description then; the version's own may differ.
    pub latest_description: String,
    /// Whether a snapshot of it was taken, so that its instances are restored from one (SnapStart).
    #[serde(default)]
    pub optimized: bool,
}

impl Published {
    /// Does `$LATEST` still have the code and the configuration that this version was made of?
    pub fn is_copy_of(&self, latest: &Function) -> bool {
        let description = self.latest_description.clone();
        let config = crate::function::Config { description, ..self.function.config.clone() };
        self.function.code == latest.code && config == latest.config
    }
}

/// A name that points to versions by weight: one record of the registry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Alias {
    /// The function.
    pub function: FunctionName,
    /// The name; not all digits.
    pub name: String,
    /// The version that gets what the others do not.
    pub version: Version,
    /// Other versions and their shares, 0 to 1; at most one for now.
    pub additional: BTreeMap<u64, f64>,
    /// Up to 256 characters.
    pub description: String,
    /// Changes at each write.
    pub revision_id: String,
}

impl Alias {
    /// How the alias divides its invocations.
    pub fn split(&self) -> Split {
        let additional = self.additional.iter().next().map(|(version, weight)| (*version, *weight));
        Split { main: self.version, additional }
    }

    /// Does it point to this version?
    pub fn points_to(&self, number: u64) -> bool {
        self.version == Version::Number(number) || self.additional.contains_key(&number)
    }
}
