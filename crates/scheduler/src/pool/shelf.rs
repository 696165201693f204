//! Live instances with free slots, where an arriving invocation looks first.

use super::{Instance, InstanceId};
use std::collections::{BTreeMap, VecDeque};

/// Live instances of one kind that have a free slot.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    /// Those with all slots free and since when, longest idle first: the back is the most recently used.
    pub idle: VecDeque<(InstanceId, u64)>,
    /// Those with some slots free, in no order; each knows its place here.
    pub partly: Vec<InstanceId>,
}

impl Shelf {
    /// The one that gets the next invocation: one that is busy already, else the most recently used.
    pub fn first(&self) -> Option<InstanceId> {
        self.partly.last().copied().or_else(|| self.idle.back().map(|(id, _)| *id))
    }

    pub fn leave_idle(&mut self, id: InstanceId) -> bool {
        let at = self.idle.iter().position(|(idle, _)| *idle == id);
        at.is_some_and(|at| self.idle.remove(at).is_some())
    }

    pub fn join_partly(&mut self, id: InstanceId, instances: &mut BTreeMap<InstanceId, Instance>) {
        if let Some(instance) = instances.get_mut(&id) {
            instance.partly_at = self.partly.len();
            self.partly.push(id);
        }
    }

    pub fn leave_partly(&mut self, id: InstanceId, instances: &mut BTreeMap<InstanceId, Instance>) -> bool {
        let Some(at) = instances.get(&id).map(|i| i.partly_at).filter(|at| self.partly.get(*at) == Some(&id)) else {
            return false;
        };
        self.partly.swap_remove(at);
        if let Some(moved) = self.partly.get(at).and_then(|moved| instances.get_mut(moved)) {
            moved.partly_at = at;
        }
        true
    }
}
