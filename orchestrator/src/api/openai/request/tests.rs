use super::*;
use serde_json::json;

fn completion(change: Value) -> Result<Request, String> {
    parse(Kind::Completion, json!({ "prompt": "x" }), change)
}

fn parse(kind: Kind, mut body: Value, change: Value) -> Result<Request, String> {
    for (field, value) in change.as_object().unwrap() {
        body[field] = value.clone();
    }
    let message = |e: ApiError| e.body()["error"]["message"].as_str().unwrap().to_owned();
    Request::parse(kind, body.to_string().as_bytes()).map_err(message)
}

#[test]
fn defaults_are_openais() {
    let request = completion(json!({})).unwrap();
    let generate = &request.generate[0];
    assert_eq!(generate.max_new_tokens, Some(16));
    assert_eq!((generate.temperature, generate.top_k, generate.top_p), (None, Some(0), Some(1.0)));
    assert_eq!((request.stream, request.log_probs, request.n), (false, false, 1));
    let body = json!({ "messages": [{ "role": "user", "content": "x" }] });
    let chat = parse(Kind::Chat, body, json!({})).unwrap();
    assert_eq!(chat.generate[0].max_new_tokens, Some(u32::MAX));
}

#[test]
fn every_form_of_a_prompt_is_read() {
    let inputs = |prompt: Value| {
        let request = completion(json!({ "prompt": prompt })).unwrap();
        request.generate.into_iter().map(|g| g.input.unwrap()).collect::<Vec<_>>()
    };
    let tokens = |ids: &[u32]| Input::Tokens(v1::TokenIds { ids: ids.to_vec() });
    assert_eq!(inputs(json!("a")), [Input::Prompt("a".into())]);
    assert_eq!(inputs(json!(["a", "b"])), [Input::Prompt("a".into()), Input::Prompt("b".into())]);
    assert_eq!(inputs(json!([1, 2])), [tokens(&[1, 2])]);
    assert_eq!(inputs(json!([[1], [2]])), [tokens(&[1]), tokens(&[2])]);
    for wrong in [json!(1), json!([1, "a"]), json!([-1]), json!({})] {
        assert!(completion(json!({ "prompt": wrong })).is_err());
    }
    assert!(completion(json!({ "prompt": [] })).is_err());
    assert!(completion(json!({ "prompt": null })).is_err());
}

#[test]
fn messages_are_texts_or_text_parts() {
    let chat = |message: Value| {
        let request = parse(Kind::Chat, json!({ "messages": [message] }), json!({}))?;
        match request.generate.into_iter().next().unwrap().input.unwrap() {
            Input::Chat(chat) => Ok(chat.messages[0].content.clone()),
            other => Err(format!("{other:?}")),
        }
    };
    assert_eq!(chat(json!({ "role": "user", "content": "x", "refusal": null })).unwrap(), "x");
    let parts = json!([{ "type": "text", "text": "a" }, { "type": "text", "text": "b" }]);
    assert_eq!(chat(json!({ "role": "user", "content": parts })).unwrap(), "ab");
    let image = json!([{ "type": "image_url", "image_url": { "url": "x" } }]);
    let refused = chat(json!({ "role": "user", "content": image })).unwrap_err();
    assert_eq!(refused, "messages[0].content: a part of type \"image_url\" is not supported, only text");
    assert!(chat(json!({ "role": "user" })).unwrap_err().contains("messages[0].content: is missing"));
    let named = chat(json!({ "role": "user", "content": "x", "name": "me" })).unwrap_err();
    assert!(named.starts_with("messages[0].name: "));
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
    ] {
        let error = completion(json!({ field: value })).err().unwrap();
        assert!(error.starts_with(field), "{field}: {error}");
    }
    completion(json!({ "user": "me", "presence_penalty": 0, "echo": false, "best_of": 1, "tools": [] }))
        .unwrap();
}

#[test]
fn own_knobs_are_read() {
    let decoding = json!({
        "method": "specinfer", "branching": [2, 1], "beams": "top", "reference": "max", "trace": true
    });
    let request = completion(json!({ "decoding": decoding, "seed": -1, "stop": ";" })).unwrap();
    let generate = &request.generate[0];
    let read = generate.decoding.as_ref().unwrap();
    assert_eq!((read.method(), read.branching.as_slice()), (v1::Method::Specinfer, &[2, 1][..]));
    assert_eq!((read.beams(), read.reference()), (v1::Beams::Top, v1::Reference::Max));
    assert_eq!((generate.seed, generate.stop.as_slice()), (Some(u64::MAX), &[";".to_owned()][..]));
    assert!(generate.trace);
}

/// Whatever stands in a field: it is read or refused, and nothing panics or grows.
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
    let knobs = [
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
                    assert!(request.generate.len() * request.n <= MAX_PROMPTS * MAX_CANDIDATES);
                }
            }
            for knob in knobs {
                let _ = parse(kind, base.clone(), json!({ "decoding": { knob: value } }));
            }
            for part in ["role", "content", "name", "tool_calls"] {
                let message = json!({ "role": "user", "content": "x", part: value });
                let _ = parse(kind, json!({}), json!({ "messages": [message] }));
            }
        }
    }
}
