//! What a row of logits is reduced to where it is computed, so that whole vocabularies stay there.

use crate::distribution::quantile;
use crate::exp::{exp_in_place, log_weights, sum};
use crate::scan::{InvalidLogits, Scan};
use crate::{Distribution, Sampling, TokenId};

/// What is wanted of a row of logits. Everything is optional.
#[derive(Clone, Debug, PartialEq)]
pub struct RowQuery {
    /// How the logits are warped.
    pub sampling: Sampling,
    /// Only token ids below this one are possible.
    pub vocab: usize,
    /// Selects a token of the warped distribution: a draw in `[0, 1)`.
    pub uniform: Option<f64>,
    /// Tokens whose log-probabilities are wanted.
    pub tokens: Vec<TokenId>,
    /// Whether the warped distribution is wanted as a whole.
    pub distribution: bool,
    /// Whether log-probabilities under the unwarped softmax are wanted, and of how many of the likeliest
    /// tokens.
    pub unwarped: Option<usize>,
    /// Whether the logits themselves are wanted, all of them: for tests and measurements.
    pub logits: bool,
}

/// What a row of logits is reduced to. All logarithms are natural.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RowSummary {
    /// The token that [`RowQuery::uniform`] selects; the argmax for greedy decoding.
    pub drawn: Option<TokenId>,
    /// The log-probabilities of [`RowQuery::tokens`] in the warped distribution; −∞ if it is impossible.
    pub log_probs: Vec<f64>,
    /// The warped distribution, if requested.
    pub distribution: Option<Distribution>,
    /// Log-probabilities under the unwarped softmax, if requested.
    pub unwarped: Option<Unwarped>,
    /// `[vocab of the model]`: the logits, if requested.
    pub logits: Option<Vec<f32>>,
}

/// Log-probabilities of a row under the unwarped softmax.
#[derive(Clone, Debug, PartialEq)]
pub struct Unwarped {
    /// That of the drawn token.
    pub drawn: Option<f64>,
    /// Those of [`RowQuery::tokens`].
    pub log_probs: Vec<f64>,
    /// The likeliest tokens, best first; of equally likely ones, the lower id first.
    pub top: Vec<(TokenId, f64)>,
    /// What [`Sampling::unwarp`] needs for the tokens of this row.
    pub offset: f64,
}

impl RowQuery {
    /// Nothing but the logits themselves.
    pub const LOGITS: Self = Self {
        sampling: Sampling::UNWARPED,
        vocab: usize::MAX,
        uniform: None,
        tokens: Vec::new(),
        distribution: false,
        unwarped: None,
        logits: true,
    };

    /// Whether it needs a distribution as long as the vocabulary, which takes 20 bytes per token.
    pub fn is_as_large_as_the_vocabulary(&self) -> bool {
        self.distribution && !self.sampling.filters(self.vocab)
    }

    /// Whether anything but the logits themselves is wanted.
    fn reads_logits(&self) -> bool {
        self.uniform.is_some() || !self.tokens.is_empty() || self.distribution || self.unwarped.is_some()
    }
}

/// Reduces rows one after the other, and keeps its buffer between them.
#[derive(Debug, Default)]
pub struct RowReducer {
    /// `exp` of the warped logits of the whole vocabulary, relative to the largest.
    weights: Vec<f64>,
}

/// The warped distribution of a row.
enum Warped<'a> {
    /// Stored.
    Stored(Distribution),
    /// Without filters: `exp` of the warped logits relative to the largest, and their sum.
    Weights(&'a [f64], f64),
}

impl RowReducer {
    /// Reduces `logits: [vocab of the model]`, f32, not normalised.
    ///
    /// # Errors
    /// If a logit is NaN or +∞, or none is finite.
    pub fn reduce(&mut self, logits: &[f32], query: &RowQuery) -> Result<RowSummary, InvalidLogits> {
        let whole = query.logits.then(|| logits.to_vec());
        if !query.reads_logits() {
            return Ok(RowSummary { logits: whole, ..RowSummary::default() });
        }
        let scan = Scan::new(&logits[..query.vocab.min(logits.len())])?;
        let sampling = &query.sampling;
        let warped = if query.distribution || sampling.filters(scan.logits().len()) {
            Warped::Stored(sampling.warp_scanned(&scan))
        } else {
            let mass = self.exponentials(&scan, sampling.inverse_temperature());
            Warped::Weights(&self.weights, mass)
        };
        let drawn = query.uniform.map(|uniform| warped.pick(&scan, sampling, uniform));
        let log_probs = query.tokens.iter().map(|&token| warped.log_prob(&scan, sampling, token)).collect();
        let largest = warped.largest_log_prob();
        let unwarped_mass = warped.unwarped_mass(sampling);
        let distribution = match warped {
            Warped::Stored(distribution) if query.distribution => Some(distribution),
            _ => None,
        };
        let unwarped = query.unwarped.map(|top| {
            let mass = unwarped_mass.unwrap_or_else(|| self.exponentials(&scan, 1.0));
            let normalizer = f64::from(scan.max()) + mass.ln();
            let log_prob = |logit: f32| f64::from(logit) - normalizer;
            // A token outside the vocabulary that both models have is impossible.
            let of = |token: TokenId| {
                scan.logits().get(token.0 as usize).map_or(f64::NEG_INFINITY, |&logit| log_prob(logit))
            };
            Unwarped {
                drawn: drawn.map(of),
                log_probs: query.tokens.iter().map(|&token| of(token)).collect(),
                top: scan.largest(top).into_iter().map(|(id, x)| (TokenId(id), log_prob(x))).collect(),
                offset: sampling.unwarping_offset(log_prob(scan.max()), largest),
            }
        });
        Ok(RowSummary { drawn, log_probs, distribution, unwarped, logits: whole })
    }

    /// Fills the buffer with `exp((logits - max) * factor)`, and returns the sum.
    fn exponentials(&mut self, scan: &Scan<'_>, factor: f64) -> f64 {
        log_weights(scan.logits(), scan.max(), factor, &mut self.weights);
        exp_in_place(&mut self.weights);
        sum(&self.weights)
    }
}

impl Warped<'_> {
    fn pick(&self, scan: &Scan<'_>, sampling: &Sampling, uniform: f64) -> TokenId {
        let (weights, mass) = match self {
            Self::Stored(distribution) => return sampling.pick(distribution, uniform),
            Self::Weights(weights, mass) => (weights, mass),
        };
        let drawn = if sampling.is_greedy() { None } else { quantile(weights, uniform * mass) };
        let argmax = || scan.logits().iter().position(|&x| x == scan.max());
        // As `Distribution::quantile` does if rounding leaves a gap.
        drawn.or_else(argmax).and_then(|index| u32::try_from(index).ok()).map_or(TokenId(0), TokenId)
    }

    fn log_prob(&self, scan: &Scan<'_>, sampling: &Sampling, token: TokenId) -> f64 {
        match self {
            Self::Stored(distribution) => distribution.log_prob(token),
            Self::Weights(_, mass) => match scan.logits().get(token.0 as usize) {
                Some(&logit) => f64::from(logit - scan.max()) * sampling.inverse_temperature() - mass.ln(),
                None => f64::NEG_INFINITY,
            },
        }
    }

    /// The sum of the unwarped weights, if it is known.
    fn unwarped_mass(&self, sampling: &Sampling) -> Option<f64> {
        match self {
            Self::Weights(_, mass) if sampling.likelihood_temperature() == 1.0 => Some(*mass),
            _ => None,
        }
    }

    /// The log-probability of the likeliest token.
    fn largest_log_prob(&self) -> f64 {
        match self {
            Self::Stored(distribution) => distribution.log_prob(distribution.argmax()),
            Self::Weights(_, mass) => -mass.ln(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn query(sampling: Sampling, vocab: usize) -> RowQuery {
        RowQuery {
            sampling,
            vocab,
            uniform: Some(0.5),
            tokens: (0..vocab as u32 + 2).map(TokenId).collect(),
            distribution: false,
            unwarped: Some(3),
            logits: false,
        }
    }

    #[test]
    fn logits_are_returned_as_they_are() {
        let logits = [0.5, f32::NAN, 3.0];
        let summary = RowReducer::default().reduce(&logits, &RowQuery::LOGITS).unwrap();
        assert_eq!(summary.logits.map(|l| l[2]), Some(3.0));
        assert_eq!((summary.drawn, summary.distribution), (None, None));
        let invalid = RowReducer::default().reduce(&logits, &query(Sampling::UNWARPED, 3));
        assert!(matches!(invalid, Err(InvalidLogits::NotFinite { token: 1, .. })));
        // A token that the other model does not have is not looked at.
        assert!(RowReducer::default().reduce(&logits, &query(Sampling::UNWARPED, 1)).is_ok());
    }

    #[test]
    fn the_top_tokens_are_the_best_in_order() {
        let row = [0.5, 2.0, -1.0, 2.0, 1.0];
        let top = |n| {
            let query = RowQuery { unwarped: Some(n), ..query(Sampling::greedy(), 5) };
            let unwarped = RowReducer::default().reduce(&row, &query).unwrap().unwarped.unwrap();
            unwarped.top.iter().map(|(token, _)| token.0).collect::<Vec<_>>()
        };
        assert_eq!(top(0), [0u32; 0]);
        assert_eq!(top(3), [1, 3, 4]);
        assert_eq!(top(9), [1, 3, 4, 0, 2]);
    }

    proptest! {
        /// Against the stored distribution, and the definition of the softmax.
        #[test]
        fn a_summary_agrees_with_the_distribution(
            logits in proptest::collection::vec(-30f32..30.0, 1..300),
            temperature in prop_oneof![Just(0.0), 0.05f64..5.0],
            top_k in prop_oneof![Just(0usize), 1usize..40], top_p in prop_oneof![Just(0.0), 0.0f64..=1.0],
            uniform in 0.0f64..1.0, hidden in 0usize..3,
        ) {
            let vocab = logits.len().saturating_sub(hidden).max(1);
            let sampling = Sampling::new(temperature, top_k, top_p).unwrap();
            let query = RowQuery { uniform: Some(uniform), ..query(sampling, vocab) };
            let mut reducer = RowReducer::default();
            let summary = reducer.reduce(&logits, &query).unwrap();
            let expected = sampling.warp(&logits[..vocab]).unwrap();
            prop_assert_eq!(summary.drawn, Some(sampling.pick(&expected, uniform)));
            for (token, log_prob) in query.tokens.iter().zip(&summary.log_probs) {
                let expected = expected.log_prob(*token);
                prop_assert!(*log_prob == expected || (log_prob - expected).abs() < 1e-12);
            }
            let unwarped = summary.unwarped.unwrap();
            let max = logits[..vocab].iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let exact: f64 = logits[..vocab].iter().map(|&x| (f64::from(x) - f64::from(max)).exp()).sum();
            let normalizer = f64::from(max) + exact.ln();
            for (&token, &log_prob) in query.tokens.iter().zip(&unwarped.log_probs).take(vocab) {
                prop_assert!((f64::from(logits[token.0 as usize]) - normalizer - log_prob).abs() < 1e-6);
                let warped = expected.log_prob(token);
                if warped > f64::NEG_INFINITY {
                    prop_assert!((sampling.unwarp(warped, unwarped.offset) - log_prob).abs() < 1e-5);
                }
            }
            prop_assert_eq!(unwarped.log_probs[vocab], f64::NEG_INFINITY);
            // Asked for as a whole, it has the same draw.
            let whole = reducer.reduce(&logits, &RowQuery { distribution: true, ..query }).unwrap();
            prop_assert_eq!(whole.distribution, Some(expected));
            prop_assert_eq!(whole.drawn, summary.drawn);
        }
    }
}
