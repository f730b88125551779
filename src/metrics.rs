//! What this process has counted, and what is known of the fleet, as Prometheus and whoever speaks OpenMetrics read it.
//!
//! Each server counts what it did itself; summed over the servers, that is what happened. What is known of the fleet is
//! the same whichever server is asked.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
#[cfg(feature = "lambda")]
use serde_json::json;

use crate::container::FleetSnapshot;
use crate::fleet::FailureKind;
use crate::session::EndReason;

/// What this process counts.
pub struct Metrics {
    registry: Registry,
    pub sessions_created: Counter,
    pub sessions_requeued: Counter,
    sessions_ended: Family<EndLabels, Counter>,
    queue_time: Histogram,
    ready_time: Histogram,
    requests: Family<RequestLabels, Counter>,
    request_time: Family<RouteLabels, Histogram>,
    pub containers_started: Counter,
    container_starts_failed: Family<FailureLabels, Counter>,
    /// Of those, the ones that nobody was told of yet.
    untold_failures: Mutex<BTreeMap<&'static str, u64>>,
    pub containers_lost: Counter,
    looks: Family<LookLabels, Counter>,
    connections: Gauge,
    viewers: Gauge,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndLabels {
    reason: EndReason,
}

impl EncodeLabelValue for EndReason {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        self.as_str().encode(encoder)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailureLabels {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: String,
    route: String,
    status: u16,
    /// Of a refusal: what programs know it by.
    code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    method: String,
    route: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LookLabels {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    state: &'static str,
}

/// From a millisecond to about two minutes.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 18))
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("wallcrawler");
        let metrics = Self {
            sessions_created: Counter::default(),
            sessions_requeued: Counter::default(),
            sessions_ended: Family::default(),
            queue_time: seconds(),
            ready_time: seconds(),
            requests: Family::default(),
            request_time: Family::new_with_constructor(seconds),
            containers_started: Counter::default(),
            container_starts_failed: Family::default(),
            untold_failures: Mutex::default(),
            containers_lost: Counter::default(),
            looks: Family::default(),
            connections: Gauge::default(),
            viewers: Gauge::default(),
            registry: Registry::default(),
        };
        registry.register("sessions_created", "Sessions created", metrics.sessions_created.clone());
        registry.register(
            "sessions_requeued",
            "Sessions whose container was lost before a client had reached them",
            metrics.sessions_requeued.clone(),
        );
        registry.register("sessions_ended", "Sessions ended, by reason", metrics.sessions_ended.clone());
        registry.register_with_unit(
            "session_queue",
            "From the creation of a session to its claim by a container",
            Unit::Seconds,
            metrics.queue_time.clone(),
        );
        registry.register_with_unit(
            "session_ready",
            "From the creation of a session to the first answer of its browser",
            Unit::Seconds,
            metrics.ready_time.clone(),
        );
        registry.register("http_requests", "Requests, by route, status and code of refusal", metrics.requests.clone());
        registry.register_with_unit(
            "http_request",
            "How long requests took; claims wait for work",
            Unit::Seconds,
            metrics.request_time.clone(),
        );
        registry.register(
            "containers_started",
            "Containers whose start was accepted",
            metrics.containers_started.clone(),
        );
        registry.register(
            "container_starts_failed",
            "Containers that could not be started, by what kept them from it",
            metrics.container_starts_failed.clone(),
        );
        registry.register("containers_lost", "Containers that were given up", metrics.containers_lost.clone());
        registry.register("looks", "Looks at the fleet, by outcome", metrics.looks.clone());
        registry.register(
            "cdp_connections",
            "Clients' connections that this server carries",
            metrics.connections.clone(),
        );
        registry.register("viewers", "Sockets of those who watch", metrics.viewers.clone());
        Self { registry, ..metrics }
    }
}

impl Metrics {
    pub fn session_ended(&self, reason: EndReason) {
        self.sessions_ended.get_or_create(&EndLabels { reason }).inc();
    }

    pub fn session_claimed(&self, waited_ms: u64) {
        self.queue_time.observe(Duration::from_millis(waited_ms).as_secs_f64());
    }

    pub fn session_ready(&self, since_created_ms: u64) {
        self.ready_time.observe(Duration::from_millis(since_created_ms).as_secs_f64());
    }

    pub fn request(&self, method: &str, route: &str, status: u16, code: Option<&'static str>, took: Duration) {
        // Whoever may send requests must not be able to make series without end.
        let known = ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"].contains(&method);
        let (method, route) = (if known { method } else { "other" }.to_owned(), route.to_owned());
        let labels =
            RequestLabels { method: method.clone(), route: route.clone(), status, code: code.unwrap_or_default() };
        self.requests.get_or_create(&labels).inc();
        self.request_time.get_or_create(&RouteLabels { method, route }).observe(took.as_secs_f64());
    }

    pub fn container_start_failed(&self, kind: FailureKind) {
        let kind = kind.as_str();
        self.container_starts_failed.get_or_create(&FailureLabels { kind }).inc();
        *self.untold_failures.lock().unwrap_or_else(PoisonError::into_inner).entry(kind).or_default() += 1;
    }

    /// How many containers could not be started since this was last asked, by kind.
    pub fn untold_failures(&self) -> BTreeMap<&'static str, u64> {
        std::mem::take(&mut *self.untold_failures.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A look at the fleet was `idle`, `acted`, or `failed`.
    pub fn looked(&self, outcome: &'static str) {
        self.looks.get_or_create(&LookLabels { outcome }).inc();
    }

    /// Counts a connection until it is dropped.
    pub fn connection(&self) -> OpenConnection {
        self.connections.inc();
        OpenConnection(self.connections.clone())
    }

    /// The same of one who watches.
    pub fn viewer(&self) -> OpenConnection {
        self.viewers.inc();
        OpenConnection(self.viewers.clone())
    }

    /// All of it as text. `fleet` is `None` if Redis could not be asked.
    pub fn render(&self, fleet: Option<&FleetSnapshot>, now_ms: u64) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode_registry(&mut text, &self.registry)?;
        encode_registry(&mut text, &fleet_registry(fleet, now_ms))?;
        encode_eof(&mut text)?;
        Ok(text)
    }
}

#[derive(Debug)]
pub struct OpenConnection(Gauge);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// What is known of the fleet, as a line that CloudWatch takes from a function's log for metrics (its "embedded metric
/// format"). A function is not there to be asked: it tells.
#[cfg(feature = "lambda")]
pub fn embedded_fleet(fleet: &FleetSnapshot, function: &str, now_ms: u64) -> serde_json::Value {
    let age_ms = now_ms.saturating_sub(fleet.queue.since_ms.unwrap_or(now_ms));
    let values = [
        ("SessionsPending", "Count", fleet.queue.length),
        ("QueueAge", "Milliseconds", age_ms),
        ("Slots", "Count", fleet.slots),
        ("SlotsUsed", "Count", fleet.used),
        ("Containers", "Count", fleet.containers.len() as u64),
        ("ContainersStarting", "Count", fleet.starting.len() as u64),
        ("FailedStartAttempts", "Count", fleet.failed_starts.attempts),
    ];
    let metrics: Vec<_> = values.iter().map(|(name, unit, _)| json!({ "Name": name, "Unit": unit })).collect();
    let directive = json!({ "Namespace": "WallCrawler", "Dimensions": [["FunctionName"]], "Metrics": metrics });
    let mut line = json!({
        "_aws": { "Timestamp": now_ms, "CloudWatchMetrics": [directive] }, "FunctionName": function,
    });
    for (name, _, value) in values {
        line[name] = value.into();
    }
    line
}

/// Containers that could not be started, in the same format: in all, and by kind.
#[cfg(feature = "lambda")]
pub fn embedded_failures(kind: &str, count: u64, function: &str, now_ms: u64) -> serde_json::Value {
    let name = "ContainerStartsFailed";
    let directive = json!({
        "Namespace": "WallCrawler", "Dimensions": [["FunctionName"], ["FunctionName", "Kind"]],
        "Metrics": [{ "Name": name, "Unit": "Count" }],
    });
    json!({
        "_aws": { "Timestamp": now_ms, "CloudWatchMetrics": [directive] },
        "FunctionName": function, "Kind": kind, name: count,
    })
}

/// What is known of the fleet at this moment. Made for one answer, since nothing of it is this process's own.
fn fleet_registry(fleet: Option<&FleetSnapshot>, now_ms: u64) -> Registry {
    let mut registry = Registry::with_prefix("wallcrawler");
    let mut gauge = |name: &str, help: &str, value: u64| {
        let gauge = Gauge::<i64>::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        registry.register(name, help, gauge);
    };
    gauge("redis_up", "Whether Redis answers", u64::from(fleet.is_some()));
    let Some(fleet) = fleet else { return registry };
    gauge("sessions_pending", "Sessions that wait for a container", fleet.queue.length);
    gauge("users_pending", "Users whose sessions wait for a container", fleet.queue.users);
    let since_ms = fleet.queue.since_ms.unwrap_or(now_ms);
    gauge("queue_age_seconds", "How long the first of them has waited", now_ms.saturating_sub(since_ms) / 1_000);
    gauge("slots", "Sessions that the containers which take work can hold", fleet.slots);
    gauge("slots_used", "Sessions that they hold", fleet.used);
    gauge(
        "failed_start_attempts",
        "Attempts to start containers that have failed in a row",
        fleet.failed_starts.attempts,
    );
    gauge("servers", "Servers that carry connections", fleet.servers.len() as u64);
    let containers = Family::<StateLabels, Gauge>::default();
    let draining = fleet.containers.iter().filter(|container| container.draining).count();
    let states =
        [("starting", fleet.starting.len()), ("serving", fleet.containers.len() - draining), ("draining", draining)];
    for (state, count) in states {
        containers.get_or_create(&StateLabels { state }).set(i64::try_from(count).unwrap_or(i64::MAX));
    }
    registry.register("containers", "Containers, by state", containers);
    registry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "lambda")]
    #[test]
    fn a_function_tells_each_metric_that_it_announces() {
        let fleet = FleetSnapshot { slots: 40, used: 7, ..FleetSnapshot::default() };
        let line = embedded_fleet(&fleet, "wallcrawler-api", 1_000);
        assert_eq!(line["_aws"]["Timestamp"], 1_000);
        let directive = &line["_aws"]["CloudWatchMetrics"][0];
        assert_eq!(
            (&directive["Dimensions"], &line["FunctionName"]),
            (&json!([["FunctionName"]]), &json!("wallcrawler-api"))
        );
        for metric in directive["Metrics"].as_array().expect("metrics") {
            assert!(line[metric["Name"].as_str().expect("a name")].is_u64(), "{metric} in {line}");
        }
        assert_eq!((&line["Slots"], &line["SlotsUsed"]), (&json!(40), &json!(7)));
    }

    #[cfg(feature = "lambda")]
    #[test]
    fn each_failed_start_is_told_once_by_kind() {
        let metrics = Metrics::default();
        for kind in [FailureKind::Throttled, FailureKind::Denied, FailureKind::Throttled] {
            metrics.container_start_failed(kind);
        }
        let told: Vec<_> = metrics.untold_failures().into_iter().collect();
        assert_eq!(told, [("denied", 1), ("throttled", 2)]);
        assert!(metrics.untold_failures().is_empty());
        let line = embedded_failures("throttled", 2, "wallcrawler-api", 1_000);
        let directive = &line["_aws"]["CloudWatchMetrics"][0];
        for dimension in
            directive["Dimensions"].as_array().expect("sets").iter().flat_map(|set| set.as_array().expect("names"))
        {
            assert!(line[dimension.as_str().expect("a name")].is_string(), "{dimension} in {line}");
        }
        assert_eq!(line[directive["Metrics"][0]["Name"].as_str().expect("a name")], 2);
    }

    #[test]
    fn what_was_counted_and_what_is_known_is_one_text_that_ends_as_it_must() {
        let metrics = Metrics::default();
        metrics.sessions_created.inc();
        metrics.session_ended(EndReason::Timeout);
        metrics.session_ready(12);
        metrics.request("GET", "/sessions/{id}", 404, Some("session_not_found"), Duration::from_millis(2));
        metrics.looked("failed");
        metrics.container_start_failed(FailureKind::NoCapacity);
        let open = metrics.connection();
        let fleet = FleetSnapshot {
            slots: 40,
            used: 7,
            starting: vec![("ctr-a".parse().expect("an id"), 1)],
            ..FleetSnapshot::default()
        };
        let text = metrics.render(Some(&fleet), 1_000).expect("a text");
        for line in [
            "wallcrawler_sessions_created_total 1",
            "wallcrawler_sessions_ended_total{reason=\"timeout\"} 1",
            "wallcrawler_session_ready_seconds_count 1",
            "wallcrawler_http_requests_total{method=\"GET\",route=\"/sessions/{id}\",status=\"404\",code=\"session_not_found\"} 1",
            "wallcrawler_looks_total{outcome=\"failed\"} 1",
            "wallcrawler_container_starts_failed_total{kind=\"no_capacity\"} 1",
            "wallcrawler_cdp_connections 1",
            "wallcrawler_redis_up 1",
            "wallcrawler_slots 40",
            "wallcrawler_slots_used 7",
            "wallcrawler_containers{state=\"starting\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
        drop(open);
        let blind = metrics.render(None, 1_000).expect("a text");
        assert!(blind.contains("wallcrawler_redis_up 0\n") && !blind.contains("wallcrawler_slots"));
        assert!(blind.contains("wallcrawler_cdp_connections 0\n"));
    }
}
