//! The same request without services, network or faults: the loop runs directly on the toy models.

use std::time::Duration;

use tandem_decoding::Accepted;
use tandem_generation::{
    DraftRequest, DraftSession, Drafter, FinishReason, GenerateError, GenerateRequest, Generation, Input,
    OpenSession, Proposal, generate as run_loop,
};
use tandem_proto::v1;
use tandem_testkit::{ToyModel, toy_tokenizer};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// What should come out.
#[derive(Debug, Default)]
pub(crate) struct Expected {
    pub(crate) text: String,
    pub(crate) tokens: Vec<u32>,
    pub(crate) reason: v1::FinishReason,
    pub(crate) stop: String,
    pub(crate) undrafted: usize,
}

/// A draft that is missing in the iterations that had none.
struct IntermittentDraft<'a> {
    drafted: &'a [bool],
}

struct IntermittentSession<'a> {
    inner: <ToyModel as Drafter>::Session,
    drafted: std::slice::Iter<'a, bool>,
}

impl<'a> Drafter for IntermittentDraft<'a> {
    type Session = IntermittentSession<'a>;

    async fn open(
        &self,
        open: &OpenSession,
        deadline: Instant,
    ) -> Result<IntermittentSession<'a>, GenerateError> {
        Ok(IntermittentSession {
            inner: Drafter::open(&ToyModel::DRAFT, open, deadline).await?,
            drafted: self.drafted.iter(),
        })
    }
}

impl DraftSession for IntermittentSession<'_> {
    async fn propose(
        &mut self,
        commit: Option<&Accepted>,
        request: &DraftRequest,
    ) -> Result<Option<Proposal>, GenerateError> {
        // Always called, so that the session sees every commit.
        let proposal = self.inner.propose(commit, request).await?;
        if self.drafted.next() == Some(&false) {
            self.inner.forget_tree();
            return Ok(None);
        }
        Ok(proposal)
    }
}

/// The result of `wire`, with drafts in the iterations where `drafted` says so, and in all iterations after those.
pub(crate) fn generate(wire: &v1::GenerateRequest, drafted: &[bool]) -> Expected {
    let request = GenerateRequest::try_from(wire.clone()).expect("a valid request");
    let Input::Tokens(prompt) = request.input.clone() else { return Expected::default() };
    let tokenizer = toy_tokenizer(ToyModel::TARGET.vocab);
    let generation = Generation {
        open: OpenSession {
            max_new_tokens: request.max_new_tokens.min(ToyModel::CONTEXT_TOKENS - prompt.len()),
            prompt,
            max_tree_nodes: request.decoding.max_tree_nodes(),
            sampling: request.sampling,
            seed: request.seed.unwrap_or_default(),
            vocab_limit: None,
        },
        decoding: request.decoding.clone(),
        log_probs: false,
        top_log_probs: 0,
        trace: false,
        eos: &[],
        stop: &request.stop,
        tokenizer: &tokenizer,
        arrived: Instant::now(),
        admitted: Instant::now(),
        deadline: Instant::now() + Duration::from_secs(60),
        observer: &(),
    };
    let (out, mut chunks) = mpsc::channel(ToyModel::CONTEXT_TOKENS + 2);
    let draft = IntermittentDraft { drafted };
    let run = run_loop(&draft, &ToyModel::TARGET, &generation, &out);
    let finish = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime")
        .block_on(run)
        .expect("toys do not fail");
    drop(out);
    let mut expected = Expected { undrafted: finish.statistics.undrafted, ..Expected::default() };
    (expected.reason, expected.stop) = match finish.reason {
        FinishReason::EndOfSequence => (v1::FinishReason::Eos, String::new()),
        FinishReason::Stop(stop) => (v1::FinishReason::Stop, stop),
        FinishReason::Length => (v1::FinishReason::Length, String::new()),
    };
    while let Ok(chunk) = chunks.try_recv() {
        expected.text += &chunk.text;
        expected.tokens.extend(chunk.tokens.iter().map(|token| token.id.0));
    }
    expected
}
