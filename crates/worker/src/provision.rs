//! Instances ahead of invocations: those that are kept initialised by order, and a warm-up.

use crate::service::Handle;
use model::{Generation, Spec};
use scheduler::pool::Event;
use std::sync::Arc;

/// The provisioned instances of one version.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProvisionedCounts {
    /// As many as are wanted.
    pub target: u32,
    /// Past Init, used or not.
    pub ready: u32,
    /// Before the end of Init.
    pub starting: u32,
    /// Of those that are ready: with an invocation.
    pub in_use: u32,
    /// Failed or refused starts since the last one that succeeded.
    pub failures: u32,
    /// The newest of them; `None` after a success.
    pub last_failure: Option<ProvisionFailure>,
}

/// Why a provisioned instance could not be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProvisionFailure {
    /// What kind of failure.
    pub trouble: scheduler::pool::Trouble,
    /// More about it, for people; an error type as `Runtime.ExitError` if it is the function's.
    pub text: String,
}

impl Handle {
    /// Keeps `target` instances of a version initialised from now on; 0 ends it. Missing ones are started, and those
    /// that end replaced, until the version is replaced. `false` if it is replaced already.
    pub fn provision(&self, spec: Arc<Spec>, target: u32) -> bool {
        self.order(&spec, Event::Provision { target })
    }

    /// The provisioned instances of a version; `None` if this worker does not know it.
    pub fn provisioned(&self, generation: Generation) -> Option<ProvisionedCounts> {
        self.shared.versions.load().get(&generation).map(|version| version.provisioned())
    }

    /// Starts instances of a version until `count` are there, those included that are there already. They live and
    /// idle as if invocations had started them. `false` if the version is replaced already.
    pub fn warm_up(&self, spec: Arc<Spec>, count: u32) -> bool {
        self.order(&spec, Event::WarmUp { count })
    }

    fn order(&self, spec: &Arc<Spec>, event: Event) -> bool {
        let version = self.shared.version(spec);
        if let Some(version) = &version {
            version.step(&self.shared, event);
        }
        version.is_some()
    }
}
