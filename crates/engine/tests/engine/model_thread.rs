//! The model thread: packing, isolation, budgets, release of caches.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tandem_decoding::TokenId;
use tandem_engine::{EngineError, Pass};

use crate::common::tokens;
use crate::counter::{CONTEXT, MAX_ROWS, Setup, VOCAB, bench, bench_of, counts};

/// Lets the tasks of this test run until they wait.
async fn settle() {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn waiting_passes_are_packed_and_an_invalid_one_fails_alone() {
    let b = bench(1000, true).await;
    let mut caches: Vec<_> = (0..5).map(|_| b.thread.open(20).unwrap()).collect();
    let passes = [
        Pass::causal(0, tokens(&[1])).with_logits([0]),
        Pass::causal(0, tokens(&[1, 99])),
        Pass::causal(3, tokens(&[1])),
        Pass { positions: vec![CONTEXT], ..Pass::causal(0, tokens(&[1])) },
        Pass::causal(0, tokens(&[1, 2])).with_logits([1]),
    ];
    let running: Vec<_> = caches
        .drain(..)
        .zip(passes)
        .map(|(mut cache, pass)| tokio::spawn(async move { cache.run(None, pass).await }))
        .collect();
    // The first forward pass holds at least the first pass; the others queue while it waits at the gate.
    settle().await;
    for _ in 0..5 {
        b.gate.send(()).unwrap();
    }
    let mut results = Vec::new();
    for run in running {
        results.push(run.await.unwrap());
    }
    assert_eq!(counts(results[0].as_ref().unwrap()), ["1:1"]);
    assert_eq!(counts(results[4].as_ref().unwrap()), ["1:1 2:1"]);
    assert_eq!(results[1], Err(EngineError::TokenOutOfRange { token: TokenId(99), vocab: VOCAB }));
    assert!(matches!(results[2], Err(EngineError::InvalidPass(_))), "{:?}", results[2]);
    assert_eq!(results[3], Err(EngineError::ContextFull { position: CONTEXT, limit: CONTEXT }));
    assert_eq!(b.batches.lock().unwrap().concat().len(), 2);
}

/// Long prompts run in chunks, in turn, beside the steps of other sessions. A cancelled prompt does not run.
#[tokio::test]
async fn prompts_take_turns_and_steps_run_first() {
    let b = bench(1000, true).await;
    let prefill = |rows: usize| {
        let mut cache = b.thread.open(40).unwrap();
        tokio::spawn(async move { cache.prefill(&tokens(&vec![1; rows])).await })
    };
    // The first pass begins with the first prompt and waits at the gate. The others queue meanwhile.
    let first = prefill(30);
    while b.begun.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    let second = prefill(20);
    settle().await;
    let mut cache = b.thread.open(40).unwrap();
    let pass = Pass::causal(0, tokens(&[1; 10])).with_logits([9]);
    let step = tokio::spawn(async move { cache.run(None, pass).await });
    let cancelled = prefill(25);
    settle().await;
    settle().await;
    cancelled.abort();
    assert!(cancelled.await.unwrap_err().is_cancelled());
    for _ in 0..10 {
        b.gate.send(()).unwrap();
    }
    for done in [first, second] {
        done.await.unwrap().unwrap();
    }
    step.await.unwrap().unwrap();
    // With 16 rows per pass: the first prompt alone; then the step with 6 rows of a prompt, whose turn ends;
    // then the other prompt; then the rest of both.
    let batches = b.batches.lock().unwrap().clone();
    assert_eq!(batches[0], [16]);
    assert_eq!(batches[1][0], 10, "{batches:?}");
    assert!(batches.iter().all(|batch| batch.iter().sum::<usize>() <= MAX_ROWS), "{batches:?}");
    assert_eq!(batches.concat().iter().sum::<usize>(), 30 + 20 + 10, "{batches:?}");
    assert!(batches.len() <= 5, "{batches:?}");
    assert_eq!(batches.iter().position(|batch| batch.contains(&10)), Some(1), "{batches:?}");
}

#[tokio::test]
async fn dropping_a_cache_frees_its_rows_and_its_budget() {
    let b = bench(50, false).await;
    let mut cache = b.thread.open(40).unwrap();
    assert!(matches!(b.thread.open(20), Err(EngineError::BudgetFull { needed: 20, free: 10, total: 50 })));
    cache.prefill(&tokens(&[1, 2, 3])).await.unwrap();
    assert_eq!(Arc::strong_count(&b.live), 3);
    let too_many = cache.run(None, Pass::causal(3, tokens(&[1; 38]))).await;
    assert!(matches!(too_many, Err(EngineError::BudgetFull { .. })));
    drop(cache);
    // Passes after the drop, so that the thread has seen it.
    let mut next = b.thread.open(50).unwrap();
    next.prefill(&tokens(&[1])).await.unwrap();
    next.prefill(&tokens(&[1])).await.unwrap();
    assert_eq!(Arc::strong_count(&b.live), 3, "of the backend, this test and one cache");
}

/// A row takes more memory the more rows it attends to, so the chunks of a prompt shrink as its cache grows. A
/// step cannot shrink.
#[tokio::test]
async fn passes_stay_within_their_memory() {
    let b = bench_of(Setup { budget: 1000, gated: false, pass_bytes: 130, measured: false }).await;
    let mut cache = b.thread.open(CONTEXT).unwrap();
    cache.prefill(&tokens(&[1; 20])).await.unwrap();
    let chunks = b.batches.lock().unwrap().concat();
    assert_eq!(chunks, [8, 6, 6]);
    let refused = cache.run(None, Pass::causal(20, tokens(&[1; 6]))).await;
    assert_eq!(refused, Err(EngineError::PassTooLarge { rows: 6, bytes: 156, limit: 130 }));
    let accepted = cache.run(None, Pass::causal(20, tokens(&[1; 5])).with_logits([4])).await;
    assert_eq!(counts(&accepted.unwrap()), ["1:25"]);
}

/// Steps are expected only of sessions that are open: a prompt after the last one closed has the pass to
/// itself.
#[tokio::test]
async fn a_closed_session_is_expected_to_run_no_step() {
    let b = bench_of(Setup { budget: 1000, gated: false, pass_bytes: usize::MAX, measured: true }).await;
    let mut cache = b.thread.open(CONTEXT).unwrap();
    cache.run(None, Pass::causal(0, tokens(&[1]))).await.unwrap();
    let mut beside = b.thread.open(CONTEXT).unwrap();
    beside.prefill(&tokens(&[1; 30])).await.unwrap();
    drop(cache);
    drop(beside);
    b.batches.lock().unwrap().clear();
    let mut next = b.thread.open(CONTEXT).unwrap();
    next.prefill(&tokens(&[1; 30])).await.unwrap();
    assert_eq!(*b.batches.lock().unwrap(), [[30]]);
}
