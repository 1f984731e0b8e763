//! Events of a generation.

use std::time::Duration;

use tandem_generation::{Chunk, Event, Finish, FinishReason, Iteration, SequenceStart, Statistics, TopToken};

use super::{method_to_wire, to_u32};
use crate::v1;

impl v1::generate_response::Event {
    /// An event on the wire. The texts of tokens travel only with what they belong to: log-probabilities or a trace.
    pub fn new(event: Event, log_probs: bool, trace: bool) -> Self {
        match event {
            Event::Started(start) => Self::Started(start.into()),
            Event::Chunk(chunk) => Self::Chunk(v1::Chunk::new(chunk, log_probs, trace)),
            Event::Finished(finish) => Self::Finished((*finish).into()),
        }
    }
}

impl From<SequenceStart> for v1::Started {
    fn from(start: SequenceStart) -> Self {
        Self {
            prompt_tokens: to_u32(start.prompt_tokens),
            seed: start.seed,
            method: method_to_wire(start.method).into(),
            target_model: start.target_model,
            draft_model: start.draft_model,
        }
    }
}

impl v1::Chunk {
    fn new(chunk: Chunk, log_probs: bool, trace: bool) -> Self {
        let mut wire =
            Self { text: chunk.text, iteration: chunk.iteration.map(|i| (*i).into()), ..Self::default() };
        for token in chunk.tokens {
            wire.token_ids.push(token.id.0);
            wire.log_probs.extend(token.log_prob);
            if log_probs || trace {
                wire.token_texts.push(token.text);
            }
            if trace {
                wire.drafted.push(token.drafted);
            }
            if !token.top.is_empty() {
                wire.top_log_probs.push(token.top.into());
            }
        }
        wire
    }
}

impl From<Vec<TopToken>> for v1::TopLogProbs {
    fn from(top: Vec<TopToken>) -> Self {
        let mut wire = Self::default();
        for token in top {
            wire.token_ids.push(token.id.0);
            wire.log_probs.push(token.log_prob);
            wire.texts.push(token.text);
        }
        wire
    }
}

impl From<Iteration> for v1::Iteration {
    fn from(iteration: Iteration) -> Self {
        let target = iteration.target.map(|joint| joint.as_slice().to_vec());
        let (bonus_token, bonus_text) = iteration.bonus.map(|(id, text)| (id.0, text)).unzip();
        Self {
            tree: Some((&iteration.tree).into()),
            texts: iteration.texts,
            draft_joint_log_probs: iteration.draft.as_slice().to_vec(),
            target_joint_log_probs: target.unwrap_or_default(),
            accepted_nodes: iteration.accepted.into_iter().map(to_u32).collect(),
            bonus_token,
            bonus_text: bonus_text.unwrap_or_default(),
        }
    }
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
        Self {
            method: method_to_wire(s.method).into(),
            lossless: s.method.is_lossless(),
            new_tokens: to_u32(s.new_tokens),
            iterations: to_u32(s.iterations),
            drafted_tokens: to_u32(s.drafted),
            accepted_tokens: to_u32(s.accepted),
            accepted_by_depth: s.accepted_by_depth.iter().map(|&n| to_u32(n)).collect(),
            block_efficiency: s.block_efficiency(),
            acceptance_rate: s.acceptance_rate(),
            total_ms: milliseconds(s.total),
            draft_ms: milliseconds(s.draft),
            target_ms: milliseconds(s.target),
            orchestration_ms: milliseconds(s.orchestration()),
            time_to_first_token_ms: milliseconds(s.first_token),
            prefill_ms: milliseconds(s.prefill),
            asked_tokens: to_u32(s.depth_requested),
            undrafted_iterations: to_u32(s.undrafted),
            failovers: to_u32(s.failovers),
            waiting_ms: milliseconds(s.queued),
        }
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
