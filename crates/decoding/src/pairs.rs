//! Choosing among all (beam, token) pairs of a depth.

use crate::exp::{exp_of_negative, sum};
use crate::{Distribution, TokenId};

/// All pairs: `beams[b]` is the frontier node of beam `b`, whose joint log-probability is `before` and whose next token has the
/// distribution at the same place. Pairs are numbered beam by beam, tokens ascending; with an unfiltered vocabulary there are many,
/// so they are not written down.
pub(crate) struct Pairs<'a> {
    pub(crate) beams: &'a [usize],
    pub(crate) before: &'a [f64],
    pub(crate) distributions: &'a [Distribution],
}

/// A chosen pair.
#[derive(Clone, Copy)]
pub(crate) struct Pair {
    pub(crate) beam: usize,
    pub(crate) token: TokenId,
    pub(crate) joint: f64,
}

impl Pairs<'_> {
    /// The `width` pairs of the largest joint log-probability, best first; of equal ones, the first.
    pub(crate) fn top(&self, width: usize) -> Vec<Pair> {
        let mut best: Vec<Pair> = Vec::new();
        for (beam, &at) in self.beams.iter().enumerate() {
            let pairs = self.distributions[at].iter();
            let pairs: Vec<Pair> =
                pairs.map(|(token, lp)| Pair { beam, token, joint: self.before[at] + lp }).collect();
            // No beam can place more than `width`.
            best.extend(largest(&pairs, width));
        }
        largest(&best, width)
    }

    /// `width` pairs drawn in proportion to exp(joint), in the order drawn; without replacement fewer if no more are possible.
    pub(crate) fn draw(
        &self,
        width: usize,
        replacement: bool,
        uniforms: impl Iterator<Item = f64>,
    ) -> Vec<Pair> {
        let max = self.beams.iter().map(|&at| self.before[at]).fold(f64::NEG_INFINITY, f64::max);
        let mut weights = Vec::new();
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
            let (distribution, place) = (&self.distributions[at], i - starts[beam]);
            let joint = self.before[at] + distribution.log_probs()[place];
            drawn.push(Pair { beam, token: distribution.tokens()[place], joint });
        }
        drawn
    }
}

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

/// Weights that are drawn from, in chunks whose sums are kept, so that a draw looks at one chunk alone.
struct Urn {
    weights: Vec<f64>,
    sums: Vec<f64>,
}

impl Urn {
    const CHUNK: usize = 64;

    fn new(weights: Vec<f64>) -> Self {
        let sums = weights.chunks(Self::CHUNK).map(sum).collect();
        Self { weights, sums }
    }

    /// The weight at `uniform` of what is left, which is taken out unless with `replacement`. `None` when nothing is left.
    fn draw(&mut self, uniform: f64, replacement: bool) -> Option<usize> {
        let mut left = uniform * sum(&self.sums);
        let chunk = pick(&self.sums, &mut left)?;
        let start = chunk * Self::CHUNK;
        let end = self.weights.len().min(start + Self::CHUNK);
        let i = start + pick(&self.weights[start..end], &mut left)?;
        if !replacement {
            self.weights[i] = 0.0;
            // Summed anew: subtracting would leave rounding errors as large as small weights.
            self.sums[chunk] = sum(&self.weights[start..end]);
        }
        Some(i)
    }
}

/// The first weight that takes `left` below 0, and `left` before it; if rounding left some over, the last positive one.
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
