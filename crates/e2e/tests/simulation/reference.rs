//! The same request without services, network or faults: the loop on the toy models themselves.

use std::time::Duration;

use tandem_decoding::{Accepted, TokenId};
use tandem_orchestrator::{
    DraftSession, Drafter, FinishReason, GenerateError, Job, Proposal, Watch, generate as run_loop,
};
use tandem_proto::{GenerateParams, Input, OpenSession, Propose, v1};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::scenario::{DRAFT, TARGET};
use crate::backend::CONTEXT;
use crate::{ToyModel, toy_tokenizer};

/// What should come out.
#[derive(Debug, Default)]
pub(crate) struct Expected {
    pub(crate) text: String,
    pub(crate) tokens: Vec<u32>,
    pub(crate) reason: v1::FinishReason,
    pub(crate) stop: String,
    pub(crate) undrafted: usize,
}

/// A draft that is away in the iterations that had none.
struct Away<'a> {
    drafted: &'a [bool],
}

struct AwaySession<'a> {
    inner: <ToyModel as Drafter>::Session,
    drafted: std::slice::Iter<'a, bool>,
}

impl<'a> Drafter for Away<'a> {
    type Session = AwaySession<'a>;

    async fn open(&self, open: &OpenSession, by: Instant) -> Result<AwaySession<'a>, GenerateError> {
        Ok(AwaySession { inner: Drafter::open(&DRAFT, open, by).await?, drafted: self.drafted.iter() })
    }
}

impl DraftSession for AwaySession<'_> {
    async fn propose(
        &mut self,
        commit: Option<&Accepted>,
        propose: &Propose,
    ) -> Result<Option<Proposal>, GenerateError> {
        // Asked and thrown away, so that it knows what was committed.
        let proposal = self.inner.propose(commit, propose).await?;
        if self.drafted.next() == Some(&false) {
            self.inner.forget_tree();
            return Ok(None);
        }
        Ok(proposal)
    }
}

/// The text of `wire`, with drafts where `drafted` says so, and everywhere behind.
pub(crate) fn generate(wire: &v1::GenerateRequest, drafted: &[bool]) -> Expected {
    #[allow(clippy::expect_used, reason = "the scenario's own request")]
    let params = GenerateParams::try_from(wire.clone()).expect("a valid request");
    let Input::Tokens(prompt) = params.input.clone() else { return Expected::default() };
    let tokenizer = toy_tokenizer(TARGET.vocab);
    let job = Job {
        open: OpenSession {
            max_new_tokens: params.max_new_tokens.min(CONTEXT - prompt.len()),
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
    let (out, mut pieces) = mpsc::channel(CONTEXT + 2);
    let away = Away { drafted };
    let run = run_loop(&away, &TARGET, &job, &out);
    #[allow(clippy::expect_used, reason = "a runtime without anything, and toys that cannot fail")]
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
