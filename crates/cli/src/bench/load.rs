//! Closed and open loops.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tandem_proto::v1;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::args::Limit;
use super::progress::LevelBar;
use super::request::{Failure, NOT_SENT, Outcome, send};
use super::workload::{Arrivals, Workload};
use crate::client::Client;

/// Requests in flight on one connection: well below the streams that a server allows on one.
pub(super) const STREAMS: usize = 128;

/// How long a place of a closed loop rests after a failure: refusals are answered at once, and would else become the load.
const AFTER_FAILURE: Duration = Duration::from_millis(100);

/// Sends the requests of one level.
#[derive(Clone)]
pub(super) struct Sender {
    /// A connection per [`STREAMS`] requests.
    pub(super) clients: Arc<[Client]>,
    pub(super) workload: Arc<Workload>,
    pub(super) decoding: v1::DecodingParams,
    pub(super) timeout: Option<Duration>,
    pub(super) bar: LevelBar,
}

impl Sender {
    /// Request `number`, as the `place`-th of those that run; latencies count from `arrived`, or else from now.
    async fn send(&self, number: u64, place: usize, arrived: Option<Instant>) -> Outcome {
        let request = self.workload.request(number, &self.decoding);
        let client = self.clients[place / STREAMS % self.clients.len()].clone();
        let outcome = send(client, request, arrived.unwrap_or_else(Instant::now), self.timeout).await;
        self.bar.finished(matches!(outcome, Outcome::Completed(_)));
        outcome
    }
}

/// `concurrency` requests at once until the limit, numbered from `first`.
pub(super) async fn closed(
    sender: &Sender,
    concurrency: usize,
    limit: Limit,
    first: u64,
) -> anyhow::Result<Vec<Outcome>> {
    let next = Arc::new(AtomicU64::new(0));
    let start = Instant::now();
    // Aborted when this is dropped, which an interruption does.
    let mut places = JoinSet::new();
    for place in 0..concurrency {
        let (sender, next) = (sender.clone(), next.clone());
        places.spawn(async move {
            let mut outcomes = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if !limit.allows(number, start.elapsed()) {
                    return outcomes;
                }
                let outcome = sender.send(first + number, place, None).await;
                let failed = matches!(outcome, Outcome::Failed(_));
                outcomes.push(outcome);
                if failed {
                    sleep_until(Instant::now() + AFTER_FAILURE).await;
                }
            }
        });
    }
    let mut outcomes = Vec::new();
    while let Some(place) = places.join_next().await {
        outcomes.extend(place?);
    }
    Ok(outcomes)
}

/// A request at each arrival until the limit, whatever still runs, but at most `max_in_flight` at once.
pub(super) async fn open(
    sender: &Sender,
    arrivals: Arrivals,
    limit: Limit,
    max_in_flight: usize,
) -> anyhow::Result<Vec<Outcome>> {
    let free = Arc::new(Semaphore::new(max_in_flight));
    let mut outcomes = Vec::new();
    let mut running = JoinSet::new();
    let start = Instant::now();
    for (number, at) in (0..).zip(arrivals) {
        if !limit.allows(number, at) {
            break;
        }
        sleep_until(start + at).await;
        while let Some(finished) = running.try_join_next() {
            outcomes.push(finished?);
        }
        let Ok(permit) = free.clone().try_acquire_owned() else {
            sender.bar.finished(false);
            outcomes.push(Outcome::Failed(not_sent(max_in_flight)));
            continue;
        };
        let sender = sender.clone();
        running.spawn(async move {
            // By number, so that connections share alike whatever is in flight.
            let place = usize::try_from(number).unwrap_or_default();
            let outcome = sender.send(number, place, Some(start + at)).await;
            drop(permit);
            outcome
        });
    }
    while let Some(finished) = running.join_next().await {
        outcomes.push(finished?);
    }
    Ok(outcomes)
}

fn not_sent(max_in_flight: usize) -> Failure {
    let message = format!("{max_in_flight} requests were in flight: raise --max-in-flight, or lower --rate");
    Failure { code: NOT_SENT.into(), message }
}

#[cfg(test)]
mod tests;
