//! Whether everything is freed and healthy after the last stream has ended.

use std::time::Duration;

use tandem_cli::client::Client;
use tandem_proto::v1;
use tandem_proto::v1::WorkerState;
use tokio::time::{Instant, sleep};

use super::services::{Worker, role_name};

/// Added to the lease: the orchestrator tries a lost worker again every few seconds.
const SLACK: Duration = Duration::from_secs(20);
/// How often the status is polled.
const STATUS_POLL: Duration = Duration::from_millis(100);

/// Returns once every worker serves and holds no session. If that has not happened in time, returns what is wrong.
pub(crate) async fn settles(
    client: &mut Client,
    workers: &[Worker],
    lease: Duration,
) -> Result<(), Vec<String>> {
    let deadline = Instant::now() + lease + SLACK;
    loop {
        let status = client.get_status(v1::GetStatusRequest {}).await;
        let wrong = match status {
            Ok(status) => complaints(&status.into_inner(), workers.len()),
            Err(status) => vec![format!("the orchestrator does not report its status: {}", status.message())],
        };
        if wrong.is_empty() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(wrong);
        }
        #[allow(
            clippy::disallowed_methods,
            reason = "the end of a lease in another process is not an event here"
        )]
        sleep(STATUS_POLL).await;
    }
}

fn complaints(status: &v1::GetStatusResponse, workers: usize) -> Vec<String> {
    let mut wrong = Vec::new();
    if status.running + status.waiting > 0 {
        wrong.push(format!(
            "the orchestrator counts {} running and {} waiting generations, although there are none",
            status.running, status.waiting
        ));
    }
    if status.workers.len() != workers {
        wrong.push(format!("the orchestrator knows {} workers of {workers}", status.workers.len()));
    }
    for worker in &status.workers {
        let name = format!("{} at {}", role_name(worker.role()), worker.address);
        if worker.state() != WorkerState::Serving {
            wrong.push(format!("{name} is {} at the end", worker.state().as_str_name()));
        }
        if worker.sessions > 0 {
            wrong.push(format!("the orchestrator counts {} sessions on {name} at the end", worker.sessions));
        }
        match worker.load {
            Some(load) if load.sessions > 0 || load.kv_cache_tokens_used > 0 => wrong.push(format!(
                "{name} holds {} sessions and {} tokens of KV cache at the end",
                load.sessions, load.kv_cache_tokens_used
            )),
            Some(_) => {}
            None => wrong.push(format!("{name} does not report its load at the end")),
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_held_or_unhealthy_is_a_sentence() {
        let healthy = v1::WorkerStatus {
            role: v1::WorkerRole::Target.into(),
            address: "127.0.0.1:1".into(),
            state: WorkerState::Serving.into(),
            load: Some(v1::Load::default()),
            ..v1::WorkerStatus::default()
        };
        let status = |worker: v1::WorkerStatus| v1::GetStatusResponse {
            workers: vec![worker],
            ..v1::GetStatusResponse::default()
        };
        assert_eq!(complaints(&status(healthy.clone()), 1), Vec::<String>::new());
        assert_eq!(complaints(&status(healthy.clone()), 2).len(), 1);
        let held = v1::Load { sessions: 0, kv_cache_tokens_used: 7 };
        let unhealthy = [
            v1::WorkerStatus { state: WorkerState::Unreachable.into(), ..healthy.clone() },
            v1::WorkerStatus { sessions: 1, ..healthy.clone() },
            v1::WorkerStatus { load: Some(held), ..healthy.clone() },
            v1::WorkerStatus { load: None, ..healthy },
        ];
        for worker in unhealthy {
            assert_eq!(complaints(&status(worker.clone()), 1).len(), 1, "{worker:?}");
        }
    }
}
