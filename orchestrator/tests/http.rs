//! The HTTP API over real sockets, with the bundled pair. OpenAI's own client is tested in crates/e2e/clients.

use reqwest::{Response, StatusCode};
use serde_json::{Value, json};
use tandem_proto::v1;
use tandem_testkit::{ANSWER, PROMPT, System, greedy};

struct Web {
    system: System,
    client: reqwest::Client,
}

impl Web {
    async fn start() -> Self {
        Self { system: System::start().await, client: reqwest::Client::new() }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.system.http)
    }

    async fn get(&self, path: &str) -> Response {
        self.client.get(self.url(path)).send().await.unwrap()
    }

    async fn post(&self, path: &str, body: &Value) -> Response {
        self.client.post(self.url(path)).json(body).send().await.unwrap()
    }

    async fn complete(&self, change: Value) -> Value {
        let response = self.post("/v1/completions", &completion(change)).await;
        assert_eq!(response.status(), StatusCode::OK);
        response.json().await.unwrap()
    }

    /// The objects of a stream, which ends with `[DONE]`.
    async fn stream(&self, change: Value) -> Vec<Value> {
        let mut body = completion(change);
        body["stream"] = true.into();
        let text = self.post("/v1/completions", &body).await.text().await.unwrap();
        let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
        let mut data: Vec<&str> = data.collect();
        assert_eq!(data.pop(), Some("[DONE]"));
        data.into_iter().map(|d| serde_json::from_str(d).unwrap()).collect()
    }
}

fn completion(change: Value) -> Value {
    let mut body = json!({ "prompt": PROMPT, "max_tokens": 80, "temperature": 0, "top_k": 10, "top_p": 0.9, "stop": ";" });
    for (field, value) in change.as_object().unwrap() {
        body[field] = value.clone();
    }
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn a_completion_is_the_same_as_over_grpc_streamed_or_not() {
    let mut web = Web::start().await;
    let whole = web.complete(json!({})).await;
    assert_eq!(whole["choices"][0]["text"], ANSWER);
    assert_eq!(whole["choices"][0]["finish_reason"], "stop");
    assert_eq!(whole["object"], "text_completion");
    let statistics = &whole["tandem"]["choices"][0]["statistics"];
    assert_eq!((&statistics["method"], &statistics["lossless"]), (&json!("mmtad"), &json!(false)));
    assert_eq!(whole["usage"]["completion_tokens"], statistics["new_tokens"]);

    let chunks = web.stream(json!({ "stream_options": { "include_usage": true } })).await;
    let texts = chunks.iter().filter_map(|c| c["choices"][0]["text"].as_str());
    assert_eq!(texts.collect::<String>(), ANSWER);
    let (usage, chunks) = chunks.split_last().unwrap();
    assert_eq!((&usage["choices"], &usage["usage"]), (&json!([]), &whole["usage"]));
    assert!(chunks.iter().all(|c| c["id"] == chunks[0]["id"]));
    assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "stop");
    web.system.assert_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn log_probs_of_a_drafted_choice_are_those_of_the_autoregressive_one() {
    let web = Web::start().await;
    let ask = async |method: &str| {
        let decoding = json!({ "method": method });
        let body = json!({ "decoding": decoding, "temperature": 1, "seed": 3, "logprobs": 5 });
        web.complete(body).await["choices"][0].clone()
    };
    let drafted = ask("exact-match").await;
    let plain = ask("autoregressive").await;
    assert_eq!(drafted["text"], plain["text"]);
    let drafted = &drafted["logprobs"];
    let plain = &plain["logprobs"];
    assert_eq!(drafted["tokens"], plain["tokens"]);
    let numbers = |v: &Value| v.as_array().unwrap().iter().map(|n| n.as_f64().unwrap()).collect::<Vec<_>>();
    let pairs = numbers(&drafted["token_logprobs"]).into_iter().zip(numbers(&plain["token_logprobs"]));
    assert!(pairs.clone().count() > 10);
    for (a, b) in pairs {
        assert!((a - b).abs() < 1e-4, "{a} {b}");
    }
    let tops =
        drafted["top_logprobs"].as_array().unwrap().iter().zip(plain["top_logprobs"].as_array().unwrap());
    for ((a, b), text) in tops.zip(drafted["tokens"].as_array().unwrap()) {
        let (a, b) = (a.as_object().unwrap(), b.as_object().unwrap());
        // Two tokens may have the same text, so that one of the five is missing.
        assert!(a.len() >= 4 && a.len() == b.len());
        assert!(a.iter().all(|(k, v)| (v.as_f64().unwrap() - b[k].as_f64().unwrap()).abs() < 1e-4), "{text}");
    }
    assert_eq!(drafted["text_offset"][1], drafted["tokens"][0].as_str().unwrap().chars().count());
}

#[tokio::test(flavor = "multi_thread")]
async fn several_choices_are_those_of_their_seeds() {
    let web = Web::start().await;
    let settings = |seed: u64, n: u32| json!({ "temperature": 1, "seed": seed, "n": n, "max_tokens": 12 });
    let three = web.complete(settings(5, 3)).await;
    assert_eq!(three["choices"].as_array().unwrap().len(), 3);
    for i in 0..3 {
        let one = web.complete(settings(5 + i, 1)).await;
        assert_eq!(three["choices"][i as usize]["text"], one["choices"][0]["text"]);
        assert_eq!(three["usage"]["prompt_tokens"], one["usage"]["prompt_tokens"]);
    }
    let prompts = web.complete(json!({ "prompt": [PROMPT, PROMPT], "n": 2 })).await;
    assert!(prompts["choices"].as_array().unwrap().iter().all(|c| c["text"] == ANSWER));
    assert_eq!(prompts["choices"].as_array().unwrap().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_shows_how_each_token_was_generated() {
    let web = Web::start().await;
    let chunks = web.stream(json!({ "decoding": { "trace": true } })).await;
    let tokens: Vec<&Value> =
        chunks.iter().filter_map(|c| c["tandem"]["tokens"].as_array()).flatten().collect();
    let text: String = tokens.iter().map(|t| t["text"].as_str().unwrap()).collect();
    // The stop sequence begins within the last token, which is therefore left out.
    assert!(ANSWER.starts_with(&text) && ANSWER.len() - text.len() <= 1, "{text}");
    assert!(tokens.iter().any(|t| t["drafted"] == true) && tokens.iter().any(|t| t["drafted"] == false));
    let iteration =
        &chunks.iter().find(|c| c["tandem"]["iteration"].is_object()).unwrap()["tandem"]["iteration"];
    let nodes = iteration["tokens"].as_array().unwrap().len();
    for field in ["parents", "texts", "draft_joint_log_probs", "target_joint_log_probs"] {
        assert_eq!(iteration[field].as_array().unwrap().len(), nodes, "{field}");
    }
    let whole = web.complete(json!({ "decoding": { "trace": true } })).await;
    let traced = &whole["tandem"]["choices"][0];
    assert_eq!(traced["iterations"].as_array().unwrap().len(), traced["statistics"]["iterations"]);
    assert_eq!(traced["tokens"].as_array().unwrap().len(), tokens.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_get_openais_errors_and_hold_nothing() {
    let mut web = Web::start().await;
    let path = "/v1/completions";
    for (change, param, code) in [
        (json!({ "model": "gpt-4" }), "model", StatusCode::NOT_FOUND),
        (json!({ "temperature": -1 }), "temperature", StatusCode::BAD_REQUEST),
        (json!({ "max_tokens": 0 }), "max_tokens", StatusCode::BAD_REQUEST),
        (json!({ "logprobs": 21 }), "logprobs", StatusCode::BAD_REQUEST),
        (json!({ "n": 17 }), "n", StatusCode::BAD_REQUEST),
        (json!({ "n": u32::MAX, "stream": true }), "n", StatusCode::BAD_REQUEST),
        (json!({ "top_p": 0 }), "top_p", StatusCode::BAD_REQUEST),
        (json!({ "logprobs": 2, "decoding": { "method": "mtjd" } }), "logprobs", StatusCode::BAD_REQUEST),
        (json!({ "prompt": "" }), "prompt", StatusCode::BAD_REQUEST),
        (json!({ "prompt": PROMPT.repeat(40) }), "prompt", StatusCode::BAD_REQUEST),
        (json!({ "prompt": [4_000_000] }), "prompt", StatusCode::BAD_REQUEST),
        (json!({ "tools": [{}] }), "tools", StatusCode::BAD_REQUEST),
        (json!({ "stream": true, "temperature": 1e9 }), "temperature", StatusCode::BAD_REQUEST),
        (json!({ "decoding": { "beam_width": 99 } }), "decoding.beam_width", StatusCode::BAD_REQUEST),
    ] {
        let response = web.post(path, &completion(change.clone())).await;
        assert_eq!(response.status(), code, "{change}");
        let error = response.json::<Value>().await.unwrap()["error"].clone();
        assert_eq!(error["param"], param, "{error}");
        assert!(!error["message"].as_str().unwrap().is_empty());
    }
    let long = web.post(path, &completion(json!({ "prompt": PROMPT.repeat(40) }))).await;
    assert_eq!(long.json::<Value>().await.unwrap()["error"]["code"], "context_length_exceeded");
    let chat = json!({ "messages": [{ "role": "user", "content": "x" }] });
    let refused = web.post("/v1/chat/completions", &chat).await;
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
    assert!(refused.text().await.unwrap().contains("no chat template"));
    let send = async |body: Vec<u8>| {
        let request = web.client.post(web.url(path)).header("content-type", "application/json");
        request.body(body).send().await.unwrap()
    };
    for body in ["{", "[]", "\u{0}", "{\"prompt\": \"\\ud800\"}"] {
        let sent = send(body.into()).await;
        assert_eq!(sent.status(), StatusCode::BAD_REQUEST, "{body}");
    }
    assert_eq!(send(vec![b'"', 0xff, b'"']).await.status(), StatusCode::BAD_REQUEST);
    // What a page of another site may send without a preflight request.
    let plain = web.client.post(web.url(path)).body(completion(json!({})).to_string()).send().await.unwrap();
    assert_eq!(plain.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let large = send(vec![b' '; 5 << 20]).await;
    assert_eq!(large.status(), StatusCode::PAYLOAD_TOO_LARGE);
    for (path, code) in [("/v1/nothing", StatusCode::NOT_FOUND), (path, StatusCode::METHOD_NOT_ALLOWED)] {
        let response = web.get(path).await;
        assert_eq!(response.status(), code);
        assert!(response.json::<Value>().await.unwrap()["error"]["message"].is_string());
    }
    web.system.assert_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_disconnects_frees_everything() {
    let mut web = Web::start().await;
    let endless =
        completion(json!({ "max_tokens": 4000, "stop": null, "ignore_eos": true, "stream": true, "n": 4 }));
    let mut response = web.post("/v1/completions", &endless).await;
    assert!(response.chunk().await.unwrap().is_some());
    drop(response);
    web.system.assert_all_freed().await;
    web.system.assert_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn models_status_and_page_are_served() {
    let web = Web::start().await;
    assert_eq!(web.get("/health").await.status(), StatusCode::OK);
    assert_eq!(web.get("/ready").await.status(), StatusCode::OK);
    let models: Value = web.get("/v1/models").await.json().await.unwrap();
    let id = models["data"][0]["id"].as_str().unwrap();
    assert_eq!(web.get(&format!("/v1/models/{id}")).await.status(), StatusCode::OK);
    assert_eq!(web.get("/v1/models/other").await.status(), StatusCode::NOT_FOUND);
    assert_eq!(web.complete(json!({ "model": id })).await["model"], id);
    let status: Value = web.get("/v1/status").await.json().await.unwrap();
    let roles: Vec<&Value> = status["workers"].as_array().unwrap().iter().map(|w| &w["role"]).collect();
    assert_eq!(roles, ["draft", "target"]);
    assert_eq!(status["workers"][1]["state"], "serving");
    let page = web.get("/").await;
    assert!(page.headers()["content-security-policy"].to_str().unwrap().starts_with("default-src 'self'"));
    assert!(page.text().await.unwrap().contains("<script"));
}

/// gRPC offers the same as HTTP.
#[tokio::test(flavor = "multi_thread")]
async fn grpc_has_model_names_choices_and_alternatives_too() {
    let mut system = System::start().await;
    let base = || greedy(v1::Method::Mmtad);
    let unknown = system.generate(v1::GenerateRequest { model: "gpt-4".into(), ..base() }).await.unwrap_err();
    assert_eq!(unknown.code(), tonic::Code::NotFound);
    let request = v1::GenerateRequest { n: Some(2), log_probs: true, top_log_probs: 3, ..base() };
    let mut stream = system.client.generate(request).await.unwrap().into_inner();
    let mut texts = [String::new(), String::new()];
    while let Some(event) = stream.message().await.unwrap() {
        let Some(v1::generate_response::Event::Chunk(chunk)) = event.event else { continue };
        texts[event.index as usize] += &chunk.text;
        assert_eq!(chunk.top_log_probs.len(), chunk.token_ids.len());
        // Greedy, so that each token is the likeliest.
        for (top, token) in chunk.top_log_probs.iter().zip(&chunk.token_ids) {
            assert_eq!((top.token_ids.len(), &top.token_ids[0]), (3, token));
        }
    }
    assert_eq!(texts, [ANSWER, ANSWER]);
    let mtjd = v1::GenerateRequest { log_probs: true, top_log_probs: 1, ..greedy(v1::Method::Mtjd) };
    assert_eq!(system.generate(mtjd).await.unwrap_err().code(), tonic::Code::InvalidArgument);
}
