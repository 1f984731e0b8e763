//! Emits what was committed: text, chunks and statistics, until the sequence ends.

use tandem_decoding::{Method, TokenId};
use tokenizers::Tokenizer;
use tracing::field::Empty;
use tracing::{Span, trace_span};

use crate::accept::{Commit, CommittedToken};
use crate::steps::Steps;
use crate::{
    Chunk, ChunkSender, DraftRequest, DraftSession, Finish, FinishReason, GenerateError, Generation,
    Iteration, Piece, Proposal, Scores, Statistics, TargetSession, TextStream, Token, TopToken, TopTokens,
};

/// The output of a sequence so far.
pub(crate) struct Output<'a> {
    pub(crate) generation: &'a Generation<'a>,
    chunks: &'a ChunkSender,
    text: TextStream<'a>,
    statistics: Statistics,
    /// The statistics that the observer has seen.
    reported: Statistics,
    /// Tokens whose text is held back.
    held: Vec<CommittedToken>,
    /// The token before the first held one: whether a token begins with a space may depend on it.
    previous: Option<TokenId>,
    /// Tokens that may still be emitted.
    remaining: usize,
}

impl<'a> Output<'a> {
    pub(crate) fn new(
        generation: &'a Generation<'a>,
        chunks: &'a ChunkSender,
    ) -> Result<Self, GenerateError> {
        let reported = Statistics::new(generation.decoding.method(), generation.decoding.draft_tokens());
        let queued = generation.admitted.duration_since(generation.arrived);
        Ok(Self {
            generation,
            chunks,
            text: TextStream::new(generation.tokenizer, &generation.open.prompt, generation.stop)?,
            statistics: Statistics { queued, ..reported.clone() },
            reported,
            held: Vec::new(),
            previous: generation.open.prompt.last().copied(),
            remaining: generation.open.max_new_tokens,
        })
    }

    /// Tokens that may still be emitted, at least 1 while the loop runs.
    pub(crate) fn remaining(&self) -> usize {
        self.remaining
    }

    /// The number of committed tokens, prompt included.
    pub(crate) fn position(&self) -> usize {
        let open = &self.generation.open;
        open.prompt.len() + open.max_new_tokens - self.remaining
    }

    /// The span of the next iteration.
    pub(crate) fn iteration_span(&self) -> Span {
        trace_span!(
            "iteration",
            tandem.iteration = self.statistics.iterations as i64 + 1,
            tandem.drafted_tokens = Empty,
            tandem.accepted_tokens = Empty,
            tandem.committed_tokens = Empty
        )
    }

    /// Counts an iteration, and takes over the times of its `steps`.
    pub(crate) fn count<D: DraftSession, T: TargetSession>(
        &mut self,
        request: Option<&DraftRequest>,
        proposal: &Proposal,
        commit: &Commit,
        steps: &Steps<D, T>,
    ) {
        let drafted = proposal.draft.tree.len();
        let accepted = commit.accepted.path.len();
        let depth = request.map_or(0, |request| request.drafting.depth());
        // The last token of MTJD's beam counts as the bonus token.
        let is_joint = self.generation.decoding.method() == Method::Mtjd;
        self.statistics.count(depth.saturating_sub(usize::from(is_joint)), drafted, accepted);
        steps.record(&mut self.statistics);
        let span = Span::current();
        span.record("tandem.drafted_tokens", drafted as i64);
        span.record("tandem.accepted_tokens", accepted as i64);
        span.record("tandem.committed_tokens", commit.tokens.len() as i64);
    }

    /// Sends what was committed, as far as it may be emitted. Returns a reason if the sequence ends here.
    pub(crate) async fn emit(
        &mut self,
        commit: &Commit,
        proposal: Proposal,
        scores: Option<Scores>,
    ) -> Result<Option<FinishReason>, GenerateError> {
        let mut piece = Piece::default();
        let mut finished = (commit.tokens.len() >= self.remaining).then_some(FinishReason::Length);
        for token in commit.tokens.iter().take(self.remaining) {
            if self.generation.eos.contains(&token.id) {
                finished = Some(FinishReason::EndOfSequence);
                break;
            }
            self.held.push(token.clone());
            match self.text.push(token.id)? {
                Ok(next) => piece.append(next),
                Err(stop) => {
                    piece.append(stop.last);
                    finished = Some(FinishReason::Stop(stop.stop));
                    break;
                }
            }
        }
        self.remaining -= commit.tokens.len().min(self.remaining);
        if self.statistics.iterations == 1 {
            self.statistics.first_token = self.generation.arrived.elapsed();
        }
        let iteration = match self.generation.trace {
            true => Some(Box::new(self.iteration(commit, proposal, scores)?)),
            false => None,
        };
        self.send(piece, iteration).await?;
        self.report();
        Ok(finished)
    }

    /// Ends the sequence.
    pub(crate) async fn finish(mut self, reason: FinishReason) -> Result<Finish, GenerateError> {
        // After a stop string, what was held back is not part of the text.
        if !matches!(reason, FinishReason::Stop(_)) {
            let last = self.text.finish();
            self.send(last, None).await?;
        }
        self.report();
        let finish = Finish { reason, statistics: self.statistics };
        self.generation.observer.finished(&finish);
        Ok(finish)
    }

    async fn send(&mut self, piece: Piece, iteration: Option<Box<Iteration>>) -> Result<(), GenerateError> {
        let Piece { text, tokens, texts } = piece;
        // Pieces hold every token in the order in which it was pushed.
        let known: Vec<CommittedToken> = self.held.drain(..tokens.len()).collect();
        let mut chunk = Chunk { text, tokens: Vec::with_capacity(tokens.len()), iteration };
        for (token, text) in known.into_iter().zip(texts) {
            let top = self.top(&token.top)?;
            let CommittedToken { id, drafted, log_prob, .. } = token;
            chunk.tokens.push(Token { id, text, drafted, log_prob, top });
            self.previous = Some(id);
        }
        if chunk == Chunk::default() {
            return Ok(());
        }
        self.statistics.new_tokens += chunk.tokens.len();
        self.chunks.send(chunk).await.map_err(|_| GenerateError::Cancelled)
    }

    /// Reports the statistics so far to the observer.
    fn report(&mut self) {
        self.statistics.total = self.generation.arrived.elapsed();
        self.generation.observer.progress(&self.reported, &self.statistics);
        self.reported.clone_from(&self.statistics);
    }

    /// The likeliest tokens at the position after `previous`, with the text that each would have added.
    fn top(&self, top: &TopTokens) -> Result<Vec<TopToken>, GenerateError> {
        if top.is_empty() {
            return Ok(Vec::new());
        }
        let tokenizer = self.generation.tokenizer;
        let before = match self.previous {
            Some(previous) => decode(tokenizer, &[previous])?,
            None => String::new(),
        };
        let mut tokens = Vec::with_capacity(top.len());
        for &(id, log_prob) in top {
            let ids: Vec<TokenId> = self.previous.into_iter().chain([id]).collect();
            let both = decode(tokenizer, &ids)?;
            let text = match both.strip_prefix(&before) {
                Some(added) => added.to_owned(),
                // The decoder rewrote the text before it.
                None => decode(tokenizer, &[id])?,
            };
            tokens.push(TopToken { id, text, log_prob });
        }
        Ok(tokens)
    }

    /// The report of an iteration.
    fn iteration(
        &self,
        commit: &Commit,
        proposal: Proposal,
        scores: Option<Scores>,
    ) -> Result<Iteration, GenerateError> {
        let tokenizer = self.generation.tokenizer;
        let tree = proposal.draft.tree;
        let texts = tree.tokens().iter().map(|&token| decode(tokenizer, &[token]));
        let texts = texts.collect::<Result<_, _>>()?;
        // Without scores the beam was committed whole, its last token in the place of the bonus token.
        let (accepted, bonus) = match &scores {
            None => ((0..tree.len()).collect(), None),
            Some(_) => {
                let bonus = commit.accepted.bonus;
                (commit.accepted.path.clone(), Some((bonus, decode(tokenizer, &[bonus])?)))
            }
        };
        let target = scores.map(|scores| scores.joint);
        Ok(Iteration { tree, texts, draft: proposal.draft.joint, target, accepted, bonus })
    }
}

/// The text of tokens, special ones included.
fn decode(tokenizer: &Tokenizer, tokens: &[TokenId]) -> Result<String, GenerateError> {
    let ids: Vec<u32> = tokens.iter().map(|token| token.0).collect();
    tokenizer.decode(&ids, false).map_err(|e| GenerateError::Tokenizer(e.to_string()))
}
