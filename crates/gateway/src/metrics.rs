//! What the gateway counts. Names are constants here and nowhere else.

use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::Registry;
use std::fmt;
use std::iter::once;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Requests answered, by operation and status.
pub const REQUESTS: &str = "tidegate_gateway_requests";
/// Seconds from the request's head to the answer's head, by operation.
pub const DURATION_SECONDS: &str = "tidegate_gateway_request_duration_seconds";
/// Requests for operations of the service model that Tidegate does not offer, by operation, and for unknown ones.
pub const NOT_OFFERED: &str = "tidegate_gateway_requests_not_offered";
/// Requests being carried now.
pub const IN_FLIGHT: &str = "tidegate_gateway_requests_in_flight";
/// Open client connections.
pub const CONNECTIONS: &str = "tidegate_gateway_connections";
/// Requests that a defect of ours ended.
pub const PANICS: &str = "tidegate_gateway_panics";

/// Bounds of the duration's buckets, seconds: from a warm invocation to the longest timeout.
const BUCKETS: [f64; 16] =
    [0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 30.0, 120.0, 900.0];

/// Labels of [`REQUESTS`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Answered {
    /// As the service model spells it, or `Unknown`.
    pub operation: &'static str,
    /// The HTTP status.
    pub status: u16,
}

/// Labels of the others.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Asked {
    /// As the service model spells it, or `Unknown`.
    pub operation: &'static str,
}

/// The gateway's metrics.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// See [`REQUESTS`].
    pub requests: Family<Answered, Counter>,
    /// See [`DURATION_SECONDS`].
    pub duration_seconds: Family<Asked, Durations>,
    /// See [`NOT_OFFERED`].
    pub not_offered: Family<Asked, Counter>,
    /// See [`IN_FLIGHT`].
    pub in_flight: Gauge,
    /// See [`CONNECTIONS`].
    pub connections: Gauge,
    /// See [`PANICS`].
    pub panics: Counter,
    /// Of `requests` and `duration_seconds`, those of invocations: found once, since a look-up takes a lock that all
    /// requests would share.
    invocations: (Counter, Durations),
}

/// The one operation that is frequent.
const INVOKE: &str = "Invoke";
/// The status of an invocation that ran.
const RAN: u16 = 200;

/// A histogram without a lock.
#[derive(Debug, Clone, Default)]
pub struct Durations(Arc<Buckets>);

#[derive(Debug, Default)]
struct Buckets {
    /// One more than there are bounds, for what is beyond the last.
    counts: [AtomicU64; BUCKETS.len() + 1],
    sum_ns: AtomicU64,
}

impl Durations {
    /// Counts one.
    pub fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let at = BUCKETS.iter().position(|bound| seconds <= *bound).unwrap_or(BUCKETS.len());
        self.0.counts[at].fetch_add(1, Ordering::Relaxed);
        self.0.sum_ns.fetch_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

impl TypedMetric for Durations {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Durations {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        let bounds = BUCKETS.iter().copied().chain(once(f64::INFINITY));
        let counts = self.0.counts.iter().map(|count| count.load(Ordering::Relaxed));
        let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = Duration::from_nanos(self.0.sum_ns.load(Ordering::Relaxed)).as_secs_f64();
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

impl Metrics {
    /// Makes the metrics and shows them in `registry`.
    pub fn register(registry: &mut Registry) -> Metrics {
        let (requests, duration_seconds): (Family<Answered, Counter>, Family<Asked, Durations>) = Default::default();
        let ran = requests.get_or_create_owned(&Answered { operation: INVOKE, status: RAN });
        let metrics = Metrics {
            invocations: (ran, duration_seconds.get_or_create_owned(&Asked { operation: INVOKE })),
            requests,
            duration_seconds,
            not_offered: Family::default(),
            in_flight: Gauge::default(),
            connections: Gauge::default(),
            panics: Counter::default(),
        };
        let all = metrics.clone();
        registry.register(REQUESTS, "Requests answered", all.requests);
        registry.register(DURATION_SECONDS, "Seconds from the request's head to the answer's", all.duration_seconds);
        registry.register(NOT_OFFERED, "Requests for operations that are not offered", all.not_offered);
        registry.register(IN_FLIGHT, "Requests being carried", all.in_flight);
        registry.register(CONNECTIONS, "Open client connections", all.connections);
        registry.register(PANICS, "Requests that a defect ended", all.panics);
        metrics
    }

    /// Counts a request that has been answered.
    pub fn answered(&self, operation: &'static str, status: u16, took: Duration) {
        let (ran, duration) = &self.invocations;
        if operation == INVOKE && status == RAN {
            ran.inc();
            duration.observe(took);
            return;
        }
        self.requests.get_or_create(&Answered { operation, status }).inc();
        self.duration_seconds.get_or_create(&Asked { operation }).observe(took);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_where_they_belong() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        metrics.answered("Invoke", 200, Duration::from_micros(400));
        metrics.answered("Invoke", 200, Duration::from_millis(3));
        metrics.answered("Invoke", 429, Duration::from_secs(1_000));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "tidegate_gateway_requests_total{operation=\"Invoke\",status=\"200\"} 2",
            "tidegate_gateway_requests_total{operation=\"Invoke\",status=\"429\"} 1",
            "tidegate_gateway_request_duration_seconds_bucket{le=\"0.0005\",operation=\"Invoke\"} 1",
            "tidegate_gateway_request_duration_seconds_bucket{le=\"0.005\",operation=\"Invoke\"} 2",
            "tidegate_gateway_request_duration_seconds_bucket{le=\"900.0\",operation=\"Invoke\"} 2",
            "tidegate_gateway_request_duration_seconds_bucket{le=\"+Inf\",operation=\"Invoke\"} 3",
            "tidegate_gateway_request_duration_seconds_count{operation=\"Invoke\"} 3",
            "tidegate_gateway_request_duration_seconds_sum{operation=\"Invoke\"} 1000.0034",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
