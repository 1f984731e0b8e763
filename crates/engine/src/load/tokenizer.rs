//! The tokenizer of a model: the bytes of its files, and a hash that identifies its vocabulary.

mod end_tokens;
mod merge;
mod special_tokens;

use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use tandem_decoding::TokenId;
use tokenizers::Tokenizer;

use self::special_tokens::TokenizerConfig;
use super::error::LoadError;
use super::gguf::Gguf;
use super::gguf_tokenizer::{TokenizerFiles, tokenizer_files};
use super::json_file::{is_present, read_json};

/// The tokenizer of a model. The model services never tokenize: they hand it to the orchestrator. The files of a
/// GGUF file that is alone in its directory are made from its metadata.
#[derive(Clone, Debug)]
pub struct Vocabulary {
    /// The content of `tokenizer.json`, with the special tokens that only `tokenizer_config.json` states, and
    /// without truncation and padding.
    pub json: Arc<[u8]>,
    /// SHA-256 in hex over all (id, token) pairs in ascending order of ids. It identifies the tokenizer,
    /// whatever the sizes of the embeddings: those of draft and target may be padded differently, and a
    /// tokenizer may have tokens without an embedding.
    pub hash: String,
    /// The content of `tokenizer_config.json`, which names the special tokens and may hold the chat template;
    /// empty if there is none.
    pub config: Arc<[u8]>,
    /// The content of `chat_template.jinja`, where newer checkpoints store the template; empty if there is
    /// none.
    pub chat_template: Arc<str>,
    /// The tokens that end a sequence or a turn, according to the tokenizer.
    pub end_tokens: Vec<TokenId>,
}

impl Vocabulary {
    /// Reads the `tokenizer.json` at `path` for a model with `rows` embeddings, and the other files of the
    /// tokenizer from the same directory. Tokens without an embedding cause a warning: the model never writes
    /// them, and prompts must not contain them.
    ///
    /// # Errors
    /// If a file cannot be read, or if the tokenizer is not valid.
    pub fn read(path: &Path, rows: usize) -> Result<Self, LoadError> {
        let stored = read(path)?;
        let config_path = path.with_file_name("tokenizer_config.json");
        let config: TokenizerConfig = match is_present(&config_path) {
            true => read_json(&config_path)?,
            false => TokenizerConfig::default(),
        };
        let invalid = |reason: String| LoadError::Tokenizer { path: path.to_owned(), reason };
        let merged = merge::merged(&stored, &config).map_err(|error| invalid(error.to_string()))?;
        let files = TokenizerFiles {
            json: merged.unwrap_or(stored),
            config: read_optional(&config_path)?,
            chat_template: chat_template(path)?,
        };
        Self::new(files, &config, rows).map_err(invalid)
    }

    /// Makes the files of the tokenizer from the metadata of `file`, for a model with `rows` embeddings.
    pub(super) fn of_gguf(file: &Gguf, rows: usize) -> Result<Self, LoadError> {
        let invalid = |what: String| LoadError::GgufTokenizer { path: file.path().to_owned(), what };
        let files = tokenizer_files(file)?;
        let config = serde_json::from_slice(&files.config).map_err(|error| invalid(error.to_string()))?;
        Self::new(files, &config, rows).map_err(invalid)
    }

    /// Checks the tokenizer in `files`, whose configuration is `config`.
    fn new(files: TokenizerFiles, config: &TokenizerConfig, rows: usize) -> Result<Self, String> {
        let tokenizer = Tokenizer::from_bytes(&files.json).map_err(|error| error.to_string())?;
        warn_of_other_ids(&tokenizer, config);
        let tokens = tokens_by_id(&tokenizer);
        warn_of_tokens_beyond(rows, &tokens);
        Ok(Self {
            hash: vocabulary_hash(&tokens),
            end_tokens: end_tokens::end_tokens(&tokenizer, config.eos_token()),
            json: files.json.into(),
            config: files.config.into(),
            chat_template: files.chat_template.into(),
        })
    }
}

/// The default chat template among the files of the directory of `tokenizer`; empty if there is none.
fn chat_template(tokenizer: &Path) -> Result<String, LoadError> {
    let names = ["chat_template.jinja", "additional_chat_templates/default.jinja"];
    let mut paths = names.iter().map(|name| tokenizer.with_file_name(name));
    let Some(path) = paths.find(|path| is_present(path)) else { return Ok(String::new()) };
    String::from_utf8(read(&path)?).map_err(|error| LoadError::unsupported(&path, error.to_string()))
}

fn read(path: &Path) -> Result<Vec<u8>, LoadError> {
    std::fs::read(path).map_err(|source| LoadError::read(path, source))
}

fn read_optional(path: &Path) -> Result<Vec<u8>, LoadError> {
    if is_present(path) { read(path) } else { Ok(Vec::new()) }
}

/// A token has the id that the tokenizer gives it, as in transformers, also if `tokenizer_config.json` states
/// another one.
fn warn_of_other_ids(tokenizer: &Tokenizer, config: &TokenizerConfig) {
    for (stated, token) in config.ids() {
        let id = tokenizer.token_to_id(token);
        if id != Some(stated) {
            tracing::warn!(token, stated, ?id, "tokenizer_config.json states another id than the tokenizer");
        }
    }
}

/// All tokens with their ids, in ascending order of ids.
fn tokens_by_id(tokenizer: &Tokenizer) -> Vec<(u32, String)> {
    let mut tokens: Vec<_> = tokenizer.get_vocab(true).into_iter().map(|(token, id)| (id, token)).collect();
    tokens.sort_unstable();
    tokens
}

fn warn_of_tokens_beyond(rows: usize, tokens: &[(u32, String)]) {
    let mut beyond = tokens.iter().filter(|(id, _)| *id as usize >= rows);
    let count = beyond.clone().count();
    let Some((id, token)) = beyond.next() else { return };
    tracing::warn!(
        embeddings = rows,
        tokens = count,
        first = id,
        text = token,
        "the tokenizer has tokens without an embedding: prompts that contain them are refused"
    );
}

fn vocabulary_hash(tokens: &[(u32, String)]) -> String {
    let mut hash = Sha256::new();
    for (id, token) in tokens {
        hash.update(id.to_le_bytes());
        // The length, so that a boundary between tokens cannot be mistaken for a part of one.
        hash.update((token.len() as u64).to_le_bytes());
        hash.update(token.as_bytes());
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn token(id: u32, content: &str, special: bool) -> Value {
        json!({
            "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": special
        })
    }

    /// Reads a tokenizer of the letters a to c for a model of `rows`, with some added tokens, and `files` beside
    /// it.
    fn vocabulary(added: Value, rows: usize, files: &[(&str, &str)]) -> Result<Vocabulary, LoadError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokenizer.json");
        let model = json!({ "type": "BPE", "vocab": { "a": 0, "b": 1, "c": 2 }, "merges": [] });
        std::fs::write(&path, json!({ "added_tokens": added, "model": model }).to_string()).unwrap();
        for (name, content) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        Vocabulary::read(&path, rows)
    }

    fn end_tokens(added: Value, config: Value) -> Vec<u32> {
        let files = [("tokenizer_config.json", config.to_string())];
        let files = files.each_ref().map(|(name, content)| (*name, content.as_str()));
        vocabulary(added, 100, &files).unwrap().end_tokens.into_iter().map(|token| token.0).collect()
    }

    #[test]
    fn answers_end_with_the_end_token_and_with_known_ends_of_turns() {
        let turns =
            json!([token(3, "<|eot_id|>", true), token(4, "<|im_end|>", false), token(5, "<x>", true)]);
        assert_eq!(end_tokens(turns.clone(), json!({})), [3]);
        assert_eq!(end_tokens(turns.clone(), json!({ "eos_token": "<x>" })), [3, 5]);
        assert_eq!(end_tokens(turns.clone(), json!({ "eos_token": { "content": "c" } })), [2, 3]);
        assert_eq!(
            end_tokens(turns.clone(), json!({ "eos_token": null, "pad_token": "<|im_end|>" })),
            [3, 4]
        );
        // Special only according to tokenizer_config.json, and only there at all.
        let decoder = json!({
            "4": { "content": "<|im_end|>", "special": true }, "6": { "content": "<end_of_turn>", "special": true }
        });
        assert_eq!(end_tokens(turns, json!({ "added_tokens_decoder": decoder })), [3, 4, 6]);
    }

    #[test]
    fn tokens_without_an_embedding_do_not_change_what_a_tokenizer_is() {
        let added = json!([token(3, "<pad>", true)]);
        let fits = vocabulary(added.clone(), 4, &[]).unwrap();
        let beyond = vocabulary(added, 3, &[]).unwrap();
        assert_eq!((&beyond.hash, &beyond.json), (&fits.hash, &fits.json));
        assert_ne!(vocabulary(json!([]), 3, &[]).unwrap().hash, fits.hash);
    }

    #[test]
    fn the_default_chat_template_is_found_in_either_place() {
        let template = |files: &[(&str, &str)]| vocabulary(json!([]), 3, files).unwrap().chat_template;
        let default = ("additional_chat_templates/default.jinja", "named");
        assert_eq!(&*template(&[]), "");
        assert_eq!(&*template(&[("additional_chat_templates/tool_use.jinja", "tools")]), "");
        assert_eq!(&*template(&[default]), "named");
        assert_eq!(&*template(&[default, ("chat_template.jinja", "first")]), "first");
    }

    #[test]
    fn files_that_are_not_valid_are_named() {
        let refused = |files: &[(&str, &str)]| vocabulary(json!([]), 3, files).unwrap_err().to_string();
        let error = refused(&[("tokenizer_config.json", "{")]);
        assert!(error.ends_with("tokenizer_config.json is not valid"), "{error}");
        let error =
            refused(&[("tokenizer_config.json", r#"{"added_tokens_decoder": {"x": {"content": "y"}}}"#)]);
        assert!(error.ends_with("tokenizer_config.json is not valid"), "{error}");
        let error = refused(&[("tokenizer.json", r#"{"model": {"type": "BPE"}}"#)]);
        assert!(error.contains("tokenizer.json is not a valid tokenizer: "), "{error}");
    }
}
