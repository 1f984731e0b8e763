//! Warped distributions: tokens are drawn from them, and joint log-probabilities are sums of theirs.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use thiserror::Error;

use crate::TokenId;
use crate::exp::{exp_in_place, exp_of_negative, sum};

/// A warped distribution: the possible tokens in ascending order, with their log-probabilities (natural log).
///
/// Tokens, log-probabilities and probabilities are three parallel lists. Without filters each is as long as
/// the vocabulary, and loops over a list of plain numbers can be vectorised.
#[derive(Clone, Debug, PartialEq)]
pub struct Distribution {
    /// `[possible]`: ascending; never empty.
    tokens: Vec<TokenId>,
    /// `[possible]`: natural log.
    log_probs: Vec<f64>,
    /// `[possible]`
    probs: Vec<f64>,
}

/// Why values are not a distribution.
#[derive(Clone, Debug, PartialEq, Error)]
#[allow(missing_docs, reason = "the error messages describe the variants")]
pub enum InvalidDistribution {
    #[error("{log_probs} log-probabilities for {tokens} tokens: give one per token, for at least one token")]
    LengthMismatch { tokens: usize, log_probs: usize },
    #[error(
        "token {after} comes after token {before}: tokens must be in ascending order, without repetitions"
    )]
    NotAscending { before: TokenId, after: TokenId },
    #[error("the log-probability of token {token} is {value}: it must be finite and at most 0")]
    NotALogProb { token: TokenId, value: f64 },
    #[error("the probabilities sum to {0} instead of 1")]
    NotNormalised(f64),
}

impl Distribution {
    /// The tolerance for log-probabilities that were rounded to f32: how far the sum of probabilities may be
    /// from 1.
    const SLACK: f64 = 1e-3;

    /// Checks tokens in ascending order and their log-probabilities (natural log). These may have been
    /// rounded to f32: they are renormalised.
    ///
    /// # Errors
    /// If there is no token or not one log-probability per token, the tokens are not ascending, a value is
    /// positive or not finite, or the probabilities do not sum to 1 within 0.001.
    pub fn new(tokens: Vec<TokenId>, log_probs: Vec<f64>) -> Result<Self, InvalidDistribution> {
        if tokens.is_empty() || tokens.len() != log_probs.len() {
            return Err(InvalidDistribution::LengthMismatch {
                tokens: tokens.len(),
                log_probs: log_probs.len(),
            });
        }
        if let Some(pair) = tokens.windows(2).find(|pair| pair[0] >= pair[1]) {
            return Err(InvalidDistribution::NotAscending { before: pair[0], after: pair[1] });
        }
        if let Some(i) = log_probs.iter().position(|lp| !(lp.is_finite() && *lp <= Self::SLACK)) {
            return Err(InvalidDistribution::NotALogProb { token: tokens[i], value: log_probs[i] });
        }
        let log_probs: Vec<f64> = log_probs.into_iter().map(|lp| lp.min(0.0)).collect();
        let mass: f64 = log_probs.iter().map(|&lp| exp_of_negative(lp)).sum();
        if (mass - 1.0).abs() > Self::SLACK {
            return Err(InvalidDistribution::NotNormalised(mass));
        }
        Ok(Self::from_weights(tokens, log_probs))
    }

    /// Normalises weights, given as natural logarithms by ascending token. No logarithm may be above 0, and
    /// the largest must be near 0.
    pub(crate) fn from_weights(tokens: Vec<TokenId>, mut log_probs: Vec<f64>) -> Self {
        let mut probs = log_probs.clone();
        exp_in_place(&mut probs);
        let mass = sum(&probs);
        let log_mass = mass.ln();
        let scale = 1.0 / mass;
        log_probs.iter_mut().for_each(|lp| *lp -= log_mass);
        probs.iter_mut().for_each(|p| *p *= scale);
        Self { tokens, log_probs, probs }
    }

    /// Takes probabilities by ascending token: at least one, all positive, with a sum of 1 up to rounding.
    pub(crate) fn from_masses(masses: Vec<(TokenId, f64)>) -> Self {
        let (tokens, probs): (Vec<TokenId>, Vec<f64>) = masses.into_iter().unzip();
        let log_probs = probs.iter().map(|p| p.ln()).collect();
        Self { tokens, log_probs, probs }
    }

    /// The log-probability (natural log) of `token`; −∞ if it was warped out.
    pub fn log_prob(&self, token: TokenId) -> f64 {
        self.tokens.binary_search(&token).map_or(f64::NEG_INFINITY, |i| self.log_probs[i])
    }

    /// The possible tokens in ascending order, with their log-probabilities (natural log).
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (TokenId, f64)> {
        self.tokens.iter().copied().zip(self.log_probs.iter().copied())
    }

    /// `[possible]`: the possible tokens, ascending.
    pub fn tokens(&self) -> &[TokenId] {
        &self.tokens
    }

    /// `[possible]`: the log-probabilities (natural log) of [`Self::tokens`].
    pub fn log_probs(&self) -> &[f64] {
        &self.log_probs
    }

    /// `[possible]`: the probabilities of [`Self::tokens`].
    pub(crate) fn probs(&self) -> &[f64] {
        &self.probs
    }

    /// The most likely token, and of several equally likely ones the lowest.
    pub fn argmax(&self) -> TokenId {
        self.iter()
            .reduce(|best, next| if next.1 > best.1 { next } else { best })
            .map_or(TokenId(0), |(token, _)| token)
    }

    /// The token at which the cumulative distribution exceeds `uniform`, a draw in `[0, 1)`.
    pub fn quantile(&self, uniform: f64) -> TokenId {
        // Rounding may leave the sum below 1. A draw from this gap changes the most likely token's
        // probability least.
        quantile(&self.probs, uniform).map_or_else(|| self.argmax(), |index| self.tokens[index])
    }

    /// The nucleus: the smallest set of most likely tokens whose probabilities sum to more than `top_p`,
    /// renormalised.
    pub(crate) fn nucleus(&self, top_p: f64) -> Self {
        // A heap instead of a sort: the nucleus is usually small.
        let mut heap: BinaryHeap<Ranked> =
            (0..self.tokens.len()).map(|i| Ranked { log_prob: self.log_probs[i], index: i }).collect();
        let mut kept = Vec::new();
        let mut mass_before = 0.0;
        while let Some(Ranked { index, .. }) = heap.pop() {
            if mass_before > top_p {
                break;
            }
            mass_before += self.probs[index];
            kept.push(index);
        }
        kept.sort_unstable();
        let tokens = kept.iter().map(|&i| self.tokens[i]).collect();
        let log_probs = kept.iter().map(|&i| self.log_probs[i]).collect();
        Self::from_weights(tokens, log_probs)
    }
}

/// The index at which the cumulative sum of `weights` exceeds `left`; `None` if the sum of all does not.
pub(crate) fn quantile(weights: &[f64], mut left: f64) -> Option<usize> {
    /// A whole chunk is passed over by its sum.
    const CHUNK: usize = 64;
    for (chunk, weights) in weights.chunks(CHUNK).enumerate() {
        let mass = sum(weights);
        if left < mass {
            for (i, weight) in weights.iter().enumerate() {
                if left < *weight {
                    return Some(chunk * CHUNK + i);
                }
                left -= weight;
            }
            // Rounding: the sum exceeds what the weights of the chunk add up to one by one.
            left = 0.0;
        } else {
            left -= mass;
        }
    }
    None
}

/// An entry of a distribution, ordered by probability. Of several equally likely entries, the one of the
/// lower token is the greater.
struct Ranked {
    log_prob: f64,
    index: usize,
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
        self.log_prob.total_cmp(&other.log_prob).then(other.index.cmp(&self.index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_distributions_are_rejected() {
        let new = |pairs: &[(u32, f64)]| {
            Distribution::new(
                pairs.iter().map(|p| TokenId(p.0)).collect(),
                pairs.iter().map(|p| p.1).collect(),
            )
        };
        let half = 0.5f64.ln();
        assert!((new(&[(1, half), (5, half)]).unwrap().log_prob(TokenId(5)) - half).abs() < 1e-12);
        for invalid in [
            &[][..],
            &[(5, half), (1, half)],
            &[(5, half), (5, half)],
            &[(1, f64::NAN)],
            &[(1, 0.5), (2, -9.0)],
            &[(1, half), (2, f64::NEG_INFINITY)],
            &[(1, half)],
        ] {
            assert!(new(invalid).is_err(), "{invalid:?}");
        }
    }
}
