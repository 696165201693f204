//! What may run as of one moment: for each function `$LATEST`, its published versions and its aliases.

use crate::function::Spec;
use crate::name::{FunctionName, Version};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// All functions as of one moment. Written by `control`, read by `router`.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// By name. Shared, so that a change of one function copies no other.
    pub functions: HashMap<FunctionName, Arc<Targets>>,
}

impl Snapshot {
    /// Everything that may run.
    pub fn ready(&self) -> impl Iterator<Item = &Arc<Spec>> {
        self.functions.values().flat_map(|targets| targets.ready())
    }
}

/// Where invocations of one function may lead.
#[derive(Debug, Clone, PartialEq)]
pub struct Targets {
    /// `$LATEST`.
    pub latest: Target,
    /// Published versions by number.
    pub versions: BTreeMap<u64, Target>,
    /// Aliases by name.
    pub aliases: BTreeMap<String, Split>,
}

impl Targets {
    /// A function without versions and aliases.
    pub fn new(latest: Target) -> Targets {
        Targets { latest, versions: BTreeMap::new(), aliases: BTreeMap::new() }
    }

    /// What a version runs; `None` if there is no such version.
    pub fn version(&self, version: Version) -> Option<&Target> {
        match version {
            Version::Latest => Some(&self.latest),
            Version::Number(number) => self.versions.get(&number),
        }
    }

    /// Everything of this function that may run.
    pub fn ready(&self) -> impl Iterator<Item = &Arc<Spec>> {
        std::iter::once(&self.latest).chain(self.versions.values()).filter_map(|target| match target {
            Target::Ready(spec) => Some(spec),
            Target::NotReady { .. } => None,
        })
    }
}

/// The state of a published version of which a snapshot is being taken (SnapStart); the API shows it as Pending.
pub const INITIALIZING: &str = "Initializing";

/// What the router knows of one version.
#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    /// Invocations run this.
    Ready(Arc<Spec>),
    /// Invocations are refused; the state's name as the API spells it.
    NotReady {
        /// `Pending`, `Failed`, `Inactive`, or [`INITIALIZING`].
        state: &'static str,
    },
}

/// How an alias divides its invocations.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Split {
    /// Gets what the other does not.
    pub main: Version,
    /// The other version, if any, and its share, 0 to 1.
    pub additional: Option<(u64, f64)>,
}
