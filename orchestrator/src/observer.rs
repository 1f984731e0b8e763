//! Requests as those see them who watch: their spans, and what they add to the metrics.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tandem_decoding::Method;
use tandem_proto::{GenerateParams, Input, OpenSession};
use tandem_serving::{adopt_parent, record_list};
use tonic::Code;
use tonic::codegen::http::HeaderMap;
use tracing::field::Empty;
use tracing::{Span, trace_span};

use crate::metrics::GenerationMetrics;
use crate::{Finish, Statistics};

/// Watches the texts that `requests` for `model` ask for, whose `headers` may name a trace; and the span of all that is done for them.
pub(crate) fn watch(
    metrics: &Arc<GenerationMetrics>,
    model: &str,
    requests: &[GenerateParams],
    headers: &HeaderMap,
) -> (Span, Vec<Watch>) {
    let span = requests.first().map_or_else(Span::none, |params| request_span(model, params));
    adopt_parent(&span, headers);
    let texts: Vec<&GenerateParams> =
        requests.iter().flat_map(|r| std::iter::repeat_n(r, r.candidates)).collect();
    let alone = texts.len() == 1;
    let watch = |(index, params): (usize, &GenerateParams)| {
        let method = params.decoding.method();
        metrics.begun(method);
        // One alone is what its request is; of several each has a span of its own below it.
        let span = if alone { span.clone() } else { text_span(&span, index) };
        let (metrics, method, span) = (Some(metrics.clone()), Some(method), Some(span));
        Watch { metrics, method, span, ended: AtomicBool::new(false) }
    };
    let watches = texts.into_iter().enumerate().map(watch).collect();
    (span, watches)
}

/// In the semantic conventions of OpenTelemetry for generative models, where they have a name for it. Prompts and stop strings are
/// texts, and texts are not traced.
fn request_span(model: &str, params: &GenerateParams) -> Span {
    let operation = if matches!(params.input, Input::Chat(_)) { "chat" } else { "text_completion" };
    trace_span!(
        "generate",
        // Put together only if somebody wants it.
        otel.name = %format_args!("{operation} {model}"),
        otel.kind = "server",
        otel.status_code = Empty,
        "error.type" = Empty,
        gen_ai.operation.name = operation,
        gen_ai.provider.name = "tandem",
        gen_ai.request.model = model,
        gen_ai.request.temperature = params.sampling.temperature(),
        gen_ai.request.top_k = params.sampling.top_k() as i64,
        gen_ai.request.top_p = params.sampling.top_p(),
        gen_ai.request.max_tokens = params.max_new_tokens as i64,
        gen_ai.request.choice.count = params.candidates as i64,
        gen_ai.request.seed = Empty,
        gen_ai.response.model = model,
        gen_ai.usage.input_tokens = Empty,
        gen_ai.usage.output_tokens = Empty,
        tandem.method = params.decoding.method().name(),
        tandem.draft_tokens = params.decoding.draft_tokens() as i64,
        tandem.iterations = Empty,
        tandem.accepted_tokens = Empty,
        tandem.undrafted_iterations = Empty,
        tandem.failovers = Empty
    )
}

/// One of several texts of a request.
fn text_span(request: &Span, index: usize) -> Span {
    trace_span!(
        parent: request,
        "text",
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

/// One text, watched from the arrival of its request to its end. Dropped before it ended, it counts as left by its client.
#[derive(Default)]
pub struct Watch {
    metrics: Option<Arc<GenerationMetrics>>,
    method: Option<Method>,
    span: Option<Span>,
    ended: AtomicBool,
}

impl Watch {
    /// A request that nobody watches.
    pub fn nobody() -> Self {
        Self::default()
    }

    /// The span of the request, for what is done for it.
    pub(crate) fn span(&self) -> Span {
        self.span.clone().unwrap_or_else(Span::none)
    }

    /// It is in order, and begins.
    pub(crate) fn admitted(&self, open: &OpenSession) {
        let span = self.span();
        span.record("gen_ai.usage.input_tokens", open.prompt.len() as i64);
        match i64::try_from(open.seed) {
            Ok(seed) => span.record("gen_ai.request.seed", seed),
            // Beyond the integers of a trace.
            Err(_) => span.record("gen_ai.request.seed", open.seed.to_string()),
        };
        if let (Some(metrics), Some(method)) = (&self.metrics, self.method) {
            metrics.admitted(method, open.prompt.len());
        }
    }

    /// It came from `before` to `after`.
    pub(crate) fn progress(&self, before: &Statistics, after: &Statistics) {
        if let Some(metrics) = &self.metrics {
            metrics.progress(before, after);
        }
    }

    /// It ended well.
    pub(crate) fn finished(&self, finish: &Finish) {
        if self.ended.swap(true, Ordering::Relaxed) {
            return;
        }
        let (span, s) = (self.span(), &finish.statistics);
        record_list(&span, "gen_ai.response.finish_reasons", vec![finish.reason.name()]);
        span.record("gen_ai.usage.output_tokens", s.new_tokens as i64);
        span.record("tandem.iterations", s.iterations as i64);
        span.record("tandem.accepted_tokens", s.accepted as i64);
        span.record("tandem.undrafted_iterations", s.undrafted as i64);
        span.record("tandem.failovers", s.failovers as i64);
        if let Some(metrics) = &self.metrics {
            metrics.finished(finish);
        }
    }

    /// It failed.
    pub(crate) fn failed(&self, code: Code) {
        if self.ended.swap(true, Ordering::Relaxed) {
            return;
        }
        let span = self.span();
        span.record("otel.status_code", "error");
        span.record("error.type", tandem_proto::code_name(code));
        if let Some(metrics) = &self.metrics {
            metrics.failed(self.method, code);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.failed(Code::Cancelled);
    }
}
