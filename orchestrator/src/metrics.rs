//! What the orchestrator counts.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use tandem_decoding::Method;
use tandem_proto::{code_name, v1};
use tandem_serving::{Metrics, MetricsBuilder, MetricsPrefix};
use tonic::Code;

use crate::front::Front;
use crate::{Finish, FinishReason, Statistics};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct By {
    method: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ByPosition {
    method: &'static str,
    position: usize,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ByPart {
    method: &'static str,
    part: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ByReason {
    method: &'static str,
    finished_reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ByCode {
    method: &'static str,
    code: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ByState {
    role: &'static str,
    state: &'static str,
}

type Counts = Family<By, Counter>;
type Times = Family<By, Histogram, fn() -> Histogram>;
type Seconds = Counter<f64, AtomicU64>;

/// Of all generations.
pub(crate) struct GenerationMetrics {
    first_token: Times,
    per_token: Times,
    latency: Times,
    drafts: Counts,
    draft_tokens: Counts,
    accepted: Counts,
    accepted_by_position: Family<ByPosition, Counter>,
    asked: Counts,
    iterations: Counts,
    undrafted: Counts,
    failovers: Counts,
    prompt_tokens: Counts,
    new_tokens: Counts,
    successes: Family<ByReason, Counter>,
    failures: Family<ByCode, Counter>,
    time: Family<ByPart, Seconds>,
}

/// Four buckets to a factor of ten, from `least` up, over so many `decades`.
fn decades(least: f64, decades: u16) -> Histogram {
    Histogram::new(exponential_buckets(least, 10f64.powf(0.25), 4 * decades + 1))
}

impl GenerationMetrics {
    /// Nothing yet.
    pub(crate) fn new() -> Self {
        let counts = Counts::default;
        Self {
            first_token: Family::new_with_constructor(|| decades(1e-3, 5)),
            per_token: Family::new_with_constructor(|| decades(1e-4, 5)),
            latency: Family::new_with_constructor(|| decades(1e-3, 6)),
            drafts: counts(),
            draft_tokens: counts(),
            accepted: counts(),
            accepted_by_position: Family::default(),
            asked: counts(),
            iterations: counts(),
            undrafted: counts(),
            failovers: counts(),
            prompt_tokens: counts(),
            new_tokens: counts(),
            successes: Family::default(),
            failures: Family::default(),
            time: Family::default(),
        }
    }

    fn register(&self, m: &mut MetricsBuilder) {
        m.common("time_to_first_token_seconds", "From arrival to the first token", self.first_token.clone());
        m.common("time_per_output_token_seconds", "Per token behind the first", self.per_token.clone());
        m.common("e2e_request_latency_seconds", "From arrival to the end", self.latency.clone());
        m.common("spec_decode_num_drafts", "Drafts proposed", self.drafts.clone());
        m.common("spec_decode_num_draft_tokens", "Tokens of drafts proposed", self.draft_tokens.clone());
        m.common("spec_decode_num_accepted_tokens", "Tokens of drafts accepted", self.accepted.clone());
        m.common(
            "spec_decode_num_accepted_tokens_per_pos",
            "Drafts accepted beyond this position, from 0",
            self.accepted_by_position.clone(),
        );
        m.own("asked_tokens", "Depths of the drafts asked for, added up", self.asked.clone());
        m.own("iterations", "Rounds of propose, score, accept", self.iterations.clone());
        m.own("undrafted_iterations", "Rounds without a draft, as no worker had one", self.undrafted.clone());
        m.own(
            "failovers",
            "Sessions opened again, as their worker was lost or drained",
            self.failovers.clone(),
        );
        m.own("prompt_tokens", "Tokens of prompts", self.prompt_tokens.clone());
        m.own("generation_tokens", "Tokens emitted", self.new_tokens.clone());
        m.own("request_success", "Requests that ended well", self.successes.clone());
        m.own("request_failure", "Requests that failed, or that their client left", self.failures.clone());
        m.own("request_time_seconds", "Time of requests, by what they spent it on", self.time.clone());
    }

    /// A text was asked for. What may be counted of it is there from now on, so that a first failure is an increase.
    pub(crate) fn begun(&self, method: Method) {
        let method = method.name();
        for finished_reason in ["stop", "length"] {
            let _ = self.successes.get_or_create(&ByReason { method, finished_reason });
        }
        for code in [Code::Cancelled, Code::DeadlineExceeded, Code::ResourceExhausted, Code::Unavailable] {
            let _ = self.failures.get_or_create(&ByCode { method, code: code_name(code) });
        }
    }

    pub(crate) fn admitted(&self, method: Method, prompt_tokens: usize) {
        self.prompt_tokens.get_or_create(&by(method)).inc_by(prompt_tokens as u64);
    }

    /// What happened between two looks at the statistics of a request.
    pub(crate) fn progress(&self, before: &Statistics, after: &Statistics) {
        let labels = by(after.method);
        let add = |counts: &Counts, of: fn(&Statistics) -> usize| {
            counts.get_or_create(&labels).inc_by((of(after) - of(before)) as u64);
        };
        add(&self.drafts, |s| s.drafts);
        add(&self.draft_tokens, |s| s.drafted);
        add(&self.accepted, |s| s.accepted);
        add(&self.asked, |s| s.depth_asked);
        add(&self.iterations, |s| s.iterations);
        add(&self.undrafted, |s| s.undrafted);
        add(&self.failovers, |s| s.failovers);
        add(&self.new_tokens, |s| s.new_tokens);
        let method = labels.method;
        for (position, (before, after)) in
            before.accepted_by_depth.iter().zip(&after.accepted_by_depth).enumerate()
        {
            let labels = ByPosition { method, position };
            self.accepted_by_position.get_or_create(&labels).inc_by((after - before) as u64);
        }
        for ((part, before), (_, after)) in before.parts().into_iter().zip(after.parts()) {
            let more: Duration = after.saturating_sub(before);
            self.time.get_or_create(&ByPart { method, part }).inc_by(more.as_secs_f64());
        }
    }

    pub(crate) fn finished(&self, finish: &Finish) {
        let s = &finish.statistics;
        let labels = by(s.method);
        self.first_token.get_or_create(&labels).observe(s.first_token.as_secs_f64());
        self.latency.get_or_create(&labels).observe(s.total.as_secs_f64());
        if let Some(more) = s.new_tokens.checked_sub(1).filter(|&more| more > 0) {
            let each = s.total.saturating_sub(s.first_token).as_secs_f64() / more as f64;
            self.per_token.get_or_create(&labels).observe(each);
        }
        let finished_reason = finish.reason.name();
        self.successes.get_or_create(&ByReason { method: labels.method, finished_reason }).inc();
    }

    /// `None`: the request did not get as far as having a method.
    pub(crate) fn failed(&self, method: Option<Method>, code: Code) {
        let method = method.map_or("none", Method::name);
        self.failures.get_or_create(&ByCode { method, code: code_name(code) }).inc();
    }
}

fn by(method: Method) -> By {
    By { method: method.name() }
}

impl FinishReason {
    /// As metrics and traces have it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::EndOfSequence | Self::Stop(_) => "stop",
            Self::Length => "length",
        }
    }
}

/// All that an orchestrator counts.
pub(crate) fn orchestrator_metrics(front: Arc<Front>, alias: Option<MetricsPrefix>) -> Metrics {
    let mut builder = MetricsBuilder::new("orchestrator", front.model.clone(), alias);
    let (running, waiting) = <(Gauge, Gauge)>::default();
    builder.common("num_requests_running", "Generations that run", running.clone());
    builder.common("num_requests_waiting", "Generations that wait for a place", waiting.clone());
    let workers = Family::<ByState, Gauge>::default();
    builder.own("workers", "Workers known, by how they are", workers.clone());
    front.metrics.register(&mut builder);
    builder.before_reading(move || {
        running.set(front.admission.in_use() as i64);
        waiting.set(front.admission.queued() as i64);
        let all = front.pair.worker_states();
        for role in ["draft", "target"] {
            for (state, name) in STATES {
                let count = all.iter().filter(|&&w| w == (role, state)).count();
                workers.get_or_create(&ByState { role, state: name }).set(count as i64);
            }
        }
    });
    builder.build()
}

const STATES: [(v1::WorkerState, &str); 4] = [
    (v1::WorkerState::Serving, "serving"),
    (v1::WorkerState::Draining, "draining"),
    (v1::WorkerState::Unreachable, "unreachable"),
    (v1::WorkerState::Unfit, "unfit"),
];
