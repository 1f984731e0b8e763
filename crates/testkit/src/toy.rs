//! A language model small enough to enumerate.

use tandem_decoding::{
    Accepted, Distribution, Drafting, Draws, JointLogProbs, NodeRows, Purpose, Sampling, TokenId, TokenTree,
    TreeSearch,
};
use tandem_generation::{
    DraftRequest, DraftSession, Drafter, GenerateError, OpenSession, Proposal, ScoreRequest, Scorer, Scores,
    TargetSession, TokenLogProbs, TopTokens,
};
use tokenizers::Tokenizer;
use tokio::time::Instant;

/// A model with a handful of tokens, whose logits are a fixed function of the last two tokens and a salt. Models with
/// different salts disagree, as a draft and a target do. It implements both the draft's and the target's role.
#[derive(Clone, Copy, Debug)]
pub struct ToyModel {
    /// Size of the vocabulary, at least 2.
    pub vocab: usize,
    /// Chooses the function.
    pub salt: u64,
}

/// A sequence on a toy model.
#[derive(Clone, Debug)]
pub struct ToySession {
    model: ToyModel,
    /// The committed tokens.
    tokens: Vec<TokenId>,
    /// The tree of the step before.
    tree: TokenTree,
    sampling: Sampling,
    draws: Draws,
}

impl ToyModel {
    /// The draft of simulated systems.
    pub const DRAFT: Self = Self { vocab: 8, salt: 2 };
    /// The target of simulated systems.
    pub const TARGET: Self = Self { vocab: 8, salt: 1 };
    /// Tokens that a sequence may have, the prompt included.
    pub const CONTEXT_TOKENS: usize = 96;

    /// Logits after `tokens`, between -2 and 2.
    pub fn logits(&self, tokens: &[TokenId]) -> Vec<f32> {
        let last = |n: usize| tokens.len().checked_sub(n).map_or(u64::MAX, |i| u64::from(tokens[i].0));
        let context = self.salt ^ (last(1) << 40) ^ (last(2) << 20);
        (0..self.vocab as u64).map(|token| pseudo_random_logit(context ^ token)).collect()
    }

    /// The warped distribution after `tokens`.
    pub fn distribution(
        &self,
        tokens: &[TokenId],
        sampling: Sampling,
    ) -> Result<Distribution, GenerateError> {
        sampling.warp(&self.logits(tokens)).map_err(|e| GenerateError::Internal(e.to_string()))
    }

    fn session(self, open: &OpenSession) -> ToySession {
        ToySession {
            model: self,
            tokens: open.prompt.clone(),
            tree: TokenTree::default(),
            sampling: open.sampling,
            draws: Draws::new(open.seed),
        }
    }
}

/// A number between -2 and 2 that looks random: splitmix64's finaliser.
fn pseudo_random_logit(mut x: u64) -> f32 {
    for factor in [0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb] {
        x = (x ^ (x >> 30)).wrapping_mul(factor);
    }
    ((x >> 40) as f32 / (1u64 << 24) as f32) * 4.0 - 2.0
}

impl ToySession {
    /// Drops the last proposal: after this, only a bonus token can be committed.
    pub fn forget_tree(&mut self) {
        self.tree = TokenTree::default();
    }

    fn commit(&mut self, commit: Option<&Accepted>) {
        if let Some(accepted) = commit {
            self.tokens.extend(accepted.path.iter().map(|&n| self.tree.tokens()[n]));
            self.tokens.push(accepted.bonus);
        }
    }

    /// The distribution at a node of `tree`, or at the root.
    fn at(
        &self,
        tree: &TokenTree,
        node: Option<usize>,
        sampling: Sampling,
    ) -> Result<Distribution, GenerateError> {
        let path = node.map_or_else(Vec::new, |n| tree.path(n));
        let mut tokens = self.tokens.clone();
        tokens.extend(path.into_iter().map(|n| tree.tokens()[n]));
        self.model.distribution(&tokens, sampling)
    }

    /// The distributions at the root and at each node.
    fn rows(&self, tree: &TokenTree, sampling: Sampling) -> Result<NodeRows<Distribution>, GenerateError> {
        let nodes = (0..tree.len()).map(|node| self.at(tree, Some(node), sampling));
        Ok(NodeRows::new(self.at(tree, None, sampling)?, nodes.collect::<Result<Vec<_>, _>>()?))
    }

    /// Log-probabilities of the nodes' tokens under the unwarped distribution.
    fn unwarped_nodes(&self, tree: &TokenTree) -> Result<Vec<f64>, GenerateError> {
        tree.parents()
            .iter()
            .zip(tree.tokens())
            .map(|(&parent, &token)| Ok(self.at(tree, parent, Sampling::UNWARPED)?.log_prob(token)))
            .collect()
    }

    /// Log-probabilities, under the unwarped distribution, of the nodes, of the drawn tokens, and of the likeliest ones.
    fn token_log_probs(
        &self,
        tree: &TokenTree,
        warped: &NodeRows<Distribution>,
        drawn: &NodeRows<TokenId>,
        request: ScoreRequest,
    ) -> Result<TokenLogProbs, GenerateError> {
        let unwarped = self.rows(tree, Sampling::UNWARPED)?;
        let offset = |node: Option<usize>, warped: &Distribution| match warped.iter().next() {
            Some((token, log_prob)) => {
                self.sampling.unwarping_offset(unwarped.at(node).log_prob(token), log_prob)
            }
            None => 0.0,
        };
        Ok(TokenLogProbs {
            nodes: self.unwarped_nodes(tree)?,
            drawn: drawn.map(|node, &token| unwarped.at(node).log_prob(token)),
            distribution_offsets: request.distributions.then(|| warped.map(offset)),
            top: match request.top_log_probs {
                0 => None,
                n => Some(unwarped.map(|_, unwarped| likeliest(unwarped, n))),
            },
        })
    }
}

impl Drafter for ToyModel {
    type Session = ToySession;

    async fn open(&self, open: &OpenSession, _: Instant) -> Result<ToySession, GenerateError> {
        Ok(self.session(open))
    }
}

impl DraftSession for ToySession {
    async fn propose(
        &mut self,
        commit: Option<&Accepted>,
        request: &DraftRequest,
    ) -> Result<Option<Proposal>, GenerateError> {
        self.commit(commit);
        let drafting = &request.drafting;
        let mut search = TreeSearch::new(drafting, self.sampling.is_greedy());
        for depth in 0..drafting.depth() {
            let q: Vec<Distribution> = search
                .frontier()
                .iter()
                .map(|&node| self.at(search.tree(), node, self.sampling))
                .collect::<Result<_, _>>()?;
            search.advance(&q, self.draws.uniforms(self.tokens.len(), Purpose::DraftBeams { depth }));
        }
        let mut draft = search.finish();
        if let Drafting::Beams { best_only: true, .. } = drafting {
            draft = draft.best_beam_alone().map(|(_, alone)| alone).unwrap_or_default();
        }
        let log_probs = if request.log_probs { self.unwarped_nodes(&draft.tree)? } else { Vec::new() };
        self.tree = draft.tree.clone();
        Ok(Some(Proposal { draft, log_probs }))
    }
}

impl Scorer for ToyModel {
    type Session = ToySession;
    type OwnDrafter = Self;

    fn own_drafter(&self) -> &Self {
        self
    }

    async fn open(&self, open: &OpenSession, _: Instant) -> Result<ToySession, GenerateError> {
        Ok(self.session(open))
    }
}

impl TargetSession for ToySession {
    async fn score(
        &mut self,
        commit: Option<&Accepted>,
        tree: &TokenTree,
        request: ScoreRequest,
    ) -> Result<Scores, GenerateError> {
        self.commit(commit);
        self.tree = tree.clone();
        let p = self.rows(tree, self.sampling)?;
        let drawn = p.map(|node, p| {
            let depth = node.map_or(0, |node| tree.depth(node));
            self.sampling.pick(p, self.draws.uniform(self.tokens.len() + depth, Purpose::TargetToken))
        });
        let steps: Vec<f64> =
            (0..tree.len()).map(|node| p.at_parent(tree, node).log_prob(tree.tokens()[node])).collect();
        let joint = JointLogProbs::from_steps(tree, &steps);
        let joint = joint.map_err(|e| GenerateError::Internal(e.to_string()))?;
        let log_probs = match request.log_probs {
            true => Some(self.token_log_probs(tree, &p, &drawn, request)?),
            false => None,
        };
        let distributions = request.distributions.then_some(p);
        Ok(Scores { joint, drawn, distributions, log_probs })
    }
}

/// The `n` likeliest tokens, best first.
fn likeliest(p: &Distribution, n: usize) -> TopTokens {
    let mut all: TopTokens = p.iter().collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1));
    all.truncate(n);
    all
}

/// One letter per token: `a` is token 0.
///
/// # Panics
/// If `vocab` is above 26.
pub fn toy_tokenizer(vocab: usize) -> Tokenizer {
    Tokenizer::from_bytes(toy_tokenizer_json(vocab)).unwrap()
}

/// The same as the contents of a `tokenizer.json`.
///
/// # Panics
/// If `vocab` is above 26.
pub fn toy_tokenizer_json(vocab: usize) -> String {
    assert!(vocab <= 26, "one letter per token");
    let entries: Vec<String> =
        ('a'..='z').take(vocab).enumerate().map(|(i, c)| format!("\"{c}\":{i}")).collect();
    format!(r#"{{"model":{{"type":"BPE","vocab":{{{}}},"merges":[]}}}}"#, entries.join(","))
}
