//! Messages that are valid except for some fields, from a fuzzer's bytes.

use arbitrary::{Arbitrary, Error, Result, Unstructured};
use tandem_proto::v1;

/// Size of the toy models' vocabulary.
const VOCAB: u32 = 8;

/// `right`, or one time in ten an arbitrary value.
fn mostly<'a, T: Arbitrary<'a>>(u: &mut Unstructured<'a>, right: T) -> Result<T> {
    if u.ratio(1, 10)? { u.arbitrary() } else { Ok(right) }
}

/// A number in the range `right`, or one time in ten an edge case or an arbitrary one.
fn number(u: &mut Unstructured<'_>, right: std::ops::RangeInclusive<u32>) -> Result<u32> {
    let edges = [0, 1, u32::MAX, u32::MAX - 1, i32::MAX as u32, 1 << 16, 255, 256, 257, 33];
    match u.int_in_range(0..=19)? {
        0 => Ok(*u.choose(&edges)?),
        1 => u.arbitrary(),
        _ => u.int_in_range(right),
    }
}

/// `right`, or one time in six an edge case or an arbitrary number.
fn real(u: &mut Unstructured<'_>, right: f64) -> Result<f64> {
    let edges = [0.0, -0.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MIN_POSITIVE, -1.0, 1e300, 1.0];
    match u.int_in_range(0..=11)? {
        0 => Ok(*u.choose(&edges)?),
        1 => u.arbitrary(),
        _ => Ok(right),
    }
}

/// Up to `most` values, or one time in forty a great many.
fn many<T>(
    u: &mut Unstructured<'_>,
    most: usize,
    mut one: impl FnMut(&mut Unstructured<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    let count = if u.ratio(1, 40)? { 2000 } else { u.int_in_range(0..=most)? };
    // After the last byte everything reads as zero, which would make large messages out of nothing.
    (0..count).map(|_| if u.is_empty() { Err(Error::NotEnoughData) } else { one(u) }).collect()
}

fn sometimes<T>(
    u: &mut Unstructured<'_>,
    one: impl FnOnce(&mut Unstructured<'_>) -> Result<T>,
) -> Result<Option<T>> {
    if u.ratio(9, 10)? { one(u).map(Some) } else { Ok(None) }
}

fn token(u: &mut Unstructured<'_>) -> Result<u32> {
    number(u, 0..=VOCAB - 1)
}

pub(super) fn generate(u: &mut Unstructured<'_>) -> Result<v1::GenerateRequest> {
    use v1::generate_request::Input;
    let input = match u.int_in_range(0..=3)? {
        0 => Some(Input::Prompt(mostly(u, "abcabc".to_owned())?)),
        1 if u.ratio(1, 8)? => None,
        1 if u.ratio(1, 8)? => Some(Input::Chat(v1::Chat {
            messages: many(u, 3, |u| Ok(v1::ChatMessage { role: u.arbitrary()?, content: u.arbitrary()? }))?,
        })),
        _ => Some(Input::Tokens(v1::TokenIds { ids: many(u, 20, token)? })),
    };
    Ok(v1::GenerateRequest {
        input,
        max_new_tokens: sometimes(u, |u| number(u, 1..=20))?,
        temperature: sometimes(u, |u| real(u, 0.7))?,
        top_k: sometimes(u, |u| number(u, 0..=5))?,
        top_p: sometimes(u, |u| real(u, 0.9))?,
        seed: u.arbitrary()?,
        stop: if u.ratio(1, 4)? { many(u, 3, |u| mostly(u, "ab".to_owned()))? } else { Vec::new() },
        ignore_eos: u.arbitrary()?,
        decoding: sometimes(u, decoding)?,
        log_probs: u.arbitrary()?,
        trace: u.arbitrary()?,
        top_log_probs: if u.ratio(1, 4)? { number(u, 1..=3)? } else { 0 },
        n: if u.ratio(1, 4)? { Some(number(u, 1..=3)?) } else { None },
        model: if u.ratio(1, 16)? { u.arbitrary()? } else { String::new() },
    })
}

fn decoding(u: &mut Unstructured<'_>) -> Result<v1::DecodingParams> {
    Ok(v1::DecodingParams {
        method: number(u, 0..=7)?.cast_signed(),
        beam_width: sometimes(u, |u| number(u, 1..=4))?,
        draft_tokens: sometimes(u, |u| number(u, 1..=5))?,
        acceptance_threshold: sometimes(u, |u| real(u, 0.5))?,
        beams: number(u, 0..=3)?.cast_signed(),
        reference: number(u, 0..=2)?.cast_signed(),
        branching: if u.ratio(1, 4)? { many(u, 4, |u| number(u, 1..=3))? } else { Vec::new() },
    })
}

pub(super) fn open(u: &mut Unstructured<'_>) -> Result<v1::OpenSessionRequest> {
    let sampling = |u: &mut Unstructured<'_>| {
        Ok(v1::Sampling { temperature: real(u, 1.0)?, top_k: number(u, 0..=5)?, top_p: real(u, 0.9)? })
    };
    Ok(v1::OpenSessionRequest {
        prompt_tokens: many(u, 30, token)?,
        max_new_tokens: number(u, 0..=40)?,
        max_tree_nodes: number(u, 0..=32)?,
        sampling: sometimes(u, sampling)?,
        seed: u.arbitrary()?,
        vocab_limit: number(u, 0..=8)?,
        session_id: if u.arbitrary()? { 0 } else { u.int_in_range(1..=3)? },
    })
}

pub(super) fn handle(u: &mut Unstructured<'_>) -> Result<v1::SessionHandle> {
    Ok(v1::SessionHandle {
        incarnation: u.arbitrary()?,
        session_id: u.arbitrary()?,
        committed_tokens: number(u, 0..=60)?,
    })
}

fn commit(u: &mut Unstructured<'_>) -> Result<v1::Commit> {
    Ok(v1::Commit { accepted_nodes: many(u, 3, |u| number(u, 0..=4))?, bonus_token: token(u)? })
}

fn tree(u: &mut Unstructured<'_>) -> Result<v1::TokenTree> {
    let tokens = many(u, 12, token)?;
    let parent = |i: usize, u: &mut Unstructured<'_>| -> Result<i32> {
        // Mostly a node before this one, as in a valid tree.
        let right = u.int_in_range(0..=u32::try_from(i).unwrap_or(0))?.cast_signed() - 1;
        mostly(u, right)
    };
    let mut parents = (0..tokens.len()).map(|i| parent(i, u)).collect::<Result<Vec<_>>>()?;
    if u.ratio(1, 20)? {
        parents.pop();
    }
    Ok(v1::TokenTree { tokens, parents })
}

/// A step of the session `known`, or of an arbitrary one.
pub(super) fn score(
    u: &mut Unstructured<'_>,
    known: Option<(v1::SessionHandle, u64)>,
) -> Result<v1::ScoreTreeRequest> {
    let (handle, step) = step_of(u, known)?;
    Ok(v1::ScoreTreeRequest {
        handle,
        step,
        commit: if step == 1 { sometimes_not(u)? } else { sometimes(u, commit)? },
        tree: sometimes(u, tree)?,
        distributions: u.arbitrary()?,
        log_probs: u.arbitrary()?,
        top_log_probs: if u.ratio(1, 4)? { number(u, 1..=3)? } else { 0 },
    })
}

fn sometimes_not(u: &mut Unstructured<'_>) -> Result<Option<v1::Commit>> {
    if u.ratio(1, 10)? { commit(u).map(Some) } else { Ok(None) }
}

fn step_of(
    u: &mut Unstructured<'_>,
    known: Option<(v1::SessionHandle, u64)>,
) -> Result<(Option<v1::SessionHandle>, u64)> {
    match known {
        Some((mut known, step)) => {
            // How many tokens the commit leads to is not known here, so this is a guess.
            known.committed_tokens += u.int_in_range(0..=4)?;
            Ok((Some(known), mostly(u, step)?))
        }
        None => Ok((sometimes(u, handle)?, u64::from(number(u, 1..=3)?))),
    }
}

pub(super) fn propose(
    u: &mut Unstructured<'_>,
    known: Option<(v1::SessionHandle, u64)>,
) -> Result<v1::ProposeRequest> {
    use v1::propose_request::Shape;
    let (handle, step) = step_of(u, known)?;
    let beams = |u: &mut Unstructured<'_>| {
        Ok(Shape::Beams(v1::BeamShape {
            beam_width: number(u, 1..=4)?,
            draft_tokens: number(u, 1..=5)?,
            beams: number(u, 0..=3)?.cast_signed(),
            best_beam_only: u.arbitrary()?,
        }))
    };
    let candidates = |u: &mut Unstructured<'_>| {
        Ok(Shape::Candidates(v1::CandidateShape {
            branching: many(u, 4, |u| number(u, 1..=3))?,
            with_replacement: u.arbitrary()?,
        }))
    };
    Ok(v1::ProposeRequest {
        handle,
        step,
        commit: if step == 1 { sometimes_not(u)? } else { sometimes(u, commit)? },
        shape: if u.arbitrary()? { sometimes(u, beams)? } else { sometimes(u, candidates)? },
        log_probs: u.arbitrary()?,
    })
}

fn distribution(u: &mut Unstructured<'_>) -> Result<v1::Distribution> {
    let log_probs: Vec<f32> = many(u, 8, |u| Ok(real(u, -2.0)? as f32))?;
    let tokens = if u.arbitrary()? { Vec::new() } else { many(u, 8, token)? };
    Ok(v1::Distribution { tokens, log_probs })
}

fn reals(u: &mut Unstructured<'_>, count: usize) -> Result<Vec<f64>> {
    (0..count).map(|_| real(u, -1.5)).collect()
}

/// A target's reply to a tree of `nodes` nodes.
pub(super) fn scores(u: &mut Unstructured<'_>, nodes: usize) -> Result<v1::ScoreTreeResponse> {
    let joint_log_probs = reals(u, nodes)?;
    let by_node = reals(u, nodes)?;
    let drawn = reals(u, nodes + 1)?;
    let tokens = mostly(u, nodes + 1)?.min(4000);
    let distributions = mostly(u, nodes + 1)?.min(64);
    Ok(v1::ScoreTreeResponse {
        joint_log_probs,
        drawn_tokens: (0..tokens).map(|_| token(u)).collect::<Result<_>>()?,
        distributions: (0..distributions).map(|_| distribution(u)).collect::<Result<_>>()?,
        log_probs: sometimes(u, |u| {
            let distribution_offsets = many(u, 4, |u| real(u, 0.0))?;
            let top = |u: &mut Unstructured<'_>| {
                Ok(v1::TopTokens { tokens: many(u, 3, token)?, log_probs: many(u, 3, |u| real(u, -1.0))? })
            };
            let top = many(u, nodes + 1, top)?;
            Ok(v1::TokenLogProbs { nodes: by_node, drawn, distribution_offsets, top })
        })?,
    })
}

/// A draft's proposal.
pub(super) fn proposal(u: &mut Unstructured<'_>) -> Result<v1::ProposeResponse> {
    let tree = tree(u)?;
    let nodes = tree.tokens.len();
    Ok(v1::ProposeResponse {
        joint_log_probs: (0..nodes).map(|i| real(u, -(i as f64))).collect::<Result<_>>()?,
        candidates: sometimes(u, |u| {
            Ok(v1::Candidates {
                draws: many(u, 12, |u| number(u, 0..=11))?,
                distributions: many(u, 4, distribution)?,
            })
        })?,
        log_probs: (0..nodes).map(|_| real(u, -1.0)).collect::<Result<_>>()?,
        tree: Some(tree),
    })
}
