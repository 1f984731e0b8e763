//! What is fuzzed: the conversions of `tandem-proto`, and the three services.

use arbitrary::{Result, Unstructured};
use tandem_decoding::{TokenId, TokenTree, TreeLimits, exact_match};
use tandem_generation::{GenerateRequest, OpenSession, ScoreRequest};
use tandem_proto::v1;
use tokio::runtime::Builder;

use super::messages as make;
use super::{panics, system};

/// Runs every conversion of a message that a service receives.
pub(super) fn conversions(data: &[u8]) {
    // An error means that the bytes ran out, which ends the input.
    let _ = convert(&mut Unstructured::new(data));
}

fn convert(u: &mut Unstructured<'_>) -> Result<()> {
    let _ = GenerateRequest::try_from(make::generate(u)?);
    let _ = OpenSession::try_from(make::open(u)?);
    let _ = v1::SessionHandle::read(Some(make::handle(u)?));
    let mut score = make::score(u, None)?;
    let _ = score.commit.take().map(v1::Commit::into_accepted);
    let request = ScoreRequest {
        distributions: u.arbitrary()?,
        log_probs: u.arbitrary()?,
        top_log_probs: u.int_in_range(0..=3)?,
    };
    let tree = score.take_tree().unwrap_or_else(|_| small_tree());
    if let Ok(scores) = make::scores(u, tree.len())?.into_scores(&tree, request) {
        // Scores that passed the conversion must be usable by the loop.
        let accepted = exact_match(&tree, &scores.drawn);
        assert!(accepted.path.len() <= tree.max_depth());
    }
    if let Ok(request) = make::propose(u, None)?.draft_request() {
        let _ = make::proposal(u)?.into_proposal(&request);
    }
    Ok(())
}

fn small_tree() -> TokenTree {
    let tokens = [1, 2, 3].map(TokenId).to_vec();
    TokenTree::new(tokens, vec![None, Some(0), None], TreeLimits::default()).unwrap_or_default()
}

/// Sends the three services whatever `data` makes of their clients and, in a quarter of the inputs, of their workers.
///
/// # Panics
/// If a request hangs, or KV-cache rows stay held.
pub(super) fn services(data: &[u8]) {
    // On a paused clock a request that hangs is found at once.
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        // The threads of the blocking pool fuzz too: they tokenize prompts.
        .on_thread_start(panics::recorder())
        .build()
        .unwrap();
    let _ = runtime.block_on(system::exercise(&mut Unstructured::new(data)));
}
