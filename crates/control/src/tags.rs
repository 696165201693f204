//! Tags of functions.

use crate::{Error, Handle, Shared, new_revision_id, to_the_end};
use model::FunctionName;
use std::collections::BTreeMap;
use std::sync::Arc;
use store::Expect;

impl Handle {
    /// Adds tags and overwrites those of the same keys.
    pub async fn tag(&self, name: &FunctionName, tags: BTreeMap<String, String>) -> Result<(), Error> {
        to_the_end(change(self.shared.clone(), name.clone(), move |old| old.extend(tags))).await
    }

    /// Removes tags; keys that are not there do not matter.
    pub async fn untag(&self, name: &FunctionName, keys: Vec<String>) -> Result<(), Error> {
        to_the_end(change(self.shared.clone(), name.clone(), move |old| {
            for key in &keys {
                old.remove(key);
            }
        }))
        .await
    }
}

async fn change(
    shared: Arc<Shared>,
    name: FunctionName,
    change: impl FnOnce(&mut BTreeMap<String, String>) + Send,
) -> Result<(), Error> {
    let _turn = shared.writer.lock().await;
    let (mut function, revision) = shared.read(&name).await?;
    change(&mut function.tags);
    let limit = shared.config.limits.tags;
    if function.tags.len() > limit {
        return Err(Error::TooManyTags { limit });
    }
    // A transition under way recognises its record by the revision id, so it keeps it.
    if !scheduler::function_state::is_busy(&function) {
        function.revision_id = new_revision_id();
    }
    shared.write(&function, Expect::Revision(revision)).await
}
