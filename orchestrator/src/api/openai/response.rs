//! Events of the gRPC API, turned into OpenAI's objects.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tandem_proto::{method_from_wire, v1};

use super::request::{Kind, Request};

/// Makes the objects of one response.
pub(super) struct Writer {
    kind: Kind,
    id: String,
    /// Seconds since 1970.
    created: u64,
    model: String,
    log_probs: bool,
    trace: bool,
    /// Every chunk of the stream has a field for it.
    usage: bool,
    /// Texts per prompt.
    n: usize,
    choices: Vec<Choice>,
}

/// What is known of one text so far.
#[derive(Default)]
struct Choice {
    prompt_tokens: u32,
    seed: u64,
    /// In characters.
    offset: usize,
    finished: Option<v1::Finished>,
}

/// What an event adds to a text.
pub(super) struct Delta {
    pub(super) index: usize,
    pub(super) text: String,
    /// OpenAI's `logprobs`; null if not asked for.
    pub(super) log_probs: Value,
    pub(super) finish_reason: Option<&'static str>,
    /// Tandem's own; null if there is nothing to say.
    pub(super) tandem: Value,
}

/// JSON has no infinities: what OpenAI writes for a token that cannot be.
const IMPOSSIBLE: f64 = -9999.0;

impl Writer {
    /// For `request` with so many prompts, to `model`.
    pub(super) fn new(kind: Kind, request: &Request, (prompts, model): (usize, String)) -> Self {
        let prefix = if kind == Kind::Chat { "chatcmpl" } else { "cmpl" };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            kind,
            id: format!("{prefix}-{:032x}", rand::random::<u128>()),
            created: now.as_secs(),
            model,
            log_probs: request.log_probs,
            trace: request.trace,
            usage: request.include_usage,
            n: request.n,
            choices: (0..prompts * request.n).map(|_| Choice::default()).collect(),
        }
    }

    /// Takes an event; `None` if the client learns nothing of it, or if it makes no sense.
    pub(super) fn delta(&mut self, event: v1::GenerateResponse) -> Option<Delta> {
        use v1::generate_response::Event;
        let index = event.index as usize;
        let choice = self.choices.get_mut(index)?;
        let mut delta = Delta {
            index,
            text: String::new(),
            log_probs: Value::Null,
            finish_reason: None,
            tandem: Value::Null,
        };
        match event.event? {
            Event::Started(started) => {
                choice.prompt_tokens = started.prompt_tokens;
                choice.seed = started.seed;
                // A chat's stream begins with the role, whatever the text will be.
                return (self.kind == Kind::Chat).then_some(delta);
            }
            Event::Chunk(chunk) => {
                if self.log_probs {
                    delta.log_probs = match self.kind {
                        Kind::Completion => completion_log_probs(&chunk, &mut choice.offset),
                        Kind::Chat => chat_log_probs(&chunk),
                    };
                }
                if self.trace {
                    delta.tandem = trace(&chunk);
                }
                delta.text = chunk.text;
            }
            Event::Finished(finished) => {
                delta.finish_reason = Some(match finished.reason() {
                    v1::FinishReason::Length => "length",
                    _ => "stop",
                });
                delta.tandem = conclusion(&finished, choice.seed);
                choice.finished = Some(finished);
            }
        }
        Some(delta)
    }

    /// A chunk of a stream.
    pub(super) fn chunk(&self, delta: Delta, first: bool) -> Value {
        let Delta { index, text, log_probs, finish_reason, tandem } = delta;
        let mut choice = json!({ "index": index, "logprobs": log_probs, "finish_reason": finish_reason });
        match self.kind {
            Kind::Completion => choice["text"] = text.into(),
            Kind::Chat if first => choice["delta"] = json!({ "role": "assistant", "content": text }),
            Kind::Chat if finish_reason.is_some() => choice["delta"] = json!({}),
            Kind::Chat => choice["delta"] = json!({ "content": text }),
        }
        let mut chunk = self.object(".chunk", json!([choice]));
        if self.usage {
            chunk["usage"] = Value::Null;
        }
        if !tandem.is_null() {
            chunk["tandem"] = tandem;
        }
        chunk
    }

    /// Whether all texts have ended as they should.
    pub(super) fn is_finished(&self) -> bool {
        self.choices.iter().all(|choice| choice.finished.is_some())
    }

    /// The last chunk of a stream, if the usage was asked for.
    pub(super) fn usage_chunk(&self) -> Option<Value> {
        if !self.usage {
            return None;
        }
        let mut chunk = self.object(".chunk", json!([]));
        chunk["usage"] = self.usage();
        Some(chunk)
    }

    /// The whole response.
    pub(super) fn whole(&self, deltas: Vec<Delta>) -> Value {
        let mut texts: Vec<Whole> = self.choices.iter().map(|_| Whole::default()).collect();
        for delta in deltas {
            if let Some(whole) = texts.get_mut(delta.index) {
                whole.add(delta);
            }
        }
        let (mut choices, mut tandem) = (Vec::new(), Vec::new());
        for (index, whole) in texts.into_iter().enumerate() {
            let mut choice =
                json!({ "index": index, "logprobs": whole.log_probs, "finish_reason": whole.finish_reason });
            match self.kind {
                Kind::Completion => choice["text"] = whole.text.into(),
                Kind::Chat => {
                    choice["message"] =
                        json!({ "role": "assistant", "content": whole.text, "refusal": null });
                }
            }
            choices.push(choice);
            tandem.push(whole.tandem);
        }
        let mut response = self.object("", choices.into());
        response["usage"] = self.usage();
        response["tandem"] = json!({ "choices": tandem });
        response
    }

    fn object(&self, suffix: &str, choices: Value) -> Value {
        let object = match self.kind {
            // Chunks of completions have no name of their own.
            Kind::Completion => "text_completion".to_owned(),
            Kind::Chat => format!("chat.completion{suffix}"),
        };
        json!({ "id": self.id, "object": object, "created": self.created, "model": self.model, "choices": choices })
    }

    fn usage(&self) -> Value {
        // A prompt counts once, however many texts were written behind it.
        let prompt: u64 = self.choices.iter().step_by(self.n).map(|c| u64::from(c.prompt_tokens)).sum();
        let statistics = self.choices.iter().filter_map(|c| c.finished.as_ref()?.statistics.as_ref());
        let completion: u64 = statistics.map(|s| u64::from(s.new_tokens)).sum();
        json!({ "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion })
    }
}

/// One text, put together.
#[derive(Default)]
struct Whole {
    text: String,
    log_probs: Value,
    finish_reason: Option<&'static str>,
    tandem: Value,
}

impl Whole {
    fn add(&mut self, delta: Delta) {
        self.text += &delta.text;
        self.finish_reason = self.finish_reason.or(delta.finish_reason);
        append(&mut self.log_probs, delta.log_probs);
        // One iteration of a stream, several here.
        let mut tandem = delta.tandem;
        if let Some(object) = tandem.as_object_mut()
            && let Some(iteration) = object.remove("iteration")
        {
            object.insert("iterations".to_owned(), json!([iteration]));
        }
        append(&mut self.tandem, tandem);
    }
}

/// Puts the arrays within `more` behind those within `all`.
fn append(all: &mut Value, more: Value) {
    match (all, more) {
        (_, Value::Null) => {}
        (Value::Object(all), Value::Object(more)) => {
            for (key, value) in more {
                append(all.entry(key).or_insert(Value::Null), value);
            }
        }
        (Value::Array(all), Value::Array(more)) => all.extend(more),
        (all, more) => *all = more,
    }
}

fn finite(log_prob: f64) -> f64 {
    if log_prob.is_finite() { log_prob } else { IMPOSSIBLE }
}

fn completion_log_probs(chunk: &v1::Chunk, offset: &mut usize) -> Value {
    let mut offsets = Vec::new();
    for text in &chunk.token_texts {
        offsets.push(*offset);
        *offset += text.chars().count();
    }
    let entry = |(text, &log_prob): (&String, &f64)| (text.clone(), finite(log_prob).into());
    let tops: Vec<Value> =
        std::iter::zip(&chunk.top_log_probs, chunk.token_texts.iter().zip(&chunk.log_probs))
            .map(|(top, chosen)| {
                // The chosen token is always there, be it one of the likeliest or not.
                let likeliest = top.texts.iter().zip(&top.log_probs);
                Value::Object(likeliest.chain([chosen]).map(entry).collect())
            })
            .collect();
    json!({
        "tokens": chunk.token_texts,
        "token_logprobs": chunk.log_probs.iter().map(|&l| finite(l)).collect::<Vec<_>>(),
        "top_logprobs": if tops.is_empty() { Value::Null } else { tops.into() },
        "text_offset": offsets,
    })
}

fn chat_log_probs(chunk: &v1::Chunk) -> Value {
    let token = |text: &str, log_prob: f64| json!({ "token": text, "logprob": finite(log_prob), "bytes": text.as_bytes() });
    let content = chunk.token_texts.iter().zip(&chunk.log_probs).enumerate().map(|(i, (text, &log_prob))| {
        let mut entry = token(text, log_prob);
        let top = chunk.top_log_probs.get(i).map(|t| t.texts.iter().zip(&t.log_probs));
        entry["top_logprobs"] =
            top.into_iter().flatten().map(|(text, &log_prob)| token(text, log_prob)).collect();
        entry
    });
    json!({ "content": content.collect::<Vec<_>>(), "refusal": null })
}

/// How an iteration's text came to be.
fn trace(chunk: &v1::Chunk) -> Value {
    let tokens = chunk.token_ids.iter().zip(&chunk.token_texts).zip(&chunk.drafted);
    let tokens: Vec<Value> =
        tokens.map(|((id, text), drafted)| json!({ "id": id, "text": text, "drafted": drafted })).collect();
    let mut trace = json!({ "tokens": tokens });
    if let Some(i) = &chunk.iteration {
        let tree = i.tree.clone().unwrap_or_default();
        // Minus infinity becomes null.
        trace["iteration"] = json!({
            "tokens": tree.tokens, "parents": tree.parents, "texts": i.texts,
            "draft_joint_log_probs": i.draft_joint_log_probs, "target_joint_log_probs": i.target_joint_log_probs,
            "accepted_nodes": i.accepted_nodes, "bonus_token": i.bonus_token, "bonus_text": i.bonus_text,
        });
    }
    trace
}

/// What a text took.
fn conclusion(finished: &v1::Finished, seed: u64) -> Value {
    let s = finished.statistics.clone().unwrap_or_default();
    let method = method_from_wire(s.method).map(|m| m.name()).unwrap_or_default();
    let stop = if finished.stop.is_empty() { Value::Null } else { finished.stop.clone().into() };
    json!({
        "seed": seed,
        "stop": stop,
        "statistics": {
            "method": method, "lossless": s.lossless, "new_tokens": s.new_tokens, "iterations": s.iterations,
            "drafted_tokens": s.drafted_tokens, "accepted_tokens": s.accepted_tokens,
            "accepted_by_depth": s.accepted_by_depth, "asked_tokens": s.asked_tokens,
            "block_efficiency": s.block_efficiency, "acceptance_rate": s.acceptance_rate,
            "total_ms": s.total_ms, "waiting_ms": s.waiting_ms, "prefill_ms": s.prefill_ms, "draft_ms": s.draft_ms,
            "target_ms": s.target_ms, "orchestration_ms": s.orchestration_ms,
            "time_to_first_token_ms": s.time_to_first_token_ms,
            "undrafted_iterations": s.undrafted_iterations, "failovers": s.failovers,
        },
    })
}
