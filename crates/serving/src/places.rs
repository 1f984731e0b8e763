//! A bounded number of places, of which one client may take a bounded part, and a bounded queue for them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// How many, for whom, and who may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlaceLimits {
    /// Places.
    pub total: usize,
    /// Places, taken or waited for, of one client.
    pub per_client: usize,
    /// Guests that may wait.
    pub waiting: usize,
    /// How long they may.
    pub patience: Duration,
}

/// Why there is no place.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum NoPlace {
    #[error("all {total} places are taken: try again later, or elsewhere")]
    Taken { total: usize },
    #[error(
        "all {total} places are taken and {waiting} requests wait for one: try again later, or elsewhere"
    )]
    QueueFull { total: usize, waiting: usize },
    #[error("none of {total} places became free within {} ms: try again later, or elsewhere", patience.as_millis())]
    Waited { total: usize, patience: Duration },
    #[error("client {client} has {limit} places, the most that one client may have: end some first")]
    PerClient { client: IpAddr, limit: usize },
    #[error("{asked} places were asked for at once, and there are {total}: ask for fewer texts at once")]
    TooMany { total: usize, asked: u32 },
    #[error("this process is shutting down: use another")]
    Closed,
}

/// Places. Clones share them.
#[derive(Clone)]
pub struct Places {
    inner: Arc<Inner>,
}

struct Inner {
    limits: PlaceLimits,
    free: Arc<Semaphore>,
    state: Mutex<State>,
    /// Told when a guest leaves.
    left: Notify,
}

#[derive(Default)]
struct State {
    /// Guests with a place or waiting, by client.
    clients: HashMap<IpAddr, usize>,
    guests: usize,
    waiting: usize,
}

/// A place. Dropping it gives it back.
pub struct Place {
    // Fields are dropped in order: who sees no guest left finds all places free.
    permit: OwnedSemaphorePermit,
    guest: Guest,
}

impl Place {
    /// One for each of the places that were taken together.
    pub fn split(mut self) -> Vec<Self> {
        let mut all = Vec::new();
        while self.guest.n > 1
            && let Some(permit) = self.permit.split(1)
        {
            self.guest.n -= 1;
            let guest = Guest { places: self.guest.places.clone(), client: self.guest.client, n: 1 };
            all.push(Self { permit, guest });
        }
        all.push(self);
        all
    }
}

/// Somebody who has a place or waits for one.
struct Guest {
    places: Places,
    client: Option<IpAddr>,
    /// Places that it has or waits for.
    n: usize,
}

impl Places {
    /// All free.
    pub fn new(limits: PlaceLimits) -> Self {
        let total = limits.total.min(Semaphore::MAX_PERMITS);
        let inner = Inner {
            limits,
            free: Arc::new(Semaphore::new(total)),
            state: Mutex::default(),
            left: Notify::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// A place at once, or none.
    pub fn try_take(&self, client: Option<IpAddr>) -> Result<Place, NoPlace> {
        self.try_take_many(client, 1)
    }

    fn try_take_many(&self, client: Option<IpAddr>, n: u32) -> Result<Place, NoPlace> {
        let guest = self.enter(client, n)?;
        match self.inner.free.clone().try_acquire_many_owned(n) {
            Ok(permit) => Ok(Place { permit, guest }),
            Err(_) if self.is_closed() => Err(NoPlace::Closed),
            Err(_) => Err(NoPlace::Taken { total: self.inner.limits.total }),
        }
    }

    /// `n` places together, waited for in turn if there is room in the queue.
    pub async fn take(&self, client: Option<IpAddr>, n: u32) -> Result<Place, NoPlace> {
        let PlaceLimits { total, patience, .. } = self.inner.limits;
        if n as usize > total {
            return Err(NoPlace::TooMany { total, asked: n });
        }
        let guest = match self.try_take_many(client, n) {
            Err(NoPlace::Taken { .. }) => self.enter(client, n)?,
            done => return done,
        };
        let _waiting = self.queue(guest.n)?;
        match tokio::time::timeout(patience, self.inner.free.clone().acquire_many_owned(n)).await {
            Ok(Ok(permit)) => Ok(Place { permit, guest }),
            Ok(Err(_)) => Err(NoPlace::Closed),
            Err(_) => Err(NoPlace::Waited { total, patience }),
        }
    }

    /// Nobody gets a place any more; who has one keeps it.
    pub fn close(&self) {
        self.inner.free.close();
    }

    /// Whether it was closed.
    pub fn is_closed(&self) -> bool {
        self.inner.free.is_closed()
    }

    /// Places taken.
    pub fn taken(&self) -> usize {
        let state = self.lock();
        state.guests - state.waiting
    }

    /// Guests waiting.
    pub fn waiting(&self) -> usize {
        self.lock().waiting
    }

    /// Returns once nobody is here.
    pub async fn emptied(&self) {
        loop {
            let left = self.inner.left.notified();
            if self.lock().guests == 0 {
                return;
            }
            left.await;
        }
    }

    fn enter(&self, client: Option<IpAddr>, n: u32) -> Result<Guest, NoPlace> {
        let n = n as usize;
        if self.is_closed() {
            return Err(NoPlace::Closed);
        }
        let mut state = self.lock();
        if let Some(client) = client {
            let limit = self.inner.limits.per_client;
            if state.clients.get(&client).copied().unwrap_or(0).saturating_add(n) > limit {
                return Err(NoPlace::PerClient { client, limit });
            }
            *state.clients.entry(client).or_default() += n;
        }
        state.guests += n;
        Ok(Guest { places: self.clone(), client, n })
    }

    fn queue(&self, n: usize) -> Result<Waiting<'_>, NoPlace> {
        let PlaceLimits { total, waiting, .. } = self.inner.limits;
        let mut state = self.lock();
        if state.waiting + n > waiting {
            return Err(NoPlace::QueueFull { total, waiting });
        }
        state.waiting += n;
        Ok(Waiting { places: self, n })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts itself off.
struct Waiting<'a> {
    places: &'a Places,
    n: usize,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.places.lock().waiting -= self.n;
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut state = self.places.lock();
        state.guests -= self.n;
        if let Some(client) = self.client
            && let Some(count) = state.clients.get_mut(&client)
        {
            *count -= self.n;
            if *count == 0 {
                state.clients.remove(&client);
            }
        }
        drop(state);
        self.places.inner.left.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)));
    const BOB: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2)));

    fn places(waiting: usize) -> Places {
        Places::new(PlaceLimits { total: 3, per_client: 2, waiting, patience: Duration::from_secs(5) })
    }

    #[tokio::test]
    async fn places_are_bounded_in_all_and_by_client() {
        let p = places(0);
        let (a, b) = (p.try_take(ALICE).unwrap(), p.try_take(ALICE).unwrap());
        let refused = p.try_take(ALICE).err().unwrap();
        assert_eq!(refused, NoPlace::PerClient { client: ALICE.unwrap(), limit: 2 });
        let c = p.try_take(BOB).unwrap();
        assert_eq!(p.try_take(None).err(), Some(NoPlace::Taken { total: 3 }));
        assert_eq!(p.take(BOB, 1).await.err(), Some(NoPlace::QueueFull { total: 3, waiting: 0 }));
        drop(a);
        assert_eq!(p.taken(), 2);
        let d = p.try_take(ALICE).unwrap();
        drop((b, c, d));
        assert_eq!((p.taken(), p.waiting(), p.lock().clients.len()), (0, 0, 0));
    }

    #[tokio::test]
    async fn places_taken_together_are_given_back_one_by_one() {
        let p = places(0);
        let mut two = p.take(ALICE, 2).await.unwrap().split();
        assert_eq!((two.len(), p.taken()), (2, 2));
        assert!(p.try_take(ALICE).is_err());
        two.pop();
        assert_eq!(p.taken(), 1);
        let third = p.take(BOB, 2).await.unwrap();
        drop((two, third));
        assert_eq!((p.taken(), p.lock().clients.len()), (0, 0));
        assert_eq!(p.take(BOB, 4).await.err(), Some(NoPlace::TooMany { total: 3, asked: 4 }));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_gets_a_place_in_turn_or_is_told_in_time() {
        let p = places(2);
        let taken: Vec<_> = (0..3).map(|_| p.try_take(None).unwrap()).collect();
        let waits = |p: &Places| {
            let p = p.clone();
            tokio::spawn(async move { p.take(None, 1).await })
        };
        let (first, second) = (waits(&p), waits(&p));
        tokio::task::yield_now().await;
        assert_eq!((p.taken(), p.waiting()), (3, 2));
        assert_eq!(p.take(None, 1).await.err(), Some(NoPlace::QueueFull { total: 3, waiting: 2 }));
        let mut taken = taken;
        taken.pop();
        let held = first.await.unwrap().unwrap();
        let patience = Duration::from_secs(5);
        assert_eq!(second.await.unwrap().err(), Some(NoPlace::Waited { total: 3, patience }));
        assert_eq!((p.taken(), p.waiting()), (3, 0));
        drop(held);
    }

    #[tokio::test(start_paused = true)]
    async fn closing_refuses_who_waits_and_emptied_waits_for_who_is_here() {
        let p = places(2);
        let mut taken: Vec<_> = (0..3).map(|_| p.try_take(None).unwrap()).collect();
        let waiting = tokio::spawn({
            let p = p.clone();
            async move { p.take(None, 1).await.err() }
        });
        tokio::task::yield_now().await;
        p.close();
        assert_eq!(waiting.await.unwrap(), Some(NoPlace::Closed));
        assert_eq!(p.try_take(None).err(), Some(NoPlace::Closed));
        let emptied = tokio::spawn({
            let p = p.clone();
            async move { p.emptied().await }
        });
        for _ in 0..3 {
            tokio::task::yield_now().await;
            assert!(!emptied.is_finished());
            taken.pop();
        }
        emptied.await.unwrap();
    }
}
