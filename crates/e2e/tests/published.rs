//! A published chat model with its draft, through the whole system: SmolLM2-135M-Instruct, as a GGUF file alone in
//! a folder, against the greedy tokens of llama.cpp.
//!
//! `crates/engine/tests/published/run.sh` fetches the file and runs these tests.

use std::path::Path;

use serde::Deserialize;
use tandem_decoding::Method;
use tandem_engine::{EngineConfig, WeightDtype};
use tandem_proto::{method_to_wire, v1};
use tandem_testkit::{System, bundled_model, statistics};

/// Logits that are closer than this to the second largest may change places: llama.cpp and we add up in different
/// orders.
const SMALLEST_GAP: f32 = 0.02;
const NEW_TOKENS: usize = 24;

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

/// A prompt, and the greedy tokens after it.
#[derive(Deserialize)]
struct Case {
    text: String,
    /// The conversation whose rendering `text` is, if it is one.
    messages: Option<Vec<Message>>,
    ids: Vec<u32>,
    greedy: Vec<u32>,
    /// How far each logit is above the second one.
    greedy_gaps: Vec<f32>,
}

#[derive(Deserialize)]
struct Message {
    role: String,
    content: String,
}

impl Case {
    fn request(&self, method: Method) -> v1::GenerateRequest {
        use v1::generate_request::Input;
        let message = |m: &Message| v1::ChatMessage { role: m.role.clone(), content: m.content.clone() };
        let input = match &self.messages {
            Some(messages) => Input::Chat(v1::Chat { messages: messages.iter().map(message).collect() }),
            None => Input::Prompt(self.text.clone()),
        };
        v1::GenerateRequest {
            input: Some(input),
            max_new_tokens: Some(NEW_TOKENS as u32),
            temperature: Some(0.0),
            ignore_eos: true,
            decoding: Some(v1::DecodingParams {
                method: method_to_wire(method).into(),
                ..v1::DecodingParams::default()
            }),
            ..v1::GenerateRequest::default()
        }
    }

    /// The greedy tokens up to the first that rounding may change.
    fn certain(&self) -> &[u32] {
        let close = self.greedy_gaps.iter().position(|&gap| gap < SMALLEST_GAP);
        &self.greedy[..close.unwrap_or(self.greedy.len())]
    }
}

/// The pair, with the target's weights in `dtype`. The target's file is alone in its folder.
async fn start(folder: &Path, dtype: WeightDtype) -> System {
    let file = std::env::var_os("TANDEM_PUBLISHED_GGUF").expect("run.sh sets TANDEM_PUBLISHED_GGUF");
    let alone = folder.join("SmolLM2-135M-Instruct.Q4_1.gguf");
    std::os::unix::fs::symlink(file, &alone).unwrap();
    let target = EngineConfig { dtype, ..EngineConfig::new(alone.display().to_string()) };
    System::start_pair(&bundled_model("smollm2-draft"), &target).await
}

fn cases() -> Vec<Case> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../engine/tests/published/smollm2-135m-instruct.json");
    let golden: Golden = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    golden.cases
}

/// Autoregressive decoding, and every method that is lossless: greedily, all write the same text.
#[tokio::test]
#[ignore = "needs a file that crates/engine/tests/published/run.sh fetches"]
async fn greedy_texts_are_those_of_llama_cpp() {
    let folder = tempfile::tempdir().unwrap();
    let mut system = start(folder.path(), WeightDtype::F32).await;
    let mut drafted = 0;
    for case in cases() {
        for method in Method::ALL.into_iter().filter(|method| method.is_lossless()) {
            let answer = system.generate(case.request(method)).await.unwrap();
            assert_eq!(answer.started.prompt_tokens as usize, case.ids.len(), "{:.30}", case.text);
            assert_eq!(answer.token_ids.len(), NEW_TOKENS);
            let certain = case.certain();
            assert_eq!(&answer.token_ids[..certain.len()], certain, "{method:?} after {:.30}", case.text);
            drafted += statistics(&answer).accepted_tokens;
        }
    }
    assert!(drafted > 100, "drafts were accepted: {drafted}");
    system.assert_all_freed().await;
}

/// The weights as published, sampled with a seed: exact match is autoregressive decoding, and every method answers.
#[tokio::test]
#[ignore = "needs a file that crates/engine/tests/published/run.sh fetches"]
async fn every_method_answers_a_chat() {
    let folder = tempfile::tempdir().unwrap();
    let mut system = start(folder.path(), WeightDtype::default()).await;
    let chat = cases().into_iter().find(|case| case.messages.is_some()).unwrap();
    let sampled = |method| v1::GenerateRequest {
        temperature: Some(1.0),
        seed: Some(7),
        ignore_eos: false,
        ..chat.request(method)
    };
    let plain = system.generate(sampled(Method::Autoregressive)).await.unwrap();
    for method in Method::ALL {
        let answer = system.generate(sampled(method)).await.unwrap();
        assert!(!answer.text.is_empty() && !answer.text.contains("<|im_"), "{method:?}: {:?}", answer.text);
        let expected = method_to_wire(method);
        assert_eq!(statistics(&answer).method(), expected);
        if method == Method::ExactMatch {
            assert_eq!(answer.token_ids, plain.token_ids);
        }
    }
    system.assert_all_freed().await;
}
