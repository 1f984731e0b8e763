//! The vocabulary of a model: the bytes of its `tokenizer.json`, and what identifies it.

use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use tokenizers::Tokenizer;

use crate::LoadError;

/// A model's tokenizer. The services never tokenize: they hand it to the orchestrator, which does.
#[derive(Clone, Debug)]
pub struct Vocabulary {
    /// `tokenizer.json`, whole.
    pub json: Arc<[u8]>,
    /// SHA-256 in hex over all (id, token) pairs by ascending id. Draft and target must agree on it; the padded size of
    /// their embeddings may differ.
    pub hash: String,
    /// `tokenizer_config.json`, whole; empty if there is none. It names the special tokens, and may hold the chat template.
    pub config: Arc<[u8]>,
    /// `chat_template.jinja`, where newer checkpoints keep it; empty if there is none.
    pub chat_template: Arc<str>,
}

impl Vocabulary {
    /// Reads `tokenizer.json` for a model with `rows` embeddings, and what stands beside it.
    pub fn read(path: &Path, rows: usize) -> Result<Self, LoadError> {
        let read = |path: &Path| {
            std::fs::read(path).map_err(|source| LoadError::Read { path: path.to_owned(), source })
        };
        let beside = |name: &str| {
            let path = path.with_file_name(name);
            if path.is_file() { read(&path) } else { Ok(Vec::new()) }
        };
        let json = read(path)?;
        let (config, template) = (beside("tokenizer_config.json")?, beside("chat_template.jinja")?);
        let chat_template = String::from_utf8(template).map_err(|e| LoadError::Tokenizer {
            path: path.with_file_name("chat_template.jinja"),
            reason: e.to_string(),
        })?;
        let tokenizer = Tokenizer::from_bytes(&json)
            .map_err(|e| LoadError::Tokenizer { path: path.to_owned(), reason: e.to_string() })?;
        let mut tokens: Vec<(u32, String)> =
            tokenizer.get_vocab(true).into_iter().map(|(token, id)| (id, token)).collect();
        tokens.sort_unstable();
        if let Some(&(token, _)) = tokens.last().filter(|t| t.0 as usize >= rows) {
            return Err(LoadError::TokenizerTooLarge { token, vocab: rows });
        }
        let mut hash = Sha256::new();
        for (id, token) in &tokens {
            hash.update(id.to_le_bytes());
            hash.update((token.len() as u64).to_le_bytes());
            hash.update(token.as_bytes());
        }
        let hash = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { json: json.into(), hash, config: config.into(), chat_template: chat_template.into() })
    }
}
