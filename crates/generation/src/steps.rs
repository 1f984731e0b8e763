//! The two sessions of a sequence, with their times and spans around them, so that the loop only names its steps.

use std::future::Future;
use std::time::Duration;

use tandem_decoding::{Accepted, Method, TokenTree};
use tokio::time::Instant;
use tracing::{Instrument, Span, trace_span};

use crate::{
    DraftRequest, DraftSession, Drafter, GenerateError, Generation, OpenSession, Proposal, Role,
    ScoreRequest, Scorer, Scores, Statistics, TargetSession,
};

/// A session whose steps are timed and traced.
pub(crate) struct Timed<S> {
    session: S,
    /// Whose time it is: MTJD's proposer is the target.
    role: Role,
    elapsed: Duration,
}

impl<S> Timed<S> {
    fn new(session: S, role: Role) -> Self {
        Self { session, role, elapsed: Duration::ZERO }
    }

    fn span(&self) -> Span {
        match self.role {
            Role::Draft => trace_span!("draft", otel.kind = "client"),
            Role::Target => trace_span!("score", otel.kind = "client"),
        }
    }
}

impl<S: DraftSession> DraftSession for Timed<S> {
    async fn propose(
        &mut self,
        commit: Option<&Accepted>,
        request: &DraftRequest,
    ) -> Result<Option<Proposal>, GenerateError> {
        let begun = Instant::now();
        let span = self.span();
        let proposal = self.session.propose(commit, request).instrument(span).await;
        self.elapsed += begun.elapsed();
        proposal
    }

    fn failovers(&self) -> usize {
        self.session.failovers()
    }

    fn network_time(&self) -> Duration {
        self.session.network_time()
    }
}

impl<S: TargetSession> TargetSession for Timed<S> {
    async fn score(
        &mut self,
        commit: Option<&Accepted>,
        tree: &TokenTree,
        request: ScoreRequest,
    ) -> Result<Scores, GenerateError> {
        let begun = Instant::now();
        let span = self.span();
        let scores = self.session.score(commit, tree, request).instrument(span).await;
        self.elapsed += begun.elapsed();
        scores
    }

    fn failovers(&self) -> usize {
        self.session.failovers()
    }

    fn network_time(&self) -> Duration {
        self.session.network_time()
    }
}

/// The proposer and the scorer of a sequence; which of them exist depends on the method.
pub(crate) struct Steps<D, T> {
    /// Absent for autoregressive decoding.
    proposer: Option<Timed<D>>,
    /// Absent for MTJD, where the target is the proposer.
    scorer: Option<Timed<T>>,
    /// Time to open the sessions.
    prefill: Duration,
    /// Iterations in which no draft was available.
    undrafted: usize,
}

/// Opens the sessions of a sequence side by side. A method that drafts nothing requires no draft session.
pub(crate) async fn open<D: Drafter, S: Scorer>(
    drafter: &D,
    scorer: &S,
    generation: &Generation<'_>,
) -> Result<Steps<D::Session, S::Session>, GenerateError> {
    let Generation { open, deadline, .. } = generation;
    let draft = async {
        match generation.decoding.draft_tokens() {
            0 => Ok(None),
            _ => drafter.open(open, *deadline).await.map(Some),
        }
    };
    let (sessions, prefill) =
        prefill(async { tokio::try_join!(draft, scorer.open(open, *deadline)) }).await?;
    let (draft, target) = sessions;
    let proposer = draft.map(|session| Timed::new(session, Role::Draft));
    let scorer = Some(Timed::new(target, Role::Target));
    Ok(Steps { proposer, scorer, prefill, undrafted: 0 })
}

/// Opens a session on the target's own drafter: multi-token joint decoding, where nothing is scored.
pub(crate) async fn open_joint<D: Drafter, T>(
    own_drafter: &D,
    open: &OpenSession,
    deadline: Instant,
) -> Result<Steps<D::Session, T>, GenerateError> {
    let (session, prefill) = prefill(own_drafter.open(open, deadline)).await?;
    let proposer = Some(Timed::new(session, Role::Target));
    Ok(Steps { proposer, scorer: None, prefill, undrafted: 0 })
}

/// Opens sessions in a span of its own, and measures how long that takes.
async fn prefill<T>(
    opening: impl Future<Output = Result<T, GenerateError>>,
) -> Result<(T, Duration), GenerateError> {
    let begun = Instant::now();
    let opened = opening.instrument(trace_span!("prefill", otel.kind = "client")).await?;
    Ok((opened, begun.elapsed()))
}

impl<D: DraftSession, T: TargetSession> Steps<D, T> {
    /// Proposes a tree; an empty one if none is requested, or if no draft is available: then the sequence goes on by one token.
    pub(crate) async fn propose(
        &mut self,
        commit: Option<&Accepted>,
        request: Option<&DraftRequest>,
    ) -> Result<Proposal, GenerateError> {
        let (Some(proposer), Some(request)) = (&mut self.proposer, request) else {
            return Ok(Proposal::default());
        };
        match proposer.propose(commit, request).await? {
            Some(proposal) => Ok(proposal),
            None => {
                self.undrafted += 1;
                Ok(Proposal::default())
            }
        }
    }

    /// Scores a proposal; `None` if the target itself proposed it.
    pub(crate) async fn score(
        &mut self,
        commit: Option<&Accepted>,
        proposal: &Proposal,
        generation: &Generation<'_>,
    ) -> Result<Option<Scores>, GenerateError> {
        let Some(scorer) = &mut self.scorer else { return Ok(None) };
        let request = ScoreRequest {
            distributions: proposal.draft.candidates.is_some(),
            log_probs: generation.log_probs,
            top_log_probs: generation.top_log_probs,
        };
        scorer.score(commit, &proposal.draft.tree, request).await.map(Some)
    }

    /// Writes the times and failovers so far into the statistics.
    pub(crate) fn record(&self, statistics: &mut Statistics) {
        statistics.prefill = self.prefill;
        statistics.undrafted = self.undrafted;
        statistics.failovers = self.proposer.as_ref().map_or(0, DraftSession::failovers)
            + self.scorer.as_ref().map_or(0, TargetSession::failovers);
        if let Some(scorer) = &self.scorer {
            statistics.target = scorer.elapsed;
            statistics.target_network = scorer.network_time();
        }
        match &self.proposer {
            Some(proposer) if proposer.role == Role::Draft => {
                statistics.draft = proposer.elapsed;
                statistics.draft_network = proposer.network_time();
            }
            Some(proposer) => {
                statistics.target = proposer.elapsed;
                statistics.target_network = proposer.network_time();
            }
            None => {}
        }
    }
}

/// What the next iteration requests of the proposer, with `remaining` tokens left to emit; `None` if nothing is to be drafted.
pub(crate) fn draft_request(generation: &Generation<'_>, remaining: usize) -> Option<DraftRequest> {
    // MTJD commits the beam alone. Otherwise the bonus token is committed too, so a deeper draft would be wasted.
    let is_joint = generation.decoding.method() == Method::Mtjd;
    let deepest = if is_joint { remaining } else { remaining - 1 };
    let drafting = generation.decoding.drafting()?.no_deeper_than(deepest);
    let log_probs = is_joint && generation.log_probs;
    (drafting.depth() > 0).then_some(DraftRequest { drafting, log_probs })
}
