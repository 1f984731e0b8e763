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
}

impl Vocabulary {
    /// Reads `tokenizer.json` for a model with `rows` embeddings.
    pub fn read(path: &Path, rows: usize) -> Result<Self, LoadError> {
        let json = std::fs::read(path).map_err(|source| LoadError::Read { path: path.to_owned(), source })?;
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
        Ok(Self { json: json.into(), hash })
    }
}
