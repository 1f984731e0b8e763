//! Writes the chunks of a stream.

use serde::Serialize;
use tandem_generation::{Chunk as Piece, Event, Finish, SequenceStart};

use super::extension::ChunkExtension;
use super::{
    ChatChunkChoice, ChatCompletionChunk, ChatDelta, ChatLogProbs, ChunkAdditions, CompletionChoice,
    CompletionChunk, CompletionLogProbs, Head, Kind, Usage, finish_reason,
};
use crate::api::openai::request::AnswerOptions;
use crate::sequence::SequenceEvent;

/// A chunk of either endpoint.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(in crate::api::openai) enum AnyChunk {
    Completion(CompletionChunk),
    Chat(ChatCompletionChunk),
}

/// Turns the events of a request into chunks.
pub(in crate::api::openai) struct ChunkWriter {
    kind: Kind,
    head: Head,
    options: AnswerOptions,
    sequences: Vec<Progress>,
}

/// What the chunks of one sequence have said so far.
#[derive(Default)]
struct Progress {
    seed: u64,
    prompt_tokens: usize,
    /// Once it is finished.
    new_tokens: Option<usize>,
    /// Characters of the tokens so far.
    offset: usize,
}

impl ChunkWriter {
    /// For the answer by `model` to so many prompts.
    pub(in crate::api::openai) fn new(
        kind: Kind,
        options: AnswerOptions,
        prompts: usize,
        model: String,
    ) -> Self {
        let mut sequences = Vec::new();
        sequences.resize_with(prompts * options.n, Progress::default);
        Self { kind, head: Head::new(kind, &options, model), options, sequences }
    }

    /// The chunk for an event; `None` if the client learns nothing from it.
    pub(in crate::api::openai) fn write(&mut self, event: SequenceEvent) -> Option<AnyChunk> {
        let SequenceEvent { index, event } = event;
        if index >= self.sequences.len() {
            return None;
        }
        match event {
            Event::Started(start) => self.started(index, &start),
            Event::Chunk(piece) => Some(self.piece(index, piece)),
            Event::Finished(finish) => Some(self.finished(index, &finish)),
        }
    }

    /// Whether all sequences are complete.
    pub(in crate::api::openai) fn is_finished(&self) -> bool {
        self.sequences.iter().all(|sequence| sequence.new_tokens.is_some())
    }

    /// The chunk with the usage, if it was requested.
    pub(in crate::api::openai) fn usage(&self) -> Option<AnyChunk> {
        if !self.options.include_usage {
            return None;
        }
        let choices = self.sequences.iter().map(|s| (s.prompt_tokens, s.new_tokens.unwrap_or(0)));
        let usage = Some(Some(Usage::of(choices, self.options.n)));
        let additions = ChunkAdditions { usage, tandem: None };
        let head = self.head.clone();
        Some(match self.kind {
            Kind::Completion => {
                AnyChunk::Completion(CompletionChunk { head, choices: Vec::new(), additions })
            }
            Kind::Chat => AnyChunk::Chat(ChatCompletionChunk { head, choices: Vec::new(), additions }),
        })
    }

    fn started(&mut self, index: usize, start: &SequenceStart) -> Option<AnyChunk> {
        let sequence = &mut self.sequences[index];
        sequence.prompt_tokens = start.prompt_tokens;
        sequence.seed = start.seed;
        match self.kind {
            Kind::Completion => None,
            Kind::Chat => {
                let delta = ChatDelta { role: Some("assistant"), content: Some(String::new()) };
                let choice = ChatChunkChoice { index, delta, logprobs: None, finish_reason: None };
                Some(self.chat(choice, None))
            }
        }
    }

    fn piece(&mut self, index: usize, piece: Piece) -> AnyChunk {
        let Piece { text, tokens, iteration } = piece;
        let iteration = iteration.map(|iteration| *iteration);
        let tandem = self.options.trace.then(|| ChunkExtension::trace(&tokens, iteration));
        let log_probs = self.options.log_probs;
        match self.kind {
            Kind::Completion => {
                let offset = &mut self.sequences[index].offset;
                let logprobs = log_probs.then(|| CompletionLogProbs::new(&tokens, offset));
                self.completion(CompletionChoice { index, text, logprobs, finish_reason: None }, tandem)
            }
            Kind::Chat => {
                let logprobs = log_probs.then(|| ChatLogProbs::new(&tokens));
                let delta = ChatDelta { role: None, content: Some(text) };
                self.chat(ChatChunkChoice { index, delta, logprobs, finish_reason: None }, tandem)
            }
        }
    }

    fn finished(&mut self, index: usize, finish: &Finish) -> AnyChunk {
        let sequence = &mut self.sequences[index];
        sequence.new_tokens = Some(finish.statistics.new_tokens);
        let tandem = Some(ChunkExtension::end(sequence.seed, finish));
        let finish_reason = Some(finish_reason(&finish.reason));
        match self.kind {
            Kind::Completion => {
                let text = String::new();
                self.completion(CompletionChoice { index, text, logprobs: None, finish_reason }, tandem)
            }
            Kind::Chat => {
                let delta = ChatDelta::default();
                self.chat(ChatChunkChoice { index, delta, logprobs: None, finish_reason }, tandem)
            }
        }
    }

    fn completion(&self, choice: CompletionChoice, tandem: Option<ChunkExtension>) -> AnyChunk {
        let head = self.head.clone();
        AnyChunk::Completion(CompletionChunk {
            head,
            choices: vec![choice],
            additions: self.additions(tandem),
        })
    }

    fn chat(&self, choice: ChatChunkChoice, tandem: Option<ChunkExtension>) -> AnyChunk {
        let head = self.head.clone();
        AnyChunk::Chat(ChatCompletionChunk { head, choices: vec![choice], additions: self.additions(tandem) })
    }

    fn additions(&self, tandem: Option<ChunkExtension>) -> ChunkAdditions {
        ChunkAdditions { usage: self.options.include_usage.then_some(None), tandem }
    }
}
