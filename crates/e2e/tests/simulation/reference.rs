//! The same request without services, network or faults: the loop runs directly on the toy models.

use std::time::Duration;

use tandem_decoding::{Accepted, TokenId};
use tandem_orchestrator::{
    DraftSession, Drafter, FinishReason, GenerateError, Job, Proposal, Watch, generate as run_loop,
};
use tandem_proto::{GenerateParams, Input, OpenSession, Propose, v1};
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

    async fn open(&self, open: &OpenSession, by: Instant) -> Result<IntermittentSession<'a>, GenerateError> {
        Ok(IntermittentSession {
            inner: Drafter::open(&ToyModel::DRAFT, open, by).await?,
            drafted: self.drafted.iter(),
        })
    }
}

impl DraftSession for IntermittentSession<'_> {
    async fn propose(
        &mut self,
        commit: Option<&Accepted>,
        propose: &Propose,
    ) -> Result<Option<Proposal>, GenerateError> {
        // Always called, so that the session sees every commit.
        let proposal = self.inner.propose(commit, propose).await?;
        if self.drafted.next() == Some(&false) {
            self.inner.forget_tree();
            return Ok(None);
        }
        Ok(proposal)
    }
}

/// The result of `wire`, with drafts in the iterations where `drafted` says so, and in all iterations after those.
pub(crate) fn generate(wire: &v1::GenerateRequest, drafted: &[bool]) -> Expected {
    let params = GenerateParams::try_from(wire.clone()).expect("a valid request");
    let Input::Tokens(prompt) = params.input.clone() else { return Expected::default() };
    let tokenizer = toy_tokenizer(ToyModel::TARGET.vocab);
    let job = Job {
        open: OpenSession {
            max_new_tokens: params.max_new_tokens.min(ToyModel::CONTEXT_TOKENS - prompt.len()),
            prompt,
            max_tree_nodes: params.decoding.max_tree_nodes(),
            sampling: params.sampling,
            seed: params.seed.unwrap_or_default(),
            vocab_limit: None,
        },
        decoding: params.decoding.clone(),
        log_probs: false,
        top_log_probs: 0,
        trace: false,
        eos: &[],
        stops: &params.stop,
        tokenizer: &tokenizer,
        arrived: Instant::now(),
        admitted: Instant::now(),
        by: Instant::now() + Duration::from_secs(60),
        watch: &Watch::nobody(),
    };
    let (out, mut pieces) = mpsc::channel(ToyModel::CONTEXT_TOKENS + 2);
    let draft = IntermittentDraft { drafted };
    let run = run_loop(&draft, &ToyModel::TARGET, &job, &out);
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
    while let Ok(update) = pieces.try_recv() {
        expected.text += &update.piece.text;
        expected.tokens.extend(update.piece.tokens.iter().map(|&TokenId(t)| t));
    }
    expected
}
