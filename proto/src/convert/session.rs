//! Sessions, and what a step commits.

use tandem_decoding::{Accepted, Sampling, TokenId, TreeLimits};

use super::{ids, to_u32, tokens};
use crate::{Fault, v1};

/// A request to open a session, checked but for what depends on the model.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenSession {
    /// At least one token.
    pub prompt: Vec<TokenId>,
    /// Tokens that may be committed beyond it.
    pub max_new_tokens: usize,
    /// Nodes that one step's tree may have.
    pub max_tree_nodes: usize,
    /// Of all steps.
    pub sampling: Sampling,
    /// Of all draws.
    pub seed: u64,
    /// Tokens from here on are never proposed nor drawn; `None`: all are.
    pub vocab_limit: Option<usize>,
}

/// The session that a request names, and how far its client thinks it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionRef {
    /// The worker's life.
    pub incarnation: u64,
    /// The session on it.
    pub id: u64,
    /// Tokens committed once the request's commit is applied.
    pub committed: usize,
}

impl TryFrom<v1::OpenSessionRequest> for OpenSession {
    type Error = Fault;

    fn try_from(r: v1::OpenSessionRequest) -> Result<Self, Fault> {
        if r.prompt_tokens.is_empty() {
            return Err(Fault::invalid("prompt_tokens", "the prompt is empty: give at least one token"));
        }
        let limit = TreeLimits::default().max_nodes;
        if r.max_tree_nodes as usize > limit {
            let message = format!("{} nodes per tree, the limit is {limit}", r.max_tree_nodes);
            return Err(Fault::invalid("max_tree_nodes", message));
        }
        let sampling = r.sampling.ok_or_else(|| Fault::invalid("sampling", "is missing"))?;
        Ok(Self {
            prompt: tokens(r.prompt_tokens),
            max_new_tokens: r.max_new_tokens as usize,
            max_tree_nodes: r.max_tree_nodes as usize,
            sampling: sampling.try_into()?,
            seed: r.seed,
            vocab_limit: Some(r.vocab_limit as usize).filter(|&limit| limit > 0),
        })
    }
}

impl From<&OpenSession> for v1::OpenSessionRequest {
    fn from(o: &OpenSession) -> Self {
        Self {
            prompt_tokens: ids(&o.prompt),
            max_new_tokens: to_u32(o.max_new_tokens),
            max_tree_nodes: to_u32(o.max_tree_nodes),
            sampling: Some(o.sampling.into()),
            seed: o.seed,
            vocab_limit: to_u32(o.vocab_limit.unwrap_or(0)),
            session_id: 0,
        }
    }
}

impl TryFrom<Option<v1::SessionHandle>> for SessionRef {
    type Error = Fault;

    fn try_from(handle: Option<v1::SessionHandle>) -> Result<Self, Fault> {
        let h = handle.ok_or_else(|| Fault::invalid("handle", "is missing: open a session first"))?;
        Ok(Self { incarnation: h.incarnation, id: h.session_id, committed: h.committed_tokens as usize })
    }
}

impl From<SessionRef> for v1::SessionHandle {
    fn from(s: SessionRef) -> Self {
        Self { incarnation: s.incarnation, session_id: s.id, committed_tokens: to_u32(s.committed) }
    }
}

impl v1::Commit {
    /// The path and the bonus token. Whether the nodes are a path is for the session to say, which has the tree.
    pub fn into_accepted(self) -> Result<Accepted, Fault> {
        let limit = TreeLimits::default().max_depth;
        if self.accepted_nodes.len() > limit {
            let message = format!("{} accepted nodes, a path has at most {limit}", self.accepted_nodes.len());
            return Err(Fault::invalid("commit.accepted_nodes", message));
        }
        Ok(Accepted {
            path: self.accepted_nodes.into_iter().map(|n| n as usize).collect(),
            bonus: TokenId(self.bonus_token),
        })
    }
}

impl From<&Accepted> for v1::Commit {
    fn from(a: &Accepted) -> Self {
        Self { accepted_nodes: a.path.iter().map(|&n| to_u32(n)).collect(), bonus_token: a.bonus.0 }
    }
}
