//! The search for a draft tree, whichever shape was requested.

use crate::{BeamSearch, CandidateSearch, Distribution, DraftTree, Drafting, Expansion, TokenTree};

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
