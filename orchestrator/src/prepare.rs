//! Fits a request to the models: the checks that depend on them.

use tandem_decoding::{Drafting, TokenId};
use tandem_generation::{Field, GenerateRequest, Input, InvalidRequest, OpenSession, Problem};

use crate::pair::Pair;

/// Largest set of distributions that a target may send in one reply: what a message can hold.
const MAX_DISTRIBUTION_BYTES: usize = tandem_proto::MAX_MESSAGE_BYTES;

/// What the workers are sent to open a session for a request.
pub(crate) fn open_session(
    pair: &Pair,
    request: &GenerateRequest,
    prompt: Vec<TokenId>,
) -> Result<OpenSession, InvalidRequest> {
    let context = pair.context();
    if prompt.len() >= context {
        let model = pair.target.model_id.clone();
        let problem = Problem::ContextLength { tokens: prompt.len(), context, model };
        return Err(InvalidRequest { field: Field::Prompt, problem });
    }
    let vocab = pair.vocab();
    if let Some(token) = prompt.iter().find(|token| token.0 >= vocab) {
        return Err(outside_vocabulary(pair, &request.input, *token));
    }
    check_distributions(request, vocab)?;
    Ok(OpenSession {
        max_new_tokens: request.max_new_tokens.min(context - prompt.len()),
        prompt,
        max_tree_nodes: request.decoding.max_tree_nodes(),
        sampling: request.sampling,
        seed: request.seed.unwrap_or_else(rand::random),
        vocab_limit: Some(vocab as usize),
    })
}

/// A tokenizer may have tokens for which the models have no embedding: they were added to it, but never trained.
fn outside_vocabulary(pair: &Pair, input: &Input, token: TokenId) -> InvalidRequest {
    let vocab = pair.vocab();
    let field = match input {
        Input::Text(_) => Field::Prompt,
        Input::Chat(_) => Field::Messages,
        Input::Tokens(_) => {
            let predicate = format!("has token {token}, which is outside the vocabulary of {vocab}");
            return InvalidRequest::new(Field::PromptTokens, predicate);
        }
    };
    let text = pair.tokenizer.id_to_token(token.0).unwrap_or_default();
    let verb = if field == Field::Messages { "contain" } else { "contains" };
    let predicate = format!(
        "{verb} {text:?}, token {token} of the tokenizer, which the models cannot read: they have embeddings for {vocab} tokens only; \
         leave it out"
    );
    InvalidRequest::new(field, predicate)
}

/// Rejection sampling needs distributions, which without filters are as large as the vocabulary: a reply must not be too large to be
/// read. (Top-p alone may keep many tokens too; a reply that is too large then fails.)
fn check_distributions(request: &GenerateRequest, vocab: u32) -> Result<(), InvalidRequest> {
    /// An f32; without filters tokens are not named.
    const BYTES_PER_TOKEN: usize = 4;
    let uses_candidates = matches!(request.decoding.drafting(), Some(Drafting::Candidates { .. }));
    if !uses_candidates || request.sampling.is_greedy() || request.sampling.filters(vocab as usize) {
        return Ok(());
    }
    let rows = request.decoding.max_tree_nodes() + 1;
    let bytes = rows * vocab as usize * BYTES_PER_TOKEN;
    if bytes <= MAX_DISTRIBUTION_BYTES {
        return Ok(());
    }
    let predicate = format!(
        "is off, as is top-p, so {} needs {rows} distributions over {vocab} tokens per iteration, {} MiB: set top-k, draft fewer \
         tokens, or use exact-match, which is lossless too",
        request.decoding.method(),
        bytes >> 20
    );
    Err(InvalidRequest::new(Field::TopK, predicate))
}
