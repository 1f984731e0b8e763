//! A warped distribution: what tokens are drawn from and judged by.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use thiserror::Error;

use crate::TokenId;
use crate::exp::{exp_of_negative, sum};

/// A warped distribution: the tokens that are possible, by ascending token, with their log-probabilities (natural log).
///
/// Three lists side by side: with filters off they are whole vocabularies, and the loops over them are vectorised.
#[derive(Clone, Debug, PartialEq)]
pub struct Distribution {
    /// Never empty.
    tokens: Vec<TokenId>,
    log_probs: Vec<f64>,
    probs: Vec<f64>,
}

/// Why numbers are no distribution.
#[derive(Clone, Debug, PartialEq, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum InvalidDistribution {
    #[error("{log_probs} log-probabilities for {tokens} tokens: give one each, and at least one")]
    LengthMismatch { tokens: usize, log_probs: usize },
    #[error("token {after} comes behind token {before}: tokens must ascend")]
    NotAscending { before: TokenId, after: TokenId },
    #[error("the log-probability of token {token} is {value}: it must be finite and at most 0")]
    NotALogProb { token: TokenId, value: f64 },
    #[error("the probabilities sum to {0}, not to 1")]
    NotNormalised(f64),
}

impl Distribution {
    /// How far from 1 the sum of probabilities rounded to f32 may be.
    const SLACK: f64 = 1e-3;

    /// Checks tokens and their log-probabilities, which may be rounded: they are renormalised.
    pub fn new(tokens: Vec<TokenId>, log_probs: Vec<f64>) -> Result<Self, InvalidDistribution> {
        if tokens.is_empty() || tokens.len() != log_probs.len() {
            let (tokens, log_probs) = (tokens.len(), log_probs.len());
            return Err(InvalidDistribution::LengthMismatch { tokens, log_probs });
        }
        if let Some(pair) = tokens.windows(2).find(|pair| pair[0] >= pair[1]) {
            return Err(InvalidDistribution::NotAscending { before: pair[0], after: pair[1] });
        }
        let broken = |lp: &f64| !(lp.is_finite() && *lp <= Self::SLACK);
        if let Some(i) = log_probs.iter().position(broken) {
            return Err(InvalidDistribution::NotALogProb { token: tokens[i], value: log_probs[i] });
        }
        let log_probs: Vec<f64> = log_probs.into_iter().map(|lp| lp.min(0.0)).collect();
        let mass: f64 = log_probs.iter().map(|&lp| exp_of_negative(lp)).sum();
        if (mass - 1.0).abs() > Self::SLACK {
            return Err(InvalidDistribution::NotNormalised(mass));
        }
        Ok(Self::from_weights(tokens, log_probs))
    }

    /// Renormalises logarithms of weights, none above 0 and at least one near it, by ascending token.
    pub(crate) fn from_weights(tokens: Vec<TokenId>, mut log_probs: Vec<f64>) -> Self {
        let mut probs: Vec<f64> = log_probs.iter().map(|&lp| exp_of_negative(lp)).collect();
        let mass = sum(&probs);
        let (log_mass, scale) = (mass.ln(), 1.0 / mass);
        log_probs.iter_mut().for_each(|lp| *lp -= log_mass);
        probs.iter_mut().for_each(|p| *p *= scale);
        Self { tokens, log_probs, probs }
    }

    /// Positive probabilities by ascending token, at least one, that sum to 1 but for rounding.
    pub(crate) fn from_masses(masses: Vec<(TokenId, f64)>) -> Self {
        let (tokens, probs): (Vec<TokenId>, Vec<f64>) = masses.into_iter().unzip();
        let log_probs = probs.iter().map(|p| p.ln()).collect();
        Self { tokens, log_probs, probs }
    }

    /// Log-probability of `token`; −∞ when it was warped out.
    pub fn log_prob(&self, token: TokenId) -> f64 {
        self.tokens.binary_search(&token).map_or(f64::NEG_INFINITY, |i| self.log_probs[i])
    }

    /// The possible tokens, by ascending token, with their log-probabilities.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (TokenId, f64)> {
        self.tokens.iter().copied().zip(self.log_probs.iter().copied())
    }

    /// The possible tokens, ascending.
    pub fn tokens(&self) -> &[TokenId] {
        &self.tokens
    }

    /// Their log-probabilities.
    pub fn log_probs(&self) -> &[f64] {
        &self.log_probs
    }

    /// Their probabilities.
    pub(crate) fn probs(&self) -> &[f64] {
        &self.probs
    }

    /// The most likely token; of equal ones, the lowest.
    pub fn argmax(&self) -> TokenId {
        let better = |best: (TokenId, f64), next: (TokenId, f64)| if next.1 > best.1 { next } else { best };
        self.iter().reduce(better).map_or(TokenId(0), |best| best.0)
    }

    /// The token at `uniform` in `[0, 1)` of the cumulative distribution.
    pub fn quantile(&self, uniform: f64) -> TokenId {
        let mut mass = 0.0;
        for (&token, prob) in self.tokens.iter().zip(&self.probs) {
            mass += prob;
            if uniform < mass {
                return token;
            }
        }
        // The masses sum to 1 up to rounding; the most likely token can best afford a draw in the gap.
        self.argmax()
    }

    /// The smallest set of most likely tokens whose mass exceeds `top_p`.
    pub(crate) fn nucleus(&self, top_p: f64) -> Self {
        // A heap, not a sort: with top-k off the vocabulary is large and the nucleus small.
        let ranked = (0..self.tokens.len()).map(|i| Ranked { log_prob: self.log_probs[i], place: i });
        let mut heap: BinaryHeap<Ranked> = ranked.collect();
        let mut kept = Vec::new();
        let mut mass_before = 0.0;
        while let Some(Ranked { place, .. }) = heap.pop() {
            if mass_before > top_p {
                break;
            }
            mass_before += self.probs[place];
            kept.push(place);
        }
        kept.sort_unstable();
        let log_probs = kept.iter().map(|&i| self.log_probs[i]).collect();
        Self::from_weights(kept.iter().map(|&i| self.tokens[i]).collect(), log_probs)
    }
}

/// Ordered by probability; of equal ones, the lower token is the larger.
struct Ranked {
    log_prob: f64,
    place: usize,
}

impl PartialEq for Ranked {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Ranked {}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> Ordering {
        self.log_prob.total_cmp(&other.log_prob).then(other.place.cmp(&self.place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_distribution_is_refused() {
        let new = |pairs: &[(u32, f64)]| {
            Distribution::new(
                pairs.iter().map(|p| TokenId(p.0)).collect(),
                pairs.iter().map(|p| p.1).collect(),
            )
        };
        let half = 0.5f64.ln();
        assert!((new(&[(1, half), (5, half)]).unwrap().log_prob(TokenId(5)) - half).abs() < 1e-12);
        for broken in [
            &[][..],
            &[(5, half), (1, half)],
            &[(5, half), (5, half)],
            &[(1, f64::NAN)],
            &[(1, 0.5), (2, -9.0)],
            &[(1, half), (2, f64::NEG_INFINITY)],
            &[(1, half)],
        ] {
            assert!(new(broken).is_err(), "{broken:?}");
        }
    }
}
