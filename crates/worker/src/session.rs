//! One session on a worker, and its steps.

use std::future::Future;

use crate::step_log::{StepLog, Turn};
use tandem_decoding::{Accepted, Distribution, Draws, Sampling, TokenTree};
use tandem_engine::{Logits, ModelSpec, TreeCache};
use tandem_proto::{Fault, OpenSession, Reason, SessionRef, v1};

use crate::fault::{commit_fault, step_fault};

/// What a session has between steps.
pub struct SessionState {
    /// Its KV cache and tree.
    pub cache: TreeCache,
    /// How logits are warped.
    pub sampling: Sampling,
    /// Its randomness.
    pub draws: Draws,
    /// Nodes that a tree may have.
    pub max_tree_nodes: usize,
    /// Tokens that may be proposed or drawn are below.
    vocab: usize,
    /// Tokens that it may commit.
    max_committed: usize,
}

/// A step as its client asks for it.
#[derive(Clone, Debug)]
pub struct StepRequest {
    /// Which session, and how far it is after the commit.
    pub session: SessionRef,
    /// 1 for the first.
    pub step: u64,
    /// Of the step before.
    pub commit: Option<Accepted>,
}

impl StepRequest {
    /// Reads what every step's message has.
    pub fn read(
        handle: Option<v1::SessionHandle>,
        step: u64,
        commit: Option<v1::Commit>,
    ) -> Result<Self, Fault> {
        let commit = commit.map(v1::Commit::into_accepted).transpose()?;
        Ok(Self { session: SessionRef::try_from(handle)?, step, commit })
    }
}

/// The work of a step.
pub trait Job: Send + 'static {
    /// What it returns, kept for a repeated step.
    type Reply: Clone + Send + 'static;

    /// Refuses what cannot run, before anything changes. `committed` is the number of tokens after the commit.
    fn check(&self, state: &SessionState, committed: usize, spec: &ModelSpec) -> Result<(), Fault>;

    /// Runs on the committed state. An error ends the session.
    fn run(self, state: &mut SessionState) -> impl Future<Output = Result<Self::Reply, Fault>> + Send;
}

pub(crate) struct Session<R> {
    steps: StepLog<R>,
    state: SessionState,
}

impl<R: Clone + Send + 'static> Session<R> {
    pub(crate) fn new(open: &OpenSession, cache: TreeCache, spec: &ModelSpec) -> Self {
        let state = SessionState {
            cache,
            vocab: open.vocab_limit.map_or(spec.vocab_size, |limit| limit.min(spec.vocab_size)),
            sampling: open.sampling,
            draws: Draws::new(open.seed),
            max_tree_nodes: open.max_tree_nodes,
            max_committed: open.prompt.len().saturating_add(open.max_new_tokens),
        };
        Self { steps: StepLog::default(), state }
    }

    /// Commits the step before and runs `job`, or returns what this step got before. Whether an error ends the
    /// session is in the `Err`.
    pub(crate) async fn step<J: Job<Reply = R>>(
        &mut self,
        request: &StepRequest,
        job: J,
        spec: &ModelSpec,
    ) -> Result<R, (Fault, Ends)> {
        let alive = |fault| (fault, Ends::Nothing);
        match self.steps.turn(request.step).map_err(step_fault).map_err(alive)? {
            Turn::Repeat(reply) => return Ok(reply),
            Turn::Run => {}
        }
        let committed = self.check_commit(request, spec).map_err(alive)?;
        job.check(&self.state, committed, spec).map_err(alive)?;
        if let Some(accepted) = &request.commit {
            self.state.cache.commit(accepted);
        }
        let reply = job.run(&mut self.state).await.map_err(|fault| (fault, Ends::Session))?;
        self.steps.done(reply.clone());
        Ok(reply)
    }

    /// Tokens after the commit.
    fn check_commit(&self, request: &StepRequest, spec: &ModelSpec) -> Result<usize, Fault> {
        let cache = &self.state.cache;
        let committed = match (&request.commit, request.step) {
            (None, 1) => cache.committed(),
            (Some(_), 1) => return Err(Fault::invalid("commit", "step 1 has no step before it to commit")),
            (None, _) => {
                return Err(Fault::invalid("commit", "is missing: every step but the first commits"));
            }
            (Some(accepted), _) => {
                cache.check_commit(accepted, spec.vocab_size).map_err(commit_fault)?;
                cache.committed() + accepted.path.len() + 1
            }
        };
        if committed != request.session.committed {
            let theirs = request.session.committed;
            let message = format!("the client counts {theirs} committed tokens, this worker {committed}");
            return Err(Fault::Refused { reason: Reason::CommittedMismatch, message });
        }
        if committed > self.state.max_committed {
            let limit = self.state.max_committed;
            let message = format!("{committed} tokens in a session that was opened for {limit}");
            return Err(Fault::invalid("commit", message));
        }
        Ok(committed)
    }
}

/// What a fault ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ends {
    Nothing,
    Session,
}

impl SessionState {
    /// The logits of a row whose tokens may be proposed or drawn.
    pub fn possible<'a>(&self, row: &'a [f32]) -> &'a [f32] {
        &row[..self.vocab]
    }

    /// The warped distribution of each row.
    pub fn warp(&self, logits: &Logits) -> Result<Vec<Distribution>, Fault> {
        let warped =
            logits.rows().map(|row| self.sampling.warp(self.possible(row))).collect::<Result<_, _>>();
        warped.map_err(|e| Fault::Bug(e.to_string()))
    }

    /// Checks a tree of `nodes` and `depth` against the session and the model's context.
    pub fn check_tree(
        &self,
        nodes: usize,
        depth: usize,
        committed: usize,
        spec: &ModelSpec,
    ) -> Result<(), Fault> {
        if nodes > self.max_tree_nodes {
            let message = format!("{nodes} nodes in a session that was opened for {}", self.max_tree_nodes);
            return Err(Fault::invalid("tree", message));
        }
        if committed + depth > spec.context_length {
            let message = format!(
                "{committed} committed tokens and a tree of depth {depth} exceed the context of {} tokens",
                spec.context_length
            );
            return Err(Fault::invalid("tree", message));
        }
        Ok(())
    }

    /// Checks the tokens of `tree` against the vocabulary.
    pub fn check_tokens(&self, tree: &TokenTree, spec: &ModelSpec) -> Result<(), Fault> {
        match tree.tokens().iter().find(|t| t.0 as usize >= spec.vocab_size) {
            Some(token) => {
                let message = format!("token {token} is outside the vocabulary of {}", spec.vocab_size);
                Err(Fault::invalid("tree", message))
            }
            None => Ok(()),
        }
    }
}
