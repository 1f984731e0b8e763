//! Pairs whose tokenizers differ, with toy models.

use std::sync::Arc;

use tandem_engine::{ModelThread, Vocabulary};
use tandem_orchestrator::{ConnectError, Tcp};
use tandem_proto::v1;
use tandem_proto::v1::generation_client::GenerationClient;
use tandem_serving::Serving;
use tandem_testkit::{
    Services, ToyModel, channel, generate, orchestrator_config, orchestrator_serving, statistics,
    worker_config,
};
use tonic::transport::Channel;

/// A tokenizer of `letters` letters, and of special tokens with the ids after them.
fn tokenizer_json(letters: &str, special: &[&str]) -> String {
    let names = letters.chars().map(String::from).chain(special.iter().map(ToString::to_string));
    let vocab: Vec<String> = names.enumerate().map(|(id, name)| format!("\"{name}\":{id}")).collect();
    let added = special.iter().zip(letters.len()..).map(|(name, id)| {
        format!(
            r#"{{"id":{id},"content":"{name}","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,
                "special":true}}"#
        )
    });
    let added: Vec<String> = added.collect();
    format!(
        r#"{{"added_tokens":[{}],"model":{{"type":"BPE","vocab":{{{}}},"merges":[]}}}}"#,
        added.join(","),
        vocab.join(",")
    )
}

fn model(toy: ToyModel, name: &str, tokenizer_json: String) -> ModelThread {
    let mut loaded = toy.loaded(name, 2000);
    loaded.spec.vocabulary = Some(Vocabulary {
        hash: tokenizer_json.clone(),
        json: tokenizer_json.into_bytes().into(),
        config: Arc::default(),
        chat_template: Arc::default(),
        end_tokens: Vec::new(),
    });
    ModelThread::start_as_task(loaded)
}

/// An orchestrator of a target with the tokens `abcdef<x><y>`, and of a draft with these.
async fn orchestrator(
    services: &Services,
    draft_vocab: usize,
    draft_tokenizer: String,
) -> Result<Serving, ConnectError> {
    let target = model(ToyModel::TARGET, "acme/large", tokenizer_json("abcdef", &["<x>", "<y>"]));
    let draft = model(ToyModel { vocab: draft_vocab, ..ToyModel::DRAFT }, "acme/small", draft_tokenizer);
    let worker = worker_config("");
    let draft = services.serve(tandem_draft_service::serving(draft, &worker), None).await;
    let target = services.serve(tandem_target_service::serving(target, &worker), None).await;
    let config = format!("--connect-seconds 10 --draft http://{draft} --target http://{target}");
    orchestrator_serving(&orchestrator_config(&config), Tcp::default().shared(), None).await
}

async fn client(services: &Services, serving: Serving) -> GenerationClient<Channel> {
    GenerationClient::new(channel(services.serve(serving, None).await).await)
}

fn request(prompt: &[u32], method: v1::Method) -> v1::GenerateRequest {
    let tokens = v1::TokenIds { ids: prompt.to_vec() };
    v1::GenerateRequest {
        input: Some(v1::generate_request::Input::Tokens(tokens)),
        max_new_tokens: Some(40),
        seed: Some(3),
        top_k: Some(0),
        top_p: Some(0.0),
        decoding: Some(v1::DecodingParams { method: method.into(), ..v1::DecodingParams::default() }),
        ..v1::GenerateRequest::default()
    }
}

#[tokio::test]
async fn special_tokens_may_have_other_names() {
    let services = Services::default();
    let serving = orchestrator(&services, 8, tokenizer_json("abcdef", &["<x>", "<z>"])).await.unwrap();
    let mut client = client(&services, serving).await;
    let answer = generate(&mut client, request(&[0, 7], v1::Method::ExactMatch)).await.unwrap();
    let statistics = statistics(&answer);
    assert_eq!(answer.token_ids.len(), 40);
    assert!(statistics.drafted_tokens > 0 && statistics.undrafted_iterations == 0, "{statistics:?}");
}

/// The target is as free as without the draft; from the first token on that the draft cannot read, it goes on alone.
#[tokio::test]
async fn a_draft_may_have_no_embedding_of_special_tokens() {
    let services = Services::default();
    let serving = orchestrator(&services, 6, tokenizer_json("abcdef", &[])).await.unwrap();
    let mut client = client(&services, serving).await;
    let alone = generate(&mut client, request(&[0, 1], v1::Method::Autoregressive)).await.unwrap();
    assert!(alone.token_ids.iter().any(|&id| id >= 6), "the target draws no special token: {alone:?}");
    for (prompt, drafted) in [(&[0, 1][..], true), (&[0, 7, 1], false)] {
        let alone = generate(&mut client, request(prompt, v1::Method::Autoregressive)).await.unwrap();
        let drafting = generate(&mut client, request(prompt, v1::Method::ExactMatch)).await.unwrap();
        assert_eq!(drafting.token_ids, alone.token_ids);
        let statistics = statistics(&drafting);
        assert_eq!(statistics.drafted_tokens > 0, drafted, "{statistics:?}");
        assert!(statistics.undrafted_iterations > 0, "{statistics:?}");
    }
    for method in [v1::Method::Mmtad, v1::Method::Specinfer, v1::Method::Speculative] {
        let answer = generate(&mut client, request(&[0, 1], method)).await.unwrap();
        assert_eq!(answer.token_ids.len(), 40);
    }
}

#[tokio::test]
async fn the_first_token_that_differs_is_named() {
    let services = Services::default();
    let refused = orchestrator(&services, 8, tokenizer_json("abdcef", &["<x>", "<y>"])).await.err().unwrap();
    let expected = "draft and target have different tokenizers, so their tokens mean different things: token 2 is \"c\" in \
                    the target acme/large, but \"d\" in the draft acme/small; use a draft of the target's family";
    assert_eq!(refused.to_string(), expected);
}
