//! The search for a draft tree of either shape.

use crate::{BeamSearch, CandidateSearch, Distribution, DraftTree, Drafting, Expansion, TokenTree};

/// The search for the tree that a [`Drafting`] describes. The caller runs the model: [`Drafting::depth`]
/// times, it computes the distributions of the [`frontier`](Self::frontier) and passes them to
/// [`advance`](Self::advance).
#[derive(Clone, Debug)]
pub enum TreeSearch {
    /// Beams of the joint distribution.
    Beams(BeamSearch),
    /// Candidates of every node independently.
    Candidates(CandidateSearch),
}

impl TreeSearch {
    /// Starts a search at the root. If `greedy` (temperature 0), tokens are not drawn: the likeliest ones are
    /// taken.
    pub fn new(drafting: &Drafting, greedy: bool) -> Self {
        match drafting {
            Drafting::Beams { width, expansion, .. } => {
                let expansion = if greedy { Expansion::Top } else { *expansion };
                Self::Beams(BeamSearch::new(*width, expansion))
            }
            Drafting::Candidates { branching, replacement } => {
                let sampled = Expansion::Sampled { replacement: *replacement };
                let expansion = if greedy { Expansion::Top } else { sampled };
                Self::Candidates(CandidateSearch::new(branching.clone(), expansion))
            }
        }
    }

    /// The nodes whose distributions [`Self::advance`] takes next, in this order; `None` is the root.
    pub fn frontier(&self) -> &[Option<usize>] {
        match self {
            Self::Beams(search) => search.frontier(),
            Self::Candidates(search) => search.frontier(),
        }
    }

    /// The tree that has been found so far.
    pub fn tree(&self) -> &TokenTree {
        match self {
            Self::Beams(search) => search.tree(),
            Self::Candidates(search) => search.tree(),
        }
    }

    /// Grows the tree by one depth. `distributions[i]` is `q(· | frontier[i])`; `uniforms` are this depth's
    /// draws in `[0, 1)`.
    ///
    /// # Panics
    /// If there is not exactly one distribution per node of the frontier.
    pub fn advance(&mut self, distributions: &[Distribution], uniforms: impl Iterator<Item = f64>) {
        match self {
            Self::Beams(search) => search.advance(distributions, uniforms),
            Self::Candidates(search) => search.advance(distributions, uniforms),
        }
    }

    /// Ends the search and returns the draft.
    pub fn finish(self) -> DraftTree {
        match self {
            Self::Beams(search) => search.finish(),
            Self::Candidates(search) => search.finish(),
        }
    }
}
