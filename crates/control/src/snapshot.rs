//! The snapshot that the router reads: filled from the registry at the start, replaced after each change.

use crate::functions::each_function;
use crate::{Error, Shared};
use model::function::{LastUpdate, Spec, State};
use model::snapshot::{INITIALIZING, Snapshot, Target, Targets};
use model::{Alias, Function, FunctionName, Published, Version};
use std::sync::Arc;

impl Shared {
    /// Fills the snapshot from the registry. Blocks.
    pub(crate) fn load_snapshot(&self) -> Result<(), Error> {
        let store = &self.config.store;
        let mut snapshot = Snapshot::default();
        let mut unreadable = None;
        each_function(store, |function| {
            let target = match self.earlier(&function.name) {
                Ok(Some(earlier)) if unsettled(&function) => self.target(&earlier, Version::Latest),
                Ok(_) => self.target(&function, Version::Latest),
                Err(error) => {
                    unreadable.get_or_insert(error);
                    return;
                }
            };
            snapshot.functions.insert(function.name.clone(), Arc::new(Targets::new(target)));
        })?;
        store.registry().each_version(|version| {
            if let Some(targets) = snapshot.functions.get_mut(&version.function.name) {
                let target = self.target(&version.function, Version::Number(version.number));
                Arc::make_mut(targets).versions.insert(version.number, target);
            }
        })?;
        store.registry().each_alias(|alias| {
            if let Some(targets) = snapshot.functions.get_mut(&alias.function) {
                Arc::make_mut(targets).aliases.insert(alias.name.clone(), alias.split());
            }
        })?;
        self.replace_snapshot(snapshot);
        unreadable.map_or(Ok(()), |error| Err(Error::Store(error)))
    }

    /// Puts what `$LATEST`'s record says into the snapshot.
    pub(crate) fn show(&self, function: &Function) {
        let target = self.target(function, Version::Latest);
        self.change_snapshot(|snapshot| match snapshot.functions.get_mut(&function.name) {
            Some(targets) => Arc::make_mut(targets).latest = target,
            None => {
                snapshot.functions.insert(function.name.clone(), Arc::new(Targets::new(target)));
            }
        });
    }

    /// Takes a function out of the snapshot, with its versions and aliases.
    pub(crate) fn hide(&self, name: &FunctionName) {
        self.change_snapshot(|snapshot| {
            snapshot.functions.remove(name);
        });
    }

    /// Puts a version into the snapshot.
    pub(crate) fn show_version(&self, version: &Published) {
        let target = self.target(&version.function, Version::Number(version.number));
        self.change_targets(&version.function.name, |targets| {
            targets.versions.insert(version.number, target);
        });
    }

    /// Takes a version out of the snapshot.
    pub(crate) fn hide_version(&self, name: &FunctionName, number: u64) {
        self.change_targets(name, |targets| {
            targets.versions.remove(&number);
        });
    }

    /// Puts an alias into the snapshot.
    pub(crate) fn show_alias(&self, alias: &Alias) {
        self.change_targets(&alias.function, |targets| {
            targets.aliases.insert(alias.name.clone(), alias.split());
        });
    }

    /// Takes an alias out of the snapshot.
    pub(crate) fn hide_alias(&self, function: &FunctionName, name: &str) {
        self.change_targets(function, |targets| {
            targets.aliases.remove(name);
        });
    }

    /// Changes what a function has; nothing if it has left meanwhile.
    fn change_targets(&self, name: &FunctionName, change: impl FnOnce(&mut Targets)) {
        self.change_snapshot(|snapshot| {
            if let Some(targets) = snapshot.functions.get_mut(name) {
                change(Arc::make_mut(targets));
            }
        });
        self.follow(name);
    }

    /// The caller holds `writer`.
    fn change_snapshot(&self, change: impl FnOnce(&mut Snapshot)) {
        let mut snapshot = Snapshot::clone(&self.config.snapshot.load());
        change(&mut snapshot);
        self.replace_snapshot(snapshot);
    }

    fn replace_snapshot(&self, snapshot: Snapshot) {
        let snapshot = Arc::new(snapshot);
        self.config.snapshot.store(snapshot.clone());
        (self.config.changed)(&snapshot);
    }

    fn target(&self, function: &Function, version: Version) -> Target {
        match &function.state {
            State::Active => match self.spec(function, version) {
                Some(spec) => Target::Ready(Arc::new(spec)),
                None => Target::NotReady { state: "Failed" },
            },
            State::Pending(_) if version != Version::Latest && wants_snapshot(function) => {
                Target::NotReady { state: INITIALIZING }
            }
            State::Pending(_) => Target::NotReady { state: "Pending" },
            State::Inactive(_) => Target::NotReady { state: "Inactive" },
            State::Failed(_) => Target::NotReady { state: "Failed" },
        }
    }

    pub(crate) fn spec(&self, function: &Function, version: Version) -> Option<Spec> {
        let config = &function.config;
        Some(Spec {
            arn: self.arn(&function.name),
            version,
            generation: function.generation,
            runtime: config.runtime.clone()?,
            handler: config.handler.clone().unwrap_or_default(),
            timeout_ms: u64::from(config.timeout_s) * 1_000,
            memory_mb: config.memory_mb,
            ephemeral_mb: config.ephemeral_mb,
            environment: config.environment.clone(),
            package: function.code.digest,
            network: config.network,
            instance_concurrency: config.instance_concurrency,
            log_group: log_group(function),
            snap_start: version != Version::Latest && wants_snapshot(function),
        })
    }
}

/// `/aws/lambda/<name>`, unless LoggingConfig names another.
fn log_group(function: &Function) -> String {
    member(function, "LoggingConfig", "LogGroup").unwrap_or_else(|| format!("/aws/lambda/{}", function.name))
}

/// Are published versions of it to be restored from a snapshot?
pub(crate) fn wants_snapshot(function: &Function) -> bool {
    member(function, "SnapStart", "ApplyOn").as_deref() == Some("PublishedVersions")
}

/// A text inside one of the fields that are kept as JSON.
fn member(function: &Function, field: &str, name: &str) -> Option<String> {
    let value: serde_json::Value = serde_json::from_str(function.config.echoed.get(field)?).ok()?;
    value.get(name)?.as_str().map(str::to_owned)
}

/// Does the record say something else than what runs? Only an Active function runs at all.
fn unsettled(function: &Function) -> bool {
    function.state == State::Active
        && matches!(function.last_update, Some(LastUpdate::InProgress(_) | LastUpdate::Failed(_)))
}
