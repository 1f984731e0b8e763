//! How full the server is meanwhile, as it says itself.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use serde::Serialize;
use tandem_proto::v1;
use tokio::time::{MissedTickBehavior, interval};
use tonic::Code;

use crate::client::Client;

/// Between two questions.
const EVERY: Duration = Duration::from_millis(200);

/// What `Generation.GetStatus` said during a level.
#[derive(Clone, Debug, Default)]
pub(super) struct Watch {
    /// Used and available KV-cache tokens of all workers of a role, per answer.
    kv: BTreeMap<&'static str, Vec<f64>>,
    running: u32,
    waiting: u32,
}

/// The same in a few numbers.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Fullness {
    /// By role: share of the KV-cache tokens of its workers that sessions have reserved.
    pub(super) kv_cache_used: BTreeMap<&'static str, Share>,
    /// Most generations that ran at once.
    running_peak: u32,
    /// Most that waited for a place.
    waiting_peak: u32,
}

/// 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Share {
    pub(super) peak: f64,
    pub(super) mean: f64,
}

/// Asks once: who is there?
pub(super) async fn status(client: &mut Client) -> anyhow::Result<v1::GetStatusResponse> {
    let answer = client.get_status(v1::GetStatusRequest {}).await;
    let answer = answer.map_err(|status| match status.code() {
        Code::Unimplemented => {
            anyhow::anyhow!("the orchestrator has no GetStatus: it is older than this program")
        }
        code => anyhow::anyhow!("{} ({code})", status.message()),
    });
    Ok(answer?.into_inner())
}

impl Watch {
    /// Asks again and again, until this is dropped.
    pub(super) async fn run(&mut self, client: &mut Client) -> Infallible {
        let mut ticks = interval(EVERY);
        // Answers that are late say nothing about the time that they were for.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            // One that fails is missing in the mean: the requests themselves tell what is wrong.
            if let Ok(answer) = client.get_status(v1::GetStatusRequest {}).await {
                self.add(&answer.into_inner());
            }
        }
    }

    fn add(&mut self, status: &v1::GetStatusResponse) {
        self.running = self.running.max(status.running);
        self.waiting = self.waiting.max(status.waiting);
        for (role, name) in [(v1::WorkerRole::Draft, "draft"), (v1::WorkerRole::Target, "target")] {
            let answering = status.workers.iter().filter(|worker| worker.role() == role);
            let tokens = answering.filter_map(|w| Some((w.load?.kv_cache_tokens_used, w.kv_cache_tokens)));
            let (used, all) = tokens.fold((0, 0), |sum, tokens| (sum.0 + tokens.0, sum.1 + tokens.1));
            if all > 0 {
                self.kv.entry(name).or_default().push(used as f64 / all as f64);
            }
        }
    }

    pub(super) fn fullness(&self) -> Fullness {
        let share = |shares: &Vec<f64>| Share {
            peak: shares.iter().copied().fold(0.0, f64::max),
            mean: shares.iter().sum::<f64>() / shares.len() as f64,
        };
        Fullness {
            kv_cache_used: self.kv.iter().map(|(&role, shares)| (role, share(shares))).collect(),
            running_peak: self.running,
            waiting_peak: self.waiting,
        }
    }
}

impl Fullness {
    /// Of the role that was fuller.
    pub(super) fn kv_peak(&self) -> Option<f64> {
        self.kv_cache_used.values().map(|share| share.peak).reduce(f64::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(role: v1::WorkerRole, used: Option<u64>, all: u64) -> v1::WorkerStatus {
        v1::WorkerStatus {
            role: role.into(),
            load: used.map(|used| v1::Load { kv_cache_tokens_used: used, ..v1::Load::default() }),
            kv_cache_tokens: all,
            ..v1::WorkerStatus::default()
        }
    }

    #[test]
    fn shares_are_of_the_workers_that_answer() {
        let (draft, target) = (v1::WorkerRole::Draft, v1::WorkerRole::Target);
        let mut watch = Watch::default();
        let status = |running, workers| v1::GetStatusResponse { running, workers, ..Default::default() };
        watch.add(&status(
            3,
            vec![worker(draft, Some(10), 100), worker(target, Some(30), 100), worker(target, None, 100)],
        ));
        watch.add(&status(
            1,
            vec![worker(draft, Some(0), 100), worker(target, Some(50), 100), worker(target, Some(50), 300)],
        ));
        let fullness = watch.fullness();
        let share = |role| fullness.kv_cache_used[role];
        assert_eq!(share("draft"), Share { peak: 0.1, mean: 0.05 });
        assert_eq!(share("target"), Share { peak: 0.3, mean: 0.275 });
        assert_eq!((fullness.kv_peak(), fullness.running_peak), (Some(0.3), 3));
    }

    #[test]
    fn who_never_answered_has_no_share() {
        let mut watch = Watch::default();
        watch.add(&v1::GetStatusResponse {
            workers: vec![worker(v1::WorkerRole::Draft, None, 0)],
            ..Default::default()
        });
        assert_eq!(watch.fullness().kv_peak(), None);
    }
}
