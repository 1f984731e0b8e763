//! The loop: propose, score, accept, emit.

use tandem_decoding::{Accepted, Decoding, Drafting, Method, TokenId};
use tandem_proto::{OpenSession, Propose, Scores, Wanted};
use tokenizers::Tokenizer;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::field::Empty;
use tracing::{Instrument, Span, trace_span};

use crate::accept::{Committed, TokenDetails, accept, commit_whole};
use crate::{
    DraftSession, Drafter, Finish, FinishReason, GenerateError, Piece, Proposal, Scorer, Statistics,
    TargetSession, TextStream, Watch,
};

/// A generation, ready to run.
pub struct Job<'a> {
    /// The prompt, the sampling, the seed; `max_new_tokens` already fits the context of both models.
    pub open: OpenSession,
    /// How candidates are proposed and accepted.
    pub decoding: Decoding,
    /// Give the log-probability of every token with it.
    pub log_probs: bool,
    /// And those of this many of the likeliest tokens in its place.
    pub top_log_probs: usize,
    /// Give every iteration with the text it led to.
    pub trace: bool,
    /// Tokens that end the text; empty to go on behind them.
    pub eos: &'a [TokenId],
    /// Strings that end the text.
    pub stops: &'a [String],
    /// Of both models.
    pub tokenizer: &'a Tokenizer,
    /// When the request arrived.
    pub arrived: Instant,
    /// When it got its place.
    pub admitted: Instant,
    /// When it ends, finished or not.
    pub by: Instant,
    /// Who sees how it goes.
    pub watch: &'a Watch,
}

/// What an iteration adds to the text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Update {
    /// The text and its tokens.
    pub piece: Piece,
    /// `[piece.tokens]`
    pub details: Vec<TokenDetails>,
    /// If asked for; absent in the update that ends a text that was held back.
    pub trace: Option<Box<Trace>>,
}

/// One round of propose, score, accept.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    /// What was proposed.
    pub proposal: Proposal,
    /// What the target said; empty for MTJD.
    pub scores: Scores,
    /// What was committed.
    pub accepted: Accepted,
}

/// Where the text goes: one update per iteration that has something to say. A closed channel ends the generation.
pub type Emission = mpsc::Sender<Update>;

/// Runs `job`. Dropping the future frees both sides.
pub async fn generate<D: Drafter, S: Scorer>(
    drafter: &D,
    scorer: &S,
    job: &Job<'_>,
    out: &Emission,
) -> Result<Finish, GenerateError> {
    let mut stats = Statistics::new(job.decoding.method(), job.decoding.draft_tokens());
    stats.waiting = job.admitted.duration_since(job.arrived);
    let text = TextStream::new(job.tokenizer, &job.open.prompt, job.stops)?;
    let seen = Statistics::new(stats.method, job.decoding.draft_tokens());
    let left = job.open.max_new_tokens;
    let emitter = Emitter { job, out, text, stats, seen, details: Vec::new(), left };
    let finish = match job.decoding.method() {
        Method::Mtjd => joint(scorer.own(), emitter).await,
        _ => assisted(drafter, scorer, emitter).await,
    }?;
    job.watch.finished(&finish);
    Ok(finish)
}

/// Every method that scores: with a draft, or without (autoregressive decoding).
async fn assisted<D: Drafter, S: Scorer>(
    drafter: &D,
    scorer: &S,
    mut emitter: Emitter<'_>,
) -> Result<Finish, GenerateError> {
    let job = emitter.job;
    let (mut draft, mut target) = open_both(drafter, scorer, job, &mut emitter.stats).await?;
    let mut commit: Option<Accepted> = None;
    loop {
        let span = emitter.iteration();
        let round = iterate((&mut draft, &mut target), &mut commit, &mut emitter);
        if let Some(reason) = round.instrument(span).await? {
            return emitter.finish(reason).await;
        }
    }
}

/// A round of propose, score, accept, emit. Some reason if the text ends here.
async fn iterate<D: DraftSession, S: TargetSession>(
    (draft, target): (&mut Option<D>, &mut S),
    commit: &mut Option<Accepted>,
    emitter: &mut Emitter<'_>,
) -> Result<Option<FinishReason>, GenerateError> {
    let job = emitter.job;
    // The bonus token comes on top, so drafting more than `left - 1` would be for nothing.
    let drafting = job.decoding.drafting().map(|d| d.no_deeper_than(emitter.left - 1));
    let drafting = drafting.filter(|d| d.depth() > 0);
    let proposal = match (&drafting, draft.as_mut()) {
        (Some(drafting), Some(draft)) => {
            let asked = Propose { drafting: drafting.clone(), log_probs: false };
            let begun = Instant::now();
            let span = trace_span!("draft", otel.kind = "client");
            let proposal = draft.propose(commit.as_ref(), &asked).instrument(span).await?;
            emitter.stats.draft += begun.elapsed();
            emitter.stats.draft_network = draft.network();
            // Without a draft the text goes on, a token at a time.
            emitter.stats.undrafted += usize::from(proposal.is_none());
            proposal.unwrap_or_default()
        }
        // The last token: what the draft would commit, nobody will ask for.
        _ => Proposal::default(),
    };
    let wanted = Wanted {
        distributions: proposal.draft.candidates.is_some(),
        log_probs: job.log_probs,
        top_log_probs: job.top_log_probs,
    };
    let begun = Instant::now();
    let span = trace_span!("score", otel.kind = "client");
    let scores = target.score(commit.as_ref(), &proposal.draft.tree, wanted).instrument(span).await?;
    emitter.stats.target += begun.elapsed();
    emitter.stats.target_network = target.network();
    let root = job.open.prompt.len() + job.open.max_new_tokens - emitter.left;
    let committed = trace_span!("accept").in_scope(|| accept(job, &proposal, &scores, root))?;
    let depth = drafting.as_ref().map_or(0, Drafting::depth);
    emitter.stats.failovers = target.reopened() + draft.as_ref().map_or(0, DraftSession::reopened);
    emitter.stats.count(depth, proposal.draft.tree.len(), committed.accepted.path.len());
    let ended = emitter.emit(&committed, proposal, scores).await?;
    *commit = Some(committed.accepted);
    Ok(ended)
}

/// Multi-token joint decoding: the target proposes, and the best beam is committed whole.
async fn joint<D: Drafter>(own: &D, mut emitter: Emitter<'_>) -> Result<Finish, GenerateError> {
    let job = emitter.job;
    let begun = Instant::now();
    let mut session = own.open(&job.open, job.by).instrument(prefill()).await?;
    emitter.stats.prefill = begun.elapsed();
    let mut commit: Option<Accepted> = None;
    loop {
        let span = emitter.iteration();
        if let Some(reason) = iterate_joint(&mut session, &mut commit, &mut emitter).instrument(span).await? {
            return emitter.finish(reason).await;
        }
    }
}

/// A round of it. Some reason if the text ends here.
async fn iterate_joint<S: DraftSession>(
    session: &mut S,
    commit: &mut Option<Accepted>,
    emitter: &mut Emitter<'_>,
) -> Result<Option<FinishReason>, GenerateError> {
    let job = emitter.job;
    let Some(drafting) = job.decoding.drafting().map(|d| d.no_deeper_than(emitter.left)) else {
        return Err(tandem_proto::Fault::Bug("MTJD proposes".into()).into());
    };
    let depth = drafting.depth();
    let begun = Instant::now();
    let asked = Propose { drafting, log_probs: job.log_probs };
    let span = trace_span!("score", otel.kind = "client");
    // The target's own beams are not optional: nobody means nothing to commit.
    let proposal = session.propose(commit.as_ref(), &asked).instrument(span).await?.unwrap_or_default();
    emitter.stats.failovers = session.reopened();
    // It is the target that proposes.
    emitter.stats.target += begun.elapsed();
    emitter.stats.target_network = session.network();
    let committed = trace_span!("accept").in_scope(|| commit_whole(&proposal))?;
    emitter.stats.count(depth - 1, proposal.draft.tree.len(), committed.accepted.path.len());
    let ended = emitter.emit(&committed, proposal, Scores::default()).await?;
    *commit = Some(committed.accepted);
    Ok(ended)
}

/// Opens the sessions side by side. A method that drafts nothing needs no draft session.
async fn open_both<D: Drafter, S: Scorer>(
    drafter: &D,
    scorer: &S,
    job: &Job<'_>,
    stats: &mut Statistics,
) -> Result<(Option<D::Session>, S::Session), GenerateError> {
    let begun = Instant::now();
    let draft = async {
        match job.decoding.draft_tokens() {
            0 => Ok(None),
            _ => drafter.open(&job.open, job.by).await.map(Some),
        }
    };
    let both = async { tokio::try_join!(draft, scorer.open(&job.open, job.by)) };
    let sessions = both.instrument(prefill()).await?;
    stats.prefill = begun.elapsed();
    Ok(sessions)
}

/// The span of opening sessions.
fn prefill() -> Span {
    trace_span!("prefill", otel.kind = "client")
}

/// Turns committed tokens into text, until the text ends.
struct Emitter<'a> {
    job: &'a Job<'a>,
    out: &'a Emission,
    text: TextStream<'a>,
    stats: Statistics,
    /// What of it the watch has seen.
    seen: Statistics,
    /// Of tokens whose text is held back.
    details: Vec<TokenDetails>,
    /// Tokens that may still be emitted.
    left: usize,
}

impl Emitter<'_> {
    /// The span of the next round.
    fn iteration(&self) -> Span {
        trace_span!(
            "iteration",
            tandem.iteration = self.stats.iterations as i64 + 1,
            tandem.drafted_tokens = Empty,
            tandem.accepted_tokens = Empty,
            tandem.committed_tokens = Empty
        )
    }

    /// Sends the text of what was committed, as far as it may be emitted. Some reason if the text ends here.
    async fn emit(
        &mut self,
        committed: &Committed,
        proposal: Proposal,
        scores: Scores,
    ) -> Result<Option<FinishReason>, GenerateError> {
        let tokens = &committed.tokens;
        let span = Span::current();
        span.record("tandem.drafted_tokens", proposal.draft.tree.len() as i64);
        span.record("tandem.accepted_tokens", committed.accepted.path.len() as i64);
        span.record("tandem.committed_tokens", tokens.len() as i64);
        let mut piece = Piece::default();
        let mut ended = (tokens.len() >= self.left).then_some(FinishReason::Length);
        for (i, &token) in tokens.iter().take(self.left).enumerate() {
            if self.job.eos.contains(&token) {
                ended = Some(FinishReason::EndOfSequence);
                break;
            }
            self.details.push(committed.details[i].clone());
            match self.text.push(token)? {
                Ok(next) => piece.append(next),
                Err(stop) => {
                    piece.append(stop.last);
                    ended = Some(FinishReason::Stop(stop.stop));
                    break;
                }
            }
        }
        self.left -= tokens.len().min(self.left);
        if self.stats.iterations == 1 {
            self.stats.first_token = self.job.arrived.elapsed();
        }
        let accepted = committed.accepted.clone();
        let trace = self.job.trace.then(|| Box::new(Trace { proposal, scores, accepted }));
        self.send(piece, trace).await?;
        self.report();
        Ok(ended)
    }

    async fn send(&mut self, piece: Piece, trace: Option<Box<Trace>>) -> Result<(), GenerateError> {
        // Pieces hold every token in the order it was pushed.
        let details = self.details.drain(..piece.tokens.len()).collect();
        let update = Update { piece, details, trace };
        if update == Update::default() {
            return Ok(());
        }
        self.stats.new_tokens += update.piece.tokens.len();
        self.out.send(update).await.map_err(|_| GenerateError::Cancelled)
    }

    /// Tells the watch how far it is.
    fn report(&mut self) {
        self.stats.total = self.job.arrived.elapsed();
        self.job.watch.progress(&self.seen, &self.stats);
        self.seen.clone_from(&self.stats);
    }

    async fn finish(mut self, reason: FinishReason) -> Result<Finish, GenerateError> {
        // Behind a stop string nothing that was held back belongs to the text.
        if !matches!(reason, FinishReason::Stop(_)) {
            let last = self.text.finish()?;
            self.send(last, None).await?;
        }
        self.report();
        Ok(Finish { reason, statistics: self.stats })
    }
}

impl Piece {
    fn append(&mut self, next: Self) {
        self.text += &next.text;
        self.tokens.extend(next.tokens);
        self.texts.extend(next.texts);
    }
}
