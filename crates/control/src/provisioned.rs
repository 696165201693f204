//! Provisioned concurrency: what is wanted, what of it each version gets, and how it stands. The instances are the
//! worker's, which keeps as many as it is told to.

use crate::{Error, Handle, Shared, now_ms, to_the_end};
use model::snapshot::{Target, Targets};
use model::{FunctionName, Generation, Provisioned, Qualifier, Spec, Version};
use scheduler::pool::{Gone, Trouble};
use scheduler::provisioned::{Part, Status, Wish, divide, instances, may_provision, standing};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, MutexGuard, PoisonError};

/// Keeps so many instances of a version initialised from now on. `false` if the version is gone.
pub type Provision = Box<dyn Fn(&Arc<Spec>, u32) -> bool + Send + Sync>;

/// What is there of a version's provisioned instances; `None` if nothing is known of the version.
pub type Counted = Box<dyn Fn(Generation) -> Option<Counts> + Send + Sync>;

/// Starts instances of a version until so many are there. `false` if the version is gone.
pub type WarmUp = Box<dyn Fn(&Arc<Spec>, u32) -> bool + Send + Sync>;

/// A version's provisioned instances.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Counts {
    /// Past Init, used or not.
    pub ready: u32,
    /// Of those: with an invocation.
    pub in_use: u32,
    /// Why the newest start came to nothing, with words for people; `None` after a success.
    pub failure: Option<(Trouble, String)>,
}

/// Provisioned concurrency and how it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProvisionedNow {
    /// What is wanted.
    pub record: Provisioned,
    /// What of it is there.
    pub allocated: u32,
    /// How that stands.
    pub status: Status,
    /// Why something is missing, if it is known.
    pub reason: Option<String>,
}

/// What is wanted, and what the worker was told.
#[derive(Debug, Default)]
pub(crate) struct Book {
    wanted: BTreeMap<FunctionName, BTreeMap<String, Provisioned>>,
    /// By version: its generation and the number of instances.
    ordered: HashMap<FunctionName, BTreeMap<u64, (Generation, u32)>>,
}

impl Handle {
    /// Provisions concurrency for a version or an alias.
    pub async fn put_provisioned(
        &self,
        name: &FunctionName,
        qualifier: &Qualifier,
        wanted: u32,
    ) -> Result<ProvisionedNow, Error> {
        to_the_end(put(self.shared.clone(), name.clone(), qualifier.clone(), wanted)).await
    }

    /// What is provisioned for a version or an alias. [`Error::NothingProvisioned`] if nothing is.
    pub async fn provisioned(&self, name: &FunctionName, qualifier: &Qualifier) -> Result<ProvisionedNow, Error> {
        self.shared.qualified(name, qualifier).await?;
        let record = self.shared.book().wanted.get(name).and_then(|all| all.get(&qualifier.to_string())).cloned();
        let record = record.ok_or_else(|| Error::NothingProvisioned { name: name.clone() })?;
        Ok(self.shared.stands(record))
    }

    /// At most `limit` of what is provisioned for a function, in the order of the qualifiers, from behind `after`;
    /// `true` if more follows.
    pub async fn all_provisioned(
        &self,
        name: &FunctionName,
        after: Option<String>,
        limit: usize,
    ) -> Result<(Vec<ProvisionedNow>, bool), Error> {
        self.function(name).await?;
        let all: Vec<Provisioned> =
            self.shared.book().wanted.get(name).into_iter().flat_map(BTreeMap::values).cloned().collect();
        let behind = |record: &Provisioned| after.as_ref().is_none_or(|after| record.qualifier > *after);
        let mut found: Vec<Provisioned> = all.into_iter().filter(behind).collect();
        let more = found.len() > limit;
        found.truncate(limit);
        Ok((found.into_iter().map(|record| self.shared.stands(record)).collect(), more))
    }

    /// Ends provisioned concurrency; what is not there is no failure. Its instances become ordinary ones.
    pub async fn delete_provisioned(&self, name: &FunctionName, qualifier: &Qualifier) -> Result<(), Error> {
        let (shared, name, qualifier) = (self.shared.clone(), name.clone(), qualifier.clone());
        to_the_end(async move {
            let _turn = shared.writer.lock().await;
            shared.qualified(&name, &qualifier).await?;
            shared.unprovision(&name, &qualifier.to_string()).await
        })
        .await
    }

    /// Starts instances until `count` are there of what a qualifier leads to, divided as an alias divides its
    /// invocations. They live on as if invocations had started them.
    pub async fn warm_up(&self, name: &FunctionName, qualifier: Option<&Qualifier>, count: u32) -> Result<(), Error> {
        self.function_at(name, qualifier).await?;
        let snapshot = self.shared.config.snapshot.load();
        let targets = snapshot.functions.get(name).ok_or_else(|| Error::NotFound { name: name.clone() })?;
        let parts = match qualifier {
            None => vec![(Version::Latest, count)],
            Some(Qualifier::Version(version)) => vec![(*version, count)],
            Some(Qualifier::Alias(alias)) => match targets.aliases.get(alias) {
                Some(split) => divide(count, split),
                None => return Err(Error::AliasMissing { name: name.clone(), alias: alias.clone() }),
            },
        };
        for (version, count) in parts {
            match targets.version(version) {
                Some(Target::Ready(spec)) => {
                    (self.shared.config.warm_up)(spec, instances(count, spec.instance_concurrency))
                }
                Some(Target::NotReady { state }) => return Err(Error::NotReady { name: name.clone(), state }),
                None => return Err(Error::NotFound { name: name.clone() }),
            };
        }
        Ok(())
    }
}

async fn put(
    shared: Arc<Shared>,
    name: FunctionName,
    qualifier: Qualifier,
    wanted: u32,
) -> Result<ProvisionedNow, Error> {
    let _turn = shared.writer.lock().await;
    shared.qualified(&name, &qualifier).await?;
    let record = shared.provision(&name, &qualifier, wanted).await?;
    Ok(shared.stands(record))
}

impl Shared {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what is wanted. Blocks.
    pub(crate) fn load_provisioned(&self) -> Result<(), Error> {
        let mut book = self.book();
        Ok(self.config.store.registry().each_provisioned(|record| {
            book.wanted.entry(record.function.clone()).or_default().insert(record.qualifier.clone(), record);
        })?)
    }

    /// Tells the worker again what is to be kept: at the start, when it knows nothing.
    pub(crate) fn provision_all(&self) {
        let names: Vec<FunctionName> = self.book().wanted.keys().cloned().collect();
        names.iter().for_each(|name| self.follow(name));
    }

    /// What of a function is provisioned, in all.
    pub(crate) fn provisioned_of(&self, name: &FunctionName) -> u32 {
        sum(self.book().wanted.get(name).into_iter().flat_map(BTreeMap::values))
    }

    /// What a version or an alias has.
    pub(crate) fn requested(&self, name: &FunctionName, qualifier: &str) -> u32 {
        self.book().wanted.get(name).and_then(|all| all.get(qualifier)).map_or(0, |record| record.requested)
    }

    /// What is promised to other functions: what they reserve, or have provisioned without a reservation.
    pub(crate) fn promised_to_others(&self, name: Option<&FunctionName>) -> u32 {
        let shares = self.config.shares.load();
        let own = name.and_then(|name| shares.of(name).reserved).unwrap_or(0);
        let book = self.book();
        let others =
            book.wanted.iter().filter(|(other, _)| Some(*other) != name && shares.of(other).reserved.is_none());
        let provisioned = sum(others.flat_map(|(_, all)| all.values()));
        shares.reserved_total().saturating_sub(own).saturating_add(provisioned)
    }

    /// Checks that a qualifier leads to a version or an alias that exists.
    pub(crate) async fn qualified(&self, name: &FunctionName, qualifier: &Qualifier) -> Result<(), Error> {
        match qualifier {
            Qualifier::Version(Version::Latest) => self.read(name).await.map(|_| ()),
            Qualifier::Version(Version::Number(number)) => self.read_version(name, *number).await.map(|_| ()),
            Qualifier::Alias(alias) => self.read_alias(name, alias).await.map(|_| ()),
        }
    }

    /// Records what is wanted and lets the worker know. The caller holds `writer` and knows that the qualifier exists.
    pub(crate) async fn provision(
        &self,
        name: &FunctionName,
        qualifier: &Qualifier,
        wanted: u32,
    ) -> Result<Provisioned, Error> {
        let text = qualifier.to_string();
        let wish = Wish {
            wanted,
            others_of_function: self.provisioned_of(name).saturating_sub(self.requested(name, &text)),
            reserved: self.config.shares.load().of(name).reserved,
            others: self.promised_to_others(Some(name)),
            account: self.config.limits.concurrent_executions,
            unreserved_min: self.config.limits.unreserved_concurrency_min,
        };
        may_provision(wish).map_err(Error::NotProvisioned)?;
        self.check_overlap(name, qualifier)?;
        let record =
            Provisioned { function: name.clone(), qualifier: text, requested: wanted, last_modified_ms: now_ms() };
        let written = record.clone();
        self.on_disk(move |store| store.registry().put_provisioned(&written)).await?;
        self.book().wanted.entry(name.clone()).or_default().insert(record.qualifier.clone(), record.clone());
        self.follow(name);
        Ok(record)
    }

    /// Ends what is provisioned for a version or an alias. The caller holds `writer`.
    pub(crate) async fn unprovision(&self, name: &FunctionName, qualifier: &str) -> Result<(), Error> {
        let (of, text) = (name.clone(), qualifier.to_owned());
        self.on_disk(move |store| store.registry().delete_provisioned(&of, &text)).await?;
        self.forget_provisioned(name, Some(qualifier));
        self.follow(name);
        Ok(())
    }

    /// Forgets what was wanted for a qualifier, or for all of a function; the records are gone with it.
    pub(crate) fn forget_provisioned(&self, name: &FunctionName, qualifier: Option<&str>) {
        let mut book = self.book();
        match qualifier {
            None => {
                book.wanted.remove(name);
                book.ordered.remove(name);
            }
            Some(qualifier) => {
                if let Some(all) = book.wanted.get_mut(name) {
                    all.remove(qualifier);
                    if all.is_empty() {
                        book.wanted.remove(name);
                    }
                }
            }
        }
    }

    /// A version has its provisioned concurrency by itself or by aliases, never by both.
    fn check_overlap(&self, name: &FunctionName, qualifier: &Qualifier) -> Result<(), Error> {
        let snapshot = self.config.snapshot.load();
        let Some(targets) = snapshot.functions.get(name) else { return Ok(()) };
        match qualifier {
            Qualifier::Alias(alias) => match targets.aliases.get(alias) {
                Some(split) if self.is_provisioned(name, &versions(split)) => Err(Error::OnProvisionedVersion),
                Some(_) | None => Ok(()),
            },
            Qualifier::Version(Version::Number(number)) => {
                let pointing = targets.aliases.iter().filter(|(_, split)| versions(split).contains(number));
                match pointing.into_iter().any(|(alias, _)| self.requested(name, alias) > 0) {
                    true => Err(Error::UnderProvisionedAlias),
                    false => Ok(()),
                }
            }
            Qualifier::Version(Version::Latest) => Ok(()),
        }
    }

    /// May an alias that has provisioned concurrency point to these versions?
    pub(crate) fn check_provisioned_alias(
        &self,
        name: &FunctionName,
        alias: &str,
        split: &model::snapshot::Split,
    ) -> Result<(), Error> {
        match self.requested(name, alias) > 0 && self.is_provisioned(name, &versions(split)) {
            true => Err(Error::OnProvisionedVersion),
            false => Ok(()),
        }
    }

    fn is_provisioned(&self, name: &FunctionName, numbers: &[u64]) -> bool {
        numbers.iter().any(|number| self.requested(name, &number.to_string()) > 0)
    }

    /// Tells the worker what of each version is to be kept, as far as that has changed.
    pub(crate) fn follow(&self, name: &FunctionName) {
        let snapshot = self.config.snapshot.load();
        let mut book = self.book();
        let Book { wanted, ordered } = &mut *book;
        if !wanted.contains_key(name) && !ordered.contains_key(name) {
            return;
        }
        let Some(targets) = snapshot.functions.get(name) else {
            ordered.remove(name);
            return;
        };
        let mut orders = BTreeMap::new();
        for (number, concurrency) in wanted.get(name).map(|all| by_version(targets, all.values())).unwrap_or_default() {
            if let Some(Target::Ready(spec)) = targets.versions.get(&number) {
                orders.insert(number, (spec.clone(), instances(concurrency, spec.instance_concurrency)));
            }
        }
        let before = ordered.entry(name.clone()).or_default();
        for number in before.keys().copied().collect::<Vec<_>>() {
            if let (false, Some(Target::Ready(spec))) = (orders.contains_key(&number), targets.versions.get(&number)) {
                (self.config.provision)(spec, 0);
            }
        }
        before.retain(|number, _| orders.contains_key(number));
        for (number, (spec, count)) in orders {
            let order = (spec.generation, count);
            if before.get(&number) != Some(&order) && (self.config.provision)(&spec, count) {
                before.insert(number, order);
            }
        }
        if before.is_empty() {
            ordered.remove(name);
        }
    }

    /// What of a record's concurrency is there.
    fn stands(&self, record: Provisioned) -> ProvisionedNow {
        let snapshot = self.config.snapshot.load();
        let Some(targets) = snapshot.functions.get(&record.function) else {
            return ProvisionedNow { record, allocated: 0, status: Status::InProgress, reason: None };
        };
        let mut failure = None;
        let parts: Vec<Part> = by_version(targets, std::iter::once(&record))
            .into_iter()
            .map(|(number, wanted)| {
                let Some(Target::Ready(spec)) = targets.versions.get(&number) else {
                    return Part { wanted, ready: 0, slots_per_instance: 1, failed: false };
                };
                let counts = (self.config.provisioned)(spec.generation).unwrap_or_default();
                let failed = matches!(counts.failure, Some((Trouble::Failed(Gone::InitFailed), _)));
                failure = failure.take().or(counts.failure);
                Part { wanted, ready: counts.ready, slots_per_instance: spec.instance_concurrency, failed }
            })
            .collect();
        let (allocated, status) = standing(&parts);
        let reason = failure.filter(|_| status != Status::Ready).map(|(trouble, text)| match trouble {
            Trouble::Failed(Gone::InitFailed) => "FUNCTION_ERROR_INIT_FAILURE".to_owned(),
            Trouble::Failed(_) | Trouble::Refused(_) => text,
        });
        ProvisionedNow { record, allocated, status, reason }
    }

    /// What is in use of the provisioned instances that a version or an alias leads to.
    pub(crate) fn in_use_of(&self, name: &FunctionName, qualifier: &str) -> u32 {
        let record = self.book().wanted.get(name).and_then(|all| all.get(qualifier)).cloned();
        let snapshot = self.config.snapshot.load();
        let (Some(record), Some(targets)) = (record, snapshot.functions.get(name)) else { return 0 };
        let mut in_use = 0u32;
        for (number, _) in by_version(targets, std::iter::once(&record)) {
            if let Some(Target::Ready(spec)) = targets.versions.get(&number) {
                let counts = (self.config.provisioned)(spec.generation).unwrap_or_default();
                in_use = in_use.saturating_add(counts.in_use.saturating_mul(spec.instance_concurrency));
            }
        }
        in_use
    }
}

/// What each version gets of several records, aliases divided by weight.
fn by_version<'a>(targets: &Targets, records: impl Iterator<Item = &'a Provisioned>) -> BTreeMap<u64, u32> {
    let mut wanted: BTreeMap<u64, u32> = BTreeMap::new();
    for record in records {
        let parts = match Qualifier::parse(&record.qualifier) {
            Ok(Qualifier::Version(version)) => vec![(version, record.requested)],
            Ok(Qualifier::Alias(alias)) => {
                targets.aliases.get(&alias).map(|split| divide(record.requested, split)).unwrap_or_default()
            }
            Err(_) => Vec::new(),
        };
        for (version, count) in parts {
            if let Version::Number(number) = version {
                let sum = wanted.entry(number).or_default();
                *sum = sum.saturating_add(count);
            }
        }
    }
    wanted
}

/// The published versions of an alias.
fn versions(split: &model::snapshot::Split) -> Vec<u64> {
    let main = match split.main {
        Version::Number(number) => Some(number),
        Version::Latest => None,
    };
    main.into_iter().chain(split.additional.map(|(number, _)| number)).collect()
}

fn sum<'a>(records: impl Iterator<Item = &'a Provisioned>) -> u32 {
    records.fold(0, |sum, record| sum.saturating_add(record.requested))
}
