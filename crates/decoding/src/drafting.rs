//! What a draft is requested to propose, and the limits of that.

use thiserror::Error;

use crate::Expansion;

/// Most beams per depth.
pub const MAX_BEAM_WIDTH: usize = 32;
/// Most draft tokens per iteration, `γ`.
pub const MAX_DRAFT_TOKENS: usize = 32;
/// Most nodes of a tree of candidates. Every depth then has draws of its own, of which a position has 512.
pub const MAX_CANDIDATES: usize = 256;

/// The shape of the tree that a draft is requested to propose in one iteration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Drafting {
    /// The union of beams of the joint distribution.
    Beams {
        /// `B`.
        width: usize,
        /// `γ`.
        depth: usize,
        /// How beams are chosen.
        expansion: Expansion,
        /// The best beam alone.
        best_only: bool,
    },
    /// Candidates of every node by itself, with the distributions that they were drawn from.
    Candidates {
        /// Candidates per node, by depth.
        branching: Vec<usize>,
        /// Draw them with replacement.
        replacement: bool,
    },
}

impl Drafting {
    /// Checks the shape against the limits.
    pub fn check(&self) -> Result<(), InvalidDrafting> {
        match self {
            Self::Beams { width, depth, .. } => check_beams(*width, *depth),
            Self::Candidates { branching, .. } => check_branching(branching),
        }
    }

    /// Depth of the tree.
    pub fn depth(&self) -> usize {
        match self {
            Self::Beams { depth, .. } => *depth,
            Self::Candidates { branching, .. } => branching.len(),
        }
    }

    /// Nodes that the draft can have in hand (of which `best_only` proposes some).
    pub fn max_nodes(&self) -> usize {
        match self {
            Self::Beams { width, depth, .. } => width.saturating_mul(*depth),
            Self::Candidates { branching, .. } => candidate_nodes(branching),
        }
    }

    /// The same with a tree of at most this depth.
    pub fn no_deeper_than(mut self, limit: usize) -> Self {
        match &mut self {
            Self::Beams { depth, .. } => *depth = limit.min(*depth),
            Self::Candidates { branching, .. } => branching.truncate(limit),
        }
        self
    }
}

/// Nodes of a tree with `branching[d]` children at every node of depth `d`.
fn candidate_nodes(branching: &[usize]) -> usize {
    let levels = branching.iter().scan(1usize, |nodes, &children| {
        *nodes = nodes.saturating_mul(children);
        Some(*nodes)
    });
    levels.fold(0, usize::saturating_add)
}

/// Why a draft of some shape is not allowed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum InvalidDrafting {
    #[error("beam_width {}", self.predicate())]
    BeamWidth(usize),
    #[error("draft_tokens {}", self.predicate())]
    DraftTokens(usize),
    #[error("branching {}", self.predicate())]
    Branching(Vec<usize>),
}

impl InvalidDrafting {
    /// What is wrong, as it is said after the parameter's name.
    pub fn predicate(&self) -> String {
        match self {
            Self::BeamWidth(value) => format!("is {value}: it must be between 1 and {MAX_BEAM_WIDTH}"),
            Self::DraftTokens(value) => format!("is {value}: it must be between 1 and {MAX_DRAFT_TOKENS}"),
            Self::Branching(value) => format!(
                "is {value:?}: give 1 to {MAX_DRAFT_TOKENS} numbers of at least 1, whose tree has at most {MAX_CANDIDATES} nodes"
            ),
        }
    }
}

/// Checks the shape of beams.
fn check_beams(width: usize, depth: usize) -> Result<(), InvalidDrafting> {
    if !(1..=MAX_BEAM_WIDTH).contains(&width) {
        return Err(InvalidDrafting::BeamWidth(width));
    }
    if !(1..=MAX_DRAFT_TOKENS).contains(&depth) {
        return Err(InvalidDrafting::DraftTokens(depth));
    }
    Ok(())
}

/// Checks the shape of a tree of candidates.
fn check_branching(branching: &[usize]) -> Result<(), InvalidDrafting> {
    let is_valid = (1..=MAX_DRAFT_TOKENS).contains(&branching.len())
        && branching.iter().all(|&children| children > 0)
        && candidate_nodes(branching) <= MAX_CANDIDATES;
    if is_valid { Ok(()) } else { Err(InvalidDrafting::Branching(branching.to_vec())) }
}
