//! A backend that only counts, on a model thread.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};

use tandem_decoding::{RowReducer, RowSummary};
use tandem_engine::{
    Backend, BatchPolicy, DeviceChoice, Done, EngineError, Keep, KvBudget, Loaded, ModelSpec, ModelThread,
    Segment,
};

pub(crate) const VOCAB: usize = 8;
pub(crate) const CONTEXT: usize = 32;
/// Rows of a pass.
pub(crate) const MAX_ROWS: usize = 16;

/// The rows of each session in a pass.
type Batch = Vec<usize>;

/// A model whose cache is its tokens. The logits of a row count, for each token, the rows with it that the
/// row attends to.
struct Counter {
    batches: Arc<Mutex<Vec<Batch>>>,
    /// If there is a gate, a pass waits for a message from it.
    gate: Option<Receiver<()>>,
    live: Arc<()>,
    begun: Arc<AtomicUsize>,
}

struct CountingCache {
    tokens: Vec<u32>,
    _live: Arc<()>,
}

impl Backend for Counter {
    type Cache = CountingCache;

    fn new_cache(&self, _: usize) -> CountingCache {
        CountingCache { tokens: Vec::new(), _live: self.live.clone() }
    }

    fn cached(&self, cache: &CountingCache) -> usize {
        cache.tokens.len()
    }

    fn keep(&self, cache: &mut CountingCache, keep: &Keep) -> Result<(), EngineError> {
        let kept: Vec<u32> = keep.rows.iter().map(|&r| cache.tokens[r]).collect();
        cache.tokens.truncate(keep.prefix);
        cache.tokens.extend(kept);
        Ok(())
    }

    fn pass_bytes(&self, rows: usize, cached: usize) -> usize {
        rows * cached
    }

    fn forward(
        &self,
        batch: &mut [Segment<'_, CountingCache>],
        done: &mut Done<'_>,
    ) -> Result<(), EngineError> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        if let Some(gate) = &self.gate {
            gate.recv().unwrap();
        }
        self.batches.lock().unwrap().push(batch.iter().map(|s| s.pass.tokens.len()).collect());
        for (index, Segment { cache, pass }) in batch.iter_mut().enumerate() {
            cache.tokens.extend(pass.tokens.iter().map(|t| t.0));
            let summaries = pass.outputs.iter().map(|output| {
                let mut counts = vec![0f32; VOCAB];
                let columns = (0..pass.mask.columns()).filter(|&c| pass.mask.sees(output.row, c));
                for cached in (0..pass.prefix).chain(columns.map(|c| pass.prefix + c)) {
                    counts[cache.tokens[cached] as usize] += 1.0;
                }
                RowReducer::default().reduce(&counts, &output.query)
            });
            let summaries: Result<_, _> = summaries.collect();
            done(index, Ok(summaries.unwrap()));
        }
        Ok(())
    }
}

/// A model thread with a counter, and what the counter notes.
pub(crate) struct Bench {
    pub(crate) thread: ModelThread,
    pub(crate) batches: Arc<Mutex<Vec<Batch>>>,
    /// Referenced here, by the backend, and by each cache.
    pub(crate) live: Arc<()>,
    pub(crate) gate: SyncSender<()>,
    /// Passes that began.
    pub(crate) begun: Arc<AtomicUsize>,
}

/// What a bench can be started with.
pub(crate) struct Setup {
    /// Tokens of all caches.
    pub(crate) budget: usize,
    /// Whether passes wait at the gate.
    pub(crate) gated: bool,
    /// Bytes of a pass, in which a row takes one byte for each row that it attends to.
    pub(crate) pass_bytes: usize,
    /// Whether the costs of passes are measured.
    pub(crate) measured: bool,
}

pub(crate) async fn bench(budget: usize, gated: bool) -> Bench {
    bench_of(Setup { budget, gated, pass_bytes: usize::MAX, measured: false }).await
}

pub(crate) async fn bench_of(setup: Setup) -> Bench {
    let batches = Arc::<Mutex<Vec<Batch>>>::default();
    let live = Arc::new(());
    let begun = Arc::<AtomicUsize>::default();
    let (gate, gates) = sync_channel(100);
    let spec = ModelSpec {
        id: "counter".into(),
        vocab_size: VOCAB,
        context_length: CONTEXT,
        eos: Vec::new(),
        vocabulary: None,
        parameters: 0,
        weight_bytes: 0,
        kv_bytes_per_token: 1,
        dtype: "f32".into(),
        device: DeviceChoice::Cpu,
        kernels: Vec::new(),
    };
    let backend = Counter {
        batches: batches.clone(),
        gate: setup.gated.then_some(gates),
        live: live.clone(),
        begun: begun.clone(),
    };
    let policy = match setup.measured {
        true => BatchPolicy::measure(&backend, &spec).unwrap(),
        false => BatchPolicy::unmeasured(MAX_ROWS),
    };
    batches.lock().unwrap().clear();
    let budget = KvBudget::new(setup.budget);
    let loaded = Loaded { backend, spec, budget, policy, pass_bytes: setup.pass_bytes };
    let thread = ModelThread::start(move || Ok(loaded)).await.unwrap();
    Bench { thread, batches, live, gate, begun }
}

/// The counts of each row, as a string: "0:1 3:2".
pub(crate) fn counts(rows: &[RowSummary]) -> Vec<String> {
    let of_row = |row: &RowSummary| {
        let counts = row.logits.as_ref().unwrap().iter().enumerate().filter(|(_, n)| **n > 0.0);
        counts.map(|(token, n)| format!("{token}:{n}")).collect::<Vec<_>>().join(" ")
    };
    rows.iter().map(of_row).collect()
}
