//! Sessions under leases.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use thiserror::Error;
use tokio::time::Instant;

/// The sessions of one life of a worker. Clones share it.
///
/// Time is tokio's, so tests run on its virtual clock.
pub struct SessionTable<S> {
    inner: Arc<Inner<S>>,
}

struct Inner<S> {
    /// Drawn at start, so that handles of an earlier life are known as such.
    incarnation: u64,
    lease: Duration,
    limit: usize,
    state: Mutex<State<S>>,
}

struct State<S> {
    next_id: u64,
    /// Admitted, but not in `sessions` yet.
    opening: usize,
    sessions: HashMap<u64, Held<S>>,
}

struct Held<S> {
    session: Arc<S>,
    expires: Instant,
}

/// Why there is no session.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum SessionError {
    #[error("this worker holds {limit} sessions, its limit: try again later or use another worker")]
    Full { limit: usize },
    #[error("session {id} is not here: it was closed, or its lease expired")]
    Unknown { id: u64 },
    #[error(
        "the handle is of incarnation {handle:x}, this worker is {worker:x}: it was restarted, open a new session"
    )]
    StaleIncarnation { handle: u64, worker: u64 },
}

/// A place for one session, taken before anything is allocated for it. Dropping it gives the place back.
pub struct Admission<S> {
    table: SessionTable<S>,
}

impl<S> Clone for SessionTable<S> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<S> SessionTable<S> {
    /// An empty table of a new incarnation.
    pub fn new(lease: Duration, limit: usize) -> Self {
        let state = State { next_id: 1, opening: 0, sessions: HashMap::new() };
        let inner = Inner { incarnation: rand::random(), lease, limit, state: Mutex::new(state) };
        Self { inner: Arc::new(inner) }
    }

    /// This life of the worker.
    pub fn incarnation(&self) -> u64 {
        self.inner.incarnation
    }

    /// How long a session lives without a step.
    pub fn lease(&self) -> Duration {
        self.inner.lease
    }

    /// Sessions held or being opened.
    pub fn len(&self) -> usize {
        let state = self.lock();
        state.sessions.len() + state.opening
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes a place.
    pub fn admit(&self) -> Result<Admission<S>, SessionError> {
        let mut state = self.lock();
        if state.sessions.len() + state.opening >= self.inner.limit {
            return Err(SessionError::Full { limit: self.inner.limit });
        }
        state.opening += 1;
        Ok(Admission { table: self.clone() })
    }

    /// The session, its lease renewed.
    pub fn get(&self, incarnation: u64, id: u64) -> Result<Arc<S>, SessionError> {
        if incarnation != self.inner.incarnation {
            let worker = self.inner.incarnation;
            return Err(SessionError::StaleIncarnation { handle: incarnation, worker });
        }
        let mut state = self.lock();
        let held = state.sessions.get_mut(&id).ok_or(SessionError::Unknown { id })?;
        held.expires = Instant::now() + self.inner.lease;
        Ok(held.session.clone())
    }

    /// Forgets the session; what it holds is freed when its running step, if any, ends.
    pub fn remove(&self, incarnation: u64, id: u64) {
        if incarnation == self.inner.incarnation {
            let removed = self.lock().sessions.remove(&id);
            // Outside the lock: freeing may take a while.
            drop(removed);
        }
    }

    /// Removes what has expired: how many.
    pub fn expire(&self) -> usize {
        let now = Instant::now();
        let expired: Vec<Held<S>> = {
            let mut state = self.lock();
            // Whoever else holds the session is running a step of it, and renews the lease afterwards.
            let over = |held: &Held<S>| held.expires <= now && Arc::strong_count(&held.session) == 1;
            let ids: Vec<u64> = state.sessions.iter().filter(|(_, h)| over(h)).map(|(&id, _)| id).collect();
            ids.iter().filter_map(|id| state.sessions.remove(id)).collect()
        };
        expired.len()
    }

    /// Removes what expires, for as long as somebody else has the table.
    pub async fn expire_forever(self) {
        let inner = Arc::downgrade(&self.inner);
        let mut ticks = tokio::time::interval((self.inner.lease / 4).max(Duration::from_millis(10)));
        drop(self);
        loop {
            ticks.tick().await;
            let Some(inner) = inner.upgrade() else { return };
            let expired = Self { inner }.expire();
            if expired > 0 {
                tracing::warn!(expired, "sessions ended by their lease");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<S>> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S> Admission<S> {
    /// Puts the session in its place: its id.
    pub fn fill(self, session: S) -> u64 {
        let expires = Instant::now() + self.table.inner.lease;
        let mut state = self.table.lock();
        let id = state.next_id;
        state.next_id += 1;
        state.sessions.insert(id, Held { session: Arc::new(session), expires });
        id
        // Dropping self counts the opening off.
    }
}

impl<S> Drop for Admission<S> {
    fn drop(&mut self) {
        self.table.lock().opening -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> SessionTable<&'static str> {
        SessionTable::new(Duration::from_secs(10), 2)
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_renewed_by_use_and_ends_without() {
        let t = table();
        let id = t.admit().unwrap().fill("a");
        for _ in 0..3 {
            tokio::time::advance(Duration::from_secs(9)).await;
            assert_eq!((t.expire(), *t.get(t.incarnation(), id).unwrap()), (0, "a"));
        }
        let running = t.get(t.incarnation(), id).unwrap();
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(t.expire(), 0, "a step runs");
        drop(running);
        assert_eq!(t.expire(), 1);
        assert_eq!(t.get(t.incarnation(), id), Err(SessionError::Unknown { id }));
        assert!(t.is_empty());
    }

    #[tokio::test]
    async fn places_are_counted_from_admission_on() {
        let t = table();
        let (a, b) = (t.admit().unwrap(), t.admit().unwrap());
        assert_eq!(t.admit().err(), Some(SessionError::Full { limit: 2 }));
        drop(a);
        let id = b.fill("b");
        assert_eq!(t.len(), 1);
        t.remove(t.incarnation(), id);
        assert!(t.is_empty());
    }

    #[tokio::test]
    async fn another_incarnation_is_told_apart() {
        let t = table();
        let id = t.admit().unwrap().fill("a");
        let stale = t.incarnation() ^ 1;
        assert!(matches!(t.get(stale, id), Err(SessionError::StaleIncarnation { .. })));
        t.remove(stale, id);
        assert_eq!(t.len(), 1);
    }
}
