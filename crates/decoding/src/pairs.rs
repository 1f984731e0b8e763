//! The choice among all (beam, token) pairs of a depth.

use crate::exp::{exp_of_negative, sum};
use crate::{Distribution, TokenId};

/// All (beam, token) pairs. They are ordered beam by beam, and by ascending token within a beam.
///
/// The pairs are never stored all at once: without filters there are `B` whole vocabularies of them.
pub(crate) struct Pairs<'a> {
    /// `[beams]`: the frontier node that each beam ends in, as an index into the two slices below.
    pub(crate) beams: &'a [usize],
    /// `[frontier]`: `Q`, natural log.
    pub(crate) before: &'a [f64],
    /// `[frontier]`: `q` of the next token.
    pub(crate) distributions: &'a [Distribution],
}

/// A chosen pair.
#[derive(Clone, Copy)]
pub(crate) struct Pair {
    /// The index of the beam.
    pub(crate) beam: usize,
    /// The token that continues the beam.
    pub(crate) token: TokenId,
    /// `Q` of the beam with the token, natural log.
    pub(crate) joint: f64,
}

impl Pairs<'_> {
    /// The `width` pairs of largest joint log-probability, best first. Ties go to the pair that comes first.
    pub(crate) fn top(&self, width: usize) -> Vec<Pair> {
        let mut best: Vec<Pair> = Vec::new();
        for (beam, &at) in self.beams.iter().enumerate() {
            let pairs: Vec<Pair> = self.distributions[at]
                .iter()
                .map(|(token, log_prob)| Pair { beam, token, joint: self.before[at] + log_prob })
                .collect();
            // At most `width` pairs of one beam can be among the best.
            best.extend(largest(&pairs, width));
        }
        largest(&best, width)
    }

    /// Draws `width` pairs with probability proportional to `exp(joint)` and returns them in the order drawn.
    /// Without replacement there are fewer if fewer pairs are possible.
    pub(crate) fn draw(
        &self,
        width: usize,
        replacement: bool,
        uniforms: impl Iterator<Item = f64>,
    ) -> Vec<Pair> {
        // Relative to the likeliest beam, so that the weights of long paths do not underflow.
        let max = self.beams.iter().map(|&at| self.before[at]).fold(f64::NEG_INFINITY, f64::max);
        let mut weights = Vec::new();
        // The index of the first weight of every beam.
        let mut starts = Vec::with_capacity(self.beams.len());
        for &at in self.beams {
            let scale = exp_of_negative(self.before[at] - max);
            starts.push(weights.len());
            weights.extend(self.distributions[at].probs().iter().map(|p| scale * p));
        }
        let mut urn = Urn::new(weights);
        let mut drawn = Vec::with_capacity(width);
        for uniform in uniforms.take(width) {
            let Some(i) = urn.draw(uniform, replacement) else { break };
            let beam = starts.partition_point(|&start| start <= i) - 1;
            let at = self.beams[beam];
            let distribution = &self.distributions[at];
            let entry = i - starts[beam];
            let joint = self.before[at] + distribution.log_probs()[entry];
            drawn.push(Pair { beam, token: distribution.tokens()[entry], joint });
        }
        drawn
    }
}

/// The `width` pairs of largest joint log-probability, best first. Ties go to the pair that comes first.
fn largest(pairs: &[Pair], width: usize) -> Vec<Pair> {
    let rank = |&a: &usize, &b: &usize| pairs[b].joint.total_cmp(&pairs[a].joint).then(a.cmp(&b));
    let mut order: Vec<usize> = (0..pairs.len()).collect();
    if width < order.len() {
        order.select_nth_unstable_by(width, rank);
        order.truncate(width);
    }
    order.sort_unstable_by(rank);
    order.into_iter().map(|i| pairs[i]).collect()
}

/// Weights to draw from. They are divided into chunks whose sums are kept, so that a draw reads the sums and
/// a single chunk instead of all weights.
struct Urn {
    weights: Vec<f64>,
    /// `[chunks]`
    sums: Vec<f64>,
}

impl Urn {
    const CHUNK: usize = 64;

    fn new(weights: Vec<f64>) -> Self {
        let sums = weights.chunks(Self::CHUNK).map(sum).collect();
        Self { weights, sums }
    }

    /// Draws the index of a weight with probability proportional to the weight, where `uniform` in `[0, 1)`
    /// selects from the cumulative distribution. Without `replacement` the weight is then removed. Returns
    /// `None` when no positive weight is left.
    fn draw(&mut self, uniform: f64, replacement: bool) -> Option<usize> {
        let mut left = uniform * sum(&self.sums);
        let chunk = pick(&self.sums, &mut left)?;
        let start = chunk * Self::CHUNK;
        let end = self.weights.len().min(start + Self::CHUNK);
        let i = start + pick(&self.weights[start..end], &mut left)?;
        if !replacement {
            self.weights[i] = 0.0;
            // Computed from scratch: subtracting would leave rounding errors as large as the small weights.
            self.sums[chunk] = sum(&self.weights[start..end]);
        }
        Some(i)
    }
}

/// The first index at which the cumulative sum of `weights` exceeds `left`; the weights before it are
/// subtracted from `left`. If rounding makes `left` exceed the total, the last positive weight is taken.
/// `None` if none is positive.
fn pick(weights: &[f64], left: &mut f64) -> Option<usize> {
    let mut last = None;
    for (i, &weight) in weights.iter().enumerate().filter(|&(_, &w)| w > 0.0) {
        last = Some(i);
        if *left < weight {
            break;
        }
        *left -= weight;
    }
    last
}
