//! Traces across processes: the W3C trace context in the headers of requests.

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

/// Makes the new `span` part of the trace that the headers of a request name, if they name one. For gRPC the headers are
/// `MetadataMap::as_ref`.
pub fn adopt_parent(span: &Span, headers: &HeaderMap) {
    // Without tracing the headers need not be parsed.
    if !span.is_disabled() {
        let parent = TraceContextPropagator::new().extract(&Carrier(headers));
        // Fails only without an OpenTelemetry layer, and then there is no trace to join.
        let _ = span.set_parent(parent);
    }
}

/// Writes the trace of the current span, if there is one, into the headers of a request. For gRPC the headers are
/// `MetadataMap::as_mut`.
pub fn inject_trace_context(headers: &mut HeaderMap) {
    let span = Span::current();
    if !span.is_disabled() {
        TraceContextPropagator::new().inject_context(&span.context(), &mut Carrier(headers));
    }
}

/// The id of the current trace, for log lines that belong to it.
pub fn trace_id() -> Option<String> {
    let span = Span::current();
    if span.is_disabled() {
        return None;
    }
    let context = span.context();
    let id = context.span().span_context().trace_id();
    (id != opentelemetry::trace::TraceId::INVALID).then(|| id.to_string())
}

/// Sets an attribute of `span` to a list.
pub fn record_list(span: &Span, key: &'static str, values: Vec<&'static str>) {
    let values = values.into_iter().map(opentelemetry::StringValue::from).collect();
    span.set_attribute(key, opentelemetry::Value::Array(opentelemetry::Array::String(values)));
}
