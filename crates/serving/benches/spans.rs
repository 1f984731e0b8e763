//! What the tracing of a step costs where traces are off, and where they are on but this request is not sampled, or is.
//!
//! A step: the orchestrator's span, the header of the call, and the worker's span that takes it up.

use std::hint::black_box;

use axum::http::HeaderMap;
use criterion::{Criterion, criterion_group, criterion_main};
use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use tandem_serving::{adopt_parent, inject_trace_context};
use tracing::dispatcher::with_default;
use tracing::{Dispatch, trace_span};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

fn step() {
    let span = trace_span!("draft", otel.kind = "client");
    let mut headers = HeaderMap::new();
    span.in_scope(|| inject_trace_context(&mut headers));
    let call = trace_span!("call", otel.kind = "server", rpc.system = "grpc");
    adopt_parent(&call, &headers);
    call.in_scope(|| black_box(&headers));
}

fn spans(c: &mut Criterion) {
    let logs = || tracing_subscriber::fmt::layer().with_filter(EnvFilter::new("info"));
    let off = Dispatch::new(Registry::default().with(logs()));
    c.bench_function("off", |b| with_default(&off, || b.iter(step)));
    for (name, sampler) in [("not sampled", Sampler::AlwaysOff), ("sampled", Sampler::AlwaysOn)] {
        let traces = SdkTracerProvider::builder().with_sampler(sampler).build();
        let layer = tracing_opentelemetry::layer()
            .with_tracer(traces.tracer("bench"))
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_context_activation(false)
            .with_filter(LevelFilter::TRACE);
        let subscriber = Dispatch::new(Registry::default().with(logs()).with(layer));
        c.bench_function(name, |b| with_default(&subscriber, || b.iter(step)));
    }
}

criterion_group!(benches, spans);
criterion_main!(benches);
