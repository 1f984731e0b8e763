//! From logits to the distribution that tokens are drawn from and judged by.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use thiserror::Error;

use crate::TokenId;
use crate::exp::exp_of_negative;

/// Highest temperature that a request may ask for.
pub const MAX_TEMPERATURE: f64 = 100.0;
/// Lowest one but 0: below, logits divided by it would overflow.
pub const MIN_TEMPERATURE: f64 = 1e-6;

/// How logits are warped: temperature, then top-k, then top-p, then renormalisation.
///
/// Temperature 0 means greedy: tokens are the argmax and beams the best ones instead of draws. Likelihoods, by which
/// candidates are judged, have no limit as the temperature falls to 0, so there they are those of temperature 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    temperature: f64,
    top_k: usize,
    top_p: f64,
}

/// Why sampling parameters were refused.
#[derive(Clone, Debug, PartialEq, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum InvalidSampling {
    #[error("temperature is {0}: it must be 0 (greedy), or between {MIN_TEMPERATURE} and {MAX_TEMPERATURE}")]
    Temperature(f64),
    #[error("top_p is {0}: it must be between 0 and 1 (0 and 1 switch the filter off)")]
    TopP(f64),
}

/// Why logits have no distribution.
#[derive(Clone, Debug, PartialEq, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum InvalidLogits {
    #[error("the logit of token {token} is {value}: the model's weights or numerics are broken")]
    NotFinite { token: usize, value: f32 },
    #[error("no token has a finite logit: the model's weights or numerics are broken")]
    NothingPossible,
}

impl Sampling {
    /// Temperature 1, filters off: the model's own distribution.
    pub const UNWARPED: Self = Self { temperature: 1.0, top_k: 0, top_p: 0.0 };

    /// `top_k = 0` and `top_p = 0` or `1` switch the filter off.
    pub fn new(temperature: f64, top_k: usize, top_p: f64) -> Result<Self, InvalidSampling> {
        if temperature != 0.0 && !(MIN_TEMPERATURE..=MAX_TEMPERATURE).contains(&temperature) {
            return Err(InvalidSampling::Temperature(temperature));
        }
        if !(0.0..=1.0).contains(&top_p) {
            return Err(InvalidSampling::TopP(top_p));
        }
        Ok(Self { temperature, top_k, top_p })
    }

    /// Temperature 0, filters off: textbook greedy decoding and beam search.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, top_k: 0, top_p: 0.0 }
    }

    /// Whether tokens are chosen, not drawn.
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0
    }

    /// Whether a filter is on, so that distributions are smaller than the vocabulary.
    pub fn is_filtered(&self) -> bool {
        self.top_k > 0 || self.has_nucleus()
    }

    fn has_nucleus(&self) -> bool {
        self.top_p > 0.0 && self.top_p < 1.0
    }

    /// As given; 0 is greedy.
    pub fn temperature(&self) -> f64 {
        self.temperature
    }

    /// The temperature that likelihoods are computed at: 1 when greedy.
    pub fn likelihood_temperature(&self) -> f64 {
        if self.is_greedy() { 1.0 } else { self.temperature }
    }

    /// As given; 0 is off.
    pub fn top_k(&self) -> usize {
        self.top_k
    }

    /// As given; 0 and 1 are off.
    pub fn top_p(&self) -> f64 {
        self.top_p
    }

    /// The warped distribution of `logits: [vocab]` (natural log, not normalised).
    ///
    /// top-k keeps ties with the k-th. top-p drops a token when the mass before it, in descending order, already
    /// exceeds `top_p`; the first is always kept.
    pub fn warp(&self, logits: &[f32]) -> Result<Distribution, InvalidLogits> {
        let mut max = f32::NEG_INFINITY;
        for (token, &value) in logits.iter().enumerate() {
            if value.is_nan() || value == f32::INFINITY {
                return Err(InvalidLogits::NotFinite { token, value });
            }
            max = max.max(value);
        }
        if max == f32::NEG_INFINITY {
            return Err(InvalidLogits::NothingPossible);
        }
        let floor = kth_largest(logits, self.top_k);
        let inverse_temperature = 1.0 / self.likelihood_temperature();
        let mut kept: Vec<Entry> = (0u32..)
            .zip(logits)
            .filter(|&(_, &x)| x >= floor && x > f32::NEG_INFINITY)
            // The largest is subtracted first, so that nothing overflows at a low temperature.
            .map(|(token, &x)| Entry {
                token: TokenId(token),
                log_prob: f64::from(x - max) * inverse_temperature,
                prob: 0.0,
            })
            .collect();
        for entry in &mut kept {
            entry.prob = exp_of_negative(entry.log_prob);
        }
        normalise(&mut kept);
        if self.has_nucleus() {
            kept = nucleus(kept, self.top_p);
            normalise(&mut kept);
        }
        Ok(Distribution { entries: kept })
    }

    /// The token at `uniform` in `[0, 1)` of the distribution; the argmax when greedy.
    pub fn pick(&self, distribution: &Distribution, uniform: f64) -> TokenId {
        if self.is_greedy() { distribution.argmax() } else { distribution.quantile(uniform) }
    }
}

/// A warped distribution: the tokens that are possible, by ascending token, with their log-probabilities (natural log).
#[derive(Clone, Debug, PartialEq)]
pub struct Distribution {
    /// Never empty.
    entries: Vec<Entry>,
}

/// A possible token. The probability is there beside its logarithm because whole vocabularies of both are needed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) token: TokenId,
    pub(crate) log_prob: f64,
    pub(crate) prob: f64,
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

    /// Checks (token, log-probability) pairs, which may be rounded: they are renormalised.
    pub fn new(entries: impl IntoIterator<Item = (TokenId, f64)>) -> Result<Self, InvalidDistribution> {
        let entry =
            |(token, log_prob)| Entry { token, log_prob, prob: exp_of_negative(f64::min(log_prob, 0.0)) };
        let entries = entries.into_iter().map(entry);
        let mut entries: Vec<Entry> = entries.collect();
        if entries.is_empty() {
            return Err(InvalidDistribution::LengthMismatch { tokens: 0, log_probs: 0 });
        }
        for pair in entries.windows(2) {
            let (before, after) = (pair[0].token, pair[1].token);
            if before >= after {
                return Err(InvalidDistribution::NotAscending { before, after });
            }
        }
        let slack = Self::SLACK;
        if let Some(e) = entries.iter().find(|e| !(e.log_prob.is_finite() && e.log_prob <= slack)) {
            return Err(InvalidDistribution::NotALogProb { token: e.token, value: e.log_prob });
        }
        let mass: f64 = entries.iter().map(|e| e.prob).sum();
        if (mass - 1.0).abs() > slack {
            return Err(InvalidDistribution::NotNormalised(mass));
        }
        normalise(&mut entries);
        Ok(Self { entries })
    }

    /// Positive probabilities by ascending token, at least one, that sum to 1 but for rounding.
    pub(crate) fn from_masses(masses: Vec<(TokenId, f64)>) -> Self {
        let entry = |(token, mass): (TokenId, f64)| Entry { token, log_prob: mass.ln(), prob: mass };
        Self { entries: masses.into_iter().map(entry).collect() }
    }

    /// Log-probability of `token`; −∞ when it was warped out.
    pub fn log_prob(&self, token: TokenId) -> f64 {
        self.entries
            .binary_search_by_key(&token, |e| e.token)
            .map_or(f64::NEG_INFINITY, |i| self.entries[i].log_prob)
    }

    /// The possible tokens, by ascending token, with their log-probabilities.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (TokenId, f64)> {
        self.entries.iter().map(|e| (e.token, e.log_prob))
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The most likely token; of equal ones, the lowest.
    pub fn argmax(&self) -> TokenId {
        self.entries.iter().min_by(|a, b| by_rank(a, b)).map_or(TokenId(0), |e| e.token)
    }

    /// The token at `uniform` in `[0, 1)` of the cumulative distribution.
    pub fn quantile(&self, uniform: f64) -> TokenId {
        let mut mass = 0.0;
        for entry in &self.entries {
            mass += entry.prob;
            if uniform < mass {
                return entry.token;
            }
        }
        // The masses sum to 1 up to rounding; the most likely token can best afford a draw in the gap.
        self.argmax()
    }
}

/// `log Σ exp` of `logits`: what a logit loses to become a log-probability under the unwarped softmax.
pub fn log_normalizer(logits: &[f32]) -> f64 {
    let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    if max == f64::NEG_INFINITY {
        return max;
    }
    // Lanes, so that the compiler can use vectors.
    let mut lanes = [0.0; 8];
    for part in logits.chunks(lanes.len()) {
        for (lane, &x) in lanes.iter_mut().zip(part) {
            *lane += exp_of_negative(f64::from(x) - max);
        }
    }
    max + lanes.iter().sum::<f64>().ln()
}

/// Descending probability, then ascending token.
fn by_rank(a: &Entry, b: &Entry) -> Ordering {
    b.log_prob.total_cmp(&a.log_prob).then(a.token.cmp(&b.token))
}

/// The `k`-th largest of `values`; −∞ when `k` is 0 (filter off) or not below their number.
fn kth_largest(values: &[f32], k: usize) -> f32 {
    if k == 0 || k >= values.len() {
        return f32::NEG_INFINITY;
    }
    // A heap of the k largest so far: almost every value costs one comparison, where sorting would touch all.
    let mut heap: BinaryHeap<Reverse<Total>> = values[..k].iter().map(|&v| Reverse(Total(v))).collect();
    let mut least = heap.peek().map_or(f32::NEG_INFINITY, |r| r.0.0);
    for &value in &values[k..] {
        if value > least {
            heap.pop();
            heap.push(Reverse(Total(value)));
            least = heap.peek().map_or(f32::NEG_INFINITY, |r| r.0.0);
        }
    }
    least
}

#[derive(PartialEq)]
struct Total(f32);

impl Eq for Total {}

impl PartialOrd for Total {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Total {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// Makes the probabilities sum to 1.
fn normalise(entries: &mut [Entry]) {
    let mass: f64 = entries.iter().map(|e| e.prob).sum();
    let log_mass = mass.ln();
    for entry in entries {
        entry.log_prob -= log_mass;
        entry.prob /= mass;
    }
}

/// The smallest set of most likely tokens whose mass exceeds `top_p`, by ascending token.
fn nucleus(entries: Vec<Entry>, top_p: f64) -> Vec<Entry> {
    struct Ranked(Entry);
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
            by_rank(&other.0, &self.0)
        }
    }
    // A heap, not a sort: with top-k off the vocabulary is large and the nucleus small.
    let mut heap: BinaryHeap<Ranked> = entries.into_iter().map(Ranked).collect();
    let mut kept = Vec::new();
    let mut mass_before = 0.0;
    while let Some(Ranked(entry)) = heap.pop() {
        if mass_before > top_p {
            break;
        }
        mass_before += entry.prob;
        kept.push(entry);
    }
    kept.sort_unstable_by_key(|e| e.token);
    kept
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nonsense_parameters_are_refused() {
        for t in [f64::NAN, -1.0, f64::INFINITY, 101.0, 1e-300] {
            assert!(Sampling::new(t, 0, 0.0).is_err(), "{t}");
        }
        for p in [f64::NAN, -0.1, 1.1] {
            assert!(Sampling::new(1.0, 0, p).is_err(), "{p}");
        }
    }

    #[test]
    fn broken_logits_are_refused() {
        let s = Sampling::new(1.0, 10, 0.9).unwrap();
        assert!(s.warp(&[0.0, f32::NAN]).is_err());
        assert!(s.warp(&[0.0, f32::INFINITY]).is_err());
        assert!(s.warp(&[f32::NEG_INFINITY; 3]).is_err());
        assert!(s.warp(&[]).is_err());
    }

    #[test]
    fn the_lowest_temperature_is_greedy_in_effect() {
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
    fn greedy_takes_the_lowest_of_equal_maxima() {
        let d = Sampling::greedy().warp(&[0.0, 2.0, 2.0]).unwrap();
        assert_eq!(Sampling::greedy().pick(&d, 0.99), TokenId(1));
    }

    #[test]
    fn what_is_no_distribution_is_refused() {
        let new = |pairs: &[(u32, f64)]| Distribution::new(pairs.iter().map(|&(t, lp)| (TokenId(t), lp)));
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

    #[test]
    fn the_normalizer_makes_logits_log_probabilities() {
        let logits = [1.5f32, -3.0, 0.25];
        let unwarped = Sampling::new(1.0, 0, 0.0).unwrap().warp(&logits).unwrap();
        let lp = f64::from(logits[1]) - log_normalizer(&logits);
        assert!((lp - unwarped.log_prob(TokenId(1))).abs() < 1e-6);
        assert_eq!(log_normalizer(&[f32::NEG_INFINITY, 3.0]), 3.0);
        assert_eq!(log_normalizer(&[]), f64::NEG_INFINITY);
    }

    proptest! {
        #[test]
        fn a_warped_distribution_is_one(
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

        #[test]
        fn the_normalizer_is_exact_enough(logits in proptest::collection::vec(-90f32..90.0, 1..600)) {
            let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let exact: f64 = logits.iter().map(|&x| (f64::from(x) - f64::from(max)).exp()).sum();
            prop_assert!((log_normalizer(&logits) - f64::from(max) - exact.ln()).abs() < 1e-6);
        }

        #[test]
        fn the_kth_largest_is_that_of_a_sort(values in proptest::collection::vec(-3f32..3.0, 1..60), k in 1usize..60) {
            let mut sorted = values.clone();
            sorted.sort_by(|a, b| b.total_cmp(a));
            let expected = if k < values.len() { sorted[k - 1] } else { f32::NEG_INFINITY };
            prop_assert_eq!(kth_largest(&values, k), expected);
        }
    }
}
