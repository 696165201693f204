//! Changing a function's code, configuration and settings. Each change is recorded as under way; invocations keep
//! running what ran before until `transitions` has completed it.

use crate::packages::CodeSource;
use crate::versions::AtVersion;
use crate::{Error, Handle, Shared, new_revision_id, now_ms, to_the_end};
use model::function::{Code, Network};
use model::{Function, FunctionName, Runtime, Version};
use scheduler::function_state;
use std::collections::BTreeMap;
use std::sync::Arc;
use store::Expect;
use tokio::sync::OwnedSemaphorePermit;

/// What UpdateFunctionCode changes.
#[derive(Debug)]
pub struct CodeChange {
    /// The new code.
    pub code: CodeSource,
    /// The new architecture, if it changes.
    pub architecture: Option<String>,
    /// Only check, change nothing.
    pub dry_run: bool,
    /// Whether the new state is published as a version at once.
    pub publish: bool,
    /// Only if the record still has this revision id.
    pub revision_id: Option<String>,
}

/// What UpdateFunctionConfiguration changes; `None` leaves a field as it is.
#[derive(Debug, Default, PartialEq)]
pub struct ConfigChange {
    /// The runtime.
    pub runtime: Option<Runtime>,
    /// The role's ARN.
    pub role: Option<String>,
    /// The handler.
    pub handler: Option<String>,
    /// The description.
    pub description: Option<String>,
    /// The timeout, seconds.
    pub timeout_s: Option<u32>,
    /// The memory limit, MB.
    pub memory_mb: Option<u32>,
    /// The size of `/tmp`, MB.
    pub ephemeral_mb: Option<u32>,
    /// All environment variables.
    pub environment: Option<BTreeMap<String, String>>,
    /// What of the network an instance sees.
    pub network: Option<Network>,
    /// Invocations that one instance runs at a time.
    pub instance_concurrency: Option<u32>,
    /// Fields that are only stored and echoed: name to JSON text, or `None` to forget one.
    pub echoed: BTreeMap<String, Option<String>>,
    /// Only if the record still has this revision id.
    pub revision_id: Option<String>,
}

impl ConfigChange {
    fn apply(self, function: &mut Function) {
        let config = &mut function.config;
        let replace = |field: &mut String, value: Option<String>| {
            if let Some(value) = value {
                *field = value;
            }
        };
        replace(&mut config.role, self.role);
        replace(&mut config.description, self.description);
        config.runtime = self.runtime.or(config.runtime.take());
        config.handler = self.handler.or(config.handler.take());
        config.timeout_s = self.timeout_s.unwrap_or(config.timeout_s);
        config.memory_mb = self.memory_mb.unwrap_or(config.memory_mb);
        config.ephemeral_mb = self.ephemeral_mb.unwrap_or(config.ephemeral_mb);
        config.network = self.network.unwrap_or(config.network);
        config.instance_concurrency = self.instance_concurrency.unwrap_or(config.instance_concurrency);
        if let Some(environment) = self.environment {
            config.environment = environment;
        }
        for (name, value) in self.echoed {
            match value {
                Some(text) => config.echoed.insert(name, text),
                None => config.echoed.remove(&name),
            };
        }
    }
}

impl Handle {
    /// Takes the new package and records the update as under way; the answer is that record. A dry run checks the
    /// same and answers with the record as it would be, which is not written. If the update is published, the answer is
    /// the version's record.
    pub async fn update_code(&self, name: &FunctionName, change: CodeChange) -> Result<AtVersion, Error> {
        let turn = change.code.turn(&self.shared).await;
        to_the_end(update_code(self.shared.clone(), name.clone(), change, turn)).await
    }

    /// Records the update as under way; the answer is that record.
    pub async fn update_config(&self, name: &FunctionName, change: ConfigChange) -> Result<Function, Error> {
        to_the_end(update_config(self.shared.clone(), name.clone(), change)).await
    }
}

async fn update_code(
    shared: Arc<Shared>,
    name: FunctionName,
    change: CodeChange,
    turn: Option<OwnedSemaphorePermit>,
) -> Result<AtVersion, Error> {
    // Checked before the package is unpacked, and again under the lock.
    let (function, _) = shared.read(&name).await?;
    may_update(&function, change.revision_id.as_deref())?;
    let zip = shared.take_zip(change.code, turn).await?;
    let architecture = change.architecture;
    if change.dry_run {
        let mut function = function;
        set_code(&mut function, shared.check_package(zip).await?, architecture);
        return Ok(AtVersion::latest(function));
    }
    let _upload = shared.uploads.read().await;
    let code = shared.keep_package(zip).await?;
    let apply = move |function: &mut Function| set_code(function, code, architecture);
    start(&shared, &name, change.revision_id.as_deref(), change.publish, apply).await
}

async fn update_config(shared: Arc<Shared>, name: FunctionName, mut change: ConfigChange) -> Result<Function, Error> {
    let revision_id = change.revision_id.take();
    let started = start(&shared, &name, revision_id.as_deref(), false, move |function| change.apply(function)).await?;
    Ok(started.function)
}

fn set_code(function: &mut Function, code: Code, architecture: Option<String>) {
    function.code = code;
    if let Some(architecture) = architecture {
        function.config.architecture = architecture;
    }
}

pub(crate) fn may_update(function: &Function, revision_id: Option<&str>) -> Result<(), Error> {
    if revision_id.is_some_and(|wanted| wanted != function.revision_id) {
        return Err(Error::RevisionMismatch { name: function.name.clone() });
    }
    if function_state::is_busy(function) {
        return Err(Error::Busy { name: function.name.clone() });
    }
    Ok(())
}

/// Writes an update's record, and the version that is made of it if it is published and is no copy of the newest one,
/// and lets the transitions go on in the background.
async fn start(
    shared: &Arc<Shared>,
    name: &FunctionName,
    revision_id: Option<&str>,
    publish: bool,
    change: impl FnOnce(&mut Function),
) -> Result<AtVersion, Error> {
    let _turn = shared.writer.lock().await;
    let (mut function, revision) = shared.read(name).await?;
    may_update(&function, revision_id)?;
    // What runs now must be found again if the server ends before the update does.
    shared.keep_earlier(&function).await?;
    function_state::update_started(&mut function).map_err(|_| Error::Busy { name: name.clone() })?;
    change(&mut function);
    function.generation = shared.on_disk(|store| store.registry().next_generation()).await?;
    function.revision_id = new_revision_id();
    function.last_modified_ms = now_ms();
    let copy = if publish { shared.copy_of(&function).await? } else { None };
    let version = match publish && copy.is_none() {
        true => Some(shared.freeze(&mut function, None).await?),
        false => None,
    };
    shared.write_with(&function, Expect::Revision(revision), version.as_ref()).await?;
    shared.clone().settle_later(&function, Version::Latest);
    let started = shared.begin_version(function, version);
    Ok(copy.map_or(started, AtVersion::from))
}
