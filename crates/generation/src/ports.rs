//! The ports of the loop: what it requires of a draft, of a target, and of an observer.

use std::future::Future;
use std::time::Duration;

use tandem_decoding::{Accepted, TokenTree};
use tokio::time::Instant;

use crate::{DraftRequest, Finish, GenerateError, OpenSession, Proposal, ScoreRequest, Scores, Statistics};

/// Proposes token trees.
pub trait Drafter: Send + Sync {
    /// The KV-cache state of one sequence.
    type Session: DraftSession;

    /// Prefills a prompt. The work is worthless after `deadline`.
    fn open(
        &self,
        open: &OpenSession,
        deadline: Instant,
    ) -> impl Future<Output = Result<Self::Session, GenerateError>> + Send;
}

/// A sequence on a drafter. Dropping it frees what the drafter holds for it.
pub trait DraftSession: Send {
    /// Commits what the last iteration accepted (`None` in the first) and proposes a tree under the new root; `None` if no draft is
    /// available at the moment.
    fn propose(
        &mut self,
        commit: Option<&Accepted>,
        request: &DraftRequest,
    ) -> impl Future<Output = Result<Option<Proposal>, GenerateError>> + Send;

    /// How often it was moved to another worker, or opened again on a restarted one.
    fn failovers(&self) -> usize {
        0
    }

    /// Time that its steps have spent on the network so far, of the time that the caller waited for them.
    fn network_time(&self) -> Duration {
        Duration::ZERO
    }
}

/// Scores token trees.
pub trait Scorer: Send + Sync {
    /// The KV-cache state of one sequence.
    type Session: TargetSession;
    /// The target as its own drafter, for MTJD.
    type OwnDrafter: Drafter;

    /// Prefills a prompt. The work is worthless after `deadline`.
    fn open(
        &self,
        open: &OpenSession,
        deadline: Instant,
    ) -> impl Future<Output = Result<Self::Session, GenerateError>> + Send;

    /// Proposes beams from the target's own distribution.
    fn own_drafter(&self) -> &Self::OwnDrafter;
}

/// A sequence on a scorer. Dropping it frees what the scorer holds for it.
pub trait TargetSession: Send {
    /// Commits what the last iteration accepted (`None` in the first) and scores `tree` under the new root.
    fn score(
        &mut self,
        commit: Option<&Accepted>,
        tree: &TokenTree,
        request: ScoreRequest,
    ) -> impl Future<Output = Result<Scores, GenerateError>> + Send;

    /// As [`DraftSession::failovers`].
    fn failovers(&self) -> usize {
        0
    }

    /// As [`DraftSession::network_time`].
    fn network_time(&self) -> Duration {
        Duration::ZERO
    }
}

/// Follows a generation, for metrics and traces.
pub trait Observer: Send + Sync {
    /// An iteration took the statistics from `before` to `after`.
    fn progress(&self, before: &Statistics, after: &Statistics);

    /// The sequence is complete.
    fn finished(&self, finish: &Finish);
}

/// Observes nothing.
impl Observer for () {
    fn progress(&self, _: &Statistics, _: &Statistics) {}

    fn finished(&self, _: &Finish) {}
}
