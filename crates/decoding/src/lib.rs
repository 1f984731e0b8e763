//! The rules of multi-candidate multi-token assisted decoding (MMTAD), and nothing else.
//!
//! Everything in this crate is pure: no IO, no clock, no async, no tensors. Randomness is an argument
//! ([`Draws`]), so every rule can be replayed, and tests take microseconds.
//!
//! Source of the rules: "Optimized Multi-Token Joint Decoding With Auxiliary Model for LLM Inference" (ICLR
//! 2025).
//!
//! # Notation
//!
//! | symbol | meaning |
//! |---|---|
//! | root | the last committed token; the token tree hangs under it |
//! | node | a proposed token; its index is its position in the tree, its depth is at least 1 |
//! | `p`, `q` | the warped distributions of the target and of the draft |
//! | `P`, `Q` | joint log-probabilities (natural log) of the path to a node under `p` and under `q` |
//! | `γ` | the draft depth: draft tokens per path and iteration |
//! | `B` | the beam width |
//! | `τ` | the acceptance threshold, above 0 and at most 1 |
//!
//! A type of `Option<usize>` for a node uses `None` for the root.
//!
//! # Example
//!
//! ```
//! use tandem_decoding::{TokenId, TokenTree, TreeLimits};
//!
//! //         root
//! //        /    \
//! //     7 (0)  9 (1)
//! //       |
//! //     4 (2)
//! let tree = TokenTree::new(
//!     [7, 9, 4].map(TokenId).to_vec(),
//!     vec![None, None, Some(0)],
//!     TreeLimits::default(),
//! )?;
//! assert_eq!(tree.path(2), [0, 2]);
//! assert_eq!(tree.depth(2), 2);
//! # Ok::<(), tandem_decoding::InvalidTree>(())
//! ```

mod acceptance;
mod beam;
mod candidate_search;
mod candidates;
mod distribution;
mod draft_tree;
mod drafting;
mod draws;
mod exp;
mod expansion;
mod joint;
mod mask;
mod method;
mod node_rows;
mod pairs;
mod rejection;
mod row;
mod scan;
mod search;
mod token;
mod tree;
mod warp;

pub use acceptance::{Accepted, Reference, Threshold, UnknownReference, best_beam, exact_match, mmtad};
pub use beam::BeamSearch;
pub use candidate_search::CandidateSearch;
pub use candidates::{Candidates, InvalidCandidates};
pub use distribution::{Distribution, InvalidDistribution};
pub use draft_tree::DraftTree;
pub use drafting::{Drafting, InvalidDrafting, MAX_BEAM_WIDTH, MAX_CANDIDATES, MAX_DRAFT_TOKENS};
pub use draws::{Draws, Purpose};
pub use expansion::{Expansion, UnknownExpansion};
pub use joint::{InvalidJoint, JointLogProbs};
pub use mask::AncestorMask;
pub use method::{Decoding, DecodingParams, InvalidDecoding, Method, UnknownMethod};
pub use node_rows::NodeRows;
pub use rejection::{Verified, multi_round, test_candidates};
pub use row::{RowQuery, RowReducer, RowSummary, Unwarped};
pub use scan::InvalidLogits;
pub use search::TreeSearch;
pub use token::TokenId;
pub use tree::{InvalidTree, TokenTree, TreeLimits};
pub use warp::{InvalidSampling, MAX_TEMPERATURE, MIN_TEMPERATURE, Sampling};
