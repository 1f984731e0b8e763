//! The one thread that owns a model's weights and caches.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tandem_decoding::TokenId;
use tokio::sync::{mpsc, oneshot};
use tracing::{Span, debug};

use crate::{Backend, EngineError, Keep, KvBudget, LoadError, Logits, ModelSpec, Pass, Reservation, Segment};

/// Commands that may wait. A session has at most one, so this is also a limit on sessions that compute at once.
const QUEUE: usize = 256;
/// Rows that one forward packs. A single pass may have more.
const MAX_PACKED_ROWS: usize = 512;
/// Rows of a prompt that one pass takes, so that a long one does not hold up the steps of others.
const PREFILL_CHUNK: usize = 256;

/// A model on a thread of its own. Clones share it; the thread ends when the last clone and the last cache are gone.
#[derive(Clone)]
pub struct ModelThread {
    commands: mpsc::Sender<Command>,
    shared: Arc<Shared>,
}

struct Shared {
    spec: ModelSpec,
    budget: KvBudget,
    next_cache: AtomicU64,
    /// Caches whose handles were dropped. A drop cannot wait for room in the queue, and there are never more of them
    /// than caches.
    dropped: Mutex<Vec<u64>>,
}

enum Command {
    Run(Box<Run>),
    /// Look at `Shared::dropped`.
    Sweep,
}

struct Run {
    cache: u64,
    keep: Option<Keep>,
    pass: Pass,
    reply: oneshot::Sender<Result<Logits, EngineError>>,
    /// The span of the request, so that what the thread logs belongs to it.
    span: Span,
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
        budget: KvBudget,
        build: impl FnOnce() -> Result<(B, ModelSpec), LoadError> + Send + 'static,
    ) -> Result<Self, LoadError> {
        let (ready, loaded) = oneshot::channel();
        let (commands, queue) = mpsc::channel(QUEUE);
        std::thread::Builder::new()
            .name("model".into())
            .spawn(move || {
                let (backend, spec) = match build() {
                    Ok(built) => built,
                    Err(error) => return drop(ready.send(Err(error))),
                };
                let shared = Arc::new(Shared {
                    spec,
                    budget,
                    next_cache: AtomicU64::new(0),
                    dropped: Mutex::default(),
                });
                if ready.send(Ok(shared.clone())).is_ok() {
                    serve(&backend, queue, &shared);
                }
            })
            .map_err(|_| LoadError::ThreadEnded)?;
        let shared = loaded.await.map_err(|_| LoadError::ThreadEnded)??;
        Ok(Self { commands, shared })
    }

    /// The model.
    pub fn spec(&self) -> &ModelSpec {
        &self.shared.spec
    }

    /// The budget of its caches.
    pub fn budget(&self) -> &KvBudget {
        &self.shared.budget
    }

    /// Opens an empty cache that may grow to `tokens` rows. Refused before anything is allocated when the budget is full.
    pub fn open(&self, tokens: usize) -> Result<Cache, EngineError> {
        let reservation = self.shared.budget.reserve(tokens)?;
        let id = self.shared.next_cache.fetch_add(1, Ordering::Relaxed);
        Ok(Cache { id, thread: self.clone(), reservation, len: 0 })
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
        let rows = kept + pass.tokens.len();
        if rows > self.reservation.tokens() {
            let (needed, free) = (rows, self.reservation.tokens());
            return Err(EngineError::BudgetFull { needed, free, total: free });
        }
        let (reply, replied) = oneshot::channel();
        let run = Run { cache: self.id, keep, pass, reply, span: Span::current() };
        let sent = self.thread.commands.send(Command::Run(Box::new(run))).await;
        sent.map_err(|_| EngineError::Stopped)?;
        let logits = replied.await.map_err(|_| EngineError::Stopped)??;
        self.len = rows;
        Ok(logits)
    }

    /// Appends `tokens` in causal order, in chunks.
    pub async fn prefill(&mut self, tokens: &[TokenId]) -> Result<(), EngineError> {
        for chunk in tokens.chunks(PREFILL_CHUNK) {
            self.run(None, Pass::causal(self.len, chunk.to_vec())).await?;
        }
        Ok(())
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

/// The life of the thread.
fn serve<B: Backend>(backend: &B, mut queue: mpsc::Receiver<Command>, shared: &Shared) {
    let mut caches: HashMap<u64, B::Cache> = HashMap::new();
    // Taken from the queue, but too large for the pass before it.
    let mut held = None;
    while let Some(first) = held.take().or_else(|| queue.blocking_recv()) {
        let mut batch = Vec::new();
        let mut rows = 0;
        let mut next = Some(first);
        while let Some(command) = next {
            if let Command::Run(run) = command {
                if rows > 0 && rows + run.pass.tokens.len() > MAX_PACKED_ROWS {
                    held = Some(Command::Run(run));
                    break;
                }
                if let Some(prepared) = prepare(backend, &mut caches, run, &shared.spec) {
                    rows += prepared.0.pass.tokens.len();
                    batch.push(prepared);
                }
            }
            next = queue.try_recv().ok();
        }
        if !batch.is_empty() {
            forward(backend, &mut caches, batch);
        }
        // Last, so that a cache whose handle was dropped during its pass goes too: its Sweep may have been read above.
        for id in std::mem::take(&mut *shared.dropped.lock().unwrap_or_else(PoisonError::into_inner)) {
            caches.remove(&id);
        }
    }
}

/// Checks a command and applies its `keep`; takes its cache out of the map. A bad or cancelled command ends here, alone.
fn prepare<B: Backend>(
    backend: &B,
    caches: &mut HashMap<u64, B::Cache>,
    run: Box<Run>,
    spec: &ModelSpec,
) -> Option<(Box<Run>, B::Cache)> {
    if run.reply.is_closed() {
        run.span.in_scope(|| debug!("dropped a pass that nobody waits for"));
        return None;
    }
    let mut cache = caches.remove(&run.cache).unwrap_or_else(|| backend.new_cache());
    let cached = backend.cached(&cache);
    let checked = check_keep(run.keep.as_ref(), cached)
        .and_then(|kept| run.pass.check(kept, spec.vocab_size, spec.context_length))
        .and_then(|()| run.keep.as_ref().map_or(Ok(()), |keep| backend.keep(&mut cache, keep)));
    match checked {
        Ok(()) => Some((run, cache)),
        Err(error) => {
            caches.insert(run.cache, cache);
            let _ = run.reply.send(Err(error));
            None
        }
    }
}

/// The rows that are left after `keep`.
fn check_keep(keep: Option<&Keep>, cached: usize) -> Result<usize, EngineError> {
    let Some(keep) = keep else { return Ok(cached) };
    let ascending = keep.rows.windows(2).all(|w| w[0] < w[1]);
    let within = keep.prefix <= cached
        && keep.rows.first().is_none_or(|&r| r >= keep.prefix)
        && keep.rows.last().is_none_or(|&r| r < cached);
    if !ascending || !within {
        return Err(EngineError::InvalidPass(format!("cannot keep {keep:?} of {cached} rows")));
    }
    Ok(keep.prefix + keep.rows.len())
}

/// Runs the batch; if it fails, each pass alone, so that only the one to blame fails.
fn forward<B: Backend>(
    backend: &B,
    caches: &mut HashMap<u64, B::Cache>,
    mut batch: Vec<(Box<Run>, B::Cache)>,
) {
    let result = try_forward(backend, &mut batch);
    if result.is_err() && batch.len() > 1 {
        for one in batch {
            forward(backend, caches, vec![one]);
        }
        return;
    }
    let mut replies: Vec<Result<Logits, EngineError>> = match result {
        Ok(all) => all.into_iter().map(Ok).collect(),
        Err(error) => vec![Err(error)],
    };
    for ((run, cache), reply) in batch.into_iter().zip(replies.drain(..)) {
        caches.insert(run.cache, cache);
        let _ = run.reply.send(reply);
    }
}

/// A panic in the model is a failure of this batch, not the end of the thread and of everybody's sessions.
fn try_forward<B: Backend>(
    backend: &B,
    batch: &mut [(Box<Run>, B::Cache)],
) -> Result<Vec<Logits>, EngineError> {
    let mut segments: Vec<Segment<'_, B::Cache>> =
        batch.iter_mut().map(|(run, cache)| Segment { cache, pass: &run.pass }).collect();
    // A failed pass leaves the rows of a cache as they were, whatever is behind them.
    let result = catch_unwind(AssertUnwindSafe(|| backend.forward(&mut segments)));
    result.unwrap_or_else(|_| Err(EngineError::Failed("a panic, see the log".into())))
}
