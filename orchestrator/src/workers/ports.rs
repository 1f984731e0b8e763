//! The pools as the ports of the loop: a drafter and a scorer.

use std::time::Duration;

use tandem_decoding::{Accepted, TokenTree};
use tandem_generation::{
    DraftRequest, DraftSession, Drafter, GenerateError, OpenSession, Proposal, ScoreRequest, Scorer, Scores,
    TargetSession,
};
use tokio::time::Instant;

use super::failover::FailoverSession;
use super::pool::Pool;
use super::protocol::{DraftProtocol, TargetProtocol, TreeToScore};
use super::unavailable::WhenUnavailable;

/// Draft workers, or target workers that draft for themselves.
#[derive(Clone)]
pub struct DraftPool {
    pool: Pool,
    when_unavailable: WhenUnavailable,
}

/// Target workers.
#[derive(Clone)]
pub struct TargetPool {
    pool: Pool,
    own_drafter: DraftPool,
}

impl DraftPool {
    /// Drafts, without which a sequence goes on.
    pub(crate) fn new(pool: Pool) -> Self {
        Self { pool, when_unavailable: WhenUnavailable::GoOnWithout }
    }
}

impl TargetPool {
    pub(crate) fn new(pool: Pool) -> Self {
        let own_drafter = DraftPool { pool: pool.clone(), when_unavailable: WhenUnavailable::Wait };
        Self { own_drafter, pool }
    }
}

/// A sequence on a draft.
pub struct PooledDraft(FailoverSession<DraftProtocol>);

impl Drafter for DraftPool {
    type Session = PooledDraft;

    async fn open(&self, open: &OpenSession, deadline: Instant) -> Result<PooledDraft, GenerateError> {
        let session = FailoverSession::open(&self.pool, open, deadline, self.when_unavailable).await?;
        Ok(PooledDraft(session))
    }
}

impl DraftSession for PooledDraft {
    async fn propose(
        &mut self,
        commit: Option<&Accepted>,
        request: &DraftRequest,
    ) -> Result<Option<Proposal>, GenerateError> {
        self.0.step(commit, request).await
    }

    fn failovers(&self) -> usize {
        self.0.failovers()
    }

    fn network_time(&self) -> Duration {
        self.0.network_time()
    }
}

/// A sequence on a target.
pub struct PooledTarget(FailoverSession<TargetProtocol>);

impl Scorer for TargetPool {
    type Session = PooledTarget;
    type OwnDrafter = DraftPool;

    fn own_drafter(&self) -> &DraftPool {
        &self.own_drafter
    }

    async fn open(&self, open: &OpenSession, deadline: Instant) -> Result<PooledTarget, GenerateError> {
        let session = FailoverSession::open(&self.pool, open, deadline, WhenUnavailable::Wait).await?;
        Ok(PooledTarget(session))
    }
}

impl TargetSession for PooledTarget {
    async fn score(
        &mut self,
        commit: Option<&Accepted>,
        tree: &TokenTree,
        request: ScoreRequest,
    ) -> Result<Scores, GenerateError> {
        let to_score = TreeToScore { tree: tree.clone(), request };
        let scores = self.0.step(commit, &to_score).await?;
        scores.ok_or_else(|| GenerateError::Internal("a sequence went on without its target".into()))
    }

    fn failovers(&self) -> usize {
        self.0.failovers()
    }

    fn network_time(&self) -> Duration {
        self.0.network_time()
    }
}
