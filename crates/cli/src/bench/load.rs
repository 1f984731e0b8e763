//! Closed and open loops of requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tandem_proto::v1;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::args::Limit;
use super::level_bar::LevelBar;
use super::request::{Failure, NOT_SENT, Outcome, send};
use super::workload::{Arrivals, Workload};
use crate::client::Client;

/// Requests in flight per connection: well below the number of streams that a server allows.
pub(super) const STREAMS: usize = 128;

/// Pause of a closed loop after a failure. Refusals take no time, so without a pause they would become the load.
const AFTER_FAILURE: Duration = Duration::from_millis(100);

/// Sends the requests of one level.
#[derive(Clone)]
pub(super) struct Sender {
    /// One connection per [`STREAMS`] concurrent requests.
    pub(super) clients: Arc<[Client]>,
    pub(super) workload: Arc<Workload>,
    pub(super) decoding: v1::DecodingParams,
    pub(super) timeout: Option<Duration>,
    pub(super) bar: LevelBar,
}

impl Sender {
    /// Sends request `number` on the connection of `slot`. Latencies count from `arrived`, or else from now.
    async fn send(&self, number: u64, slot: usize, arrived: Option<Instant>) -> Outcome {
        let request = self.workload.request(number, &self.decoding);
        let client = self.clients[slot / STREAMS % self.clients.len()].clone();
        let outcome = send(client, request, arrived.unwrap_or_else(Instant::now), self.timeout).await;
        self.bar.count(matches!(outcome, Outcome::Completed(_)));
        outcome
    }
}

/// Keeps `concurrency` requests running until the limit. Requests are numbered from `first`.
pub(super) async fn closed(
    sender: &Sender,
    concurrency: usize,
    limit: Limit,
    first: u64,
) -> anyhow::Result<Vec<Outcome>> {
    let next = Arc::new(AtomicU64::new(0));
    let start = Instant::now();
    // Dropping the set, as an interruption does, aborts the tasks.
    let mut slots = JoinSet::new();
    for slot in 0..concurrency {
        let sender = sender.clone();
        let next = next.clone();
        slots.spawn(async move {
            let mut outcomes = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if !limit.allows(number, start.elapsed()) {
                    return outcomes;
                }
                let outcome = sender.send(first + number, slot, None).await;
                let failed = matches!(outcome, Outcome::Failed(_));
                outcomes.push(outcome);
                if failed {
                    #[allow(
                        clippy::disallowed_methods,
                        reason = "a fixed pause: there is no event to await"
                    )]
                    sleep(AFTER_FAILURE).await;
                }
            }
        });
    }
    let mut outcomes = Vec::new();
    while let Some(finished) = slots.join_next().await {
        outcomes.extend(finished?);
    }
    Ok(outcomes)
}

/// Sends a request at each arrival until the limit, whether or not earlier ones have ended, but never more than
/// `max_in_flight` at once.
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
            sender.bar.count(false);
            outcomes.push(Outcome::Failed(not_sent(max_in_flight)));
            continue;
        };
        let sender = sender.clone();
        running.spawn(async move {
            // Slots follow the numbers, so that all connections get the same share of the requests.
            let slot = usize::try_from(number).unwrap_or_default();
            let outcome = sender.send(number, slot, Some(start + at)).await;
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
