//! The one thread that owns a model's weights and caches, as the others see it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tandem_decoding::TokenId;
use tokio::sync::{mpsc, oneshot};
use tracing::{Span, trace_span};

use crate::observer::{PassObserver, Queue, Waiting};
use crate::scheduler::Scheduler;
use crate::{Backend, EngineError, Keep, KvBudget, LoadError, Logits, ModelSpec, Pace, Pass, Reservation};

/// Commands that may wait to be taken. A session has at most one, so this is also a limit on sessions that compute at once.
const QUEUE: usize = 256;

/// A model on a thread of its own. Clones share it; the thread ends when the last clone and the last cache are gone.
#[derive(Clone)]
pub struct ModelThread {
    commands: mpsc::Sender<Command>,
    shared: Arc<Shared>,
}

/// A model, ready to run.
pub struct Loaded<B> {
    /// It.
    pub backend: B,
    /// What it is.
    pub spec: ModelSpec,
    /// Of its caches.
    pub budget: KvBudget,
    /// What its passes cost.
    pub pace: Pace,
}

/// What both sides of the queue know.
pub(crate) struct Shared {
    pub(crate) spec: ModelSpec,
    budget: KvBudget,
    next_cache: AtomicU64,
    /// Caches whose handles were dropped. A drop cannot wait for room in the queue, and there are never more of them
    /// than caches.
    dropped: Mutex<Vec<u64>>,
    pub(crate) queue: Queue,
    pub(crate) observer: OnceLock<PassObserver>,
}

pub(crate) enum Command {
    Run(Box<Run>),
    /// Look at `Shared::dropped`.
    Sweep,
}

pub(crate) struct Run {
    pub(crate) cache: u64,
    /// Rows that this cache may ever have.
    pub(crate) most_rows: usize,
    pub(crate) work: Work,
    pub(crate) reply: oneshot::Sender<Result<Logits, EngineError>>,
    /// The span of the request, so that what the thread logs belongs to it.
    pub(crate) span: Span,
    /// While it waits for a pass.
    pub(crate) waiting: Option<Waiting>,
}

pub(crate) enum Work {
    /// First keeps what `keep` says, then runs `pass`.
    Step { keep: Option<Keep>, pass: Pass },
    /// Appends these tokens in causal order, in parts.
    Prefill { left: Vec<TokenId> },
}

/// A session's KV cache on the model thread. Dropping it frees the rows and the reservation.
pub struct Cache {
    id: u64,
    thread: ModelThread,
    reservation: Reservation,
    len: usize,
}

impl ModelThread {
    /// Starts a thread, builds the model on it, and waits until it is ready.
    pub async fn start<B: Backend>(
        build: impl FnOnce() -> Result<Loaded<B>, LoadError> + Send + 'static,
    ) -> Result<Self, LoadError> {
        let (ready, loaded) = oneshot::channel();
        std::thread::Builder::new()
            .name("model".into())
            .spawn(move || {
                let (thread, scheduler) = match build() {
                    Ok(loaded) => Self::around(loaded),
                    Err(error) => return drop(ready.send(Err(error))),
                };
                // Only to park this thread while nothing is to do, or for a moment.
                let runtime = match tokio::runtime::Builder::new_current_thread().enable_time().build() {
                    Ok(runtime) => runtime,
                    Err(_) => return,
                };
                if ready.send(Ok(thread)).is_ok() {
                    runtime.block_on(scheduler.serve());
                }
            })
            .map_err(|_| LoadError::ThreadEnded)?;
        loaded.await.map_err(|_| LoadError::ThreadEnded)?
    }

    /// The same as a task of the present runtime, for models that take no time: everything then happens in the order and on the
    /// clock of that runtime.
    pub fn start_as_task<B>(loaded: Loaded<B>) -> Self
    where
        B: Backend + Send,
        B::Cache: Send,
    {
        let (thread, scheduler) = Self::around(loaded);
        tokio::spawn(scheduler.serve());
        thread
    }

    fn around<B: Backend>(loaded: Loaded<B>) -> (Self, Scheduler<B>) {
        let Loaded { backend, spec, budget, pace } = loaded;
        let (commands, received) = mpsc::channel(QUEUE);
        let (dropped, queue, observer) = Default::default();
        let next_cache = AtomicU64::new(0);
        let shared = Arc::new(Shared { spec, budget, next_cache, dropped, queue, observer });
        (Self { commands, shared: shared.clone() }, Scheduler::new(backend, shared, received, pace))
    }

    /// The model.
    pub fn spec(&self) -> &ModelSpec {
        &self.shared.spec
    }

    /// The budget of its caches.
    pub fn budget(&self) -> &KvBudget {
        &self.shared.budget
    }

    /// Passes and prompts that wait for their turn.
    pub fn waiting(&self) -> usize {
        self.shared.queue.len()
    }

    /// Tells `observer` of every pass from now on. There is one at most: the first stays.
    pub fn observe(&self, observer: PassObserver) {
        let _ = self.shared.observer.set(observer);
    }

    /// Opens an empty cache that may grow to `tokens` rows. Refused before anything is allocated when the budget is full.
    pub fn open(&self, tokens: usize) -> Result<Cache, EngineError> {
        let reservation = self.shared.budget.reserve(tokens)?;
        let id = self.shared.next_cache.fetch_add(1, Ordering::Relaxed);
        Ok(Cache { id, thread: self.clone(), reservation, len: 0 })
    }
}

impl Shared {
    /// The caches whose handles were dropped since the last call.
    pub(crate) fn take_dropped(&self) -> Vec<u64> {
        std::mem::take(&mut *self.dropped.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Cache {
    /// Rows held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds no rows.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// First keeps what `keep` says, then runs `pass`. A refused pass changes nothing; after [`EngineError::Failed`] the
    /// cache is of no further use.
    pub async fn run(&mut self, keep: Option<Keep>, pass: Pass) -> Result<Logits, EngineError> {
        let kept = keep.as_ref().map_or(self.len, |k| k.prefix + k.rows.len());
        self.send(kept + pass.tokens.len(), Work::Step { keep, pass }).await
    }

    /// Appends `tokens` in causal order, in parts between the steps of others.
    pub async fn prefill(&mut self, tokens: &[TokenId]) -> Result<(), EngineError> {
        if tokens.is_empty() {
            return Ok(());
        }
        self.send(self.len + tokens.len(), Work::Prefill { left: tokens.to_vec() }).await.map(drop)
    }

    /// Runs `work`, after which the cache has `rows`.
    async fn send(&mut self, rows: usize, work: Work) -> Result<Logits, EngineError> {
        let most_rows = self.reservation.tokens();
        if rows > most_rows {
            return Err(EngineError::BudgetFull { needed: rows, free: most_rows, total: most_rows });
        }
        let (reply, replied) = oneshot::channel();
        let waiting = Some(self.thread.shared.queue.enter(trace_span!("queue")));
        let run = Run { cache: self.id, most_rows, work, reply, span: Span::current(), waiting };
        let sent = self.thread.commands.send(Command::Run(Box::new(run))).await;
        sent.map_err(|_| EngineError::Stopped)?;
        let logits = replied.await.map_err(|_| EngineError::Stopped)??;
        self.len = rows;
        Ok(logits)
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        let shared = &self.thread.shared;
        shared.dropped.lock().unwrap_or_else(PoisonError::into_inner).push(self.id);
        // A full queue means that the thread is busy and will look by itself.
        let _ = self.thread.commands.try_send(Command::Sweep);
    }
}
