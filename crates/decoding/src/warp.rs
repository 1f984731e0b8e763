//! Warping: from logits to the distribution that tokens are drawn from.

use thiserror::Error;

use crate::exp::{exp_in_place, log_weights, sum};
use crate::scan::{InvalidLogits, Scan};
use crate::{Distribution, TokenId};

/// The highest temperature that a request may set.
pub const MAX_TEMPERATURE: f64 = 100.0;
/// The lowest temperature that a request may set, except for 0. Logits divided by a lower one could overflow.
pub const MIN_TEMPERATURE: f64 = 1e-6;

/// Sampling parameters. Logits are warped by temperature, then top-k, then top-p, and renormalised.
///
/// Temperature 0 means greedy decoding: instead of being drawn, tokens are the argmax and beams the best
/// ones. The probabilities by which nodes are accepted degenerate as the temperature approaches 0, so greedy
/// decoding uses those of temperature 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    temperature: f64,
    top_k: usize,
    top_p: f64,
}

/// Why sampling parameters are invalid.
#[derive(Clone, Debug, PartialEq, Error)]
#[allow(missing_docs, reason = "the error messages describe the variants")]
pub enum InvalidSampling {
    #[error("temperature {}", self.predicate())]
    Temperature(f64),
    #[error("top_p {}", self.predicate())]
    TopP(f64),
}

impl InvalidSampling {
    /// The message without the name of the parameter, for APIs that name the field themselves.
    pub fn predicate(&self) -> String {
        match self {
            Self::Temperature(value) => {
                format!(
                    "is {value}: it must be 0 (greedy), or between {MIN_TEMPERATURE} and {MAX_TEMPERATURE}"
                )
            }
            Self::TopP(value) => {
                format!("is {value}: it must be between 0 and 1 (0 and 1 disable the filter)")
            }
        }
    }
}

impl Sampling {
    /// Temperature 1 without filters: the distribution of the model itself.
    pub const UNWARPED: Self = Self { temperature: 1.0, top_k: 0, top_p: 0.0 };

    /// Checks sampling parameters. The temperature is 0 (greedy) or between [`MIN_TEMPERATURE`] and
    /// [`MAX_TEMPERATURE`]. `top_k = 0` disables top-k, and `top_p = 0` or `1` disables top-p.
    ///
    /// # Errors
    /// If the temperature or `top_p` is outside its range.
    pub fn new(temperature: f64, top_k: usize, top_p: f64) -> Result<Self, InvalidSampling> {
        if temperature != 0.0 && !(MIN_TEMPERATURE..=MAX_TEMPERATURE).contains(&temperature) {
            return Err(InvalidSampling::Temperature(temperature));
        }
        if !(0.0..=1.0).contains(&top_p) {
            return Err(InvalidSampling::TopP(top_p));
        }
        Ok(Self { temperature, top_k, top_p })
    }

    /// Temperature 0 without filters: textbook greedy decoding and beam search.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, top_k: 0, top_p: 0.0 }
    }

    /// Whether decoding is greedy: the temperature is 0, and tokens are chosen instead of drawn.
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0
    }

    /// Whether a filter can make distributions smaller than a vocabulary of `vocab` tokens.
    pub fn filters(&self, vocab: usize) -> bool {
        (1..vocab).contains(&self.top_k) || self.has_nucleus()
    }

    /// Whether top-p is enabled.
    fn has_nucleus(&self) -> bool {
        self.top_p > 0.0 && self.top_p < 1.0
    }

    /// The temperature; 0 is greedy.
    pub fn temperature(&self) -> f64 {
        self.temperature
    }

    /// The temperature that probabilities are computed with: 1 for greedy decoding.
    pub fn likelihood_temperature(&self) -> f64 {
        if self.is_greedy() { 1.0 } else { self.temperature }
    }

    /// What [`Self::unwarp`] needs for the tokens of one row, from the two log-probabilities of any token that the filters kept.
    ///
    /// Warping divides logits by the temperature and renormalises over the kept tokens, so within a row
    /// `unwarped = temperature × warped + offset` with one offset for all of them.
    pub fn unwarping_offset(&self, unwarped: f64, warped: f64) -> f64 {
        unwarped - self.likelihood_temperature() * warped
    }

    /// The log-probability under the unwarped softmax of a token whose warped one is `warped`, in a row of this `offset`.
    pub fn unwarp(&self, warped: f64, offset: f64) -> f64 {
        self.likelihood_temperature() * warped + offset
    }

    /// The number of tokens that top-k keeps; 0 disables it.
    pub fn top_k(&self) -> usize {
        self.top_k
    }

    /// The probability mass of top-p; 0 and 1 disable it.
    pub fn top_p(&self) -> f64 {
        self.top_p
    }

    /// The warped distribution of `logits`: `[vocab]`, f32, natural log, not normalised.
    ///
    /// Top-k keeps the k largest logits and all that equal the k-th. Top-p drops a token if the mass of the
    /// more likely tokens already exceeds `top_p`; the most likely token is always kept.
    ///
    /// # Errors
    /// If a logit is NaN or +∞, or none is finite.
    pub fn warp(&self, logits: &[f32]) -> Result<Distribution, InvalidLogits> {
        Ok(self.warp_scanned(&Scan::new(logits)?))
    }

    /// The warped distribution of scanned logits.
    pub(crate) fn warp_scanned(&self, scan: &Scan<'_>) -> Distribution {
        let floor = scan.kth_largest(self.top_k);
        if floor == f32::NEG_INFINITY {
            return if self.has_nucleus() { self.nucleus(scan) } else { self.whole(scan) };
        }
        let kept = self.distribution(scan, scan.at_least(floor));
        if self.has_nucleus() { kept.nucleus(self.top_p) } else { kept }
    }

    /// What a difference of logits is multiplied by.
    pub(crate) fn inverse_temperature(&self) -> f64 {
        1.0 / self.likelihood_temperature()
    }

    /// The distribution of some tokens in ascending order, and their logits.
    fn distribution(&self, scan: &Scan<'_>, kept: impl Iterator<Item = (u32, f32)>) -> Distribution {
        // The largest logit is subtracted before the division, so that a low temperature does not overflow.
        let (max, factor) = (scan.max(), self.inverse_temperature());
        let (tokens, weights) = kept.map(|(id, x)| (TokenId(id), f64::from(x - max) * factor)).unzip();
        Distribution::from_weights(tokens, weights)
    }

    /// The distribution without filters.
    fn whole(&self, scan: &Scan<'_>) -> Distribution {
        let logits = scan.logits();
        if logits.contains(&f32::NEG_INFINITY) {
            return self.distribution(scan, scan.at_least(f32::MIN));
        }
        let tokens = (0u32..).map(TokenId).take(logits.len()).collect();
        let mut weights = Vec::new();
        log_weights(logits, scan.max(), self.inverse_temperature(), &mut weights);
        Distribution::from_weights(tokens, weights)
    }

    /// The distribution with top-p alone. The nucleus of a large vocabulary is usually small: more and more of
    /// the largest logits are sorted until it is complete.
    fn nucleus(&self, scan: &Scan<'_>) -> Distribution {
        let logits = scan.logits();
        let mut weights = Vec::new();
        log_weights(logits, scan.max(), self.inverse_temperature(), &mut weights);
        exp_in_place(&mut weights);
        let scale = 1.0 / sum(&weights);
        let mut count = 256;
        loop {
            let mut largest = scan.largest(count);
            let mut mass = 0.0;
            let exceeds = |&(id, _): &(u32, f32)| {
                let before = mass;
                mass += weights[id as usize] * scale;
                before > self.top_p
            };
            let nucleus = largest.iter().position(exceeds);
            if nucleus.is_some() || count >= logits.len() {
                largest.truncate(nucleus.unwrap_or(largest.len()));
                largest.retain(|&(_, x)| x > f32::NEG_INFINITY);
                largest.sort_unstable_by_key(|&(id, _)| id);
                return self.distribution(scan, largest.into_iter());
            }
            count *= 8;
        }
    }

    /// The token that `uniform`, a draw in `[0, 1)`, selects from `distribution`; the argmax for greedy
    /// decoding.
    pub fn pick(&self, distribution: &Distribution, uniform: f64) -> TokenId {
        if self.is_greedy() { distribution.argmax() } else { distribution.quantile(uniform) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn invalid_parameters_are_rejected() {
        for temperature in [f64::NAN, -1.0, f64::INFINITY, 101.0, 1e-300] {
            assert!(Sampling::new(temperature, 0, 0.0).is_err(), "{temperature}");
        }
        for top_p in [f64::NAN, -0.1, 1.1] {
            assert!(Sampling::new(1.0, 0, top_p).is_err(), "{top_p}");
        }
    }

    #[test]
    fn invalid_logits_are_rejected() {
        let s = Sampling::new(1.0, 10, 0.9).unwrap();
        assert!(s.warp(&[0.0, f32::NAN]).is_err());
        assert!(s.warp(&[0.0, f32::INFINITY]).is_err());
        assert!(s.warp(&[f32::NEG_INFINITY; 3]).is_err());
        assert!(s.warp(&[]).is_err());
    }

    #[test]
    fn the_lowest_temperature_acts_like_greedy_decoding() {
        let d = Sampling::new(MIN_TEMPERATURE, 0, 0.0)
            .unwrap()
            .warp(&[1e30, -1e30, f32::NEG_INFINITY, 3.0])
            .unwrap();
        assert_eq!(
            (d.quantile(0.0), d.quantile(1.0 - 1e-16), d.log_prob(TokenId(0))),
            (TokenId(0), TokenId(0), 0.0)
        );
    }

    #[test]
    fn greedy_decoding_takes_the_lowest_of_equally_likely_tokens() {
        let d = Sampling::greedy().warp(&[0.0, 2.0, 2.0]).unwrap();
        assert_eq!(Sampling::greedy().pick(&d, 0.99), TokenId(1));
    }

    proptest! {
        #[test]
        fn warped_distributions_are_normalised_and_ascending(
            logits in proptest::collection::vec(-40f32..40.0, 1..80),
            temperature in 0.0f64..5.0, top_k in 0usize..90, top_p in 0.0f64..=1.0, u in 0.0f64..1.0,
        ) {
            let s = Sampling::new(temperature, top_k, top_p).unwrap();
            let d = s.warp(&logits).unwrap();
            let mass: f64 = d.iter().map(|(_, lp)| lp.exp()).sum();
            prop_assert!((mass - 1.0).abs() < 1e-9);
            prop_assert!(d.iter().zip(d.iter().skip(1)).all(|(a, b)| a.0 < b.0));
            prop_assert!(d.log_prob(s.pick(&d, u)) > f64::NEG_INFINITY);
        }

        /// The definition, by a sort.
        #[test]
        fn top_p_alone_keeps_the_nucleus(
            logits in proptest::collection::vec((-60i8..60).prop_map(|x| f32::from(x) / 8.0), 1..900),
            top_p in 0.01f64..0.999,
        ) {
            let all = Sampling::new(1.0, 0, 0.0).unwrap().warp(&logits).unwrap();
            let mut sorted: Vec<(TokenId, f64)> = all.iter().collect();
            sorted.sort_by(|a, b| b.1.total_cmp(&a.1));
            let mut mass = 0.0;
            let mut kept: Vec<TokenId> = Vec::new();
            for (token, log_prob) in sorted {
                if mass > top_p {
                    break;
                }
                mass += log_prob.exp();
                kept.push(token);
            }
            kept.sort_unstable();
            let nucleus = Sampling::new(1.0, 0, top_p).unwrap().warp(&logits).unwrap();
            prop_assert_eq!(nucleus.tokens(), kept);
            let unwarped = all.log_prob(nucleus.argmax()) - nucleus.log_prob(nucleus.argmax());
            prop_assert!((unwarped - mass.ln()).abs() < 1e-9);
        }
    }
}
