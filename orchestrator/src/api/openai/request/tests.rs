use serde_json::{Value, json};
use tandem_decoding::{Drafting, Expansion, Method, Reference, TokenId};
use tandem_generation::MAX_CHOICES;

use super::prompt::MAX_PROMPTS;
use super::*;
use crate::error::ServiceError;

/// A request that was read and checked.
#[derive(Debug)]
struct Checked {
    generate: Vec<GenerateRequest>,
    options: AnswerOptions,
}

fn completion(change: Value) -> Result<Checked, String> {
    parse(Kind::Completion, json!({ "prompt": "x" }), change)
}

fn chat(change: Value) -> Result<Checked, String> {
    parse(Kind::Chat, json!({ "messages": [{ "role": "user", "content": "x" }] }), change)
}

fn parse(kind: Kind, mut body: Value, change: Value) -> Result<Checked, String> {
    for (field, value) in change.as_object().unwrap() {
        body[field] = value.clone();
    }
    read(kind, &body).map_err(|error| {
        let body = serde_json::to_value(error.body()).unwrap();
        body["error"]["message"].as_str().unwrap().to_owned()
    })
}

fn read(kind: Kind, body: &Value) -> Result<Checked, ApiError> {
    let request = Request::parse(kind, body.to_string().as_bytes())?;
    let options = request.options;
    let generate = request.check().map_err(|error| ApiError::new(&ServiceError::from(error), kind))?;
    Ok(Checked { generate, options })
}

#[test]
fn defaults_are_openais() {
    let request = completion(json!({})).unwrap();
    let generate = &request.generate[0];
    assert_eq!(generate.max_new_tokens, 16);
    let sampling = &generate.sampling;
    assert_eq!((sampling.temperature(), sampling.top_k(), sampling.top_p()), (1.0, 0, 1.0));
    assert_eq!((generate.model.as_ref(), generate.seed, generate.ignore_eos), (None, None, false));
    assert_eq!(generate.decoding.method(), Method::Mmtad);
    let options = AnswerOptions { n: 1, stream: false, include_usage: false, log_probs: false, trace: false };
    assert_eq!(request.options, options);
    assert_eq!(chat(json!({})).unwrap().generate[0].max_new_tokens, usize::MAX);
}

#[test]
fn every_form_of_a_prompt_is_read() {
    let inputs = |prompt: Value| {
        let request = completion(json!({ "prompt": prompt })).unwrap();
        request.generate.into_iter().map(|g| g.input).collect::<Vec<_>>()
    };
    let tokens = |ids: &[u32]| Input::Tokens(ids.iter().copied().map(TokenId).collect());
    assert_eq!(inputs(json!("a")), [Input::Text("a".into())]);
    assert_eq!(inputs(json!(["a", "b"])), [Input::Text("a".into()), Input::Text("b".into())]);
    assert_eq!(inputs(json!([1, 2])), [tokens(&[1, 2])]);
    assert_eq!(inputs(json!([[1], [2]])), [tokens(&[1]), tokens(&[2])]);
    for wrong in [json!(1), json!([1, "a"]), json!([-1]), json!({})] {
        let error = completion(json!({ "prompt": wrong })).unwrap_err();
        assert!(error.starts_with("prompt is not valid: expected a string, an array of strings"), "{error}");
    }
    assert!(completion(json!({ "prompt": [] })).is_err());
    assert_eq!(completion(json!({ "prompt": null })).unwrap_err(), "prompt is missing");
}

#[test]
fn messages_are_texts_or_text_parts() {
    let chat = |message: Value| {
        let mut request = parse(Kind::Chat, json!({ "messages": [message] }), json!({}))?;
        match request.generate.remove(0).input {
            Input::Chat(messages) => Ok(messages[0].content.clone()),
            other => Err(format!("{other:?}")),
        }
    };
    let answer = json!({ "role": "assistant", "content": "x", "refusal": null, "tool_calls": [] });
    assert_eq!(chat(answer).unwrap(), "x");
    let parts = json!([{ "type": "text", "text": "a" }, { "type": "text", "text": "b" }]);
    assert_eq!(chat(json!({ "role": "user", "content": parts })).unwrap(), "ab");
    let image = json!([{ "type": "image_url", "image_url": { "url": "x" } }]);
    let refused = chat(json!({ "role": "user", "content": image })).unwrap_err();
    assert_eq!(refused, "messages[0].content has a part of type \"image_url\": only text is supported");
    assert_eq!(chat(json!({ "role": "user" })).unwrap_err(), "messages[0].content is missing");
    let named = chat(json!({ "role": "user", "content": "x", "name": "me" })).unwrap_err();
    assert!(named.starts_with("messages[0].name is not a field of this endpoint"), "{named}");
}

#[test]
fn a_value_of_the_wrong_type_has_its_path_in_the_message() {
    let user = json!({ "role": "user", "content": "x" });
    for (change, message) in [
        (
            json!({ "messages": [user, { "role": "user", "content": 5 }] }),
            "messages[1].content is not valid: expected a string or an array of text parts",
        ),
        (json!({ "messages": [{ "role": [] }] }), "messages[0].role is not valid: invalid type"),
        (
            json!({ "messages": "x" }),
            "messages is not valid: invalid type: string \"x\", expected a sequence",
        ),
        (
            json!({ "messages": ["x"] }),
            "messages[0] is not valid: invalid type: string \"x\", expected an object",
        ),
        (json!({ "decoding": { "beam_width": "4" } }), "decoding.beam_width is not valid: invalid type"),
        (
            json!({ "decoding": { "branching": [4, -1] } }),
            "decoding.branching[1] is not valid: invalid value",
        ),
        (
            json!({ "decoding": { "method": "magic" } }),
            "decoding.method is not valid: unknown method \"magic\": choose one of autoregressive",
        ),
        (json!({ "decoding": [] }), "decoding is not valid: invalid type: sequence, expected an object"),
        (
            json!({ "stream": true, "stream_options": { "include_usage": 1 } }),
            "stream_options.include_usage is not valid: invalid type",
        ),
        (json!({ "seed": 1.5 }), "seed is not valid: expected an integer of 64 bits"),
        (json!({ "stop": [1] }), "stop is not valid: expected a string or an array of strings"),
        (json!({ "n": u64::MAX }), "n is not valid: invalid value"),
    ] {
        let error = chat(change.clone()).unwrap_err();
        assert!(error.starts_with(message), "{change}: {error}");
    }
    let error = read(Kind::Completion, &json!({ "prompt": "x", "decoding": { "gamma": 4 } })).unwrap_err();
    let error = serde_json::to_value(error.body()).unwrap()["error"].clone();
    assert_eq!(error["param"], "decoding.gamma");
    assert_eq!(error["code"], "unsupported_parameter");
}

#[test]
fn what_cannot_be_honoured_is_refused_by_name() {
    for (field, value) in [
        ("tools", json!([{}])),
        ("response_format", json!({ "type": "json_object" })),
        ("logit_bias", json!({ "1": 5 })),
        ("presence_penalty", json!(0.5)),
        ("frequency_penalty", json!(1)),
        ("echo", json!(true)),
        ("best_of", json!(2)),
        ("suffix", json!("x")),
        ("min_p", json!(0.1)),
        ("stream_options", json!({ "include_usage": true })),
        ("decoding", json!({ "method": "magic" })),
        ("decoding", json!({ "gamma": 4 })),
        ("seed", json!(1.5)),
        ("n", json!(0)),
        ("n", json!(u32::MAX)),
        ("top_p", json!(0)),
        ("stop", json!([1])),
        ("max_completion_tokens", json!("many")),
        ("verbosity", json!("low")),
    ] {
        let error = completion(json!({ field: value })).unwrap_err();
        assert!(error.starts_with(field), "{field}: {error}");
    }
    completion(json!({ "user": "me", "presence_penalty": 0, "echo": false, "best_of": 1, "tools": [] }))
        .unwrap();
}

#[test]
fn tandems_own_fields_are_read() {
    let decoding = json!({
        "method": "specinfer", "branching": [2, 1], "beams": "sampled-with-replacement", "reference": "max", "trace": true
    });
    let request = completion(json!({ "decoding": decoding, "seed": -1, "stop": ";" })).unwrap();
    let generate = &request.generate[0];
    let read = &generate.decoding;
    assert_eq!((read.method(), read.max_tree_nodes()), (Method::SpecInfer, 4));
    assert_eq!(read.reference(), Reference::Max);
    assert_eq!((generate.seed, generate.stop.as_slice()), (Some(u64::MAX), &[";".to_owned()][..]));
    assert!(generate.trace && request.options.trace);
    let top = completion(json!({ "decoding": { "beams": "top" } })).unwrap();
    let Some(Drafting::Beams { expansion, .. }) = top.generate[0].decoding.drafting() else {
        panic!("{top:?}");
    };
    assert_eq!(expansion, Expansion::Top);
    let wrong = completion(json!({ "decoding": { "branching": [2] } })).unwrap_err();
    assert!(wrong.starts_with("decoding.branching applies to specinfer only"), "{wrong}");
}

#[test]
fn log_probabilities_have_the_form_of_each_endpoint() {
    let of = |request: Result<Checked, String>| {
        let generate = request.unwrap().generate.remove(0);
        (generate.log_probs, generate.top_log_probs)
    };
    assert_eq!(of(completion(json!({}))), (false, 0));
    assert_eq!(of(completion(json!({ "logprobs": 0 }))), (true, 0));
    assert_eq!(of(completion(json!({ "logprobs": 5 }))), (true, 5));
    assert_eq!(of(chat(json!({ "logprobs": true, "top_logprobs": 2 }))), (true, 2));
    let alone = chat(json!({ "top_logprobs": 2 })).unwrap_err();
    assert_eq!(alone, "top_logprobs is 2, which requires logprobs: set logprobs too");
    let many = completion(json!({ "logprobs": 21 })).unwrap_err();
    assert_eq!(many, "logprobs is 21: it must be between 0 and 20");
}

/// No value of a field makes anything panic or grow.
#[test]
fn any_value_in_any_field_is_read_or_refused() {
    let deep = (0..100).fold(json!(1), |inner, _| json!([inner]));
    let odd = [
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(0.5),
        json!(1e308),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(""),
        json!("\u{0}"),
        json!("x".repeat(10_000)),
        json!([]),
        json!([null]),
        json!([[]]),
        json!([-1]),
        json!({}),
        json!({ "": 1 }),
        json!([{}]),
        json!({ "type": 1 }),
        deep,
    ];
    let fields = [
        "model",
        "prompt",
        "messages",
        "stream",
        "stream_options",
        "logprobs",
        "top_logprobs",
        "n",
        "best_of",
        "decoding",
        "max_tokens",
        "max_completion_tokens",
        "temperature",
        "top_k",
        "top_p",
        "seed",
        "stop",
        "ignore_eos",
        "tools",
        "response_format",
        "user",
        "unheard_of",
    ];
    let options = [
        "method",
        "beams",
        "reference",
        "beam_width",
        "draft_tokens",
        "acceptance_threshold",
        "branching",
        "trace",
    ];
    for value in &odd {
        for kind in [Kind::Completion, Kind::Chat] {
            let base = match kind {
                Kind::Completion => json!({ "prompt": "x" }),
                Kind::Chat => json!({ "messages": [{ "role": "user", "content": "x" }] }),
            };
            for field in fields {
                let read = parse(kind, base.clone(), json!({ field: value }));
                if let Ok(request) = read {
                    assert!(request.generate.len() * request.options.n <= MAX_PROMPTS * MAX_CHOICES);
                }
            }
            for option in options {
                let _ = parse(kind, base.clone(), json!({ "decoding": { option: value } }));
            }
            for part in ["role", "content", "name", "tool_calls"] {
                let message = json!({ "role": "user", "content": "x", part: value });
                let _ = parse(kind, json!({}), json!({ "messages": [message] }));
            }
        }
    }
}
