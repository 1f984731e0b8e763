//! How many tokens the KV caches of a service may hold together.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::model::EngineError;

/// A budget of KV-cache tokens. Clones share it.
#[derive(Clone, Debug)]
pub struct KvBudget {
    total: usize,
    used: Arc<Mutex<usize>>,
}

/// Tokens taken from a budget. Dropping the reservation returns them.
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

    /// Reserves `tokens`.
    ///
    /// # Errors
    /// [`EngineError::BudgetFull`] if fewer are free.
    pub fn reserve(&self, tokens: usize) -> Result<Reservation, EngineError> {
        let mut used = self.lock();
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

    /// Tokens that are reserved now.
    pub fn used(&self) -> usize {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, usize> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reservation {
    /// The number of reserved tokens.
    pub fn tokens(&self) -> usize {
        self.tokens
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        *self.budget.lock() -= self.tokens;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropping_a_reservation_returns_its_tokens() {
        let budget = KvBudget::new(10);
        let reservation = budget.reserve(7).unwrap();
        assert_eq!(budget.reserve(4).unwrap_err(), EngineError::BudgetFull { needed: 4, free: 3, total: 10 });
        assert_eq!(budget.used(), 7);
        assert_eq!(reservation.tokens(), 7);
        drop(reservation);
        assert_eq!(budget.used(), 0);
        assert!(budget.reserve(10).is_ok());
    }
}
