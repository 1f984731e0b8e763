//! The observer of a generation: its span, and what it adds to the metrics.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tandem_decoding::Method;
use tandem_generation::{Finish, GenerateRequest, Input, Observer, OpenSession, Statistics};
use tandem_serving::{adopt_parent, record_list};
use tonic::codegen::http::HeaderMap;
use tracing::field::Empty;
use tracing::{Span, trace_span};

use crate::error::ErrorKind;
use crate::metrics::GenerationMetrics;

/// The span of all that is done for `requests`, whose `headers` may name a parent trace, and an observer of each sequence.
pub(crate) fn observe(
    metrics: &Arc<GenerationMetrics>,
    model: &str,
    requests: &[GenerateRequest],
    headers: &HeaderMap,
) -> (Span, Vec<RequestObserver>) {
    let span = requests.first().map_or_else(Span::none, |request| request_span(model, request));
    adopt_parent(&span, headers);
    let sequences: Vec<&GenerateRequest> =
        requests.iter().flat_map(|request| std::iter::repeat_n(request, request.n)).collect();
    let is_single = sequences.len() == 1;
    let mut observers = Vec::with_capacity(sequences.len());
    for (index, request) in sequences.into_iter().enumerate() {
        let method = request.decoding.method();
        metrics.requested(method);
        // A single sequence is its request; of several, each has a span of its own below that of the request.
        let span = if is_single { span.clone() } else { sequence_span(&span, index) };
        let metrics = metrics.clone();
        observers.push(RequestObserver { metrics, method, span, has_ended: AtomicBool::new(false) });
    }
    (span, observers)
}

/// The span of a request, named by the semantic conventions of OpenTelemetry for generative models where they have a name. Prompts and
/// stop strings are not traced.
fn request_span(model: &str, request: &GenerateRequest) -> Span {
    let operation = if matches!(request.input, Input::Chat(_)) { "chat" } else { "text_completion" };
    trace_span!(
        "generate",
        // Formatted only if the span is exported.
        otel.name = %format_args!("{operation} {model}"),
        otel.kind = "server",
        otel.status_code = Empty,
        "error.type" = Empty,
        gen_ai.operation.name = operation,
        gen_ai.provider.name = "tandem",
        gen_ai.request.model = model,
        gen_ai.request.temperature = request.sampling.temperature(),
        gen_ai.request.top_k = request.sampling.top_k() as i64,
        gen_ai.request.top_p = request.sampling.top_p(),
        gen_ai.request.max_tokens = request.max_new_tokens as i64,
        gen_ai.request.choice.count = request.n as i64,
        gen_ai.request.seed = Empty,
        gen_ai.response.model = model,
        gen_ai.usage.input_tokens = Empty,
        gen_ai.usage.output_tokens = Empty,
        tandem.method = request.decoding.method().name(),
        tandem.draft_tokens = request.decoding.draft_tokens() as i64,
        tandem.iterations = Empty,
        tandem.accepted_tokens = Empty,
        tandem.undrafted_iterations = Empty,
        tandem.failovers = Empty
    )
}

/// The span of one of several sequences of a request.
fn sequence_span(request: &Span, index: usize) -> Span {
    trace_span!(
        parent: request,
        "sequence",
        otel.status_code = Empty,
        "error.type" = Empty,
        gen_ai.request.seed = Empty,
        gen_ai.usage.input_tokens = Empty,
        gen_ai.usage.output_tokens = Empty,
        tandem.index = index as i64,
        tandem.iterations = Empty,
        tandem.accepted_tokens = Empty,
        tandem.undrafted_iterations = Empty,
        tandem.failovers = Empty
    )
}

/// Observes one sequence, from the arrival of its request to its end. Dropped before that, it counts as cancelled.
pub(crate) struct RequestObserver {
    metrics: Arc<GenerationMetrics>,
    method: Method,
    span: Span,
    has_ended: AtomicBool,
}

impl RequestObserver {
    /// The span of what is done for the sequence.
    pub(crate) fn span(&self) -> Span {
        self.span.clone()
    }

    /// The request was admitted, and the sequence begins.
    pub(crate) fn admitted(&self, open: &OpenSession) {
        self.span.record("gen_ai.usage.input_tokens", open.prompt.len() as i64);
        match i64::try_from(open.seed) {
            Ok(seed) => self.span.record("gen_ai.request.seed", seed),
            // Larger than the integers of a trace.
            Err(_) => self.span.record("gen_ai.request.seed", open.seed.to_string()),
        };
        self.metrics.admitted(self.method, open.prompt.len());
    }

    /// The sequence failed.
    pub(crate) fn failed(&self, kind: ErrorKind) {
        if self.has_ended.swap(true, Ordering::Relaxed) {
            return;
        }
        self.span.record("otel.status_code", "error");
        self.span.record("error.type", kind.name());
        self.metrics.failed(Some(self.method), kind);
    }
}

impl Observer for RequestObserver {
    fn progress(&self, before: &Statistics, after: &Statistics) {
        self.metrics.progress(before, after);
    }

    fn finished(&self, finish: &Finish) {
        if self.has_ended.swap(true, Ordering::Relaxed) {
            return;
        }
        let s = &finish.statistics;
        record_list(&self.span, "gen_ai.response.finish_reasons", vec![finish.reason.name()]);
        self.span.record("gen_ai.usage.output_tokens", s.new_tokens as i64);
        self.span.record("tandem.iterations", s.iterations as i64);
        self.span.record("tandem.accepted_tokens", s.accepted as i64);
        self.span.record("tandem.undrafted_iterations", s.undrafted as i64);
        self.span.record("tandem.failovers", s.failovers as i64);
        self.metrics.finished(finish);
    }
}

impl Drop for RequestObserver {
    fn drop(&mut self) {
        self.failed(ErrorKind::Cancelled);
    }
}
