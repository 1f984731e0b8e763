//! Sessions under leases.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tandem_serving::{AdmissionControl, AdmissionError, AdmissionLimits, Permit};
use thiserror::Error;
use tokio::time::Instant;

/// How many ids are remembered that were closed before they were opened.
const MAX_CLOSED_EARLY: usize = 4096;

/// The sessions of one incarnation of a worker. Clones share them.
///
/// Time is that of tokio, so that tests can run in virtual time.
pub(crate) struct SessionTable<S> {
    inner: Arc<Inner<S>>,
}

struct Inner<S> {
    /// Drawn at random at the start, so that handles of an earlier incarnation are recognised.
    incarnation: u64,
    lease: Duration,
    admission: AdmissionControl,
    sessions: Mutex<HashMap<u64, Held<S>>>,
    /// Ids that were closed before they were opened, and until when they are remembered: the request to open one may still arrive.
    closed_early: Mutex<HashMap<u64, Instant>>,
}

struct Held<S> {
    session: Arc<S>,
    expires: Instant,
    _permit: Permit,
}

/// How many sessions a table holds, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableLimits {
    /// How long a session is kept without a step.
    pub lease: Duration,
    /// Sessions held or being opened.
    pub sessions: usize,
    /// Sessions of one client.
    pub per_client: usize,
}

/// Why a session cannot be opened or found.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum SessionError {
    #[error(transparent)]
    Admission(#[from] AdmissionError),
    #[error("session {id} already exists: draw session ids at random")]
    Exists { id: u64 },
    #[error("session {id} does not exist: it was closed, or its lease expired")]
    Unknown { id: u64 },
    #[error(
        "the handle is from incarnation {handle:x}, and this worker is incarnation {worker:x}: the worker was restarted, so open \
         a new session"
    )]
    StaleIncarnation { handle: u64, worker: u64 },
}

/// Permission to open one session, acquired before anything is allocated for it. Dropping it gives the slot back.
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
    /// An empty table. No earlier run of the worker may have had the same incarnation.
    pub(crate) fn new(incarnation: u64, limits: TableLimits) -> Self {
        let admission = AdmissionControl::new(AdmissionLimits {
            permits: limits.sessions,
            per_client: limits.per_client,
            // Clients know other workers to try, or have queues of their own.
            queue: 0,
            queue_timeout: Duration::ZERO,
        });
        Self {
            inner: Arc::new(Inner {
                incarnation,
                lease: limits.lease,
                admission,
                sessions: Mutex::default(),
                closed_early: Mutex::default(),
            }),
        }
    }

    /// The incarnation of the worker.
    pub(crate) fn incarnation(&self) -> u64 {
        self.inner.incarnation
    }

    /// How long a session is kept without a step.
    pub(crate) fn lease(&self) -> Duration {
        self.inner.lease
    }

    /// The admission of sessions held or being opened.
    pub(crate) fn admission(&self) -> &AdmissionControl {
        &self.inner.admission
    }

    /// Acquires a slot for a session of `client`.
    pub(crate) fn admit(&self, client: Option<IpAddr>) -> Result<SessionPermit<S>, SessionError> {
        let permit = self.inner.admission.try_acquire(client)?;
        Ok(SessionPermit { table: self.clone(), permit })
    }

    /// Finds a session and renews its lease.
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

    /// Removes a session and returns it; what it holds is freed once its running step, if any, has ended. Incarnation 0 matches any:
    /// a client whose opening got no reply does not know the incarnation.
    pub(crate) fn remove(&self, incarnation: u64, id: u64) -> Option<Arc<S>> {
        if incarnation != self.inner.incarnation && incarnation != 0 {
            return None;
        }
        // Locked while both maps are read, as in `SessionPermit::fill`, so that a close is never missed.
        let mut closed = self.inner.closed_early.lock().unwrap_or_else(PoisonError::into_inner);
        let removed = self.lock().remove(&id);
        if removed.is_none() {
            // The memory is bounded: a session that is opened after all is removed once its lease expires.
            if closed.len() < MAX_CLOSED_EARLY {
                closed.insert(id, Instant::now() + self.inner.lease);
            }
        }
        removed.map(|held| held.session)
    }

    /// Removes the sessions whose lease has expired, and returns their number.
    pub(crate) fn expire(&self) -> usize {
        let now = Instant::now();
        let closed = &self.inner.closed_early;
        closed.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, until| *until > now);
        let expired: Vec<Held<S>> = {
            let mut sessions = self.lock();
            let expired = sessions.extract_if(|_, held| held.has_expired(now));
            expired.map(|(_, held)| held).collect()
        };
        // Dropped without the lock: freeing what a session holds may take a while.
        expired.len()
    }

    /// Keeps removing expired sessions until the last other clone of the table is dropped.
    pub(crate) async fn expire_forever(self) {
        let inner = Arc::downgrade(&self.inner);
        let mut ticks = tokio::time::interval((self.inner.lease / 4).max(Duration::from_millis(10)));
        drop(self);
        loop {
            ticks.tick().await;
            let Some(inner) = inner.upgrade() else { return };
            let expired = Self { inner }.expire();
            if expired > 0 {
                tracing::warn!(expired, "the leases of sessions expired");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Held<S>>> {
        self.inner.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S> Held<S> {
    /// A second reference to the session means that a step is running; the lease is renewed when it ends.
    fn has_expired(&self, now: Instant) -> bool {
        self.expires <= now && Arc::strong_count(&self.session) == 1
    }
}

impl<S> SessionPermit<S> {
    /// Adds the session to the table under `id`, unless its client has closed it already.
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
    async fn a_lease_is_renewed_by_use_and_expires_without() {
        let t = table();
        let id = 5;
        t.admit(None).unwrap().fill(id, "a").unwrap();
        for _ in 0..3 {
            tokio::time::advance(Duration::from_secs(9)).await;
            assert_eq!((t.expire(), *t.get(t.incarnation(), id).unwrap()), (0, "a"));
        }
        let running = t.get(t.incarnation(), id).unwrap();
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(t.expire(), 0, "a step is running");
        drop(running);
        assert_eq!(t.expire(), 1);
        assert_eq!(t.get(t.incarnation(), id), Err(SessionError::Unknown { id }));
        assert_eq!(t.admission().in_use(), 0);
    }

    #[tokio::test]
    async fn slots_are_counted_from_admission_on() {
        let t = table();
        let a = t.admit(None).unwrap();
        let b = t.admit(None).unwrap();
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

    /// The request to close a session can overtake the request to open it.
    #[tokio::test(start_paused = true)]
    async fn a_session_closed_before_it_was_opened_is_not_opened() {
        let t = table();
        let opening = t.admit(None).unwrap();
        assert!(t.remove(0, 5).is_none());
        assert_eq!(opening.fill(5, "a"), Err(SessionError::Unknown { id: 5 }));
        assert_eq!(t.admission().in_use(), 0);
        // The id is remembered for one opening, and not forever.
        t.admit(None).unwrap().fill(5, "b").unwrap();
        assert!(t.remove(0, 6).is_none());
        tokio::time::advance(Duration::from_secs(10)).await;
        t.expire();
        t.admit(None).unwrap().fill(6, "c").unwrap();
    }

    #[tokio::test]
    async fn handles_of_another_incarnation_are_refused() {
        let t = table();
        let id = 5;
        t.admit(None).unwrap().fill(id, "a").unwrap();
        let stale = t.incarnation() ^ 1;
        assert!(matches!(t.get(stale, id), Err(SessionError::StaleIncarnation { .. })));
        assert!(t.remove(stale, id).is_none());
        assert_eq!(t.admission().in_use(), 1);
        assert_eq!(
            t.remove(0, id).as_deref(),
            Some(&"a"),
            "from a client that does not know the incarnation"
        );
        assert_eq!(t.admission().in_use(), 0);
    }
}
