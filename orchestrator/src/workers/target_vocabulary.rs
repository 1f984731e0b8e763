//! The vocabulary that drafts must agree with.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tandem_generation::Role;
use tandem_proto::v1;
use tokenizers::Tokenizer;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::tokenizer_files::TokenizerFiles;
use crate::vocabulary::{ModelVocabulary, TokenTable, compare_vocabularies};

/// The tokenizer of the targets, and what is known of drafts with another one.
pub(crate) struct TargetVocabulary {
    target: v1::ModelInfo,
    tokenizer: Arc<Tokenizer>,
    /// The last draft that was compared: another one of its model need not be.
    compared: Mutex<Option<Compared>>,
}

struct Compared {
    vocab_hash: String,
    vocab_size: u32,
    verdict: Result<(), String>,
}

impl TargetVocabulary {
    /// The vocabulary of `target`.
    pub(crate) fn new(target: v1::ModelInfo, tokenizer: Arc<Tokenizer>) -> Self {
        Self { target, tokenizer, compared: Mutex::new(None) }
    }

    /// Whether the draft that `channel` leads to can be used with the target; if not, why. If both have the same tokens this is known by
    /// their hashes; otherwise the tokenizers are compared.
    pub(crate) async fn check(
        &self,
        draft: &v1::ModelInfo,
        channel: Channel,
        timeout: Duration,
    ) -> Result<Result<(), String>, Status> {
        if draft.vocab_hash == self.target.vocab_hash {
            return Ok(Ok(()));
        }
        if let Some(verdict) = self.known(draft) {
            return Ok(verdict);
        }
        let verdict = match TokenizerFiles::fetch(Role::Draft, channel, timeout).await {
            Ok(files) => self.compare(draft, files.json).await,
            Err(status) if status.code() == Code::Unimplemented => {
                let version = "its version is too old to say which tokens differ";
                Err(format!("those of {} and {}; {version}", draft.model_id, self.target.model_id))
            }
            Err(status) if status.code() == Code::InvalidArgument => {
                Err(format!("the draft {} has none: {}", draft.model_id, status.message()))
            }
            Err(status) => return Err(status),
        };
        *self.compared.lock().unwrap_or_else(PoisonError::into_inner) = Some(Compared {
            vocab_hash: draft.vocab_hash.clone(),
            vocab_size: draft.vocab_size,
            verdict: verdict.clone(),
        });
        Ok(verdict)
    }

    fn known(&self, draft: &v1::ModelInfo) -> Option<Result<(), String>> {
        let compared = self.compared.lock().unwrap_or_else(PoisonError::into_inner);
        let compared = compared.as_ref()?;
        let is_same = compared.vocab_hash == draft.vocab_hash && compared.vocab_size == draft.vocab_size;
        is_same.then(|| compared.verdict.clone())
    }

    /// Compares tokenizers on a thread of its own: vocabularies are large.
    async fn compare(&self, draft: &v1::ModelInfo, json: Vec<u8>) -> Result<(), String> {
        let tokenizer = self.tokenizer.clone();
        let target = self.target.clone();
        let draft = draft.clone();
        let comparing = tokio::task::spawn_blocking(move || compare(&target, &tokenizer, &draft, &json));
        comparing.await.unwrap_or_else(|error| Err(format!("they could not be compared: {error}")))
    }
}

/// Compares the tokens, and warns of differences that do no harm.
fn compare(
    target: &v1::ModelInfo,
    tokenizer: &Tokenizer,
    draft: &v1::ModelInfo,
    draft_json: &[u8],
) -> Result<(), String> {
    let in_target = TokenTable::new(tokenizer);
    let in_draft = TokenTable::from_json(draft_json)
        .map_err(|error| format!("that of the draft {} is not valid: {error}", draft.model_id))?;
    let of_target = ModelVocabulary { model: &target.model_id, tokens: &in_target, rows: target.vocab_size };
    let of_draft = ModelVocabulary { model: &draft.model_id, tokens: &in_draft, rows: draft.vocab_size };
    let differences = compare_vocabularies(&of_target, &of_draft).map_err(|error| error.to_string())?;
    tracing::warn!(
        target = target.model_id,
        draft = draft.model_id,
        %differences,
        "draft and target have different tokenizers, but can be used together"
    );
    Ok(())
}
