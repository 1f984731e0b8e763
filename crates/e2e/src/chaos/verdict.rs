//! Whether everything is as before, once nothing runs any more.

use std::time::Duration;

use tandem_cli::client::Client;
use tandem_proto::v1;
use tandem_proto::v1::WorkerState;
use tokio::time::Instant;

use crate::services::{Worker, name};

/// Beyond the lease: the orchestrator looks for a worker that was lost every few seconds.
const SLACK: Duration = Duration::from_secs(20);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);

/// Returns once every worker serves and holds nothing for anybody; else, when that should long have been so, what is wrong.
pub(crate) async fn settles(
    client: &mut Client,
    workers: &[Worker],
    lease: Duration,
) -> Result<(), Vec<String>> {
    let by = Instant::now() + lease + SLACK;
    loop {
        let status = client.get_status(v1::GetStatusRequest {}).await;
        let wrong = match status {
            Ok(status) => complaints(&status.into_inner(), workers.len()),
            Err(status) => vec![format!("the orchestrator does not say how it is: {}", status.message())],
        };
        if wrong.is_empty() {
            return Ok(());
        }
        if Instant::now() >= by {
            return Err(wrong);
        }
        // Nobody tells when a lease ends.
        #[allow(clippy::disallowed_methods)]
        tokio::time::sleep(LOOK).await;
    }
}

fn complaints(status: &v1::GetStatusResponse, workers: usize) -> Vec<String> {
    let mut wrong = Vec::new();
    if status.running + status.waiting > 0 {
        wrong.push(format!(
            "the orchestrator counts {} generations that run and {} that wait, although none does",
            status.running, status.waiting
        ));
    }
    if status.workers.len() != workers {
        wrong.push(format!("the orchestrator knows {} workers of {workers}", status.workers.len()));
    }
    for worker in &status.workers {
        let who = format!("{} at {}", name(worker.role()), worker.address);
        if worker.state() != WorkerState::Serving {
            wrong.push(format!("{who} is {} at the end", worker.state().as_str_name()));
        }
        if worker.sessions > 0 {
            wrong.push(format!("the orchestrator counts {} sessions on {who} at the end", worker.sessions));
        }
        match worker.load {
            Some(load) if load.sessions > 0 || load.kv_cache_tokens_used > 0 => wrong.push(format!(
                "{who} holds {} sessions and {} tokens of KV cache at the end",
                load.sessions, load.kv_cache_tokens_used
            )),
            Some(_) => {}
            None => wrong.push(format!("{who} does not say what it holds at the end")),
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_not_as_before_is_a_sentence() {
        let well = v1::WorkerStatus {
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
        assert_eq!(complaints(&status(well.clone()), 1), Vec::<String>::new());
        assert_eq!(complaints(&status(well.clone()), 2).len(), 1);
        let held = v1::Load { sessions: 0, kv_cache_tokens_used: 7 };
        let ill = [
            v1::WorkerStatus { state: WorkerState::Unreachable.into(), ..well.clone() },
            v1::WorkerStatus { sessions: 1, ..well.clone() },
            v1::WorkerStatus { load: Some(held), ..well.clone() },
            v1::WorkerStatus { load: None, ..well },
        ];
        for worker in ill {
            assert_eq!(complaints(&status(worker.clone()), 1).len(), 1, "{worker:?}");
        }
    }
}
