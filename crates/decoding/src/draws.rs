//! Counter-based randomness: a draw is a function of (request seed, absolute position, purpose).

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// What a draw is for. Draws of different purposes are independent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Tokens drawn from the target's distribution: the bonus token, exact match, autoregressive decoding.
    TargetToken,
    /// Tests of candidates for this position by rejection sampling, one draw per candidate.
    Acceptance,
    /// Beams, or candidates, drawn from the draft's distribution, this deep under the root. The position is the root's: a tree that was
    /// rejected must not lend its draws to the next one, which would no longer be independent of the rejection.
    DraftBeams {
        /// 0 for the root's children.
        depth: usize,
    },
}

/// All randomness of one request.
///
/// There is no state: whoever asks for the draws of a position gets the same ones, so a retried or replayed step
/// draws the same tokens, on whichever worker it runs. Built on the ChaCha8 block counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draws {
    seed: u64,
}

impl Draws {
    /// Words of the ChaCha stream that one position owns; a uniform takes two, so that a depth has 512 draws.
    const WORDS_PER_POSITION: u128 = 1024;

    /// The draws of the request with this seed.
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// Uniform draws in `[0, 1)` for the token at `position` (0 is the first token of the prompt).
    pub fn uniforms(self, position: usize, purpose: Purpose) -> impl Iterator<Item = f64> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(match purpose {
            Purpose::Acceptance => 0,
            Purpose::TargetToken => 1,
            Purpose::DraftBeams { depth } => 2 + depth as u64,
        });
        rng.set_word_pos(position as u128 * Self::WORDS_PER_POSITION);
        std::iter::repeat_with(move || (rng.next_u64() >> 11) as f64 * (-53f64).exp2())
    }

    /// The first of [`Self::uniforms`].
    pub fn uniform(self, position: usize, purpose: Purpose) -> f64 {
        self.uniforms(position, purpose).next().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draw_depends_on_seed_position_and_purpose_only() {
        let d = Draws::new(7);
        let first: Vec<f64> = d.uniforms(3, Purpose::DraftBeams { depth: 0 }).take(4).collect();
        assert_eq!(
            first,
            Draws::new(7).uniforms(3, Purpose::DraftBeams { depth: 0 }).take(4).collect::<Vec<_>>()
        );
        assert_ne!(first[0], d.uniform(4, Purpose::DraftBeams { depth: 0 }));
        assert_ne!(first[0], d.uniform(3, Purpose::DraftBeams { depth: 1 }));
        assert_ne!(first[0], d.uniform(3, Purpose::TargetToken));
        assert_ne!(d.uniform(3, Purpose::Acceptance), d.uniform(3, Purpose::TargetToken));
        assert_ne!(first[0], Draws::new(8).uniform(3, Purpose::DraftBeams { depth: 0 }));
    }

    /// A changed generator would silently change every seeded answer of every user.
    #[test]
    fn the_stream_is_pinned() {
        let d = Draws::new(42);
        let draws = [d.uniform(0, Purpose::TargetToken), d.uniform(100, Purpose::DraftBeams { depth: 0 })];
        assert_eq!(draws.map(|u| (u * 1e6) as u32), [716_791, 248_153]);
    }

    #[test]
    fn uniforms_are_uniform() {
        let mut bins = [0u32; 10];
        for position in 0..20_000 {
            let u = Draws::new(1).uniform(position, Purpose::TargetToken);
            assert!((0.0..1.0).contains(&u));
            bins[(u * 10.0) as usize] += 1;
        }
        let chi2: f64 = bins.iter().map(|&n| (f64::from(n) - 2000.0).powi(2) / 2000.0).sum();
        assert!(chi2 < 27.9, "chi-square {chi2} at 9 degrees of freedom (p < 0.001)");
    }
}
