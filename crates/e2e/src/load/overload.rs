//! More requests than can be served: how many are, how many are refused, and whether the system recovers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::ensure;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_distr::Exp1;
use serde::Serialize;
use tandem_cli::bench::Summary;
use tandem_cli::client::{Client, generate};
use tandem_cli::output::table;
use tandem_decoding::Method;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

use super::args::{OverloadArgs, Setup};
use super::client::{numbers, request};
use super::cluster::{Cluster, Flags, Memory, Models};
use super::figures::{grown, memory_table, summary, two};
use crate::progress::bar;

const PROMPT_TOKENS: u32 = 16;
const NEW_TOKENS: u32 = 32;
/// Connections that requests are spread over: a server allows only so many requests on one.
const CONNECTIONS: usize = 8;
/// When memory is first measured: by then all permits are taken and the queue is full.
const EARLY: Duration = Duration::from_secs(10);
/// How long after the deadline the client waits for the error.
const SLACK: Duration = Duration::from_secs(2);
/// How long it may take until everything is free again.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(30);
/// The random numbers of arrivals; those of a request have its number.
const ARRIVALS: u64 = u64::MAX;

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Overload {
    /// Requests per second in a closed loop.
    rate_before: f64,
    rate_after: f64,
    /// Arrivals per second during the overload.
    rate_offered: f64,
    /// Counts of the requests by outcome.
    met_deadline: u64,
    missed_deadline: u64,
    refused: u64,
    refused_without_retry_info: u64,
    /// Other errors, by code and message.
    other: BTreeMap<String, u64>,
    /// From arrival to end, of requests that met their deadline.
    latency_ms: Summary,
    /// From arrival to refusal.
    refusal_ms: Summary,
    memory_early: Memory,
    memory_late: Memory,
}

/// How a request ended.
enum Outcome {
    Finished(Duration),
    Late,
    Refused { after: Duration, retry_info: bool },
    Other(String),
}

/// A closed loop, the overload, and the closed loop again.
pub(crate) async fn run(
    setup: &Setup,
    args: &OverloadArgs,
    violations: &mut Vec<String>,
) -> anyhow::Result<Overload> {
    let limits = [
        ("--max-sessions", args.max_sessions.to_string()),
        ("--max-waiting", args.max_waiting.to_string()),
        ("--max-waiting-seconds", args.max_waiting_seconds.to_string()),
    ];
    let orchestrator = limits.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect();
    let flags = Flags { workers: Vec::new(), orchestrator };
    let mut cluster = Cluster::start(setup, &Models::pair(&setup.programs.models), flags).await?;
    let clients = cluster.connect(CONNECTIONS).await?;
    let sender = Sender { clients, seed: setup.seed, vocab: cluster.vocab, deadline: args.deadline };
    // A warm-up: the first requests pay for what later ones reuse.
    sender.closed(args.max_sessions, Duration::from_secs(2)).await?;
    let rate_before = sender.closed(args.max_sessions, args.closed).await?;
    let rate_offered = rate_before * args.times;
    let (outcomes, memory_early, memory_late) = sender.open(&cluster, rate_offered, args.duration).await?;
    let settled = cluster.settle(SETTLE_TIMEOUT).await?;
    violations.extend(settled.left.map(|left| format!("{SETTLE_TIMEOUT:?} after the overload {left}")));
    let rate_after = sender.closed(args.max_sessions, args.closed).await?;
    let mut found = Overload::of(outcomes);
    found.rate_before = rate_before;
    found.rate_after = rate_after;
    found.rate_offered = rate_offered;
    found.memory_early = memory_early;
    found.memory_late = memory_late;
    violations.extend(found.violations());
    Ok(found)
}

/// Sends requests, each of which is a function of the seed and its number.
#[derive(Clone)]
struct Sender {
    clients: Vec<Client>,
    seed: u64,
    vocab: u32,
    deadline: Duration,
}

impl Sender {
    /// A closed loop with `at_once` requests. Returns how many were finished per second.
    async fn closed(&self, at_once: usize, duration: Duration) -> anyhow::Result<f64> {
        let next = Arc::new(AtomicU64::new(0));
        let begun = Instant::now();
        let mut running = JoinSet::new();
        for _ in 0..at_once {
            let (sender, next) = (self.clone(), next.clone());
            running.spawn(async move {
                let mut finished = 0u64;
                while begun.elapsed() < duration {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let outcome = sender.send(number, Instant::now()).await;
                    finished += u64::from(matches!(outcome, Outcome::Finished(_)));
                }
                finished
            });
        }
        let mut finished = 0;
        while let Some(client) = running.join_next().await {
            finished += client?;
        }
        ensure!(finished > 0, "no request of the closed loop was finished");
        Ok(finished as f64 / begun.elapsed().as_secs_f64())
    }

    /// An open loop: requests arrive as a Poisson process. Returns their outcomes, and memory early and late.
    async fn open(
        &self,
        cluster: &Cluster,
        per_second: f64,
        duration: Duration,
    ) -> anyhow::Result<(Vec<Outcome>, Memory, Memory)> {
        let bar = bar(&format!("overload: {per_second:.0} requests per second"), duration.as_secs());
        let mut rng = numbers(self.seed, ARRIVALS);
        let mut running = JoinSet::new();
        let mut outcomes = Vec::new();
        let mut early = None;
        let start = Instant::now();
        let mut number = 0;
        let mut at = gap(&mut rng, per_second);
        while at < duration {
            #[allow(
                clippy::disallowed_methods,
                reason = "requests arrive at drawn times, not after an event"
            )]
            sleep_until(start + at).await;
            while let Some(finished) = running.try_join_next() {
                outcomes.push(finished?);
            }
            if early.is_none() && at >= EARLY.min(duration / 2) {
                early = Some(cluster.memory());
            }
            let sender = self.clone();
            let arrived = start + at;
            running.spawn(async move { sender.send(number, arrived).await });
            bar.set_position(at.as_secs());
            number += 1;
            at += gap(&mut rng, per_second);
        }
        let late = cluster.memory();
        while let Some(finished) = running.join_next().await {
            outcomes.push(finished?);
        }
        bar.finish_and_clear();
        Ok((outcomes, early.unwrap_or(late), late))
    }

    /// Sends request `number`, which arrived at `arrived`, and reads to its end.
    async fn send(&self, number: u64, arrived: Instant) -> Outcome {
        let mut rng = numbers(self.seed, number);
        let request = request(&mut rng, self.vocab, PROMPT_TOKENS, NEW_TOKENS, Method::Mmtad);
        let mut request = Request::new(request);
        request.set_timeout(self.deadline);
        let mut client = self.clients[number as usize % self.clients.len()].clone();
        let deadline = arrived + self.deadline;
        match timeout_at(deadline + SLACK, generate(&mut client, request, |_| ())).await {
            Err(_) => Outcome::Other("no answer long after the deadline".into()),
            Ok(Ok(_)) if Instant::now() <= deadline => Outcome::Finished(arrived.elapsed()),
            Ok(Ok(_)) => Outcome::Late,
            Ok(Err(status)) => Outcome::of(&status, arrived, deadline),
        }
    }
}

/// The time between two arrivals, exponentially distributed.
fn gap(rng: &mut ChaCha8Rng, per_second: f64) -> Duration {
    let gap: f64 = rng.sample(Exp1);
    Duration::from_secs_f64(gap / per_second)
}

impl Outcome {
    fn of(status: &Status, arrived: Instant, deadline: Instant) -> Self {
        match status.code() {
            Code::ResourceExhausted => Self::Refused {
                after: arrived.elapsed(),
                retry_info: status.get_details_retry_info().is_some(),
            },
            Code::DeadlineExceeded => Self::Late,
            // The clock of the transport, which reports it with another code.
            Code::Cancelled if Instant::now() >= deadline => Self::Late,
            code => Self::Other(format!("{code:?}: {}", status.message())),
        }
    }
}

impl Overload {
    /// Counts and latencies of the outcomes; the other figures are left zero.
    fn of(outcomes: Vec<Outcome>) -> Self {
        let mut latencies = Vec::new();
        let mut refusals = Vec::new();
        let mut missed_deadline = 0;
        let mut refused_without_retry_info = 0;
        let mut other = BTreeMap::<String, u64>::new();
        let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
        for outcome in outcomes {
            match outcome {
                Outcome::Finished(latency) => latencies.push(ms(latency)),
                Outcome::Late => missed_deadline += 1,
                Outcome::Refused { after, retry_info } => {
                    refusals.push(ms(after));
                    refused_without_retry_info += u64::from(!retry_info);
                }
                Outcome::Other(what) => *other.entry(what).or_default() += 1,
            }
        }
        Self {
            rate_before: 0.0,
            rate_after: 0.0,
            rate_offered: 0.0,
            met_deadline: latencies.len() as u64,
            missed_deadline,
            refused: refusals.len() as u64,
            refused_without_retry_info,
            other,
            latency_ms: summary(latencies),
            refusal_ms: summary(refusals),
            memory_early: Memory::default(),
            memory_late: Memory::default(),
        }
    }

    fn violations(&self) -> Vec<String> {
        let mut violations = Vec::new();
        for (what, count) in &self.other {
            violations.push(format!("under overload {count} requests failed with {what}"));
        }
        if self.refused_without_retry_info > 0 {
            violations
                .push(format!("{} refusals did not say when to retry", self.refused_without_retry_info));
        }
        violations.extend(grown(&self.memory_early, &self.memory_late, "under overload"));
        violations
    }

    /// As tables.
    pub(crate) fn show(&self) -> String {
        let mut counts = table(&["outcome", "requests", "ms, p50 / p99"]);
        let without = self.refused_without_retry_info;
        counts.add_row(["met its deadline", &self.met_deadline.to_string(), &two(&self.latency_ms)]);
        counts.add_row(["missed its deadline", &self.missed_deadline.to_string(), ""]);
        counts.add_row(["refused", &self.refused.to_string(), &two(&self.refusal_ms)]);
        counts.add_row(["  without RetryInfo", &without.to_string(), ""]);
        for (what, count) in &self.other {
            counts.add_row([what, &count.to_string(), ""]);
        }
        format!(
            "overload: {:.1} requests per second offered, {:.2} sustained before, {:.2} after ({:.2}x)\n\n{counts}\n\n{}",
            self.rate_offered,
            self.rate_before,
            self.rate_after,
            self.rate_after / self.rate_before,
            memory_table(&[("early", self.memory_early), ("late", self.memory_late)])
        )
    }
}
