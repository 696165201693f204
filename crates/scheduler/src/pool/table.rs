//! The instances of a pool by id, and lists of them.
//!
//! Entries lie in one block and are linked into lists by their places, so that each step touches few cache lines and
//! takes the same time however many instances there are. Ids are found by open addressing with a fixed hash: no order
//! ever depends on chance.

use super::{InstanceId, Phase, Role, StartReason};

/// The place of an instance in the block; stands until the instance is removed.
pub(super) type Place = u32;

/// No place.
pub(super) const NOWHERE: Place = Place::MAX;

/// The smallest index.
const INDEX_BITS_MIN: u32 = 3;

/// One cache line, so that a step reads one per instance that it touches.
#[derive(Debug, Clone)]
#[repr(align(64))]
pub(super) struct Instance {
    pub id: InstanceId,
    /// Starting: when the start was ordered. Idle: when it became idle.
    pub since_us: u64,
    /// The sum of the times at which the taken slots were taken.
    pub taken_us: u64,
    /// Slots taken; only live instances have any.
    pub busy: u32,
    /// Neighbours in the one list that it is in.
    before: Place,
    after: Place,
    /// Why it was started; taken by the first dispatch.
    pub first_use: Option<StartReason>,
    pub phase: Phase,
    pub role: Role,
    pub frozen: bool,
    /// Takes no further invocation and ends when it is idle; it is in no list.
    pub closing: bool,
}

impl Instance {
    pub fn starting(id: InstanceId, now_us: u64, role: Role, reason: StartReason) -> Instance {
        Instance {
            id,
            since_us: now_us,
            taken_us: 0,
            busy: 0,
            before: NOWHERE,
            after: NOWHERE,
            first_use: Some(reason),
            phase: Phase::Starting,
            role,
            frozen: false,
            closing: false,
        }
    }
}

/// All instances of a pool.
#[derive(Debug)]
pub(super) struct Table {
    entries: Vec<Instance>,
    /// Places whose instance was removed.
    vacant: Vec<Place>,
    /// At the hash of an id, or behind it without a gap: the place of the instance. At most half full.
    index: Vec<Place>,
}

impl Default for Table {
    fn default() -> Table {
        Table { entries: Vec::new(), vacant: Vec::new(), index: vec![NOWHERE; 1 << INDEX_BITS_MIN] }
    }
}

impl Table {
    pub fn len(&self) -> usize {
        self.entries.len() - self.vacant.len()
    }

    pub fn find(&self, id: InstanceId) -> Option<Place> {
        let place = self.index[self.index_of(id)];
        (place != NOWHERE).then_some(place)
    }

    /// The instance at a place that is taken; every place in a list is.
    pub fn at(&mut self, place: Place) -> &mut Instance {
        &mut self.entries[place as usize]
    }

    pub fn get(&self, place: Place) -> &Instance {
        &self.entries[place as usize]
    }

    pub fn insert(&mut self, instance: Instance) -> Place {
        let id = instance.id;
        if (self.len() + 1) * 2 > self.index.len() {
            self.grow();
        }
        let place = match self.vacant.pop() {
            Some(place) => {
                self.entries[place as usize] = instance;
                place
            }
            None => {
                self.entries.push(instance);
                (self.entries.len() - 1) as Place
            }
        };
        let at = self.index_of(id);
        self.index[at] = place;
        place
    }

    pub fn remove(&mut self, id: InstanceId) {
        let mut gap = self.index_of(id);
        let place = self.index[gap];
        if place == NOWHERE {
            return;
        }
        self.vacant.push(place);
        // What was pushed behind its hash by the removed one moves up, so that no search ends at the gap too early.
        let mask = self.index.len() - 1;
        let mut next = gap;
        loop {
            next = (next + 1) & mask;
            let moved = self.index[next];
            if moved == NOWHERE {
                break;
            }
            let home = self.hash(self.entries[moved as usize].id);
            if (next.wrapping_sub(home) & mask) >= (next.wrapping_sub(gap) & mask) {
                self.index[gap] = moved;
                gap = next;
            }
        }
        self.index[gap] = NOWHERE;
    }

    /// Every instance, in the order of places.
    pub fn iter(&self) -> impl Iterator<Item = (Place, &Instance)> {
        let all = self.entries.iter().enumerate().map(|(place, instance)| (place as Place, instance));
        all.filter(|(place, instance)| self.find(instance.id) == Some(*place))
    }

    /// Where in the index the id is, or where it would go.
    fn index_of(&self, id: InstanceId) -> usize {
        let mask = self.index.len() - 1;
        let mut at = self.hash(id);
        while self.index[at] != NOWHERE && self.entries[self.index[at] as usize].id != id {
            at = (at + 1) & mask;
        }
        at
    }

    /// Fibonacci hashing: ids that follow each other are spread evenly.
    fn hash(&self, id: InstanceId) -> usize {
        let bits = self.index.len().trailing_zeros();
        (id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - bits)) as usize
    }

    fn grow(&mut self) {
        let taken: Vec<(InstanceId, Place)> = self.iter().map(|(place, instance)| (instance.id, place)).collect();
        self.index = vec![NOWHERE; self.index.len() * 2];
        for (id, place) in taken {
            let at = self.index_of(id);
            self.index[at] = place;
        }
    }
}

/// A list of instances; each is in one list at most.
#[derive(Debug, Clone, Copy)]
pub(super) struct List {
    first: Place,
    last: Place,
    len: usize,
}

impl Default for List {
    fn default() -> List {
        List { first: NOWHERE, last: NOWHERE, len: 0 }
    }
}

impl List {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn first(&self) -> Option<Place> {
        (self.first != NOWHERE).then_some(self.first)
    }

    pub fn last(&self) -> Option<Place> {
        (self.last != NOWHERE).then_some(self.last)
    }

    pub fn push(&mut self, table: &mut Table, place: Place) {
        let instance = table.at(place);
        (instance.before, instance.after) = (self.last, NOWHERE);
        match self.last() {
            Some(last) => table.at(last).after = place,
            None => self.first = place,
        }
        self.last = place;
        self.len += 1;
    }

    /// Takes out an instance that is in this list.
    pub fn remove(&mut self, table: &mut Table, place: Place) {
        let (before, after) = (table.get(place).before, table.get(place).after);
        match before {
            NOWHERE => self.first = after,
            before => table.at(before).after = after,
        }
        match after {
            NOWHERE => self.last = before,
            after => table.at(after).before = before,
        }
        self.len -= 1;
    }

    pub fn after(table: &Table, place: Place) -> Option<Place> {
        let after = table.get(place).after;
        (after != NOWHERE).then_some(after)
    }

    pub fn before(table: &Table, place: Place) -> Option<Place> {
        let before = table.get(place).before;
        (before != NOWHERE).then_some(before)
    }

    pub fn iter<'a>(&self, table: &'a Table) -> impl Iterator<Item = &'a Instance> + use<'a> {
        std::iter::successors(self.first(), |place| List::after(table, *place)).map(|place| table.get(place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn instance(id: InstanceId) -> Instance {
        Instance::starting(id, id, Role::Demand, StartReason::FromZero)
    }

    proptest::proptest! {
        /// Beside a map of the standard library.
        #[test]
        fn finds_what_was_put_in(moves in proptest::collection::vec((0u8..3, 0u64..40), 0..300)) {
            let (mut table, mut model, mut list) = (Table::default(), BTreeMap::new(), List::default());
            for (kind, id) in moves {
                // Ids that share their hash, some of them.
                let id = id << (id % 3 * 20);
                match (kind, table.find(id)) {
                    (0 | 1, None) => {
                        let place = table.insert(instance(id));
                        list.push(&mut table, place);
                        model.insert(id, place);
                    }
                    (2, Some(place)) => {
                        list.remove(&mut table, place);
                        table.remove(id);
                        model.remove(&id);
                    }
                    _ => {}
                }
                proptest::prop_assert_eq!((table.len(), list.len()), (model.len(), model.len()));
                for (id, place) in &model {
                    proptest::prop_assert_eq!(table.find(*id), Some(*place));
                }
                let mut listed: Vec<InstanceId> = list.iter(&table).map(|i| i.id).collect();
                let mut all: Vec<InstanceId> = table.iter().map(|(_, i)| i.id).collect();
                listed.sort_unstable();
                all.sort_unstable();
                let known: Vec<InstanceId> = model.keys().copied().collect();
                proptest::prop_assert_eq!(&listed, &known);
                proptest::prop_assert_eq!(&all, &known);
            }
        }
    }
}
