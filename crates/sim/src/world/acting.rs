//! Tells the pools what happened and carries out what they answer.

use super::{Happening, World};
use crate::machine;
use crate::tally::End;
use model::Generation;
use scheduler::eviction::{self, Candidate};
use scheduler::instance::{self, State};
use scheduler::keep_alive::Basis;
use scheduler::pool::{Action, Cold, Dispatched, Event, InstanceId, Lane, StartReason, StopReason, Waited, WaiterId};
use scheduler::sharing::{self, Ask};

impl World {
    /// One step of a pool; a pool that is forgotten hears nothing.
    pub(super) fn tell(&mut self, generation: Generation, event: Event) {
        let Some(generated) = self.pools.get_mut(&generation) else { return };
        let newest = &mut self.newest_instance;
        let mut next_instance = || {
            *newest += 1;
            *newest
        };
        let mut actions = Vec::new();
        generated.pool.step(self.now_ms * 1_000, &mut next_instance, event, &mut actions);
        self.act(generation, actions);
    }

    fn act(&mut self, generation: Generation, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Start { instance, reason } => self.start(generation, instance, reason),
                Action::Dispatch { waiter, instance, why } => self.dispatch(generation, waiter, instance, why),
                Action::Stop { instance, reason } => self.stop(generation, instance, reason),
                Action::Freeze { instance } => self.freeze(generation, instance, true),
                Action::Thaw { instance } => self.freeze(generation, instance, false),
                Action::Refuse { waiter, reason } => {
                    let end = End::from(reason);
                    self.note(generation, "refuse", Some(waiter), None, end.words().to_owned());
                    self.end(waiter, end);
                }
                Action::Fail { waiter, instance } => {
                    self.note(generation, "fail", Some(waiter), Some(instance), String::new());
                    self.end(waiter, End::NotStarted);
                }
                Action::WakeAt { at_us } => self.enter(at_us.div_ceil(1_000), Happening::Tick { generation }),
            }
        }
        self.forget_if_empty(generation);
    }

    fn start(&mut self, generation: Generation, instance: InstanceId, reason: StartReason) {
        self.note(generation, "start", None, Some(instance), start_words(reason));
        let Some(memory_mb) = self.function_of(generation).map(|f| f.function.memory_mb) else { return };
        let shortage = self.room.shortage(memory_mb);
        let short = shortage.memory_mb > 0 || shortage.instances > 0;
        if short {
            let ask = Ask { generation, memory_mb, number: instance };
            if !self.evict_for(ask, shortage) && !self.ask_to_yield(ask, shortage) {
                let reason = machine::refusal(shortage);
                self.note(generation, "no room for", None, Some(instance), format!("{reason:?}"));
                self.refused.insert(instance);
                self.enter(self.now_ms, Happening::Refused { generation, instance, reason });
                return;
            }
        }
        self.line_up(generation, instance, memory_mb);
    }

    /// The idle instances, of all pools, that may be evicted for the ask.
    pub(super) fn candidates(&self, ask: Ask) -> Vec<Candidate> {
        let (now_us, machine) = (self.now_ms * 1_000, self.room.machine());
        let holders = self.holders();
        let mut candidates = Vec::new();
        for (generation, generated) in &self.pools {
            let memory_mb = self.functions.get(&generated.name).map_or(0, |f| f.function.memory_mb);
            let holder = holders.iter().find(|holder| holder.generation == *generation);
            let over_share = holder.is_some_and(|holder| machine.is_over(holder, &holders));
            let may = |(_, since_us): &(InstanceId, u64)| {
                sharing::may_evict(ask, machine, &holders, over_share, now_us - since_us)
            };
            candidates.extend(generated.pool.idle().into_iter().filter(may).map(|(instance, idle_since_us)| {
                Candidate { generation: *generation, instance, idle_since_us, memory_mb, over_share }
            }));
        }
        candidates
    }

    pub(super) fn evict(&mut self, victim: Candidate, reason: eviction::Reason) {
        let Some(generated) = self.pools.get_mut(&victim.generation) else { return };
        let mut actions = Vec::new();
        if !generated.pool.evict(self.now_ms * 1_000, victim.instance, &mut actions) {
            self.breach(format!("#{} was a candidate but not idle", victim.instance));
        }
        let why = match reason {
            eviction::Reason::Memory => "memory is short",
            eviction::Reason::Instances => "instances are short",
            eviction::Reason::MemoryAndInstances => "memory and instances are short",
        };
        self.note(victim.generation, "evict", None, Some(victim.instance), why.to_owned());
        self.act(victim.generation, actions);
    }

    fn freeze(&mut self, generation: Generation, id: InstanceId, frozen: bool) {
        self.note(generation, if frozen { "freeze" } else { "thaw" }, None, Some(id), String::new());
        match self.instances.get_mut(&id) {
            Some(instance) if instance.state == State::Idle && instance.frozen != frozen => instance.frozen = frozen,
            Some(_) | None => self.breach(format!("#{id} cannot be frozen or thawed now")),
        }
    }

    fn dispatch(&mut self, generation: Generation, waiter: WaiterId, id: InstanceId, why: Dispatched) {
        self.note(generation, "dispatch", Some(waiter), Some(id), dispatch_words(why));
        let slots = self.function_of(generation).map_or(0, |f| f.function.slots as usize);
        let Some(instance) = self.instances.get_mut(&id) else {
            return self.breach(format!("{waiter} dispatched to #{id}, which is not there"));
        };
        let moved = match instance.state {
            State::Busy => Ok(State::Busy),
            State::Starting | State::Init | State::Idle | State::Stopping | State::Gone => {
                instance::next(instance.state, instance::Event::Dispatch)
            }
        };
        let free = instance.generation == generation && instance.running.len() < slots && !instance.frozen;
        match moved {
            Ok(state) if free => instance.state = state,
            Ok(_) | Err(_) => return self.breach(format!("{waiter} dispatched to #{id}, which is not free")),
        }
        instance.running.insert(waiter);
        self.serve(waiter, id, why.cold);
    }

    fn serve(&mut self, waiter: WaiterId, id: InstanceId, cold: Cold) {
        let Some(invocation) = self.invocations.get_mut(&waiter) else {
            return self.breach(format!("{waiter} dispatched after its end"));
        };
        if invocation.instance.replace(id).is_some() {
            return self.breach(format!("{waiter} dispatched twice"));
        }
        let (name, wait_ms) = (invocation.name.clone(), self.now_ms - invocation.arrived_ms);
        let Some(deployed) = self.functions.get_mut(&name) else { return };
        deployed.tally.dispatched(wait_ms, cold != Cold::Warm);
        let service_ms = deployed.service_ms(&mut self.chance);
        let in_time = service_ms <= deployed.function.timeout_ms;
        let end_ms = self.now_ms + service_ms.min(deployed.function.timeout_ms);
        self.enter(end_ms, Happening::ServiceEnds { instance: id, invocation: waiter, in_time });
    }

    fn stop(&mut self, generation: Generation, id: InstanceId, reason: StopReason) {
        let why = match reason {
            StopReason::Idle { idle_ms, basis: Basis::Fixed } => format!("idle for {idle_ms} ms"),
            StopReason::Idle { idle_ms, basis } => format!("idle for {idle_ms} ms, {}", basis.text()),
            StopReason::Drained => "drained".to_owned(),
            StopReason::Surplus => "surplus".to_owned(),
            StopReason::Evicted => "evicted".to_owned(),
            StopReason::Yielded => "yielded to others".to_owned(),
        };
        self.note(generation, "stop", None, Some(id), why);
        if self.refused.contains(&id) {
            return;
        }
        let Some(instance) = self.instances.get_mut(&id) else {
            return self.breach(format!("stop of #{id}, which is not there"));
        };
        let (state, busy) = (instance.state, !instance.running.is_empty());
        match instance::next(state, instance::Event::StopOrdered) {
            Ok(next) if !busy => instance.state = next,
            // A failed Init has ordered the end already; the pool hears of it with Gone.
            Err(_) if state == State::Stopping => return,
            Ok(_) | Err(_) => return self.breach(format!("stop of #{id}, which is {state:?}")),
        }
        self.order_end(id, scheduler::pool::Gone::Stopped);
    }

    /// Ends an invocation, once, and gives its permit back.
    pub(super) fn end(&mut self, id: WaiterId, end: End) {
        let Some(invocation) = self.invocations.remove(&id) else {
            return self.breach(format!("{id} ended twice"));
        };
        if let Some(deployed) = self.functions.get_mut(&invocation.name) {
            deployed.permits -= 1;
            deployed.tally.ended(end);
        }
    }

    pub(super) fn note(
        &mut self,
        generation: Generation,
        what: &'static str,
        invocation: Option<WaiterId>,
        instance: Option<InstanceId>,
        why: String,
    ) {
        let name = self.pools.get(&generation).map_or("?", |g| g.name.as_str());
        let who = format!("{name}/{}", generation.0);
        self.transcript.note(self.now_ms, &who, what, invocation, instance, why);
    }
}

fn dispatch_words(why: Dispatched) -> String {
    let lane = match why.lane {
        Lane::OnDemand => "",
        Lane::Provisioned => ", provisioned",
        Lane::SpillOver => ", spill-over",
    };
    let waited = match why.waited {
        Waited::Not => String::new(),
        Waited::ForSlot { us } => format!(", waited {} ms for a slot", us / 1_000),
        Waited::ForStart { us } => format!(", waited {} ms for a start", us / 1_000),
    };
    match why.cold {
        Cold::Warm => format!("warm{lane}{waited}"),
        Cold::FirstUse { reason } => format!("first use, {}{lane}{waited}", start_words(reason)),
    }
}

fn start_words(reason: StartReason) -> String {
    match reason {
        StartReason::FromZero => "from zero".to_owned(),
        StartReason::AllBusy { live: 0, .. } => "none live yet".to_owned(),
        StartReason::AllBusy { live, .. } => format!("{live} live, all busy"),
        StartReason::Replacement => "replacement".to_owned(),
        StartReason::AfterRefusal => "after a refusal".to_owned(),
        StartReason::Provisioned => "provisioned".to_owned(),
        StartReason::WarmUp => "warm-up".to_owned(),
        StartReason::Sustained { waiting } => format!("{waiting} kept waiting"),
        StartReason::Silence => "services take long".to_owned(),
    }
}
