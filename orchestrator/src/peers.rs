//! What the loop asks of its two workers.

use std::future::Future;
use std::time::Duration;

use tandem_decoding::{Accepted, DraftTree, TokenTree};
use tandem_proto::{OpenSession, Propose, Scores, Wanted};
use tokio::time::Instant;

use crate::GenerateError;

/// A proposed tree.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Proposal {
    /// The tree and what belongs to it.
    pub draft: DraftTree,
    /// If asked for: each node's log-probability under the proposer's unwarped softmax.
    pub log_probs: Vec<f64>,
}

/// Something that proposes token trees.
pub trait Drafter: Send + Sync {
    /// KV-cache state for one text.
    type Session: DraftSession;
    /// Prefills a prompt. Nothing is worth doing after `by`.
    fn open(
        &self,
        open: &OpenSession,
        by: Instant,
    ) -> impl Future<Output = Result<Self::Session, GenerateError>> + Send;
}

/// A text on a drafter. Dropping it frees what the drafter holds for it.
pub trait DraftSession: Send {
    /// Commits what the last iteration accepted (`None` in the first) and proposes a tree under the new root; `None` if no drafter
    /// is there at the moment.
    fn propose(
        &mut self,
        commit: Option<&Accepted>,
        propose: &Propose,
    ) -> impl Future<Output = Result<Option<Proposal>, GenerateError>> + Send;

    /// How often it was moved to another worker, or opened again on a restarted one.
    fn reopened(&self) -> usize {
        0
    }

    /// How much of the time that its steps took so far they were on the way there and back.
    fn network(&self) -> Duration {
        Duration::ZERO
    }
}

/// Something that scores token trees.
pub trait Scorer: Send + Sync {
    /// KV-cache state for one text.
    type Session: TargetSession;
    /// The target as its own draft, for MTJD.
    type Own: Drafter;
    /// Prefills a prompt. Nothing is worth doing after `by`.
    fn open(
        &self,
        open: &OpenSession,
        by: Instant,
    ) -> impl Future<Output = Result<Self::Session, GenerateError>> + Send;
    /// Proposes beams of the target's own.
    fn own(&self) -> &Self::Own;
}

/// A text on a scorer. Dropping it frees what the scorer holds for it.
pub trait TargetSession: Send {
    /// Commits what the last iteration accepted (`None` in the first) and scores `tree` under the new root.
    fn score(
        &mut self,
        commit: Option<&Accepted>,
        tree: &TokenTree,
        wanted: Wanted,
    ) -> impl Future<Output = Result<Scores, GenerateError>> + Send;

    /// As [`DraftSession::reopened`].
    fn reopened(&self) -> usize {
        0
    }

    /// As [`DraftSession::network`].
    fn network(&self) -> Duration {
        Duration::ZERO
    }
}
