//! Tokenizers from the metadata of GGUF files that are small enough to check by hand.

use std::collections::HashMap;

use candle_core::quantized::gguf_file::Value;
use serde_json::json;
use tandem_engine::{Decoder, LoadOptions, ModelSource};
use tokenizers::Tokenizer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use crate::common::tokens;
use crate::tiny_gguf;

const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const BYTE: i32 = 6;

type Metadata = HashMap<String, Value>;

fn texts(texts: &[&str]) -> Value {
    Value::Array(texts.iter().map(|text| Value::String((*text).into())).collect())
}

fn metadata(model: &str, tokens: &[(String, i32)]) -> Metadata {
    let names = tokens.iter().map(|(text, _)| Value::String(text.clone())).collect();
    let types = tokens.iter().map(|(_, kind)| Value::I32(*kind)).collect();
    let mut metadata = Metadata::new();
    set(&mut metadata, "ggml.model", Value::String(model.into()));
    set(&mut metadata, "ggml.tokens", Value::Array(names));
    set(&mut metadata, "ggml.token_type", Value::Array(types));
    metadata
}

fn set(metadata: &mut Metadata, key: &str, value: Value) {
    metadata.insert(format!("tokenizer.{key}"), value);
}

/// 256 bytes, then "he" 256, "ll" 257, "hell" 258, "<|im_start|>" 259, "<|im_end|>" 260, "<tool>" 261.
fn byte_level() -> Metadata {
    let mut bytes: Vec<char> = ByteLevel::alphabet().into_iter().collect();
    bytes.sort_unstable();
    let more = [
        ("he", NORMAL),
        ("ll", NORMAL),
        ("hell", NORMAL),
        ("<|im_start|>", CONTROL),
        ("<|im_end|>", USER_DEFINED),
        ("<tool>", USER_DEFINED),
    ];
    let mut tokens: Vec<(String, i32)> = bytes.iter().map(|c| (c.to_string(), NORMAL)).collect();
    // How the byte FC is written, which no text has, is also a text of its own here.
    tokens.iter_mut().filter(|(text, _)| text == "ü").for_each(|(_, kind)| *kind = USER_DEFINED);
    tokens.extend(more.map(|(text, kind)| (text.to_owned(), kind)));
    let mut metadata = metadata("gpt2", &tokens);
    set(&mut metadata, "ggml.pre", Value::String("qwen2".into()));
    set(&mut metadata, "ggml.merges", texts(&["h e", "l l", "he ll"]));
    set(&mut metadata, "ggml.bos_token_id", Value::U32(259));
    set(&mut metadata, "ggml.eos_token_id", Value::U32(260));
    metadata
}

/// "<unk>", "<s>", "</s>", 256 bytes, and from 259 on "▁", "a", "b", "ab", "▁a", "aa", "<end_of_turn>", "[x]".
fn sentence_piece() -> Metadata {
    let mut tokens = vec![("<unk>".to_owned(), UNKNOWN), ("<s>".into(), CONTROL), ("</s>".into(), CONTROL)];
    tokens.extend((0..=255).map(|byte| (format!("<0x{byte:02X}>"), BYTE)));
    let pieces = [
        ("▁", -9.0),
        ("a", -9.0),
        ("b", -9.0),
        ("ab", -1.0),
        ("▁a", -2.0),
        ("aa", -3.0),
        ("<end_of_turn>", 0.0),
    ];
    tokens.extend(pieces.map(|(text, _)| (text.to_owned(), NORMAL)));
    tokens.push(("[x]".into(), USER_DEFINED));
    let scores = std::iter::repeat_n(0.0, 259).chain(pieces.map(|(_, score)| score)).chain([0.0]);
    let mut metadata = metadata("llama", &tokens);
    set(&mut metadata, "ggml.scores", Value::Array(scores.map(Value::F32).collect()));
    metadata
}

fn load(metadata: &Metadata) -> Decoder {
    tiny_gguf::load(metadata, 270).unwrap()
}

fn tokenizer(model: &Decoder) -> Tokenizer {
    Tokenizer::from_bytes(&model.spec().vocabulary.as_ref().unwrap().json).unwrap()
}

fn config(model: &Decoder) -> serde_json::Value {
    serde_json::from_slice(&model.spec().vocabulary.as_ref().unwrap().config).unwrap()
}

fn encode(tokenizer: &Tokenizer, text: &str) -> Vec<String> {
    let ids = tokenizer.encode(text, true).unwrap().get_ids().to_vec();
    ids.into_iter().map(|id| tokenizer.id_to_token(id).unwrap()).collect()
}

/// The text after tokenizing and decoding, without special tokens.
fn there_and_back(tokenizer: &Tokenizer, text: &str) -> String {
    let ids = tokenizer.encode(text, true).unwrap().get_ids().to_vec();
    tokenizer.decode(&ids, true).unwrap()
}

#[test]
fn byte_level_texts_are_split_and_merged() {
    let tokenizer = tokenizer(&load(&byte_level()));
    assert_eq!(encode(&tokenizer, "hello 12"), ["hell", "o", "Ġ", "1", "2"]);
    assert_eq!(encode(&tokenizer, "<|im_start|>he<tool>"), ["<|im_start|>", "he", "<tool>"]);
    assert_eq!(there_and_back(&tokenizer, "<|im_start|>hé ü😀\n<tool>"), "hé ü😀\n<tool>");
}

#[test]
fn pairs_are_merged_by_score_and_what_is_no_token_is_bytes() {
    let tokenizer = tokenizer(&load(&sentence_piece()));
    assert_eq!(encode(&tokenizer, "ab"), ["<s>", "▁", "ab"]);
    assert_eq!(encode(&tokenizer, "aaa b"), ["<s>", "▁a", "aa", "▁", "b"]);
    assert_eq!(encode(&tokenizer, "é"), ["<s>", "▁", "<0xC3>", "<0xA9>"]);
    // A space comes before every text between special tokens.
    assert_eq!(encode(&tokenizer, "b</s>a[x]a"), ["<s>", "▁", "b", "</s>", "▁a", "[x]", "▁a"]);
    assert_eq!(there_and_back(&tokenizer, " é  a😀\n"), " é  a😀\n");
}

#[test]
fn the_space_before_a_text_is_as_the_file_says() {
    let mut metadata = sentence_piece();
    set(&mut metadata, "ggml.add_space_prefix", Value::Bool(false));
    let tokenizer = tokenizer(&load(&metadata));
    assert_eq!(encode(&tokenizer, "aa a"), ["<s>", "aa", "▁a"]);
    assert_eq!(there_and_back(&tokenizer, " a"), " a");
}

#[test]
fn tokens_are_added_to_a_text_as_the_file_says() {
    let mut metadata = byte_level();
    set(&mut metadata, "ggml.add_bos_token", Value::Bool(true));
    set(&mut metadata, "ggml.add_eos_token", Value::Bool(true));
    assert_eq!(encode(&tokenizer(&load(&metadata)), "he"), ["<|im_start|>", "he", "<|im_end|>"]);
    // Llama 3 begins with it by default, and takes a piece that is a token as it is.
    let mut metadata = byte_level();
    set(&mut metadata, "ggml.pre", Value::String("llama-bpe".into()));
    set(&mut metadata, "ggml.merges", texts(&["h e", "l l"]));
    assert_eq!(encode(&tokenizer(&load(&metadata)), "hell"), ["<|im_start|>", "hell"]);
    let mut metadata = sentence_piece();
    set(&mut metadata, "ggml.add_bos_token", Value::Bool(false));
    assert_eq!(encode(&tokenizer(&load(&metadata)), "a"), ["▁a"]);
}

#[test]
fn white_space_after_the_special_tokens_of_phi_3_is_removed() {
    let mut metadata = sentence_piece();
    metadata.insert("general.name".into(), Value::String("Phi-3 Mini".into()));
    let tokenizer = tokenizer(&load(&metadata));
    assert_eq!(
        encode(&tokenizer, "<end_of_turn> \na<s> a"),
        ["<s>", "<end_of_turn>", "▁a", "<s>", "▁", "▁a"]
    );
}

#[test]
fn end_tokens_are_those_of_the_file_of_known_texts_and_of_the_generation_config() {
    assert_eq!(load(&byte_level()).spec().eos, tokens(&[260]));
    let mut metadata = byte_level();
    set(&mut metadata, "ggml.eos_token_id", Value::U32(3));
    set(&mut metadata, "ggml.eom_token_id", Value::U32(7));
    assert_eq!(load(&metadata).spec().eos, tokens(&[3, 7, 260]));
    assert_eq!(load(&sentence_piece()).spec().eos, tokens(&[2, 265]));

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    tiny_gguf::write(&path, &metadata, 270);
    let generation = json!({ "eos_token_id": [5, 260] }).to_string();
    std::fs::write(dir.path().join("generation_config.json"), generation).unwrap();
    let model = Decoder::load(&ModelSource::Gguf(path), &LoadOptions::default()).unwrap();
    assert_eq!(model.spec().eos, tokens(&[3, 5, 7, 260]));
}

#[test]
fn the_configuration_names_special_tokens_and_chat_templates() {
    let mut metadata = byte_level();
    set(&mut metadata, "chat_template", Value::String("T".into()));
    let expected = json!({
        "add_bos_token": false, "add_eos_token": false, "bos_token": "<|im_start|>", "eos_token": "<|im_end|>",
        "unk_token": null, "pad_token": null, "chat_template": "T"
    });
    assert_eq!(config(&load(&metadata)), expected);
    set(&mut metadata, "chat_templates", texts(&["rag"]));
    set(&mut metadata, "chat_template.rag", Value::String("R".into()));
    let templates = json!([{ "name": "rag", "template": "R" }, { "name": "default", "template": "T" }]);
    assert_eq!(config(&load(&metadata))["chat_template"], templates);
    let config = config(&load(&sentence_piece()));
    assert_eq!((&config["bos_token"], &config["unk_token"]), (&json!("<s>"), &json!("<unk>")));
    assert_eq!(config["chat_template"], json!(null));
}

#[test]
fn a_tokenizer_beside_the_file_takes_precedence() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let mut metadata = byte_level();
    set(&mut metadata, "ggml.pre", Value::String("of tomorrow".into()));
    tiny_gguf::write(&path, &metadata, 270);
    crate::common::write_tokenizer(dir.path(), 96);
    let model = Decoder::load(&ModelSource::Gguf(path), &LoadOptions::default()).unwrap();
    assert_eq!(tokenizer(&model).get_vocab_size(true), 96);
    assert_eq!(model.spec().eos, tokens(&[260]));
}

/// What a file says instead, and a part of the sentence that refuses it.
type Refusal = (&'static str, Option<Value>, &'static str);

fn check_refusals(metadata: &Metadata, refusals: Vec<Refusal>) {
    for (key, value, expected) in refusals {
        let mut changed = metadata.clone();
        changed.remove(&format!("tokenizer.{key}"));
        changed.extend(value.map(|value| (format!("tokenizer.{key}"), value)));
        let error = tiny_gguf::load(&changed, 270).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(expected), "{key}: {expected:?} is not in {error:?}");
        assert!(error.contains("model.gguf cannot be used") && error.ends_with("into the same directory"));
    }
}

#[test]
fn errors_say_what_is_wrong_with_a_byte_level_tokenizer() {
    let text = |text: &str| Some(Value::String(text.into()));
    let list = |entries: &[&str]| Some(texts(entries));
    let number = |number: i32| Some(Value::I32(number));
    let types = |changed: i32| {
        Some(Value::Array([vec![1; 261], vec![changed]].concat().into_iter().map(Value::I32).collect()))
    };
    check_refusals(
        &byte_level(),
        vec![
            ("ggml.model", None, "tokenizer.ggml.model is missing"),
            (
                "ggml.model",
                text("t5"),
                "tokenizer.ggml.model is \"t5\", and only \"gpt2\" and \"llama\" are supported",
            ),
            ("ggml.model", number(2), "tokenizer.ggml.model is 2, not a string"),
            ("ggml.pre", None, "tokenizer.ggml.pre is missing"),
            ("ggml.pre", text("chatglm-bpe"), "tokenizer.ggml.pre is \"chatglm-bpe\""),
            ("ggml.tokens", None, "tokenizer.ggml.tokens is missing"),
            ("ggml.tokens", number(5), "tokenizer.ggml.tokens is 5, not a list"),
            (
                "ggml.tokens",
                Some(Value::Array(vec![Value::U32(5)])),
                "tokenizer.ggml.tokens[0] is 5, not a string",
            ),
            ("ggml.tokens", Some(Value::Array(vec![])), "it has 0 tokens"),
            ("ggml.tokens", list(&["a", "b", "a"]), "tokens 0 and 2 are both \"a\""),
            (
                "ggml.tokens",
                list(&["h", "e"]),
                "tokenizer.ggml.token_type has 262 entries, but there are 2 tokens",
            ),
            ("ggml.token_type", types(7), "tokenizer.ggml.token_type[261] is 7"),
            ("ggml.token_type", text("x"), "tokenizer.ggml.token_type is a string, not a list"),
            ("ggml.merges", None, "tokenizer.ggml.merges is missing"),
            ("ggml.merges", list(&["h e", "hell"]), "tokenizer.ggml.merges[1], \"hell\", is not two tokens"),
            ("ggml.merges", list(&["h x"]), "needs \"hx\", which is not a token"),
            ("ggml.merges", list(&["h €"]), "needs \"€\", which is not a token"),
            (
                "ggml.bos_token_id",
                number(262),
                "tokenizer.ggml.bos_token_id is 262, but there are 262 tokens",
            ),
            ("ggml.eos_token_id", number(-1), "tokenizer.ggml.eos_token_id is -1, but"),
            ("ggml.eot_token_id", text("2"), "tokenizer.ggml.eot_token_id is a string, not a whole number"),
            ("ggml.add_bos_token", number(1), "tokenizer.ggml.add_bos_token is 1, not true or false"),
            ("chat_template", number(1), "tokenizer.chat_template is 1, not a string"),
        ],
    );
    let mut adds_bos = byte_level();
    set(&mut adds_bos, "ggml.add_bos_token", Value::Bool(true));
    check_refusals(&adds_bos, vec![("ggml.bos_token_id", None, "tokenizer.ggml.bos_token_id is missing")]);
}

#[test]
fn errors_say_what_is_wrong_with_a_tokenizer_of_scores() {
    let scores = |scores: &[f32]| Some(Value::Array(scores.iter().copied().map(Value::F32).collect()));
    check_refusals(
        &sentence_piece(),
        vec![
            ("ggml.scores", None, "tokenizer.ggml.scores is missing"),
            ("ggml.scores", scores(&[1.0]), "tokenizer.ggml.scores has 1 entries, but there are 267 tokens"),
            ("ggml.scores", scores(&[0.0, f32::NAN]), "tokenizer.ggml.scores[1] is NaN, not a number"),
            ("ggml.add_space_prefix", Some(Value::F32(0.5)), "add_space_prefix is 0.5, not true or false"),
        ],
    );
    let long = "a".repeat(1025);
    let mut metadata = metadata("llama", &[(long, NORMAL)]);
    set(&mut metadata, "ggml.scores", Value::Array(vec![Value::F32(0.0)]));
    set(&mut metadata, "ggml.add_bos_token", Value::Bool(false));
    check_refusals(&metadata, vec![("x", None, "a token has 1025 bytes, and 1024 are supported")]);
}

#[test]
fn a_tokenizer_with_more_tokens_than_the_model_has_rows_is_refused() {
    let error = tiny_gguf::load(&byte_level(), 261).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("token id 261"), "{error}");
}

#[test]
fn an_empty_token_and_missing_types_are_as_in_llama_cpp() {
    let mut metadata = byte_level();
    let Value::Array(mut tokens) = metadata["tokenizer.ggml.tokens"].clone() else { panic!("a list") };
    tokens.push(Value::String(String::new()));
    set(&mut metadata, "ggml.tokens", Value::Array(tokens));
    metadata.remove("tokenizer.ggml.token_type");
    let tokenizer = tokenizer(&load(&metadata));
    assert_eq!(tokenizer.id_to_token(262).unwrap(), "[EMPTY_262]");
    // The text of a known control token makes it one, and nothing else does.
    assert_eq!(encode(&tokenizer, "<|im_end|>"), ["<|im_end|>"]);
    assert_eq!(encode(&tokenizer, "<tool>").len(), 6);
}
