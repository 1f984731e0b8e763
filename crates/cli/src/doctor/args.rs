//! Flags of `tandem doctor`.

use crate::pair::PairArgs;

/// A root alone; with a chain of 1 and 4 nodes; with trees of 4 × 2, 4 × 4 and 8 × 4 nodes.
const ROWS: [u16; 6] = [1, 2, 5, 9, 17, 33];

/// Flags of `tandem doctor`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub(super) pair: PairArgs,

    /// Tokens in the KV cache while passes are timed
    #[arg(long, default_value_t = 200, value_name = "TOKENS")]
    pub(super) prefix: usize,

    /// Rows of the timed passes: a root and the nodes of its tree
    #[arg(long, default_values_t = ROWS, value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=512), value_name = "N,N..")]
    pub(super) rows: Vec<u16>,

    /// Tokens of the timed prompt; 0: none is timed
    #[arg(long, default_value_t = 512, value_name = "TOKENS")]
    pub(super) prefill: usize,

    /// Number of timed passes of each size, of which the median is shown
    #[arg(long, default_value_t = 30, value_name = "N")]
    pub(super) repeats: usize,

    /// CPU threads that a pass may use [default: one per available CPU]
    #[arg(long, env = "TANDEM_MODEL_THREADS", value_name = "N")]
    pub(super) threads: Option<usize>,

    /// Also time candle's own CPU kernels, with quantised weights widened to f32
    #[arg(long)]
    pub(super) stock: bool,

    /// Print one JSON object instead of tables
    #[arg(long)]
    pub(super) json: bool,
}
