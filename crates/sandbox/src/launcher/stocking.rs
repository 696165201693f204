//! Sandboxes in stock: made ahead of need, a few at a time, and counted by shape.

use super::Loop;
use crate::imagepool::{Images, Tmp};
use crate::inside::Failure;
use crate::instance::{Instance, Phase};
use crate::netpool::{Namespace, Pool, ReadError};
use crate::shape::{Guest, Shape};
use crate::stock::Demand;
use api::launcher::{InstanceKind, Start};
use rustix::event::epoll;
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// Sandboxes in the making at one time, at most: more of them only wait for each other.
const MAKING_MAX: usize = 8;
/// How often the stock is compared with what is wanted while nothing else happens.
const LOOK: Duration = Duration::from_secs(10);
/// How long no sandbox of a shape is made for the stock after one could not be made.
const PAUSE: Duration = Duration::from_secs(10);
/// How often half of the parts that are kept go, [`LOOK`] apart, until the last of a full pool has gone.
const RESTS: u32 = 10;

/// What is in stock, what is on its way there, and who waits for it.
#[derive(Default)]
pub(super) struct Stock {
    /// What was asked for.
    pub demand: Demand,
    /// What the daemon expects.
    pub expected: Vec<InstanceKind>,
    /// Starts without a sandbox.
    pub waiting: BTreeMap<Shape, VecDeque<Start>>,
    /// Slots of sandboxes that wait for a function, the oldest first.
    ready: BTreeMap<Shape, VecDeque<u32>>,
    /// How many are being made.
    making: BTreeMap<Shape, usize>,
    /// Shapes of which one could not be made, until when.
    paused: BTreeMap<Shape, Instant>,
    look_at: Option<Instant>,
    /// When the next parts go that nobody has asked for.
    rest_at: Option<Instant>,
    /// How often that is to happen until none are left.
    rests_left: u32,
}

impl Stock {
    /// Starts without a sandbox.
    pub fn waiting_count(&self) -> usize {
        self.waiting.values().map(VecDeque::len).sum()
    }

    /// One that is ready.
    pub fn take(&mut self, shape: &Shape) -> Option<u32> {
        let ready = self.ready.get_mut(shape)?;
        let slot = ready.pop_front();
        if ready.is_empty() {
            self.ready.remove(shape);
        }
        slot
    }

    /// Whether one of this shape is ready.
    pub fn has_some(&self, shape: &Shape) -> bool {
        self.ready.contains_key(shape)
    }

    /// When the stock is to be looked at again.
    pub fn due(&self) -> Option<Instant> {
        self.look_at.into_iter().chain(self.rest_at).min()
    }

    fn made(&mut self, shape: &Shape) {
        if let Some(making) = self.making.get_mut(shape) {
            *making -= 1;
            if *making == 0 {
                self.making.remove(shape);
            }
        }
    }

    fn forget(&mut self, shape: &Shape, slot: u32) {
        if let Some(ready) = self.ready.get_mut(shape) {
            ready.retain(|other| *other != slot);
        }
    }

    /// The shape of which one is to be made next, starts that wait first. While starts are under way nothing is made for
    /// the stock: they would wait for it.
    fn next(&self, targets: &BTreeMap<Shape, usize>, now: Instant, starts_under_way: bool) -> Option<Shape> {
        if self.making.values().sum::<usize>() >= MAKING_MAX {
            return None;
        }
        let count = |shape: &Shape| self.making.get(shape).copied().unwrap_or(0);
        let short = |shape: &&Shape| self.waiting[*shape].len() > count(shape);
        // In turns: a flood of one shape does not hold up the others.
        if let Some(shape) = self.waiting.keys().filter(short).min_by_key(|shape| count(shape)) {
            return Some(shape.clone());
        }
        if starts_under_way {
            return None;
        }
        let below = |(shape, target): &(&Shape, &usize)| {
            let ready = self.ready.get(*shape).map_or(0, VecDeque::len);
            let waiting = self.waiting.get(*shape).map_or(0, VecDeque::len);
            let paused = self.paused.get(*shape).is_some_and(|until| *until > now);
            ready + count(shape) < **target + waiting && !paused
        };
        targets.iter().find(below).map(|(shape, _)| shape.clone())
    }
}

impl Loop {
    /// Makes what is missing, as far as it may be made now, and ends what is too much.
    pub(super) fn replenish(&mut self) {
        if self.socket.is_none() {
            return;
        }
        let now = Instant::now();
        let targets = self.reachable_targets();
        // Each turn makes one, or ends the loop: no more than slots.
        while let Some(shape) = self.stock.next(&targets, now, self.starts_under_way()) {
            // The next answer of whoever makes the missing part brings us back here.
            let Some(parts) = self.take_parts(&shape) else { break };
            if !self.make(&shape, parts) {
                break;
            }
        }
        self.trim(&targets);
        self.stock.look_at = (!self.stock.ready.is_empty()).then_some(now + LOOK);
    }

    /// Shapes whose zygote is not up are served by others meanwhile.
    fn reachable_targets(&mut self) -> BTreeMap<Shape, usize> {
        let targets = self.stock.demand.targets(self.now_ms());
        targets
            .into_iter()
            .filter(|(shape, _)| match &shape.guest {
                Guest::Forked { runtime } => self.zygote_is_up(runtime),
                Guest::Exec { .. } | Guest::Running { .. } => true,
            })
            .collect()
    }

    /// What serves a start of this shape now: an interpreter that is forked needs a zygote that is up.
    pub(super) fn possible(&mut self, shape: Shape) -> Shape {
        match &shape.guest {
            Guest::Forked { runtime } if !self.zygote_is_up(runtime) => shape.late(),
            Guest::Forked { .. } | Guest::Exec { .. } | Guest::Running { .. } => shape,
        }
    }

    /// Ends the surplus of a demand that has gone.
    fn trim(&mut self, targets: &BTreeMap<Shape, usize>) {
        let mut surplus = Vec::new();
        for (shape, ready) in &self.stock.ready {
            let target = targets.get(shape).copied().unwrap_or(0);
            surplus.extend(ready.iter().skip(target).map(|slot| (shape.clone(), *slot)));
        }
        for (shape, slot) in surplus {
            self.stock.forget(&shape, slot);
            self.kill_slot(slot);
        }
        self.stock.ready.retain(|_, ready| !ready.is_empty());
        let waiting = &self.stock.waiting;
        if let Some(images) = &mut self.images {
            images.keep_only(|size_mb| targets.keys().chain(waiting.keys()).any(|shape| shape.tmp_mb == size_mb));
        }
    }

    fn kill_slot(&mut self, slot: u32) {
        if let Some(Some(instance)) = self.instances.get_mut(slot as usize) {
            instance.kill();
        }
        self.note_due(slot);
    }

    /// Begins one. `false`: no further one can be made now.
    fn make(&mut self, shape: &Shape, parts: Taken) -> bool {
        let Taken { namespace, tmp } = parts;
        let index = namespace.as_ref().map(|namespace| namespace.index);
        let image = tmp.as_ref().map(|tmp| tmp.name);
        let Some(slot) = self.free.pop() else {
            // A sandbox that is on its way out brings us back here.
            index.into_iter().for_each(|index| self.free_index(index));
            if let (Some(images), Some(tmp)) = (&mut self.images, tmp) {
                images.give_back(shape.tmp_mb, tmp);
            }
            return false;
        };
        let serial = self.next_serial;
        self.next_serial += 1;
        let made = self.machine.make((serial, slot), shape, namespace, tmp);
        match made.and_then(|instance| self.watch_instance(slot, instance)) {
            Ok(instance) => {
                self.instances[slot as usize] = Some(instance);
                *self.stock.making.entry(shape.clone()).or_insert(0) += 1;
                self.note_due(slot);
                true
            }
            Err(failure) => {
                self.free.push(slot);
                index.into_iter().for_each(|index| self.free_index(index));
                if let (Some(images), Some(name)) = (&mut self.images, image) {
                    images.discard(Tmp { name, mount: None });
                }
                self.fail(shape, failure);
                true
            }
        }
    }

    /// One could not be made: whoever waits longest for this shape learns why; with nobody waiting the stock pauses.
    fn fail(&mut self, shape: &Shape, failure: Failure) {
        let first = self.stock.waiting.get_mut(shape).and_then(VecDeque::pop_front);
        match first {
            Some(start) => self.refuse(start.instance, failure),
            None => {
                eprintln!("tidegate launcher: keep a sandbox in stock: {}: {}", failure.stage, failure.message);
                self.stock.paused.insert(shape.clone(), Instant::now() + PAUSE);
            }
        }
    }

    /// The first process of a sandbox is done.
    pub(super) fn made(&mut self, slot: u32, entry: Vec<OwnedFd>) {
        let Some(Some(instance)) = self.instances.get_mut(slot as usize) else { return };
        if let Guest::Forked { runtime } = instance.shape.guest.clone() {
            instance.phase = Phase::Entering;
            return self.fork(slot, &runtime, &entry);
        }
        self.put_in_stock(slot);
    }

    /// Everything of a sandbox is there but its function.
    pub(super) fn put_in_stock(&mut self, slot: u32) {
        let Some(Some(instance)) = self.instances.get_mut(slot as usize) else { return };
        if instance.is_ending() {
            return;
        }
        instance.is_blank();
        let shape = instance.shape.clone();
        self.stock.made(&shape);
        self.stock.paused.remove(&shape);
        self.stock.ready.entry(shape.clone()).or_default().push_back(slot);
        self.serve_waiting(&shape);
        self.replenish();
    }

    /// A sandbox has ended before it had a function.
    pub(super) fn never_used(&mut self, slot: u32, instance: &Instance, failure: (String, String)) {
        let shape = &instance.shape;
        if instance.phase == Phase::Blank {
            // It may have been ended because it was too much.
            return self.stock.forget(shape, slot);
        }
        self.stock.made(shape);
        if let Guest::Forked { runtime } = &shape.guest {
            self.guest_failed(&runtime.clone());
            return self.serve_late(&shape.clone());
        }
        let (stage, message) = failure;
        let first = self.stock.waiting.get_mut(shape).and_then(VecDeque::pop_front);
        match first {
            Some(start) => {
                let event = api::launcher::Event::StartFailed { instance: start.instance, stage, message };
                self.tell(event, Vec::new());
            }
            None => {
                eprintln!("tidegate launcher: a sandbox for the stock: {stage}: {message}");
                self.stock.paused.insert(shape.clone(), Instant::now() + PAUSE);
            }
        }
    }

    /// Starts that wait for a zygote's child are served by an interpreter of their own instead.
    pub(super) fn serve_late(&mut self, shape: &Shape) {
        if let Some(waiting) = self.stock.waiting.remove(shape) {
            self.stock.waiting.entry(shape.late()).or_default().extend(waiting);
        }
    }

    pub(super) fn tick_stock(&mut self, now: Instant) {
        if self.stock.look_at.is_some_and(|at| at <= now) {
            self.replenish();
        }
        if self.stock.rest_at.is_some_and(|at| at <= now) {
            self.rest(now);
        }
    }

    /// Milliseconds since the launcher began.
    pub(super) fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }
}

/// What a sandbox is put together from.
struct Taken {
    namespace: Option<Namespace>,
    tmp: Option<Tmp>,
}

/// Network namespaces and images for sandboxes.
impl Loop {
    /// What a sandbox of this shape needs; `None` if something of it is still on its way.
    fn take_parts(&mut self, shape: &Shape) -> Option<Taken> {
        let waiting = self.stock.waiting_count();
        let tmp = match &mut self.images {
            Some(images) => Some(images.take(shape.tmp_mb, waiting)?),
            None => None,
        };
        if !shape.connected {
            return Some(Taken { namespace: None, tmp });
        }
        match self.take_namespace(waiting) {
            Some(namespace) => Some(Taken { namespace: Some(namespace), tmp }),
            None => {
                if let (Some(images), Some(tmp)) = (&mut self.images, tmp) {
                    images.give_back(shape.tmp_mb, tmp);
                }
                None
            }
        }
    }

    /// Whether a function waits for a sandbox that it has been given.
    fn starts_under_way(&self) -> bool {
        self.watched.iter().any(|slot| {
            let instance = self.instances.get(*slot as usize).and_then(Option::as_ref);
            instance.is_some_and(|i| matches!(i.phase, Phase::Assigned(_)) && !i.is_ending())
        })
    }

    /// What of a sandbox that is gone another could use, if its guest never did.
    pub(super) fn release_parts(&mut self, instance: &mut Instance) {
        if let Some(namespace) = instance.take_namespace() {
            let pool = self.outside.as_mut().and_then(|outside| outside.pool.as_mut());
            match pool {
                // Whoever serves the Runtime API may still have a socket in the namespace.
                Some(pool) if !instance.shape.runtime_api => pool.release(namespace),
                Some(_) | None => self.free_index(namespace.index),
            }
        }
        if let (Some(images), Some(tmp)) = (&mut self.images, instance.tmp.take()) {
            images.release(tmp);
        }
        self.stock.rest_at.get_or_insert_with(|| Instant::now() + LOOK);
        self.stock.rests_left = RESTS;
    }

    /// Lets go of half of the parts that a burst has left behind.
    fn rest(&mut self, now: Instant) {
        self.stock.rests_left = self.stock.rests_left.saturating_sub(1);
        self.stock.rest_at = (self.stock.rests_left > 0).then_some(now + LOOK);
        self.outside.iter_mut().filter_map(|outside| outside.pool.as_mut()).for_each(Pool::rest);
        self.images.iter_mut().for_each(Images::rest);
    }

    /// The maker of images has answered.
    pub(super) fn read_images(&mut self) {
        let Some(images) = &mut self.images else { return };
        match images.read(&mut self.buffer) {
            Ok(()) => {}
            Err(Some(message)) => {
                eprintln!("tidegate launcher: make a file system for /tmp: {message}");
                let start = self.stock.waiting.values_mut().find_map(VecDeque::pop_front);
                match start {
                    Some(start) => self.refuse(start.instance, Failure { stage: "tmp", message }),
                    None => {
                        let targets = self.stock.demand.targets(self.now_ms());
                        let until = Instant::now() + PAUSE;
                        self.stock.paused.extend(targets.into_keys().map(|shape| (shape, until)));
                    }
                }
            }
            Err(None) => {
                eprintln!("tidegate launcher: the maker of /tmp has ended; from now on it is in memory");
                if let Some(images) = self.images.take() {
                    let _ = epoll::delete(&self.epoll, &images.socket);
                    images.end();
                }
            }
        }
        self.replenish();
    }

    fn take_namespace(&mut self, waiting: usize) -> Option<Namespace> {
        let pool = self.outside.as_mut().and_then(|outside| outside.pool.as_mut());
        match pool {
            Some(pool) => pool.take(waiting),
            None => {
                self.fail_connected("network namespaces can no longer be made");
                None
            }
        }
    }

    /// Nobody who waits for a connected sandbox will get one.
    fn fail_connected(&mut self, why: &str) {
        let shapes: Vec<Shape> = self.stock.waiting.keys().filter(|shape| shape.connected).cloned().collect();
        for start in shapes.iter().filter_map(|shape| self.stock.waiting.remove(shape)).flatten().collect::<Vec<_>>() {
            self.refuse(start.instance, Failure { stage: "network", message: why.to_owned() });
        }
    }

    pub(super) fn free_index(&mut self, index: u32) {
        if let Some(pool) = self.outside.as_mut().and_then(|outside| outside.pool.as_mut()) {
            pool.free(index);
        }
    }

    /// The maker of network namespaces has answered.
    pub(super) fn read_pool(&mut self) {
        let Some(outside) = &mut self.outside else { return };
        let Some(pool) = &mut outside.pool else { return };
        match pool.read(&mut self.buffer) {
            Ok(()) => {}
            Err(ReadError::Make(message)) => {
                eprintln!("tidegate launcher: make a network namespace: {message}");
                // Whoever waits longest pays; with nobody waiting the next start asks again.
                let shape = self.stock.waiting.keys().find(|shape| shape.connected).cloned();
                let start = shape.and_then(|shape| self.stock.waiting.get_mut(&shape)?.pop_front());
                if let Some(start) = start {
                    self.refuse(start.instance, Failure { stage: "network", message });
                }
            }
            Err(ReadError::Ended) => {
                if let Some(pool) = outside.pool.take() {
                    let _ = epoll::delete(&self.epoll, &pool.socket);
                    Pool::end(pool);
                }
            }
        }
        self.replenish();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::launcher::{Network, Program};
    use model::Digest;

    fn shape(tmp_mb: u32) -> Shape {
        Shape { guest: Guest::Exec { runtime: None }, connected: true, tmp_mb, runtime_api: true }
    }

    fn start(instance: u64) -> Start {
        Start {
            instance,
            program: Program::Bootstrap,
            package: Digest([0; 32]),
            environment: Vec::new(),
            memory_mb: 128,
            cpu_millis: 72,
            tmp_mb: 512,
            processes: 1,
            open_files: 8,
            network: Network::Nat,
            runtime_api: true,
        }
    }

    /// Shapes with so many starts each, none of them served.
    fn waiting(numbers: &[(u32, u64)]) -> Stock {
        let mut stock = Stock::default();
        for (tmp_mb, number) in numbers {
            stock.waiting.insert(shape(*tmp_mb), (0..*number).map(start).collect());
        }
        stock
    }

    /// The sizes of what is made until nothing more may be.
    fn made(stock: &mut Stock, targets: &BTreeMap<Shape, usize>, starts_under_way: bool) -> Vec<u32> {
        let mut made = Vec::new();
        while let Some(shape) = stock.next(targets, Instant::now(), starts_under_way) {
            made.push(shape.tmp_mb);
            *stock.making.entry(shape).or_insert(0) += 1;
        }
        made
    }

    #[test]
    fn shapes_with_waiting_starts_take_turns() {
        let none = BTreeMap::new();
        for (numbers, want) in [
            (&[(1, 100), (2, 2)][..], vec![1, 2, 1, 2, 1, 1, 1, 1]),
            (&[(1, 1), (2, 1), (3, 1)], vec![1, 2, 3]),
            (&[(1, 100)], vec![1; MAKING_MAX]),
            (&[], vec![]),
        ] {
            assert_eq!(made(&mut waiting(numbers), &none, true), want, "{numbers:?}");
        }
    }

    #[test]
    fn nothing_is_made_for_the_stock_while_a_start_is_under_way() {
        let targets = BTreeMap::from([(shape(9), 2)]);
        for (numbers, under_way, want) in [
            (&[][..], false, vec![9, 9]),
            (&[], true, vec![]),
            (&[(1, 1)], true, vec![1]),
            (&[(1, 1)], false, vec![1, 9, 9]),
        ] {
            assert_eq!(made(&mut waiting(numbers), &targets, under_way), want, "{numbers:?} {under_way}");
        }
    }

    #[test]
    fn a_shape_that_cannot_be_made_pauses() {
        let targets = BTreeMap::from([(shape(8), 1), (shape(9), 1)]);
        let mut stock = Stock::default();
        stock.paused.insert(shape(8), Instant::now() + PAUSE);
        assert_eq!(made(&mut stock, &targets, false), vec![9]);
    }
}
