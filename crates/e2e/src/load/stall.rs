//! How much a running stream slows down while the longest prompts are admitted beside it.

use std::time::Duration;

use anyhow::ensure;
use comfy_table::Table;
use indicatif::ProgressBar;
use serde::Serialize;
use tandem_cli::bench::Summary;
use tandem_cli::client::Client;
use tandem_cli::output::table;
use tandem_decoding::Method;
use tandem_proto::v1::generate_response::Event;
use tokio::time::{Instant, timeout_at};

use super::args::{Setup, StallArgs};
use super::client::{numbers, request};
use super::cluster::{Cluster, Flags, Models};
use super::figures::{summary, three, two};
use crate::progress::bar;

/// Prompt of the running stream: short, so that its own admission takes no time.
const PROMPT_TOKENS: u32 = 16;
/// Length of the running stream; when it ends, the next one starts.
const NEW_TOKENS: u32 = 256;
/// Long prompts that are admitted while nothing else runs, for comparison.
const ADMISSIONS_ALONE: usize = 5;
/// How long it may take until everything is free again.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(10);
/// How much longer a token may take while a prompt is admitted, at the 99th percentile, as a factor.
const RATIO_LIMIT: f64 = 3.0;

/// One pair under one method. Times in milliseconds.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Stall {
    pair: &'static str,
    method: String,
    /// Length of the prompts that are admitted.
    prompt_tokens: u32,
    /// Time per output token of the running stream, alone and during admissions.
    before: Summary,
    during: Summary,
    /// `during` divided by `before`, at the 99th percentile.
    ratio_p99: f64,
    ratio_p50: f64,
    /// Time to first token of the prompts, alone and beside the stream.
    admission_alone: Summary,
    admission_beside: Summary,
}

/// The time between two chunks.
#[derive(Clone, Copy, Debug)]
struct Gap {
    begun: Instant,
    ended: Instant,
    tokens: u32,
}

/// The admission of a long prompt, from the request to its first token.
#[derive(Clone, Copy, Debug)]
struct Admission {
    begun: Instant,
    ended: Option<Instant>,
}

/// Both pairs under both methods.
pub(crate) async fn run(setup: &Setup, args: &StallArgs) -> anyhow::Result<Vec<Stall>> {
    let phases = if args.long_context == 0 { 1 } else { 2 } * 2 * 2 * u64::from(args.rounds);
    let bar = bar("stall", phases);
    let demo = Models::pair(&setup.programs.models);
    let mut stalls = pair(setup, args, ("demo", &demo, None), &bar).await?;
    if args.long_context > 0 {
        let random = Models::random(&setup.programs.models, args.long_context)?;
        stalls.extend(pair(setup, args, ("random", &random, Some(args.long_prompt)), &bar).await?);
    }
    bar.finish_and_clear();
    Ok(stalls)
}

async fn pair(
    setup: &Setup,
    args: &StallArgs,
    (name, models, prompt): (&'static str, &Models, Option<u32>),
    bar: &ProgressBar,
) -> anyhow::Result<Vec<Stall>> {
    let cluster = Cluster::start(setup, models, Flags::default()).await?;
    // The answer of one token needs the rest.
    let longest = cluster.context - 2;
    let prompt_tokens = prompt.map_or(longest, |tokens| tokens.min(longest));
    let mut pair = Pair { clients: cluster.connect(2).await?, cluster, prompt_tokens, seed: setup.seed };
    let mut stalls = Vec::new();
    for method in [Method::Autoregressive, Method::Mmtad] {
        bar.set_message(format!("stall: {name}, {}", method));
        let admission_alone = pair.alone(method).await?;
        let mut before = Vec::new();
        let mut during = Vec::new();
        let mut admission_beside = Vec::new();
        for _ in 0..args.rounds {
            let (gaps, _) = pair.phase(method, args.phase, false).await?;
            before.extend(gaps.iter().map(Gap::ms_per_token));
            bar.inc(1);
            let (gaps, admissions) = pair.phase(method, args.phase, true).await?;
            let disturbed = gaps.iter().filter(|gap| admissions.iter().any(|a| gap.overlaps(a)));
            during.extend(disturbed.map(Gap::ms_per_token));
            admission_beside.extend(admissions.iter().filter_map(Admission::ms));
            bar.inc(1);
        }
        let before = summary(before);
        let during = summary(during);
        ensure!(before.samples > 0 && during.samples > 0, "no stream ran: give it more time with --phase");
        stalls.push(Stall {
            pair: name,
            method: method.to_string(),
            prompt_tokens,
            before,
            during,
            ratio_p99: during.p99 / before.p99,
            ratio_p50: during.p50 / before.p50,
            admission_alone,
            admission_beside: summary(admission_beside),
        });
    }
    Ok(stalls)
}

/// A pair that runs.
struct Pair {
    cluster: Cluster,
    /// One for the stream, and one for the prompts beside it.
    clients: Vec<Client>,
    prompt_tokens: u32,
    seed: u64,
}

impl Pair {
    /// Admits long prompts with nothing beside them.
    async fn alone(&mut self, method: Method) -> anyhow::Result<Summary> {
        let mut admissions = Vec::new();
        while admissions.len() < ADMISSIONS_ALONE {
            self.admit(method, &mut admissions).await?;
        }
        Ok(summary(admissions.iter().filter_map(Admission::ms).collect()))
    }

    /// Runs one stream after the other for `duration`; if `disturbed`, beside one long prompt after the other.
    async fn phase(
        &mut self,
        method: Method,
        duration: Duration,
        disturbed: bool,
    ) -> anyhow::Result<(Vec<Gap>, Vec<Admission>)> {
        let settled = self.cluster.settle(SETTLE_TIMEOUT).await?;
        ensure!(settled.left.is_none(), "the phase before left something: {:?}", settled.left);
        let mut gaps = Vec::new();
        let mut admissions = Vec::new();
        let end = Instant::now() + duration;
        let streams = self.streams(method, &mut gaps);
        let prompts = async {
            if !disturbed {
                return std::future::pending::<anyhow::Result<()>>().await;
            }
            loop {
                self.admit(method, &mut admissions).await?;
            }
        };
        // The end of the phase cancels both.
        let both = async { tokio::try_join!(streams, prompts) };
        let ended = timeout_at(end, both).await;
        if let Ok(Err(error)) = ended { Err(error) } else { Ok((gaps, admissions)) }
    }

    /// Runs one stream after the other, until this is dropped.
    async fn streams(&self, method: Method, gaps: &mut Vec<Gap>) -> anyhow::Result<()> {
        let mut client = self.clients[0].clone();
        for number in 0.. {
            let mut rng = numbers(self.seed, number);
            let request = request(&mut rng, self.cluster.vocab, PROMPT_TOKENS, NEW_TOKENS, method);
            let mut events = client.generate(request).await?.into_inner();
            let mut last = None;
            while let Some(response) = events.message().await? {
                let Some(Event::Chunk(chunk)) = response.event else { continue };
                let tokens = u32::try_from(chunk.token_ids.len())?;
                if tokens == 0 {
                    continue;
                }
                let now = Instant::now();
                gaps.extend(last.map(|begun| Gap { begun, ended: now, tokens }));
                last = Some(now);
            }
        }
        Ok(())
    }

    /// Admits a long prompt, which is answered with one token.
    async fn admit(&self, method: Method, admissions: &mut Vec<Admission>) -> anyhow::Result<()> {
        let mut rng = numbers(self.seed, u64::MAX - admissions.len() as u64);
        let request = request(&mut rng, self.cluster.vocab, self.prompt_tokens, 1, method);
        let at = admissions.len();
        admissions.push(Admission { begun: Instant::now(), ended: None });
        let mut events = self.clients[1].clone().generate(request).await?.into_inner();
        while let Some(response) = events.message().await? {
            if let Some(Event::Chunk(_)) = response.event {
                admissions[at].ended.get_or_insert_with(Instant::now);
            }
        }
        Ok(())
    }
}

impl Gap {
    fn ms_per_token(&self) -> f64 {
        (self.ended - self.begun).as_secs_f64() * 1e3 / f64::from(self.tokens)
    }

    fn overlaps(&self, admission: &Admission) -> bool {
        self.ended > admission.begun && admission.ended.is_none_or(|ended| self.begun < ended)
    }
}

impl Admission {
    /// `None` if it was cancelled.
    fn ms(&self) -> Option<f64> {
        Some((self.ended? - self.begun).as_secs_f64() * 1e3)
    }
}

/// As a table.
pub(crate) fn show(stalls: &[Stall]) -> String {
    let mut rows: Table = table(&[
        "pair",
        "method",
        "prompt",
        "TPOT before",
        "TPOT during",
        "p99 ratio",
        "p50 ratio",
        "TTFT alone",
        "TTFT beside",
        "gaps",
    ]);
    for stall in stalls {
        rows.add_row([
            stall.pair.to_owned(),
            stall.method.clone(),
            stall.prompt_tokens.to_string(),
            three(&stall.before),
            three(&stall.during),
            format!("{:.2}{}", stall.ratio_p99, if stall.ratio_p99 > RATIO_LIMIT { " !" } else { "" }),
            format!("{:.2}", stall.ratio_p50),
            two(&stall.admission_alone),
            two(&stall.admission_beside),
            format!("{} / {}", stall.before.samples, stall.during.samples),
        ]);
    }
    format!(
        "stall: time per output token of a running stream before and during the admission of long prompts, ms, p50 / p90 / \
         p99 (target of the p99 ratio: <= {RATIO_LIMIT}x); time to first token of the prompts, ms, p50 / p99\n\n{rows}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_count_as_disturbed_where_they_overlap() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let gap = Gap { begun: at(10), ended: at(20), tokens: 4 };
        assert!((gap.ms_per_token() - 2.5).abs() < 1e-9);
        for (begun, ended, overlaps) in
            [(0, Some(10), false), (0, Some(11), true), (19, None, true), (20, None, false)]
        {
            let admission = Admission { begun: at(begun), ended: ended.map(at) };
            assert_eq!(gap.overlaps(&admission), overlaps, "{begun} to {ended:?}");
        }
    }
}
