//! `tokenizer.json` as prompts need it.

use std::collections::BTreeMap;

use serde_json::value::{RawValue, to_raw_value};

use super::special_tokens::{AddedToken, TokenizerConfig};

/// The `tokenizer.json` in `json`, without truncation and padding, and with the special tokens of `config`.
/// Everything else in it stays as it is, to the byte. `None` if nothing has to change.
///
/// Truncation and padding are settings of the training: a prompt would lose its end, or gain tokens.
pub(super) fn merged(json: &[u8], config: &TokenizerConfig) -> serde_json::Result<Option<Vec<u8>>> {
    let mut parts: BTreeMap<String, &RawValue> = serde_json::from_slice(json)?;
    let mut changed = false;
    for setting in ["truncation", "padding"] {
        changed |= parts.remove(setting).is_some_and(|value| value.get() != "null");
    }
    let stored: Vec<AddedToken> = match parts.get("added_tokens") {
        Some(tokens) => serde_json::from_str(tokens.get())?,
        None => Vec::new(),
    };
    let mut tokens = stored.clone();
    config.apply(&mut tokens);
    if tokens == stored && !changed {
        return Ok(None);
    }
    let tokens = to_raw_value(&tokens)?;
    parts.insert("added_tokens".to_owned(), &tokens);
    Ok(Some(serde_json::to_vec(&parts)?))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tokenizers::Tokenizer;

    use super::*;

    /// A tokenizer of the letters a to j, of which `added` are added tokens.
    fn tokenizer(added: Value) -> Value {
        let letters: BTreeMap<String, u32> = ('a'..='j').map(String::from).zip(0..).collect();
        json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
            "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": null,
            "model": { "type": "BPE", "vocab": letters, "merges": [] }
        })
    }

    fn token(id: u32, content: &str, special: bool) -> Value {
        json!({
            "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": special
        })
    }

    fn merge(json: &Value, config: Value) -> Option<Vec<u8>> {
        merged(json.to_string().as_bytes(), &serde_json::from_value(config).unwrap()).unwrap()
    }

    fn encode(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
        tokenizer.encode(text, true).unwrap().get_ids().to_vec()
    }

    #[test]
    fn nothing_changes_if_both_files_say_the_same() {
        let json = tokenizer(json!([token(10, "<s>", true)]));
        let same = json!({
            "bos_token": "<s>", "pad_token": null, "added_tokens_decoder": { "10": token(10, "<s>", true) }
        });
        for config in
            [json!({}), same, json!({ "added_tokens_decoder": null, "additional_special_tokens": null })]
        {
            assert_eq!(merge(&json, config), None);
        }
    }

    #[test]
    fn truncation_and_padding_are_removed() {
        let mut json = tokenizer(json!([]));
        json["truncation"] =
            json!({ "direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0 });
        json["padding"] = json!({
            "strategy": { "Fixed": 8 }, "direction": "Left", "pad_to_multiple_of": null, "pad_id": 9,
            "pad_type_id": 0, "pad_token": "j"
        });
        let cut = Tokenizer::from_bytes(json.to_string()).unwrap();
        assert_eq!(encode(&cut, "abcdef"), [9, 9, 9, 9, 9, 0, 1, 2], "without the change");
        let merged = Tokenizer::from_bytes(merge(&json, json!({})).unwrap()).unwrap();
        assert_eq!(encode(&merged, "abcdef"), [0, 1, 2, 3, 4, 5]);
        assert_eq!(encode(&merged, "ab"), [0, 1]);
    }

    #[test]
    fn special_tokens_are_those_of_both_files() {
        let json = tokenizer(json!([token(10, "<s>", false), token(11, "<think>", false)]));
        let config = json!({
            "bos_token": "<s>",
            "eos_token": { "content": "j", "lstrip": false },
            "pad_token": "<pad>",
            "additional_special_tokens": ["<x>", { "content": "<s>" }],
            "added_tokens_decoder": {
                "11": token(11, "<think>", false),
                "12": token(12, "<|im_end|>", true),
            }
        });
        let merged = Tokenizer::from_bytes(merge(&json, config).unwrap()).unwrap();
        let added = merged.get_added_tokens_decoder();
        let mut found: Vec<_> =
            added.iter().map(|(id, token)| (*id, token.content.as_str(), token.special)).collect();
        found.sort_unstable();
        let expected = [
            (9, "j", true),
            (10, "<s>", true),
            (11, "<think>", false),
            (12, "<|im_end|>", true),
            (13, "<pad>", true),
            (14, "<x>", true),
        ];
        assert_eq!(found, expected);
        assert_eq!(encode(&merged, "a<|im_end|>b<pad>"), [0, 12, 1, 13]);
        assert_eq!(merged.decode(&[0, 12, 11, 9, 1], true).unwrap().replace(' ', ""), "a<think>b");
    }

    #[test]
    fn extra_special_tokens_are_a_list_or_have_names() {
        let json = tokenizer(json!([token(10, "<x>", false)]));
        for extra in [json!(["<x>"]), json!({ "image_token": "<x>" }), json!([{ "content": "<x>" }])] {
            let merged = merge(&json, json!({ "extra_special_tokens": extra })).unwrap();
            let merged: Value = serde_json::from_slice(&merged).unwrap();
            assert_eq!(merged["added_tokens"], json!([token(10, "<x>", true)]));
        }
        for none in [json!([]), json!({}), Value::Null] {
            assert_eq!(merge(&json, json!({ "extra_special_tokens": none })), None);
        }
    }

    #[test]
    fn tokens_are_recognised_as_the_config_says() {
        let json = tokenizer(json!([token(10, "<s>", true)]));
        let mut stripping = token(10, "<s>", false);
        stripping["rstrip"] = true.into();
        let merged = merge(&json, json!({ "added_tokens_decoder": { "10": stripping } })).unwrap();
        let merged: Value = serde_json::from_slice(&merged).unwrap();
        assert_eq!(merged["added_tokens"][0]["rstrip"], true);
        assert_eq!(merged["added_tokens"][0]["special"], true, "it was special before");
        assert_eq!(merged["model"], json["model"]);
    }
}
