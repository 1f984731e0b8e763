//! What a client learns of a sequence, in order: its start, its chunks, its finish.

use tandem_decoding::{JointLogProbs, Method, TokenId, TokenTree};

use crate::Finish;

/// An event of one sequence.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The request was admitted and the sequence begins.
    Started(SequenceStart),
    /// An iteration added text.
    Chunk(Chunk),
    /// The sequence is complete. It is the last event.
    Finished(Box<Finish>),
}

/// How a sequence begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SequenceStart {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// The seed, drawn if the request had none.
    pub seed: u64,
    /// How it is decoded.
    pub method: Method,
    /// The target's model.
    pub target_model: String,
    /// The draft's model; empty while no draft has answered.
    pub draft_model: String,
}

/// What an iteration adds to a sequence.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chunk {
    /// Text that is safe to show: no character is cut, and it holds no beginning of a stop string. May be empty.
    pub text: String,
    /// Every token that the text so far wholly contains, reported once.
    pub tokens: Vec<Token>,
    /// The iteration, if requested; absent in the chunk that ends a sequence whose text was held back.
    pub iteration: Option<Box<Iteration>>,
}

/// A committed token.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// Its id.
    pub id: TokenId,
    /// What it adds to the text; of the tokens that make up one character, the first has it.
    pub text: String,
    /// Whether it was accepted from a draft; otherwise it was drawn from the target.
    pub drafted: bool,
    /// Its log-probability under the target's unwarped softmax, natural log, if requested.
    pub log_prob: Option<f64>,
    /// The likeliest tokens at its position under the same softmax, best first, if requested.
    pub top: Vec<TopToken>,
}

/// An alternative to a committed token.
#[derive(Clone, Debug, PartialEq)]
pub struct TopToken {
    /// Its id.
    pub id: TokenId,
    /// What it would have added to the text.
    pub text: String,
    /// Natural log.
    pub log_prob: f64,
}

/// One round of propose, score, accept.
#[derive(Clone, Debug, PartialEq)]
pub struct Iteration {
    /// The tree that was proposed.
    pub tree: TokenTree,
    /// `[nodes]`: the text of each node's token by itself.
    pub texts: Vec<String>,
    /// `Q` of every node.
    pub draft: JointLogProbs,
    /// `P` of every node; `None` for MTJD, whose proposals are not scored.
    pub target: Option<JointLogProbs>,
    /// The accepted nodes, from the root's child downwards.
    pub accepted: Vec<usize>,
    /// The token committed after them, with its text; `None` for MTJD, which commits the beam whole.
    pub bonus: Option<(TokenId, String)>,
}
