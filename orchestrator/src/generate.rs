//! The loop: propose, score, accept, emit.

use std::time::Instant;

use tandem_decoding::{Accepted, Decoding, DraftTree, Method, TokenId, best_beam_levels, exact_match, mmtad};
use tandem_proto::{OpenSession, ProposeShape};
use tokenizers::Tokenizer;
use tokio::sync::mpsc;

use crate::{
    DraftSession, Drafter, Finish, FinishReason, GenerateError, Piece, Scored, Scorer, Statistics,
    TargetSession, TextStream,
};

/// A generation, ready to run.
pub struct Job<'a> {
    /// The prompt, the sampling, the seed; `max_new_tokens` already fits the context of both models.
    pub open: OpenSession,
    /// How candidates are proposed and accepted.
    pub decoding: Decoding,
    /// Draw beams with replacement.
    pub with_replacement: bool,
    /// Tokens that end the text; empty to go on behind them.
    pub eos: &'a [TokenId],
    /// Strings that end the text.
    pub stops: &'a [String],
    /// Of both models.
    pub tokenizer: &'a Tokenizer,
    /// When the request arrived.
    pub arrived: Instant,
}

/// Where the text goes: one piece per iteration. A closed channel ends the generation.
pub type Emission = mpsc::Sender<Piece>;

/// Runs `job`. Dropping the future frees both sides.
pub async fn generate<D: Drafter, S: Scorer>(
    drafter: &D,
    scorer: &S,
    job: &Job<'_>,
    out: &Emission,
) -> Result<Finish, GenerateError> {
    let mut stats = Statistics::new(job.decoding.method(), job.decoding.draft_tokens());
    let mut text = TextStream::new(job.tokenizer, &job.open.prompt, job.stops)?;
    let (mut draft, mut target) = open_both(drafter, scorer, job, &mut stats).await?;
    let mut commit: Option<Accepted> = None;
    let mut left = job.open.max_new_tokens;
    loop {
        // The bonus token comes on top, so drafting more than `left - 1` would be for nothing.
        let depth = job.decoding.draft_tokens().min(left - 1);
        let proposal = propose(draft.as_mut(), commit.as_ref(), depth, job, &mut stats).await?;
        let scored = score(&mut target, commit.as_ref(), &proposal, &mut stats).await?;
        let accepted = accept(&job.decoding, &proposal, &scored);
        stats.count(depth, proposal.tree.len(), accepted.path.len());
        let tokens = committed_tokens(&proposal, &accepted);
        let ended = emit(&mut text, &tokens, left, job, out, &mut stats).await?;
        if let Some(reason) = ended {
            return finish(text, reason, out, stats, job).await;
        }
        left -= tokens.len();
        commit = Some(accepted);
    }
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
            _ => drafter.open(&job.open).await.map(Some),
        }
    };
    let sessions = tokio::try_join!(draft, scorer.open(&job.open))?;
    stats.prefill = begun.elapsed();
    Ok(sessions)
}

async fn propose<S: DraftSession>(
    draft: Option<&mut S>,
    commit: Option<&Accepted>,
    depth: usize,
    job: &Job<'_>,
    stats: &mut Statistics,
) -> Result<DraftTree, GenerateError> {
    // Depth 0 is the last token: what the draft would commit, nobody will ask for.
    let Some(draft) = draft.filter(|_| depth > 0) else { return Ok(DraftTree::default()) };
    let shape = ProposeShape {
        beam_width: job.decoding.beam_width(),
        draft_tokens: depth,
        with_replacement: job.with_replacement,
        best_beam_only: job.decoding.method() == Method::Mtad,
    };
    let begun = Instant::now();
    let tree = draft.propose(commit, shape).await?;
    stats.draft += begun.elapsed();
    Ok(tree)
}

async fn score<S: TargetSession>(
    target: &mut S,
    commit: Option<&Accepted>,
    proposal: &DraftTree,
    stats: &mut Statistics,
) -> Result<Scored, GenerateError> {
    let begun = Instant::now();
    let scored = target.score(commit, &proposal.tree).await?;
    stats.target += begun.elapsed();
    Ok(scored)
}

fn accept(decoding: &Decoding, proposal: &DraftTree, scored: &Scored) -> Accepted {
    let tree = &proposal.tree;
    match decoding.method() {
        Method::Autoregressive => Accepted::up_to(tree, None, &scored.drawn),
        // On the best beam alone the levels are its own `Q`: that is MTAD.
        Method::Mtad | Method::Mmtad => {
            let levels = best_beam_levels(tree, &proposal.joint);
            let node = mmtad(tree, &scored.joint, &levels, decoding.threshold());
            Accepted::up_to(tree, node, &scored.drawn)
        }
        Method::ExactMatch => exact_match(tree, &scored.drawn),
    }
}

/// The accepted nodes' tokens, then the bonus token.
fn committed_tokens(proposal: &DraftTree, accepted: &Accepted) -> Vec<TokenId> {
    let nodes = accepted.path.iter().map(|&n| proposal.tree.tokens()[n]);
    nodes.chain([accepted.bonus]).collect()
}

/// Sends the text of `tokens`, of which at most `left` may be emitted. Some reason if the text ends here.
async fn emit(
    text: &mut TextStream<'_>,
    tokens: &[TokenId],
    left: usize,
    job: &Job<'_>,
    out: &Emission,
    stats: &mut Statistics,
) -> Result<Option<FinishReason>, GenerateError> {
    let mut piece = Piece::default();
    let mut ended = (tokens.len() >= left).then_some(FinishReason::Length);
    for &token in &tokens[..tokens.len().min(left)] {
        if job.eos.contains(&token) {
            ended = Some(FinishReason::EndOfSequence);
            break;
        }
        match text.push(token)? {
            Ok(next) => piece.append(next),
            Err(stop) => {
                piece.append(stop.last);
                ended = Some(FinishReason::Stop(stop.stop));
                break;
            }
        }
    }
    if stats.iterations == 1 {
        stats.first_token = job.arrived.elapsed();
    }
    send(piece, out, stats).await?;
    Ok(ended)
}

async fn send(piece: Piece, out: &Emission, stats: &mut Statistics) -> Result<(), GenerateError> {
    if piece == Piece::default() {
        return Ok(());
    }
    stats.new_tokens += piece.tokens.len();
    out.send(piece).await.map_err(|_| GenerateError::Cancelled)
}

async fn finish(
    text: TextStream<'_>,
    reason: FinishReason,
    out: &Emission,
    mut stats: Statistics,
    job: &Job<'_>,
) -> Result<Finish, GenerateError> {
    // Behind a stop string nothing that was held back belongs to the text.
    if !matches!(reason, FinishReason::Stop(_)) {
        send(text.finish()?, out, &mut stats).await?;
    }
    stats.total = job.arrived.elapsed();
    Ok(Finish { reason, statistics: stats })
}

impl Piece {
    fn append(&mut self, next: Self) {
        self.text += &next.text;
        self.tokens.extend(next.tokens);
    }
}
