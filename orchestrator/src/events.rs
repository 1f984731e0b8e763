//! What a generation says, on the wire.

use std::time::Duration;

use tandem_decoding::{DraftTree, TokenId};
use tandem_proto::{method_to_wire, v1};
use tokenizers::Tokenizer;

use crate::{Finish, FinishReason, GenerateError, Statistics, Trace, Update};

/// What an iteration adds, on the wire.
pub(crate) fn chunk(update: Update, tokenizer: &Tokenizer) -> Result<v1::Chunk, GenerateError> {
    Ok(v1::Chunk {
        text: update.piece.text,
        token_ids: update.piece.tokens.iter().map(|t| t.0).collect(),
        log_probs: update.log_probs,
        iteration: update.trace.map(|trace| iteration(&trace, tokenizer)).transpose()?,
    })
}

fn iteration(trace: &Trace, tokenizer: &Tokenizer) -> Result<v1::Iteration, GenerateError> {
    let text = |token: TokenId| {
        tokenizer.decode(&[token.0], false).map_err(|e| GenerateError::Tokenizer(e.to_string()))
    };
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
