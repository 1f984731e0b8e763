//! Sessions: KV-cache state that a worker holds for one sequence.

use tandem_decoding::{Sampling, TokenId};

/// What a session is opened with.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenSession {
    /// The tokens to prefill, at least one.
    pub prompt: Vec<TokenId>,
    /// Tokens that may be committed after the prompt.
    pub max_new_tokens: usize,
    /// Nodes that the tree of one step may have.
    pub max_tree_nodes: usize,
    /// How the logits of all steps are warped.
    pub sampling: Sampling,
    /// The seed of all draws.
    pub seed: u64,
    /// Token ids from this one on are never proposed or drawn; `None` allows the whole vocabulary.
    pub vocab_limit: Option<usize>,
}

/// Names a session on a worker, and how far its client has got with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionHandle {
    /// The incarnation of the worker process.
    pub incarnation: u64,
    /// The session on it.
    pub id: u64,
    /// Tokens committed once the request's commit is applied.
    pub committed: usize,
}
