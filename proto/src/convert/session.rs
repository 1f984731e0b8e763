//! Sessions, and what a step commits.

use tandem_decoding::{Accepted, TokenId, TreeLimits};
use tandem_generation::{OpenSession, SessionHandle};

use super::{InvalidMessage, ids, sampling, to_u32, tokens};
use crate::v1;

impl TryFrom<v1::OpenSessionRequest> for OpenSession {
    type Error = InvalidMessage;

    fn try_from(r: v1::OpenSessionRequest) -> Result<Self, InvalidMessage> {
        if r.prompt_tokens.is_empty() {
            return Err(InvalidMessage::new("prompt_tokens", "is empty: give at least one token"));
        }
        let limit = TreeLimits::default().max_nodes;
        if r.max_tree_nodes as usize > limit {
            let message = format!("is {}: the limit is {limit}", r.max_tree_nodes);
            return Err(InvalidMessage::new("max_tree_nodes", message));
        }
        let wire = r.sampling.ok_or_else(|| InvalidMessage::new("sampling", "is missing"))?;
        Ok(Self {
            prompt: tokens(r.prompt_tokens),
            max_new_tokens: r.max_new_tokens as usize,
            max_tree_nodes: r.max_tree_nodes as usize,
            sampling: sampling(wire)?,
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

impl v1::SessionHandle {
    /// The handle of a message, which must have one.
    pub fn read(handle: Option<Self>) -> Result<SessionHandle, InvalidMessage> {
        let h = handle.ok_or_else(|| InvalidMessage::new("handle", "is missing: open a session first"))?;
        let committed = h.committed_tokens as usize;
        Ok(SessionHandle { incarnation: h.incarnation, id: h.session_id, committed })
    }
}

impl From<SessionHandle> for v1::SessionHandle {
    fn from(s: SessionHandle) -> Self {
        Self { incarnation: s.incarnation, session_id: s.id, committed_tokens: to_u32(s.committed) }
    }
}

impl v1::Commit {
    /// The path and the bonus token. The session, which has the tree, checks whether the nodes are a path.
    pub fn into_accepted(self) -> Result<Accepted, InvalidMessage> {
        let limit = TreeLimits::default().max_depth;
        if self.accepted_nodes.len() > limit {
            let message = format!("has {} nodes: a path has at most {limit}", self.accepted_nodes.len());
            return Err(InvalidMessage::new("commit.accepted_nodes", message));
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
