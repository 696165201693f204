//! Aliases: names that point to one version, or to two by weight.

use crate::error::WeightFault;
use crate::{Error, Handle, Shared, new_revision_id, to_the_end};
use model::{Alias, Function, FunctionName, Version};
use std::sync::Arc;
use std::time::Duration;
use store::Expect;

/// How long an alias waits for a version that is being made ready, before it points to it all the same: invocations of
/// a Pending version are refused. A little longer than the launcher's search for interpreters may take.
const VERSION_WAIT: Duration = Duration::from_secs(12);
/// Aliases read at once.
const PAGE: usize = 200;

/// Versions and their weights, as the caller has sent them.
pub type Weights = Vec<(u64, f64)>;

/// What CreateAlias makes an alias of.
#[derive(Debug)]
pub struct NewAlias {
    /// The name; not all digits.
    pub name: String,
    /// The main version.
    pub version: Version,
    /// The additional versions.
    pub additional: Weights,
    /// The description.
    pub description: String,
}

/// What UpdateAlias changes; `None` leaves a field as it is.
#[derive(Debug, Default)]
pub struct AliasChange {
    /// The main version.
    pub version: Option<Version>,
    /// All additional versions.
    pub additional: Option<Weights>,
    /// The description.
    pub description: Option<String>,
    /// Only if the record still has this revision id.
    pub revision_id: Option<String>,
}

impl Handle {
    /// Makes an alias; it is in force when this returns.
    pub async fn create_alias(&self, function: &FunctionName, new: NewAlias) -> Result<Alias, Error> {
        self.until_ready(function, Some(new.version), &new.additional).await;
        to_the_end(create(self.shared.clone(), function.clone(), new)).await
    }

    /// Changes an alias; the change is in force when this returns.
    pub async fn update_alias(&self, function: &FunctionName, name: &str, change: AliasChange) -> Result<Alias, Error> {
        self.until_ready(function, change.version, change.additional.as_deref().unwrap_or_default()).await;
        to_the_end(update(self.shared.clone(), function.clone(), name.to_owned(), change)).await
    }

    /// An alias's record.
    pub async fn alias(&self, function: &FunctionName, name: &str) -> Result<Alias, Error> {
        self.shared.read_alias(function, name).await
    }

    /// At most `limit` aliases in the order of their names, from behind `after`, of `version` alone if one is given;
    /// `true` if more follow.
    pub async fn aliases(
        &self,
        function: &FunctionName,
        version: Option<Version>,
        after: Option<String>,
        limit: usize,
    ) -> Result<(Vec<Alias>, bool), Error> {
        self.function(function).await?;
        let behind = |alias: &Alias| after.as_ref().is_none_or(|after| alias.name > *after);
        let of_version = |alias: &Alias| {
            version.is_none_or(|version| match version {
                Version::Latest => alias.version == Version::Latest,
                Version::Number(number) => alias.points_to(number),
            })
        };
        let all = self.shared.all_aliases(function).await?;
        let mut found: Vec<Alias> = all.into_iter().filter(|alias| behind(alias) && of_version(alias)).collect();
        let more = found.len() > limit;
        found.truncate(limit);
        Ok((found, more))
    }

    /// Removes an alias. One that is not there is no failure.
    pub async fn delete_alias(&self, function: &FunctionName, name: &str) -> Result<(), Error> {
        to_the_end(delete(self.shared.clone(), function.clone(), name.to_owned())).await
    }

    /// Waits, within bounds, until versions that an alias is to point to are not Pending any more.
    async fn until_ready(&self, function: &FunctionName, main: Option<Version>, additional: &[(u64, f64)]) {
        let additional = additional.iter().map(|(number, _)| Version::Number(*number));
        for version in main.into_iter().chain(additional) {
            self.until_settled(function, version, VERSION_WAIT).await;
        }
    }
}

async fn create(shared: Arc<Shared>, function: FunctionName, new: NewAlias) -> Result<Alias, Error> {
    let _turn = shared.writer.lock().await;
    shared.at(&function, new.version).await?;
    match shared.read_alias(&function, &new.name).await {
        Err(Error::AliasMissing { .. }) => {}
        Ok(_) => return Err(Error::AliasExists { name: function, alias: new.name }),
        Err(error) => return Err(error),
    }
    shared.check_weights(&function, new.version, &new.additional).await?;
    let alias = Alias {
        function,
        name: new.name,
        version: new.version,
        additional: new.additional.into_iter().collect(),
        description: new.description,
        revision_id: new_revision_id(),
    };
    shared.write_alias(&alias, Expect::Absent).await?;
    Ok(alias)
}

async fn update(
    shared: Arc<Shared>,
    function: FunctionName,
    name: String,
    change: AliasChange,
) -> Result<Alias, Error> {
    let _turn = shared.writer.lock().await;
    let mut alias = shared.read_alias(&function, &name).await?;
    if change.revision_id.is_some_and(|wanted| wanted != alias.revision_id) {
        return Err(Error::RevisionMismatch { name: function });
    }
    alias.version = change.version.unwrap_or(alias.version);
    alias.description = change.description.unwrap_or(alias.description);
    let additional = change.additional.unwrap_or_else(|| alias.additional.into_iter().collect());
    shared.check_weights(&function, alias.version, &additional).await?;
    alias.additional = additional.into_iter().collect();
    alias.revision_id = new_revision_id();
    shared.check_provisioned_alias(&function, &name, &alias.split())?;
    shared.write_alias(&alias, Expect::Any).await?;
    shared.collect_soon.notify_one();
    Ok(alias)
}

async fn delete(shared: Arc<Shared>, function: FunctionName, name: String) -> Result<(), Error> {
    let _turn = shared.writer.lock().await;
    shared.read(&function).await?;
    let (of, wanted) = (function.clone(), name.clone());
    shared.on_disk(move |store| store.registry().delete_alias(&of, &wanted)).await?;
    shared.forget_configured(&function, Some(&name));
    shared.hide_alias(&function, &name);
    Ok(())
}

impl Shared {
    pub(crate) async fn read_alias(&self, function: &FunctionName, name: &str) -> Result<Alias, Error> {
        let (of, wanted) = (function.clone(), name.to_owned());
        let found = self.on_disk(move |store| store.registry().alias(&of, &wanted)).await?;
        match found {
            Some(alias) => Ok(alias),
            // Of a function that is not there it is the function that is missing.
            None => Err(Error::AliasMissing { name: self.read(function).await?.0.name, alias: name.to_owned() }),
        }
    }

    /// All aliases of a function in the order of their names.
    pub(crate) async fn all_aliases(&self, function: &FunctionName) -> Result<Vec<Alias>, Error> {
        let function = function.clone();
        self.on_disk(move |store| {
            let mut all: Vec<Alias> = Vec::new();
            loop {
                let after = all.last().map(|alias| alias.name.clone());
                let page = store.registry().aliases(&function, after.as_deref(), PAGE)?;
                match page.is_empty() {
                    true => return Ok(all),
                    false => all.extend(page),
                }
            }
        })
        .await
    }

    /// Writes an alias and lets it take hold. The caller holds `writer`.
    async fn write_alias(&self, alias: &Alias, expect: Expect) -> Result<(), Error> {
        let written = alias.clone();
        self.on_disk(move |store| store.registry().put_alias(&written, expect)).await?;
        self.show_alias(alias);
        Ok(())
    }

    /// The record of a version.
    async fn at(&self, name: &FunctionName, version: Version) -> Result<Function, Error> {
        match version {
            Version::Latest => self.read(name).await.map(|(function, _)| function),
            Version::Number(number) => self.read_version(name, number).await.map(|version| version.function),
        }
    }

    /// The rules for an alias of one or two versions, in the order in which AWS checks them. Both exist afterwards.
    async fn check_weights(&self, name: &FunctionName, main: Version, additional: &[(u64, f64)]) -> Result<(), Error> {
        let one = self.at(name, main).await?;
        let number = match additional {
            [] => return Ok(()),
            [(number, _)] => *number,
            [_, _, ..] => return Err(Error::Weights(WeightFault::TooMany)),
        };
        if main == Version::Number(number) {
            return Err(Error::Weights(WeightFault::Twice { number }));
        }
        if main == Version::Latest {
            return Err(Error::Weights(WeightFault::Latest));
        }
        let other = self.at(name, Version::Number(number)).await?;
        if one.config.role != other.config.role {
            return Err(Error::Weights(WeightFault::Roles));
        }
        let dead_letters = |function: &Function| function.config.echoed.get("DeadLetterConfig").cloned();
        if dead_letters(&one) != dead_letters(&other) {
            return Err(Error::Weights(WeightFault::DeadLetters));
        }
        Ok(())
    }
}
