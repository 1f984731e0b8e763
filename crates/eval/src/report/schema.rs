//! The machine-readable report.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::dataset::BadItem;
use crate::judge::Verdict;

/// Schema version of [`Report`], incremented when a field changes its meaning or is removed.
/// Readers reject other versions.
pub const SCHEMA_VERSION: u32 = 1;

/// Everything about one evaluation. Times are wall-clock milliseconds, log-probabilities use the natural log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Version of the program.
    pub tandem_version: String,
    /// When this report was written: RFC 3339, UTC.
    pub created: String,
    /// The command line that was run.
    pub command: String,
    /// The machine of the client and, without an endpoint, of the models.
    pub machine: Machine,
    /// The target model.
    pub target_model: String,
    /// The draft model.
    pub draft_model: String,
    /// The dataset and its settings.
    pub dataset: DatasetReport,
    /// Seeds of every cell.
    pub seeds: Vec<u64>,
    /// Samples planned: items × cells × seeds.
    pub samples_planned: usize,
    /// Samples completed; fewer than planned after an interruption.
    pub samples_done: usize,
    /// One per method and setting.
    pub cells: Vec<Cell>,
    /// A few generations, iteration by iteration.
    pub replays: Vec<Replay>,
}

/// The machine that an evaluation ran on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Name of the processor.
    pub cpu: String,
    /// Logical cores that this process may use.
    pub cores: usize,
    /// Operating system, e.g. "linux".
    pub os: String,
    /// Device of the models, "cpu" or "cuda:N"; "remote" if they are reached through an endpoint.
    pub device: String,
    /// Source of energy readings: "nvml", "rapl" or "not available".
    pub energy: String,
}

/// The dataset of an evaluation and its settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DatasetReport {
    /// [`crate::Dataset::name`].
    pub name: String,
    /// Number of items used.
    pub items: usize,
    /// Name of the score; absent if answers are not judged.
    pub metric: Option<String>,
    /// Maximum number of tokens per answer.
    pub max_new_tokens: u32,
    /// Strings that ended an answer.
    pub stop: Vec<String>,
    /// Whether answers continued to the maximum number of tokens.
    pub run_on: bool,
    /// Unusable parts of the file.
    pub bad: Vec<BadItem>,
}

/// A method and its setting.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Setting {
    /// Name of the method: "autoregressive", "speculative", "specinfer", "mtad", "mmtad", "exact-match", "mtjd".
    pub method: String,
    /// Whether the output has the same distribution as plain sampling from the target.
    pub lossless: bool,
    /// Beam width, `B`; absent for a method without beams.
    pub beam_width: Option<usize>,
    /// Draft depth, `γ`; absent for a method that drafts nothing.
    pub draft_tokens: Option<usize>,
    /// Acceptance threshold, `τ`; absent for a method without one.
    pub threshold: Option<f64>,
    /// How beams are chosen: "sampled", "sampled-with-replacement" or "top".
    pub beams: Option<String>,
    /// Reference of MMTAD's acceptance: "best-beam" or "max".
    pub reference: Option<String>,
    /// Children per node of SpecInfer, by depth.
    pub branching: Option<Vec<usize>>,
    /// Temperature; 0 is greedy.
    pub temperature: f64,
    /// Top-k filter; 0 is off.
    pub top_k: usize,
    /// Top-p filter; 0 and 1 are off.
    pub top_p: f64,
}

/// A value with its 95 % confidence interval (bootstrap over items).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// Value over all samples.
    pub value: f64,
    /// 2.5 % quantile of the resamples.
    pub low: f64,
    /// 97.5 % quantile of the resamples.
    pub high: f64,
}

/// The figures of one method and setting.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// Unique name: the method and its whole setting, e.g. "mmtad B=4 γ=4 τ=0.5 sampled reference=best-beam T=1
    /// top-k=10 top-p=0.9".
    pub id: String,
    /// Short name, unique in this report: has only what differs between its cells, e.g. "mmtad τ=0.5".
    pub label: String,
    /// Method and parameters.
    pub setting: Setting,
    /// Samples completed (items × seeds).
    pub samples: usize,
    /// Tokens emitted.
    pub tokens: u64,
    /// Share of right answers, 0 to 1; absent if answers are not judged.
    pub score: Option<Estimate>,
    /// Perplexity under the unwarped target, over the tokens that both models have.
    pub perplexity: Option<Estimate>,
    /// Decode time (without prefill) per emitted token, median over the samples.
    pub ms_per_token: f64,
    /// The same, 90th percentile.
    pub ms_per_token_p90: f64,
    /// Emitted tokens per second of decode time.
    pub tokens_per_second: f64,
    /// 1 + accepted / iterations.
    pub block_efficiency: Estimate,
    /// Accepted tokens per draft token of requested depth.
    pub acceptance_rate: Option<Estimate>,
    /// `[γ]`: share of iterations that accepted at least this many tokens, by depth from 1.
    pub acceptance_by_depth: Vec<f64>,
    /// How the time divides, in milliseconds per emitted token.
    pub time: TimeSplit,
    /// Energy per emitted token, prefill included; absent if the machine cannot measure it.
    pub joules_per_token: Option<f64>,
    /// Number of failed answers and generations, by name of the failure.
    pub failures: BTreeMap<String, usize>,
    /// Comparison with autoregressive decoding under the same sampling parameters.
    pub vs_autoregressive: Option<Relative>,
    /// Comparison with speculative decoding under the same sampling parameters.
    pub vs_speculative: Option<Relative>,
}

/// How the time divides, in milliseconds per emitted token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TimeSplit {
    /// Time to open the sessions, prompt included.
    pub prefill: f64,
    /// Time spent waiting for the draft.
    pub draft: f64,
    /// Time spent waiting for the target.
    pub target: f64,
    /// The remaining time.
    pub orchestration: f64,
}

/// A cell compared with another one. Both use the same resamples, so the comparison is paired.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Relative {
    /// Label of the other cell.
    pub to: String,
    /// Time per token of the other cell divided by that of this cell: above 1 is faster.
    pub speedup: Estimate,
    /// Score of this cell minus that of the other.
    pub score_difference: Option<Estimate>,
    /// Perplexity of this cell divided by that of the other: below 1 is better.
    pub perplexity_ratio: Option<Estimate>,
    /// Energy per token of this cell divided by that of the other.
    pub energy_ratio: Option<f64>,
}

/// One generation, iteration by iteration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Replay {
    /// [`crate::Item::id`].
    pub item: String,
    /// [`Cell::id`].
    pub cell: String,
    /// [`Cell::label`].
    pub label: String,
    /// Seed of the random draws.
    pub seed: u64,
    /// The prompt.
    pub prompt: String,
    /// The answer.
    pub text: String,
    /// Whether the answer was right.
    pub verdict: Verdict,
    /// All iterations, in order.
    pub iterations: Vec<Iteration>,
}

/// One iteration of propose, score, accept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Iteration {
    /// The proposed token tree, parents before their children.
    pub nodes: Vec<Node>,
    /// Accepted nodes, from the child of the root downwards.
    pub accepted: Vec<usize>,
    /// Text of the bonus token, which is drawn from the target after them; absent for MTJD, which commits whole beams.
    pub bonus: Option<String>,
}

/// A proposed token, a node of the token tree.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// Text of the token.
    pub text: String,
    /// Index of the parent; absent if the parent is the root.
    pub parent: Option<usize>,
    /// `Q`: joint log-probability of the path to this node under the draft.
    pub draft: Option<f64>,
    /// `P`: the same under the target; absent if it is −∞ (warped out), and for MTJD, whose beams come from the target.
    pub target: Option<f64>,
}
