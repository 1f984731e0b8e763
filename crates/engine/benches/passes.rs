//! Time of a forward pass over 1 to 33 rows after a prefix of 200, with our kernels and with candle's.
//!
//! `cargo bench -p tandem-engine`

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    missing_docs,
    reason = "a benchmark prints, and stops at the first error"
)]

use std::hint::black_box;
use std::path::PathBuf;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use tandem_decoding::{AncestorMask, TokenId, TokenTree};
use tandem_engine::{Backend, Decoder, Keep, Kernels, LoadOptions, ModelSource, Pass};

const PREFIX: usize = 200;

fn passes(c: &mut Criterion) {
    // All processors, as the model thread uses by default.
    Decoder::use_threads(std::thread::available_parallelism().map_or(1, |n| n.get()));
    for model in ["target", "draft"] {
        let mut group = c.benchmark_group(model);
        for kernels in [Kernels::Packed, Kernels::Candle] {
            let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../models/demo").join(model);
            let options = LoadOptions { kernels, ..LoadOptions::default() };
            let model = Decoder::load(&ModelSource::Directory(dir), &options).unwrap();
            let mut cache = model.new_cache(usize::MAX);
            let prompt = Pass::causal(0, (0..PREFIX).map(|i| TokenId(i as u32)).collect());
            model.run(&mut cache, &prompt).unwrap();
            for rows in [1, 2, 5, 9, 17, 33] {
                let pass = Pass {
                    prefix: PREFIX,
                    tokens: (0..rows).map(|i| TokenId(100 + i as u32)).collect(),
                    positions: vec![PREFIX; rows],
                    mask: AncestorMask::chain_then_tree(rows, &TokenTree::default()),
                    outputs: Vec::new(),
                };
                let pass = pass.with_logits(0..rows);
                group.bench_function(BenchmarkId::new(format!("{kernels:?}"), rows), |b| {
                    b.iter(|| {
                        let rows = model.run(&mut cache, &pass);
                        model.keep(&mut cache, &Keep { prefix: PREFIX, rows: Vec::new() }).unwrap();
                        black_box(rows.unwrap())
                    });
                });
            }
        }
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = passes
}
criterion_main!(benches);
