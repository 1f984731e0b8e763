//! What the tests share.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, safetensors};
use tandem_decoding::{AncestorMask, RowSummary, TokenId, TokenTree, TreeLimits};
use tandem_engine::{Backend, Decoder, Kernels, Pass};

pub(crate) const TOLERANCE: f32 = 1e-4;
pub(crate) const KERNELS: [Kernels; 2] = [Kernels::Packed, Kernels::Candle];

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The directory of a tiny model with random weights.
pub(crate) fn family_fixture(family: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/families").join(family)
}

/// A sequence of a tiny model, and the logits that transformers computes after each of its tokens.
pub(crate) fn family_expected(family: &str) -> (Vec<u32>, Vec<Vec<f32>>) {
    let file = safetensors::load(family_fixture(family).join("expected.safetensors"), &Device::Cpu).unwrap();
    let ids = file["tokens"].to_vec1::<i64>().unwrap().into_iter().map(|id| id as u32).collect();
    (ids, file["logits"].to_vec2().unwrap())
}

/// Writes a tokenizer of `tokens` made-up tokens: the tiny models have none, and loading requires one.
pub(crate) fn write_tokenizer(dir: &Path, tokens: u32) {
    let vocab: HashMap<String, u32> =
        (0..tokens).map(|i| (char::from_u32(0x100 + i).unwrap().to_string(), i)).collect();
    let tokenizer = serde_json::json!({ "model": { "type": "BPE", "vocab": vocab, "merges": [] } });
    std::fs::write(dir.join("tokenizer.json"), tokenizer.to_string()).unwrap();
}

/// A model and one cache. Every pass returns the logits of all its rows.
pub(crate) struct Session<'a> {
    model: &'a Decoder,
    pub(crate) cache: <Decoder as Backend>::Cache,
}

impl<'a> Session<'a> {
    pub(crate) fn new(model: &'a Decoder) -> Self {
        Self { model, cache: model.new_cache(usize::MAX) }
    }

    fn run(&mut self, pass: Pass) -> Vec<Vec<f32>> {
        let rows = 0..pass.tokens.len();
        logits(self.model.run(&mut self.cache, &pass.with_logits(rows)).unwrap())
    }

    pub(crate) fn causal(&mut self, ids: &[u32]) -> Vec<Vec<f32>> {
        self.run(Pass::causal(self.model.cached(&self.cache), tokens(ids)))
    }

    /// Appends `chain`, whose last token is the root, and `tree` under it.
    pub(crate) fn tree(&mut self, chain: &[u32], tree: &TokenTree) -> Vec<Vec<f32>> {
        let prefix = self.model.cached(&self.cache);
        let root = prefix + chain.len() - 1;
        self.run(Pass {
            prefix,
            tokens: tokens(chain).into_iter().chain(tree.tokens().iter().copied()).collect(),
            positions: (prefix..=root).chain((0..tree.len()).map(|n| root + tree.depth(n))).collect(),
            mask: AncestorMask::chain_then_tree(chain.len(), tree),
            outputs: Vec::new(),
        })
    }
}

/// The logits of the rows that a pass returned.
pub(crate) fn logits(rows: Vec<RowSummary>) -> Vec<Vec<f32>> {
    rows.into_iter().map(|row| row.logits.unwrap()).collect()
}

pub(crate) fn tokens(ids: &[u32]) -> Vec<TokenId> {
    ids.iter().copied().map(TokenId).collect()
}

/// The largest difference, or NaN if there is one.
pub(crate) fn worst(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, |worst, d| if d > worst || d.is_nan() { d } else { worst })
}

pub(crate) fn assert_close(ours: &[f32], theirs: &[f32], what: &str) {
    let worst = worst(ours, theirs);
    assert!(worst < TOLERANCE, "{what}: the difference is {worst}");
}

/// Our kernels compute each row in an order that depends on that row alone, so their results must have the
/// same bits.
pub(crate) fn assert_same(kernels: Kernels, a: &[f32], b: &[f32], what: &str) {
    match kernels {
        Kernels::Packed => assert!(a == b, "{what}: the bits differ"),
        Kernels::Candle => assert_close(a, b, what),
    }
}

/// Runs a tree under `ids` as one pass after a cached prefix, and every path of it token by token. Calls
/// `compare` with each node, its logits in the tree, and its logits at the end of its path.
pub(crate) fn tree_and_paths(model: &Decoder, ids: &[u32], mut compare: impl FnMut(usize, &[f32], &[f32])) {
    let nodes = [(5, None), (9, None), (7, Some(0)), (5, Some(0)), (3, Some(1)), (8, Some(3)), (2, Some(5))];
    let (nodes, parents): (Vec<u32>, Vec<Option<usize>>) = nodes.into_iter().unzip();
    let tree = TokenTree::new(tokens(&nodes), parents, TreeLimits::default()).unwrap();
    let (last, prefix) = ids.split_last().unwrap();
    let mut session = Session::new(model);
    session.causal(prefix);
    let rows = session.tree(&[*last], &tree);
    assert_eq!(rows.len(), 1 + tree.len());
    for node in 0..tree.len() {
        let path = tree.path(node).into_iter().map(|n| tree.tokens()[n].0);
        let sequence: Vec<u32> = ids.iter().copied().chain(path).collect();
        // Token by token, as plain decoding would.
        let mut alone = Session::new(model);
        let alone = sequence.iter().map(|&id| alone.causal(&[id])).last().unwrap();
        compare(node, &rows[1 + node], &alone[0]);
    }
}
