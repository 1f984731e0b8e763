//! Sessions under leases.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use thiserror::Error;
use tokio::time::Instant;

use tandem_serving::{AdmissionControl, AdmissionError, AdmissionLimits, Permit};

/// Ids that are remembered as closed before they were opened.
const MOST_CLOSED_EARLY: usize = 4096;

/// The sessions of one life of a worker. Clones share it.
///
/// Time is tokio's, so tests run on its virtual clock.
pub(crate) struct SessionTable<S> {
    inner: Arc<Inner<S>>,
}

struct Inner<S> {
    /// Drawn at start, so that handles of an earlier life are known as such.
    incarnation: u64,
    lease: Duration,
    admission: AdmissionControl,
    sessions: Mutex<HashMap<u64, Held<S>>>,
    /// Ids that were closed while nobody had them, and until when that counts: their openings may still be on the way.
    closed_early: Mutex<HashMap<u64, Instant>>,
}

struct Held<S> {
    session: Arc<S>,
    expires: Instant,
    _permit: Permit,
}

/// How many sessions, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableLimits {
    /// How long a session lives without a step.
    pub lease: Duration,
    /// Sessions held or being opened.
    pub sessions: usize,
    /// Of one client.
    pub per_client: usize,
}

/// Why there is no session.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub(crate) enum SessionError {
    #[error(transparent)]
    Admission(#[from] AdmissionError),
    #[error("session {id} is here already: draw session ids at random")]
    Exists { id: u64 },
    #[error("session {id} is not here: it was closed, or its lease expired")]
    Unknown { id: u64 },
    #[error(
        "the handle is of incarnation {handle:x}, this worker is {worker:x}: it was restarted, open a new session"
    )]
    StaleIncarnation { handle: u64, worker: u64 },
}

/// A place for one session, taken before anything is allocated for it. Dropping it gives the place back.
pub(crate) struct SessionPermit<S> {
    table: SessionTable<S>,
    permit: Permit,
}

impl<S> Clone for SessionTable<S> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<S> SessionTable<S> {
    /// An empty table of this incarnation, which no life before had.
    pub(crate) fn new(incarnation: u64, limits: TableLimits) -> Self {
        let admission = AdmissionControl::new(AdmissionLimits {
            permits: limits.sessions,
            per_client: limits.per_client,
            // Whoever opens sessions knows other workers to try, or queues by itself.
            queue: 0,
            queue_timeout: Duration::ZERO,
        });
        let sessions = Mutex::default();
        Self {
            inner: Arc::new(Inner {
                incarnation,
                lease: limits.lease,
                admission,
                sessions,
                closed_early: Mutex::default(),
            }),
        }
    }

    /// This life of the worker.
    pub(crate) fn incarnation(&self) -> u64 {
        self.inner.incarnation
    }

    /// How long a session lives without a step.
    pub(crate) fn lease(&self) -> Duration {
        self.inner.lease
    }

    /// The admission of sessions held or being opened.
    pub(crate) fn admission(&self) -> &AdmissionControl {
        &self.inner.admission
    }

    /// Takes a place for a session of `client`.
    pub(crate) fn admit(&self, client: Option<IpAddr>) -> Result<SessionPermit<S>, SessionError> {
        let permit = self.inner.admission.try_acquire(client)?;
        Ok(SessionPermit { table: self.clone(), permit })
    }

    /// The session, its lease renewed.
    pub(crate) fn get(&self, incarnation: u64, id: u64) -> Result<Arc<S>, SessionError> {
        if incarnation != self.inner.incarnation {
            let worker = self.inner.incarnation;
            return Err(SessionError::StaleIncarnation { handle: incarnation, worker });
        }
        let mut sessions = self.lock();
        let held = sessions.get_mut(&id).ok_or(SessionError::Unknown { id })?;
        held.expires = Instant::now() + self.inner.lease;
        Ok(held.session.clone())
    }

    /// Forgets the session and returns it; what it holds is freed when its running step, if any, ends. Incarnation 0 is any: of
    /// a client that never heard which it is.
    pub(crate) fn remove(&self, incarnation: u64, id: u64) -> Option<Arc<S>> {
        if incarnation != self.inner.incarnation && incarnation != 0 {
            return None;
        }
        // Held over both looks, here and where an opening ends.
        let mut closed = self.inner.closed_early.lock().unwrap_or_else(PoisonError::into_inner);
        let removed = self.lock().remove(&id);
        if removed.is_none() {
            // Who has so many openings on the way is not worth the memory: the lease ends what this forgets.
            if closed.len() < MOST_CLOSED_EARLY {
                closed.insert(id, Instant::now() + self.inner.lease);
            }
        }
        removed.map(|held| held.session)
    }

    /// Removes what has expired: how many.
    pub(crate) fn expire(&self) -> usize {
        let now = Instant::now();
        let closed = &self.inner.closed_early;
        closed.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, until| *until > now);
        let expired: Vec<Held<S>> = {
            let mut sessions = self.lock();
            // Whoever else holds the session is running a step of it, and renews the lease afterwards.
            let over = |held: &Held<S>| held.expires <= now && Arc::strong_count(&held.session) == 1;
            let ids: Vec<u64> = sessions.iter().filter(|(_, h)| over(h)).map(|(&id, _)| id).collect();
            ids.iter().filter_map(|id| sessions.remove(id)).collect()
        };
        expired.len()
    }

    /// Removes what expires, for as long as somebody else has the table.
    pub(crate) async fn expire_forever(self) {
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

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Held<S>>> {
        self.inner.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S> SessionPermit<S> {
    /// Puts the session in its place, under `id`; not if its client has closed it already.
    pub(crate) fn fill(self, id: u64, session: S) -> Result<(), SessionError> {
        let mut closed = self.table.inner.closed_early.lock().unwrap_or_else(PoisonError::into_inner);
        if closed.remove(&id).is_some() {
            return Err(SessionError::Unknown { id });
        }
        let expires = Instant::now() + self.table.inner.lease;
        match self.table.lock().entry(id) {
            Entry::Occupied(_) => Err(SessionError::Exists { id }),
            Entry::Vacant(vacant) => {
                vacant.insert(Held { session: Arc::new(session), expires, _permit: self.permit });
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> SessionTable<&'static str> {
        SessionTable::new(7, TableLimits { lease: Duration::from_secs(10), sessions: 2, per_client: 2 })
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_renewed_by_use_and_ends_without() {
        let t = table();
        let id = 5;
        t.admit(None).unwrap().fill(id, "a").unwrap();
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
        assert_eq!(t.admission().in_use(), 0);
    }

    #[tokio::test]
    async fn places_are_counted_from_admission_on() {
        let t = table();
        let (a, b) = (t.admit(None).unwrap(), t.admit(None).unwrap());
        assert_eq!(
            t.admit(None).err(),
            Some(SessionError::Admission(AdmissionError::AtCapacity { permits: 2 }))
        );
        drop(a);
        b.fill(5, "b").unwrap();
        assert_eq!(t.admit(None).unwrap().fill(5, "c"), Err(SessionError::Exists { id: 5 }));
        assert_eq!(t.admission().in_use(), 1);
        assert!(t.remove(t.incarnation(), 5).is_some());
        assert_eq!(t.admission().in_use(), 0);
    }

    /// A close overtakes the opening that it is about.
    #[tokio::test(start_paused = true)]
    async fn what_was_closed_before_it_was_open_is_not_opened() {
        let t = table();
        let opening = t.admit(None).unwrap();
        assert!(t.remove(0, 5).is_none());
        assert_eq!(opening.fill(5, "a"), Err(SessionError::Unknown { id: 5 }));
        assert_eq!(t.admission().in_use(), 0);
        // Only once, and not for ever.
        t.admit(None).unwrap().fill(5, "b").unwrap();
        assert!(t.remove(0, 6).is_none());
        tokio::time::advance(Duration::from_secs(10)).await;
        t.expire();
        t.admit(None).unwrap().fill(6, "c").unwrap();
    }

    #[tokio::test]
    async fn another_incarnation_is_told_apart() {
        let t = table();
        let id = 5;
        t.admit(None).unwrap().fill(id, "a").unwrap();
        let stale = t.incarnation() ^ 1;
        assert!(matches!(t.get(stale, id), Err(SessionError::StaleIncarnation { .. })));
        assert!(t.remove(stale, id).is_none());
        assert_eq!(t.admission().in_use(), 1);
        assert_eq!(t.remove(0, id).as_deref(), Some(&"a"), "who never heard of the incarnation");
        assert_eq!(t.admission().in_use(), 0);
    }
}
