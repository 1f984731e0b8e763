//! Proposals.

use tandem_decoding::{Candidates, DraftTree, Drafting, JointLogProbs};

use super::{TreeOnWire, distribution, expansion_from_wire, expansion_to_wire, to_u32};
use crate::{Fault, v1};

/// What a draft is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Propose {
    /// The tree.
    pub drafting: Drafting,
    /// The nodes' log-probabilities under the unwarped softmax, too.
    pub log_probs: bool,
}

impl v1::ProposeRequest {
    /// What is asked for, checked.
    pub fn propose(&self) -> Result<Propose, Fault> {
        use v1::propose_request::Shape;
        let drafting = match &self.shape {
            Some(Shape::Beams(b)) => Drafting::Beams {
                width: b.beam_width as usize,
                depth: b.draft_tokens as usize,
                expansion: expansion_from_wire(b.beams, "beams")?,
                best_only: b.best_beam_only,
            },
            Some(Shape::Candidates(c)) => Drafting::Candidates {
                branching: c.branching.iter().map(|&n| n as usize).collect(),
                replacement: c.with_replacement,
            },
            None => return Err(Fault::invalid("shape", "is missing: ask for beams or for candidates")),
        };
        drafting.check().map_err(|e| Fault::invalid("shape", e))?;
        Ok(Propose { drafting, log_probs: self.log_probs })
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

impl From<&DraftTree> for v1::ProposeResponse {
    fn from(draft: &DraftTree) -> Self {
        let candidates = draft.candidates.as_ref().map(|c| v1::Candidates {
            draws: c.draws().iter().map(|&n| to_u32(n)).collect(),
            distributions: c.distributions().iter().map(Into::into).collect(),
        });
        Self {
            tree: Some((&draft.tree).into()),
            joint_log_probs: draft.joint.as_slice().to_vec(),
            candidates,
            log_probs: Vec::new(),
        }
    }
}

impl v1::ProposeResponse {
    /// The draft, and its nodes' unwarped log-probabilities, as far as `asked`; checked: a worker is not trusted more than a client.
    pub fn into_draft(self, asked: &Propose) -> Result<(DraftTree, Vec<f64>), Fault> {
        let tree = TreeOnWire::try_from(self.tree)?.0;
        let (nodes, depth) = (asked.drafting.max_nodes(), asked.drafting.depth());
        if tree.len() > nodes || tree.max_depth() > depth {
            let message = format!(
                "{} nodes and depth {} where {nodes} and {depth} were asked for",
                tree.len(),
                tree.max_depth()
            );
            return Err(Fault::invalid("tree", message));
        }
        if matches!(asked.drafting, Drafting::Beams { best_only: true, .. }) && tree.max_depth() < tree.len()
        {
            return Err(Fault::invalid("tree", "the best beam alone was asked for, and this is no chain"));
        }
        let joint = JointLogProbs::new(&tree, self.joint_log_probs)
            .map_err(|e| Fault::invalid("joint_log_probs", e))?;
        let candidates = match (self.candidates, &asked.drafting) {
            (Some(c), Drafting::Candidates { branching, replacement }) => {
                let q = c.distributions.into_iter().map(|d| distribution(d, "candidates.distributions"));
                let draws = c.draws.into_iter().map(|n| n as usize).collect();
                let q = q.collect::<Result<_, _>>()?;
                let candidates = Candidates::new(&tree, branching, draws, q, *replacement);
                Some(candidates.map_err(|e| Fault::invalid("candidates", e))?)
            }
            _ => None,
        };
        if asked.log_probs && self.log_probs.len() != tree.len() {
            let message = format!("{} for {} nodes", self.log_probs.len(), tree.len());
            return Err(Fault::invalid("log_probs", message));
        }
        Ok((DraftTree { tree, joint, candidates }, self.log_probs))
    }
}
