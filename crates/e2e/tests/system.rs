//! The three services with the bundled pair, over real gRPC.

use tandem_decoding::Method;
use tandem_proto::v1::target_client::TargetClient;
use tandem_proto::{Answer, method_to_wire, v1};
use tandem_testkit::{ANSWER, PROMPT, System, channel, greedy, request, statistics};
use tonic::Code;

#[tokio::test]
async fn every_method_answers_and_its_statistics_add_up() {
    let mut system = System::start().await;
    for method in Method::ALL.map(method_to_wire) {
        let text = system.generate(greedy(method)).await.unwrap();
        assert_eq!(text.text, ANSWER, "{method:?}");
        assert_eq!(text.finished.reason(), v1::FinishReason::Stop);
        assert_eq!(text.finished.stop, ";");
        let s = statistics(&text);
        assert_eq!((s.method(), text.started.method()), (method, method));
        let lossy = matches!(method, v1::Method::Mtad | v1::Method::Mmtad | v1::Method::Mtjd);
        assert_eq!(s.lossless, !lossy);
        assert_eq!(s.new_tokens as usize, text.token_ids.len());
        // Every iteration commits its accepted nodes and a bonus token; some of the last may come after the stop.
        assert!(s.iterations + s.accepted_tokens > s.new_tokens);
        assert_eq!(s.accepted_by_depth.iter().sum::<u32>(), s.accepted_tokens);
        let parts = s.waiting_ms + s.prefill_ms + s.draft_ms + s.target_ms + s.orchestration_ms;
        assert!((parts - s.total_ms).abs() < 0.01 * s.total_ms + 0.01, "{s:?}");
        assert!(s.time_to_first_token_ms > 0.0 && s.time_to_first_token_ms <= s.total_ms);
        if method != v1::Method::Autoregressive {
            assert!(s.block_efficiency > 2.5, "{method:?}: {}", s.block_efficiency);
        }
    }
    system.assert_all_freed().await;
}

/// Held-out prompts: the first question of the first documents.
fn held_out(count: usize) -> Vec<String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/demo/data/sql_eval.jsonl");
    let documents = std::fs::read_to_string(path).unwrap();
    let prompts = documents.lines().take(count).map(|line| {
        let d: serde_json::Value = serde_json::from_str(line).unwrap();
        format!("{}Question: {}\nSQL:", d["schema"].as_str().unwrap(), d["pairs"][0][0].as_str().unwrap())
    });
    prompts.collect()
}

#[tokio::test]
async fn exact_match_gives_token_for_token_what_autoregressive_decoding_gives() {
    let mut system = System::start().await;
    for (i, prompt) in held_out(50).iter().enumerate() {
        // Greedy and sampled: a seed draws the same token at the same position, drafted or not.
        for temperature in if i < 10 { &[0.0, 1.0][..] } else { &[0.0] } {
            let with =
                |method| v1::GenerateRequest { temperature: Some(*temperature), ..request(prompt, method) };
            let plain = system.generate(with(v1::Method::Autoregressive)).await.unwrap();
            let assisted = system.generate(with(v1::Method::ExactMatch)).await.unwrap();
            assert_eq!(plain.token_ids, assisted.token_ids, "prompt {i} at temperature {temperature}");
            assert_eq!(plain.text, assisted.text);
        }
    }
}

/// Scores `sequence` after the prompt on the target alone, token by token, without drafts, filters or temperature.
async fn unwarped_log_probs(system: &System, prompt: &[u32], sequence: &[u32]) -> Vec<f64> {
    let mut target = TargetClient::new(channel(system.target).await);
    let open = v1::OpenSessionRequest {
        prompt_tokens: prompt.to_vec(),
        max_new_tokens: 200,
        max_tree_nodes: 1,
        sampling: Some(v1::Sampling { temperature: 1.0, top_k: 0, top_p: 0.0 }),
        ..v1::OpenSessionRequest::default()
    };
    let mut handle = target.open_session(open).await.unwrap().into_inner().handle.unwrap();
    let mut log_probs = Vec::new();
    for (step, &token) in (1..).zip(sequence) {
        let commit = (step > 1).then(|| {
            handle.committed_tokens += 1;
            v1::Commit { bonus_token: sequence[step as usize - 2], accepted_nodes: vec![] }
        });
        let tree = Some(v1::TokenTree { tokens: vec![token], parents: vec![-1] });
        let handle = Some(handle);
        let score = v1::ScoreTreeRequest { handle, step, commit, tree, ..v1::ScoreTreeRequest::default() };
        log_probs.extend(target.score_tree(score).await.unwrap().into_inner().joint_log_probs);
    }
    target.close_session(v1::CloseSessionRequest { handle: Some(handle) }).await.unwrap();
    log_probs
}

/// Also checks rejection sampling, whose distributions cross the wire: it generates only tokens that the target allows.
#[tokio::test]
async fn log_probs_are_the_targets_own_whatever_the_method_and_the_warping() {
    let mut system = System::start().await;
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/demo/target/tokenizer.json");
    let tokenizer = tokenizers::Tokenizer::from_file(path).unwrap();
    let prompt = tokenizer.encode(PROMPT, true).unwrap().get_ids().to_vec();
    for (method, temperature, top_k) in
        Method::ALL.map(method_to_wire).into_iter().flat_map(|m| [(m, 1.0, 10), (m, 1.5, 0), (m, 0.0, 5)])
    {
        let asked = v1::GenerateRequest {
            temperature: Some(temperature),
            top_k: Some(top_k),
            log_probs: true,
            trace: true,
            ..request(PROMPT, method)
        };
        let answer = system.generate(asked).await.unwrap();
        assert_eq!(answer.log_probs.len(), answer.token_ids.len(), "{method:?}");
        let expected = unwarped_log_probs(&system, &prompt, &answer.token_ids).await;
        for (ours, theirs) in answer.log_probs.iter().zip(&expected) {
            assert!((ours - theirs).abs() < 1e-4, "{method:?}: {ours} instead of {theirs}");
        }
        check_trace(&answer);
    }
    system.assert_all_freed().await;
}

/// The iterations add up to the sequence.
fn check_trace(answer: &Answer) {
    assert_eq!(answer.iterations.len(), statistics(answer).iterations as usize);
    let mut tokens = Vec::new();
    for iteration in &answer.iterations {
        let tree = iteration.tree.clone().unwrap();
        assert_eq!(iteration.texts.len(), tree.tokens.len());
        assert_eq!(iteration.draft_joint_log_probs.len(), tree.tokens.len());
        tokens.extend(iteration.accepted_nodes.iter().map(|&n| tree.tokens[n as usize]));
        tokens.extend(iteration.bonus_token);
    }
    assert!(tokens.starts_with(&answer.token_ids));
}

#[tokio::test]
async fn a_seed_repeats_and_a_prompt_may_be_tokens() {
    let mut system = System::start().await;
    let first = system.generate(request(PROMPT, v1::Method::Mmtad)).await.unwrap();
    let again = system.generate(request(PROMPT, v1::Method::Mmtad)).await.unwrap();
    assert_eq!(first.token_ids, again.token_ids);
    // Continue the greedy answer from its tokens: the result is the same as without the interruption.
    let whole = system
        .generate(v1::GenerateRequest { max_new_tokens: Some(30), ..greedy(v1::Method::Autoregressive) })
        .await
        .unwrap();
    let tokenizer = target_tokenizer(&system).await;
    let mut ids = tokenizer.encode(PROMPT, true).unwrap().get_ids().to_vec();
    ids.extend(&whole.token_ids[..10]);
    let tokens = v1::GenerateRequest {
        input: Some(v1::generate_request::Input::Tokens(v1::TokenIds { ids })),
        max_new_tokens: Some(20),
        ..greedy(v1::Method::Autoregressive)
    };
    let rest = system.generate(tokens).await.unwrap();
    assert_eq!(whole.token_ids[10..], rest.token_ids);
}

async fn target_tokenizer(system: &System) -> tokenizers::Tokenizer {
    let mut target = TargetClient::new(channel(system.target).await);
    let mut chunks = target.get_tokenizer(v1::GetTokenizerRequest {}).await.unwrap().into_inner();
    let mut json = Vec::new();
    while let Some(part) = chunks.message().await.unwrap() {
        json.extend(part.chunk);
    }
    tokenizers::Tokenizer::from_bytes(json).unwrap()
}

#[tokio::test]
async fn a_client_that_disconnects_frees_both_workers() {
    let mut system = System::start().await;
    for _ in 0..5 {
        let endless = v1::GenerateRequest {
            stop: Vec::new(),
            ignore_eos: true,
            max_new_tokens: Some(400),
            ..request(PROMPT, v1::Method::Mmtad)
        };
        let mut events = system.client.generate(endless).await.unwrap().into_inner();
        events.message().await.unwrap().unwrap();
        events.message().await.unwrap().unwrap();
        assert!(system.kv_tokens_used() > 0);
        drop(events);
        system.assert_all_freed().await;
    }
    system.assert_well().await;
}

#[tokio::test]
async fn the_end_of_the_context_ends_the_generation() {
    let mut system = System::start().await;
    let endless = v1::GenerateRequest {
        stop: Vec::new(),
        ignore_eos: true,
        max_new_tokens: Some(10_000),
        ..request(PROMPT, v1::Method::Mmtad)
    };
    let text = system.generate(endless).await.unwrap();
    assert_eq!(text.finished.reason(), v1::FinishReason::Length);
    assert_eq!(text.started.prompt_tokens as usize + text.token_ids.len(), 512);
    system.assert_well().await;
}

#[tokio::test]
async fn bad_requests_are_refused_with_their_field_and_hold_nothing() {
    use v1::generate_request::Input;
    let mut system = System::start().await;
    let base = || request(PROMPT, v1::Method::Mmtad);
    let decoding = |d: v1::DecodingParams| v1::GenerateRequest { decoding: Some(d), ..base() };
    let d = v1::DecodingParams::default;
    let tokens =
        |ids: Vec<u32>| v1::GenerateRequest { input: Some(Input::Tokens(v1::TokenIds { ids })), ..base() };
    let cases = [
        ("is empty", v1::GenerateRequest { input: Some(Input::Prompt(String::new())), ..base() }),
        ("is missing", v1::GenerateRequest { input: None, ..base() }),
        ("is empty", tokens(Vec::new())),
        (
            "has 512 and needs one",
            v1::GenerateRequest { input: Some(Input::Prompt(PROMPT.repeat(40))), ..base() },
        ),
        ("outside the vocabulary", tokens(vec![0, 5000])),
        ("is 99, which is not a method", decoding(v1::DecodingParams { method: 99, ..d() })),
        (
            "acceptance_threshold is 0",
            decoding(v1::DecodingParams { acceptance_threshold: Some(0.0), ..d() }),
        ),
        (
            "acceptance_threshold is 1.5",
            decoding(v1::DecodingParams { acceptance_threshold: Some(1.5), ..d() }),
        ),
        ("beam_width is 0", decoding(v1::DecodingParams { beam_width: Some(0), ..d() })),
        ("draft_tokens is 10000", decoding(v1::DecodingParams { draft_tokens: Some(10_000), ..d() })),
        ("temperature is NaN", v1::GenerateRequest { temperature: Some(f64::NAN), ..base() }),
        ("top_p is -1", v1::GenerateRequest { top_p: Some(-1.0), ..base() }),
        ("max_new_tokens is 0", v1::GenerateRequest { max_new_tokens: Some(0), ..base() }),
    ];
    for (expected, request) in cases {
        let status =
            system.generate(request).await.err().unwrap_or_else(|| panic!("{expected}: was accepted"));
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert!(status.message().contains(expected), "{expected:?} is not in {:?}", status.message());
    }
    let huge = v1::GenerateRequest { input: Some(Input::Prompt("x".repeat(100 << 20))), ..base() };
    let status = system.generate(huge).await.err().unwrap();
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
    system.assert_well().await;
}

#[tokio::test]
async fn reflection_lists_the_services() {
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    let system = System::start().await;
    let mut client = ServerReflectionClient::new(channel(system.target).await);
    let request = tonic_reflection::pb::v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut replies = client.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
    let Some(MessageResponse::ListServicesResponse(list)) =
        replies.message().await.unwrap().unwrap().message_response
    else {
        panic!("not a list of services");
    };
    let names: Vec<&str> = list.service.iter().map(|s| s.name.as_str()).collect();
    assert!(names.contains(&"tandem.v1.Target") && names.contains(&"grpc.health.v1.Health"), "{names:?}");
}

#[tokio::test]
async fn every_service_answers_the_standard_health_check() {
    use tonic_health::pb::health_check_response::ServingStatus;
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    let system = System::start().await;
    for (address, service) in [
        (system.draft, "tandem.v1.Draft"),
        (system.target, "tandem.v1.Target"),
        (system.orchestrator, "tandem.v1.Generation"),
    ] {
        for service in [service, ""] {
            let mut health = HealthClient::new(channel(address).await);
            let request = HealthCheckRequest { service: service.into() };
            let status = health.check(request).await.unwrap().into_inner().status();
            assert_eq!(status, ServingStatus::Serving, "{service}");
        }
    }
}
