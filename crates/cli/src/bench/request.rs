//! One request, and what its client observes.

use std::time::Duration;

use tandem_proto::v1::generate_response::Event;
use tandem_proto::{code_name, v1};
use tokio::time::{Instant, timeout_at};
use tonic::{Code, Request, Status};

use crate::client::Client;

/// How a request ended.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    Completed(Completed),
    Failed(Failure),
}

/// A request that was completed. Times count from its arrival.
#[derive(Clone, Debug, Default)]
pub(super) struct Completed {
    pub(super) prompt_tokens: u32,
    /// Time and number of tokens of each chunk.
    pub(super) chunks: Vec<(Duration, u32)>,
    pub(super) latency: Duration,
    pub(super) statistics: v1::Statistics,
}

/// A request that was not completed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// Name of the gRPC code, or [`NOT_SENT`].
    pub(super) code: String,
    pub(super) message: String,
}

/// Used instead of a gRPC code for a request that was not sent.
pub(super) const NOT_SENT: &str = "NOT_SENT";

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self { code: code_name(status.code()), message: status.message().to_owned() }
    }
}

/// Sends `request`, which arrived at `arrived`, and reads the response to its end.
pub(super) async fn send(
    mut client: Client,
    request: v1::GenerateRequest,
    arrived: Instant,
    timeout: Option<Duration>,
) -> Outcome {
    let mut request = Request::new(request);
    let received = match timeout {
        None => receive(&mut client, request, arrived).await,
        Some(timeout) => {
            request.set_timeout(timeout);
            let deadline = Instant::now() + timeout;
            let received = timeout_at(deadline, receive(&mut client, request, arrived)).await;
            match received.unwrap_or_else(|_| Err(timed_out())) {
                // The transport measures the timeout too, but reports it with another code.
                Err(status) if status.code() == Code::Cancelled && Instant::now() >= deadline => {
                    Err(timed_out())
                }
                received => received,
            }
        }
    };
    received.map_or_else(|status| Outcome::Failed(status.into()), Outcome::Completed)
}

fn timed_out() -> Status {
    Status::deadline_exceeded("the request did not finish within --timeout")
}

async fn receive(
    client: &mut Client,
    request: Request<v1::GenerateRequest>,
    arrived: Instant,
) -> Result<Completed, Status> {
    let mut events = client.generate(request).await?.into_inner();
    let mut completed = Completed::default();
    while let Some(response) = events.message().await? {
        match response.event {
            Some(Event::Started(started)) => completed.prompt_tokens = started.prompt_tokens,
            Some(Event::Chunk(chunk)) if !chunk.token_ids.is_empty() => {
                completed.chunks.push((arrived.elapsed(), chunk.token_ids.len() as u32));
            }
            Some(Event::Chunk(_)) | None => {}
            Some(Event::Finished(finished)) => {
                completed.latency = arrived.elapsed();
                completed.statistics = finished.statistics.unwrap_or_default();
                return Ok(completed);
            }
        }
    }
    Err(Status::unavailable("the orchestrator ended the stream before the generation was finished"))
}

impl Completed {
    pub(super) fn output_tokens(&self) -> u64 {
        self.chunks.iter().map(|&(_, tokens)| u64::from(tokens)).sum()
    }

    /// Time to first token.
    pub(super) fn ttft(&self) -> Option<Duration> {
        self.chunks.first().map(|&(at, _)| at)
    }

    /// Time per output token after the first chunk; `None` if there is no such token.
    pub(super) fn tpot(&self) -> Option<Duration> {
        let &(first, first_tokens) = self.chunks.first()?;
        let &(last, _) = self.chunks.last()?;
        let later_tokens = self.output_tokens() - u64::from(first_tokens);
        (later_tokens > 0).then(|| (last - first).div_f64(later_tokens as f64))
    }

    /// Inter-token latency of each chunk after the first: the time since the previous chunk divided by its tokens.
    pub(super) fn itl(&self) -> impl Iterator<Item = Duration> {
        self.chunks.windows(2).map(|pair| (pair[1].0 - pair[0].0) / pair[1].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completed(chunks: &[(u64, u32)]) -> Completed {
        let chunks = chunks.iter().map(|&(ms, tokens)| (Duration::from_millis(ms), tokens)).collect();
        Completed { chunks, ..Completed::default() }
    }

    #[test]
    fn times_per_token_exclude_the_first_chunk() {
        let ms = Duration::from_millis;
        let request = completed(&[(30, 3), (40, 2), (70, 1), (90, 2)]);
        assert_eq!((request.output_tokens(), request.ttft()), (8, Some(ms(30))));
        assert_eq!(request.tpot(), Some(ms(12)));
        assert_eq!(request.itl().collect::<Vec<_>>(), [ms(5), ms(30), ms(10)]);
        let single = completed(&[(30, 3)]);
        assert_eq!((single.ttft(), single.tpot(), single.itl().count()), (Some(ms(30)), None, 0));
        assert_eq!(completed(&[]).ttft(), None);
    }

    #[test]
    fn failures_have_the_name_of_their_code() {
        let codes = [Code::ResourceExhausted, Code::Unavailable, Code::DeadlineExceeded];
        let names = codes.map(|code| Failure::from(Status::new(code, "")).code);
        assert_eq!(names, ["RESOURCE_EXHAUSTED", "UNAVAILABLE", "DEADLINE_EXCEEDED"]);
    }
}
