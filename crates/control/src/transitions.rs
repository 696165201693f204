//! What happens to a function behind the API's answers: it is made ready or found wanting, its update takes hold,
//! it goes idle and wakes. The moves themselves are `scheduler::function_state`'s.

use crate::functions::each_function;
use crate::snapshot::wants_snapshot;
use crate::{Error, Handle, Shared, new_revision_id, now_ms};
use model::function::{LastUpdate, Reason, State};
use model::snapshot::{INITIALIZING, Target};
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
                        busy.push((function, Version::Latest));
                    }
                })?;
                store.registry().each_version(|version| {
                    if function_state::is_busy(&version.function) {
                        busy.push((version.function, Version::Number(version.number)));
                    }
                })?;
                Ok(busy)
            })
            .await;
        match busy {
            Ok(busy) => busy.iter().for_each(|(function, version)| self.clone().settle_later(function, *version)),
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "cannot resume unfinished transitions");
            }
        }
    }

    /// Completes the transition of `$LATEST` or of a version in the background, unless that is under way.
    pub(crate) fn settle_later(self: Arc<Self>, function: &Function, version: Version) {
        let function = function.clone();
        let Some(settling) = Settling::begin(&self, &function) else { return };
        tokio::spawn(async move {
            let _settling = settling;
            let name = function.name.clone();
            let result = self.readiness(&function).await;
            let optimized = match (&result, version) {
                (Ok(()), Version::Number(_)) => self.snapshot_of(&function, version).await,
                (Ok(()) | Err(_), _) => result.clone().map(|()| false),
            };
            for attempt in 1..=WRITE_ATTEMPTS {
                let settled = match version {
                    Version::Latest => self.settle(&function, result.clone()).await,
                    Version::Number(number) => self.settle_version(&function, number, optimized.clone()).await,
                };
                match settled {
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

    /// Has a snapshot of an initialised version taken, if one is wanted; whether there is one now.
    async fn snapshot_of(&self, function: &Function, version: Version) -> Result<bool, Reason> {
        if !wants_snapshot(function) {
            return Ok(false);
        }
        match self.spec(function, version) {
            Some(spec) => (self.config.take_snapshot)(Arc::new(spec)).await,
            None => Ok(false),
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
            self.show(&function);
        }
        self.write(&function, Expect::Revision(revision)).await?;
        if takes_hold {
            self.forget_earlier(&function.name).await;
        }
        self.collect_soon.notify_one();
        Ok(())
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
        self.show(&function);
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
                shared.show(&function);
                shared.clone().settle_later(&function, Version::Latest);
            }
            Ok(())
        })
        .await?;
        self.until_settled(name, Version::Latest, wait).await;
        Ok(())
    }

    /// Waits until a version is not Pending, at most for `wait`.
    pub(crate) async fn until_settled(&self, name: &FunctionName, version: Version, wait: Duration) {
        /// Waking takes a few milliseconds; it is rare enough to look instead of being told.
        const LOOK: Duration = Duration::from_millis(10);
        let settled = async {
            loop {
                let snapshot = self.shared.config.snapshot.load();
                let pending = match snapshot.functions.get(name).and_then(|targets| targets.version(version)) {
                    Some(Target::NotReady { state }) => matches!(*state, "Pending" | INITIALIZING),
                    Some(Target::Ready(_)) | None => false,
                };
                if !pending {
                    return;
                }
                drop(snapshot);
                tokio::time::sleep(LOOK).await;
            }
        };
        // Whoever waited in vain reads the snapshot all the same.
        let _ = tokio::time::timeout(wait, settled).await;
    }
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
