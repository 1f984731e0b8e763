//! Every wire input under structured noise: the corpus, then inputs drawn from a seed.
//!
//! `TANDEM_FUZZ_INPUTS=100000` draws more of them. An input that fails is written down: put it into `tests/fuzz_corpus`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tandem_testkit::fuzz;

/// Panics seen anywhere, in tasks of a server too.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn corpus(target: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz_corpus").join(target);
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
}

fn run(target: &str, fuzz: fn(&[u8]), drawn: u64, longest: usize) {
    std::panic::set_hook(Box::new(|info| PANICS.lock().unwrap().push(info.to_string())));
    let check = |name: &str, data: &[u8]| {
        let result = catch_unwind(AssertUnwindSafe(|| fuzz(data)));
        let panics = std::mem::take(&mut *PANICS.lock().unwrap());
        if result.is_ok() && panics.is_empty() {
            return;
        }
        let file = std::env::temp_dir().join(format!("tandem-fuzz-{target}-{name}"));
        std::fs::write(&file, data).unwrap();
        let _ = std::panic::take_hook();
        panic!("{target}/{name}, written to {}: {panics:#?}", file.display());
    };
    let files = corpus(target);
    assert!(!files.is_empty());
    for file in files {
        check(&file.file_name().unwrap().to_string_lossy(), &std::fs::read(&file).unwrap());
    }
    let inputs = std::env::var("TANDEM_FUZZ_INPUTS").map_or(drawn, |n| n.parse().expect("a number"));
    for seed in 0..inputs {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut data = vec![0; rng.random_range(16..longest)];
        rng.fill_bytes(&mut data);
        check(&seed.to_string(), &data);
    }
    let _ = std::panic::take_hook();
}

// One test, because both look at what panics in this process.
#[test]
fn nothing_that_a_wire_brings_panics_hangs_or_leaks() {
    run("conversions", fuzz::conversions, 20_000, 2_000);
    run("services", fuzz::services, 1_000, 20_000);
}
