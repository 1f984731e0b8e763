//! The tokenizer of a model: the bytes of its files, and a hash that identifies its vocabulary.

use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use tokenizers::Tokenizer;

use super::error::LoadError;
use super::gguf::Gguf;
use super::gguf_tokenizer::{TokenizerFiles, tokenizer_files};

/// The tokenizer of a model. The model services never tokenize: they hand it to the orchestrator. The files of a
/// GGUF file that is alone in its directory are made from its metadata.
#[derive(Clone, Debug)]
pub struct Vocabulary {
    /// The content of `tokenizer.json`.
    pub json: Arc<[u8]>,
    /// SHA-256 in hex over all (id, token) pairs in ascending order of ids. Draft and target must have the
    /// same hash; the padded sizes of their embeddings may differ.
    pub hash: String,
    /// The content of `tokenizer_config.json`, which names the special tokens and may hold the chat template;
    /// empty if there is none.
    pub config: Arc<[u8]>,
    /// The content of `chat_template.jinja`, where newer checkpoints store the template; empty if there is
    /// none.
    pub chat_template: Arc<str>,
}

impl Vocabulary {
    /// Reads the `tokenizer.json` at `path` for a model with `rows` embeddings, and the other files of the
    /// tokenizer from the same directory.
    ///
    /// # Errors
    /// If a file cannot be read, if the tokenizer is not valid, or if it has more tokens than the model.
    pub fn read(path: &Path, rows: usize) -> Result<Self, LoadError> {
        let json = read(path)?;
        let config = read_optional(&path.with_file_name("tokenizer_config.json"))?;
        let template_path = path.with_file_name("chat_template.jinja");
        let chat_template = String::from_utf8(read_optional(&template_path)?)
            .map_err(|e| LoadError::unsupported(&template_path, e.to_string()))?;
        let hash = vocabulary_hash(path, &json, rows)?;
        Ok(Self { json: json.into(), hash, config: config.into(), chat_template: chat_template.into() })
    }

    /// Makes the files of the tokenizer from the metadata of `file`, for a model with `rows` embeddings.
    pub(super) fn of_gguf(file: &Gguf, rows: usize) -> Result<Self, LoadError> {
        let TokenizerFiles { json, config } = tokenizer_files(file)?;
        let hash = vocabulary_hash(file.path(), &json, rows)?;
        Ok(Self { json: json.into(), hash, config: config.into(), chat_template: "".into() })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, LoadError> {
    std::fs::read(path).map_err(|source| LoadError::read(path, source))
}

fn read_optional(path: &Path) -> Result<Vec<u8>, LoadError> {
    if path.is_file() { read(path) } else { Ok(Vec::new()) }
}

/// Parses the tokenizer, checks it against the model's `rows` embeddings, and hashes its vocabulary.
fn vocabulary_hash(path: &Path, json: &[u8], rows: usize) -> Result<String, LoadError> {
    let tokenizer = Tokenizer::from_bytes(json)
        .map_err(|e| LoadError::Tokenizer { path: path.to_owned(), reason: e.to_string() })?;
    let mut tokens: Vec<(u32, String)> =
        tokenizer.get_vocab(true).into_iter().map(|(token, id)| (id, token)).collect();
    tokens.sort_unstable();
    if let Some(&(token, _)) = tokens.last().filter(|(id, _)| *id as usize >= rows) {
        return Err(LoadError::TokenizerTooLarge { token, vocab: rows });
    }
    let mut hash = Sha256::new();
    for (id, token) in &tokens {
        hash.update(id.to_le_bytes());
        // The length, so that a boundary between tokens cannot be mistaken for a part of one.
        hash.update((token.len() as u64).to_le_bytes());
        hash.update(token.as_bytes());
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
