//! What the loop asks of its two workers.

use std::future::Future;

use tandem_decoding::{Accepted, DraftTree, JointLogProbs, TokenId, TokenTree};
use tandem_proto::{OpenSession, ProposeShape};

use crate::GenerateError;

/// Something that proposes token trees.
pub trait Drafter: Send + Sync {
    /// KV-cache state for one text.
    type Session: DraftSession;
    /// Prefills a prompt.
    fn open(&self, open: &OpenSession) -> impl Future<Output = Result<Self::Session, GenerateError>> + Send;
}

/// A text on a drafter. Dropping it frees what the drafter holds for it.
pub trait DraftSession: Send {
    /// Commits what the last iteration accepted (`None` in the first) and proposes a tree under the new root.
    fn propose(
        &mut self,
        commit: Option<&Accepted>,
        shape: ProposeShape,
    ) -> impl Future<Output = Result<DraftTree, GenerateError>> + Send;
}

/// Something that scores token trees.
pub trait Scorer: Send + Sync {
    /// KV-cache state for one text.
    type Session: TargetSession;
    /// Prefills a prompt.
    fn open(&self, open: &OpenSession) -> impl Future<Output = Result<Self::Session, GenerateError>> + Send;
}

/// A text on a scorer. Dropping it frees what the scorer holds for it.
pub trait TargetSession: Send {
    /// Commits what the last iteration accepted (`None` in the first) and scores `tree` under the new root.
    fn score(
        &mut self,
        commit: Option<&Accepted>,
        tree: &TokenTree,
    ) -> impl Future<Output = Result<Scored, GenerateError>> + Send;
}

/// The target's view of a tree.
#[derive(Clone, Debug, PartialEq)]
pub struct Scored {
    /// `P` of every node.
    pub joint: JointLogProbs,
    /// A token drawn from the target at the root, then at each node.
    pub drawn: Vec<TokenId>,
}
