//! Functions' shares of the account's concurrency: records of their own under `concurrency.<function>`, beside the
//! function's, since no version has them.

use crate::{Error, Handle, Shared, to_the_end};
use model::concurrency::Queue;
use model::{FunctionName, Share, Shares};
use scheduler::admission::{NotReserved, Reservation, may_reserve};
use std::sync::Arc;
use store::Expect;

const PREFIX: &str = "concurrency.";
/// Records read at once.
const PAGE: usize = 200;

impl Handle {
    /// A function's share. [`Error::NotFound`] if there is no such function.
    pub async fn share(&self, name: &FunctionName) -> Result<Share, Error> {
        self.function(name).await?;
        Ok(self.share_of(name))
    }

    /// The share of a function that is known to exist.
    pub fn share_of(&self, name: &FunctionName) -> Share {
        self.shared.config.shares.load().of(name)
    }

    /// Reserves concurrency for a function, or with `None` gives it back. Invocations that run stay counted.
    pub async fn reserve(&self, name: &FunctionName, wanted: Option<u32>) -> Result<Share, Error> {
        let (shared, name) = (self.shared.clone(), name.clone());
        to_the_end(async move {
            let _turn = shared.writer.lock().await;
            shared.read(&name).await?;
            let present = shared.config.shares.load().of(&name);
            if let Some(wanted) = wanted {
                shared.check_reservation(&name, present, wanted)?;
            }
            shared.set_share(&name, Share { reserved: wanted, ..present }).await
        })
        .await
    }

    /// Lets a function's invocations wait for concurrency, or with `None` throttles them. Those that wait already go on.
    pub async fn set_queue(&self, name: &FunctionName, queue: Option<Queue>) -> Result<Share, Error> {
        let (shared, name) = (self.shared.clone(), name.clone());
        to_the_end(async move {
            let _turn = shared.writer.lock().await;
            shared.read(&name).await?;
            let present = shared.config.shares.load().of(&name);
            shared.set_share(&name, Share { queue, ..present }).await
        })
        .await
    }

    /// The account's concurrency that no function has reserved, or provisioned without a reservation.
    pub fn unreserved(&self) -> u32 {
        self.shared.config.limits.concurrent_executions.saturating_sub(self.shared.promised_to_others(None))
    }
}

impl Shared {
    /// Reads all shares. Blocks.
    pub(crate) fn load_shares(&self) -> Result<(), Error> {
        let mut shares = Shares::default();
        let mut after: Option<String> = None;
        loop {
            let page = self.config.store.registry().list(PREFIX, after.as_deref(), PAGE)?;
            let Some(last) = page.last() else { break };
            after = Some(last.key.clone());
            for entry in page {
                let Some(name) = entry.key.strip_prefix(PREFIX).and_then(|name| FunctionName::parse(name).ok()) else {
                    continue;
                };
                let share = serde_json::from_slice(&entry.value)
                    .map_err(|source| store::Error::DecodeFunction { key: entry.key.clone(), source })?;
                shares.set(name, share);
            }
        }
        self.publish_shares(shares);
        Ok(())
    }

    /// Forgets the share of a function that is about to be deleted: a new one of its name shall not have it.
    pub(crate) async fn forget_share(&self, name: &FunctionName) -> Result<(), Error> {
        match self.config.shares.load().of(name) == Share::default() {
            true => Ok(()),
            false => self.set_share(name, Share::default()).await.map(|_| ()),
        }
    }

    fn check_reservation(&self, name: &FunctionName, share: Share, wanted: u32) -> Result<(), Error> {
        let present = share.reserved.unwrap_or(0);
        let limits = &self.config.limits;
        let reservation = Reservation {
            wanted,
            present,
            provisioned: self.provisioned_of(name),
            others: self.promised_to_others(Some(name)),
            account: limits.concurrent_executions,
            unreserved_min: limits.unreserved_concurrency_min,
        };
        may_reserve(reservation).map_err(|refused| match refused {
            NotReserved::UnreservedBelowMinimum { minimum } => Error::UnreservedBelowMinimum { minimum },
            NotReserved::BelowProvisioned { provisioned } => Error::BelowProvisioned { wanted, provisioned },
        })
    }

    /// Writes a share, then lets the router see it. To be called in the writer's turn.
    async fn set_share(&self, name: &FunctionName, share: Share) -> Result<Share, Error> {
        let written = name.clone();
        self.on_disk(move |store| {
            let key = format!("{PREFIX}{written}");
            if share == Share::default() {
                return store.registry().delete(&key, Expect::Any).map(|_| ());
            }
            let value = serde_json::to_vec(&share)
                .map_err(|source| store::Error::EncodeFunction { name: written.clone(), source })?;
            store.registry().put(&key, &value, Expect::Any).map(|_| ())
        })
        .await?;
        let mut shares = Shares::clone(&self.config.shares.load());
        shares.set(name.clone(), share);
        self.publish_shares(shares);
        Ok(share)
    }

    fn publish_shares(&self, shares: Shares) {
        self.config.shares.store(Arc::new(shares));
        (self.config.shares_changed)();
    }
}
