//! What a wire may bring: messages that are right but for some fields, from a fuzzer's bytes.
//!
//! [`conversions`] feeds them to the conversions of `tandem-proto`, [`services`] to the three services as a whole, in one process and
//! over connections in memory: requests of rude clients, and replies of workers that lie. Nothing may panic, nothing may hang
//! (time is simulated, so that a hang is found at once), and at the end no row of KV cache may be held.

mod lies;
mod messages;
mod system;

use arbitrary::{Result, Unstructured};
use tandem_decoding::{TokenTree, TreeLimits, exact_match};
use tandem_proto::{GenerateParams, OpenSession, SessionRef, Wanted, v1};

use messages as make;

/// Every conversion that a service makes of what it was sent.
pub fn conversions(data: &[u8]) {
    // Bytes that do not suffice are no input.
    let _ = convert(&mut Unstructured::new(data));
}

fn convert(u: &mut Unstructured<'_>) -> Result<()> {
    let _ = GenerateParams::try_from(make::generate(u)?);
    let _ = OpenSession::try_from(make::open(u)?);
    let _ = SessionRef::try_from(Some(make::handle(u)?));
    let mut score = make::score(u, None)?;
    let _ = score.commit.take().map(v1::Commit::into_accepted);
    let wanted = Wanted {
        distributions: u.arbitrary()?,
        log_probs: u.arbitrary()?,
        top_log_probs: u.int_in_range(0..=3)?,
    };
    let tree = score.take_tree().unwrap_or_else(|_| small_tree());
    if let Ok(scores) = make::scores(u, tree.len())?.into_scores(&tree, wanted) {
        // What passed is used as the loop uses it.
        let accepted = exact_match(&tree, &scores.drawn);
        assert!(accepted.path.len() <= tree.max_depth());
    }
    if let Ok(propose) = make::propose(u, None)?.propose() {
        let _ = make::proposal(u)?.into_draft(&propose);
    }
    Ok(())
}

fn small_tree() -> TokenTree {
    let tokens = [1, 2, 3].map(tandem_decoding::TokenId).to_vec();
    TokenTree::new(tokens, vec![None, Some(0), None], TreeLimits::default()).unwrap_or_default()
}

/// The three services under whatever `data` makes of their clients, and of the workers themselves.
///
/// # Panics
/// If a request hangs, or rows stay held.
pub fn services(data: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let Ok(runtime) = runtime else { return };
    // Bytes that do not suffice end the calls.
    let _ = runtime.block_on(system::exercise(&mut Unstructured::new(data)));
}
