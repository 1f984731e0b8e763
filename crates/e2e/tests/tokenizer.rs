//! Tokenizers that do not fit their models exactly, in the whole system: toy models whose tokens are letters.

use std::sync::Arc;

use tandem_engine::ModelThread;
use tandem_orchestrator::Tcp;
use tandem_proto::v1;
use tandem_proto::v1::generation_client::GenerationClient;
use tandem_testkit::{
    Services, ToyModel, channel, generate, orchestrator_config, orchestrator_serving, worker_config,
};
use tonic::Code;
use tonic::transport::Channel;

/// The letters a to h, which the toy models have, a token `[PAD]` that they have not, and the settings of a
/// training that cut texts after three tokens and fill them up to six.
const TOKENIZER: &str = r#"{
    "truncation": { "direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0 },
    "padding": { "strategy": { "Fixed": 6 }, "direction": "Left", "pad_to_multiple_of": null, "pad_id": 0,
        "pad_type_id": 0, "pad_token": "a" },
    "added_tokens": [{ "id": 8, "content": "[PAD]", "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true }],
    "model": { "type": "BPE", "vocab": { "a": 0, "b": 1, "c": 2, "d": 3, "e": 4, "f": 5, "g": 6, "h": 7 },
        "merges": [] }
}"#;

/// The template of chats in which every message is its content.
const CHAT_TEMPLATE: &str = "{% for message in messages %}{{ message.content }}{% endfor %}";

fn model(toy: ToyModel, name: &str) -> ModelThread {
    let mut loaded = toy.loaded(name, 1000);
    let vocabulary = loaded.spec.vocabulary.as_mut().unwrap();
    vocabulary.json = TOKENIZER.as_bytes().into();
    vocabulary.chat_template = Arc::from(CHAT_TEMPLATE);
    ModelThread::start_as_task(loaded)
}

async fn start(services: &Services) -> GenerationClient<Channel> {
    let worker = worker_config("");
    let draft = model(ToyModel::DRAFT, "draft");
    let draft = services.serve(tandem_draft_service::serving(draft, &worker), None).await;
    let target = model(ToyModel::TARGET, "target");
    let target = services.serve(tandem_target_service::serving(target, &worker), None).await;
    let config = orchestrator_config(&format!("--draft http://{draft} --target http://{target}"));
    let serving = orchestrator_serving(&config, Tcp::default().shared(), None).await.unwrap();
    GenerationClient::new(channel(services.serve(serving, None).await).await)
}

fn request(input: v1::generate_request::Input) -> v1::GenerateRequest {
    v1::GenerateRequest { input: Some(input), max_new_tokens: Some(8), ..v1::GenerateRequest::default() }
}

fn prompt(text: &str) -> v1::generate_request::Input {
    v1::generate_request::Input::Prompt(text.into())
}

#[tokio::test]
async fn prompts_are_neither_cut_nor_filled_up() {
    let services = Services::default();
    let mut client = start(&services).await;
    for text in ["ab", "abc", "abcdefgh"] {
        let answer = generate(&mut client, request(prompt(text))).await.unwrap();
        assert_eq!(answer.started.prompt_tokens as usize, text.len(), "{text}");
        assert_eq!(answer.token_ids.len(), 8);
        assert!(answer.token_ids.iter().all(|&id| id < 8), "{:?}", answer.token_ids);
    }
}

#[tokio::test]
async fn a_prompt_with_a_token_that_has_no_embedding_is_refused() {
    let services = Services::default();
    let mut client = start(&services).await;
    let message = v1::ChatMessage { role: "user".into(), content: "ab[PAD]".into() };
    let chat = v1::generate_request::Input::Chat(v1::Chat { messages: vec![message] });
    let ids = v1::generate_request::Input::Tokens(v1::TokenIds { ids: vec![0, 8] });
    let cases = [
        (
            prompt("ab[PAD]c"),
            "prompt contains \"[PAD]\", token 8 of the tokenizer, which the models cannot read: they have \
             embeddings for 8 tokens only; leave it out",
        ),
        (
            chat,
            "messages contain \"[PAD]\", token 8 of the tokenizer, which the models cannot read: they have embeddings \
             for 8 tokens only; leave it out",
        ),
        (ids, "tokens has token 8, which is outside the vocabulary of 8"),
    ];
    for (input, expected) in cases {
        let status = generate(&mut client, request(input)).await.err().unwrap();
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert!(status.message().contains(expected), "{expected:?} is not in {:?}", status.message());
    }
}
