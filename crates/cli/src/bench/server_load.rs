//! The load of the server during a level, as the server reports it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use serde::Serialize;
use tandem_proto::v1;
use tokio::time::{MissedTickBehavior, interval};
use tonic::Code;

use crate::client::Client;

/// Time between two polls.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Collects what `Generation.GetStatus` reports during a level.
#[derive(Clone, Debug, Default)]
pub(super) struct LoadMonitor {
    /// By role: share of the KV-cache tokens of all its workers that is in use, per poll.
    kv: BTreeMap<&'static str, Vec<f64>>,
    running: u32,
    waiting: u32,
}

/// The load of the server during a level.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct ServerLoad {
    /// By role: share of the KV-cache tokens of its workers that sessions have reserved.
    pub(super) kv_cache_used: BTreeMap<&'static str, Share>,
    /// Maximum number of generations that ran at once.
    running_peak: u32,
    /// Maximum number of generations that waited for admission.
    waiting_peak: u32,
}

/// A share, 0 to 1, over the polls of a level.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Share {
    pub(super) peak: f64,
    pub(super) mean: f64,
}

/// Requests the status of the orchestrator once.
pub(super) async fn status(client: &mut Client) -> anyhow::Result<v1::GetStatusResponse> {
    let response = client.get_status(v1::GetStatusRequest {}).await;
    let response = response.map_err(|status| match status.code() {
        Code::Unimplemented => {
            anyhow::anyhow!("the orchestrator does not have GetStatus: it is older than this program")
        }
        code => anyhow::anyhow!("{} ({code})", status.message()),
    });
    Ok(response?.into_inner())
}

impl LoadMonitor {
    /// Polls the status until this future is dropped.
    pub(super) async fn run(&mut self, client: &mut Client) -> Infallible {
        let mut ticks = interval(POLL_INTERVAL);
        // After a late response, polls that were due in the meantime would all measure the same moment.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            // Failed polls are left out: the requests of the level themselves show what is wrong.
            if let Ok(response) = client.get_status(v1::GetStatusRequest {}).await {
                self.add(&response.into_inner());
            }
        }
    }

    fn add(&mut self, status: &v1::GetStatusResponse) {
        self.running = self.running.max(status.running);
        self.waiting = self.waiting.max(status.waiting);
        for (role, name) in [(v1::WorkerRole::Draft, "draft"), (v1::WorkerRole::Target, "target")] {
            let mut used = 0;
            let mut total = 0;
            for worker in status.workers.iter().filter(|worker| worker.role() == role) {
                if let Some(load) = worker.load {
                    used += load.kv_cache_tokens_used;
                    total += worker.kv_cache_tokens;
                }
            }
            if total > 0 {
                self.kv.entry(name).or_default().push(used as f64 / total as f64);
            }
        }
    }

    pub(super) fn load(&self) -> ServerLoad {
        let share = |shares: &Vec<f64>| Share {
            peak: shares.iter().copied().fold(0.0, f64::max),
            mean: shares.iter().sum::<f64>() / shares.len() as f64,
        };
        ServerLoad {
            kv_cache_used: self.kv.iter().map(|(&role, shares)| (role, share(shares))).collect(),
            running_peak: self.running,
            waiting_peak: self.waiting,
        }
    }
}

impl ServerLoad {
    /// Peak of the role with the higher share.
    pub(super) fn kv_peak(&self) -> Option<f64> {
        self.kv_cache_used.values().map(|share| share.peak).reduce(f64::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(role: v1::WorkerRole, used: Option<u64>, total: u64) -> v1::WorkerStatus {
        v1::WorkerStatus {
            role: role.into(),
            load: used.map(|used| v1::Load { kv_cache_tokens_used: used, ..v1::Load::default() }),
            kv_cache_tokens: total,
            ..v1::WorkerStatus::default()
        }
    }

    #[test]
    fn shares_cover_only_workers_that_respond() {
        let draft = v1::WorkerRole::Draft;
        let target = v1::WorkerRole::Target;
        let mut monitor = LoadMonitor::default();
        let status = |running, workers| v1::GetStatusResponse { running, workers, ..Default::default() };
        monitor.add(&status(
            3,
            vec![worker(draft, Some(10), 100), worker(target, Some(30), 100), worker(target, None, 100)],
        ));
        monitor.add(&status(
            1,
            vec![worker(draft, Some(0), 100), worker(target, Some(50), 100), worker(target, Some(50), 300)],
        ));
        let load = monitor.load();
        let share = |role| load.kv_cache_used[role];
        assert_eq!(share("draft"), Share { peak: 0.1, mean: 0.05 });
        assert_eq!(share("target"), Share { peak: 0.3, mean: 0.275 });
        assert_eq!((load.kv_peak(), load.running_peak), (Some(0.3), 3));
    }

    #[test]
    fn workers_that_never_respond_have_no_share() {
        let mut monitor = LoadMonitor::default();
        monitor.add(&v1::GetStatusResponse {
            workers: vec![worker(v1::WorkerRole::Draft, None, 0)],
            ..Default::default()
        });
        assert_eq!(monitor.load().kv_peak(), None);
    }
}
