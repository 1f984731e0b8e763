//! Figures of the requests of a level, under the names that other load generators use.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use tandem_proto::v1;

use super::args::Load;
use super::request::{Completed, Outcome};
use super::server_load::ServerLoad;
use super::summary::Summary;

/// One level under one method. Failed requests count in `requests` and `errors` only.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Level {
    pub(super) method: String,
    pub(super) load: Load,
    pub(super) requests: Requests,
    /// Errors by gRPC code; NOT_SENT are requests beyond --max-in-flight.
    pub(super) errors: BTreeMap<String, Errors>,
    /// Time from the first start to the last end.
    duration_s: f64,
    pub(super) request_throughput_per_s: f64,
    pub(super) output_token_throughput_per_s: f64,
    prompt_tokens: u64,
    output_tokens: u64,
    /// Time to first token.
    pub(super) ttft_ms: Option<Summary>,
    /// Time per output token after the first chunk, per request.
    pub(super) tpot_ms: Option<Summary>,
    /// Inter-token latency: per chunk, the time since the previous chunk divided by its tokens.
    itl_ms: Option<Summary>,
    /// End-to-end latency.
    pub(super) e2e_latency_ms: Option<Summary>,
    /// 1 + accepted tokens / iterations; absent without an iteration.
    pub(super) block_efficiency: Option<f64>,
    /// Accepted tokens / requested draft depth; absent if nothing was drafted.
    pub(super) acceptance_rate: Option<f64>,
    pub(super) failovers: u64,
    pub(super) undrafted_iterations: u64,
    /// How the time divides, as the services report it.
    pub(super) ms_per_token: TimeSplit,
    pub(super) server: ServerLoad,
}

/// Numbers of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Requests {
    pub(super) total: u64,
    pub(super) completed: u64,
    pub(super) failed: u64,
    /// Those of the failed requests that were refused with RESOURCE_EXHAUSTED.
    pub(super) refused: u64,
}

/// Errors with the same code.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Errors {
    pub(super) count: u64,
    pub(super) first_message: String,
}

/// How the time divides, in milliseconds per output token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct TimeSplit {
    pub(super) waiting: f64,
    pub(super) prefill: f64,
    pub(super) draft: f64,
    pub(super) target: f64,
    pub(super) orchestration: f64,
}

impl Level {
    /// The figures of a level whose requests ended with `outcomes` and took `wall` in total.
    pub(super) fn new(
        method: String,
        load: Load,
        outcomes: &[Outcome],
        wall: Duration,
        server: ServerLoad,
    ) -> Self {
        let completed: Vec<&Completed> = outcomes.iter().filter_map(completed).collect();
        let errors = errors(outcomes);
        let refused = errors.get("RESOURCE_EXHAUSTED").map_or(0, |e| e.count);
        let sum = |part: fn(&v1::Statistics) -> u32| -> u64 {
            completed.iter().map(|c| u64::from(part(&c.statistics))).sum()
        };
        let iterations = sum(|s| s.iterations);
        let accepted = sum(|s| s.accepted_tokens);
        let requested = sum(|s| s.asked_tokens);
        let output_tokens = completed.iter().map(|c| c.output_tokens()).sum();
        let seconds = wall.as_secs_f64();
        Self {
            method,
            load,
            requests: Requests {
                total: outcomes.len() as u64,
                completed: completed.len() as u64,
                failed: (outcomes.len() - completed.len()) as u64,
                refused,
            },
            errors,
            duration_s: seconds,
            request_throughput_per_s: ratio(completed.len() as f64, seconds).unwrap_or(0.0),
            output_token_throughput_per_s: ratio(output_tokens as f64, seconds).unwrap_or(0.0),
            prompt_tokens: completed.iter().map(|c| u64::from(c.prompt_tokens)).sum(),
            output_tokens,
            ttft_ms: summary(completed.iter().filter_map(|c| c.ttft())),
            tpot_ms: summary(completed.iter().filter_map(|c| c.tpot())),
            itl_ms: summary(completed.iter().flat_map(|c| c.itl())),
            e2e_latency_ms: summary(completed.iter().map(|c| c.latency)),
            block_efficiency: ratio(accepted as f64, iterations as f64).map(|accepted| 1.0 + accepted),
            acceptance_rate: ratio(accepted as f64, requested as f64),
            failovers: sum(|s| s.failovers),
            undrafted_iterations: sum(|s| s.undrafted_iterations),
            ms_per_token: TimeSplit::of(&completed, output_tokens),
            server,
        }
    }
}

impl TimeSplit {
    fn of(completed: &[&Completed], tokens: u64) -> Self {
        let per_token = |part: fn(&v1::Statistics) -> f64| {
            let ms: f64 = completed.iter().map(|c| part(&c.statistics)).sum();
            ratio(ms, tokens as f64).unwrap_or(0.0)
        };
        Self {
            waiting: per_token(|s| s.waiting_ms),
            prefill: per_token(|s| s.prefill_ms),
            draft: per_token(|s| s.draft_ms),
            target: per_token(|s| s.target_ms),
            orchestration: per_token(|s| s.orchestration_ms),
        }
    }
}

fn completed(outcome: &Outcome) -> Option<&Completed> {
    match outcome {
        Outcome::Completed(completed) => Some(completed),
        Outcome::Failed(_) => None,
    }
}

fn errors(outcomes: &[Outcome]) -> BTreeMap<String, Errors> {
    let mut errors = BTreeMap::<String, Errors>::new();
    for outcome in outcomes {
        let Outcome::Failed(failure) = outcome else { continue };
        let of_code = errors.entry(failure.code.clone()).or_default();
        if of_code.count == 0 {
            of_code.first_message.clone_from(&failure.message);
        }
        of_code.count += 1;
    }
    errors
}

fn summary(times: impl Iterator<Item = Duration>) -> Option<Summary> {
    Summary::of(times.map(|time| time.as_secs_f64() * 1e3).collect())
}

fn ratio(a: f64, b: f64) -> Option<f64> {
    (b > 0.0).then(|| a / b)
}

#[cfg(test)]
mod tests {
    use tonic::Status;

    use super::*;

    fn outcome(tokens: u32, statistics: v1::Statistics) -> Outcome {
        let ms = Duration::from_millis;
        let chunks = vec![(ms(10), 1), (ms(30), tokens - 1)];
        Outcome::Completed(Completed { prompt_tokens: 5, chunks, latency: ms(40), statistics })
    }

    fn level(outcomes: &[Outcome]) -> Level {
        let wall = Duration::from_secs(2);
        Level::new("mmtad".into(), Load::Concurrency(1), outcomes, wall, ServerLoad::default())
    }

    #[test]
    fn figures_cover_completed_requests_and_errors_the_failed_ones() {
        let statistics = |accepted_tokens, draft_ms| v1::Statistics {
            iterations: 4,
            accepted_tokens,
            asked_tokens: 16,
            draft_ms,
            failovers: 1,
            undrafted_iterations: 2,
            ..v1::Statistics::default()
        };
        let refused = |message: &str| Outcome::Failed(Status::resource_exhausted(message).into());
        let level = level(&[
            outcome(11, statistics(8, 30.0)),
            refused("first"),
            outcome(9, statistics(4, 10.0)),
            refused("second"),
            Outcome::Failed(Status::internal("broken").into()),
        ]);
        assert_eq!(level.requests, Requests { total: 5, completed: 2, failed: 3, refused: 2 });
        let expected = Errors { count: 2, first_message: "first".into() };
        assert_eq!(level.errors["RESOURCE_EXHAUSTED"], expected);
        assert_eq!(level.errors.keys().collect::<Vec<_>>(), ["INTERNAL", "RESOURCE_EXHAUSTED"]);
        assert_eq!((level.request_throughput_per_s, level.output_token_throughput_per_s), (1.0, 10.0));
        assert_eq!((level.prompt_tokens, level.output_tokens), (10, 20));
        assert_eq!((level.block_efficiency, level.acceptance_rate), (Some(2.5), Some(0.375)));
        assert_eq!((level.failovers, level.undrafted_iterations), (2, 4));
        assert_eq!(level.ms_per_token.draft, 2.0);
        assert_eq!(level.ttft_ms.unwrap().p99, 10.0);
        assert_eq!(level.e2e_latency_ms.unwrap().samples, 2);
        let fast = 20.0 / 10.0;
        let slow = 20.0 / 8.0;
        assert_eq!(level.tpot_ms.map(|s| (s.min, s.max)), Some((fast, slow)));
    }

    #[test]
    fn a_level_without_completed_requests_has_no_figures() {
        let level = level(&[Outcome::Failed(Status::unavailable("gone").into())]);
        assert_eq!((level.block_efficiency, level.acceptance_rate), (None, None));
        assert_eq!((level.ttft_ms, level.output_token_throughput_per_s), (None, 0.0));
        assert_eq!(level.ms_per_token, TimeSplit::default());
    }
}
