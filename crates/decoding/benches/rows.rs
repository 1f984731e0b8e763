//! What it costs to reduce a row of logits, by the size of the vocabulary. Copying the row shows the speed of
//! the memory.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use tandem_decoding::{RowQuery, RowReducer, Sampling, TokenId};

/// Sums of uniform numbers, which are nearly normally distributed, as logits are.
fn logits(vocab: usize) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut next = || (0..8).map(|_| rng.next_u32() as f32 / u32::MAX as f32 - 0.5).sum::<f32>();
    (0..vocab).map(|_| 4.0 * next()).collect()
}

fn rows(criterion: &mut Criterion) {
    let samplings = [("unfiltered", 0, 0.0), ("top-k", 10, 0.9), ("top-p", 0, 0.9)];
    for vocab in [49_152, 131_072, 262_144] {
        let logits = logits(vocab);
        let mut group = criterion.benchmark_group(format!("{vocab} tokens"));
        group.throughput(Throughput::Bytes(4 * vocab as u64));
        group.bench_function("copy", |bench| bench.iter(|| black_box(&logits).clone()));
        for (name, top_k, top_p) in samplings {
            let Ok(sampling) = Sampling::new(1.0, top_k, top_p) else { continue };
            let query = RowQuery {
                sampling,
                vocab,
                uniform: Some(0.7),
                tokens: vec![TokenId(7)],
                distribution: false,
                unwarped: None,
                logits: false,
            };
            let mut reducer = RowReducer::default();
            group.bench_function(BenchmarkId::new("reduce", name), |bench| {
                bench.iter(|| reducer.reduce(black_box(&logits), &query));
            });
            group.bench_function(BenchmarkId::new("warp", name), |bench| {
                bench.iter(|| sampling.warp(black_box(&logits)));
            });
        }
        group.finish();
    }
}

criterion_group!(benches, rows);
criterion_main!(benches);
