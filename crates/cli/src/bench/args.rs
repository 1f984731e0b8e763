//! Flags of `tandem bench`.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::builder::RangedU64ValueParser;
use serde::Serialize;
use tandem_decoding::{Decoding, DecodingParams, Method, Sampling};
use tandem_eval::{Dataset, DatasetKind};
use tandem_serving::args::{LogArgs, seconds};

use super::lengths::{Lengths, PromptTokens};
use crate::client::AccessArgs;
use crate::decoding::DecodingArgs;
use crate::pair::{PairArgs, bundled};

/// Flags of `tandem bench`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Closed loop: number of concurrent requests, each followed by the next; a list is a sweep
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "1,4,16",
        value_name = "N,...",
        value_parser = RangedU64ValueParser::<usize>::new().range(1..=10_000)
    )]
    concurrency: Vec<usize>,

    /// Open loop: requests arrive at this rate (Poisson process), whether or not earlier ones have ended; a list
    /// is a sweep
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "REQ_PER_S,...",
        value_parser = rate,
        conflicts_with = "concurrency"
    )]
    rate: Vec<f64>,

    /// Maximum number of concurrent requests of an open loop; any further request is not sent and counts as failed
    #[arg(
        long,
        default_value_t = 1000,
        value_name = "N",
        value_parser = RangedU64ValueParser::<usize>::new().range(1..=100_000)
    )]
    pub(super) max_in_flight: usize,

    /// Requests per level [default: as many as start within the duration]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), conflicts_with = "duration")]
    requests: Option<u64>,

    /// Seconds per level in which requests start; the level ends when all of them have ended
    #[arg(long, default_value = "10", value_name = "SECONDS", value_parser = seconds)]
    duration: Duration,

    /// Warm-up requests before each level, which are not measured
    #[arg(long, default_value_t = 4, value_name = "N")]
    pub(super) warmup: u64,

    /// Prompts, used in turn: bundled, or a JSONL file with a "prompt" per line
    #[arg(long, default_value = "bundled", value_name = "FILE|bundled")]
    pub(super) prompts: PathBuf,

    /// Length of random prompts: N, uniform:LO..HI or normal:MEAN,SD; or dataset, for the prompts of --prompts
    #[arg(long, default_value_t = PromptTokens::Dataset, value_name = "TOKENS", conflicts_with = "prompts")]
    pub(super) prompt_tokens: PromptTokens,

    /// Tokens to generate per request, past any end-of-sequence token: N, uniform:LO..HI or normal:MEAN,SD
    #[arg(long, default_value_t = Lengths::Fixed(64), value_name = "TOKENS")]
    pub(super) output_tokens: Lengths,

    #[command(flatten)]
    pub(super) decoding: DecodingArgs,

    /// Compare several methods at every level [default of the list: autoregressive,mmtad]
    #[arg(
        long,
        value_delimiter = ',',
        num_args = 0..=1,
        default_missing_value = "autoregressive,mmtad",
        value_name = "METHOD,...",
        conflicts_with = "method"
    )]
    compare_methods: Option<Vec<Method>>,

    /// Temperature; 0 is greedy
    #[arg(long, default_value_t = 1.0)]
    temperature: f64,

    /// Sample from the k most likely tokens only; 0 is off
    #[arg(long, default_value_t = 10)]
    top_k: u32,

    /// Sample from the most likely tokens up to this total probability only; 0 and 1 are off
    #[arg(long, default_value_t = 0.9)]
    top_p: f64,

    /// Seed of lengths, arrivals, random prompts and the seeds of the requests
    #[arg(long, default_value_t = 0)]
    pub(super) seed: u64,

    /// Timeout of each request [default: none]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(super) timeout: Option<Duration>,

    /// Write all results as JSON; "-" is standard output, which then receives nothing else
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,

    /// URL of a running orchestrator; without it all services run in this process and share its CPU time
    #[arg(long, env = "TANDEM_ENDPOINT", value_name = "URL", conflicts_with = "PairArgs")]
    pub(super) endpoint: Option<String>,

    #[command(flatten)]
    pub(super) access: AccessArgs,

    #[command(flatten)]
    pub(super) pair: PairArgs,

    #[command(flatten)]
    pub(super) log: LogArgs,
}

/// How requests follow one another.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Load {
    /// Closed loop: number of concurrent requests.
    Concurrency(usize),
    /// Open loop: requests that arrive per second.
    Rate(f64),
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Concurrency(requests) => write!(f, "concurrency {requests}"),
            Self::Rate(rate) => write!(f, "{rate} req/s"),
        }
    }
}

/// When a level stops starting requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Limit {
    Requests(u64),
    Duration(Duration),
}

impl Limit {
    /// Whether request `number`, counted from 0, may start `elapsed` after the first.
    pub(super) fn allows(self, number: u64, elapsed: Duration) -> bool {
        match self {
            Self::Requests(requests) => number < requests,
            Self::Duration(duration) => elapsed < duration,
        }
    }
}

impl Args {
    /// The levels of the sweep.
    pub(super) fn loads(&self) -> Vec<Load> {
        if self.rate.is_empty() {
            self.concurrency.iter().copied().map(Load::Concurrency).collect()
        } else {
            self.rate.iter().copied().map(Load::Rate).collect()
        }
    }

    /// When every level stops starting requests.
    pub(super) fn limit(&self) -> Limit {
        self.requests.map_or(Limit::Duration(self.duration), Limit::Requests)
    }

    /// Every method with its parameters, which are checked.
    pub(super) fn methods(&self) -> anyhow::Result<Vec<DecodingParams>> {
        let methods = self.compare_methods.clone().unwrap_or_else(|| vec![self.decoding.method]);
        let mut all = Vec::new();
        for method in methods {
            let params = DecodingParams { method, ..self.decoding.params() };
            Decoding::new(params.clone())?;
            all.push(params);
        }
        Ok(all)
    }

    /// How tokens are drawn.
    pub(super) fn sampling(&self) -> anyhow::Result<Sampling> {
        Ok(Sampling::new(self.temperature, self.top_k as usize, self.top_p)?)
    }

    /// Reads the prompts; none if prompts are random.
    pub(super) fn load_prompts(&self) -> anyhow::Result<Vec<String>> {
        if self.prompt_tokens != PromptTokens::Dataset {
            return Ok(Vec::new());
        }
        let dataset = if self.prompts.as_os_str() == "bundled" {
            Dataset::load(DatasetKind::TextToSql, &bundled("data")?.join("sql_eval.jsonl"))
        } else {
            Dataset::load(DatasetKind::Prompts, &self.prompts)
        };
        let dataset = dataset.context("--prompts must be a JSONL file with a \"prompt\" per line")?;
        if let Some(bad) = dataset.bad.first() {
            bail!("{} of --prompts cannot be used: {}", bad.item, bad.reason);
        }
        Ok(dataset.items.into_iter().filter_map(|item| item.turns.into_iter().next()).collect())
    }

    /// Whether standard output is reserved for the JSON.
    pub(super) fn quiet(&self) -> bool {
        self.json.as_ref().is_some_and(|path| path.as_os_str() == "-")
    }
}

fn rate(text: &str) -> anyhow::Result<f64> {
    let rate: f64 = text.parse().with_context(|| format!("{text:?} is not a valid number"))?;
    ensure!((1e-3..=1e5).contains(&rate), "the rate must be between 0.001 and 100000 requests per second");
    Ok(rate)
}
