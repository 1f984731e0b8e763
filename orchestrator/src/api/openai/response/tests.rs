use serde_json::{Value, json, to_value};
use tandem_decoding::{JointLogProbs, Method, TokenId, TokenTree, TreeLimits};
use tandem_generation::{Chunk, Event, Finish, Iteration, SequenceStart, Statistics, Token, TopToken};

use super::*;
use crate::sequence::SequenceEvent;

fn options(stream: bool) -> AnswerOptions {
    AnswerOptions { n: 1, stream, include_usage: stream, log_probs: true, trace: true }
}

fn token(id: u32, text: &str, drafted: bool) -> Token {
    let top = vec![TopToken { id: TokenId(id), text: text.into(), log_prob: -0.5 }];
    Token { id: TokenId(id), text: text.into(), drafted, log_prob: Some(-0.5), top }
}

/// One draft token of a tree of two was accepted, and a bonus token drawn.
fn iteration() -> Iteration {
    let parents = vec![None, Some(0)];
    let tree = TokenTree::new(vec![TokenId(7), TokenId(9)], parents, TreeLimits::default()).unwrap();
    let draft = JointLogProbs::new(&tree, vec![-0.25, -1.0]).unwrap();
    let target = JointLogProbs::new(&tree, vec![-0.5, f64::NEG_INFINITY]).unwrap();
    Iteration {
        tree,
        texts: vec!["a".into(), "x".into()],
        draft,
        target: Some(target),
        accepted: vec![0],
        bonus: Some((TokenId(8), "b".into())),
    }
}

fn events() -> Vec<SequenceEvent> {
    let start = SequenceStart {
        prompt_tokens: 3,
        seed: 5,
        method: Method::Mmtad,
        target_model: "acme/large".into(),
        draft_model: "acme/small".into(),
    };
    let chunk = Chunk {
        text: "ab".into(),
        tokens: vec![token(7, "a", true), token(8, "b", false)],
        iteration: Some(Box::new(iteration())),
    };
    let mut statistics = Statistics::new(Method::Mmtad, 2);
    statistics.new_tokens = 2;
    statistics.iterations = 1;
    statistics.accepted = 1;
    statistics.depth_requested = 2;
    let finish = Finish { reason: FinishReason::Stop(";".into()), statistics };
    [Event::Started(start), Event::Chunk(chunk), Event::Finished(Box::new(finish))]
        .map(|event| SequenceEvent { index: 0, event })
        .into()
}

fn whole(kind: Kind, events: Vec<SequenceEvent>) -> Option<Value> {
    let mut collector = Collector::new(options(false), 1);
    for event in events {
        collector.add(event);
    }
    assert!(collector.bytes() > 0);
    Some(to_value(collector.finish(kind, "m".into())?).unwrap())
}

fn streamed(kind: Kind) -> Vec<Value> {
    let mut writer = ChunkWriter::new(kind, options(true), 1, "m".into());
    let mut chunks = Vec::new();
    for event in events() {
        assert!(!writer.is_finished());
        chunks.extend(writer.write(event).map(|chunk| to_value(chunk).unwrap()));
    }
    assert!(writer.is_finished());
    chunks.push(to_value(writer.usage().unwrap()).unwrap());
    chunks
}

fn tokens() -> Value {
    json!([{ "id": 7, "text": "a", "drafted": true }, { "id": 8, "text": "b", "drafted": false }])
}

fn iteration_report() -> Value {
    json!({
        "tokens": [7, 9], "parents": [-1, 0], "texts": ["a", "x"], "draft_joint_log_probs": [-0.25, -1.0],
        "target_joint_log_probs": [-0.5, null], "accepted_nodes": [0], "bonus_token": 8, "bonus_text": "b",
    })
}

fn statistics() -> Value {
    json!({
        "method": "mmtad", "lossless": false, "new_tokens": 2, "iterations": 1, "drafted_tokens": 0,
        "accepted_tokens": 1, "accepted_by_depth": [0, 0], "asked_tokens": 2, "block_efficiency": 2.0,
        "acceptance_rate": 0.5, "total_ms": 0.0, "waiting_ms": 0.0, "prefill_ms": 0.0, "draft_ms": 0.0,
        "target_ms": 0.0, "orchestration_ms": 0.0, "time_to_first_token_ms": 0.0, "undrafted_iterations": 0,
        "failovers": 0,
    })
}

fn completion_log_probs() -> Value {
    json!({
        "tokens": ["a", "b"], "token_logprobs": [-0.5, -0.5], "top_logprobs": [{ "a": -0.5 }, { "b": -0.5 }],
        "text_offset": [0, 1],
    })
}

fn usage() -> Value {
    json!({ "prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5 })
}

/// An object without what differs from call to call.
fn comparable(mut object: Value) -> Value {
    let fields = object.as_object_mut().unwrap();
    let id = fields.remove("id").unwrap();
    assert!(id.as_str().unwrap().starts_with("cmpl-") || id.as_str().unwrap().starts_with("chatcmpl-"));
    assert!(fields.remove("created").unwrap().as_u64().unwrap() > 0);
    assert_eq!(fields.remove("model").unwrap(), "m");
    object
}

#[test]
fn a_whole_completion_has_these_fields() {
    let expected = json!({
        "object": "text_completion",
        "choices": [{
            "index": 0, "text": "ab", "finish_reason": "stop", "logprobs": completion_log_probs(),
        }],
        "usage": usage(),
        "tandem": { "choices": [{
            "tokens": tokens(), "iterations": [iteration_report()], "seed": 5, "stop": ";", "statistics": statistics(),
        }]},
    });
    assert_eq!(comparable(whole(Kind::Completion, events()).unwrap()), expected);
}

#[test]
fn a_whole_chat_completion_has_a_message() {
    let answer = comparable(whole(Kind::Chat, events()).unwrap());
    assert_eq!(answer["object"], "chat.completion");
    let choice = &answer["choices"][0];
    assert_eq!(choice["message"], json!({ "role": "assistant", "content": "ab", "refusal": null }));
    assert_eq!(choice["logprobs"]["content"][1]["token"], "b");
}

#[test]
fn a_sequence_without_its_end_is_not_an_answer() {
    let mut events = events();
    events.pop();
    assert_eq!(whole(Kind::Completion, events), None);
}

#[test]
fn chunks_of_a_completion_have_these_fields() {
    let chunk = |choices: Value, usage: Value| json!({ "object": "text_completion", "choices": choices, "usage": usage });
    let log_probs = completion_log_probs();
    let mut first = chunk(
        json!([{ "index": 0, "text": "ab", "logprobs": log_probs, "finish_reason": null }]),
        Value::Null,
    );
    first["tandem"] = json!({ "tokens": tokens(), "iteration": iteration_report() });
    let mut last =
        chunk(json!([{ "index": 0, "text": "", "logprobs": null, "finish_reason": "stop" }]), Value::Null);
    last["tandem"] = json!({ "seed": 5, "stop": ";", "statistics": statistics() });
    let chunks: Vec<Value> = streamed(Kind::Completion).into_iter().map(comparable).collect();
    assert_eq!(chunks, [first, last, chunk(json!([]), usage())]);
}

#[test]
fn chunks_of_a_chat_begin_with_the_role_and_end_empty() {
    let chunks = streamed(Kind::Chat);
    assert!(chunks.iter().all(|chunk| chunk["object"] == "chat.completion.chunk"));
    assert!(chunks.iter().all(|chunk| chunk["id"] == chunks[0]["id"]));
    let deltas: Vec<&Value> = chunks.iter().map(|chunk| &chunk["choices"][0]["delta"]).collect();
    let role = json!({ "role": "assistant", "content": "" });
    assert_eq!(deltas, [&role, &json!({ "content": "ab" }), &json!({}), &Value::Null]);
    assert_eq!(chunks[0].get("tandem"), None);
}

#[test]
fn a_prompt_counts_once_however_many_choices_it_has() {
    let choices = [(3, 1), (3, 2), (7, 4), (7, 8)];
    let usage = Usage::of(choices.into_iter(), 2);
    assert_eq!(usage, Usage { prompt_tokens: 10, completion_tokens: 15, total_tokens: 25 });
}
