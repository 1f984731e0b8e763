//! End-of-sequence tokens, as `config.json` and `generation_config.json` state them.

use std::path::Path;

use serde::Deserialize;
use tandem_decoding::TokenId;

use crate::load::error::LoadError;
use crate::load::json_file::read_json;

/// One token or several.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Eos {
    Single(u32),
    Multiple(Vec<u32>),
}

#[derive(Deserialize)]
struct GenerationConfig {
    eos_token_id: Option<Eos>,
}

impl Eos {
    pub(super) fn tokens(self) -> Vec<TokenId> {
        match self {
            Self::Single(id) => vec![TokenId(id)],
            Self::Multiple(ids) => ids.into_iter().map(TokenId).collect(),
        }
    }
}

/// The end-of-sequence tokens of `generation_config.json`; none if there is no such file or it states none.
pub(super) fn generation_eos(path: Option<&Path>) -> Result<Vec<TokenId>, LoadError> {
    let Some(path) = path else { return Ok(Vec::new()) };
    let config: GenerationConfig = read_json(path)?;
    Ok(config.eos_token_id.map(Eos::tokens).unwrap_or_default())
}
