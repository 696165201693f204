//! `decisions` measures on one core how many invocations per second the scheduler decides with a million instances
//! known, beside plain look-ups in a hash map of a million entries, and prints one line of JSON.
//!
//! One decision is all that the scheduler does for one warm invocation: route the name to a version, find that version's
//! pool, dispatch to an instance, and, ten thousand invocations later, take its slot back. The functions are drawn at
//! random, so that much of what a decision touches is in no cache. This program alone in the crate reads
//! a real clock, that of the processor time.
#![forbid(unsafe_code)]

use model::function::{Network, Spec};
use model::snapshot::{Snapshot, Target, Targets};
use model::{AccountId, Digest, FunctionArn, FunctionName, Generation, Region, Runtime, Version};
use scheduler::keep_alive::Policy;
use scheduler::pool::{Action, Config, Event, InstanceId, Pool};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hint::black_box;
use std::sync::Arc;

const INSTANCES: usize = 1_000_000;
const FUNCTIONS: usize = 1_000;
const ROUNDS: usize = 7;
const DECISIONS: usize = 1_000_000;
/// Invocations that run at any time.
const RUNNING: usize = 10_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut platform = Platform::new()?;
    let map: HashMap<u64, u32> = (0..INSTANCES as u64).map(|id| (id, id as u32)).collect();
    let mut chance = sim::random::Chance::new(1);
    // Names as requests bring them: each with bytes of its own.
    let mut pick = || platform.names[chance.between(0, FUNCTIONS as u64 - 1) as usize].to_string();
    let picks: Vec<FunctionName> = (0..DECISIONS).filter_map(|_| FunctionName::parse(&pick()).ok()).collect();
    let keys: Vec<u64> = (0..DECISIONS).map(|_| chance.between(0, INSTANCES as u64 - 1)).collect();
    let (mut decisions, mut lookups) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        decisions.push(per_second(|| picks.iter().map(|name| platform.decide(name)).sum()));
        lookups.push(per_second(|| keys.iter().filter_map(|key| map.get(key)).map(|value| u64::from(*value)).sum()));
    }
    let (decisions, lookups) = (median(decisions), median(lookups));
    println!("{{\"decisions_per_s\":{decisions},\"lookup_per_s\":{lookups},\"instances\":{}}}", platform.instances());
    Ok(())
}

fn per_second(work: impl FnOnce() -> u64) -> u64 {
    let begun_ns = processor_ns();
    black_box(work());
    (DECISIONS as f64 * 1e9 / (processor_ns() - begun_ns).max(1) as f64) as u64
}

/// The processor time that this process has had, so that what else runs on the machine counts little.
fn processor_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0)
}

fn median(mut of: Vec<u64>) -> u64 {
    of.sort_unstable();
    of[of.len() / 2]
}

/// What router and worker hold, as far as decisions need it.
struct Platform {
    names: Vec<FunctionName>,
    snapshot: Snapshot,
    pools: HashMap<Generation, Pool>,
    /// Invocations that were dispatched and have not ended.
    running: VecDeque<(Generation, InstanceId)>,
    actions: Vec<Action>,
    next_id: u64,
    now_us: u64,
}

impl Platform {
    /// All instances are live and idle.
    fn new() -> Result<Platform, Box<dyn std::error::Error>> {
        let mut platform = Platform {
            names: Vec::new(),
            snapshot: Snapshot::default(),
            pools: HashMap::new(),
            running: VecDeque::new(),
            actions: Vec::new(),
            next_id: 0,
            now_us: 0,
        };
        for number in 0..FUNCTIONS {
            let name = FunctionName::parse(&format!("function-{number:06}"))?;
            let generation = Generation(number as u64 + 1);
            let spec = Arc::new(spec(name.clone(), generation)?);
            platform.snapshot.functions.insert(name.clone(), Arc::new(Targets::new(Target::Ready(spec))));
            platform.names.push(name);
            platform.fill(generation);
        }
        Ok(platform)
    }

    fn fill(&mut self, generation: Generation) {
        let limits = model::Limits::default();
        let mut pool = Pool::new(Config {
            slots_per_instance: 1,
            waiting_max: limits.waiting_per_version,
            idle_ms: limits.idle_ms,
            keep_alive: Policy::Adaptive,
            freeze_after_ms: limits.freeze_after_ms,
            instances_max: INSTANCES,
        });
        let count = (INSTANCES / FUNCTIONS) as u32;
        step(&mut pool, self.now_us, &mut self.next_id, Event::WarmUp { count }, &mut self.actions);
        for action in std::mem::take(&mut self.actions) {
            if let Action::Start { instance, .. } = action {
                self.now_us += 1;
                step(&mut pool, self.now_us, &mut self.next_id, Event::Ready { instance }, &mut self.actions);
            }
        }
        self.actions.clear();
        self.pools.insert(generation, pool);
    }

    /// Lets one warm invocation begin, and the one end that began [`RUNNING`] ago; the instance that was dispatched to.
    fn decide(&mut self, name: &FunctionName) -> InstanceId {
        let targets = self.snapshot.functions.get(name);
        let Ok(spec) = scheduler::routing::route(targets.map(Arc::as_ref), None, 0.5) else { return 0 };
        let Some(pool) = self.pools.get_mut(&spec.generation) else { return 0 };
        self.next_id += 1;
        self.now_us += 1;
        let arrive = Event::Arrive { waiter: self.next_id };
        step(pool, self.now_us, &mut self.next_id, arrive, &mut self.actions);
        let dispatched = self.actions.drain(..).find_map(|action| match action {
            Action::Dispatch { instance, .. } => Some(instance),
            _ => None,
        });
        let Some(instance) = dispatched else { return 0 };
        self.running.push_back((spec.generation, instance));
        if self.running.len() > RUNNING
            && let Some((generation, instance)) = self.running.pop_front()
            && let Some(pool) = self.pools.get_mut(&generation)
        {
            step(pool, self.now_us, &mut self.next_id, Event::Done { instance }, &mut self.actions);
            self.actions.clear();
        }
        instance
    }

    fn instances(&self) -> usize {
        let counts = self.pools.values().map(|pool| pool.counts());
        counts.map(|counts| counts.idle + counts.busy).sum()
    }
}

fn step(pool: &mut Pool, now_us: u64, next_id: &mut u64, event: Event, actions: &mut Vec<Action>) {
    let mut next_instance = || {
        *next_id += 1;
        *next_id
    };
    pool.step(now_us, &mut next_instance, event, actions);
}

fn spec(name: FunctionName, generation: Generation) -> Result<Spec, Box<dyn std::error::Error>> {
    let arn = FunctionArn {
        region: Region::parse("us-east-1")?,
        account: AccountId::parse("000000000000")?,
        name,
        qualifier: None,
    };
    Ok(Spec {
        arn,
        version: Version::Latest,
        generation,
        runtime: Runtime("python3.12".into()),
        handler: "m.h".into(),
        timeout_ms: 3_000,
        memory_mb: 128,
        ephemeral_mb: 512,
        environment: BTreeMap::new(),
        package: Digest([0; 32]),
        network: Network::Nat,
        instance_concurrency: 1,
        log_group: "/aws/lambda/f".into(),
        snap_start: false,
    })
}
