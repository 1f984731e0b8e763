//! The handles of the thread that owns a model's weights and caches.

use std::sync::Arc;

use tandem_decoding::{RowSummary, TokenId};
use tokio::sync::{mpsc, oneshot};
use tracing::{Span, trace_span};

use super::batch_policy::BatchPolicy;
use super::budget::{KvBudget, Reservation};
use super::command::{Command, Shared, Task, Work};
use super::observer::PassObserver;
use super::scheduler::Scheduler;
use super::steps::{OneStep, Step, Steps};
use crate::load::LoadError;
use crate::model::{Backend, EngineError, Keep, ModelSpec, Pass};

/// Commands that may wait to be received. A session sends one at a time, so this also limits the sessions
/// that compute concurrently.
const MAX_COMMANDS: usize = 256;

/// A model on a thread of its own. Clones share it. The thread ends when the last clone and the last cache
/// are dropped.
#[derive(Clone)]
pub struct ModelThread {
    commands: mpsc::Sender<Command>,
    shared: Arc<Shared>,
}

/// A model, ready to run.
pub struct Loaded<B> {
    /// The model.
    pub backend: B,
    /// Its description.
    pub spec: ModelSpec,
    /// The budget of its caches.
    pub budget: KvBudget,
    /// How it fills passes.
    pub policy: BatchPolicy,
    /// Bytes that a pass may take besides weights and caches, by [`Backend::pass_bytes`]. At least what one
    /// row takes behind a full context.
    pub pass_bytes: usize,
}

/// A session's KV cache on the model thread. Dropping it frees the rows and the reservation.
pub struct Cache {
    id: u64,
    thread: ModelThread,
    reservation: Reservation,
}

impl ModelThread {
    /// Starts a thread, builds the model on it, and waits until the model is ready.
    ///
    /// # Errors
    /// The error of `build`, or [`LoadError::ThreadEnded`] if the thread cannot start or panics.
    pub async fn start<B: Backend>(
        build: impl FnOnce() -> Result<Loaded<B>, LoadError> + Send + 'static,
    ) -> Result<Self, LoadError> {
        let (ready, started) = oneshot::channel();
        std::thread::Builder::new()
            .name("model".into())
            .spawn(move || run_thread(build, ready))
            .map_err(|_| LoadError::ThreadEnded)?;
        started.await.map_err(|_| LoadError::ThreadEnded)?
    }

    /// Starts the model as a task of the current runtime instead, for models that compute in no time:
    /// everything then happens in the order and on the clock of that runtime.
    pub fn start_as_task<B>(loaded: Loaded<B>) -> Self
    where
        B: Backend + Send,
        B::Cache: Send,
    {
        let (thread, scheduler) = Self::new(loaded);
        tokio::spawn(scheduler.serve());
        thread
    }

    fn new<B: Backend>(loaded: Loaded<B>) -> (Self, Scheduler<B>) {
        let (commands, received) = mpsc::channel(MAX_COMMANDS);
        let shared = Arc::new(Shared::new(loaded.spec, loaded.budget));
        let scheduler =
            Scheduler::new(loaded.backend, shared.clone(), received, loaded.policy, loaded.pass_bytes);
        (Self { commands, shared }, scheduler)
    }

    /// The description of the model.
    pub fn spec(&self) -> &ModelSpec {
        &self.shared.spec
    }

    /// The budget of its caches.
    pub fn budget(&self) -> &KvBudget {
        &self.shared.budget
    }

    /// Steps and prompts that wait for a pass.
    pub fn waiting(&self) -> usize {
        self.shared.queue.len()
    }

    /// Calls `observer` after every pass from now on. Only the first observer counts.
    pub fn observe(&self, observer: PassObserver) {
        let _ = self.shared.observer.set(observer);
    }

    /// Opens an empty cache that may grow to `tokens` rows.
    ///
    /// # Errors
    /// [`EngineError::BudgetFull`], before anything is allocated.
    pub fn open(&self, tokens: usize) -> Result<Cache, EngineError> {
        let reservation = self.shared.budget.reserve(tokens)?;
        Ok(Cache { id: self.shared.next_cache(), thread: self.clone(), reservation })
    }
}

/// The model thread: builds the model, reports that it is ready, and serves it until the last handle is
/// dropped.
fn run_thread<B: Backend>(
    build: impl FnOnce() -> Result<Loaded<B>, LoadError>,
    ready: oneshot::Sender<Result<ModelThread, LoadError>>,
) {
    let (thread, scheduler) = match build() {
        Ok(loaded) => ModelThread::new(loaded),
        Err(error) => return drop(ready.send(Err(error))),
    };
    // Only to park this thread while it is idle, or until a deadline.
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_time().build() else { return };
    if ready.send(Ok(thread)).is_ok() {
        runtime.block_on(scheduler.serve());
    }
}

impl Cache {
    /// Applies `keep`, then runs `pass`. Returns the summaries of its outputs.
    ///
    /// # Errors
    /// A pass that was refused changes nothing. After [`EngineError::Failed`] the cache is of no further use.
    pub async fn run(&mut self, keep: Option<Keep>, pass: Pass) -> Result<Vec<RowSummary>, EngineError> {
        let (reply, replied) = oneshot::channel();
        let step = Some(Step { keep, pass });
        self.start(Box::new(OneStep { step, outputs: Vec::new(), reply })).await?;
        replied.await.map_err(|_| EngineError::Stopped)?
    }

    /// Starts `steps`, which reply themselves.
    pub(super) async fn start(&mut self, mut steps: Box<dyn Steps>) -> Result<(), EngineError> {
        match steps.next() {
            Some(next) => self.send(Work::Steps { next, steps }).await,
            None => {
                steps.finish(Ok(()));
                Ok(())
            }
        }
    }

    /// Appends `tokens` in causal order, in chunks that run beside the steps of other sessions.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub async fn prefill(&mut self, tokens: &[TokenId]) -> Result<(), EngineError> {
        if tokens.is_empty() {
            return Ok(());
        }
        let (reply, replied) = oneshot::channel();
        self.send(Work::Prefill { remaining: tokens.to_vec(), reply }).await?;
        replied.await.map_err(|_| EngineError::Stopped)?
    }

    async fn send(&mut self, work: Work) -> Result<(), EngineError> {
        let task = Task {
            cache: self.id,
            max_rows: self.reservation.tokens(),
            work,
            span: Span::current(),
            queued: Some(self.thread.shared.queue.enter(trace_span!("queue"))),
        };
        let command = Command::Run(Box::new(task));
        self.thread.commands.send(command).await.map_err(|_| EngineError::Stopped)
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        self.thread.shared.add_dropped(self.id);
        // If the queue is full, the thread is busy and will free the cache with its next pass.
        let _ = self.thread.commands.try_send(Command::FreeCaches);
    }
}
