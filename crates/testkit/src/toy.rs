//! A language model small enough to enumerate.

use tandem_decoding::{
    Accepted, BeamSearch, Distribution, DraftTree, Draws, Expansion, JointLogProbs, Purpose, Sampling,
    TokenId, TokenTree, best_beam,
};
use tandem_orchestrator::{DraftSession, Drafter, GenerateError, Scored, Scorer, TargetSession};
use tandem_proto::{Fault, OpenSession, ProposeShape};
use tokenizers::Tokenizer;

/// A model over a handful of tokens, whose logits are a fixed function of the last two tokens and a salt: two models of
/// different salts disagree, as a draft and a target do. It drafts and it scores.
#[derive(Clone, Copy, Debug)]
pub struct ToyModel {
    /// Tokens, at least 2.
    pub vocab: usize,
    /// Which function.
    pub salt: u64,
}

/// A text on a toy model.
#[derive(Clone, Debug)]
pub struct ToySession {
    model: ToyModel,
    text: Vec<TokenId>,
    /// The tree of the step before.
    tree: TokenTree,
    sampling: Sampling,
    draws: Draws,
}

impl ToyModel {
    /// Logits behind `text`, between -2 and 2.
    pub fn logits(&self, text: &[TokenId]) -> Vec<f32> {
        let last = |n: usize| text.len().checked_sub(n).map_or(u64::MAX, |i| u64::from(text[i].0));
        let logit = |token: u64| {
            // A mixing function, so that the logits look random: splitmix64's finaliser.
            let mut x = self.salt ^ (last(1) << 40) ^ (last(2) << 20) ^ token;
            for factor in [0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb] {
                x = (x ^ (x >> 30)).wrapping_mul(factor);
            }
            ((x >> 40) as f32 / (1u64 << 24) as f32) * 4.0 - 2.0
        };
        (0..self.vocab as u64).map(logit).collect()
    }

    /// The warped distribution behind `text`.
    pub fn distribution(&self, text: &[TokenId], sampling: Sampling) -> Result<Distribution, GenerateError> {
        sampling.warp(&self.logits(text)).map_err(|e| Fault::Bug(e.to_string()).into())
    }

    fn session(self, open: &OpenSession) -> ToySession {
        ToySession {
            model: self,
            text: open.prompt.clone(),
            tree: TokenTree::default(),
            sampling: open.sampling,
            draws: Draws::new(open.seed),
        }
    }
}

impl ToySession {
    fn commit(&mut self, commit: Option<&Accepted>) {
        if let Some(accepted) = commit {
            self.text.extend(accepted.path.iter().map(|&n| self.tree.tokens()[n]));
            self.text.push(accepted.bonus);
        }
    }

    /// The distribution at a node of `tree`, or at the root.
    fn at(&self, tree: &TokenTree, node: Option<usize>) -> Result<Distribution, GenerateError> {
        let path = node.map_or_else(Vec::new, |n| tree.path(n));
        let text: Vec<TokenId> =
            self.text.iter().copied().chain(path.into_iter().map(|n| tree.tokens()[n])).collect();
        self.model.distribution(&text, self.sampling)
    }
}

impl Drafter for ToyModel {
    type Session = ToySession;

    async fn open(&self, open: &OpenSession) -> Result<ToySession, GenerateError> {
        Ok(self.session(open))
    }
}

impl DraftSession for ToySession {
    async fn propose(
        &mut self,
        commit: Option<&Accepted>,
        shape: ProposeShape,
    ) -> Result<DraftTree, GenerateError> {
        self.commit(commit);
        let expansion = if self.sampling.is_greedy() {
            Expansion::Top
        } else {
            Expansion::Sampled { replacement: shape.with_replacement }
        };
        let mut search = BeamSearch::new(shape.beam_width, expansion);
        for depth in 0..shape.draft_tokens {
            let q: Vec<Distribution> = search
                .frontier()
                .iter()
                .map(|&node| self.at(search.tree(), node))
                .collect::<Result<_, _>>()?;
            search.advance(&q, self.draws.uniforms(self.text.len(), Purpose::DraftBeams { depth }));
        }
        let mut draft = search.finish();
        if let Some(leaf) = best_beam(&draft.tree, &draft.joint).filter(|_| shape.best_beam_only) {
            let joint = draft.tree.path(leaf).into_iter().map(|n| draft.joint.get(n)).collect();
            let tree = draft.tree.chain_to(leaf);
            let joint = JointLogProbs::new(&tree, joint).map_err(|e| Fault::Bug(e.to_string()))?;
            draft = DraftTree { tree, joint };
        }
        self.tree = draft.tree.clone();
        Ok(draft)
    }
}

impl Scorer for ToyModel {
    type Session = ToySession;

    async fn open(&self, open: &OpenSession) -> Result<ToySession, GenerateError> {
        Ok(self.session(open))
    }
}

impl TargetSession for ToySession {
    async fn score(&mut self, commit: Option<&Accepted>, tree: &TokenTree) -> Result<Scored, GenerateError> {
        self.commit(commit);
        self.tree = tree.clone();
        let p: Vec<Distribution> = std::iter::once(None)
            .chain((0..tree.len()).map(Some))
            .map(|node| self.at(tree, node))
            .collect::<Result<_, _>>()?;
        let drawn = p.iter().enumerate().map(|(i, p)| {
            let depth = i.checked_sub(1).map_or(0, |node| tree.depth(node));
            self.sampling.pick(p, self.draws.uniform(self.text.len() + depth, Purpose::TargetToken))
        });
        let steps: Vec<f64> = (0..tree.len())
            .map(|n| p[tree.parents()[n].map_or(0, |parent| parent + 1)].log_prob(tree.tokens()[n]))
            .collect();
        let drawn = drawn.collect();
        let joint = JointLogProbs::from_steps(tree, &steps).map_err(|e| Fault::Bug(e.to_string()))?;
        Ok(Scored { joint, drawn })
    }
}

/// One letter per token: `a` is 0.
///
/// # Panics
/// If `vocab` is above 26.
pub fn toy_tokenizer(vocab: usize) -> Tokenizer {
    assert!(vocab <= 26, "one letter per token");
    let entries: Vec<String> =
        ('a'..='z').take(vocab).enumerate().map(|(i, c)| format!("\"{c}\":{i}")).collect();
    let json = format!(r#"{{"model":{{"type":"BPE","vocab":{{{}}},"merges":[]}}}}"#, entries.join(","));
    #[allow(clippy::expect_used, reason = "a constant")]
    Tokenizer::from_bytes(json).expect("a valid tokenizer")
}
