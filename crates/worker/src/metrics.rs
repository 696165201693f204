//! What the worker counts. Names are constants here and nowhere else.

use model::invocation::Met;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use scheduler::pool::{StartReason, StopReason};

/// Instances that were ordered to start, by reason.
pub const STARTS: &str = "tidegate_worker_starts";
/// Instances that were ordered to stop, by reason.
pub const STOPS: &str = "tidegate_worker_stops";
/// Invocations that met an instance which had not run before, by the reason of its start.
pub const COLD_STARTS: &str = "tidegate_worker_cold_starts";
/// Seconds that invocations have waited for a slot, by what came first. Those that found one free are not counted.
pub const SLOT_WAIT_SECONDS: &str = "tidegate_worker_slot_wait_seconds";

/// Guests that were given a snapshot, by what came of it.
pub const RESTORES: &str = "tidegate_worker_restores";
/// Snapshots that were to be taken, by what came of it.
pub const SNAPSHOTS: &str = "tidegate_worker_snapshots";

/// Bounds of the wait's buckets, seconds.
const BUCKETS: [f64; 10] = [0.000_5, 0.001, 0.002, 0.005, 0.01, 0.05, 0.2, 1.0, 5.0, 30.0];

/// Labels of all.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Why {
    reason: &'static str,
}

/// The worker's metrics. A warm invocation that finds a free slot touches none of them.
#[derive(Debug, Clone)]
pub struct Metrics {
    starts: Family<Why, Counter>,
    stops: Family<Why, Counter>,
    cold_starts: Family<Why, Counter>,
    slot_wait_seconds: Family<Why, Histogram>,
    restores: Family<Why, Counter>,
    snapshots: Family<Why, Counter>,
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics {
            starts: Family::default(),
            stops: Family::default(),
            cold_starts: Family::default(),
            restores: Family::default(),
            snapshots: Family::default(),
            slot_wait_seconds: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
        }
    }
}

impl Metrics {
    /// Shows them in `registry`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(STARTS, "Instances ordered to start, by reason", self.starts.clone());
        registry.register(STOPS, "Instances ordered to stop, by reason", self.stops.clone());
        registry.register(RESTORES, "Guests that were given a snapshot, by what came of it", self.restores.clone());
        registry.register(SNAPSHOTS, "Snapshots to be taken, by what came of it", self.snapshots.clone());
        let help = "Invocations that met an unused instance, by the reason of its start";
        registry.register(COLD_STARTS, help, self.cold_starts.clone());
        let help = "Seconds that invocations have waited for a slot, by what came first";
        registry.register(SLOT_WAIT_SECONDS, help, self.slot_wait_seconds.clone());
    }

    /// A guest was given a snapshot.
    pub fn restored(&self, reason: &'static str) {
        self.restores.get_or_create(&Why { reason }).inc();
    }

    /// A snapshot was to be taken.
    pub fn taken(&self, reason: &'static str) {
        self.snapshots.get_or_create(&Why { reason }).inc();
    }

    /// A start is ordered.
    pub fn started(&self, reason: StartReason) {
        self.starts.get_or_create(&Why { reason: reason.text() }).inc();
    }

    /// A stop is ordered.
    pub fn stopped(&self, reason: StopReason) {
        self.stops.get_or_create(&Why { reason: reason.text() }).inc();
    }

    /// An invocation has got its slot.
    pub fn met(&self, met: &Met) {
        if let Some(start) = met.cold {
            self.cold_starts.get_or_create(&Why { reason: start.reason }).inc();
        }
        if let Some(wait) = met.waited {
            self.slot_wait_seconds.get_or_create(&Why { reason: wait.reason }).observe(wait.us as f64 / 1e6);
        }
    }
}
