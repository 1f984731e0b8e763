//! Is what the device computes right?

use anyhow::Context;
use serde::Serialize;
use tandem_decoding::{AncestorMask, TokenId, TokenTree, TreeLimits};
use tandem_engine::{Backend, Decoder, DeviceChoice, Pass, Segment};

use super::Patient;

/// A check and what it found.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Check {
    pub(super) name: String,
    pub(super) passed: bool,
    pub(super) finding: String,
}

/// Largest |difference| of logits, over the largest |logit|, that rounding explains, by dtype of the arithmetic. In front of quantised
/// weights activations are rounded to 8 bits.
fn tolerance(model: &Decoder, device: DeviceChoice) -> f32 {
    match (device, model.spec().dtype.as_str()) {
        (DeviceChoice::Cpu, "f32" | "f16" | "bf16") | (_, "f32") => 1e-4,
        (_, "f16") => 5e-3,
        _ => 3e-2,
    }
}

/// The vocabularies of a pair with tokenizers.
pub(super) fn tokenizers_agree(target: &Decoder, draft: &Decoder) -> Option<Check> {
    let (target, draft) = (target.spec().vocabulary.as_ref()?, draft.spec().vocabulary.as_ref()?);
    let passed = target.hash == draft.hash;
    let short = |hash: &str| hash.chars().take(12).collect::<String>();
    let finding = if passed {
        format!("sha256 {}…", short(&target.hash))
    } else {
        format!(
            "target {}…, draft {}…: use a draft of the target's family",
            short(&target.hash),
            short(&draft.hash)
        )
    };
    Some(Check { name: "tokenizers agree".into(), passed, finding })
}

/// The checks of one model.
pub(super) fn examine(patient: &Patient) -> anyhow::Result<Vec<Check>> {
    let spec = patient.model.spec();
    let mut checks = vec![Check {
        name: format!("{} loads", patient.role),
        passed: true,
        finding: format!(
            "{}: {:.2} M parameters, {} on {}, context {}{}",
            patient.name,
            spec.parameters as f64 / 1e6,
            spec.dtype.as_str(),
            patient.device,
            spec.context_length,
            if patient.has_real_weights() { "" } else { ", random weights" }
        ),
    }];
    let tolerance = tolerance(&patient.model, patient.device);
    let (prompt, tree) = sample(spec.vocab_size, spec.context_length)?;
    let together = tree_pass(&patient.model, &prompt, &tree)?;
    let mut worst = 0f32;
    for node in 0..tree.len() {
        let path = tree.path(node).into_iter().map(|n| tree.tokens()[n]);
        let ids: Vec<TokenId> = prompt.iter().copied().chain(path).collect();
        worst = worst.max(difference(&together[1 + node], &last_logits(&patient.model, ids)?));
    }
    checks.push(Check {
        name: format!("{}: tree pass = path by path", patient.role),
        passed: worst <= tolerance,
        finding: match worst {
            0.0 => format!("{} nodes, equal to the last bit", tree.len()),
            _ => format!(
                "{} nodes, off by {worst:.1e} of the largest logit (allowed {tolerance:.0e})",
                tree.len()
            ),
        },
    });
    // Random weights differ at every load.
    if patient.has_real_weights() {
        let expected = last_logits(&patient.reference()?, prompt.clone())?;
        let worst = difference(&together[0], &expected);
        checks.push(Check {
            name: format!("{}: {} = plain candle on the CPU", patient.role, patient.device),
            passed: worst <= tolerance,
            finding: format!("off by {worst:.1e} of the largest logit (allowed {tolerance:.0e})"),
        });
    }
    Ok(checks)
}

/// A prompt, and a tree of three levels of four nodes that branches unevenly.
fn sample(vocab: usize, context: usize) -> anyhow::Result<(Vec<TokenId>, TokenTree)> {
    let token = |i: usize| TokenId((i * 7919 % vocab) as u32);
    let prompt = (0..64.min(context / 2)).map(token).collect();
    let parents =
        [None, None, None, None, Some(0), Some(0), Some(2), Some(3), Some(5), Some(5), Some(6), Some(4)];
    let tokens = (0..parents.len()).map(|i| token(i + 1000)).collect();
    let tree = TokenTree::new(tokens, parents.to_vec(), TreeLimits::default())
        .context("the vocabulary is too small for a sample tree")?;
    Ok((prompt, tree))
}

fn run(model: &Decoder, pass: &Pass) -> anyhow::Result<Vec<Vec<f32>>> {
    let mut cache = model.new_cache(usize::MAX);
    let logits = model.forward(&mut [Segment { cache: &mut cache, pass }])?;
    Ok(logits.iter().flat_map(|l| l.rows()).map(<[f32]>::to_vec).collect())
}

fn last_logits(model: &Decoder, ids: Vec<TokenId>) -> anyhow::Result<Vec<f32>> {
    let last = ids.len() - 1;
    let rows = run(model, &Pass { logits: vec![last], ..Pass::causal(0, ids) })?;
    rows.into_iter().next().context("a pass returned no logits")
}

/// Logits of the root and of every node.
fn tree_pass(model: &Decoder, prompt: &[TokenId], tree: &TokenTree) -> anyhow::Result<Vec<Vec<f32>>> {
    let chain = prompt.len();
    let positions = (0..chain).chain((0..tree.len()).map(|n| chain - 1 + tree.depth(n)));
    let pass = Pass {
        prefix: 0,
        tokens: prompt.iter().chain(tree.tokens()).copied().collect(),
        positions: positions.collect(),
        mask: AncestorMask::chain_then_tree(chain, tree),
        logits: (chain - 1..chain + tree.len()).collect(),
    };
    run(model, &pass)
}

/// Largest |difference| over the largest |expected|; infinite for NaN.
fn difference(ours: &[f32], expected: &[f32]) -> f32 {
    let largest = expected.iter().fold(f32::MIN_POSITIVE, |m, x| m.max(x.abs()));
    let worst = ours.iter().zip(expected).map(|(a, b)| (a - b).abs());
    worst.fold(0.0, |m, d| if d.is_nan() { f32::INFINITY } else { f32::max(m, d / largest) })
}
