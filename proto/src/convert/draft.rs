//! Proposals.

use tandem_decoding::{Candidates, DraftTree, Drafting, JointLogProbs};
use tandem_generation::{DraftRequest, Proposal};

use super::{
    InvalidMessage, distribution, expansion_from_wire, expansion_to_wire, to_u32, tree, unknown_expansion,
};
use crate::v1;

impl v1::ProposeRequest {
    /// The request, checked.
    pub fn draft_request(&self) -> Result<DraftRequest, InvalidMessage> {
        use v1::propose_request::Shape;
        let drafting = match &self.shape {
            Some(Shape::Beams(b)) => Drafting::Beams {
                width: b.beam_width as usize,
                depth: b.draft_tokens as usize,
                expansion: expansion_from_wire(b.beams)
                    .ok_or_else(|| InvalidMessage::new("beams", unknown_expansion(b.beams)))?,
                best_only: b.best_beam_only,
            },
            Some(Shape::Candidates(c)) => Drafting::Candidates {
                branching: c.branching.iter().map(|&n| n as usize).collect(),
                replacement: c.with_replacement,
            },
            None => return Err(InvalidMessage::new("shape", "is missing: request beams or candidates")),
        };
        drafting.check().map_err(|e| InvalidMessage::new("shape", format!("is not valid: {e}")))?;
        Ok(DraftRequest { drafting, log_probs: self.log_probs })
    }
}

impl From<&Drafting> for v1::propose_request::Shape {
    fn from(drafting: &Drafting) -> Self {
        match drafting {
            Drafting::Beams { width, depth, expansion, best_only } => Self::Beams(v1::BeamShape {
                beam_width: to_u32(*width),
                draft_tokens: to_u32(*depth),
                beams: expansion_to_wire(*expansion).into(),
                best_beam_only: *best_only,
            }),
            Drafting::Candidates { branching, replacement } => Self::Candidates(v1::CandidateShape {
                branching: branching.iter().map(|&n| to_u32(n)).collect(),
                with_replacement: *replacement,
            }),
        }
    }
}

impl From<Proposal> for v1::ProposeResponse {
    fn from(proposal: Proposal) -> Self {
        let DraftTree { tree, joint, candidates } = &proposal.draft;
        let candidates = candidates.as_ref().map(|c| v1::Candidates {
            draws: c.draws().iter().map(|&n| to_u32(n)).collect(),
            distributions: c.distributions().iter().map(Into::into).collect(),
        });
        Self {
            tree: Some(tree.into()),
            joint_log_probs: joint.as_slice().to_vec(),
            candidates,
            log_probs: proposal.log_probs,
        }
    }
}

impl v1::ProposeResponse {
    /// The proposal, checked against the `request`: a worker is not trusted more than a client.
    pub fn into_proposal(self, request: &DraftRequest) -> Result<Proposal, InvalidMessage> {
        let drafting = &request.drafting;
        let tree = tree(self.tree)?;
        let max_nodes = drafting.max_nodes();
        let max_depth = drafting.depth();
        if tree.len() > max_nodes || tree.max_depth() > max_depth {
            let message = format!(
                "has {} nodes and depth {}, but {max_nodes} and {max_depth} were requested",
                tree.len(),
                tree.max_depth()
            );
            return Err(InvalidMessage::new("tree", message));
        }
        let best_only = matches!(drafting, Drafting::Beams { best_only: true, .. });
        if best_only && tree.max_depth() < tree.len() {
            return Err(InvalidMessage::new("tree", "is not a chain, but only the best beam was requested"));
        }
        let joint = JointLogProbs::new(&tree, self.joint_log_probs)
            .map_err(|e| InvalidMessage::new("joint_log_probs", format!("are not valid: {e}")))?;
        let candidates = match (self.candidates, drafting) {
            (Some(c), Drafting::Candidates { branching, replacement }) => {
                let q = c.distributions.into_iter().map(|d| distribution(d, "candidates.distributions"));
                let q = q.collect::<Result<_, _>>()?;
                let draws = c.draws.into_iter().map(|n| n as usize).collect();
                let candidates = Candidates::new(&tree, branching, draws, q, *replacement)
                    .map_err(|e| InvalidMessage::new("candidates", format!("are not valid: {e}")))?;
                Some(candidates)
            }
            _ => None,
        };
        if request.log_probs && self.log_probs.len() != tree.len() {
            let message = format!("has {} values for {} nodes", self.log_probs.len(), tree.len());
            return Err(InvalidMessage::new("log_probs", message));
        }
        Ok(Proposal { draft: DraftTree { tree, joint, candidates }, log_probs: self.log_probs })
    }
}
