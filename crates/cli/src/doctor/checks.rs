//! Checks that the device computes correct results.

use anyhow::{Context, anyhow};
use serde::Serialize;
use tandem_decoding::{AncestorMask, TokenId, TokenTree, TreeLimits};
use tandem_engine::{Backend, Decoder, DeviceChoice, ModelSpec, Pass};
use tandem_orchestrator::{ModelVocabulary, TokenTable, compare_vocabularies};

use super::subject::Subject;

/// A check and its result.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Check {
    pub(super) name: String,
    pub(super) passed: bool,
    pub(super) finding: String,
}

/// The largest |difference| of logits, relative to the largest |logit|, that rounding can cause with the dtype of
/// the arithmetic. With quantised weights, activations are rounded to 8 bits.
fn tolerance(model: &Decoder, device: DeviceChoice) -> f32 {
    match (device, model.spec().dtype.as_str()) {
        (DeviceChoice::Cpu, "f32" | "f16" | "bf16") | (_, "f32") => 1e-4,
        (_, "f16") => 5e-3,
        _ => 3e-2,
    }
}

/// Compares the vocabularies of the pair; `None` if a model has no tokenizer.
pub(super) fn tokenizers_agree(target: &Decoder, draft: &Decoder) -> Option<Check> {
    let hash = &target.spec().vocabulary.as_ref()?.hash;
    let compared = if *hash == draft.spec().vocabulary.as_ref()?.hash {
        Ok(format!("sha256 {hash:.12}…"))
    } else {
        differences(target.spec(), draft.spec())
    };
    let passed = compared.is_ok();
    let finding = compared.unwrap_or_else(|error| format!("{error:#}: use a draft of the target's family"));
    Some(Check { name: "tokenizers agree".into(), passed, finding })
}

/// How vocabularies differ that can be used together.
fn differences(target: &ModelSpec, draft: &ModelSpec) -> anyhow::Result<String> {
    let in_target = token_table(target)?;
    let in_draft = token_table(draft)?;
    let differences = compare_vocabularies(&vocabulary(target, &in_target), &vocabulary(draft, &in_draft))?;
    Ok(differences.to_string())
}

fn token_table(spec: &ModelSpec) -> anyhow::Result<TokenTable> {
    let files = spec.vocabulary.as_ref().context("it has no tokenizer")?;
    TokenTable::from_json(&files.json).map_err(|error| anyhow!("the tokenizer of {}: {error}", spec.id))
}

fn vocabulary<'a>(spec: &'a ModelSpec, tokens: &'a TokenTable) -> ModelVocabulary<'a> {
    ModelVocabulary { model: &spec.id, tokens, rows: u32::try_from(spec.vocab_size).unwrap_or(u32::MAX) }
}

/// The checks of one model.
pub(super) fn check_model(subject: &Subject) -> anyhow::Result<Vec<Check>> {
    let spec = subject.model.spec();
    let (prompt, tree) = sample(spec.vocab_size, spec.context_length)?;
    let logits = tree_pass(&subject.model, &prompt, &tree)?;
    let mut checks = vec![loads(subject), tree_equals_paths(subject, &prompt, &tree, &logits)?];
    // Random weights differ every time the model is loaded.
    if subject.has_real_weights() {
        checks.push(equals_reference(subject, prompt, &logits[0])?);
    }
    Ok(checks)
}

fn loads(subject: &Subject) -> Check {
    let spec = subject.model.spec();
    Check {
        name: format!("{} loads", subject.role),
        passed: true,
        finding: format!(
            "{}: {:.2} M parameters, {} on {}, context {}{}",
            subject.name,
            spec.parameters as f64 / 1e6,
            spec.dtype.as_str(),
            subject.device,
            spec.context_length,
            if subject.has_real_weights() { "" } else { ", random weights" }
        ),
    }
}

/// Compares the logits of the tree pass, root first, with those of a causal pass over each path.
fn tree_equals_paths(
    subject: &Subject,
    prompt: &[TokenId],
    tree: &TokenTree,
    logits: &[Vec<f32>],
) -> anyhow::Result<Check> {
    let mut worst = 0f32;
    for node in 0..tree.len() {
        let path = tree.path(node).into_iter().map(|n| tree.tokens()[n]);
        let ids: Vec<TokenId> = prompt.iter().copied().chain(path).collect();
        worst = worst.max(difference(&logits[1 + node], &last_logits(&subject.model, ids)?));
    }
    let tolerance = tolerance(&subject.model, subject.device);
    Ok(Check {
        name: format!("{}: tree pass = path by path", subject.role),
        passed: worst <= tolerance,
        finding: match worst {
            0.0 => format!("{} nodes, equal to the last bit", tree.len()),
            _ => format!("{} nodes, {}", tree.len(), deviation(worst, tolerance)),
        },
    })
}

/// Compares the logits after `prompt` with those of candle's kernels on the CPU.
fn equals_reference(subject: &Subject, prompt: Vec<TokenId>, logits: &[f32]) -> anyhow::Result<Check> {
    let expected = last_logits(&subject.reference()?, prompt)?;
    let worst = difference(logits, &expected);
    let tolerance = tolerance(&subject.model, subject.device);
    Ok(Check {
        name: format!("{}: {} = plain candle on the CPU", subject.role, subject.device),
        passed: worst <= tolerance,
        finding: deviation(worst, tolerance),
    })
}

fn deviation(worst: f32, tolerance: f32) -> String {
    format!("off by {worst:.1e} of the largest logit (allowed {tolerance:.0e})")
}

/// A prompt, and an unevenly branching tree of three levels with four nodes each.
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
    let rows = model.run(&mut model.new_cache(usize::MAX), pass)?;
    Ok(rows.into_iter().filter_map(|row| row.logits).collect())
}

fn last_logits(model: &Decoder, ids: Vec<TokenId>) -> anyhow::Result<Vec<f32>> {
    let last = ids.len() - 1;
    let rows = run(model, &Pass::causal(0, ids).with_logits([last]))?;
    rows.into_iter().next().context("a pass returned no logits")
}

/// The logits of the root and of every node.
fn tree_pass(model: &Decoder, prompt: &[TokenId], tree: &TokenTree) -> anyhow::Result<Vec<Vec<f32>>> {
    let chain = prompt.len();
    let positions = (0..chain).chain((0..tree.len()).map(|n| chain - 1 + tree.depth(n)));
    let pass = Pass {
        prefix: 0,
        tokens: prompt.iter().chain(tree.tokens()).copied().collect(),
        positions: positions.collect(),
        mask: AncestorMask::chain_then_tree(chain, tree),
        outputs: Vec::new(),
    };
    run(model, &pass.with_logits(chain - 1..chain + tree.len()))
}

/// The largest |difference| relative to the largest |expected|; infinite for NaN.
fn difference(ours: &[f32], expected: &[f32]) -> f32 {
    let largest = expected.iter().fold(f32::MIN_POSITIVE, |m, x| m.max(x.abs()));
    let worst = ours.iter().zip(expected).map(|(a, b)| (a - b).abs());
    worst.fold(0.0, |m, d| if d.is_nan() { f32::INFINITY } else { f32::max(m, d / largest) })
}
