//! How many tokens the KV caches of a service may hold together.

use std::sync::{Arc, Mutex, PoisonError};

use crate::EngineError;

/// A budget of KV-cache tokens. Clones share it.
#[derive(Clone, Debug)]
pub struct KvBudget {
    total: usize,
    used: Arc<Mutex<usize>>,
}

/// Tokens taken from a budget; dropping it gives them back.
#[derive(Debug)]
pub struct Reservation {
    budget: KvBudget,
    tokens: usize,
}

impl KvBudget {
    /// A budget of `total` tokens.
    pub fn new(total: usize) -> Self {
        Self { total, used: Arc::default() }
    }

    /// Takes `tokens`, or says how many are free.
    pub fn reserve(&self, tokens: usize) -> Result<Reservation, EngineError> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let free = self.total - *used;
        if tokens > free {
            return Err(EngineError::BudgetFull { needed: tokens, free, total: self.total });
        }
        *used += tokens;
        drop(used);
        Ok(Reservation { budget: self.clone(), tokens })
    }

    /// The whole budget, in tokens.
    pub fn total(&self) -> usize {
        self.total
    }

    /// Tokens reserved now.
    pub fn used(&self) -> usize {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reservation {
    /// Tokens reserved.
    pub fn tokens(&self) -> usize {
        self.tokens
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        *self.budget.used.lock().unwrap_or_else(PoisonError::into_inner) -= self.tokens;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_gives_and_takes_back() {
        let budget = KvBudget::new(10);
        let a = budget.reserve(7).unwrap();
        assert_eq!(budget.reserve(4).unwrap_err(), EngineError::BudgetFull { needed: 4, free: 3, total: 10 });
        assert_eq!((budget.used(), a.tokens()), (7, 7));
        drop(a);
        assert_eq!(budget.used(), 0);
        assert!(budget.reserve(10).is_ok());
    }
}
