//! What an evaluation found: the machine-readable report and its schema.

mod chart;
mod format;
mod html;
mod labels;
mod markdown;
mod plots;
mod tables;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use html::{HtmlError, html};
pub use markdown::markdown;
pub use plots::{PlotError, plots};

use crate::BadItem;

/// Of [`Report`]; a reader refuses another one. Raised when a field changes its meaning or goes away.
pub const SCHEMA_VERSION: u32 = 1;

/// All of an evaluation. Times are wall-clock milliseconds, log-probabilities natural.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Of the program.
    pub tandem_version: String,
    /// When this report was written, RFC 3339, UTC.
    pub created: String,
    /// The command line.
    pub command: String,
    /// Where the client ran (and, without an endpoint, the models).
    pub machine: Machine,
    /// Target model.
    pub target_model: String,
    /// Draft model.
    pub draft_model: String,
    /// What was asked.
    pub dataset: DatasetReport,
    /// Of every cell.
    pub seeds: Vec<u64>,
    /// Samples planned: items × cells × seeds.
    pub samples_planned: usize,
    /// Samples made; fewer than planned after an interruption.
    pub samples_done: usize,
    /// One per method and setting.
    pub cells: Vec<Cell>,
    /// A few generations, step by step.
    pub replays: Vec<Replay>,
}

/// A machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's name.
    pub cpu: String,
    /// Logical cores that this process may use.
    pub cores: usize,
    /// "linux", ...
    pub os: String,
    /// Device of the models, "cpu" or "cuda:N"; "remote" behind an endpoint.
    pub device: String,
    /// Where energy was read from: "nvml", "rapl", or "not available".
    pub energy: String,
}

/// What was asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DatasetReport {
    /// As in [`crate::Dataset::name`].
    pub name: String,
    /// Items asked.
    pub items: usize,
    /// What the share of right answers is called; absent if answers are not judged.
    pub metric: Option<String>,
    /// Limit of each answer.
    pub max_new_tokens: u32,
    /// Strings that ended an answer.
    pub stop: Vec<String>,
    /// Whether answers ran on to their limit.
    pub run_on: bool,
    /// Parts of the file that could not be used.
    pub bad: Vec<BadItem>,
}

/// A method and its setting.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Setting {
    /// "autoregressive", "speculative", "specinfer", "mtad", "mmtad", "exact-match", "mtjd".
    pub method: String,
    /// Whether the output is distributed as plain sampling from the target.
    pub lossless: bool,
    /// `B`; absent for a method without beams.
    pub beam_width: Option<usize>,
    /// `γ`; absent for a method that drafts nothing.
    pub draft_tokens: Option<usize>,
    /// `τ`; absent for a method without one.
    pub threshold: Option<f64>,
    /// "sampled", "sampled-with-replacement" or "top".
    pub beams: Option<String>,
    /// "best-beam" or "max": which reference MMTAD accepts by.
    pub reference: Option<String>,
    /// Children per node by depth, of SpecInfer.
    pub branching: Option<Vec<usize>>,
    /// 0 is greedy.
    pub temperature: f64,
    /// 0 is off.
    pub top_k: usize,
    /// 0 and 1 are off.
    pub top_p: f64,
}

/// A value with its 95 % confidence interval (bootstrap over items).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// On all samples.
    pub value: f64,
    /// 2.5 % quantile.
    pub low: f64,
    /// 97.5 % quantile.
    pub high: f64,
}

/// What one method and setting achieved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// Unique: the method and all that is set, e.g. "mmtad B=4 γ=4 τ=0.5 sampled reference=best-beam T=1 top-k=10 top-p=0.9".
    pub id: String,
    /// Short and unique in this report: names only what differs between its cells, e.g. "mmtad τ=0.5".
    pub label: String,
    /// What was set.
    pub setting: Setting,
    /// Samples made (items × seeds).
    pub samples: usize,
    /// Tokens emitted.
    pub tokens: u64,
    /// Share of right answers, 0 to 1.
    pub score: Option<Estimate>,
    /// Under the unwarped target, over the tokens that both models have.
    pub perplexity: Option<Estimate>,
    /// Decode time (prefill not included) per emitted token, median over the samples.
    pub ms_per_token: f64,
    /// 90 % quantile of the same.
    pub ms_per_token_p90: f64,
    /// Emitted tokens per second of decode time.
    pub tokens_per_second: f64,
    /// 1 + accepted / iterations.
    pub block_efficiency: Estimate,
    /// Accepted per draft token of depth asked for.
    pub acceptance_rate: Option<Estimate>,
    /// `[γ]`: share of iterations that accepted at least this many tokens, from depth 1.
    pub acceptance_by_depth: Vec<f64>,
    /// Where the time went, milliseconds per emitted token.
    pub time: TimeSplit,
    /// Energy per emitted token, prefill included; absent where the machine cannot measure it.
    pub joules_per_token: Option<f64>,
    /// Answers and generations that failed, by name.
    pub failures: BTreeMap<String, usize>,
    /// Against autoregressive decoding under the same sampling.
    pub vs_autoregressive: Option<Relative>,
    /// Against speculative decoding under the same sampling.
    pub vs_speculative: Option<Relative>,
}

/// Milliseconds per emitted token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TimeSplit {
    /// Opening the sessions, prompt included.
    pub prefill: f64,
    /// Waiting for the draft.
    pub draft: f64,
    /// Waiting for the target.
    pub target: f64,
    /// All else.
    pub orchestration: f64,
}

/// A cell beside another one. Both are resampled alike, so that the intervals are those of pairs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Relative {
    /// The other's label.
    pub to: String,
    /// The other's time per token divided by this one's: above 1 is faster.
    pub speedup: Estimate,
    /// This score minus the other's.
    pub score_difference: Option<Estimate>,
    /// This perplexity divided by the other's: below 1 is better.
    pub perplexity_ratio: Option<Estimate>,
    /// This energy per token divided by the other's.
    pub energy_ratio: Option<f64>,
}

/// One generation, iteration by iteration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Replay {
    /// The item's id.
    pub item: String,
    /// [`Cell::id`].
    pub cell: String,
    /// [`Cell::label`].
    pub label: String,
    /// Of the draws.
    pub seed: u64,
    /// What was asked.
    pub prompt: String,
    /// The answer.
    pub text: String,
    /// Whether it was right, if that was asked.
    pub verdict: crate::Verdict,
    /// In order.
    pub iterations: Vec<Iteration>,
}

/// One round of propose, score, accept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Iteration {
    /// The proposed tree, a parent before its children.
    pub nodes: Vec<Node>,
    /// Accepted nodes, from the root's child downwards.
    pub accepted: Vec<usize>,
    /// Text of the token drawn from the target behind them; absent for MTJD, which commits whole beams.
    pub bonus: Option<String>,
}

/// A proposed token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// Its text.
    pub text: String,
    /// Index of the parent; absent: the root.
    pub parent: Option<usize>,
    /// `Q`: the draft's joint log-probability of the path to this node.
    pub draft: Option<f64>,
    /// `P`: the target's; absent where it is −∞ (warped out), and for MTJD, whose beams are the target's own.
    pub target: Option<f64>,
}
