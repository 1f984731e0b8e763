//! Every wire input under structured noise: the corpus, then inputs drawn from a seed.
//!
//! Messages that are valid except for some fields are made from bytes. Nothing may panic, nothing may hang (time is simulated,
//! so that a hang is found at once), and at the end no row of KV cache may be held.
//!
//! ```text
//! TANDEM_FUZZ_INPUTS=100000 cargo test -p tandem-e2e fuzz    # more inputs
//! ```
//!
//! An input that fails is written to a file: add it to `tests/fuzz_corpus`.

mod lies;
mod memory;
mod messages;
mod panics;
mod system;
mod targets;

use std::path::{Path, PathBuf};

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use panics::panics_of;

#[test]
fn conversions_never_panic() {
    run("conversions", targets::conversions, 20_000, 2_000);
}

#[test]
fn services_never_panic_hang_or_leak() {
    run("services", targets::services, 1_000, 20_000);
}

/// Runs `fuzz` with the corpus, then with `drawn` inputs of up to `longest` bytes.
fn run(target: &str, fuzz: fn(&[u8]), drawn: u64, longest: usize) {
    let corpus = corpus(target);
    assert!(!corpus.is_empty());
    for file in corpus {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        check(target, fuzz, &name, &std::fs::read(&file).unwrap());
    }
    let inputs = std::env::var("TANDEM_FUZZ_INPUTS").map_or(drawn, |n| n.parse().expect("a number"));
    for seed in 0..inputs {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut data = vec![0; rng.random_range(16..longest)];
        rng.fill_bytes(&mut data);
        check(target, fuzz, &seed.to_string(), &data);
    }
}

fn corpus(target: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz_corpus").join(target);
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// Runs one input; on a panic writes it to a file and fails.
fn check(target: &str, fuzz: fn(&[u8]), name: &str, data: &[u8]) {
    let panics = panics_of(|| fuzz(data));
    if panics.is_empty() {
        return;
    }
    let file = std::env::temp_dir().join(format!("tandem-fuzz-{target}-{name}"));
    std::fs::write(&file, data).unwrap();
    panic!("{target}/{name}, written to {}: {panics:#?}", file.display());
}
