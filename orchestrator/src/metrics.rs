//! The metrics of generations.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use tandem_decoding::Method;
use tandem_generation::{Finish, Statistics};
use tandem_serving::MetricsBuilder;

use crate::error::ErrorKind;

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
    code: &'static str,
}

type Counts = Family<By, Counter>;
type Times = Family<By, Histogram, fn() -> Histogram>;
type Seconds = Counter<f64, AtomicU64>;

/// The metrics of all generations.
pub(crate) struct GenerationMetrics {
    first_token: Times,
    per_token: Times,
    latency: Times,
    drafts: Counts,
    draft_tokens: Counts,
    accepted: Counts,
    accepted_by_position: Family<ByPosition, Counter>,
    depth_requested: Counts,
    iterations: Counts,
    undrafted: Counts,
    failovers: Counts,
    prompt_tokens: Counts,
    new_tokens: Counts,
    successes: Family<ByReason, Counter>,
    failures: Family<ByCode, Counter>,
    time: Family<ByPart, Seconds>,
}

/// A histogram with four buckets per factor of ten, from `least` up, over this many `decades`.
fn decades(least: f64, decades: u16) -> Histogram {
    Histogram::new(exponential_buckets(least, 10f64.powf(0.25), 4 * decades + 1))
}

impl GenerationMetrics {
    /// Nothing counted yet.
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
            depth_requested: counts(),
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

    pub(crate) fn register(&self, m: &mut MetricsBuilder) {
        m.common(
            "time_to_first_token_seconds",
            "Time from arrival to the first token",
            self.first_token.clone(),
        );
        m.common("time_per_output_token_seconds", "Time per token after the first", self.per_token.clone());
        m.common("e2e_request_latency_seconds", "Time from arrival to the end", self.latency.clone());
        m.common("spec_decode_num_drafts", "Drafts proposed", self.drafts.clone());
        m.common("spec_decode_num_draft_tokens", "Draft tokens proposed", self.draft_tokens.clone());
        m.common("spec_decode_num_accepted_tokens", "Draft tokens accepted", self.accepted.clone());
        m.common(
            "spec_decode_num_accepted_tokens_per_pos",
            "Drafts accepted up to at least this position, counted from 0",
            self.accepted_by_position.clone(),
        );
        m.own("asked_tokens", "Sum of the draft depths requested", self.depth_requested.clone());
        m.own("iterations", "Iterations of propose, score, accept", self.iterations.clone());
        m.own(
            "undrafted_iterations",
            "Iterations without a draft because no draft worker was available",
            self.undrafted.clone(),
        );
        m.own(
            "failovers",
            "Sessions opened again because their worker was lost or drained",
            self.failovers.clone(),
        );
        m.own("prompt_tokens", "Prompt tokens", self.prompt_tokens.clone());
        m.own("generation_tokens", "Tokens generated", self.new_tokens.clone());
        m.own("request_success", "Generations that finished", self.successes.clone());
        m.own(
            "request_failure",
            "Generations that failed or were cancelled by their client",
            self.failures.clone(),
        );
        m.own("request_time_seconds", "Time of generations, by what it was spent on", self.time.clone());
    }

    /// A generation was requested. Its counters exist from now on, so that a first failure is an increase.
    pub(crate) fn requested(&self, method: Method) {
        let method = method.name();
        for finished_reason in ["stop", "length"] {
            let _ = self.successes.get_or_create(&ByReason { method, finished_reason });
        }
        let frequent = [
            ErrorKind::Cancelled,
            ErrorKind::DeadlineExceeded,
            ErrorKind::ResourceExhausted,
            ErrorKind::Unavailable,
        ];
        for kind in frequent {
            let _ = self.failures.get_or_create(&ByCode { method, code: kind.name() });
        }
    }

    pub(crate) fn admitted(&self, method: Method, prompt_tokens: usize) {
        self.prompt_tokens.get_or_create(&by(method)).inc_by(prompt_tokens as u64);
    }

    /// Counts what happened between two states of the statistics of a generation.
    pub(crate) fn progress(&self, before: &Statistics, after: &Statistics) {
        let labels = by(after.method);
        let add = |counts: &Counts, of: fn(&Statistics) -> usize| {
            counts.get_or_create(&labels).inc_by((of(after) - of(before)) as u64);
        };
        add(&self.drafts, |s| s.drafts);
        add(&self.draft_tokens, |s| s.drafted);
        add(&self.accepted, |s| s.accepted);
        add(&self.depth_requested, |s| s.depth_requested);
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

    /// Counts a failure; without a method if the request was refused before it was read.
    pub(crate) fn failed(&self, method: Option<Method>, kind: ErrorKind) {
        let method = method.map_or("none", Method::name);
        self.failures.get_or_create(&ByCode { method, code: kind.name() }).inc();
    }
}

fn by(method: Method) -> By {
    By { method: method.name() }
}
