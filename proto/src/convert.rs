//! Wire to domain, checked, and back.

mod draft;
mod event;
mod request;
mod session;
mod target;

use tandem_decoding::{Distribution, Expansion, InvalidSampling, Sampling, TokenId, TokenTree, TreeLimits};
use thiserror::Error;

pub use request::{decoding_to_wire, method_from_wire, method_to_wire, reference_to_wire};

use crate::v1;

/// A message between orchestrator and worker that cannot be right, and the field that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{field} {message}")]
pub struct InvalidMessage {
    /// The field's name on the wire.
    pub field: &'static str,
    /// What is wrong, as it is said after the field's name.
    pub message: String,
}

impl InvalidMessage {
    /// `field` followed by `message`.
    pub fn new(field: &'static str, message: impl ToString) -> Self {
        Self { field, message: message.to_string() }
    }
}

fn sampling(s: v1::Sampling) -> Result<Sampling, InvalidMessage> {
    Sampling::new(s.temperature, s.top_k as usize, s.top_p).map_err(|e| match e {
        InvalidSampling::Temperature(_) => InvalidMessage::new("sampling.temperature", e.predicate()),
        InvalidSampling::TopP(_) => InvalidMessage::new("sampling.top_p", e.predicate()),
    })
}

impl From<Sampling> for v1::Sampling {
    fn from(s: Sampling) -> Self {
        Self { temperature: s.temperature(), top_k: to_u32(s.top_k()), top_p: s.top_p() }
    }
}

/// The tree of a message; a missing one is empty.
fn tree(wire: Option<v1::TokenTree>) -> Result<TokenTree, InvalidMessage> {
    let wire = wire.unwrap_or_default();
    let parent = |p: i32| match p {
        -1 => Ok(None),
        p => usize::try_from(p).map(Some).map_err(|_| {
            InvalidMessage::new(
                "tree.parents",
                format!("has {p}, which is neither a node nor -1 for the root"),
            )
        }),
    };
    let parents = wire.parents.into_iter().map(parent).collect::<Result<_, _>>()?;
    TokenTree::new(tokens(wire.tokens), parents, TreeLimits::default())
        .map_err(|e| InvalidMessage::new("tree", format!("is not valid: {e}")))
}

impl From<&TokenTree> for v1::TokenTree {
    fn from(tree: &TokenTree) -> Self {
        let parent = |p: &Option<usize>| p.and_then(|p| i32::try_from(p).ok()).unwrap_or(-1);
        Self { tokens: ids(tree.tokens()), parents: tree.parents().iter().map(parent).collect() }
    }
}

impl From<&Distribution> for v1::Distribution {
    fn from(distribution: &Distribution) -> Self {
        let tokens = distribution.tokens();
        // With the filters off every token is possible, and need not be named.
        let all = tokens.last().is_some_and(|last| last.0 as usize + 1 == tokens.len());
        let log_probs = distribution.log_probs().iter().map(|&lp| lp as f32).collect();
        Self { tokens: if all { Vec::new() } else { ids(tokens) }, log_probs }
    }
}

/// A distribution that came over the wire.
fn distribution(wire: v1::Distribution, field: &'static str) -> Result<Distribution, InvalidMessage> {
    let tokens =
        if wire.tokens.is_empty() { (0..to_u32(wire.log_probs.len())).collect() } else { wire.tokens };
    let log_probs = wire.log_probs.into_iter().map(f64::from).collect();
    Distribution::new(tokens.into_iter().map(TokenId).collect(), log_probs)
        .map_err(|e| InvalidMessage::new(field, format!("are not valid: {e}")))
}

/// The expansion of a wire number; unspecified is sampling without replacement. `None` for an unknown number.
fn expansion_from_wire(number: i32) -> Option<Expansion> {
    match v1::Beams::try_from(number).ok()? {
        v1::Beams::Unspecified | v1::Beams::Sampled => Some(Expansion::Sampled { replacement: false }),
        v1::Beams::SampledWithReplacement => Some(Expansion::Sampled { replacement: true }),
        v1::Beams::Top => Some(Expansion::Top),
    }
}

/// What is wrong with an unknown wire number of an expansion.
fn unknown_expansion(number: i32) -> String {
    let names = Expansion::ALL.map(Expansion::name).join(", ");
    format!("is {number}, which is not a way to choose beams: choose one of {names}")
}

/// The wire number of an expansion.
pub fn expansion_to_wire(expansion: Expansion) -> v1::Beams {
    match expansion {
        Expansion::Sampled { replacement: false } => v1::Beams::Sampled,
        Expansion::Sampled { replacement: true } => v1::Beams::SampledWithReplacement,
        Expansion::Top => v1::Beams::Top,
    }
}

fn tokens(ids: Vec<u32>) -> Vec<TokenId> {
    ids.into_iter().map(TokenId).collect()
}

fn ids(tokens: &[TokenId]) -> Vec<u32> {
    tokens.iter().map(|t| t.0).collect()
}

/// Counts are far below 2^32; a larger one is refused by its reader.
fn to_u32(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
