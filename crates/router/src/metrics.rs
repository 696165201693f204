//! What the router counts. Names are constants here and nowhere else.

use crate::permits::Permits;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use scheduler::admission::Cause;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Invocations that were throttled, by cause.
pub const THROTTLES: &str = "tidegate_router_throttles";
/// Seconds that invocations have waited for concurrency in their function's queue, by how the wait ended.
pub const QUEUE_WAIT_SECONDS: &str = "tidegate_router_queue_wait_seconds";
/// Invocations that wait for concurrency now.
pub const QUEUED: &str = "tidegate_router_queued";
/// Invocations that hold a permit now.
pub const IN_FLIGHT: &str = "tidegate_router_in_flight";

/// Bounds of the wait's buckets, seconds.
const BUCKETS: [f64; 10] = [0.001, 0.005, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0, 20.0, 60.0];

/// Labels of [`THROTTLES`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Throttled {
    /// See [`Cause::label`].
    cause: &'static str,
}

/// Labels of [`QUEUE_WAIT_SECONDS`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Waited {
    /// `admitted` or `refused`.
    end: &'static str,
}

/// The router's metrics. An invocation that meets no limit touches none of them.
#[derive(Debug, Clone)]
pub struct Metrics {
    throttles: Family<Throttled, Counter>,
    queue_wait_seconds: Family<Waited, Histogram>,
}

impl Default for Metrics {
    fn default() -> Metrics {
        let metrics = Metrics {
            throttles: Family::default(),
            queue_wait_seconds: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
        };
        // Shown as zero before the first.
        for cause in Cause::ALL {
            drop(metrics.throttles.get_or_create(&Throttled { cause: cause.label() }));
        }
        metrics
    }
}

impl Metrics {
    /// Shows them in `registry`, and what `permits` count.
    pub fn register(&self, permits: &Permits, registry: &mut Registry) {
        registry.register(THROTTLES, "Invocations that were throttled, by cause", self.throttles.clone());
        let help = "Seconds that invocations have waited for concurrency, by how the wait ended";
        registry.register(QUEUE_WAIT_SECONDS, help, self.queue_wait_seconds.clone());
        registry.register_collector(Box::new(Levels(Arc::new(permits.clone()))));
    }

    /// An invocation is throttled.
    pub fn throttled(&self, cause: Cause) {
        self.throttles.get_or_create(&Throttled { cause: cause.label() }).inc();
    }

    /// An invocation has waited for concurrency.
    pub fn waited(&self, time: Duration, is_admitted: bool) {
        let end = if is_admitted { "admitted" } else { "refused" };
        self.queue_wait_seconds.get_or_create(&Waited { end }).observe(time.as_secs_f64());
    }
}

/// Read when somebody asks.
#[derive(Debug)]
struct Levels(Arc<Permits>);

impl Collector for Levels {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut level = |name, help, value: i64| {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
        };
        level(QUEUED, "Invocations that wait for concurrency", self.0.waiting() as i64)?;
        level(IN_FLIGHT, "Invocations that hold a permit", self.0.in_use().into())
    }
}
