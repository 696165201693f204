//! Replays a trace of real invocations through the real pools, once per keep-alive policy.
//!
//! The trace is Azure's of 2019 (Shahrad et al., "Serverless in the Wild", USENIX ATC 2020): for each function how often
//! it was invoked in each minute, how long it runs, how much memory it uses. Invocations are spread over their minute by
//! seeded draws. Functions do not compete here: memory is unlimited, and what is measured is how much of it lies idle.

use crate::random::Chance;
use scheduler::keep_alive::Policy;
use scheduler::pool::{Action, Config, Event, InstanceId, Pool, Waited};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

const MINUTE_US: u64 = 60_000_000;
const DEFAULT_MEMORY_MB: f64 = 128.0;

/// One function of the trace.
#[derive(Debug, Clone, PartialEq)]
pub struct Traced {
    /// Invocations in each minute.
    pub per_minute: Vec<u32>,
    /// How long one runs.
    pub service_us: u64,
    /// What an instance holds.
    pub memory_mb: f64,
}

/// What one replay costs.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Cost {
    /// All invocations.
    pub invocations: u64,
    /// Those that waited for a start.
    pub cold: u64,
    /// Time that invocations waited, for starts and for slots.
    pub waited_us: u64,
    /// Memory times the time that it lay idle.
    pub idle_mb_us: f64,
    /// The time of the trace.
    pub time_us: u64,
}

/// How instances live in a replay.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// The policy.
    pub policy: Policy,
    /// The longest an instance is idle.
    pub idle_ms: u64,
    /// What a start takes, Init included.
    pub start_us: u64,
}

impl Cost {
    fn add(&mut self, other: Cost) {
        self.invocations += other.invocations;
        self.cold += other.cold;
        self.waited_us += other.waited_us;
        self.idle_mb_us += other.idle_mb_us;
        self.time_us = self.time_us.max(other.time_us);
    }

    /// In percent.
    pub fn cold_percent(&self) -> f64 {
        100.0 * self.cold as f64 / self.invocations.max(1) as f64
    }

    /// The mean over the time of the trace.
    pub fn idle_gb(&self) -> f64 {
        self.idle_mb_us / self.time_us.max(1) as f64 / 1_024.0
    }

    /// The mean over all invocations.
    pub fn wait_ms(&self) -> f64 {
        self.waited_us as f64 / 1_000.0 / self.invocations.max(1) as f64
    }
}

/// Replays all functions, each beside the others.
pub fn replay(functions: &[Traced], setting: Setting) -> Cost {
    let mut total = Cost::default();
    for (seed, function) in functions.iter().enumerate() {
        total.add(Replay::new(function, setting, seed as u64).run());
    }
    total
}

/// What may happen next in the life of one function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Next {
    Ready(InstanceId),
    Done(InstanceId),
    Gone(InstanceId),
    Tick,
}

/// One function on its way through the trace.
struct Replay<'a> {
    function: &'a Traced,
    setting: Setting,
    chance: Chance,
    pool: Pool,
    calendar: BinaryHeap<Reverse<(u64, Next)>>,
    newest: InstanceId,
    now_us: u64,
    cost: Cost,
    actions: Vec<Action>,
}

impl Replay<'_> {
    fn new(function: &Traced, setting: Setting, seed: u64) -> Replay<'_> {
        let config = Config {
            slots_per_instance: 1,
            waiting_max: usize::MAX,
            idle_ms: setting.idle_ms,
            keep_alive: setting.policy,
            freeze_after_ms: 0,
            instances_max: usize::MAX,
        };
        Replay {
            function,
            setting,
            chance: Chance::new(seed),
            pool: Pool::new(config),
            calendar: BinaryHeap::new(),
            newest: 0,
            now_us: 0,
            cost: Cost { time_us: function.per_minute.len() as u64 * MINUTE_US, ..Cost::default() },
            actions: Vec::new(),
        }
    }

    fn run(mut self) -> Cost {
        for (minute, count) in self.function.per_minute.iter().enumerate() {
            for nth in 0..u64::from(*count) {
                let (from, to) = (nth * MINUTE_US / u64::from(*count), (nth + 1) * MINUTE_US / u64::from(*count));
                let at_us = minute as u64 * MINUTE_US + self.chance.between(from, to.saturating_sub(1).max(from));
                self.pass(at_us);
                self.cost.invocations += 1;
                let waiter = self.cost.invocations;
                self.step(at_us, Event::Arrive { waiter });
            }
        }
        self.pass(self.cost.time_us);
        self.idle_until(self.cost.time_us);
        self.cost
    }

    /// Lets everything happen that is due before `until_us`.
    fn pass(&mut self, until_us: u64) {
        while let Some(Reverse((at_us, next))) = self.calendar.peek().copied().filter(|next| next.0.0 < until_us) {
            self.calendar.pop();
            let event = match next {
                Next::Ready(instance) => Event::Ready { instance },
                Next::Done(instance) => Event::Done { instance },
                Next::Gone(instance) => Event::Gone { instance, cause: scheduler::pool::Gone::Stopped },
                Next::Tick => Event::Tick,
            };
            self.step(at_us, event);
        }
    }

    fn idle_until(&mut self, at_us: u64) {
        let idle = self.pool.counts().idle as f64 * self.function.memory_mb;
        self.cost.idle_mb_us += idle * at_us.saturating_sub(self.now_us) as f64;
        self.now_us = self.now_us.max(at_us);
    }

    fn step(&mut self, at_us: u64, event: Event) {
        self.idle_until(at_us);
        let newest = &mut self.newest;
        let mut next_instance = || {
            *newest += 1;
            *newest
        };
        let mut actions = std::mem::take(&mut self.actions);
        self.pool.step(at_us, &mut next_instance, event, &mut actions);
        for action in actions.drain(..) {
            self.act(action);
        }
        self.actions = actions;
    }

    fn act(&mut self, action: Action) {
        let (in_us, next) = match action {
            Action::Start { instance, .. } => (self.setting.start_us, Next::Ready(instance)),
            Action::Dispatch { instance, why, .. } => {
                self.cost.waited_us += why.waited.us();
                self.cost.cold += u64::from(matches!(why.waited, Waited::ForStart { .. }));
                (self.function.service_us, Next::Done(instance))
            }
            Action::Stop { instance, .. } => (0, Next::Gone(instance)),
            Action::WakeAt { at_us } => (at_us.saturating_sub(self.now_us), Next::Tick),
            Action::Freeze { .. } | Action::Thaw { .. } | Action::Refuse { .. } | Action::Fail { .. } => return,
        };
        self.calendar.push(Reverse((self.now_us + in_us, next)));
    }
}

/// Reads the three tables of one sample, as text: invocations per minute, durations, memory.
pub fn read(invocations: &str, durations: &str, memory: &str) -> Vec<Traced> {
    let service_ms = column(durations, "HashFunction", "Average");
    let by_function = column(memory, "HashFunction", "AverageAllocatedMb");
    let by_app = column(memory, "HashApp", "AverageAllocatedMb");
    let mut lines = invocations.lines();
    let heads: Vec<&str> = lines.next().unwrap_or_default().split(',').collect();
    let at = |name: &str| heads.iter().position(|head| *head == name);
    let (function_at, app_at) = (at("HashFunction").unwrap_or(0), at("HashApp").unwrap_or(0));
    let is_minute = |head: &&str| head.trim_start_matches("minute_").parse::<u32>().is_ok();
    let minutes: Vec<usize> = (0..heads.len()).filter(|at| is_minute(&heads[*at])).collect();
    let mut functions = Vec::new();
    for line in lines {
        let cells: Vec<&str> = line.split(',').collect();
        let cell = |at: usize| cells.get(at).copied().unwrap_or_default();
        let count = |at: &usize| cell(*at).parse::<f64>().unwrap_or(0.0) as u32;
        let (function, app) = (cell(function_at), cell(app_at));
        let memory_mb = by_function.get(function).or_else(|| by_app.get(app)).copied().unwrap_or(DEFAULT_MEMORY_MB);
        let service_us = service_ms.get(function).map_or(1_000, |ms| (ms * 1_000.0).max(1_000.0) as u64);
        functions.push(Traced { per_minute: minutes.iter().map(count).collect(), service_us, memory_mb });
    }
    functions
}

/// One column of numbers by another.
fn column<'a>(table: &'a str, key: &str, value: &str) -> BTreeMap<&'a str, f64> {
    let mut lines = table.lines();
    let heads: Vec<&str> = lines.next().unwrap_or_default().split(',').collect();
    let at = |name: &str| heads.iter().position(|head| *head == name);
    let (Some(key_at), Some(value_at)) = (at(key), at(value)) else { return BTreeMap::new() };
    let pair = |line: &'a str| {
        let cells: Vec<&str> = line.split(',').collect();
        Some((*cells.get(key_at)?, cells.get(value_at)?.parse().ok()?))
    };
    lines.filter_map(pair).collect()
}

/// A trace of the same shape, drawn: a few functions are invoked all the time, some by the clock, most hardly ever.
pub fn drawn(functions: usize, minutes: usize, seed: u64) -> Vec<Traced> {
    let mut chance = Chance::new(seed);
    let mut drawn = Vec::new();
    for _ in 0..functions {
        let kind = chance.between(0, 99);
        let period = chance.between(2, 90) as usize;
        let offset = chance.between(0, period as u64 - 1) as usize;
        let rate = chance.between(1, 60) as u32;
        let mut count = |minute: usize| match kind {
            0..=9 => rate,
            10..=44 => u32::from(minute % period == offset),
            45..=69 => u32::from(chance.between(0, period as u64) == 0),
            _ => u32::from(chance.between(0, minutes as u64 / 6) == 0),
        };
        let per_minute = (0..minutes).map(&mut count).collect();
        let (service_ms, memory_mb) = (chance.between(1, 3_000), chance.between(60, 400) as f64);
        drawn.push(Traced { per_minute, service_us: service_ms * 1_000, memory_mb });
    }
    drawn
}

/// The policies side by side, as a table for people.
pub fn compare(functions: &[Traced], start_us: u64) -> String {
    let minute_ms = 60_000;
    let settings = [
        ("fixed, 1 min", Policy::Fixed, minute_ms),
        ("fixed, 5 min", Policy::Fixed, 5 * minute_ms),
        ("fixed, 10 min", Policy::Fixed, 10 * minute_ms),
        ("fixed, 60 min", Policy::Fixed, 60 * minute_ms),
        ("histogram, up to 5 min", Policy::Histogram, 5 * minute_ms),
        ("histogram, up to 60 min", Policy::Histogram, 60 * minute_ms),
        ("adaptive, up to 5 min", Policy::Adaptive, 5 * minute_ms),
        ("adaptive, up to 60 min", Policy::Adaptive, 60 * minute_ms),
    ];
    let mut table = format!(
        "| policy, starts of {} ms | cold starts | mean idle memory | mean wait per invocation |\n|---|---|---|---|\n",
        start_us / 1_000
    );
    for (name, policy, idle_ms) in settings {
        let cost = replay(functions, Setting { policy, idle_ms, start_us });
        table += &format!(
            "| {name} | {:.3} % | {:.2} GB | {:.4} ms |\n",
            cost.cold_percent(),
            cost.idle_gb(),
            cost.wait_ms()
        );
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_read() {
        let functions = read(
            "HashFunction,HashOwner,HashApp,minute_1,minute_2\nf,o,a,3,0\ng,o,b,0,1\n",
            "HashOwner,HashApp,HashFunction,Average\no,a,f,2.5\n",
            "HashOwner,HashApp,SampleCount,AverageAllocatedMb\no,a,1,188\n",
        );
        assert_eq!(
            functions,
            [
                Traced { per_minute: vec![3, 0], service_us: 2_500, memory_mb: 188.0 },
                Traced { per_minute: vec![0, 1], service_us: 1_000, memory_mb: DEFAULT_MEMORY_MB },
            ]
        );
    }

    /// One invocation every other minute: one minute is too short, five are not.
    #[test]
    fn costs_add_up() {
        let every_other = Traced { per_minute: [1, 0].repeat(60), service_us: 1_000, memory_mb: 1_024.0 };
        let fixed = |idle_ms| {
            replay(std::slice::from_ref(&every_other), Setting { policy: Policy::Fixed, idle_ms, start_us: 2_000 })
        };
        let (short, long) = (fixed(60_000), fixed(300_000));
        assert_eq!((short.invocations, long.invocations, long.cold), (60, 60, 1));
        assert!(short.cold > 50 && short.waited_us == short.cold * 2_000, "{short:?}");
        assert!((0.4..0.6).contains(&short.idle_gb()) && (0.9..1.01).contains(&long.idle_gb()), "{short:?} {long:?}");
    }

    /// When starts are quick, the adaptive policy holds less memory than a fixed minute for about the same waits; when they
    /// are slow, it holds memory for them.
    #[test]
    fn adaptive_beats_fixed_on_a_drawn_trace() {
        let functions = drawn(100, 600, 3);
        let cost = |policy, idle_min: u64, start_us| {
            replay(&functions, Setting { policy, idle_ms: idle_min * 60_000, start_us })
        };
        let (minute, adaptive) = (cost(Policy::Fixed, 1, 2_000), cost(Policy::Adaptive, 60, 2_000));
        assert!(adaptive.idle_gb() < minute.idle_gb(), "{adaptive:?} {minute:?}");
        assert!(adaptive.wait_ms() < minute.wait_ms() * 1.5, "{adaptive:?} {minute:?}");
        let (fixed, adaptive) = (cost(Policy::Fixed, 10, 1_000_000), cost(Policy::Adaptive, 60, 1_000_000));
        assert!(adaptive.cold < fixed.cold, "{adaptive:?} {fixed:?}");
    }
}
