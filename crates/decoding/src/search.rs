//! What a draft is asked for, and the search that answers it.

use crate::method::{check_beams, check_branching};
use crate::{BeamSearch, CandidateSearch, Distribution, DraftTree, Expansion, InvalidDecoding, TokenTree};

/// What a draft is asked for in one iteration.
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
    /// Whether it is within the limits of a decoding.
    pub fn check(&self) -> Result<(), InvalidDecoding> {
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
pub(crate) fn candidate_nodes(branching: &[usize]) -> usize {
    let levels = branching.iter().scan(1usize, |nodes, &children| {
        *nodes = nodes.saturating_mul(children);
        Some(*nodes)
    });
    levels.fold(0, usize::saturating_add)
}

/// A search that leaves the model to its caller: ask for the [`frontier`](Self::frontier), compute its distributions,
/// [`advance`](Self::advance); [`Drafting::depth`] times.
#[derive(Clone, Debug)]
pub enum TreeSearch {
    /// Of the joint distribution.
    Beams(BeamSearch),
    /// Of every node by itself.
    Candidates(CandidateSearch),
}

impl TreeSearch {
    /// From the root. At temperature 0 (`greedy`) nothing is drawn: the likeliest are taken.
    pub fn new(drafting: &Drafting, greedy: bool) -> Self {
        let unless_greedy = |expansion| if greedy { Expansion::Top } else { expansion };
        match drafting {
            Drafting::Beams { width, expansion, .. } => {
                Self::Beams(BeamSearch::new(*width, unless_greedy(*expansion)))
            }
            Drafting::Candidates { branching, replacement } => {
                let expansion = unless_greedy(Expansion::Sampled { replacement: *replacement });
                Self::Candidates(CandidateSearch::new(branching.clone(), expansion))
            }
        }
    }

    /// The nodes whose distributions [`Self::advance`] needs next, in that order; `None` is the root.
    pub fn frontier(&self) -> &[Option<usize>] {
        match self {
            Self::Beams(search) => search.frontier(),
            Self::Candidates(search) => search.frontier(),
        }
    }

    /// The tree so far.
    pub fn tree(&self) -> &TokenTree {
        match self {
            Self::Beams(search) => search.tree(),
            Self::Candidates(search) => search.tree(),
        }
    }

    /// Grows the tree by one depth: `distributions[i]` is `q(· | frontier[i])`; `uniforms` are the draws of this depth.
    ///
    /// # Panics
    /// If `distributions` is not as long as the frontier.
    pub fn advance(&mut self, distributions: &[Distribution], uniforms: impl Iterator<Item = f64>) {
        match self {
            Self::Beams(search) => search.advance(distributions, uniforms),
            Self::Candidates(search) => search.advance(distributions, uniforms),
        }
    }

    /// What was found.
    pub fn finish(self) -> DraftTree {
        match self {
            Self::Beams(search) => search.finish(),
            Self::Candidates(search) => search.finish(),
        }
    }
}
