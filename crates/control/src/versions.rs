//! Publishing versions, reading and deleting them. A version is a frozen copy of `$LATEST` with a pool of instances of
//! its own.

use crate::snapshot::wants_snapshot;
use crate::updates::may_update;
use crate::{Error, Handle, Shared, new_revision_id, to_the_end};
use model::function::{Config, LastUpdate, Reason, State};
use model::{Digest, Function, FunctionName, Published, Qualifier, Version};
use scheduler::function_state;
use std::collections::BTreeMap;
use std::sync::Arc;
use store::Expect;

/// A function as it is at one version.
#[derive(Debug, Clone, PartialEq)]
pub struct AtVersion {
    /// The version.
    pub version: Version,
    /// Its record.
    pub function: Function,
    /// Whether its instances are restored from a snapshot (SnapStart).
    pub optimized: bool,
}

impl AtVersion {
    /// `$LATEST`.
    pub fn latest(function: Function) -> AtVersion {
        AtVersion { version: Version::Latest, function, optimized: false }
    }
}

impl From<Published> for AtVersion {
    fn from(published: Published) -> AtVersion {
        let Published { number, function, optimized, .. } = published;
        AtVersion { version: Version::Number(number), function, optimized }
    }
}

/// What PublishVersion asks for.
#[derive(Debug, Default)]
pub struct Publication {
    /// Only if `$LATEST` has this code: the caller's text and, if it is one, its digest.
    pub code: Option<(String, Option<Digest>)>,
    /// Only if `$LATEST` still has this revision id.
    pub revision_id: Option<String>,
    /// The version's description, if not `$LATEST`'s.
    pub description: Option<String>,
}

impl Handle {
    /// Freezes `$LATEST` as a new version. If the newest version is a copy of it already, that is the answer.
    pub async fn publish_version(&self, name: &FunctionName, wish: Publication) -> Result<AtVersion, Error> {
        to_the_end(publish(self.shared.clone(), name.clone(), wish)).await
    }

    /// A function at a qualifier; none means `$LATEST`, an alias its main version.
    pub async fn function_at(&self, name: &FunctionName, qualifier: Option<&Qualifier>) -> Result<AtVersion, Error> {
        let version = match qualifier {
            None => Version::Latest,
            Some(Qualifier::Version(version)) => *version,
            Some(Qualifier::Alias(alias)) => self.alias(name, alias).await?.version,
        };
        match version {
            Version::Latest => self.function(name).await.map(AtVersion::latest),
            Version::Number(number) => self.shared.read_version(name, number).await.map(AtVersion::from),
        }
    }

    /// At most `limit` versions of a function, `$LATEST` first, then by number, from behind `after` (0 is `$LATEST`);
    /// `true` if more follow.
    pub async fn versions(
        &self,
        name: &FunctionName,
        after: Option<u64>,
        limit: usize,
    ) -> Result<(Vec<AtVersion>, bool), Error> {
        let function = self.function(name).await?;
        let latest = after.is_none().then_some(AtVersion::latest(function));
        let wanted = name.clone();
        let numbered = self
            .shared
            .on_disk(move |store| store.registry().versions(&wanted, after.unwrap_or(0), limit.saturating_add(1)))
            .await?;
        let mut found: Vec<AtVersion> = latest.into_iter().chain(numbered.into_iter().map(AtVersion::from)).collect();
        let more = found.len() > limit;
        found.truncate(limit);
        Ok((found, more))
    }

    /// At most `limit` versions of all functions: functions in the order of their names, of each `$LATEST` and then its
    /// versions by number, from behind one version of one function; `true` if more follow.
    pub async fn all_versions(
        &self,
        after: Option<(FunctionName, u64)>,
        limit: usize,
    ) -> Result<(Vec<AtVersion>, bool), Error> {
        let mut found =
            self.shared.on_disk(move |store| versions_of_all(store, after, limit.saturating_add(1))).await?;
        let more = found.len() > limit;
        found.truncate(limit);
        Ok((found, more))
    }

    /// Removes a version that no alias points to. One that is not there is no failure.
    pub async fn delete_version(&self, name: &FunctionName, number: u64) -> Result<(), Error> {
        to_the_end(delete(self.shared.clone(), name.clone(), number)).await
    }
}

/// The first `wanted` versions behind `after`.
fn versions_of_all(
    store: &store::Store,
    after: Option<(FunctionName, u64)>,
    wanted: usize,
) -> Result<Vec<AtVersion>, store::Error> {
    let registry = store.registry();
    let mut found = Vec::new();
    let numbered = |found: &mut Vec<AtVersion>, name: &FunctionName, after| -> Result<(), store::Error> {
        let page = registry.versions(name, after, wanted.saturating_sub(found.len()))?;
        found.extend(page.into_iter().map(AtVersion::from));
        Ok(())
    };
    let mut last = match after {
        Some((name, number)) => {
            numbered(&mut found, &name, number)?;
            Some(name)
        }
        None => None,
    };
    while found.len() < wanted {
        let page = registry.functions(last.as_ref(), wanted - found.len())?;
        if page.is_empty() {
            break;
        }
        for (function, _) in page {
            let name = function.name.clone();
            found.push(AtVersion::latest(function));
            numbered(&mut found, &name, 0)?;
            last = Some(name);
        }
    }
    Ok(found)
}

async fn publish(shared: Arc<Shared>, name: FunctionName, wish: Publication) -> Result<AtVersion, Error> {
    let _turn = shared.writer.lock().await;
    let (mut function, revision) = shared.read(&name).await?;
    may_update(&function, wish.revision_id.as_deref())?;
    if let Some((given, digest)) = wish.code
        && digest != Some(function.code.digest)
    {
        return Err(Error::CodeMismatch { name, given, current: function.code.digest });
    }
    let failed = matches!(function.state, State::Failed(_));
    if failed || matches!(function.last_update, Some(LastUpdate::Failed(_))) {
        return Err(Error::NothingToPublish { name });
    }
    if let Some(newest) = shared.copy_of(&function).await? {
        return Ok(newest.into());
    }
    let version = shared.freeze(&mut function, wish.description).await?;
    function.revision_id = new_revision_id();
    let written = version.clone();
    shared.on_disk(move |store| store.registry().publish(&function, Expect::Revision(revision), &written)).await?;
    shared.show_version(&version);
    if function_state::is_busy(&version.function) {
        shared.clone().settle_later(&version.function, Version::Number(version.number));
    }
    Ok(version.into())
}

async fn delete(shared: Arc<Shared>, name: FunctionName, number: u64) -> Result<(), Error> {
    let _turn = shared.writer.lock().await;
    shared.read(&name).await?;
    let aliases: Vec<String> = {
        let aliases = shared.all_aliases(&name).await?;
        aliases.into_iter().filter(|alias| alias.points_to(number)).map(|alias| alias.name).collect()
    };
    if !aliases.is_empty() {
        return Err(Error::PointedTo { aliases });
    }
    let wanted = name.clone();
    shared.on_disk(move |store| store.registry().delete_version(&wanted, number)).await?;
    shared.forget_configured(&name, Some(&number.to_string()));
    shared.hide_version(&name, number);
    shared.collect_soon.notify_one();
    Ok(())
}

impl Shared {
    pub(crate) async fn read_version(&self, name: &FunctionName, number: u64) -> Result<Published, Error> {
        let wanted = name.clone();
        let found = self.on_disk(move |store| store.registry().version(&wanted, number)).await?;
        match found {
            Some(version) => Ok(version),
            // Of a function that is not there it is the function that is missing.
            None => Err(Error::VersionMissing { name: self.read(name).await?.0.name, number }),
        }
    }

    /// The newest version, if it is a copy of what `$LATEST` is.
    pub(crate) async fn copy_of(&self, latest: &Function) -> Result<Option<Published>, Error> {
        let name = latest.name.clone();
        let newest = self.on_disk(move |store| store.registry().newest_version(&name)).await?;
        Ok(newest.filter(|version| version.is_copy_of(latest)))
    }

    /// Makes a version of `$LATEST`, which gives it its number. It is Pending if `$LATEST` is being changed or a snapshot
    /// is to be taken. Nothing is written.
    pub(crate) async fn freeze(&self, latest: &mut Function, description: Option<String>) -> Result<Published, Error> {
        let generation = self.on_disk(|store| store.registry().next_generation()).await?;
        latest.last_version += 1;
        let (state, last_update) = match function_state::is_busy(latest) || wants_snapshot(latest) {
            true => function_state::created(),
            false => (State::Active, Some(LastUpdate::Successful)),
        };
        let latest_description = latest.config.description.clone();
        let description = description.unwrap_or_else(|| latest_description.clone());
        let function = Function {
            config: Config { description, ..latest.config.clone() },
            tags: BTreeMap::new(),
            state,
            last_update,
            revision_id: new_revision_id(),
            generation,
            last_version: 0,
            ..latest.clone()
        };
        Ok(Published { number: latest.last_version, function, latest_description, optimized: false })
    }

    /// Records the end of a version's transition, and whether it has a snapshot.
    pub(crate) async fn settle_version(
        &self,
        begun: &Function,
        number: u64,
        result: Result<bool, Reason>,
    ) -> Result<(), Error> {
        let _turn = self.writer.lock().await;
        let mut version = match self.read_version(&begun.name, number).await {
            Err(Error::NotFound { .. } | Error::VersionMissing { .. }) => return Ok(()),
            other => other?,
        };
        let same = version.function.revision_id == begun.revision_id;
        version.optimized = result == Ok(true);
        if !same || function_state::completed(&mut version.function, result.map(drop)).is_err() {
            return Ok(());
        }
        version.function.revision_id = new_revision_id();
        // Published first: whoever reads that a version is Active may invoke it.
        self.show_version(&version);
        self.on_disk(move |store| store.registry().rewrite_version(&version)).await
    }
}
