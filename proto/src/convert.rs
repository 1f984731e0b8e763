//! Wire to domain, checked, and back.

use tandem_decoding::{
    Accepted, Decoding, JointLogProbs, MAX_BEAM_WIDTH, MAX_DRAFT_TOKENS, Method, Sampling, TokenId,
    TokenTree, TreeLimits,
};

use crate::{Fault, v1};

/// A request to open a session, checked but for what depends on the model.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenSession {
    /// At least one token.
    pub prompt: Vec<TokenId>,
    /// Tokens that may be committed beyond it.
    pub max_new_tokens: usize,
    /// Nodes that one step's tree may have.
    pub max_tree_nodes: usize,
    /// Of all steps.
    pub sampling: Sampling,
    /// Of all draws.
    pub seed: u64,
    /// Tokens from here on are never proposed nor drawn; `None`: all are.
    pub vocab_limit: Option<usize>,
}

/// The session that a request names, and how far its client thinks it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionRef {
    /// The worker's life.
    pub incarnation: u64,
    /// The session on it.
    pub id: u64,
    /// Tokens committed once the request's commit is applied.
    pub committed: usize,
}

/// The shape of the tree that a draft is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProposeShape {
    /// `B`.
    pub beam_width: usize,
    /// `γ`, at least 1.
    pub draft_tokens: usize,
    /// Draw beams with replacement.
    pub with_replacement: bool,
    /// The best beam alone.
    pub best_beam_only: bool,
}

/// What a client asked to generate, checked but for what depends on the models.
#[derive(Clone, Debug)]
pub struct GenerateParams {
    /// Text or tokens, not empty.
    pub input: Input,
    /// At least 1.
    pub max_new_tokens: usize,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// `None`: draw one.
    pub seed: Option<u64>,
    /// Not empty, each of them.
    pub stop: Vec<String>,
    /// Go on behind an end of sequence.
    pub ignore_eos: bool,
    /// How candidates are proposed and accepted.
    pub decoding: Decoding,
    /// Draw beams with replacement.
    pub with_replacement: bool,
}

/// A prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// To be tokenized.
    Text(String),
    /// To be taken as it is.
    Tokens(Vec<TokenId>),
}

/// Limits of stop strings.
const MAX_STOPS: usize = 16;
const MAX_STOP_BYTES: usize = 256;

impl TryFrom<v1::Sampling> for Sampling {
    type Error = Fault;

    fn try_from(s: v1::Sampling) -> Result<Self, Fault> {
        Self::new(s.temperature, s.top_k as usize, s.top_p).map_err(|e| Fault::invalid("sampling", e))
    }
}

impl From<Sampling> for v1::Sampling {
    fn from(s: Sampling) -> Self {
        Self { temperature: s.temperature(), top_k: to_u32(s.top_k()), top_p: s.top_p() }
    }
}

impl TryFrom<v1::OpenSessionRequest> for OpenSession {
    type Error = Fault;

    fn try_from(r: v1::OpenSessionRequest) -> Result<Self, Fault> {
        if r.prompt_tokens.is_empty() {
            return Err(Fault::invalid("prompt_tokens", "the prompt is empty: give at least one token"));
        }
        let limit = TreeLimits::default().max_nodes;
        if r.max_tree_nodes as usize > limit {
            let message = format!("{} nodes per tree, the limit is {limit}", r.max_tree_nodes);
            return Err(Fault::invalid("max_tree_nodes", message));
        }
        let sampling = r.sampling.ok_or_else(|| Fault::invalid("sampling", "is missing"))?;
        Ok(Self {
            prompt: tokens(r.prompt_tokens),
            max_new_tokens: r.max_new_tokens as usize,
            max_tree_nodes: r.max_tree_nodes as usize,
            sampling: sampling.try_into()?,
            seed: r.seed,
            vocab_limit: Some(r.vocab_limit as usize).filter(|&limit| limit > 0),
        })
    }
}

impl From<&OpenSession> for v1::OpenSessionRequest {
    fn from(o: &OpenSession) -> Self {
        Self {
            prompt_tokens: ids(&o.prompt),
            max_new_tokens: to_u32(o.max_new_tokens),
            max_tree_nodes: to_u32(o.max_tree_nodes),
            sampling: Some(o.sampling.into()),
            seed: o.seed,
            vocab_limit: to_u32(o.vocab_limit.unwrap_or(0)),
        }
    }
}

impl TryFrom<Option<v1::SessionHandle>> for SessionRef {
    type Error = Fault;

    fn try_from(handle: Option<v1::SessionHandle>) -> Result<Self, Fault> {
        let h = handle.ok_or_else(|| Fault::invalid("handle", "is missing: open a session first"))?;
        Ok(Self { incarnation: h.incarnation, id: h.session_id, committed: h.committed_tokens as usize })
    }
}

impl From<SessionRef> for v1::SessionHandle {
    fn from(s: SessionRef) -> Self {
        Self { incarnation: s.incarnation, session_id: s.id, committed_tokens: to_u32(s.committed) }
    }
}

impl v1::Commit {
    /// The path and the bonus token. Whether the nodes are a path is for the session to say, which has the tree.
    pub fn into_accepted(self) -> Result<Accepted, Fault> {
        let limit = TreeLimits::default().max_depth;
        if self.accepted_nodes.len() > limit {
            let message = format!("{} accepted nodes, a path has at most {limit}", self.accepted_nodes.len());
            return Err(Fault::invalid("commit.accepted_nodes", message));
        }
        Ok(Accepted {
            path: self.accepted_nodes.into_iter().map(|n| n as usize).collect(),
            bonus: TokenId(self.bonus_token),
        })
    }
}

impl From<&Accepted> for v1::Commit {
    fn from(a: &Accepted) -> Self {
        Self { accepted_nodes: a.path.iter().map(|&n| to_u32(n)).collect(), bonus_token: a.bonus.0 }
    }
}

impl TryFrom<Option<v1::TokenTree>> for TreeOnWire {
    type Error = Fault;

    fn try_from(tree: Option<v1::TokenTree>) -> Result<Self, Fault> {
        let tree = tree.unwrap_or_default();
        let parent = |p: i32| match p {
            -1 => Ok(None),
            p => usize::try_from(p)
                .map(Some)
                .map_err(|_| Fault::invalid("tree.parents", format!("{p} is no node, nor -1 for the root"))),
        };
        let parents = tree.parents.into_iter().map(parent).collect::<Result<_, _>>()?;
        TokenTree::new(tokens(tree.tokens), parents, TreeLimits::default())
            .map(Self)
            .map_err(|e| Fault::invalid("tree", e))
    }
}

/// A tree that came over the wire; the orphan rule forbids the conversion to [`TokenTree`] itself.
struct TreeOnWire(TokenTree);

impl v1::ScoreTreeRequest {
    /// The tree to score; a missing one is empty.
    pub fn take_tree(&mut self) -> Result<TokenTree, Fault> {
        TreeOnWire::try_from(self.tree.take()).map(|t| t.0)
    }
}

impl From<&TokenTree> for v1::TokenTree {
    fn from(tree: &TokenTree) -> Self {
        let parent = |p: &Option<usize>| p.and_then(|p| i32::try_from(p).ok()).unwrap_or(-1);
        Self { tokens: ids(tree.tokens()), parents: tree.parents().iter().map(parent).collect() }
    }
}

impl v1::ProposeResponse {
    /// The draft and its `Q`, checked: a worker is not trusted more than a client.
    pub fn into_draft(self) -> Result<(TokenTree, JointLogProbs), Fault> {
        let tree = TreeOnWire::try_from(self.tree)?.0;
        let joint = JointLogProbs::new(&tree, self.joint_log_probs)
            .map_err(|e| Fault::invalid("joint_log_probs", e))?;
        Ok((tree, joint))
    }
}

impl v1::ScoreTreeResponse {
    /// `P` of `tree` and the drawn tokens (of the root, then of each node), checked.
    pub fn into_scores(self, tree: &TokenTree) -> Result<(JointLogProbs, Vec<TokenId>), Fault> {
        let joint = JointLogProbs::new(tree, self.joint_log_probs)
            .map_err(|e| Fault::invalid("joint_log_probs", e))?;
        if self.drawn_tokens.len() != tree.len() + 1 {
            let message = format!("{} tokens for the root and {} nodes", self.drawn_tokens.len(), tree.len());
            return Err(Fault::invalid("drawn_tokens", message));
        }
        Ok((joint, tokens(self.drawn_tokens)))
    }
}

impl v1::ProposeRequest {
    /// The shape asked for.
    pub fn shape(&self) -> Result<ProposeShape, Fault> {
        let check = |field, value: u32, limit: usize| {
            let ok = (1..=limit).contains(&(value as usize));
            let message = || format!("{value} is not between 1 and {limit}");
            if ok { Ok(value as usize) } else { Err(Fault::invalid(field, message())) }
        };
        Ok(ProposeShape {
            beam_width: check("beam_width", self.beam_width, MAX_BEAM_WIDTH)?,
            draft_tokens: check("draft_tokens", self.draft_tokens, MAX_DRAFT_TOKENS)?,
            with_replacement: self.with_replacement,
            best_beam_only: self.best_beam_only,
        })
    }
}

impl TryFrom<v1::GenerateRequest> for GenerateParams {
    type Error = Fault;

    fn try_from(r: v1::GenerateRequest) -> Result<Self, Fault> {
        use v1::generate_request::Input as Wire;
        let input = match r.input {
            Some(Wire::Prompt(text)) if !text.is_empty() => Input::Text(text),
            Some(Wire::Tokens(t)) if !t.ids.is_empty() => Input::Tokens(tokens(t.ids)),
            _ => return Err(Fault::invalid("prompt", "is empty: give text or token ids")),
        };
        let max_new_tokens = r.max_new_tokens.unwrap_or(128) as usize;
        if max_new_tokens == 0 {
            return Err(Fault::invalid("max_new_tokens", "is 0: it must be at least 1"));
        }
        let sampling = v1::Sampling {
            temperature: r.temperature.unwrap_or(1.0),
            top_k: r.top_k.unwrap_or(10),
            top_p: r.top_p.unwrap_or(0.9),
        };
        if r.stop.len() > MAX_STOPS {
            let message = format!("{} stop strings, the limit is {MAX_STOPS}", r.stop.len());
            return Err(Fault::invalid("stop", message));
        }
        if let Some(stop) = r.stop.iter().find(|s| s.is_empty() || s.len() > MAX_STOP_BYTES) {
            let message = format!("a stop string of {} bytes: 1 to {MAX_STOP_BYTES} are allowed", stop.len());
            return Err(Fault::invalid("stop", message));
        }
        let d = r.decoding.unwrap_or_default();
        let decoding = Decoding::new(
            method_from_wire(d.method)?,
            d.beam_width.unwrap_or(4) as usize,
            d.draft_tokens.unwrap_or(4) as usize,
            d.acceptance_threshold.unwrap_or(0.5),
        );
        Ok(Self {
            input,
            max_new_tokens,
            sampling: sampling.try_into()?,
            seed: r.seed,
            stop: r.stop,
            ignore_eos: r.ignore_eos,
            decoding: decoding.map_err(|e| Fault::invalid("decoding", e))?,
            with_replacement: d.with_replacement,
        })
    }
}

/// The method of a wire number; unspecified is MMTAD.
pub fn method_from_wire(number: i32) -> Result<Method, Fault> {
    match v1::Method::try_from(number) {
        Ok(v1::Method::Autoregressive) => Ok(Method::Autoregressive),
        Ok(v1::Method::Mtad) => Ok(Method::Mtad),
        Ok(v1::Method::Unspecified | v1::Method::Mmtad) => Ok(Method::Mmtad),
        Ok(v1::Method::ExactMatch) => Ok(Method::ExactMatch),
        Err(_) => {
            let names = Method::ALL.map(Method::name).join(", ");
            Err(Fault::invalid("decoding.method", format!("{number} is no method: the methods are {names}")))
        }
    }
}

/// The wire number of a method.
pub fn method_to_wire(method: Method) -> v1::Method {
    match method {
        Method::Autoregressive => v1::Method::Autoregressive,
        Method::Mtad => v1::Method::Mtad,
        Method::Mmtad => v1::Method::Mmtad,
        Method::ExactMatch => v1::Method::ExactMatch,
    }
}

fn tokens(ids: Vec<u32>) -> Vec<TokenId> {
    ids.into_iter().map(TokenId).collect()
}

fn ids(tokens: &[TokenId]) -> Vec<u32> {
    tokens.iter().map(|t| t.0).collect()
}

/// Counts are far below 2^32; one that is not would be refused by whoever reads it.
fn to_u32(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> v1::GenerateRequest {
        v1::GenerateRequest {
            input: Some(v1::generate_request::Input::Prompt("x".into())),
            ..v1::GenerateRequest::default()
        }
    }

    fn field(r: v1::GenerateRequest) -> &'static str {
        match GenerateParams::try_from(r) {
            Err(Fault::Invalid { field, .. }) => field,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn defaults_are_the_papers() {
        let p = GenerateParams::try_from(request()).unwrap();
        assert_eq!((p.max_new_tokens, p.seed, p.ignore_eos), (128, None, false));
        assert_eq!(p.sampling, Sampling::new(1.0, 10, 0.9).unwrap());
        assert_eq!(p.decoding, Decoding::new(Method::Mmtad, 4, 4, 0.5).unwrap());
    }

    #[test]
    fn nonsense_is_refused_by_field() {
        let d = |d: v1::DecodingParams| v1::GenerateRequest { decoding: Some(d), ..request() };
        let none = v1::DecodingParams::default();
        assert_eq!(field(v1::GenerateRequest::default()), "prompt");
        assert_eq!(field(v1::GenerateRequest { max_new_tokens: Some(0), ..request() }), "max_new_tokens");
        assert_eq!(field(v1::GenerateRequest { temperature: Some(f64::NAN), ..request() }), "sampling");
        assert_eq!(field(v1::GenerateRequest { top_p: Some(2.0), ..request() }), "sampling");
        assert_eq!(field(v1::GenerateRequest { stop: vec![String::new()], ..request() }), "stop");
        assert_eq!(field(v1::GenerateRequest { stop: vec!["x".into(); 17], ..request() }), "stop");
        assert_eq!(field(d(v1::DecodingParams { method: 99, ..none })), "decoding.method");
        assert_eq!(field(d(v1::DecodingParams { beam_width: Some(0), ..none })), "decoding");
        assert_eq!(field(d(v1::DecodingParams { draft_tokens: Some(10_000), ..none })), "decoding");
        assert_eq!(field(d(v1::DecodingParams { acceptance_threshold: Some(0.0), ..none })), "decoding");
        assert_eq!(field(d(v1::DecodingParams { acceptance_threshold: Some(1.5), ..none })), "decoding");
    }

    #[test]
    fn a_tree_survives_the_wire_and_a_broken_one_does_not() {
        let wire = |tokens: &[u32], parents: &[i32]| v1::ScoreTreeRequest {
            tree: Some(v1::TokenTree { tokens: tokens.to_vec(), parents: parents.to_vec() }),
            ..v1::ScoreTreeRequest::default()
        };
        let tree = wire(&[5, 6, 5], &[-1, -1, 1]).take_tree().unwrap();
        assert_eq!(tree.path(2), [1, 2]);
        assert_eq!(v1::TokenTree::from(&tree).parents, [-1, -1, 1]);
        for (tokens, parents) in [(&[5][..], &[-2][..]), (&[5], &[0]), (&[5, 5], &[-1, -1]), (&[5], &[])] {
            assert!(wire(tokens, parents).take_tree().is_err(), "{tokens:?} {parents:?}");
        }
    }

    #[test]
    fn a_workers_reply_is_checked_too() {
        let tree = Some(v1::TokenTree { tokens: vec![5], parents: vec![-1] });
        let draft = |joint: f64| v1::ProposeResponse { tree: tree.clone(), joint_log_probs: vec![joint] };
        assert!(draft(-1.0).into_draft().is_ok());
        assert!(draft(f64::NAN).into_draft().is_err());
        assert!(draft(1.0).into_draft().is_err());
        let (tree, _) = draft(-1.0).into_draft().unwrap();
        let scores = |n| v1::ScoreTreeResponse { joint_log_probs: vec![-1.0], drawn_tokens: vec![1; n] };
        assert!(scores(2).into_scores(&tree).is_ok());
        assert!(scores(1).into_scores(&tree).is_err());
    }
}
