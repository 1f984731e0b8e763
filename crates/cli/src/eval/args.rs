//! Flags of `tandem eval`.

use std::path::PathBuf;
use std::str::FromStr;

use clap::builder::RangedU64ValueParser;
use tandem_decoding::{Expansion, Method, Reference};
use tandem_eval::gate::Tolerances;
use tandem_eval::{DatasetKind, Grid};
use tandem_serving::args::LogArgs;

use crate::client::AccessArgs;
use crate::pair::PairArgs;

/// Flags of `tandem eval`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Dataset: text-to-sql (bundled), spider, humaneval, mt-bench or prompts
    #[arg(long, default_value_t = DatasetKind::TextToSql)]
    pub dataset: DatasetKind,

    /// File of the dataset; for spider its directory with dev.json, tables.json and database/
    #[arg(long, value_name = "PATH")]
    pub data: Option<PathBuf>,

    /// Use the first N items
    #[arg(
        long,
        default_value_t = 50,
        value_name = "N",
        value_parser = RangedU64ValueParser::<usize>::new().range(1..)
    )]
    pub prompts: usize,

    /// Run each item with the seeds 0 to N-1
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub seeds: u64,

    /// Maximum number of tokens per answer [default: depends on the dataset]
    #[arg(long, value_name = "N")]
    pub max_new_tokens: Option<u32>,

    /// Continue past the end of an answer up to the maximum number of tokens; the answer is still judged
    #[arg(long)]
    pub run_on: bool,

    /// Methods and settings to run.
    #[command(flatten)]
    pub grid: GridArgs,

    /// Directory of the report; an interrupted evaluation is resumed from it
    #[arg(long, default_value = "eval-report", value_name = "DIR")]
    pub out: PathBuf,

    /// Number of items whose generations can be replayed step by step in the HTML page
    #[arg(long, default_value_t = 3, value_name = "N")]
    pub replays: usize,

    /// Compare with this report.json; the exit code is 3 if a measure got worse
    #[arg(long, value_name = "FILE")]
    pub against: Option<PathBuf>,

    /// How much worse a measure may be in the comparison, e.g. speedup=0.2,score=0.01
    #[arg(long, default_value = "", value_name = "NAME=VALUE,...", hide_default_value = true)]
    pub tolerance: Tolerances,

    /// URL of a running orchestrator; without it all services run in this process
    #[arg(long, env = "TANDEM_ENDPOINT", value_name = "URL", conflicts_with = "PairArgs")]
    pub endpoint: Option<String>,

    /// Credentials for the endpoint.
    #[command(flatten)]
    pub access: AccessArgs,

    /// Models and devices.
    #[command(flatten)]
    pub pair: PairArgs,

    /// Logging.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Lists of values. All combinations run; a method varies only in the parameters that it reads.
#[derive(Clone, Debug, clap::Args)]
pub struct GridArgs {
    /// Methods: autoregressive, speculative, specinfer, mtad, mmtad, exact-match, mtjd [default: all]
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "METHOD,...",
        default_values_t = Method::ALL,
        hide_default_value = true
    )]
    methods: Vec<Method>,

    /// Beams per depth, B
    #[arg(long, value_delimiter = ',', default_value = "4", value_name = "B,...")]
    beam_width: Vec<usize>,

    /// Draft tokens per iteration, γ
    #[arg(long, value_delimiter = ',', default_value = "4", value_name = "N,...")]
    draft_tokens: Vec<usize>,

    /// Acceptance thresholds of mtad and mmtad, τ
    #[arg(long, value_delimiter = ',', default_value = "0.5", value_name = "TAU,...")]
    threshold: Vec<f64>,

    /// How beams are chosen: sampled, sampled-with-replacement, top
    #[arg(long, value_delimiter = ',', default_value = "sampled", value_name = "BEAMS,...")]
    beams: Vec<Expansion>,

    /// Reference of mmtad's acceptance: best-beam, max
    #[arg(long, value_delimiter = ',', default_value = "best-beam", value_name = "REF,...")]
    reference: Vec<Reference>,

    /// Children per node of specinfer, by depth; can be repeated
    #[arg(long, default_value = "4,2,2", value_name = "N,...")]
    branching: Vec<Branching>,

    /// Temperatures; 0 is greedy
    #[arg(long, value_delimiter = ',', default_value = "1", value_name = "T,...")]
    temperature: Vec<f64>,

    /// Sample from the k most likely tokens only; 0 is off
    #[arg(long, value_delimiter = ',', default_value = "10", value_name = "K,...")]
    top_k: Vec<usize>,

    /// Sample from the most likely tokens up to this total probability only; 0 and 1 are off
    #[arg(long, value_delimiter = ',', default_value = "0.9", value_name = "P,...")]
    top_p: Vec<f64>,
}

#[derive(Clone, Debug)]
struct Branching(Vec<usize>);

impl FromStr for Branching {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.split(',').map(|n| n.trim().parse()).collect::<Result<_, _>>().map(Self)
    }
}

impl GridArgs {
    /// The grid, not checked yet.
    pub fn grid(&self) -> Grid {
        Grid {
            methods: self.methods.clone(),
            beam_widths: self.beam_width.clone(),
            draft_tokens: self.draft_tokens.clone(),
            thresholds: self.threshold.clone(),
            expansions: self.beams.clone(),
            references: self.reference.clone(),
            branchings: self.branching.iter().map(|b| b.0.clone()).collect(),
            temperatures: self.temperature.clone(),
            top_ks: self.top_k.clone(),
            top_ps: self.top_p.clone(),
        }
    }
}
