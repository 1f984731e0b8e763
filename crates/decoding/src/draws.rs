//! Counter-based randomness: every draw is a function of (request seed, absolute position, purpose).

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// The purpose of a draw. Draws of different purposes are independent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Drawing a token from the target's distribution: bonus tokens, exact match, autoregressive decoding.
    TargetToken,
    /// Testing the candidates for this position by rejection sampling, one draw per candidate.
    Acceptance,
    /// Drawing beams or candidates from the draft's distribution at some depth below the root.
    ///
    /// The position is that of the root. If it were that of the drawn token, a tree would reuse draws of a
    /// rejected tree before it, and would not be independent of the rejection.
    DraftBeams {
        /// The depth of the parents of the drawn tokens: 0 for the children of the root.
        depth: usize,
    },
}

/// All randomness of one request.
///
/// It has no state: the draws of a position are always the same, so a step that is retried or replayed draws
/// the same tokens, on any worker. Built on the block counter of ChaCha8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draws {
    seed: u64,
}

impl Draws {
    /// The 32-bit words of a ChaCha stream that belong to one position. A draw takes two of them, so there
    /// are 512 draws per position and purpose (for the draft, per position and depth).
    const WORDS_PER_POSITION: u128 = 1024;

    /// The draws of a request with this seed.
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// Uniform draws in `[0, 1)` for the token at `position`, counted from 0 for the first token of the
    /// prompt. Only the first 512 of them belong to this position alone.
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

    /// The first draw of [`Self::uniforms`].
    pub fn uniform(self, position: usize, purpose: Purpose) -> f64 {
        self.uniforms(position, purpose).next().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_depend_only_on_seed_position_and_purpose() {
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

    /// A different generator would silently change the output of every request with a seed.
    #[test]
    fn draws_of_a_seed_never_change() {
        let d = Draws::new(42);
        let draws = [d.uniform(0, Purpose::TargetToken), d.uniform(100, Purpose::DraftBeams { depth: 0 })];
        assert_eq!(draws.map(|u| (u * 1e6) as u32), [716_791, 248_153]);
    }

    #[test]
    fn draws_are_uniform() {
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
