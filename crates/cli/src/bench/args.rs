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
    /// Closed loop: so many requests at once, each followed by the next; a list is a sweep
    #[arg(long, value_delimiter = ',', default_value = "1,4,16", value_name = "N,...", value_parser = RangedU64ValueParser::<usize>::new().range(1..=10_000))]
    concurrency: Vec<usize>,

    /// Open loop: so many requests per second arrive (Poisson), whatever still runs; a list is a sweep
    #[arg(long, value_delimiter = ',', value_name = "REQ_PER_S,...", value_parser = rate, conflicts_with = "concurrency")]
    rate: Vec<f64>,

    /// Most requests that run at once in an open loop; who arrives beyond is not sent, and counts as failed
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=100_000))]
    pub(super) max_in_flight: usize,

    /// Requests per level [default: as many as the duration has room for]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), conflicts_with = "duration")]
    requests: Option<u64>,

    /// Seconds per level in which requests are started; all are waited for
    #[arg(long, default_value = "10", value_name = "SECONDS", value_parser = seconds)]
    duration: Duration,

    /// Requests before each level that are not counted
    #[arg(long, default_value_t = 4, value_name = "N")]
    pub(super) warmup: u64,

    /// What is asked, in turns: bundled, or a JSONL file with a "prompt" per line
    #[arg(long, default_value = "bundled", value_name = "FILE|bundled")]
    pub(super) prompts: PathBuf,

    /// dataset, or that many random tokens: N, uniform:LO..HI or normal:MEAN,SD
    #[arg(long, default_value_t = PromptTokens::Dataset, value_name = "TOKENS", conflicts_with = "prompts")]
    pub(super) prompt_tokens: PromptTokens,

    /// Tokens to generate per request, also behind an end of sequence: N, uniform:LO..HI or normal:MEAN,SD
    #[arg(long, default_value_t = Lengths::Fixed(64), value_name = "TOKENS")]
    pub(super) output_tokens: Lengths,

    #[command(flatten)]
    pub(super) decoding: DecodingArgs,

    /// Several methods, one after the other at every level [default of the list: autoregressive,mmtad]
    #[arg(long, value_delimiter = ',', num_args = 0..=1, default_missing_value = "autoregressive,mmtad", value_name = "METHOD,...", conflicts_with = "method")]
    compare_methods: Option<Vec<Method>>,

    /// Temperature; 0 is greedy
    #[arg(long, default_value_t = 1.0)]
    temperature: f64,

    /// Keep the k most likely tokens; 0 is off
    #[arg(long, default_value_t = 10)]
    top_k: u32,

    /// Keep the most likely tokens up to this mass; 0 and 1 are off
    #[arg(long, default_value_t = 0.9)]
    top_p: f64,

    /// Seed of lengths, arrivals, random prompts and the requests' own seeds
    #[arg(long, default_value_t = 0)]
    pub(super) seed: u64,

    /// Deadline of each request [default: none]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(super) timeout: Option<Duration>,

    /// Write everything as JSON; "-" is standard output, and nothing else is written there
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,

    /// URL of a running orchestrator; without it all services run in this process, and share its processors
    #[arg(long, env = "TANDEM_ENDPOINT", value_name = "URL", conflicts_with = "PairArgs")]
    pub(super) endpoint: Option<String>,

    #[command(flatten)]
    pub(super) access: AccessArgs,

    #[command(flatten)]
    pub(super) pair: PairArgs,

    #[command(flatten)]
    pub(super) log: LogArgs,
}

/// How requests follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Load {
    /// Closed loop: requests at once.
    Concurrency(usize),
    /// Open loop: arrivals per second.
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

/// When a level has started all its requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Limit {
    Requests(u64),
    Duration(Duration),
}

impl Limit {
    /// Whether request `number`, counted from 0, still starts, so long after the first.
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

    /// The end of every level.
    pub(super) fn limit(&self) -> Limit {
        self.requests.map_or(Limit::Duration(self.duration), Limit::Requests)
    }

    /// Every method with its parameters, which are in order.
    pub(super) fn methods(&self) -> anyhow::Result<Vec<DecodingParams>> {
        let methods = self.compare_methods.clone().unwrap_or_else(|| vec![self.decoding.method]);
        let params = methods.into_iter().map(|method| DecodingParams { method, ..self.decoding.params() });
        params.map(|params| Ok(Decoding::new(params.clone()).map(|_| params)?)).collect()
    }

    /// How tokens are drawn.
    pub(super) fn sampling(&self) -> anyhow::Result<Sampling> {
        Ok(Sampling::new(self.temperature, self.top_k as usize, self.top_p)?)
    }

    /// The questions; none if prompts are random.
    pub(super) fn texts(&self) -> anyhow::Result<Vec<String>> {
        if self.prompt_tokens != PromptTokens::Dataset {
            return Ok(Vec::new());
        }
        let dataset = if self.prompts.as_os_str() == "bundled" {
            Dataset::load(DatasetKind::TextToSql, &bundled("data")?.join("sql_eval.jsonl"))
        } else {
            Dataset::load(DatasetKind::Prompts, &self.prompts)
        };
        let dataset = dataset.context("these are the --prompts: a JSONL file with a \"prompt\" per line")?;
        if let Some(bad) = dataset.bad.first() {
            bail!("{} of --prompts cannot be used: {}", bad.item, bad.reason);
        }
        Ok(dataset.items.into_iter().filter_map(|item| item.turns.into_iter().next()).collect())
    }

    /// Whether standard output is for the JSON alone.
    pub(super) fn quiet(&self) -> bool {
        self.json.as_ref().is_some_and(|path| path.as_os_str() == "-")
    }
}

fn rate(text: &str) -> anyhow::Result<f64> {
    let rate: f64 = text.parse().with_context(|| format!("{text:?} is no number"))?;
    ensure!((1e-3..=1e5).contains(&rate), "it must be between 0.001 and 100000 requests per second");
    Ok(rate)
}
