//! Instances that are kept initialised by order, whether anybody uses them or not.

use super::table::{List, Place};
use super::{Gone, Phase, Pool, Refusal, Role};

/// Most starts of provisioned instances under way at a time, so that a large order leaves the machine to others.
pub const PROVISION_STARTING_MAX: u32 = 16;

/// The pause after the first failed start of a provisioned instance; it doubles with each further one.
pub const PROVISION_RETRY_US: u64 = 1_000_000;

/// The longest such pause.
pub const PROVISION_RETRY_MAX_US: u64 = 60_000_000;

/// Why a provisioned instance is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Its start or Init failed, or it ended before its first use.
    Failed(Gone),
    /// There was no room.
    Refused(Refusal),
}

impl Trouble {
    /// For people.
    pub fn text(self) -> &'static str {
        match self {
            Trouble::Failed(cause) => cause.text(),
            Trouble::Refused(reason) => reason.text(),
        }
    }
}

/// The provisioned instances of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ProvisionedCounts {
    /// As many as are wanted.
    pub target: u32,
    /// Past Init, used or not.
    pub ready: u32,
    /// Before the end of Init.
    pub starting: u32,
    /// Of those that are ready: with at least one slot taken.
    pub in_use: u32,
    /// Failed or refused starts since the last one that succeeded.
    pub failures: u32,
    /// The newest of them.
    pub last_trouble: Option<Trouble>,
}

/// The order, and what became of it.
#[derive(Debug, Default)]
pub(super) struct Provision {
    pub counts: ProvisionedCounts,
    /// Set after a failure, until then: no further start.
    pub retry_at_us: Option<u64>,
}

impl Provision {
    /// A start or a fresh instance came to nothing.
    pub fn failed(&mut self, now_us: u64, trouble: Trouble) {
        let doublings = self.counts.failures.min(16);
        self.counts.failures = self.counts.failures.saturating_add(1);
        self.counts.last_trouble = Some(trouble);
        let pause_us = (PROVISION_RETRY_US << doublings).min(PROVISION_RETRY_MAX_US);
        self.retry_at_us = Some(now_us.saturating_add(pause_us));
    }

    /// A start has succeeded.
    pub fn ready(&mut self) {
        self.counts.starting -= 1;
        self.counts.ready += 1;
        self.counts.failures = 0;
        self.counts.last_trouble = None;
        self.retry_at_us = None;
    }

    /// Missing ones that may be started now.
    pub fn missing(&self) -> u32 {
        if self.retry_at_us.is_some() {
            return 0;
        }
        let there = self.counts.ready + self.counts.starting;
        let may = PROVISION_STARTING_MAX.saturating_sub(self.counts.starting);
        self.counts.target.saturating_sub(there).min(may)
    }
}

impl Pool {
    /// The provisioned instances.
    pub fn provisioned(&self) -> ProvisionedCounts {
        self.provision.counts
    }

    /// A smaller target makes ordinary instances of the surplus: idle ones first, then starting ones, then busy ones.
    /// What is missing is started by the end of the step.
    pub(super) fn provision(&mut self, target: u32) {
        if self.draining {
            return;
        }
        self.provision.counts.target = target;
        self.provision.retry_at_us = None;
        let there = self.provision.counts.ready + self.provision.counts.starting;
        for _ in target..there {
            match self.releasable() {
                Some(place) => self.release(place),
                None => break,
            }
        }
    }

    fn releasable(&self) -> Option<Place> {
        let is_provisioned = |place: &Place| self.table.get(*place).role == Role::Provisioned;
        let mut newest_first = std::iter::successors(self.starting.last(), |place| List::before(&self.table, *place));
        let starting = || newest_first.find(is_provisioned);
        let live = || {
            let found = |(_, i): &(Place, &super::Instance)| i.role == Role::Provisioned && i.phase == Phase::Live;
            self.table.iter().find(found).map(|(place, _)| place)
        };
        self.provisioned.idle.first().or_else(starting).or_else(live)
    }

    /// Makes an ordinary instance of a provisioned one.
    fn release(&mut self, place: Place) {
        let slots = self.config.slots_per_instance;
        let (phase, busy) = (self.table.get(place).phase, self.table.get(place).busy);
        match phase {
            Phase::Starting => self.provision.counts.starting -= 1,
            Phase::Live => {
                self.provision.counts.ready -= 1;
                self.provision.counts.in_use -= u32::from(busy > 0);
                if self.table.get(place).closing {
                    // In no list.
                } else if busy == 0 {
                    self.provisioned.leave_idle(&mut self.table, place);
                    self.demand.join_idle(&mut self.table, place, self.now_us);
                } else if busy < slots {
                    self.provisioned.partly.remove(&mut self.table, place);
                    self.demand.partly.push(&mut self.table, place);
                }
            }
            Phase::Stopping => {}
        }
        self.table.at(place).role = Role::Demand;
    }
}
