//! Provisioned concurrency that changes by itself: in windows of time, and with its use. The decision is
//! `scheduler::provisioned`'s; this loop looks, asks it, and does what it says.

use crate::windows;
use crate::{Error, Handle, Shared, now_ms, to_the_end};
use model::{FunctionName, Qualifier, Scaling};
use scheduler::provisioned::{Because, Bounds, Calm, Seen, scale};
use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

/// How often it is looked.
const EVERY: Duration = Duration::from_secs(1);

/// Scaling, and what came of it.
#[derive(Debug, Clone, PartialEq)]
pub struct ScalingNow {
    /// What was set.
    pub record: Scaling,
    /// The least that is kept now, open windows included.
    pub min_now: u32,
    /// What is provisioned.
    pub requested: u32,
    /// Of that, in use.
    pub in_use: u32,
    /// Why it is so much; `None` before the first look.
    pub because: Option<Because>,
    /// Why the newest change was refused, for people.
    pub refused: Option<String>,
}

/// All scaling, by function and qualifier.
pub(crate) type Scalings = BTreeMap<(FunctionName, String), Followed>;

/// One record, and what is remembered of it from look to look.
#[derive(Debug, Clone)]
pub(crate) struct Followed {
    record: Scaling,
    calm: Calm,
    because: Option<Because>,
    refused: Option<String>,
}

impl Handle {
    /// Sets the scaling of a version or an alias; it takes hold within a second.
    pub async fn put_scaling(&self, record: Scaling) -> Result<ScalingNow, Error> {
        let now_ms = now_ms();
        for window in &record.windows {
            windows::check(window, now_ms).map_err(Error::Window)?;
        }
        to_the_end(put(self.shared.clone(), record)).await
    }

    /// The scaling of a version or an alias, if there is any.
    pub async fn scaling(&self, name: &FunctionName, qualifier: &Qualifier) -> Result<Option<ScalingNow>, Error> {
        self.function_at(name, Some(qualifier)).await?;
        let followed = self.shared.scalings().get(&(name.clone(), qualifier.to_string())).cloned();
        Ok(followed.map(|followed| self.shared.scaling_now(followed, now_ms())))
    }

    /// Ends scaling; what is provisioned stays. One that is not there is no failure.
    pub async fn delete_scaling(&self, name: &FunctionName, qualifier: &Qualifier) -> Result<(), Error> {
        let (shared, name, qualifier) = (self.shared.clone(), name.clone(), qualifier.clone());
        to_the_end(async move {
            let _turn = shared.writer.lock().await;
            shared.qualified(&name, &qualifier).await?;
            let (of, text) = (name.clone(), qualifier.to_string());
            shared.on_disk(move |store| store.registry().delete_scaling(&of, &text)).await?;
            shared.scalings().remove(&(name, qualifier.to_string()));
            Ok(())
        })
        .await
    }
}

async fn put(shared: Arc<Shared>, record: Scaling) -> Result<ScalingNow, Error> {
    let _turn = shared.writer.lock().await;
    if let Ok(qualifier) = Qualifier::parse(&record.qualifier) {
        shared.qualified(&record.function, &qualifier).await?;
    }
    let written = record.clone();
    shared.on_disk(move |store| store.registry().put_scaling(&written)).await?;
    let key = (record.function.clone(), record.qualifier.clone());
    let followed = Followed { record, calm: Calm::default(), because: None, refused: None };
    shared.scalings().insert(key, followed.clone());
    Ok(shared.scaling_now(followed, now_ms()))
}

/// Looks again and again, without end.
pub(crate) async fn rounds(shared: Arc<Shared>) {
    loop {
        shared.scale_all(now_ms()).await;
        tokio::time::sleep(EVERY).await;
    }
}

impl Shared {
    fn scalings(&self) -> MutexGuard<'_, Scalings> {
        self.scalings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads all scaling. Blocks.
    pub(crate) fn load_scaling(&self) -> Result<(), Error> {
        let mut scalings = self.scalings();
        Ok(self.config.store.registry().each_scaling(|record| {
            let key = (record.function.clone(), record.qualifier.clone());
            scalings.insert(key, Followed { record, calm: Calm::default(), because: None, refused: None });
        })?)
    }

    /// Forgets what was configured for a qualifier, or for all of a function; the records are gone with it.
    pub(crate) fn forget_configured(&self, name: &FunctionName, qualifier: Option<&str>) {
        self.forget_provisioned(name, qualifier);
        let gone = |of: &(FunctionName, String)| of.0 == *name && qualifier.is_none_or(|qualifier| of.1 == qualifier);
        self.scalings().retain(|of, _| !gone(of));
    }

    /// Looks at everything once, as at `now_ms` since the Unix epoch.
    pub(crate) async fn scale_all(&self, now_ms: u64) {
        let keys: Vec<(FunctionName, String)> = self.scalings().keys().cloned().collect();
        for (name, qualifier) in keys {
            let (in_use, current) = (self.in_use_of(&name, &qualifier), self.requested(&name, &qualifier));
            let Some(count) = self.decide(&name, &qualifier, Seen { now_ms, current, in_use }) else { continue };
            if count == current {
                continue;
            }
            let refused = self.rescale(&name, &qualifier, count).await.err().map(|error| {
                let error: &dyn std::error::Error = &error;
                error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
            });
            if let Some(followed) = self.scalings().get_mut(&(name.clone(), qualifier.clone()))
                && followed.refused != refused
            {
                if let Some(refused) = &refused {
                    tracing::warn!(%name, qualifier, count, refused, "cannot scale provisioned concurrency");
                }
                followed.refused = refused;
            }
        }
    }

    /// How much there should be; `None` if that is not followed any more.
    fn decide(&self, name: &FunctionName, qualifier: &str, seen: Seen) -> Option<u32> {
        let mut scalings = self.scalings();
        let followed = scalings.get_mut(&(name.clone(), qualifier.to_owned()))?;
        let bounds = bounds(&followed.record, seen.now_ms);
        let (count, because) = scale(bounds, followed.record.tracking, seen, &mut followed.calm);
        // Why it was changed is told until it changes again.
        if because != Because::Steady || followed.because.is_none() {
            followed.because = Some(because);
        }
        Some(count)
    }

    async fn rescale(&self, name: &FunctionName, qualifier: &str, count: u32) -> Result<(), Error> {
        let _turn = self.writer.lock().await;
        // It may have been ended meanwhile, or its version be gone.
        if !self.scalings().contains_key(&(name.clone(), qualifier.to_owned())) {
            return Ok(());
        }
        let Ok(parsed) = Qualifier::parse(qualifier) else { return Ok(()) };
        tracing::info!(%name, qualifier, count, "provisioned concurrency changes by itself");
        match count {
            0 => self.unprovision(name, qualifier).await,
            count => self.provision(name, &parsed, count).await.map(|_| ()),
        }
    }

    fn scaling_now(&self, followed: Followed, now_ms: u64) -> ScalingNow {
        let (name, qualifier) = (&followed.record.function, &followed.record.qualifier);
        ScalingNow {
            min_now: bounds(&followed.record, now_ms).min,
            requested: self.requested(name, qualifier),
            in_use: self.in_use_of(name, qualifier),
            because: followed.because,
            refused: followed.refused,
            record: followed.record,
        }
    }
}

/// What of the bounds holds now: an open window raises the least.
fn bounds(record: &Scaling, now_ms: u64) -> Bounds {
    let open = record.windows.iter().filter(|window| windows::is_open(window, now_ms));
    Bounds { min: open.map(|window| window.count).fold(record.min, u32::max).min(record.max), max: record.max }
}
