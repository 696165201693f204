//! What happens to a function behind the API's answers: it is made ready or found wanting, its update takes hold,
//! it goes idle and wakes. The moves themselves are `scheduler::function_state`'s.

use crate::functions::each_function;
use crate::{Error, Handle, Shared, new_revision_id, now_ms};
use model::function::{LastUpdate, Reason, Snapshot, Spec, State, Target};
use model::{Function, FunctionName, Runtime, RuntimeFamily, Version};
use scheduler::function_state;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use store::Expect;

/// How long a transition waits for the launcher to have looked for interpreters.
const INTERPRETERS_WAIT: Duration = Duration::from_secs(10);
/// How often a transition's record is tried to be written when the data folder fails.
const WRITE_ATTEMPTS: u32 = 5;
/// Pause between those attempts.
const WRITE_PAUSE: Duration = Duration::from_secs(1);
const DAY_MS: u64 = 86_400_000;

impl Shared {
    /// Fills the snapshot from the registry. Blocks.
    pub(crate) fn load_snapshot(&self) -> Result<(), Error> {
        let store = &self.config.store;
        let mut snapshot = Snapshot::default();
        let mut unreadable = None;
        each_function(store, |function| {
            let target = match self.earlier(&function.name) {
                Ok(Some(earlier)) if unsettled(&function) => self.target(&earlier),
                Ok(_) => self.target(&function),
                Err(error) => {
                    unreadable.get_or_insert(error);
                    return;
                }
            };
            snapshot.functions.insert(function.name.clone(), target);
        })?;
        self.replace_snapshot(snapshot);
        unreadable.map_or(Ok(()), |error| Err(Error::Store(error)))
    }

    /// Takes up the transitions that nobody carries on: an earlier run left them unfinished, or the data folder failed
    /// for longer than they tried.
    pub(crate) async fn resume(self: &Arc<Self>) {
        // No transition begins in between.
        let _turn = self.writer.lock().await;
        let busy = self
            .on_disk(|store| {
                let mut busy = Vec::new();
                each_function(store, |function| {
                    if function_state::is_busy(&function) {
                        busy.push(function);
                    }
                })?;
                Ok(busy)
            })
            .await;
        match busy {
            Ok(busy) => busy.iter().for_each(|function| self.clone().settle_later(function)),
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "cannot resume unfinished transitions");
            }
        }
    }

    /// Completes a function's transition in the background, unless that is under way.
    pub(crate) fn settle_later(self: Arc<Self>, function: &Function) {
        let function = function.clone();
        let Some(settling) = Settling::begin(&self, &function) else { return };
        tokio::spawn(async move {
            let _settling = settling;
            let name = function.name.clone();
            let result = self.readiness(&function).await;
            for attempt in 1..=WRITE_ATTEMPTS {
                match self.settle(&function, result.clone()).await {
                    Ok(()) => return,
                    Err(error) => {
                        tracing::error!(%name, attempt, error = &error as &dyn std::error::Error, "cannot settle");
                        tokio::time::sleep(WRITE_PAUSE).await;
                    }
                }
            }
        });
    }

    /// Is everything there that the function needs to run?
    async fn readiness(&self, function: &Function) -> Result<(), Reason> {
        let store = self.config.store.clone();
        let digest = function.code.digest;
        let kept = tokio::task::spawn_blocking(move || store.packages().contains(&digest)).await.unwrap_or(false);
        if !kept {
            return Err(reason("InternalError", "The code package is missing; update the function's code."));
        }
        let Some(runtime) = &function.config.runtime else {
            return Err(reason("InvalidRuntime", "Functions without a runtime cannot run here."));
        };
        match runtime.family() {
            RuntimeFamily::Provided => Ok(()),
            RuntimeFamily::Other => Err(not_offered(runtime)),
            RuntimeFamily::Python { .. } | RuntimeFamily::Node { .. } => self.find_interpreter(runtime).await,
        }
    }

    async fn find_interpreter(&self, runtime: &Runtime) -> Result<(), Reason> {
        let mut interpreters = self.config.interpreters.clone();
        let probed = tokio::time::timeout(INTERPRETERS_WAIT, interpreters.wait_for(Option::is_some)).await;
        match probed {
            Ok(Ok(found)) => match found.as_ref().is_some_and(|known| known.contains_key(&runtime.0)) {
                true => Ok(()),
                false => Err(no_interpreter(runtime)),
            },
            Ok(Err(_)) | Err(_) => {
                let text = "The platform could not find out which runtimes this machine has; update the function to \
                            try again.";
                Err(reason("InternalError", text))
            }
        }
    }

    /// Records the end of the transition that `begun` started, unless something else has happened since.
    async fn settle(self: &Arc<Self>, begun: &Function, result: Result<(), Reason>) -> Result<(), Error> {
        let _turn = self.writer.lock().await;
        let (mut function, revision) = match self.read(&begun.name).await {
            Err(Error::NotFound { .. }) => return Ok(()),
            other => other?,
        };
        if function.revision_id != begun.revision_id {
            return Ok(());
        }
        let was_update = matches!(function.last_update, Some(LastUpdate::InProgress(_)));
        let moved = match was_update {
            true => function_state::update_completed(&mut function, result.clone()),
            false => function_state::completed(&mut function, result.clone()),
        };
        if moved.is_err() {
            return Ok(());
        }
        function.revision_id = new_revision_id();
        // A failed update leaves what runs as it is.
        let takes_hold = result.is_ok() || !was_update;
        // Published first: whoever reads that a function is Active may invoke it.
        if takes_hold {
            self.publish(&function);
        }
        self.write(&function, Expect::Revision(revision)).await?;
        if takes_hold {
            self.forget_earlier(&function.name).await;
        }
        self.collect_soon.notify_one();
        Ok(())
    }

    /// Puts what a record says into the snapshot.
    pub(crate) fn publish(&self, function: &Function) {
        let target = self.target(function);
        self.change_snapshot(|snapshot| {
            snapshot.functions.insert(function.name.clone(), target);
        });
    }

    /// Takes a function out of the snapshot.
    pub(crate) fn unpublish(&self, name: &FunctionName) {
        self.change_snapshot(|snapshot| {
            snapshot.functions.remove(name);
        });
    }

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

    fn target(&self, function: &Function) -> Target {
        match &function.state {
            State::Active => match self.spec(function) {
                Some(spec) => Target::Ready(Arc::new(spec)),
                None => Target::NotReady { state: "Failed" },
            },
            State::Pending(_) => Target::NotReady { state: "Pending" },
            State::Inactive(_) => Target::NotReady { state: "Inactive" },
            State::Failed(_) => Target::NotReady { state: "Failed" },
        }
    }

    fn spec(&self, function: &Function) -> Option<Spec> {
        let config = &function.config;
        Some(Spec {
            arn: self.arn(&function.name),
            version: Version::Latest,
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
        })
    }

    /// Keeps the record of what runs now beside the one that an update is about to write. After a failed update the
    /// kept one stays, since it still runs.
    pub(crate) async fn keep_earlier(&self, function: &Function) -> Result<(), Error> {
        if function.state != State::Active {
            return Ok(());
        }
        let function = function.clone();
        let after_failure = matches!(function.last_update, Some(LastUpdate::Failed(_)));
        self.on_disk(move |store| {
            let key = earlier_key(&function.name);
            if after_failure && store.registry().get(&key)?.is_some() {
                return Ok(());
            }
            let text = serde_json::to_vec(&function)
                .map_err(|source| store::Error::EncodeFunction { name: function.name.clone(), source })?;
            store.registry().put(&key, &text, Expect::Any).map(|_| ())
        })
        .await
    }

    /// Forgets the kept record. If that fails it does no harm: a settled function is read from its own record.
    pub(crate) async fn forget_earlier(&self, name: &FunctionName) {
        let key = earlier_key(name);
        if let Err(error) = self.on_disk(move |store| store.registry().delete(&key, Expect::Any)).await {
            tracing::warn!(%name, error = &error as &dyn std::error::Error, "cannot forget an earlier record");
        }
    }

    /// The kept record. Blocks.
    pub(crate) fn earlier(&self, name: &FunctionName) -> Result<Option<Function>, store::Error> {
        let key = earlier_key(name);
        let Some(entry) = self.config.store.registry().get(&key)? else { return Ok(None) };
        let decoded = serde_json::from_slice(&entry.value);
        decoded.map(Some).map_err(|source| store::Error::DecodeFunction { key, source })
    }

    /// Makes functions Inactive that nobody has invoked for `Limits::inactive_after_days`.
    pub(crate) async fn retire_idle(self: &Arc<Self>) {
        let idle_ms = u64::from(self.config.limits.inactive_after_days) * DAY_MS;
        let now_ms = now_ms();
        // Nothing can be idle for longer than the server has run: earlier invocations are not recorded.
        if idle_ms == 0 || now_ms.saturating_sub(self.started_ms) < idle_ms {
            return;
        }
        let names: Vec<FunctionName> = self.config.snapshot.load().functions.keys().cloned().collect();
        for name in names {
            let invoked_ms = (self.config.last_invoked)(&name).unwrap_or(0);
            if now_ms.saturating_sub(invoked_ms) >= idle_ms
                && let Err(error) = self.retire(&name, now_ms - idle_ms).await
            {
                tracing::warn!(%name, error = &error as &dyn std::error::Error, "cannot make a function inactive");
            }
        }
    }

    async fn retire(&self, name: &FunctionName, unless_modified_after_ms: u64) -> Result<(), Error> {
        let _turn = self.writer.lock().await;
        let (mut function, revision) = match self.read(name).await {
            Err(Error::NotFound { .. }) => return Ok(()),
            other => other?,
        };
        if function.last_modified_ms > unless_modified_after_ms || function_state::went_idle(&mut function).is_err() {
            return Ok(());
        }
        function.revision_id = new_revision_id();
        self.write(&function, Expect::Revision(revision)).await?;
        self.publish(&function);
        Ok(())
    }
}

/// A transition's entry among those under way; it goes with its task, however that ends.
struct Settling {
    shared: Arc<Shared>,
    key: (FunctionName, String),
}

impl Settling {
    /// `None` if this very transition is under way.
    fn begin(shared: &Arc<Shared>, function: &Function) -> Option<Settling> {
        let key = (function.name.clone(), function.revision_id.clone());
        let begun = shared.settling.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone());
        begun.then(|| Settling { shared: shared.clone(), key })
    }
}

impl Drop for Settling {
    fn drop(&mut self) {
        self.shared.settling.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

impl Handle {
    /// Starts to make an Inactive function ready again, since somebody wants to invoke it. Returns when that has
    /// ended, or after `wait`; the snapshot then says how the function stands.
    pub async fn wake(&self, name: &FunctionName, wait: Duration) -> Result<(), Error> {
        let shared = self.shared.clone();
        let wanted = name.clone();
        crate::to_the_end(async move {
            let _turn = shared.writer.lock().await;
            let (mut function, revision) = shared.read(&wanted).await?;
            if function_state::woken(&mut function).is_ok() {
                function.revision_id = new_revision_id();
                shared.write(&function, Expect::Revision(revision)).await?;
                shared.publish(&function);
                shared.clone().settle_later(&function);
            }
            Ok(())
        })
        .await?;
        self.until_settled(name, wait).await;
        Ok(())
    }

    async fn until_settled(&self, name: &FunctionName, wait: Duration) {
        /// Waking takes a few milliseconds; it is rare enough to look instead of being told.
        const LOOK: Duration = Duration::from_millis(10);
        let settled = async {
            loop {
                let waking = match self.shared.config.snapshot.load().functions.get(name) {
                    Some(Target::NotReady { state }) => *state == "Pending",
                    Some(Target::Ready(_)) | None => false,
                };
                if !waking {
                    return;
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        // Whoever waited in vain reads the snapshot all the same.
        let _ = tokio::time::timeout(wait, settled).await;
    }
}

/// `/aws/lambda/<name>`, unless LoggingConfig names another.
pub(crate) fn log_group(function: &Function) -> String {
    let configured = function.config.echoed.get("LoggingConfig").and_then(|text| {
        let value: serde_json::Value = serde_json::from_str(text).ok()?;
        value.get("LogGroup")?.as_str().map(str::to_owned)
    });
    configured.unwrap_or_else(|| format!("/aws/lambda/{}", function.name))
}

/// Does the record say something else than what runs? Only an Active function runs at all.
fn unsettled(function: &Function) -> bool {
    function.state == State::Active
        && matches!(function.last_update, Some(LastUpdate::InProgress(_) | LastUpdate::Failed(_)))
}

fn earlier_key(name: &FunctionName) -> String {
    format!("earlier/{name}")
}

fn no_interpreter(runtime: &Runtime) -> Reason {
    let program = match runtime.family() {
        RuntimeFamily::Node { .. } => "node",
        RuntimeFamily::Python { .. } | RuntimeFamily::Provided | RuntimeFamily::Other => &runtime.0,
    };
    let text = format!(
        "The runtime {0} is not on this machine. Install its interpreter, or add to the server's configuration file \
         the section [runtimes.\"{0}\"] with the line interpreter = \"/path/to/{1}\" (or root = \"/path/to/its/root\") \
         and restart the server; then update the function.",
        runtime.0, program
    );
    reason("InvalidRuntime", &text)
}

fn not_offered(runtime: &Runtime) -> Reason {
    let text = format!(
        "Tidegate cannot run {} by itself. Use a python3.* or nodejs* runtime, or provided.al2023 with a bootstrap \
         that brings the language along.",
        runtime.0
    );
    reason("InvalidRuntime", &text)
}

fn reason(code: &str, text: &str) -> Reason {
    Reason { code: code.to_owned(), text: text.to_owned() }
}
