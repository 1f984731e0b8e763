//! What a generation says, on the wire.

use std::time::Duration;

use tandem_decoding::{DraftTree, TokenId};
use tandem_proto::{TopTokens, method_to_wire, v1};
use tokenizers::Tokenizer;

use crate::{Finish, FinishReason, GenerateError, Job, Statistics, Trace, Update};

/// Puts updates on the wire.
pub(crate) struct Chunks<'a> {
    tokenizer: &'a Tokenizer,
    /// The token before the next one: whether a token begins with a space may depend on it.
    last: Option<TokenId>,
    /// What was asked for.
    log_probs: bool,
    trace: bool,
}

impl<'a> Chunks<'a> {
    pub(crate) fn new(job: &'a Job<'_>) -> Self {
        let last = job.open.prompt.last().copied();
        Self { tokenizer: job.tokenizer, last, log_probs: job.log_probs, trace: job.trace }
    }

    /// What an iteration adds.
    pub(crate) fn chunk(&mut self, update: Update) -> Result<v1::Chunk, GenerateError> {
        let Update { piece, details, trace } = update;
        let mut top_log_probs = Vec::new();
        for (&token, details) in piece.tokens.iter().zip(&details) {
            if !details.top.is_empty() {
                top_log_probs.push(self.top(&details.top)?);
            }
            self.last = Some(token);
        }
        let (log_probs, trace_wanted) = (self.log_probs, self.trace);
        Ok(v1::Chunk {
            text: piece.text,
            token_ids: piece.tokens.iter().map(|t| t.0).collect(),
            log_probs: details.iter().filter_map(|d| d.log_prob).collect(),
            iteration: trace.map(|trace| iteration(&trace, self.tokenizer)).transpose()?,
            token_texts: if log_probs || trace_wanted { piece.texts } else { Vec::new() },
            drafted: details.iter().map(|d| d.drafted).filter(|_| trace_wanted).collect(),
            top_log_probs,
        })
    }

    /// The likeliest tokens at the next place.
    fn top(&self, top: &TopTokens) -> Result<v1::TopLogProbs, GenerateError> {
        let before = self.last.map_or_else(|| Ok(String::new()), |last| decode(self.tokenizer, &[last]))?;
        Ok(v1::TopLogProbs {
            token_ids: top.iter().map(|t| t.0.0).collect(),
            log_probs: top.iter().map(|t| t.1).collect(),
            texts: top.iter().map(|t| self.added(&before, t.0)).collect::<Result<_, _>>()?,
        })
    }

    /// What `token` would add to the text, whose last token is `before` by itself.
    fn added(&self, before: &str, token: TokenId) -> Result<String, GenerateError> {
        let ids: Vec<TokenId> = self.last.into_iter().chain([token]).collect();
        let both = decode(self.tokenizer, &ids)?;
        // A decoder that rewrites what was before says it alone.
        Ok(match both.strip_prefix(before) {
            Some(added) => added.to_owned(),
            None => decode(self.tokenizer, &[token])?,
        })
    }
}

/// The text of tokens, special ones included.
fn decode(tokenizer: &Tokenizer, tokens: &[TokenId]) -> Result<String, GenerateError> {
    let ids: Vec<u32> = tokens.iter().map(|t| t.0).collect();
    tokenizer.decode(&ids, false).map_err(|e| GenerateError::Tokenizer(e.to_string()))
}

fn iteration(trace: &Trace, tokenizer: &Tokenizer) -> Result<v1::Iteration, GenerateError> {
    let text = |token: TokenId| decode(tokenizer, &[token]);
    let DraftTree { tree, joint, .. } = &trace.proposal.draft;
    // Nobody scored it: it was committed whole, and its last token took the place of the bonus token.
    let whole = trace.scores.drawn.is_empty();
    let bonus = Some(trace.accepted.bonus).filter(|_| !whole);
    let accepted_nodes = if whole {
        (0..count(tree.len())).collect()
    } else {
        trace.accepted.path.iter().map(|&n| count(n)).collect()
    };
    Ok(v1::Iteration {
        tree: Some(tree.into()),
        texts: tree.tokens().iter().map(|&t| text(t)).collect::<Result<_, _>>()?,
        draft_joint_log_probs: joint.as_slice().to_vec(),
        target_joint_log_probs: trace.scores.joint.as_slice().to_vec(),
        accepted_nodes,
        bonus_token: bonus.map(|token| token.0),
        bonus_text: bonus.map(text).transpose()?.unwrap_or_default(),
    })
}

impl From<Finish> for v1::Finished {
    fn from(finish: Finish) -> Self {
        let (reason, stop) = match finish.reason {
            FinishReason::EndOfSequence => (v1::FinishReason::Eos, String::new()),
            FinishReason::Stop(stop) => (v1::FinishReason::Stop, stop),
            FinishReason::Length => (v1::FinishReason::Length, String::new()),
        };
        Self { reason: reason.into(), stop, statistics: Some(finish.statistics.into()) }
    }
}

impl From<Statistics> for v1::Statistics {
    fn from(s: Statistics) -> Self {
        let ms = |d: Duration| d.as_secs_f64() * 1e3;
        Self {
            method: method_to_wire(s.method).into(),
            lossless: s.method.is_lossless(),
            new_tokens: count(s.new_tokens),
            iterations: count(s.iterations),
            drafted_tokens: count(s.drafted),
            accepted_tokens: count(s.accepted),
            accepted_by_depth: s.accepted_by_depth.iter().map(|&n| count(n)).collect(),
            block_efficiency: s.block_efficiency(),
            acceptance_rate: s.acceptance_rate(),
            total_ms: ms(s.total),
            draft_ms: ms(s.draft),
            target_ms: ms(s.target),
            orchestration_ms: ms(s.orchestration()),
            time_to_first_token_ms: ms(s.first_token),
            prefill_ms: ms(s.prefill),
            asked_tokens: count(s.depth_asked),
            undrafted_iterations: count(s.undrafted),
            failovers: count(s.failovers),
            waiting_ms: ms(s.waiting),
        }
    }
}

/// A count on the wire.
pub(crate) fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
