//! Creating, reading, listing and deleting functions.

use crate::packages::CodeSource;
use crate::versions::AtVersion;
use crate::{Error, Handle, Shared, new_revision_id, now_ms, to_the_end};
use model::function::Config;
use model::{Function, FunctionName, Published, Version};
use scheduler::function_state;
use std::collections::BTreeMap;
use std::sync::Arc;
use store::Expect;
use tokio::sync::OwnedSemaphorePermit;

/// Functions read from the registry at once.
const PAGE: usize = 200;

/// What CreateFunction makes a function of. The gateway has checked every part of it.
#[derive(Debug)]
pub struct NewFunction {
    /// The name.
    pub name: FunctionName,
    /// The configuration, defaults filled in.
    pub config: Config,
    /// The tags.
    pub tags: BTreeMap<String, String>,
    /// The code.
    pub code: CodeSource,
    /// Whether it is published as version 1 at once.
    pub publish: bool,
}

/// What GetAccountSettings counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    /// Functions.
    pub functions: u64,
    /// Bytes of all functions' and versions' zips.
    pub code_bytes: u64,
}

impl Handle {
    /// Takes the package, records the function as Pending and answers with that record. What makes it Active or
    /// Failed goes on in the background. A function that is published at once answers with version 1's record.
    pub async fn create_function(&self, new: NewFunction) -> Result<AtVersion, Error> {
        let turn = new.code.turn(&self.shared).await;
        to_the_end(create(self.shared.clone(), new, turn)).await
    }

    /// A function's record.
    pub async fn function(&self, name: &FunctionName) -> Result<Function, Error> {
        self.shared.read(name).await.map(|(function, _)| function)
    }

    /// At most `limit` functions in the order of their names, from behind `after`; `true` if more follow.
    pub async fn functions(&self, after: Option<FunctionName>, limit: usize) -> Result<(Vec<Function>, bool), Error> {
        let found =
            self.shared.on_disk(move |store| store.registry().functions(after.as_ref(), limit.saturating_add(1))).await;
        let mut functions: Vec<Function> = found?.into_iter().map(|(function, _)| function).collect();
        let more = functions.len() > limit;
        functions.truncate(limit);
        Ok((functions, more))
    }

    /// Removes a function with its versions, aliases and logs. Its package goes when nothing uses it any more.
    pub async fn delete_function(&self, name: &FunctionName) -> Result<(), Error> {
        to_the_end(delete(self.shared.clone(), name.clone())).await
    }

    /// Counts functions and their code.
    pub async fn account(&self) -> Result<Account, Error> {
        self.shared
            .on_disk(|store| {
                let mut account = Account { functions: 0, code_bytes: 0 };
                each_function(store, |function| {
                    account.functions += 1;
                    account.code_bytes += function.code.size_bytes;
                })?;
                store.registry().each_version(|version| account.code_bytes += version.function.code.size_bytes)?;
                Ok(account)
            })
            .await
    }
}

impl Shared {
    /// A record and its revision in the registry.
    pub(crate) async fn read(&self, name: &FunctionName) -> Result<(Function, u64), Error> {
        let wanted = name.clone();
        let found = self.on_disk(move |store| store.registry().function(&wanted)).await?;
        found.ok_or_else(|| Error::NotFound { name: name.clone() })
    }

    /// Writes a record back that was read at `revision`.
    pub(crate) async fn write(&self, function: &Function, expect: Expect) -> Result<(), Error> {
        let function = function.clone();
        self.on_disk(move |store| store.registry().put_function(&function, expect)).await.map(|_| ())
    }

    /// Writes a record back and, if there is one, the version that was just made of it; both or neither.
    pub(crate) async fn write_with(
        &self,
        function: &Function,
        expect: Expect,
        version: Option<&Published>,
    ) -> Result<(), Error> {
        let Some(version) = version.cloned() else { return self.write(function, expect).await };
        let function = function.clone();
        self.on_disk(move |store| store.registry().publish(&function, expect, &version)).await
    }

    /// Lets a version that was just written become ready; the answer is its record, or `$LATEST`'s if there is none.
    pub(crate) fn begin_version(self: &Arc<Self>, latest: Function, version: Option<Published>) -> AtVersion {
        let Some(version) = version else { return AtVersion::latest(latest) };
        self.show_version(&version);
        self.clone().settle_later(&version.function, Version::Number(version.number));
        version.into()
    }
}

/// Calls `visit` with every function, page by page.
pub(crate) fn each_function(store: &store::Store, mut visit: impl FnMut(Function)) -> Result<(), store::Error> {
    let mut after: Option<FunctionName> = None;
    loop {
        let page = store.registry().functions(after.as_ref(), PAGE)?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        after = Some(last.name.clone());
        page.into_iter().for_each(|(function, _)| visit(function));
    }
}

async fn create(shared: Arc<Shared>, new: NewFunction, turn: Option<OwnedSemaphorePermit>) -> Result<AtVersion, Error> {
    match shared.read(&new.name).await {
        Err(Error::NotFound { .. }) => {}
        Ok(_) => return Err(Error::Exists { name: new.name }),
        Err(error) => return Err(error),
    }
    if new.tags.len() > shared.config.limits.tags {
        return Err(Error::TooManyTags { limit: shared.config.limits.tags });
    }
    let zip = shared.take_zip(new.code, turn).await?;
    let _upload = shared.uploads.read().await;
    let code = shared.keep_package(zip).await?;
    let generation = shared.on_disk(|store| store.registry().next_generation()).await?;
    let (state, last_update) = function_state::created();
    let mut function = Function {
        name: new.name,
        config: new.config,
        code,
        tags: new.tags,
        state,
        last_update,
        revision_id: new_revision_id(),
        generation,
        last_modified_ms: now_ms(),
        last_version: 0,
    };
    let version = match new.publish {
        true => Some(shared.freeze(&mut function, None).await?),
        false => None,
    };
    let _turn = shared.writer.lock().await;
    match shared.write_with(&function, Expect::Absent, version.as_ref()).await {
        Ok(()) => shared.change_log(&function.name, |logs, name| logs.begin(name, now_ms())).await,
        Err(Error::Store(store::Error::Conflict { .. })) => return Err(Error::Exists { name: function.name }),
        Err(error) => return Err(error),
    }
    shared.show(&function);
    shared.clone().settle_later(&function, Version::Latest);
    Ok(shared.begin_version(function, version))
}

async fn delete(shared: Arc<Shared>, name: FunctionName) -> Result<(), Error> {
    let _turn = shared.writer.lock().await;
    shared.forget_share(&name).await?;
    let wanted = name.clone();
    let existed = shared.on_disk(move |store| store.registry().delete_function(&wanted, Expect::Any)).await?;
    if !existed {
        return Err(Error::NotFound { name });
    }
    shared.forget_configured(&name, None);
    shared.hide(&name);
    shared.forget_earlier(&name).await;
    shared.change_log(&name, store::Logs::close).await;
    shared.collect_soon.notify_one();
    Ok(())
}
