//! The shape of the tree that a draft is requested to propose, and its limits.

use thiserror::Error;

use crate::Expansion;

/// The maximum beam width `B`: beams per depth.
pub const MAX_BEAM_WIDTH: usize = 32;
/// The maximum draft depth `γ`: draft tokens per path and iteration.
pub const MAX_DRAFT_TOKENS: usize = 32;
/// The maximum number of nodes of a candidate tree. One depth then needs at most 256 of the 512 draws that
/// [`crate::Draws`] provides per depth, so no draw is used twice.
pub const MAX_CANDIDATES: usize = 256;

/// The shape of the tree that a draft is requested to propose in one iteration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Drafting {
    /// The union of the beams of the joint distribution.
    Beams {
        /// The beam width `B`, 1 to [`MAX_BEAM_WIDTH`].
        width: usize,
        /// The draft depth `γ`, 1 to [`MAX_DRAFT_TOKENS`].
        depth: usize,
        /// How beams are chosen.
        expansion: Expansion,
        /// Whether only the best beam is proposed, instead of the whole tree.
        best_only: bool,
    },
    /// Candidates drawn at every node independently, with the distributions that they were drawn from.
    Candidates {
        /// Candidates per node, by the depth of the node: `branching[0]` at the root, and so on.
        branching: Vec<usize>,
        /// Whether candidates are drawn with replacement.
        replacement: bool,
    },
}

impl Drafting {
    /// Checks the shape against the limits.
    ///
    /// # Errors
    /// The first parameter that is outside its limits.
    pub fn check(&self) -> Result<(), InvalidDrafting> {
        match self {
            Self::Beams { width, depth, .. } => check_beams(*width, *depth),
            Self::Candidates { branching, .. } => check_branching(branching),
        }
    }

    /// The depth of the tree, `γ`.
    pub fn depth(&self) -> usize {
        match self {
            Self::Beams { depth, .. } => *depth,
            Self::Candidates { branching, .. } => branching.len(),
        }
    }

    /// The maximum number of nodes that the draft keeps while it searches. With `best_only` it proposes only
    /// some of them.
    pub fn max_nodes(&self) -> usize {
        match self {
            Self::Beams { width, depth, .. } => width.saturating_mul(*depth),
            Self::Candidates { branching, .. } => candidate_nodes(branching),
        }
    }

    /// The same shape, cut to a depth of at most `limit`.
    pub fn no_deeper_than(mut self, limit: usize) -> Self {
        match &mut self {
            Self::Beams { depth, .. } => *depth = limit.min(*depth),
            Self::Candidates { branching, .. } => branching.truncate(limit),
        }
        self
    }
}

/// The number of nodes of a tree in which every node of depth `d` has `branching[d]` children. Saturates
/// instead of overflowing.
fn candidate_nodes(branching: &[usize]) -> usize {
    let mut nodes = 0usize;
    let mut at_depth = 1usize;
    for &children in branching {
        at_depth = at_depth.saturating_mul(children);
        nodes = nodes.saturating_add(at_depth);
    }
    nodes
}

/// Why the requested shape of a draft is invalid.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs, reason = "the error messages describe the variants")]
pub enum InvalidDrafting {
    #[error("beam_width {}", self.predicate())]
    BeamWidth(usize),
    #[error("draft_tokens {}", self.predicate())]
    DraftTokens(usize),
    #[error("branching {}", self.predicate())]
    Branching(Vec<usize>),
}

impl InvalidDrafting {
    /// The message without the name of the parameter, for APIs that name the field themselves.
    pub fn predicate(&self) -> String {
        match self {
            Self::BeamWidth(value) => format!("is {value}: it must be between 1 and {MAX_BEAM_WIDTH}"),
            Self::DraftTokens(value) => format!("is {value}: it must be between 1 and {MAX_DRAFT_TOKENS}"),
            Self::Branching(value) => format!(
                "is {value:?}: it must have 1 to {MAX_DRAFT_TOKENS} entries, each at least 1, \
                 and the tree at most {MAX_CANDIDATES} nodes"
            ),
        }
    }
}

/// Checks the beam width and the draft depth.
fn check_beams(width: usize, depth: usize) -> Result<(), InvalidDrafting> {
    if !(1..=MAX_BEAM_WIDTH).contains(&width) {
        return Err(InvalidDrafting::BeamWidth(width));
    }
    if !(1..=MAX_DRAFT_TOKENS).contains(&depth) {
        return Err(InvalidDrafting::DraftTokens(depth));
    }
    Ok(())
}

/// Checks the shape of a candidate tree.
fn check_branching(branching: &[usize]) -> Result<(), InvalidDrafting> {
    let is_valid = (1..=MAX_DRAFT_TOKENS).contains(&branching.len())
        && branching.iter().all(|&children| children > 0)
        && candidate_nodes(branching) <= MAX_CANDIDATES;
    if is_valid { Ok(()) } else { Err(InvalidDrafting::Branching(branching.to_vec())) }
}
