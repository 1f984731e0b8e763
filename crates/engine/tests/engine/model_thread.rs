//! The model thread with a backend that only counts: packing, isolation, budgets, release.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};

use tandem_decoding::{Accepted, TokenId, TokenTree, TreeLimits};
use tandem_engine::{
    Backend, DeviceChoice, EngineError, InvalidCommit, Keep, KvBudget, Loaded, Logits, ModelSpec,
    ModelThread, Pace, Pass, Segment, TreeCache,
};

const VOCAB: usize = 8;
const CONTEXT: usize = 32;
/// Rows of a forward.
const PACKED: usize = 16;

/// A model whose cache is its tokens, and whose logits at a row are 1 at the token of every row that it sees.
struct Counter {
    /// Rows of each part of the batches that ran.
    batches: Arc<Mutex<Vec<Vec<usize>>>>,
    /// A forward waits for one of these, if there is a gate.
    gate: Option<Receiver<()>>,
    live: Arc<()>,
    arrived: Arc<AtomicUsize>,
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

    fn forward(&self, batch: &mut [Segment<'_, CountingCache>]) -> Result<Vec<Logits>, EngineError> {
        self.arrived.fetch_add(1, Ordering::SeqCst);
        if let Some(gate) = &self.gate {
            gate.recv().unwrap();
        }
        self.batches.lock().unwrap().push(batch.iter().map(|s| s.pass.tokens.len()).collect());
        let logits = batch.iter_mut().map(|Segment { cache, pass }| {
            cache.tokens.extend(pass.tokens.iter().map(|t| t.0));
            let rows = pass.logits.iter().flat_map(|&row| {
                let mut seen = vec![0f32; VOCAB];
                let tail =
                    (0..pass.mask.columns()).filter(|&c| pass.mask.sees(row, c)).map(|c| pass.prefix + c);
                (0..pass.prefix).chain(tail).for_each(|i| seen[cache.tokens[i] as usize] += 1.0);
                seen
            });
            Logits::new(VOCAB, rows.collect())
        });
        Ok(logits.collect())
    }
}

struct Bench {
    thread: ModelThread,
    batches: Arc<Mutex<Vec<Vec<usize>>>>,
    live: Arc<()>,
    gate: SyncSender<()>,
    /// Forwards begun.
    arrived: Arc<AtomicUsize>,
}

async fn bench(budget: usize, gated: bool) -> Bench {
    let (batches, live) = (Arc::<Mutex<Vec<Vec<usize>>>>::default(), Arc::new(()));
    let (gate, gates) = sync_channel(100);
    let arrived = Arc::<AtomicUsize>::default();
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
    };
    let backend = Counter {
        batches: batches.clone(),
        gate: gated.then_some(gates),
        live: live.clone(),
        arrived: arrived.clone(),
    };
    let (budget, pace) = (KvBudget::new(budget), Pace::unmeasured(PACKED));
    let thread = ModelThread::start(move || Ok(Loaded { backend, spec, budget, pace })).await.unwrap();
    Bench { thread, batches, live, gate, arrived }
}

fn tokens(ids: &[u32]) -> Vec<TokenId> {
    ids.iter().copied().map(TokenId).collect()
}

/// Counts of tokens that a row saw, as a string: "0:1 3:2".
fn seen(row: &[f32]) -> String {
    let seen = row.iter().enumerate().filter(|(_, n)| **n > 0.0).map(|(t, n)| format!("{t}:{n}"));
    seen.collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn what_waits_is_packed_and_a_bad_pass_fails_alone() {
    let b = bench(1000, true).await;
    let mut caches: Vec<_> = (0..5).map(|_| b.thread.open(20).unwrap()).collect();
    let passes = [
        Pass { logits: vec![0], ..Pass::causal(0, tokens(&[1])) },
        Pass::causal(0, tokens(&[1, 99])),
        Pass::causal(3, tokens(&[1])),
        Pass { positions: vec![CONTEXT], ..Pass::causal(0, tokens(&[1])) },
        Pass { logits: vec![1], ..Pass::causal(0, tokens(&[1, 2])) },
    ];
    let running: Vec<_> = caches
        .drain(..)
        .zip(passes)
        .map(|(mut cache, pass)| tokio::spawn(async move { cache.run(None, pass).await }))
        .collect();
    // The first forward holds the first pass at least; the others are queued behind the gate.
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    for _ in 0..5 {
        b.gate.send(()).unwrap();
    }
    let mut results = Vec::new();
    for run in running {
        results.push(run.await.unwrap());
    }
    assert_eq!(seen(results[0].as_ref().unwrap().rows().next().unwrap()), "1:1");
    assert_eq!(seen(results[4].as_ref().unwrap().rows().next().unwrap()), "1:1 2:1");
    assert_eq!(results[1], Err(EngineError::TokenOutOfRange { token: TokenId(99), vocab: VOCAB }));
    assert!(matches!(results[2], Err(EngineError::InvalidPass(_))), "{:?}", results[2]);
    assert_eq!(results[3], Err(EngineError::ContextFull { position: CONTEXT, limit: CONTEXT }));
    assert_eq!(b.batches.lock().unwrap().concat().len(), 2);
}

/// Long prompts go in parts, in turns, and beside the steps of others; what nobody waits for any more does not run.
#[tokio::test]
async fn prompts_take_turns_and_steps_go_first() {
    let b = bench(1000, true).await;
    let prefill = |rows: usize| {
        let mut cache = b.thread.open(40).unwrap();
        tokio::spawn(async move { cache.prefill(&tokens(&vec![1; rows])).await })
    };
    let step = || {
        let mut cache = b.thread.open(40).unwrap();
        let pass = Pass { logits: vec![9], ..Pass::causal(0, tokens(&[1; 10])) };
        tokio::spawn(async move { cache.run(None, pass).await })
    };
    // The first pass begins with the first prompt and waits at the gate; the others queue up meanwhile.
    let first = prefill(30);
    let queued = |n: usize| async move {
        for _ in 0..10 * n {
            tokio::task::yield_now().await;
        }
    };
    while b.arrived.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    let second = prefill(20);
    queued(1).await;
    let (a_step, cancelled) = (step(), prefill(25));
    queued(2).await;
    cancelled.abort();
    assert!(cancelled.await.unwrap_err().is_cancelled());
    for _ in 0..10 {
        b.gate.send(()).unwrap();
    }
    for done in [first, second] {
        done.await.unwrap().unwrap();
    }
    a_step.await.unwrap().unwrap();
    // 16 rows a pass: the first prompt alone; the step with 6 rows of it, whose turn then is over; the second; the rest of both.
    let batches = b.batches.lock().unwrap().clone();
    assert_eq!(batches[0], [16]);
    assert_eq!(batches[1][0], 10, "{batches:?}");
    assert!(batches.iter().all(|batch| batch.iter().sum::<usize>() <= PACKED), "{batches:?}");
    assert_eq!(batches.concat().iter().sum::<usize>(), 30 + 20 + 10, "{batches:?}");
    let ends = |rows: usize| batches.iter().position(|batch| batch.contains(&rows));
    assert!(batches.len() <= 5 && ends(10) == Some(1), "{batches:?}");
}

#[tokio::test]
async fn dropped_caches_are_freed_and_give_their_budget_back() {
    let b = bench(50, false).await;
    let mut cache = b.thread.open(40).unwrap();
    assert!(matches!(b.thread.open(20), Err(EngineError::BudgetFull { needed: 20, free: 10, total: 50 })));
    cache.prefill(&tokens(&[1, 2, 3])).await.unwrap();
    assert_eq!((cache.len(), Arc::strong_count(&b.live)), (3, 3));
    let too_many = cache.run(None, Pass::causal(3, tokens(&[1; 38]))).await;
    assert!(matches!(too_many, Err(EngineError::BudgetFull { .. })));
    drop(cache);
    // A pass behind the release, so that it has been seen.
    let mut next = b.thread.open(50).unwrap();
    next.prefill(&tokens(&[1])).await.unwrap();
    next.prefill(&tokens(&[1])).await.unwrap();
    assert_eq!(Arc::strong_count(&b.live), 3, "the backend's, this test's and one cache's");
}

#[tokio::test]
async fn a_tree_cache_commits_paths_and_nothing_else() {
    let b = bench(1000, false).await;
    //       root 1
    //      /     \
    //    2 (0)   3 (1)
    //    |         \
    //    4 (2)     5 (3)
    let tree =
        TokenTree::new(tokens(&[2, 3, 4, 5]), vec![None, None, Some(0), Some(1)], TreeLimits::default())
            .unwrap();
    let mut cache = TreeCache::open(&b.thread, &tokens(&[0, 1]), 20, 8).await.unwrap();
    // As a draft grows it: the root, then depth 1; depth 2 is proposed, not computed.
    let root = cache.grow(&TokenTree::default(), &[]).await.unwrap();
    assert_eq!(root.rows().map(seen).collect::<Vec<_>>(), ["0:1 1:1"]);
    let level = TokenTree::new(tokens(&[2, 3]), vec![None, None], TreeLimits::default()).unwrap();
    let rows = cache.grow(&level, &[0, 1]).await.unwrap();
    assert_eq!(rows.rows().map(seen).collect::<Vec<_>>(), ["0:1 1:1 2:1", "0:1 1:1 3:1"]);
    cache.plant(&tree);

    let accepted = |path: &[usize], bonus| Accepted { path: path.to_vec(), bonus: TokenId(bonus) };
    assert_eq!(
        cache.check_commit(&accepted(&[4], 6), VOCAB),
        Err(InvalidCommit::NoSuchNode { node: 4, nodes: 4 })
    );
    for path in [&[2][..], &[0, 3], &[1, 1]] {
        let refused = cache.check_commit(&accepted(path, 6), VOCAB);
        assert!(matches!(refused, Err(InvalidCommit::NoPath { .. })), "{path:?}");
    }
    assert!(cache.check_commit(&accepted(&[], 8), VOCAB).is_err());

    // Node 1 has a row, node 3 has not, and the bonus token is new.
    let good = accepted(&[1, 3], 6);
    cache.check_commit(&good, VOCAB).unwrap();
    cache.commit(&good);
    assert_eq!(cache.committed(), 5);
    let next = cache.grow(&level, &[0, 1]).await.unwrap();
    assert_eq!(
        next.rows().map(seen).collect::<Vec<_>>(),
        ["0:1 1:1 3:1 5:1 6:1", "0:1 1:1 2:1 3:1 5:1 6:1", "0:1 1:1 3:2 5:1 6:1"]
    );
    // The best beam alone: its nodes are numbered anew.
    cache.plant(&level);
    assert_eq!(cache.prune_to(1).tokens(), tokens(&[3]));
    cache.commit(&accepted(&[0], 7));
    let last = cache.grow(&TokenTree::default(), &[]).await.unwrap();
    assert_eq!(last.rows().map(seen).collect::<Vec<_>>(), ["0:1 1:1 3:2 5:1 6:1 7:1"]);
}

#[tokio::test]
async fn prompts_that_cannot_fit_are_refused() {
    let b = bench(1000, false).await;
    let open = async |n: usize| TreeCache::open(&b.thread, &vec![TokenId(1); n], 5, 4).await.err();
    assert!(matches!(open(CONTEXT).await, Some(EngineError::ContextFull { .. })));
    assert!(matches!(open(0).await, Some(EngineError::InvalidPass(_))));
    assert_eq!(open(CONTEXT - 1).await, None);
    assert_eq!(b.thread.budget().used(), 0);
}
