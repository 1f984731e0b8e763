//! Tests of attention: against its definition in f64, and of the independence of every row.

use candle_core::{Device, Tensor};
use tandem_decoding::{AncestorMask, TokenId, TokenTree, TreeLimits};

use super::{SessionKv, TreeAttention};
use crate::cpu::InstructionSet;
use crate::cpu::kv_pages::{KvDtype, KvPages, KvShape};
use crate::cpu::level::Level;
use crate::cpu::mask::SparseMask;
use crate::cpu::test_tensors::random;

/// The rows of a session: queries, keys and values side by side.
#[derive(Clone)]
struct Rows {
    shape: KvShape,
    heads: usize,
    values: Vec<Vec<f32>>,
}

impl Rows {
    fn new(rows: usize, shape: KvShape, group: usize) -> Self {
        let heads = shape.heads * group;
        let values = random((rows, (heads + 2 * shape.heads) * shape.dim)).to_vec2().unwrap();
        Self { shape, heads, values }
    }

    fn width(&self) -> usize {
        (self.heads + 2 * self.shape.heads) * self.shape.dim
    }

    /// The cache of these rows in this order, appended in parts as prompts and trees are.
    fn cache(&self, order: &[usize], dtype: KvDtype) -> KvPages {
        let mut pages = KvPages::new(self.shape, dtype);
        let keys = self.heads * self.shape.dim;
        let mut at = 0;
        for part in order.chunks(300) {
            let x: Vec<f32> = part.iter().flat_map(|&row| self.values[row].clone()).collect();
            pages.grow(at + part.len(), order.len());
            pages.append(at, &x, self.width(), keys, keys + self.shape.heads * self.shape.dim);
            at += part.len();
        }
        pages
    }

    /// Attention of some rows.
    fn attend(&self, rows: &[usize], pages: &KvPages, mask: &SparseMask) -> Vec<Vec<f32>> {
        let x: Vec<f32> = rows.iter().flat_map(|&row| self.values[row].clone()).collect();
        let x = Tensor::from_vec(x, (rows.len(), self.width()), &Device::Cpu).unwrap();
        let sessions = vec![SessionKv { pages, mask }];
        x.apply_op1_no_bwd(&TreeAttention { heads: self.heads, sessions }).unwrap().to_vec2().unwrap()
    }

    /// The definition, for one row that sees `seen`.
    fn exact(&self, row: usize, seen: &[usize], round: impl Fn(f32) -> f32) -> Vec<f32> {
        let dim = self.shape.dim;
        let group = self.heads / self.shape.heads;
        let mut out = Vec::new();
        for head in 0..self.heads {
            let q = &self.values[row][head * dim..][..dim];
            let at = |kind: usize, row: usize, d: usize| {
                let column = (self.heads + kind * self.shape.heads + head / group) * dim + d;
                f64::from(round(self.values[row][column]))
            };
            let scores: Vec<f64> = seen
                .iter()
                .map(|&other| {
                    (0..dim).map(|d| f64::from(q[d]) * at(0, other, d)).sum::<f64>() / (dim as f64).sqrt()
                })
                .collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
            let sum: f64 = weights.iter().sum();
            out.extend((0..dim).map(|d| {
                let weighted = seen.iter().zip(&weights).map(|(&other, w)| w * at(1, other, d));
                (weighted.sum::<f64>() / sum) as f32
            }));
        }
        out
    }
}

/// Each level, on this thread.
fn for_each_level(mut run: impl FnMut(Level)) {
    for (set, &level) in InstructionSet::available().zip(Level::available()) {
        set.use_on_this_thread();
        run(level);
    }
}

fn assert_close(ours: &[f32], exact: &[f32], tolerance: f32, what: &str) {
    for (ours, exact) in ours.iter().zip(exact) {
        assert!((ours - exact).abs() < tolerance, "{what}: {ours}, not {exact}");
    }
}

type Rounding = fn(f32) -> f32;

/// Head sizes and groups of real models, and odd ones; contexts around the ends of panels and pages.
#[test]
fn results_are_attention() {
    let rounding: [(KvDtype, Rounding); 3] = [
        (KvDtype::F32, |x| x),
        (KvDtype::F16, |x| half::f16::from_f32(x).to_f32()),
        (KvDtype::Bf16, |x| half::bf16::from_f32(x).to_f32()),
    ];
    for_each_level(|level| {
        for (dim, kv_heads, group) in [
            (8, 2, 3),
            (20, 1, 1),
            (64, 3, 3),
            (80, 1, 2),
            (96, 2, 4),
            (128, 1, 8),
            (256, 1, 5),
            (64, 2, 6),
            (48, 1, 7),
        ] {
            for (dtype, round) in rounding {
                for (prefix, count) in [(0, 3), (30, 17), (250, 20), (513, 2)] {
                    let rows = Rows::new(prefix + count, KvShape { heads: kv_heads, dim }, group);
                    let order: Vec<usize> = (0..prefix + count).collect();
                    let pages = rows.cache(&order, dtype);
                    let mask = SparseMask::new(prefix, &AncestorMask::causal(count));
                    let ours = rows.attend(&order[prefix..], &pages, &mask);
                    for i in [0, count / 2, count - 1] {
                        let exact = rows.exact(prefix + i, &order[..=prefix + i], round);
                        let what = format!(
                            "{level:?} {dtype:?}, heads of {dim}, groups of {group}, row {i} after {prefix}"
                        );
                        assert_close(&ours[i], &exact, 2e-6, &what);
                    }
                }
            }
        }
    });
}

/// The bits of a row do not depend on the rows beside it, on where in the cache its ancestors are, or on which
/// instruction set computes it (without fused multiply-adds there is one rounding more).
#[test]
fn rows_of_a_tree_have_the_bits_of_their_paths() {
    let parents =
        [None, None, Some(0), Some(0), Some(1), Some(3), Some(5), Some(2), Some(7), Some(8), Some(6), None];
    let tokens = (0..parents.len() as u32).map(TokenId).collect();
    let tree = TokenTree::new(tokens, parents.to_vec(), TreeLimits::default()).unwrap();
    for dtype in [KvDtype::F32, KvDtype::F16, KvDtype::Bf16] {
        // With the root, the chain ends before, at and after the ends of a panel and of a page.
        for prefix in [0, 5, 30, 31, 32, 240, 249, 254, 255, 256, 500, 700] {
            let rows = Rows::new(prefix + 1 + tree.len(), KvShape { heads: 2, dim: 64 }, 3);
            let order: Vec<usize> = (0..prefix + 1 + tree.len()).collect();
            let mut fused: Option<Vec<Vec<f32>>> = None;
            for_each_level(|level| {
                let mask = SparseMask::new(prefix, &AncestorMask::chain_then_tree(1, &tree));
                let together = rows.attend(&order[prefix..], &rows.cache(&order, dtype), &mask);
                for node in 0..tree.len() {
                    let path: Vec<usize> =
                        (0..=prefix).chain(tree.path(node).iter().map(|n| prefix + 1 + n)).collect();
                    let last = path.len() - 1;
                    let mask = SparseMask::new(last, &AncestorMask::causal(1));
                    let alone = rows.attend(&path[last..], &rows.cache(&path, dtype), &mask);
                    assert!(
                        alone[0] == together[1 + node],
                        "{level:?} {dtype:?}, node {node} after {prefix}"
                    );
                }
                if level != Level::Portable {
                    assert!(
                        *fused.get_or_insert(together.clone()) == together,
                        "{level:?} {dtype:?} after {prefix}"
                    );
                }
            });
        }
    }
}

/// A long context alone is shared out by pages, and a prompt is not: the bits must be equal.
#[test]
fn sharing_out_pages_changes_nothing() {
    crate::cpu::start_thread_pool(2);
    let (prefix, count) = (1500, 40);
    let rows = Rows::new(prefix + count, KvShape { heads: 3, dim: 64 }, 3);
    let order: Vec<usize> = (0..prefix + count).collect();
    let pages = rows.cache(&order, KvDtype::F32);
    let together =
        rows.attend(&order[prefix..], &pages, &SparseMask::new(prefix, &AncestorMask::causal(count)));
    for i in [0, 7, count - 1] {
        let mask = SparseMask::new(prefix + i, &AncestorMask::causal(1));
        assert!(rows.attend(&[prefix + i], &pages, &mask)[0] == together[i], "row {i}");
    }
}

#[test]
fn a_mask_beyond_the_cache_is_an_error() {
    let rows = Rows::new(4, KvShape { heads: 1, dim: 16 }, 1);
    let pages = rows.cache(&[0, 1, 2, 3], KvDtype::F32);
    let mask = SparseMask::new(40, &AncestorMask::causal(1));
    let x = Tensor::zeros((1, rows.width()), candle_core::DType::F32, &Device::Cpu).unwrap();
    let attention = TreeAttention { heads: 1, sessions: vec![SessionKv { pages: &pages, mask: &mask }] };
    assert!(x.apply_op1_no_bwd(&attention).is_err());
}
