//! What the tests of the decoder share.

#![allow(dead_code, reason = "no test file uses all of it")]

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use tandem_decoding::{AncestorMask, TokenId, TokenTree};
use tandem_engine::{Backend, Decoder, Kernels, Pass, Segment};

pub(crate) const TOLERANCE: f32 = 1e-4;
pub(crate) const KERNELS: [Kernels; 2] = [Kernels::Packed, Kernels::Candle];

pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A tokenizer of `tokens` made-up tokens: the tiny models have none, and a model needs one.
pub(crate) fn write_tokenizer(dir: &Path, tokens: u32) {
    let vocab: HashMap<String, u32> =
        (0..tokens).map(|i| (char::from_u32(0x100 + i).unwrap().to_string(), i)).collect();
    let tokenizer = serde_json::json!({ "model": { "type": "BPE", "vocab": vocab, "merges": [] } });
    std::fs::write(dir.join("tokenizer.json"), tokenizer.to_string()).unwrap();
}

/// A model and one cache; every pass returns all its logits.
pub(crate) struct Session<'a> {
    model: &'a Decoder,
    pub(crate) cache: <Decoder as Backend>::Cache,
}

impl<'a> Session<'a> {
    pub(crate) fn new(model: &'a Decoder) -> Self {
        Self { model, cache: model.new_cache(usize::MAX) }
    }

    fn run(&mut self, mut pass: Pass) -> Vec<Vec<f32>> {
        pass.logits = (0..pass.tokens.len()).collect();
        let mut batch = [Segment { cache: &mut self.cache, pass: &pass }];
        let logits = self.model.forward(&mut batch).unwrap();
        logits[0].rows().map(<[f32]>::to_vec).collect()
    }

    pub(crate) fn causal(&mut self, ids: &[u32]) -> Vec<Vec<f32>> {
        self.run(Pass::causal(self.model.cached(&self.cache), tokens(ids)))
    }

    /// `chain` (the last of it is the root) and a tree under it, behind what is cached.
    pub(crate) fn tree(&mut self, chain: &[u32], tree: &TokenTree) -> Vec<Vec<f32>> {
        let prefix = self.model.cached(&self.cache);
        let root = prefix + chain.len() - 1;
        self.run(Pass {
            prefix,
            tokens: tokens(chain).into_iter().chain(tree.tokens().iter().copied()).collect(),
            positions: (prefix..=root).chain((0..tree.len()).map(|n| root + tree.depth(n))).collect(),
            mask: AncestorMask::chain_then_tree(chain.len(), tree),
            logits: Vec::new(),
        })
    }
}

pub(crate) fn tokens(ids: &[u32]) -> Vec<TokenId> {
    ids.iter().copied().map(TokenId).collect()
}

pub(crate) fn worst(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    // A NaN must not pass for a small difference.
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, |m, d| if d > m || d.is_nan() { d } else { m })
}

pub(crate) fn assert_close(ours: &[f32], theirs: &[f32], what: &str) {
    let worst = worst(ours, theirs);
    assert!(worst < TOLERANCE, "{what}: off by {worst}");
}

/// Our kernels compute each row in an order that depends on that row alone, so equal means equal to the last bit.
pub(crate) fn assert_same(kernels: Kernels, a: &[f32], b: &[f32], what: &str) {
    match kernels {
        Kernels::Packed => assert!(a == b, "{what}: not the same bits"),
        Kernels::Candle => assert_close(a, b, what),
    }
}

/// Runs a tree under `ids` as one pass behind a cached prefix, and every node's path as a causal pass of its own: (node, in the tree,
/// alone) to `compare`.
pub(crate) fn tree_and_paths(model: &Decoder, ids: &[u32], mut compare: impl FnMut(usize, &[f32], &[f32])) {
    let nodes = [(5, None), (9, None), (7, Some(0)), (5, Some(0)), (3, Some(1)), (8, Some(3)), (2, Some(5))];
    let (nodes, parents): (Vec<u32>, Vec<Option<usize>>) = nodes.into_iter().unzip();
    let tree = TokenTree::new(tokens(&nodes), parents, tandem_decoding::TreeLimits::default()).unwrap();
    let (last, prefix) = ids.split_last().unwrap();
    let mut session = Session::new(model);
    session.causal(prefix);
    let rows = session.tree(&[*last], &tree);
    assert_eq!(rows.len(), 1 + tree.len());
    for node in 0..tree.len() {
        let path = tree.path(node).into_iter().map(|n| tree.tokens()[n].0);
        let text: Vec<u32> = ids.iter().copied().chain(path).collect();
        // Token by token, as plain decoding would.
        let mut alone = Session::new(model);
        let alone = text.iter().map(|&id| alone.causal(&[id])).last().unwrap();
        compare(node, &rows[1 + node], &alone[0]);
    }
}
