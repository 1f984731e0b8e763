//! Metrics of a worker, and spans and times of its calls.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use tandem_energy::EnergyMeter;
use tandem_engine::{DeviceChoice, ModelThread, PassReport};
use tandem_proto::{COMPUTE_HEADER, code_name};
use tandem_serving::{AdmissionControl, Metrics, MetricsBuilder, MetricsPrefix, adopt_parent};
use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tonic::{Code, Response, Status};
use tracing::{Instrument, Span, trace_span};

type FloatGauge = Gauge<f64, AtomicU64>;

/// Metrics of the gRPC calls of a worker. Clones share them.
#[derive(Clone)]
pub struct Calls {
    seconds: Family<Call, Histogram, fn() -> Histogram>,
    failures: Family<Failure, Counter>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Call {
    call: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Failure {
    call: &'static str,
    code: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Meter {
    meter: &'static str,
    machine: String,
}

/// 10 µs to 30 s.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(1e-5, 10f64.powf(0.25), 27))
}

impl Calls {
    /// Metrics without any calls yet.
    pub fn new() -> Self {
        Self { seconds: Family::new_with_constructor(seconds), failures: Family::default() }
    }

    /// Does the `work` of a call in a span of the trace that the `metadata` of the request name, and reports in the reply how long it
    /// took.
    pub async fn answer<T, E: Into<Status>>(
        &self,
        call: &'static str,
        metadata: &MetadataMap,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<Response<T>, Status> {
        let start = Instant::now();
        let span = trace_span!(
            "call",
            otel.name = call,
            otel.kind = "server",
            otel.status_code = tracing::field::Empty,
            rpc.system = "grpc",
            rpc.method = call,
            rpc.grpc.status_code = tracing::field::Empty
        );
        adopt_parent(&span, metadata.as_ref());
        let result = work.instrument(span.clone()).await.map_err(Into::into);
        let duration = start.elapsed();
        self.count(call, duration, result.as_ref().err(), &span);
        let mut response = Response::new(result?);
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        response.metadata_mut().insert(COMPUTE_HEADER, micros.into());
        Ok(response)
    }

    fn count(&self, call: &'static str, duration: Duration, failure: Option<&Status>, span: &Span) {
        self.seconds.get_or_create(&Call { call }).observe(duration.as_secs_f64());
        let code = failure.map_or(Code::Ok, Status::code);
        span.record("rpc.grpc.status_code", code as i32);
        if failure.is_some() {
            span.record("otel.status_code", "error");
            self.failures.get_or_create(&Failure { call, code: code_name(code) }).inc();
        }
    }
}

impl Default for Calls {
    fn default() -> Self {
        Self::new()
    }
}

/// The metrics of the worker `service`: those of its `calls`, of its sessions in `admission`, and of its `model`.
pub fn worker_metrics(
    service: &'static str,
    alias: Option<MetricsPrefix>,
    model: &ModelThread,
    admission: Vec<AdmissionControl>,
    calls: &Calls,
) -> Metrics {
    let mut metrics = MetricsBuilder::new(service, model.spec().id.clone(), alias);
    let running = Gauge::<i64>::default();
    let usage = FloatGauge::default();
    let tokens = Gauge::<i64>::default();
    let queue = Gauge::<i64>::default();
    metrics.common("num_requests_running", "Sessions held or being opened", running.clone());
    metrics.common(
        "kv_cache_usage_perc",
        "Fraction of the KV cache that sessions have reserved",
        usage.clone(),
    );
    metrics.own("kv_cache_tokens", "Tokens that fit into the KV cache", tokens.clone());
    metrics.own("engine_queue", "Passes and prompts that are waiting for the model", queue.clone());
    metrics.own("call_seconds", "Duration of a call, measured by the worker", calls.seconds.clone());
    metrics.own("call_failures", "Calls that failed", calls.failures.clone());
    pass_metrics(&mut metrics, model);
    let model = model.clone();
    metrics.before_reading(move || {
        let total = model.budget().total();
        running.set(admission.iter().map(|admission| admission.in_use() as i64).sum());
        usage.set(model.budget().used() as f64 / total.max(1) as f64);
        tokens.set(i64::try_from(total).unwrap_or(i64::MAX));
        queue.set(i64::try_from(model.waiting()).unwrap_or(i64::MAX));
    });
    metrics.build()
}

/// Metrics of forward passes, and of the energy that they take.
fn pass_metrics(metrics: &mut MetricsBuilder, model: &ModelThread) {
    let rows = Histogram::new(exponential_buckets(1.0, 2.0, 11));
    let durations = seconds();
    let sessions = Histogram::new(exponential_buckets(1.0, 2.0, 9));
    let prompt_rows = Counter::<u64>::default();
    metrics.own("batch_rows", "Rows of a forward pass", rows.clone());
    metrics.own("batch_sessions", "Sessions in a forward pass", sessions.clone());
    metrics.own("pass_seconds", "Duration of a forward pass", durations.clone());
    metrics.own("prompt_rows", "Rows of prompts in forward passes", prompt_rows.clone());
    model.observe(Arc::new(move |pass: &PassReport| {
        rows.observe(pass.rows as f64);
        sessions.observe(pass.sessions as f64);
        durations.observe(pass.took.as_secs_f64());
        prompt_rows.inc_by(pass.prompt_rows as u64);
    }));
    let meter = match model.spec().device {
        DeviceChoice::Cpu => EnergyMeter::processors(),
        DeviceChoice::Cuda(_) => EnergyMeter::gpus(),
    };
    if let Some(mut meter) = meter {
        energy_metrics(metrics, meter.name(), move || meter.joules());
    }
}

/// A meter covers a whole machine: several workers on one machine report the same energy, and the same labels.
fn energy_metrics(
    metrics: &mut MetricsBuilder,
    meter: &'static str,
    mut read: impl FnMut() -> Option<f64> + Send + 'static,
) {
    let joules = Family::<Meter, Counter<f64, AtomicU64>>::default();
    metrics.own(
        "energy_joules",
        "Energy that the meter of the machine has counted since the start",
        joules.clone(),
    );
    let counter = joules.get_or_create_owned(&Meter { meter, machine: machine() });
    let mut last = read();
    // A `Mutex` because scrapes can run concurrently and the meter needs `&mut`.
    let update = Mutex::new(move || {
        let now = read();
        if let (Some(before), Some(now)) = (last, now) {
            counter.inc_by((now - before).max(0.0));
        }
        last = now.or(last);
    });
    metrics.before_reading(move || (update.lock().unwrap_or_else(PoisonError::into_inner))());
}

/// An id of the machine, the same in all of its containers until it is booted again.
fn machine() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.split('-').next().unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use tandem_serving::MetricsFormat;

    use super::*;

    /// A meter does not start at zero, and may fail for a while.
    #[test]
    fn energy_is_what_the_meter_has_counted_since_the_start() {
        let mut readings = [Some(1000.0), Some(1000.0), Some(1250.5), None, Some(1300.0)].into_iter();
        let mut builder = MetricsBuilder::new("target", "toy".into(), None);
        energy_metrics(&mut builder, "rapl", move || readings.next().flatten());
        let metrics = builder.build();
        let machine = machine();
        for joules in ["0.0", "250.5", "250.5", "300.0"] {
            let line = format!(
                "tandem_energy_joules_total{{service=\"target\",meter=\"rapl\",machine=\"{machine}\"}} {joules}"
            );
            let text = metrics.read(MetricsFormat::OpenMetrics).unwrap();
            assert!(text.lines().any(|l| l == line), "{line} in {text}");
        }
    }

    #[tokio::test]
    async fn a_reply_reports_its_duration_and_a_failure_is_counted() {
        let calls = Calls::new();
        let metadata = MetadataMap::new();
        let done = calls.answer("Propose", &metadata, std::future::ready(Ok::<_, Status>(1))).await.unwrap();
        let micros: u64 = done.metadata().get(COMPUTE_HEADER).unwrap().to_str().unwrap().parse().unwrap();
        assert!(micros < 1_000_000);
        let refused = std::future::ready(Err::<(), _>(Status::not_found("gone")));
        assert_eq!(calls.answer("Propose", &metadata, refused).await.unwrap_err().code(), Code::NotFound);
        let failure = Failure { call: "Propose", code: "NOT_FOUND".into() };
        assert_eq!(calls.failures.get_or_create(&failure).get(), 1);
    }
}
