//! What the loop is given: the sequence to generate, and where its chunks go.

use tandem_decoding::{Decoding, TokenId};
use tokenizers::Tokenizer;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::{Chunk, Observer, OpenSession};

/// A sequence to generate.
pub struct Generation<'a> {
    /// The prompt, the sampling, the seed; `max_new_tokens` already fits the context of both models.
    pub open: OpenSession,
    /// How candidates are proposed and accepted.
    pub decoding: Decoding,
    /// Whether every token comes with its log-probability.
    pub log_probs: bool,
    /// How many of the likeliest tokens come with every token.
    pub top_log_probs: usize,
    /// Whether every iteration is reported with the text it led to.
    pub trace: bool,
    /// Tokens that end the sequence; empty to continue after them.
    pub eos: &'a [TokenId],
    /// Strings that end the sequence.
    pub stop: &'a [String],
    /// The tokenizer of both models.
    pub tokenizer: &'a Tokenizer,
    /// When the request arrived.
    pub arrived: Instant,
    /// When it was admitted.
    pub admitted: Instant,
    /// When it ends, finished or not.
    pub deadline: Instant,
    /// Follows its progress.
    pub observer: &'a dyn Observer,
}

/// Where the chunks go, one per iteration that has something to report. A closed channel cancels the generation.
pub type ChunkSender = mpsc::Sender<Chunk>;
