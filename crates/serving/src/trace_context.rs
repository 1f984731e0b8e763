//! Traces that go on across processes: the W3C trace context in the headers of requests.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::TraceContextExt;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

struct Carrier<H>(H);

impl Extractor for Carrier<&HeaderMap> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

impl Injector for Carrier<&mut HeaderMap> {
    fn set(&mut self, key: &str, value: String) {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(key), HeaderValue::try_from(value)) {
            self.0.insert(name, value);
        }
    }
}

/// Makes `span`, a new one, part of the trace that the headers of a request name, if they name one. The headers of gRPC are
/// `MetadataMap::as_ref`.
pub fn adopt_parent(span: &Span, headers: &HeaderMap) {
    // Nothing is read where nothing is traced.
    if !span.is_disabled() {
        let parent = TraceContextPropagator::new().extract(&Carrier(headers));
        // Without traces there is nothing to belong to.
        let _ = span.set_parent(parent);
    }
}

/// Names the trace of the present span in the headers of a request, if there is one. The headers of gRPC are `MetadataMap::as_mut`.
pub fn carry_on(headers: &mut HeaderMap) {
    let span = Span::current();
    if !span.is_disabled() {
        TraceContextPropagator::new().inject_context(&span.context(), &mut Carrier(headers));
    }
}

/// The trace of the present span, to be found by in logs.
pub fn trace_id() -> Option<String> {
    let span = Span::current();
    if span.is_disabled() {
        return None;
    }
    let context = span.context();
    let id = context.span().span_context().trace_id();
    (id != opentelemetry::trace::TraceId::INVALID).then(|| id.to_string())
}

/// Sets an attribute of `span` that is a list.
pub fn record_list(span: &Span, key: &'static str, values: Vec<&'static str>) {
    let values = values.into_iter().map(opentelemetry::StringValue::from).collect();
    span.set_attribute(key, opentelemetry::Value::Array(opentelemetry::Array::String(values)));
}
