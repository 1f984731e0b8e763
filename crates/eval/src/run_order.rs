//! The order in which the cells of an evaluation run.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// Indices `0..cells` in an order that is random but fixed for each `round`.
///
/// A run affects the next one (warm caches, a hot processor). A new order in every round spreads that effect
/// evenly over all cells.
pub fn run_order(cells: usize, round: u64) -> Vec<usize> {
    let mut rng = ChaCha8Rng::seed_from_u64(round);
    let mut order: Vec<usize> = (0..cells).collect();
    order.shuffle(&mut rng);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cell_runs_once_per_round_and_follows_every_other_cell_equally_often() {
        let mut follows = [[0; 5]; 5];
        for round in 0..500 {
            let order = run_order(5, round);
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, [0, 1, 2, 3, 4]);
            order.windows(2).for_each(|pair| follows[pair[1]][pair[0]] += 1);
        }
        // The expected count is 100.
        assert!((0..5).all(|a| (0..5).all(|b| a == b || (60..140).contains(&follows[a][b]))), "{follows:?}");
    }

    #[test]
    fn a_round_always_has_the_same_order() {
        assert_eq!(run_order(20, 7), run_order(20, 7));
        assert_ne!(run_order(20, 7), run_order(20, 8));
    }
}
