//! Time and memory of passes over 1, 17 and 256 rows behind short and long prefixes, for each dtype of keys and
//! values.
//!
//! `TANDEM_BENCH_MODEL=SmolLM2-135M-Instruct.Q4_1.gguf cargo bench -p tandem-engine --bench memory`; without the
//! variable, the bundled target.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    missing_docs,
    reason = "a benchmark prints, and stops at the first error"
)]

use std::time::{Duration, Instant};

use peak_alloc::PeakAlloc;
use tandem_decoding::TokenId;
use tandem_engine::{Backend, Decoder, Keep, KvDtype, LoadOptions, ModelSource, Pass};

#[global_allocator]
static ALLOCATED: PeakAlloc = PeakAlloc;

const MEBIBYTE: f64 = (1 << 20) as f64;
const BUNDLED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/demo/target");

fn main() {
    // All processors, as the model thread uses by default.
    Decoder::use_threads(std::thread::available_parallelism().map_or(1, usize::from));
    let name = std::env::var("TANDEM_BENCH_MODEL").unwrap_or_else(|_| BUNDLED.into());
    let source = ModelSource::parse(&name, None).unwrap();
    println!("| K/V | behind | rows | ms, median | MiB at the peak | MiB known before | KV cache, MiB |");
    println!("|---|---|---|---|---|---|---|");
    for dtype in [KvDtype::F32, KvDtype::F16] {
        let model = Decoder::load(&source, &LoadOptions::default()).unwrap().with_kv_dtype(dtype);
        let mut cache = model.new_cache(usize::MAX);
        for cached in [200, 8_000.min(model.spec().context_length - 256)] {
            while model.cached(&cache) < cached {
                let first = model.cached(&cache);
                let rows = 512.min(cached - first);
                model.run(&mut cache, &Pass::causal(first, vec![TokenId(7); rows])).unwrap();
            }
            for rows in [1, 17, 256] {
                print_pass(&model, &mut cache, dtype, rows);
            }
        }
    }
}

fn print_pass(model: &Decoder, cache: &mut <Decoder as Backend>::Cache, dtype: KvDtype, rows: usize) {
    let cached = model.cached(cache);
    let pass = Pass::causal(cached, vec![TokenId(9); rows]);
    // A prompt has no outputs, the rows of a tree all do.
    let pass = if rows > 17 { pass } else { pass.with_logits(0..rows) };
    let mut times: Vec<Duration> = Vec::new();
    let mut peak = 0;
    let begun = Instant::now();
    while times.len() < 5 || begun.elapsed() < Duration::from_secs(2) {
        let before = ALLOCATED.current_usage();
        ALLOCATED.reset_peak_usage();
        let started = Instant::now();
        model.run(cache, &pass).unwrap();
        times.push(started.elapsed());
        peak = ALLOCATED.peak_usage() - before;
        model.keep(cache, &Keep { prefix: cached, rows: Vec::new() }).unwrap();
    }
    times.sort_unstable();
    let milliseconds = times[times.len() / 2].as_secs_f64() * 1e3;
    let known = model.pass_bytes(rows, cached + rows) + model.output_bytes();
    let kv = model.spec().kv_bytes_per_token as f64 * cached as f64;
    println!(
        "| {dtype:?} | {cached} | {rows} | {milliseconds:.1} | {:.1} | {:.1} | {:.0} |",
        peak as f64 / MEBIBYTE,
        known as f64 / MEBIBYTE,
        kv / MEBIBYTE,
    );
}
