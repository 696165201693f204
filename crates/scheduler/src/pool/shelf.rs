//! Live instances with free slots, where an arriving invocation looks first.

use super::table::{List, Place, Table};

/// Live instances of one kind that have a free slot.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    /// Those with all slots free, longest idle first: the last is the most recently used. Read only from outside.
    pub idle: List,
    /// Those with some slots taken and some free. Read only from outside.
    pub partly: List,
    /// No instance before this one in `idle` is still to be frozen; `None` if none is at all.
    thawed: Option<Place>,
}

impl Shelf {
    /// The one that gets the next invocation: one that is busy already, else the most recently used.
    pub fn first(&self) -> Option<Place> {
        self.partly.last().or_else(|| self.idle.last())
    }

    /// The longest idle one that is not frozen.
    pub fn thawed(&self) -> Option<Place> {
        self.thawed
    }

    pub fn join_idle(&mut self, table: &mut Table, place: Place, now_us: u64) {
        table.at(place).since_us = now_us;
        self.idle.push(table, place);
        if self.thawed.is_none() && !table.get(place).frozen {
            self.thawed = Some(place);
        }
    }

    pub fn leave_idle(&mut self, table: &mut Table, place: Place) {
        self.pass(table, place);
        self.idle.remove(table, place);
    }

    /// Marks an idle one as frozen.
    pub fn freeze(&mut self, table: &mut Table, place: Place) {
        table.at(place).frozen = true;
        self.pass(table, place);
    }

    /// If the mark stands at this place, it moves on to the next one that is not frozen.
    fn pass(&mut self, table: &Table, place: Place) {
        if self.thawed == Some(place) {
            let mut next = List::after(table, place);
            while let Some(at) = next.filter(|at| table.get(*at).frozen) {
                next = List::after(table, at);
            }
            self.thawed = next;
        }
    }
}
