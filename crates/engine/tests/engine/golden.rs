//! The decoder against numbers from the authors' own implementation (`crates/testkit/golden/README.md`), with
//! our kernels and with candle's, which a GPU uses.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use tandem_decoding::{BeamSearch, Expansion, Sampling, TokenId, TokenTree, TreeLimits};
use tandem_engine::{Backend, Decoder, Keep, Kernels, LoadOptions, ModelSource, Pass, Segment};

use crate::common::{KERNELS, Session, assert_close, assert_same, logits, root, tokens, write_tokenizer};

fn load(pair: &str, model: &str, kernels: Kernels) -> Decoder {
    let options = LoadOptions { kernels, ..LoadOptions::default() };
    if pair == "demo" {
        return Decoder::load(&ModelSource::Directory(root().join("models/demo").join(model)), &options)
            .unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        let from = root().join("crates/testkit/golden/models/tiny").join(model).join(file);
        std::fs::copy(from, dir.path().join(file)).unwrap();
    }
    write_tokenizer(dir.path(), 64);
    Decoder::load(&ModelSource::Directory(dir.path().into()), &options).unwrap()
}

#[derive(Deserialize)]
struct File<C> {
    cases: Vec<C>,
}

fn cases<C: DeserializeOwned>(name: &str) -> Vec<C> {
    let path = root().join("crates/testkit/golden").join(name);
    serde_json::from_str::<File<C>>(&std::fs::read_to_string(path).unwrap()).unwrap().cases
}

fn argmax(logits: &[f32]) -> u32 {
    Sampling::greedy().warp(logits).unwrap().argmax().0
}

#[derive(Deserialize)]
struct Forward {
    model: String,
    input_ids: Vec<u32>,
    last_logits: Vec<f32>,
    argmax: u32,
}

fn forward(pair: &str) {
    for (kernels, model) in KERNELS.into_iter().flat_map(|k| [(k, "target"), (k, "draft")]) {
        let decoder = load(pair, model, kernels);
        let cases = cases::<Forward>(&format!("{pair}/forward.json"));
        for (i, case) in cases.iter().enumerate().filter(|(_, c)| c.model == model) {
            let last = Session::new(&decoder).causal(&case.input_ids).pop().unwrap();
            assert_close(&last, &case.last_logits, &format!("{pair} case {i}, {kernels:?}"));
            assert_eq!(argmax(&last), case.argmax);
        }
    }
}

#[test]
fn forward_passes_of_the_tiny_pair() {
    forward("tiny");
}

#[test]
fn forward_passes_of_the_demo_pair() {
    forward("demo");
}

#[derive(Deserialize)]
struct TreeForward {
    model: String,
    prefix_ids: Vec<u32>,
    node_tokens: Vec<u32>,
    parents: Vec<i64>,
    positions: Vec<usize>,
    root_logits: Option<Vec<f32>>,
    node_logits: Option<Vec<Vec<f32>>>,
    node_top16_ids: Option<Vec<Vec<usize>>>,
    node_top16_logits: Option<Vec<Vec<f32>>>,
    node_argmax: Vec<u32>,
}

impl TreeForward {
    /// The tree, and our node of each golden node: golden trees may hold equal siblings, which are one node
    /// here.
    fn tree(&self) -> (TokenTree, Vec<usize>) {
        let mut nodes = Vec::new();
        let mut parents = Vec::new();
        let mut ours = Vec::<usize>::new();
        for (&token, &parent) in self.node_tokens.iter().zip(&self.parents) {
            let parent = usize::try_from(parent).ok().map(|p| ours[p]);
            let known = (0..nodes.len()).find(|&n| parents[n] == parent && nodes[n] == TokenId(token));
            ours.push(known.unwrap_or(nodes.len()));
            if known.is_none() {
                nodes.push(TokenId(token));
                parents.push(parent);
            }
        }
        (TokenTree::new(nodes, parents, TreeLimits::default()).unwrap(), ours)
    }

    /// `rows`: the logits of the root, then of our nodes.
    fn check(&self, rows: &[Vec<f32>], ours: &[usize], what: &str) {
        if let Some(root) = &self.root_logits {
            assert_close(&rows[0], root, what);
        }
        for (node, &mine) in ours.iter().enumerate() {
            let row = &rows[1 + mine];
            if let Some(all) = &self.node_logits {
                assert_close(row, &all[node], what);
            }
            if let (Some(ids), Some(logits)) = (&self.node_top16_ids, &self.node_top16_logits) {
                let ours: Vec<f32> = ids[node].iter().map(|&t| row[t]).collect();
                assert_close(&ours, &logits[node], what);
            }
            assert_eq!(argmax(row), self.node_argmax[node], "{what}");
        }
    }
}

fn tree_cases(pair: &str, model: &str) -> Vec<TreeForward> {
    let cases = cases::<TreeForward>(&format!("{pair}/tree_forward.json"));
    cases.into_iter().filter(|c| c.model == model).collect()
}

fn tree_forward(pair: &str) {
    for (kernels, model) in KERNELS.into_iter().flat_map(|k| [(k, "target"), (k, "draft")]) {
        let decoder = load(pair, model, kernels);
        for (i, case) in tree_cases(pair, model).iter().enumerate() {
            let what = format!("{pair} {model} case {i}, {kernels:?}");
            let (tree, ours) = case.tree();
            let (last, prefix) = case.prefix_ids.split_last().unwrap();
            for (node, &position) in case.positions.iter().enumerate() {
                assert_eq!(prefix.len() + tree.depth(ours[node]), position);
            }
            // In one pass, and after a cached prefix.
            let uncached = Session::new(&decoder).tree(&case.prefix_ids, &tree).split_off(prefix.len());
            let mut session = Session::new(&decoder);
            if !prefix.is_empty() {
                session.causal(prefix);
            }
            let cached = session.tree(&[*last], &tree);
            case.check(&uncached, &ours, &what);
            case.check(&cached, &ours, &what);
            for (a, b) in cached.iter().zip(&uncached) {
                assert_same(kernels, a, b, &format!("{what}: cached and uncached"));
            }
            // Fewer nodes with candle's kernels: they are slow here, and were compared with the golden logits
            // above.
            let step = if kernels == Kernels::Candle { 6 } else { 1 };
            for node in (0..tree.len()).step_by(step) {
                let path = tree.path(node).into_iter().map(|n| tree.tokens()[n].0);
                let ids: Vec<u32> = case.prefix_ids.iter().copied().chain(path).collect();
                let causal = Session::new(&decoder).causal(&ids).pop().unwrap();
                assert_same(kernels, &cached[1 + node], &causal, &format!("{what}: path of node {node}"));
            }
        }
    }
}

#[test]
fn tree_passes_of_the_tiny_pair() {
    tree_forward("tiny");
}

#[test]
fn tree_passes_of_the_demo_pair() {
    tree_forward("demo");
}

#[test]
fn the_pass_after_a_commit_equals_one_after_a_fresh_prefill() {
    for kernels in KERNELS {
        let model = load("tiny", "target", kernels);
        for case in tree_cases("tiny", "target") {
            let (tree, _) = case.tree();
            for node in (0..tree.len()).step_by(3) {
                let path = tree.path(node);
                let (last, prefix) = case.prefix_ids.split_last().unwrap();
                let mut session = Session::new(&model);
                if !prefix.is_empty() {
                    session.causal(prefix);
                }
                session.tree(&[*last], &tree);
                let at = case.prefix_ids.len();
                let keep = Keep { prefix: at, rows: path.iter().map(|n| at + n).collect() };
                model.keep(&mut session.cache, &keep).unwrap();
                let after = session.tree(&[7], &tree);

                let mut fresh = Session::new(&model);
                fresh.causal(&case.prefix_ids);
                fresh.causal(&path.iter().map(|&n| tree.tokens()[n].0).collect::<Vec<_>>());
                for (a, b) in after.iter().zip(&fresh.tree(&[7], &tree)) {
                    assert_same(kernels, a, b, "after a commit");
                }
            }
        }
    }
}

#[test]
fn results_do_not_depend_on_the_other_sessions_of_a_pass() {
    for kernels in KERNELS {
        let model = load("tiny", "target", kernels);
        let sequences = [vec![0, 5, 9], vec![0, 33, 2, 60, 17, 4], vec![0]];
        let passes =
            sequences.each_ref().map(|ids| Pass::causal(0, tokens(ids)).with_logits([ids.len() - 1]));
        let mut caches = sequences.each_ref().map(|_| model.new_cache(usize::MAX));
        let mut batch: Vec<_> =
            caches.iter_mut().zip(&passes).map(|(cache, pass)| Segment { cache, pass }).collect();
        let mut packed = Vec::new();
        model.forward(&mut batch, &mut |_, rows| packed.extend(logits(rows.unwrap()))).unwrap();
        for (ids, packed) in sequences.iter().zip(&packed) {
            let alone = Session::new(&model).causal(ids).pop().unwrap();
            assert_same(kernels, packed, &alone, "packed");
        }
    }
}

#[derive(Deserialize)]
struct Beams {
    gamma: usize,
    beam_width: usize,
    prefix_ids: Vec<u32>,
    min_topk_gap: f64,
    plain_beam_not_reference: Vec<Beam>,
}

#[derive(Deserialize)]
struct Beam {
    tokens: Vec<u32>,
    joint_logp: f64,
}

/// Beam search at temperature 0 against textbook beam search by joint log-probability. Every node of the
/// frontier gets a causal pass of its own, so that the test does not rely on tree masks. Returns the number
/// of beams compared.
fn beam_temp0(pair: &str) -> usize {
    let draft = load(pair, "draft", Kernels::Packed);
    let mut compared = 0;
    let cases = cases::<Beams>(&format!("{pair}/beam_temp0.json"));
    for (i, case) in cases.iter().enumerate().filter(|(_, c)| c.min_topk_gap > 1e-5) {
        let mut search = BeamSearch::new(case.beam_width, Expansion::Top);
        let ids_of = |search: &BeamSearch, node: usize| -> Vec<u32> {
            search.tree().path(node).into_iter().map(|n| search.tree().tokens()[n].0).collect()
        };
        for _ in 0..case.gamma {
            let q: Vec<_> = search
                .frontier()
                .iter()
                .map(|node| {
                    let mut ids = case.prefix_ids.clone();
                    ids.extend(node.iter().flat_map(|&n| ids_of(&search, n)));
                    let last = Session::new(&draft).causal(&ids).pop().unwrap();
                    Sampling::greedy().warp(&last).unwrap()
                })
                .collect();
            search.advance(&q, std::iter::empty());
        }
        let beams: Vec<usize> = search.frontier().iter().flatten().copied().collect();
        let paths: Vec<Vec<u32>> = beams.iter().map(|&n| ids_of(&search, n)).collect();
        let draft = search.finish();
        for ((&beam, ids), expected) in beams.iter().zip(&paths).zip(&case.plain_beam_not_reference) {
            assert_eq!(ids, &expected.tokens, "{pair} case {i}");
            assert!((draft.joint.get(beam) - expected.joint_logp).abs() < 1e-4, "{pair} case {i}");
            compared += 1;
        }
    }
    compared
}

#[test]
fn beams_at_temperature_0_equal_textbook_beam_search() {
    assert!(beam_temp0("tiny") > 20);
    assert!(beam_temp0("demo") > 10);
}
