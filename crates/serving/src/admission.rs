//! Admission control: a bounded number of permits, of which one client may hold a bounded part, and a bounded queue.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// The bounds of an [`AdmissionControl`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdmissionLimits {
    /// Permits in use at once.
    pub permits: usize,
    /// Permits of one client, in use or waited for.
    pub per_client: usize,
    /// Permits that may be waited for at once.
    pub queue: usize,
    /// How long a request may wait in the queue.
    pub queue_timeout: Duration,
}

/// Why a request was not admitted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum AdmissionError {
    #[error("all {permits} slots are in use: try again later, or on another server")]
    AtCapacity { permits: usize },
    #[error(
        "all {permits} slots are in use and the queue of {queue} is full: try again later, or on another server"
    )]
    QueueFull { permits: usize, queue: usize },
    #[error(
        "none of the {permits} slots became free within {} ms: try again later, or on another server",
        timeout.as_millis()
    )]
    QueueTimeout { permits: usize, timeout: Duration },
    #[error(
        "client {client} already uses {limit} slots, the limit per client: wait until one of its requests ends"
    )]
    ClientLimit { client: IpAddr, limit: usize },
    #[error("{requested} slots were requested at once, and there are only {permits}: request fewer choices")]
    TooMany { permits: usize, requested: u32 },
    #[error("this process is shutting down: use another")]
    Closed,
}

/// Admits requests up to the [`AdmissionLimits`]. Clones share the permits.
#[derive(Clone)]
pub struct AdmissionControl {
    inner: Arc<Inner>,
}

struct Inner {
    limits: AdmissionLimits,
    free: Arc<Semaphore>,
    state: Mutex<State>,
    /// Notified when a claim ends.
    released: Notify,
}

#[derive(Default)]
struct State {
    /// Permits held or waited for, by client.
    clients: HashMap<IpAddr, usize>,
    /// Permits held or waited for.
    claimed: usize,
    /// Permits waited for.
    queued: usize,
}

/// One or several permits. Dropping it gives them back.
pub struct Permit {
    // Fields are dropped in order: once the last claim is gone, all permits are free.
    permit: OwnedSemaphorePermit,
    claim: Claim,
}

impl Permit {
    /// Splits permits that were acquired together into single ones.
    pub fn split(mut self) -> Vec<Self> {
        let mut all = Vec::new();
        while self.claim.n > 1
            && let Some(permit) = self.permit.split(1)
        {
            self.claim.n -= 1;
            let claim = Claim { control: self.claim.control.clone(), client: self.claim.client, n: 1 };
            all.push(Self { permit, claim });
        }
        all.push(self);
        all
    }
}

/// Counts permits as held or waited for, until it is dropped.
struct Claim {
    control: AdmissionControl,
    client: Option<IpAddr>,
    n: usize,
}

impl AdmissionControl {
    /// An admission control with all permits free.
    pub fn new(limits: AdmissionLimits) -> Self {
        let permits = limits.permits.min(Semaphore::MAX_PERMITS);
        let inner = Inner {
            limits,
            free: Arc::new(Semaphore::new(permits)),
            state: Mutex::default(),
            released: Notify::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Acquires a permit if one is free now.
    pub fn try_acquire(&self, client: Option<IpAddr>) -> Result<Permit, AdmissionError> {
        self.try_acquire_many(client, 1)
    }

    fn try_acquire_many(&self, client: Option<IpAddr>, n: u32) -> Result<Permit, AdmissionError> {
        let claim = self.claim(client, n)?;
        match self.inner.free.clone().try_acquire_many_owned(n) {
            Ok(permit) => Ok(Permit { permit, claim }),
            Err(_) if self.is_closed() => Err(AdmissionError::Closed),
            Err(_) => Err(AdmissionError::AtCapacity { permits: self.inner.limits.permits }),
        }
    }

    /// Acquires `n` permits together. Waits for them in the queue, first come, first served, if it has room.
    pub async fn acquire(&self, client: Option<IpAddr>, n: u32) -> Result<Permit, AdmissionError> {
        let AdmissionLimits { permits, queue_timeout: timeout, .. } = self.inner.limits;
        if n as usize > permits {
            return Err(AdmissionError::TooMany { permits, requested: n });
        }
        let claim = match self.try_acquire_many(client, n) {
            Err(AdmissionError::AtCapacity { .. }) => self.claim(client, n)?,
            done => return done,
        };
        let _queued = self.enqueue(claim.n)?;
        match tokio::time::timeout(timeout, self.inner.free.clone().acquire_many_owned(n)).await {
            Ok(Ok(permit)) => Ok(Permit { permit, claim }),
            Ok(Err(_)) => Err(AdmissionError::Closed),
            Err(_) => Err(AdmissionError::QueueTimeout { permits, timeout }),
        }
    }

    /// Refuses all requests from now on, queued ones too; permits in use stay valid.
    pub fn close(&self) {
        self.inner.free.close();
    }

    /// Whether [`Self::close`] was called.
    pub fn is_closed(&self) -> bool {
        self.inner.free.is_closed()
    }

    /// Permits in use.
    pub fn in_use(&self) -> usize {
        let state = self.lock();
        state.claimed - state.queued
    }

    /// Permits waited for.
    pub fn queued(&self) -> usize {
        self.lock().queued
    }

    /// Returns once no permit is in use or waited for.
    pub async fn idle(&self) {
        loop {
            let released = self.inner.released.notified();
            if self.lock().claimed == 0 {
                return;
            }
            released.await;
        }
    }

    fn claim(&self, client: Option<IpAddr>, n: u32) -> Result<Claim, AdmissionError> {
        let n = n as usize;
        if self.is_closed() {
            return Err(AdmissionError::Closed);
        }
        let mut state = self.lock();
        if let Some(client) = client {
            let limit = self.inner.limits.per_client;
            if state.clients.get(&client).copied().unwrap_or(0).saturating_add(n) > limit {
                return Err(AdmissionError::ClientLimit { client, limit });
            }
            *state.clients.entry(client).or_default() += n;
        }
        state.claimed += n;
        Ok(Claim { control: self.clone(), client, n })
    }

    fn enqueue(&self, n: usize) -> Result<Queued<'_>, AdmissionError> {
        let AdmissionLimits { permits, queue, .. } = self.inner.limits;
        let mut state = self.lock();
        if state.queued + n > queue {
            return Err(AdmissionError::QueueFull { permits, queue });
        }
        state.queued += n;
        Ok(Queued { control: self, n })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts permits as waited for, until it is dropped.
struct Queued<'a> {
    control: &'a AdmissionControl,
    n: usize,
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.control.lock().queued -= self.n;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut state = self.control.lock();
        state.claimed -= self.n;
        if let Some(client) = self.client
            && let Some(count) = state.clients.get_mut(&client)
        {
            *count -= self.n;
            if *count == 0 {
                state.clients.remove(&client);
            }
        }
        drop(state);
        self.control.inner.released.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)));
    const BOB: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2)));

    fn control(queue: usize) -> AdmissionControl {
        AdmissionControl::new(AdmissionLimits {
            permits: 3,
            per_client: 2,
            queue,
            queue_timeout: Duration::from_secs(5),
        })
    }

    #[tokio::test]
    async fn permits_are_bounded_in_total_and_per_client() {
        let p = control(0);
        let a = p.try_acquire(ALICE).unwrap();
        let b = p.try_acquire(ALICE).unwrap();
        let refused = p.try_acquire(ALICE).err().unwrap();
        assert_eq!(refused, AdmissionError::ClientLimit { client: ALICE.unwrap(), limit: 2 });
        let c = p.try_acquire(BOB).unwrap();
        assert_eq!(p.try_acquire(None).err(), Some(AdmissionError::AtCapacity { permits: 3 }));
        assert_eq!(p.acquire(BOB, 1).await.err(), Some(AdmissionError::QueueFull { permits: 3, queue: 0 }));
        drop(a);
        assert_eq!(p.in_use(), 2);
        let d = p.try_acquire(ALICE).unwrap();
        drop((b, c, d));
        assert_eq!((p.in_use(), p.queued(), p.lock().clients.len()), (0, 0, 0));
    }

    #[tokio::test]
    async fn permits_acquired_together_are_given_back_one_by_one() {
        let p = control(0);
        let mut two = p.acquire(ALICE, 2).await.unwrap().split();
        assert_eq!((two.len(), p.in_use()), (2, 2));
        assert!(p.try_acquire(ALICE).is_err());
        two.pop();
        assert_eq!(p.in_use(), 1);
        let third = p.acquire(BOB, 2).await.unwrap();
        drop((two, third));
        assert_eq!((p.in_use(), p.lock().clients.len()), (0, 0));
        assert_eq!(p.acquire(BOB, 4).await.err(), Some(AdmissionError::TooMany { permits: 3, requested: 4 }));
    }

    #[tokio::test(start_paused = true)]
    async fn a_queued_request_gets_a_permit_in_order_or_an_error_in_time() {
        let p = control(2);
        let held: Vec<_> = (0..3).map(|_| p.try_acquire(None).unwrap()).collect();
        let queued = |p: &AdmissionControl| {
            let p = p.clone();
            tokio::spawn(async move { p.acquire(None, 1).await })
        };
        let first = queued(&p);
        let second = queued(&p);
        tokio::task::yield_now().await;
        assert_eq!((p.in_use(), p.queued()), (3, 2));
        assert_eq!(p.acquire(None, 1).await.err(), Some(AdmissionError::QueueFull { permits: 3, queue: 2 }));
        let mut held = held;
        held.pop();
        let held = first.await.unwrap().unwrap();
        let timeout = Duration::from_secs(5);
        assert_eq!(second.await.unwrap().err(), Some(AdmissionError::QueueTimeout { permits: 3, timeout }));
        assert_eq!((p.in_use(), p.queued()), (3, 0));
        drop(held);
    }

    #[tokio::test(start_paused = true)]
    async fn closing_refuses_queued_requests_and_idle_waits_for_running_ones() {
        let p = control(2);
        let mut held: Vec<_> = (0..3).map(|_| p.try_acquire(None).unwrap()).collect();
        let waiting = tokio::spawn({
            let p = p.clone();
            async move { p.acquire(None, 1).await.err() }
        });
        tokio::task::yield_now().await;
        p.close();
        assert_eq!(waiting.await.unwrap(), Some(AdmissionError::Closed));
        assert_eq!(p.try_acquire(None).err(), Some(AdmissionError::Closed));
        let idle = tokio::spawn({
            let p = p.clone();
            async move { p.idle().await }
        });
        for _ in 0..3 {
            tokio::task::yield_now().await;
            assert!(!idle.is_finished());
            held.pop();
        }
        idle.await.unwrap();
    }
}
