//! What the gateway counts. Names are constants here and nowhere else.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

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
    pub duration_seconds: Family<Asked, Histogram>,
    /// See [`NOT_OFFERED`].
    pub not_offered: Family<Asked, Counter>,
    /// See [`IN_FLIGHT`].
    pub in_flight: Gauge,
    /// See [`CONNECTIONS`].
    pub connections: Gauge,
    /// See [`PANICS`].
    pub panics: Counter,
}

impl Metrics {
    /// Makes the metrics and shows them in `registry`.
    pub fn register(registry: &mut Registry) -> Metrics {
        let metrics = Metrics {
            requests: Family::default(),
            duration_seconds: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
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
}
