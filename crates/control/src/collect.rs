//! Removes packages that nothing refers to: no function, no version, no earlier record of one, and no instance. And logs whose
//! function is gone: the server may have ended between a deletion and the removal of the log.

use crate::functions::each_function;
use crate::{Error, Shared, now_ms};
use model::{Digest, Function, FunctionName};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a package stays after the last record that referred to it is gone: an invocation that was routed just
/// before may still be on its way to the worker.
pub(crate) const GRACE: Duration = Duration::from_secs(5);
/// How long a removal waits for uploads that have begun before it. New ones wait behind it, so it always gets its turn
/// unless one upload alone takes longer.
const UPLOADS_WAIT: Duration = Duration::from_secs(10);
/// Earlier records read at once.
const PAGE: usize = 200;

/// Packages that wait for removal, and since when, milliseconds since the Unix epoch.
pub(crate) type Unused = BTreeMap<Digest, u64>;

type LogChange = fn(&store::Logs, &FunctionName) -> Result<(), store::Error>;

impl Shared {
    pub(crate) fn has_unused(&self) -> bool {
        !self.unused().is_empty()
    }

    /// At the start no instance and no invocation exists: what is unused then may go at once.
    pub(crate) fn forget_grace(&self) {
        let Ok(packages) = self.config.store.packages().list() else { return };
        let mut unused = self.unused();
        packages.into_iter().for_each(|digest| {
            unused.insert(digest, 0);
        });
    }

    /// Removes what has been unused for [`GRACE`]. While packages are being unpacked nothing is removed; if that takes
    /// too long, the next round tries again.
    pub(crate) async fn collect(self: &Arc<Self>) {
        let Ok(_no_uploads) = tokio::time::timeout(UPLOADS_WAIT, self.uploads.write()).await else { return };
        let shared = self.clone();
        let swept = tokio::task::spawn_blocking(move || shared.sweep()).await;
        match swept {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "cannot remove unused packages");
            }
            Err(error) => tracing::error!(%error, "the removal of unused packages was cut off"),
        }
    }

    /// Removes the logs of functions that are not there.
    pub(crate) async fn sweep_logs(&self) {
        let logs = match self.on_disk(|store| store.logs().functions()).await {
            Ok(logs) => logs,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "cannot look for logs of deleted functions");
                return;
            }
        };
        for name in logs {
            if self.is_absent(&name).await {
                // And still is: no function of this name can appear from here on.
                let _turn = self.writer.lock().await;
                if self.is_absent(&name).await {
                    self.change_log(&name, store::Logs::remove).await;
                }
            }
        }
    }

    async fn is_absent(&self, name: &FunctionName) -> bool {
        matches!(self.read(name).await, Err(Error::NotFound { .. }))
    }

    /// Begins, closes or removes a log. The caller holds `writer`. An operation does not fail for its log.
    pub(crate) async fn change_log(&self, name: &FunctionName, change: LogChange) {
        let wanted = name.clone();
        if let Err(error) = self.on_disk(move |store| change(store.logs(), &wanted)).await {
            tracing::warn!(%name, error = &error as &dyn std::error::Error, "cannot remove an old log");
        }
    }

    fn sweep(&self) -> Result<(), store::Error> {
        let store = &self.config.store;
        let referenced = self.referenced()?;
        let now_ms = now_ms();
        let candidates: Vec<Digest> =
            store.packages().list()?.into_iter().filter(|d| !referenced.contains(d)).collect();
        let due: Vec<Digest> = {
            let mut unused = self.unused();
            unused.retain(|digest, _| candidates.contains(digest));
            let grace_ms = GRACE.as_millis() as u64;
            let waited = |digest: &&Digest| {
                let since_ms = *unused.entry(**digest).or_insert(now_ms);
                now_ms.saturating_sub(since_ms) >= grace_ms
            };
            candidates.iter().filter(waited).copied().collect()
        };
        for digest in due {
            if (self.config.in_use)(&digest) {
                continue;
            }
            store.packages().remove(&digest)?;
            self.unused().remove(&digest);
        }
        Ok(())
    }

    fn referenced(&self) -> Result<BTreeSet<Digest>, store::Error> {
        let store = &self.config.store;
        let mut referenced = BTreeSet::new();
        each_function(store, |function| {
            referenced.insert(function.code.digest);
        })?;
        store.registry().each_version(|version| {
            referenced.insert(version.function.code.digest);
        })?;
        let mut after: Option<String> = None;
        loop {
            let page = store.registry().list("earlier/", after.as_deref(), PAGE)?;
            let Some(last) = page.last() else { return Ok(referenced) };
            after = Some(last.key.clone());
            for entry in &page {
                let earlier: Function = serde_json::from_slice(&entry.value)
                    .map_err(|source| store::Error::DecodeFunction { key: entry.key.clone(), source })?;
                referenced.insert(earlier.code.digest);
            }
        }
    }

    fn unused(&self) -> MutexGuard<'_, Unused> {
        self.unused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
