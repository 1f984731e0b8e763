//! Collects the events of a request into one answer.

use serde::Serialize;
use tandem_generation::{Event, Finish, Iteration, SequenceStart, Token};

use super::extension::{ChoiceExtension, Extension, SequenceSummary, TokenOrigin};
use super::{
    AssistantMessage, ChatChoice, ChatCompletion, ChatLogProbs, Completion, CompletionChoice,
    CompletionLogProbs, Head, Kind, Usage, finish_reason,
};
use crate::api::openai::request::AnswerOptions;
use crate::sequence::SequenceEvent;

/// An answer of either endpoint.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(in crate::api::openai) enum Whole {
    Completion(Completion),
    Chat(ChatCompletion),
}

/// Collects the events of a request.
pub(in crate::api::openai) struct Collector {
    options: AnswerOptions,
    sequences: Vec<Sequence>,
    /// Approximate size of what was collected.
    bytes: usize,
}

/// A sequence so far.
#[derive(Default)]
struct Sequence {
    start: Option<SequenceStart>,
    text: String,
    /// Empty if neither log-probabilities nor origins are requested.
    tokens: Vec<Token>,
    iterations: Vec<Iteration>,
    finish: Option<Finish>,
}

/// A sequence that is complete.
struct Finished {
    start: SequenceStart,
    text: String,
    tokens: Vec<Token>,
    iterations: Vec<Iteration>,
    finish: Finish,
}

impl Collector {
    /// For the answer to so many prompts.
    pub(in crate::api::openai) fn new(options: AnswerOptions, prompts: usize) -> Self {
        let mut sequences = Vec::new();
        sequences.resize_with(prompts * options.n, Sequence::default);
        Self { options, sequences, bytes: 0 }
    }

    /// Adds an event.
    pub(in crate::api::openai) fn add(&mut self, event: SequenceEvent) {
        let Some(sequence) = self.sequences.get_mut(event.index) else { return };
        match event.event {
            Event::Started(start) => sequence.start = Some(start),
            Event::Chunk(chunk) => {
                self.bytes += chunk.text.len();
                sequence.text += &chunk.text;
                if self.options.log_probs || self.options.trace {
                    self.bytes += chunk.tokens.iter().map(token_bytes).sum::<usize>();
                    sequence.tokens.extend(chunk.tokens);
                }
                if let Some(iteration) = chunk.iteration {
                    self.bytes += iteration_bytes(&iteration);
                    sequence.iterations.push(*iteration);
                }
            }
            Event::Finished(finish) => sequence.finish = Some(*finish),
        }
    }

    /// Approximate size of what was collected. As JSON it is several times as large.
    pub(in crate::api::openai) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The answer by `model`; `None` if a sequence is not complete.
    pub(in crate::api::openai) fn finish(self, kind: Kind, model: String) -> Option<Whole> {
        let sequences = self.sequences.into_iter().map(Sequence::finished).collect::<Option<Vec<_>>>()?;
        let head = Head::new(kind, &self.options, model);
        let tokens = sequences.iter().map(|s| (s.start.prompt_tokens, s.finish.statistics.new_tokens));
        let usage = Usage::of(tokens, self.options.n);
        let log_probs = self.options.log_probs;
        Some(match kind {
            Kind::Completion => {
                let choices = sequences.iter().enumerate().map(|(i, s)| s.completion(i, log_probs)).collect();
                let tandem = extension(sequences, self.options.trace);
                Whole::Completion(Completion { head, choices, usage, tandem })
            }
            Kind::Chat => {
                let choices = sequences.iter().enumerate().map(|(i, s)| s.chat(i, log_probs)).collect();
                let tandem = extension(sequences, self.options.trace);
                Whole::Chat(ChatCompletion { head, choices, usage, tandem })
            }
        })
    }
}

impl Sequence {
    fn finished(self) -> Option<Finished> {
        Some(Finished {
            start: self.start?,
            text: self.text,
            tokens: self.tokens,
            iterations: self.iterations,
            finish: self.finish?,
        })
    }
}

impl Finished {
    fn completion(&self, index: usize, log_probs: bool) -> CompletionChoice {
        CompletionChoice {
            index,
            text: self.text.clone(),
            logprobs: log_probs.then(|| CompletionLogProbs::new(&self.tokens, &mut 0)),
            finish_reason: Some(finish_reason(&self.finish.reason)),
        }
    }

    fn chat(&self, index: usize, log_probs: bool) -> ChatChoice {
        let content = self.text.clone();
        ChatChoice {
            index,
            message: AssistantMessage { role: "assistant", content, refusal: None },
            logprobs: log_probs.then(|| ChatLogProbs::new(&self.tokens)),
            finish_reason: Some(finish_reason(&self.finish.reason)),
        }
    }

    fn extension(self, trace: bool) -> ChoiceExtension {
        let iterations = self.iterations.into_iter().map(Into::into).collect();
        ChoiceExtension {
            tokens: trace.then(|| TokenOrigin::all(&self.tokens)),
            iterations: trace.then_some(iterations),
            summary: SequenceSummary::new(self.start.seed, &self.finish),
        }
    }
}

fn extension(sequences: Vec<Finished>, trace: bool) -> Extension {
    Extension { choices: sequences.into_iter().map(|sequence| sequence.extension(trace)).collect() }
}

/// Bytes of a number, on average.
const NUMBER_BYTES: usize = 6;

fn token_bytes(token: &Token) -> usize {
    let top: usize = token.top.iter().map(|top| top.text.len() + 2 * NUMBER_BYTES).sum();
    token.text.len() + 2 * NUMBER_BYTES + top
}

fn iteration_bytes(iteration: &Iteration) -> usize {
    let texts: usize = iteration.texts.iter().map(String::len).sum();
    // Each node has a token, a parent, Q and P.
    texts + (4 * iteration.tree.len() + iteration.accepted.len()) * NUMBER_BYTES
}
