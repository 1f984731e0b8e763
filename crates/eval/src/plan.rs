//! The order of runs.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// The cells of a round in an order drawn for it: what a run leaves behind (warm caches, a hot processor) falls on all alike.
pub fn order(cells: usize, round: u64) -> Vec<usize> {
    let mut rng = ChaCha8Rng::seed_from_u64(round);
    let mut order: Vec<usize> = (0..cells).collect();
    for last in (1..cells).rev() {
        order.swap(last, (rng.next_u64() % (last as u64 + 1)) as usize);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cell_runs_once_per_round_and_behind_every_other_one_some_time() {
        let mut behind = [[0; 5]; 5];
        for round in 0..500 {
            let order = order(5, round);
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, [0, 1, 2, 3, 4]);
            order.windows(2).for_each(|pair| behind[pair[1]][pair[0]] += 1);
        }
        // 100 times each, in the mean.
        assert!((0..5).all(|a| (0..5).all(|b| a == b || (60..140).contains(&behind[a][b]))), "{behind:?}");
    }
}
