//! The pools as the loop sees them: a drafter and a scorer.

use std::time::Duration;

use tandem_decoding::{Accepted, TokenTree};
use tandem_proto::{OpenSession, Propose, Scores, Wanted};
use tokio::time::Instant;

use super::Pool;
use super::role::{Judges, Proposes, ScoreAsk};
use super::session::{Absence, Session};
use crate::{DraftSession, Drafter, GenerateError, Proposal, Scorer, TargetSession};

/// Draft workers, or target workers by their draft face.
#[derive(Clone)]
pub struct DraftPool {
    pub(super) pool: Pool,
    absence: Absence,
}

/// Target workers.
#[derive(Clone)]
pub struct TargetPool {
    pool: Pool,
    own: DraftPool,
}

impl DraftPool {
    /// Drafts, without which a text goes on.
    pub(crate) fn optional(pool: Pool) -> Self {
        Self { pool, absence: Absence::Tolerate }
    }
}

impl TargetPool {
    pub(crate) fn new(pool: Pool) -> Self {
        Self { own: DraftPool { pool: pool.clone(), absence: Absence::Wait }, pool }
    }
}

/// A text on a draft.
pub struct PooledDraft(Session<Proposes>);

impl Drafter for DraftPool {
    type Session = PooledDraft;

    async fn open(&self, open: &OpenSession, by: Instant) -> Result<PooledDraft, GenerateError> {
        Ok(PooledDraft(Session::open(&self.pool, open, by, self.absence).await?))
    }
}

impl DraftSession for PooledDraft {
    async fn propose(
        &mut self,
        commit: Option<&Accepted>,
        propose: &Propose,
    ) -> Result<Option<Proposal>, GenerateError> {
        self.0.step(commit, propose).await
    }

    fn reopened(&self) -> usize {
        self.0.reopened()
    }

    fn network(&self) -> Duration {
        self.0.network()
    }
}

/// A text on a target.
pub struct PooledTarget(Session<Judges>);

impl Scorer for TargetPool {
    type Session = PooledTarget;
    type Own = DraftPool;

    fn own(&self) -> &DraftPool {
        &self.own
    }

    async fn open(&self, open: &OpenSession, by: Instant) -> Result<PooledTarget, GenerateError> {
        Ok(PooledTarget(Session::open(&self.pool, open, by, Absence::Wait).await?))
    }
}

impl TargetSession for PooledTarget {
    async fn score(
        &mut self,
        commit: Option<&Accepted>,
        tree: &TokenTree,
        wanted: Wanted,
    ) -> Result<Scores, GenerateError> {
        let ask = ScoreAsk { tree: tree.clone(), wanted };
        let scores = self.0.step(commit, &ask).await?;
        scores.ok_or_else(|| tandem_proto::Fault::Bug("a text went on without its target".into()).into())
    }

    fn reopened(&self) -> usize {
        self.0.reopened()
    }

    fn network(&self) -> Duration {
        self.0.network()
    }
}
