//! A start, from the daemon's request to a sandbox that has a function.

use super::Loop;
use crate::inside::Failure;
use crate::shape::Shape;
use api::launcher::{EXPECTED_MAX, Event, InstanceKind, STAGE_FULL, Start};
use std::collections::{BTreeSet, VecDeque};

impl Loop {
    /// Takes a sandbox from the stock, or has one made.
    pub(super) fn start(&mut self, start: Start) {
        let instance = start.instance;
        if let Err(failure) = self.check(&start) {
            return self.refuse(instance, failure);
        }
        let now_ms = self.now_ms();
        let best = self.connectable(Shape::of(&start, self.can_go_ahead()));
        self.stock.demand.ask(&best, now_ms);
        let shape = self.possible(best);
        self.stock.waiting.entry(shape.clone()).or_default().push_back(start);
        self.serve_waiting(&shape);
        self.replenish();
    }

    fn check(&self, start: &Start) -> Result<(), Failure> {
        let refuse = |message: String| Failure { stage: "request", message };
        start.check().map_err(|error| refuse(error.to_string()))?;
        let mut waiting = self.stock.waiting.values().flatten();
        if self.slots.contains_key(&start.instance) || waiting.any(|other| other.instance == start.instance) {
            return Err(refuse("the instance exists".into()));
        }
        if self.slots.len() + self.stock.waiting_count() >= self.machine.config.instances_max as usize {
            return Err(Failure { stage: STAGE_FULL, message: "the machine has no room for another instance".into() });
        }
        Ok(())
    }

    pub(super) fn refuse(&mut self, instance: u64, failure: Failure) {
        let Failure { stage, message } = failure;
        self.tell(Event::StartFailed { instance, stage: stage.into(), message }, Vec::new());
    }

    /// A start that still waits for a sandbox is stopped before it has begun.
    pub(super) fn stop_waiting(&mut self, instance: u64) {
        let mut found = false;
        for waiting in self.stock.waiting.values_mut() {
            let before = waiting.len();
            waiting.retain(|start| start.instance != instance);
            found |= waiting.len() < before;
        }
        if found {
            self.refuse(instance, Failure { stage: "stopped", message: "stopped before it had begun".into() });
        }
    }

    /// The daemon's word on what is likely to be wanted.
    pub(super) fn expect(&mut self, kinds: Vec<InstanceKind>) {
        self.stock.expected = kinds;
        self.look_at_expected();
    }

    /// Looks again at what the daemon expects: more interpreters may be known by now.
    pub(super) fn look_at_expected(&mut self) {
        let ahead = self.can_go_ahead();
        let kinds = self.stock.expected.iter().filter(|kind| kind.check().is_ok()).take(EXPECTED_MAX);
        let shapes = kinds.map(|kind| self.connectable(Shape::expected(kind, ahead)));
        let known = |shape: &Shape| shape.runtime().is_none_or(|name| self.machine.interpreters.get(name).is_some());
        let shapes: BTreeSet<Shape> = shapes.filter(known).collect();
        self.stock.demand.expect(shapes);
        self.replenish();
    }

    /// Gives sandboxes in stock to the starts that wait for this shape, first come first served.
    pub(super) fn serve_waiting(&mut self, shape: &Shape) {
        while let Some(start) = self.stock.waiting.get_mut(shape).and_then(VecDeque::pop_front) {
            let Some(slot) = self.stock.take(shape) else {
                self.stock.waiting.entry(shape.clone()).or_default().push_front(start);
                return;
            };
            self.assign(slot, &start);
        }
        self.stock.waiting.remove(shape);
    }

    fn assign(&mut self, slot: u32, start: &Start) {
        let Some(instance) = self.instances.get_mut(slot as usize).and_then(Option::as_mut) else { return };
        if let Err(failure) = self.machine.assign(instance, start) {
            // It may have been given a part of what it needs: it is not used again.
            instance.kill();
            self.note_due(slot);
            return self.refuse(start.instance, failure);
        }
        self.slots.insert(start.instance, slot);
        self.note_due(slot);
    }

    /// Guests of managed runtimes may be up before their function is known where a control group limits their memory.
    fn can_go_ahead(&self) -> bool {
        self.machine.cgroups.controllers().memory
    }

    /// Where no guest can be connected, none is.
    fn connectable(&self, shape: Shape) -> Shape {
        Shape { connected: shape.connected && self.outside.is_some(), ..shape }
    }
}
