//! The simulated world: a calendar, and everything that the scheduler decides about.
//!
//! What is decided, `scheduler` decides: admission, pools, instance life, Init retries, eviction. This module carries the
//! decisions out, takes the time that the script says, and checks after each happening that the rules hold:
//!
//! - an invocation ends exactly once, and is dispatched only while it waits;
//! - a dispatch meets a live instance of its own generation with a free slot;
//! - memory and instances never pass the machine's limits, nor permits the account's concurrency.

mod acting;
mod instances;
mod sharing;

use crate::machine::Room;
use crate::random::Chance;
use crate::script::{Command, Deed, Function, Machine};
use crate::tally::{End, Tally};
use crate::transcript::Transcript;
use model::Generation;
use scheduler::admission::{self, Caps, InUse};
use scheduler::instance::State;
use scheduler::pool::{Config, Event, Gone, InstanceId, Pool, Refusal, WaiterId};
use std::collections::{BTreeMap, BTreeSet};

/// Most happenings in one run; a script that needs more is taken to be endless.
pub const HAPPENINGS_MAX: u64 = 1_000_000;

/// Most breaches that are kept; one is enough to fail.
const BREACHES_MAX: usize = 20;

/// The run does not come to an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endless;

/// Everything there is.
#[derive(Debug)]
pub struct World {
    machine: Machine,
    chance: Chance,
    now_ms: u64,
    /// By time, then in the order of entry.
    calendar: BTreeMap<(u64, u64), Happening>,
    entered: u64,
    happened: u64,
    functions: BTreeMap<String, Deployed>,
    pools: BTreeMap<Generation, Generated>,
    instances: BTreeMap<InstanceId, Instance>,
    /// Starts that wait for room that others are to yield, and since when.
    asking: BTreeMap<InstanceId, u64>,
    /// Refused starts of which the pool has not heard yet.
    refused: BTreeSet<InstanceId>,
    /// Those that have not ended.
    invocations: BTreeMap<WaiterId, Invocation>,
    room: Room,
    newest_generation: u64,
    newest_instance: InstanceId,
    newest_invocation: WaiterId,
    draining: bool,
    breaches: Vec<String>,
    transcript: Transcript,
}

#[derive(Debug)]
struct Deployed {
    function: Function,
    /// What new invocations run.
    generation: Generation,
    permits: u32,
    /// Starts and Inits that are still to fail.
    broken_starts: u32,
    broken_inits: u32,
    /// How many times each span was used, for those that take turns.
    turns: [usize; 3],
    tally: Tally,
}

#[derive(Debug)]
struct Generated {
    name: String,
    pool: Pool,
}

#[derive(Debug)]
struct Instance {
    generation: Generation,
    state: State,
    /// Tries of Init so far, the running one included.
    attempt: u32,
    running: BTreeSet<WaiterId>,
    frozen: bool,
}

#[derive(Debug)]
struct Invocation {
    name: String,
    generation: Generation,
    arrived_ms: u64,
    instance: Option<InstanceId>,
}

/// An entry of the calendar.
#[derive(Debug, Clone)]
enum Happening {
    Deed(Deed),
    Repeated {
        deed: Deed,
        period_ms: u64,
        until_ms: u64,
    },
    Tick {
        generation: Generation,
    },
    /// Those that wait for others to yield look whether something has become idle meanwhile.
    LookAgain,
    /// The pool hears that a start was refused: a moment after the order, so that other orders may cross it.
    Refused {
        generation: Generation,
        instance: InstanceId,
        reason: Refusal,
    },
    Launched {
        instance: InstanceId,
        attempt: u32,
    },
    InitEnds {
        instance: InstanceId,
        attempt: u32,
        how: InitEnd,
    },
    ServiceEnds {
        instance: InstanceId,
        invocation: WaiterId,
        in_time: bool,
    },
    Ended {
        instance: InstanceId,
        cause: Gone,
    },
}

#[derive(Debug, Clone, Copy)]
enum InitEnd {
    Done,
    Failed,
    TimedOut,
}

impl World {
    /// An empty world at time 0.
    pub fn new() -> World {
        let machine = Machine::default();
        World {
            room: Room::new(machine.memory_mb, machine.instances),
            machine,
            chance: Chance::new(0),
            now_ms: 0,
            calendar: BTreeMap::new(),
            entered: 0,
            happened: 0,
            functions: BTreeMap::new(),
            pools: BTreeMap::new(),
            instances: BTreeMap::new(),
            asking: BTreeMap::new(),
            refused: BTreeSet::new(),
            invocations: BTreeMap::new(),
            newest_generation: 0,
            newest_instance: 0,
            newest_invocation: 0,
            draining: false,
            breaches: Vec::new(),
            transcript: Transcript::default(),
        }
    }

    /// Carries one command out. Fails only if [`HAPPENINGS_MAX`] is passed.
    pub fn command(&mut self, command: Command) -> Result<(), Endless> {
        match command {
            Command::Seed(seed) => self.chance = Chance::new(seed),
            Command::Machine(machine) => {
                self.room = Room::new(machine.memory_mb, machine.instances);
                self.machine = machine;
            }
            Command::Function { name, function } => self.deploy(name, function),
            Command::At { at_ms, deed } => self.enter(at_ms, Happening::Deed(deed)),
            Command::Every { period_ms, from_ms, until_ms, deed } if from_ms <= until_ms => {
                self.enter(from_ms, Happening::Repeated { deed, period_ms, until_ms });
            }
            Command::Every { .. } => {}
            Command::Run { until_ms } => self.run(until_ms)?,
            Command::Show => self.show(),
        }
        Ok(())
    }

    /// The rules that were broken, for people; empty if all is well.
    pub fn breaches(&self) -> &[String] {
        &self.breaches
    }

    /// Nothing is left: no instance, no invocation, no permit, no pool but the empty newest ones, no room held.
    pub fn is_empty(&self) -> bool {
        self.instances.is_empty()
            && self.invocations.is_empty()
            && self.room.is_empty()
            && self.functions.values().all(|f| f.permits == 0)
            && self.pools.values().all(|p| p.pool.is_empty())
            && self.pools.len() <= self.functions.len()
    }

    /// The transcript with its summary.
    pub fn finish(mut self) -> String {
        self.transcript.plain(&format!("summary at {} ms", self.now_ms));
        for (name, deployed) in &self.functions {
            self.transcript.plain(&deployed.tally.print(name));
        }
        self.transcript.plain(&self.room.print());
        for breach in &self.breaches {
            self.transcript.plain(&format!("RULE BROKEN: {breach}"));
        }
        self.transcript.finish()
    }
}

impl Default for World {
    fn default() -> World {
        World::new()
    }
}

/// Time.
impl World {
    fn run(&mut self, until_ms: Option<u64>) -> Result<(), Endless> {
        while let Some(entry) = self.calendar.first_entry() {
            let at_ms = entry.key().0;
            if until_ms.is_some_and(|until_ms| at_ms > until_ms) {
                break;
            }
            if self.happened == HAPPENINGS_MAX {
                return Err(Endless);
            }
            self.happened += 1;
            self.now_ms = self.now_ms.max(at_ms);
            let happening = entry.remove();
            self.happen(happening);
            self.check_limits();
        }
        self.now_ms = self.now_ms.max(until_ms.unwrap_or(0));
        Ok(())
    }

    /// Puts a happening into the calendar; what is late happens as soon as time passes.
    fn enter(&mut self, at_ms: u64, happening: Happening) {
        self.entered += 1;
        self.calendar.insert((at_ms, self.entered), happening);
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Deed(deed) => self.deed(&deed),
            Happening::Repeated { deed, period_ms, until_ms } => {
                self.deed(&deed);
                let next_ms = self.now_ms + period_ms;
                if next_ms <= until_ms {
                    self.enter(next_ms, Happening::Repeated { deed, period_ms, until_ms });
                }
            }
            Happening::Tick { generation } => self.tell(generation, Event::Tick),
            Happening::Refused { generation, instance, reason } => {
                self.refused.remove(&instance);
                self.tell(generation, Event::StartRefused { instance, reason });
            }
            Happening::LookAgain => self.look_again(),
            Happening::Launched { instance, attempt } => self.launched(instance, attempt),
            Happening::InitEnds { instance, attempt, how } => self.init_ends(instance, attempt, how),
            Happening::ServiceEnds { instance, invocation, in_time } => {
                self.service_ends(instance, invocation, in_time);
            }
            Happening::Ended { instance, cause } => self.ended(instance, cause),
        }
    }

    fn check_limits(&mut self) {
        if !self.room.is_kept() {
            self.breach("more room in use than the machine has".to_owned());
        }
        let permits: u32 = self.functions.values().map(|f| f.permits).sum();
        if permits > self.machine.account {
            self.breach(format!("{permits} permits of {}", self.machine.account));
        }
    }

    fn breach(&mut self, what: String) {
        if self.breaches.len() < BREACHES_MAX {
            self.breaches.push(format!("at {} ms: {what}", self.now_ms));
        }
    }
}

/// What the script orders.
impl World {
    fn deploy(&mut self, name: String, function: Function) {
        let deployed = Deployed {
            function,
            generation: Generation(0),
            permits: 0,
            broken_starts: 0,
            broken_inits: 0,
            turns: [0; 3],
            tally: Tally::default(),
        };
        self.functions.insert(name.clone(), deployed);
        self.generate(&name);
    }

    /// Gives the function a new generation and a pool for it; returns the earlier one.
    fn generate(&mut self, name: &str) -> Option<Generation> {
        let deployed = self.functions.get_mut(name)?;
        self.newest_generation += 1;
        let generation = Generation(self.newest_generation);
        let earlier = std::mem::replace(&mut deployed.generation, generation);
        let pool = Pool::new(Config {
            slots_per_instance: deployed.function.slots,
            waiting_max: self.machine.waiting,
            idle_ms: self.machine.idle_ms,
            keep_alive: self.machine.keep_alive,
            freeze_after_ms: self.machine.freeze_ms,
            instances_max: self.machine.instances,
        });
        self.pools.insert(generation, Generated { name: name.to_owned(), pool });
        Some(earlier)
    }

    fn deed(&mut self, deed: &Deed) {
        match deed {
            Deed::Invoke { function, times } => (0..*times).for_each(|_| self.invoke(function)),
            Deed::Crash { function } => self.crash(function),
            Deed::BreakStart { function, times } => {
                self.functions.entry(function.clone()).and_modify(|f| f.broken_starts += times);
            }
            Deed::BreakInit { function, times } => {
                self.functions.entry(function.clone()).and_modify(|f| f.broken_inits += times);
            }
            Deed::Cancel { function } => self.cancel(function),
            Deed::Provision { function, count } => {
                self.order(function, "provision", *count, Event::Provision { target: *count })
            }
            Deed::WarmUp { function, count } => {
                self.order(function, "warm up", *count, Event::WarmUp { count: *count })
            }
            Deed::Update { function } => self.update(function),
            Deed::Drain => {
                self.draining = true;
                let generations: Vec<Generation> = self.pools.keys().copied().collect();
                generations.into_iter().for_each(|generation| self.drain(generation));
            }
        }
    }

    fn invoke(&mut self, name: &str) {
        let reserved_total = self.functions.values().filter_map(|f| f.function.reserved).sum();
        let unreserved = self.functions.values().filter(|f| f.function.reserved.is_none());
        let unreserved = unreserved.map(|f| f.permits).sum();
        let account = self.functions.values().map(|f| f.permits).sum();
        let Some(deployed) = self.functions.get_mut(name) else { return };
        self.newest_invocation += 1;
        let invocation = self.newest_invocation;
        let in_use = InUse { account, unreserved, function: deployed.permits };
        let caps = Caps { account: self.machine.account, reserved: deployed.function.reserved, reserved_total };
        deployed.tally.invoked();
        let generation = deployed.generation;
        if let Err(reason) = admission::admit(in_use, caps) {
            deployed.tally.ended(End::Throttled);
            self.note(generation, "throttle", Some(invocation), None, reason.to_string());
            return;
        }
        deployed.permits += 1;
        let (name, arrived_ms) = (name.to_owned(), self.now_ms);
        self.invocations.insert(invocation, Invocation { name, generation, arrived_ms, instance: None });
        self.note(generation, "arrive", Some(invocation), None, String::new());
        self.tell(generation, Event::Arrive { waiter: invocation });
    }

    /// The oldest busy instance, else idle, else starting.
    fn crash(&mut self, name: &str) {
        let Some(generation) = self.functions.get(name).map(|f| f.generation) else { return };
        let rank = |state| match state {
            State::Busy => 0,
            State::Idle => 1,
            State::Starting | State::Init => 2,
            State::Stopping | State::Gone => 3,
        };
        let all = self.instances.iter().filter(|(_, i)| i.generation == generation);
        if let Some((id, _)) = all.min_by_key(|(id, i)| (rank(i.state), **id)) {
            let id = *id;
            self.ended(id, Gone::Crashed);
        }
    }

    fn cancel(&mut self, name: &str) {
        let waits = |i: &Invocation| i.name == name && i.instance.is_none();
        let Some((invocation, generation)) =
            self.invocations.iter().find(|(_, i)| waits(i)).map(|(id, i)| (*id, i.generation))
        else {
            return;
        };
        self.note(generation, "cancel", Some(invocation), None, String::new());
        self.end(invocation, End::Cancelled);
        self.tell(generation, Event::Cancel { waiter: invocation });
    }

    fn update(&mut self, name: &str) {
        let Some(earlier) = self.generate(name) else { return };
        self.drain(earlier);
        if self.draining
            && let Some(generation) = self.functions.get(name).map(|f| f.generation)
        {
            self.drain(generation);
        }
    }

    fn order(&mut self, name: &str, what: &'static str, count: u32, event: Event) {
        let Some(generation) = self.functions.get(name).map(|f| f.generation) else { return };
        self.note(generation, what, None, None, count.to_string());
        self.tell(generation, event);
    }

    fn drain(&mut self, generation: Generation) {
        self.note(generation, "drain", None, None, String::new());
        self.tell(generation, Event::Drain);
    }

    fn show(&mut self) {
        self.transcript.plain(&format!("show at {} ms", self.now_ms));
        for (generation, generated) in &self.pools {
            let counts = generated.pool.counts();
            let kept = generated.pool.provisioned();
            let provisioned = match kept.target {
                0 => String::new(),
                target => format!(" provisioned {} of {target}, in use {}", kept.ready, kept.in_use),
            };
            self.transcript.plain(&format!(
                "  {}/{}: starting {} idle {} busy {} stopping {} waiting {}{provisioned}",
                generated.name,
                generation.0,
                counts.starting,
                counts.idle,
                counts.busy,
                counts.stopping,
                counts.waiting
            ));
        }
        self.transcript.plain(&self.room.print());
    }
}
