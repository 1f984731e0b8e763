//! One session on a worker, and its steps.

use std::future::Future;

use tandem_decoding::{Accepted, Draws, NodeRows, RowQuery, Sampling, TokenTree};
use tandem_engine::{ModelSpec, TreeCache};
use tandem_generation::{OpenSession, SessionHandle};
use tandem_proto::{InvalidMessage, MAX_MESSAGE_BYTES, v1};

use crate::error::WorkerError;
use crate::step_log::{StepLog, Turn};

/// What a session keeps between its steps.
pub struct SessionState {
    /// The KV cache and the tree in it.
    pub cache: TreeCache,
    /// How logits are warped.
    pub sampling: Sampling,
    /// The source of all draws.
    pub draws: Draws,
    /// Nodes that a tree may have.
    pub max_tree_nodes: usize,
    /// Only token ids below this one may be proposed or drawn.
    vocab: usize,
    /// Tokens that may be committed, prompt included.
    max_committed: usize,
}

/// What every step requests, whatever its task.
#[derive(Clone, Debug)]
pub struct StepRequest {
    /// The session, and how far it is after the commit.
    pub session: SessionHandle,
    /// The number of the step, 1 for the first.
    pub step: u64,
    /// What the step before accepted.
    pub commit: Option<Accepted>,
}

impl StepRequest {
    /// Reads the fields that every step's message has.
    pub fn read(
        handle: Option<v1::SessionHandle>,
        step: u64,
        commit: Option<v1::Commit>,
    ) -> Result<Self, InvalidMessage> {
        let commit = commit.map(v1::Commit::into_accepted).transpose()?;
        Ok(Self { session: v1::SessionHandle::read(handle)?, step, commit })
    }
}

/// What a step does: propose or score.
pub trait StepTask: Send + 'static {
    /// The reply, kept for a repetition of the step.
    type Reply: Clone + Send + 'static;

    /// Refuses what cannot run, before anything changes. `committed` is the number of tokens once the commit is applied.
    fn check(&self, state: &SessionState, committed: usize, spec: &ModelSpec) -> Result<(), WorkerError>;

    /// Runs on the committed state. An error ends the session.
    fn run(self, state: &mut SessionState) -> impl Future<Output = Result<Self::Reply, WorkerError>> + Send;
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

    /// Commits what the step before accepted and runs `task`, or repeats the reply if the step already ran. The error says whether it
    /// ends the session.
    pub(crate) async fn step<T: StepTask<Reply = R>>(
        &mut self,
        request: &StepRequest,
        task: T,
        spec: &ModelSpec,
    ) -> Result<R, (WorkerError, Ends)> {
        match self.prepare(request, &task, spec).map_err(|error| (error, Ends::Nothing))? {
            Turn::Repeat(reply) => return Ok(reply),
            Turn::Run => {}
        }
        if let Some(accepted) = &request.commit {
            self.state.cache.commit(accepted);
        }
        let reply = task.run(&mut self.state).await.map_err(|error| (error, Ends::Session))?;
        self.steps.done(reply.clone());
        Ok(reply)
    }

    /// Checks a step, before anything changes.
    fn prepare<T: StepTask<Reply = R>>(
        &self,
        request: &StepRequest,
        task: &T,
        spec: &ModelSpec,
    ) -> Result<Turn<R>, WorkerError> {
        let turn = self.steps.turn(request.step)?;
        if matches!(turn, Turn::Run) {
            let committed = self.check_commit(request, spec)?;
            task.check(&self.state, committed, spec)?;
        }
        Ok(turn)
    }

    /// The number of tokens once the commit is applied.
    fn check_commit(&self, request: &StepRequest, spec: &ModelSpec) -> Result<usize, WorkerError> {
        let cache = &self.state.cache;
        let committed = match (&request.commit, request.step) {
            (None, 1) => cache.committed(),
            (Some(_), 1) => {
                return Err(WorkerError::invalid(
                    "commit",
                    "must be absent in step 1, which has no step before it",
                ));
            }
            (None, _) => {
                return Err(WorkerError::invalid(
                    "commit",
                    "is missing: every step but the first must have one",
                ));
            }
            (Some(accepted), _) => {
                cache.check_commit(accepted, spec.vocab_size)?;
                cache.committed() + accepted.path.len() + 1
            }
        };
        let client = request.session.committed;
        if committed != client {
            return Err(WorkerError::CommittedMismatch { client, worker: committed });
        }
        if committed > self.state.max_committed {
            let limit = self.state.max_committed;
            let message = format!("leads to {committed} tokens in a session that was opened for {limit}");
            return Err(WorkerError::invalid("commit", message));
        }
        Ok(committed)
    }
}

/// What an error ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ends {
    Nothing,
    Session,
}

impl SessionState {
    /// A query for a row of this session that wants nothing yet.
    pub fn query(&self) -> RowQuery {
        RowQuery { sampling: self.sampling, vocab: self.vocab, logits: false, ..RowQuery::LOGITS }
    }

    /// One value per root and node of `tree`, from the rows of a pass.
    pub fn rows<T>(&self, tree: &TokenTree, rows: Vec<T>) -> Result<NodeRows<T>, WorkerError> {
        let given = rows.len();
        NodeRows::from_rows(tree, rows).ok_or_else(|| {
            WorkerError::Internal(format!("{given} rows for the root and {} nodes", tree.len()))
        })
    }

    /// Checks a tree of `nodes` and `depth` against the session and the model's context.
    pub fn check_tree(
        &self,
        nodes: usize,
        depth: usize,
        committed: usize,
        spec: &ModelSpec,
    ) -> Result<(), WorkerError> {
        if nodes > self.max_tree_nodes {
            let message =
                format!("has {nodes} nodes, but the session was opened for {}", self.max_tree_nodes);
            return Err(WorkerError::invalid("tree", message));
        }
        if committed + depth > spec.context_length {
            let message = format!(
                "of depth {depth} after {committed} committed tokens exceeds the context of {} tokens",
                spec.context_length
            );
            return Err(WorkerError::invalid("tree", message));
        }
        Ok(())
    }

    /// Checks that a reply can hold `count` distributions, before they are computed. Without filters each is as long as the vocabulary.
    pub fn check_distributions(&self, field: &'static str, count: usize) -> Result<(), WorkerError> {
        /// An f32; without filters tokens are not named.
        const BYTES_PER_TOKEN: usize = 4;
        let bytes = count.saturating_mul(self.vocab * BYTES_PER_TOKEN);
        if bytes <= MAX_MESSAGE_BYTES || self.sampling.filters(self.vocab) {
            return Ok(());
        }
        let message = format!(
            "need {count} distributions over {} tokens, {} MiB, but a reply holds {} MiB: set top_k, or request a smaller tree",
            self.vocab,
            bytes >> 20,
            MAX_MESSAGE_BYTES >> 20
        );
        Err(WorkerError::invalid(field, message))
    }

    /// Checks the tokens of `tree` against the vocabulary.
    pub fn check_tokens(&self, tree: &TokenTree, spec: &ModelSpec) -> Result<(), WorkerError> {
        match tree.tokens().iter().find(|t| t.0 as usize >= spec.vocab_size) {
            Some(token) => {
                let message =
                    format!("has token {token}, which is outside the vocabulary of {}", spec.vocab_size);
                Err(WorkerError::invalid("tree", message))
            }
            None => Ok(()),
        }
    }
}
